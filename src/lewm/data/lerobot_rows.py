"""The tables of a LeRobot data set: the rows of one episode, read from the row groups that may hold them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lewm.data.lerobot_files import INFO, line_of

BAD_TABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
_MAX_TYPE = 1000
_ROWS = 4096  # read at once
_BUFFER_BYTES = 2**18  # without it, a column is read as a whole


def read_columns(path: Path, schema: pa.Schema, most: int) -> pa.Table:
    """Return columns of a table of at most so many rows."""
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows > most:
                raise ValueError(f"{path}: has more than {most} rows; correct the counts in {INFO}")
            check_columns(path, file, schema.names)
            return file.read(columns=schema.names, use_threads=False).select(schema.names).cast(schema)
    except BAD_TABLE as error:
        raise ValueError(f"{path}: cannot be read ({line_of(error)}); copy it again") from error


def check_columns(path: Path, file: pq.ParquetFile, names: list[str]) -> None:
    for name in names:
        if name not in file.schema_arrow.names:
            raise ValueError(f"{path}: has no column {name!r}; repair the file")


def episode_rows(path: Path, index: int, columns: list[str], most: int, at_once: int) -> Iterator[pa.RecordBatch]:
    """Yield the first rows of one episode, at most so many, of the row groups that may hold them."""
    columns = ["episode_index", *columns]
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            check_columns(path, file, columns)
            groups = _groups_with(path, file, index)
            for batch in file.iter_batches(at_once, groups, columns, use_threads=False) if groups else ():
                numbers = batch.column("episode_index")
                if numbers.null_count:
                    raise ValueError(f"{path}: episode_index is missing in some rows; repair the file")
                places = np.flatnonzero(to_numpy(numbers) == index)[:most]
                if not len(places):
                    continue
                if places[-1] - places[0] >= len(places):
                    raise ValueError(f"{path}: the rows of episode {index} are not together; sort the file")
                yield batch.slice(places[0], len(places))
                most -= len(places)
                if most == 0:
                    return
    except BAD_TABLE as error:
        raise ValueError(f"{path}: cannot be read ({line_of(error)}); copy it again") from error


def _groups_with(path: Path, file: pq.ParquetFile, index: int) -> list[int]:
    """Return the row groups that may hold rows of an episode, by their statistics where they have them."""
    if not pa.types.is_integer(file.schema_arrow.field("episode_index").type):
        raise ValueError(f"{path}: episode_index must be integers; repair the file")
    metadata, groups = file.metadata, []
    place = [file.schema.column(number).path for number in range(metadata.num_columns)].index("episode_index")
    for number in range(metadata.num_row_groups):
        known = metadata.row_group(number).column(place).statistics
        if known is None or not known.has_min_max or known.min <= index <= known.max:
            groups.append(number)
    return groups


def read_vectors(path: Path, index: int, length: int, sizes: Mapping[str, int]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the vectors of an episode, (L, size) each."""
    where = f"{path}, episode {index}"
    vectors: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in sizes}
    seen = 0
    for rows in episode_rows(path, index, ["frame_index", *sizes], length + 1, _ROWS):
        places = rows.column("frame_index")
        if not pa.types.is_integer(places.type) or places.null_count:
            raise ValueError(f"{where}: frame_index must be integers; repair the file")
        if (to_numpy(places) != np.arange(seen, seen + rows.num_rows)).any():
            raise ValueError(f"{where}: frame_index does not count from 0; repair the file")
        seen += rows.num_rows
        for name, size in sizes.items():
            vectors[name].append(_vectors(rows.column(name), size, f"{where}: {name}"))
    if seen != length:
        has = "more" if seen > length else str(seen)
        raise ValueError(f"{where}: has {has} rows, but the episode table counts {length}; repair one of them")
    return {name: np.concatenate(parts) for name, parts in vectors.items()}


def _vectors(column: pa.Array, size: int, where: str) -> npt.NDArray[np.float32]:
    """Return a column of vectors as (n, size), or of single numbers as (n, 1)."""
    values, kind, fits = column, column.type, size == 1
    if pa.types.is_fixed_size_list(kind):
        values, fits = column.flatten(), kind.list_size == size
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values, fits = column.flatten(), not column.null_count and (to_numpy(column.value_lengths()) == size).all()
    kind = values.type
    fits = fits and not column.null_count and not values.null_count
    if not fits or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise ValueError(
            f"{where} must be {size} numbers in every row, and is {str(column.type)[:_MAX_TYPE]}; repair the file"
        )
    with np.errstate(over="ignore"):  # becomes infinite, which the check of a store reports
        return to_numpy(values).astype(np.float32).reshape(-1, size)


def to_numpy(column: pa.Array) -> npt.NDArray[Any]:
    """Return numbers without gaps. Arrow's own `to_numpy` imports pandas, which takes longer than a short episode."""
    return np.from_dlpack(column)
