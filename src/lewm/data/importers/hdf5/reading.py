"""Read HDF5 files that are not trusted: no link is followed, nothing outside of the file read, no size believed."""

import contextlib
import importlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

# Bounds of what a file may ask for. A damaged or hostile one may claim any shape.
READ_BYTES = 64 * 2**20
MAX_ROWS = 2**27
_CHUNK_BYTES = 2**28
_TABLE_BYTES = 2**30
_MAX_DEPTH, _MAX_NODES = 8, 4096

_PLUGINS = {32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd", 32026: "blosc2"}


def register_filters() -> None:
    """Make the filters of hdf5plugin known, where it is installed."""
    if importlib.util.find_spec("hdf5plugin") is not None:
        importlib.import_module("hdf5plugin")


@contextlib.contextmanager
def open_group(file: Path, name: str) -> Iterator[h5py.Group]:
    """Open a file, and in it a group by its path."""
    with reading(file.name):
        # Room for some chunks, so that rows in no order do not decompress one each.
        opened = h5py.File(file, "r", rdcc_nbytes=READ_BYTES)
    with opened as group:
        for part in name.split("/") if name else ():
            group = child(group, part)
            assert isinstance(group, h5py.Group)
        yield group


@contextlib.contextmanager
def reading(what: h5py.Group | h5py.Dataset | str, name: str = "") -> Iterator[None]:
    """Make an error of the library a line that names where it happened."""
    try:
        yield
    except (OSError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{at(what, name)}: cannot be read ({reason}); copy the file again or write it again"
        ) from error


def names_in(group: h5py.Group) -> list[str]:
    """Return the names in a group, sorted."""
    with reading(group):
        return sorted(name for name in group if isinstance(name, str))  # of bytes are those that are no text


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """Return what a path leads to, or None if it is no group and no dataset; no link is followed."""
    node: Any = group
    for name in path.split("/"):
        with reading(node, name):
            link = node.get(name, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise ValueError(f"{at(node, name)}: is missing; write the file again")
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{at(node, name)}: is a link, which is not followed; copy the data into the file")
            node = node[name]
    return node if isinstance(node, (h5py.Group, h5py.Dataset)) else None


def arrays(group: h5py.Group, skip: frozenset[str] = frozenset()) -> list[str]:
    """Return the paths of all arrays in a group and the groups in it, in the order of their names.

    Args:
        group: the group.
        skip: names in the group itself that are left out.

    Raises:
        ValueError: there are absurdly many.
    """
    found: list[str] = []
    seen = 0

    def look(group: h5py.Group, prefix: str, depth: int) -> None:
        nonlocal seen
        for name in names_in(group):
            if not prefix and name in skip:
                continue
            if (seen := seen + 1) > _MAX_NODES or depth > _MAX_DEPTH:
                raise ValueError(f"{at(group)}: has more than {_MAX_NODES} groups and arrays; write less into a group")
            node = child(group, name)
            if isinstance(node, h5py.Group):
                look(node, f"{prefix}{name}/", depth + 1)
            elif node is not None and node.shape:
                found.append(f"{prefix}{name}")

    look(group, "", 0)
    return found


def array_at(group: h5py.Group, path: str) -> h5py.Dataset:
    """Return an array whose data is in the file."""
    dataset = child(group, path)
    if not isinstance(dataset, h5py.Dataset) or not dataset.shape:
        raise ValueError(f"{at(group, path)}: is not an array; write the file again")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{at(dataset)}: has its data in other files, which are not read; copy it into this one")
    return dataset


def whole(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return an array if all of it was written, so that its shape is no mere claim, and it can be decompressed."""
    chunks = dataset.chunks
    with reading(dataset):
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(k) for k in range(properties.get_nfilters())]
        for code, _, _, called in filters:
            if not h5py.h5z.filter_avail(code):
                name = _PLUGINS.get(code) or called.decode(errors="replace") or f"filter {code}"
                raise ValueError(
                    f"{at(dataset)}: is compressed with {name}, which is missing here; pip install hdf5plugin"
                )
        if chunks is None:
            is_whole = dataset.id.get_storage_size() >= math.prod(dataset.shape) * dataset.dtype.itemsize
        else:
            if filters and math.prod(chunks) * dataset.dtype.itemsize > _CHUNK_BYTES:
                raise ValueError(f"{at(dataset)}: has chunks of {chunks}, absurd ones; make them smaller with h5repack")
            sides = zip(dataset.shape, chunks, strict=True)
            is_whole = dataset.id.get_num_chunks() >= math.prod(-(-side // chunk) for side, chunk in sides)
    if not is_whole:
        raise ValueError(f"{at(dataset)}: is {described(dataset)} and not all of it was written; write the file again")
    return dataset


def check_index(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset of one integer a row if all of it can be held in memory."""
    if dataset.dtype.kind not in "iu" or dataset.ndim != 1 or dataset.shape[0] > MAX_ROWS:
        raise ValueError(f"{at(dataset)}: is {described(dataset)}; must be integers, at most {MAX_ROWS}")
    return dataset


def read_index(group: h5py.Group, name: str) -> npt.NDArray[np.int64]:
    """Return an array of one integer a row."""
    dataset = check_index(whole(array_at(group, name)))
    with reading(dataset):
        return dataset[()].astype(np.int64)


def runs(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the parts of rows that follow one another in the file."""
    ends = np.append(np.flatnonzero(np.diff(rows) != 1) + 1, len(rows)).tolist()
    for first, end in zip([0, *ends], ends, strict=False):
        yield int(rows[first]), int(rows[first]) + end - first


def read_rows(dataset: h5py.Dataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return rows of a dataset that are small enough to be held together."""
    check_rows(dataset, rows)
    first, stop = int(rows.min()), int(rows.max()) + 1
    if len(rows) * row_bytes(dataset) > _TABLE_BYTES:
        raise ValueError(f"{at(dataset)}: {len(rows)} rows are too many for one episode; split it")
    with reading(dataset):
        if (stop - first) * row_bytes(dataset) <= READ_BYTES:
            return dataset[first:stop][rows - first]
        return np.concatenate([dataset[start:end] for start, end in runs(rows)])


def check_rows(dataset: h5py.Dataset, rows: npt.NDArray[np.int64]) -> None:
    """Refuse rows that a dataset does not have."""
    if len(rows) == 0 or (last := int(rows.max())) >= dataset.shape[0]:
        what = "no rows" if len(rows) == 0 else f"{dataset.shape[0]} rows and the episode needs row {last}"
        raise ValueError(f"{at(dataset)}: has {what}; repair or leave out the episode")


def at(node: h5py.Group | h5py.Dataset | str, name: str = "") -> str:
    """Return a file, and the path in it of a group, of a dataset or of a name in a group."""
    if not isinstance(node, str):
        node = Path(node.file.filename).name + (node.name or "").rstrip("/")
    return f"{node}/{name}" if name else node


def described(dataset: h5py.Dataset) -> str:
    """Return type and shape."""
    return f"{dataset.dtype}[{', '.join(map(str, dataset.shape))}]"


def row_bytes(dataset: h5py.Dataset) -> int:
    """Return the bytes of one row."""
    return math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
