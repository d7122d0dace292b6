"""The files of a store: its lock, its episode table, and arrays that grow in place."""

import contextlib
import math
import mmap
import os
import sys
import tokenize
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.files import atomic_path, shorten

if sys.platform != "win32":
    import fcntl

META = "meta.json"
EPISODES = "episodes.parquet"
LOCK = ".lock"
_LONGEST_REASON = 100  # characters of what another library says, in an error
_BLOCK_BYTES = 64 * 2**20  # of rows written at once
HEADER_BYTES = 128  # of an .npy file; always the same, so that a longer array rewrites its header in place
TABLE_SCHEMA = pa.schema(
    [
        ("start", pa.int64()),
        ("length", pa.int64()),
        ("source", pa.string()),
        ("seed", pa.int64()),
        ("text", pa.string()),
        ("group", pa.int64()),  # may be empty, and earlier versions wrote none
    ]
)
_MAY_LACK = "group"


def take_lock(lock: IO[bytes], path: Path) -> None:
    """Keep other writers out until the lock file is closed or the process ends, however it ends."""
    if sys.platform != "win32":
        # Not flock: processes forked from this one would hold it on after a kill.
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"{path}: another process is writing this store; wait for it or stop it") from error


def open_lock(path: Path) -> IO[bytes]:
    """Open and take the lock of a store."""
    while True:
        lock = open(path / LOCK, "wb")  # noqa: SIM115
        try:
            take_lock(lock, path)
            # A writer that stored nothing removes its lock: what was opened may be no longer the one that is there.
            if (path / LOCK).exists() and os.path.samestat(os.fstat(lock.fileno()), (path / LOCK).stat()):
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def remove_empty(folders: list[Path]) -> None:
    """Remove folders from the inside out, up to the first that is not empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def read_table(path: Path) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"{path}: missing, so no episode is complete; restore it or write the store again")
    try:
        with pq.ParquetFile(pa.BufferReader(path.read_bytes()), page_checksum_verification=True) as file:
            # no threads: Arrow aborts a process that ends while its threads are still starting (apache/arrow 34314)
            columns = [name for name in TABLE_SCHEMA.names if name != _MAY_LACK or name in file.schema_arrow.names]
            table = file.read(columns, use_threads=False)
        if _MAY_LACK not in columns:
            table = table.append_column(_MAY_LACK, pa.nulls(table.num_rows, pa.int64()))
        table = table.select(TABLE_SCHEMA.names).cast(TABLE_SCHEMA)
        table.validate(full=True)  # of texts only this reads the bytes
    except (pa.ArrowException, KeyError, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        reason = shorten(error, _LONGEST_REASON)
        raise ValueError(f"{path}: is not an episode table ({reason}); restore it or write the store again") from error
    if any(table[name].null_count for name in TABLE_SCHEMA.names if name != _MAY_LACK):
        raise ValueError(f"{path}: has empty cells; restore it or write the store again")
    start, length = table["start"].to_numpy(), table["length"].to_numpy()
    if (length < 1).any() or (start != np.cumsum(length) - length).any():
        raise ValueError(f"{path}: episodes must follow one another without gaps; restore it or write the store again")
    group = table[_MAY_LACK].drop_null().to_numpy()
    if (group < 0).any():
        raise ValueError(f"{path}: has a group below 0, {group.min()}; restore it or write the store again")
    return table


def table_bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    # Without checksums, a damaged byte of a text or a number is read as another text or number.
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def count_frames(table: pa.Table) -> int:
    return table["start"][-1].as_py() + table["length"][-1].as_py() if table.num_rows else 0


def array_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the .npy header (version 1.0) of a C-ordered array, padded to its fixed size."""
    text = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': {shape}, }}"
    body = HEADER_BYTES - 10  # after the magic string, the version and the length itself
    assert len(text) < body, text
    return np.lib.format.magic(1, 0) + body.to_bytes(2, "little") + text.ljust(body - 1).encode("ascii") + b"\n"


def check_array(path: Path, dtype: np.dtype[Any], row: tuple[int, ...], num_rows: int) -> int:
    """Check an array's header and size against the store; return where its data begins."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; restore it or write the store again")
    with open(path, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"its format version is {version}")
            shape, fortran_order, found = np.lib.format.read_array_header_1_0(file)
        except (ValueError, SyntaxError, tokenize.TokenError, TypeError) as error:  # NumPy reads a header as Python
            reason = shorten(error, _LONGEST_REASON)
            raise ValueError(f"{path}: is not a NumPy array ({reason}); restore it or write the store again") from error
        offset = file.tell()
    if found != dtype or shape[1:] != row or len(shape) != 1 + len(row) or fortran_order:
        raise ValueError(
            f"{path}: holds {describe_array(found, shape)}, but by {META} it is {describe_array(dtype, ('T', *row))}; "
            f"correct {META} or write the store again"
        )
    rows = (path.stat().st_size - offset) // row_bytes(dtype, row)
    if rows < num_rows:
        raise ValueError(
            f"{path}: truncated, it has {rows} rows and {EPISODES} counts {num_rows}; copy the file again or write "
            "the store again"
        )
    return offset


def open_array(path: Path, dtype: np.dtype[Any], row: tuple[int, ...], num_rows: int) -> npt.NDArray[Any]:
    """Memory-map the first rows of an array, read-only."""
    offset = check_array(path, dtype, row, num_rows)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(num_rows, *row))


def write_rows(path: Path, values: npt.NDArray[Any], start: int) -> None:
    """Write rows behind the first `start` rows of an array, then the header that counts them."""
    dtype, row = values.dtype, values.shape[1:]
    step = max(_BLOCK_BYTES // row_bytes(dtype, row), 1)
    with open(path, "r+b", buffering=0) as file:
        for first in range(0, len(values), step):
            write_all(file, HEADER_BYTES + (start + first) * row_bytes(dtype, row), values[first : first + step])
            _give_back_pages(values)
        write_all(file, 0, array_header(dtype, (start + len(values), *row)))
        os.fsync(file.fileno())


def _give_back_pages(values: npt.NDArray[Any]) -> None:
    """Let the system have the memory of a file that `values` maps: an episode may be larger than memory."""
    mapped = getattr(values.base, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def write_all(file: IO[bytes], offset: int, data: Any) -> None:
    file.seek(offset)
    rest = memoryview(data).cast("B")
    while rest:  # an unbuffered write may stop early
        rest = rest[file.write(rest) :]


def replace_file(path: Path, data: Any) -> None:
    """Put a file in place in one step, so that a reader sees the old one or the new one."""
    with atomic_path(path) as temporary, open(temporary, "wb", buffering=0) as file:
        write_all(file, 0, data)


def row_bytes(dtype: np.dtype[Any], row: tuple[int, ...]) -> int:
    return dtype.itemsize * math.prod(row)


def describe_array(dtype: np.dtype[Any], shape: tuple[int | str, ...]) -> str:
    return f"{dtype.name}[{', '.join(map(str, shape))}]"
