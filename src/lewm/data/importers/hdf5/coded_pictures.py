"""Pictures in HDF5: arrays of them, as bytes or real numbers, or one coded picture a row, such as a JPEG.

Coded rows are of variable length, of one length that the shorter ones are padded to (as ACT's recordings are, whose
`compress_len` is not needed: a picture ends where it says), or texts of bytes. They are decoded as their format says,
red first: a program that handed OpenCV pictures in red, green, blue has swapped the colours when it wrote them.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt

from lewm.data.importers.hdf5.reading import READ_BYTES, array_at, at, described, reading, row_bytes, runs, whole
from lewm.data.importers.pictures import read_image
from lewm.data.importers.pixels import find_scale, to_uint8

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")
_SHORTEST = 32  # bytes of a coded picture
_SAMPLES = 8
_CODED_ROWS = 16  # read at once
_GENERIC = ("rgb", "rgba", "color", "colour", "image", "images", "data")


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the pictures of a camera are.

    Args:
        path: the dataset in the episode's group.
        kind: bytes, real numbers, or one coded picture a row.
        scale: what real numbers are multiplied by.
    """

    path: str
    kind: Literal["bytes", "real", "coded"]
    scale: float = 1.0


def picture_kind(dataset: h5py.Dataset) -> Literal["bytes", "real", "coded"] | None:
    """Tell what kind of pictures a dataset holds, or that it holds none; at most its first row is read."""
    kind, shape = dataset.dtype.kind, dataset.shape
    if len(shape) == 4 and 3 in (shape[1], shape[3]) and (dataset.dtype == np.uint8 or kind == "f"):
        return "real" if kind == "f" else "bytes"
    variable = len(shape) == 1 and h5py.check_vlen_dtype(dataset.dtype) == np.uint8
    texts = len(shape) == 1 and kind in "SV" and dataset.dtype.itemsize >= _SHORTEST and not dataset.dtype.names
    padded = len(shape) == 2 and dataset.dtype == np.uint8 and shape[1] >= _SHORTEST
    if shape[0] == 0 or not (variable or texts or padded) or row_bytes(dataset) > READ_BYTES:
        return None
    with reading(dataset):
        first = bytes(dataset[0])
    return "coded" if first.startswith(_MAGIC) else None


def camera_names(paths: list[str]) -> dict[str, str]:
    """Name cameras by the ends of their datasets' paths, and return the paths by name."""
    short = [_short(path) for path in paths]
    return {name if short.count(name) == 1 else path: path for name, path in zip(short, paths, strict=True)}


def open_camera(group: h5py.Group, path: str) -> Camera:
    """Return a camera whose dataset was written wholly and has no absurd pictures.

    Raises:
        ValueError: it was not, or has.
    """
    dataset = whole(array_at(group, path))
    kind = picture_kind(dataset)
    assert kind is not None, path
    if kind != "coded" and not 0 < row_bytes(dataset) <= READ_BYTES:
        raise ValueError(f"{at(dataset)}: is {described(dataset)}, absurd images; write the file again")
    if kind != "real":
        return Camera(path, kind)
    rows = np.unique(np.linspace(0, dataset.shape[0] - 1, _SAMPLES).astype(np.int64)).tolist()
    with reading(dataset):
        sample = np.stack([dataset[row] for row in rows])
    return Camera(path, kind, find_scale(sample, at(dataset)))


def read_frames(
    group: h5py.Group, camera: Camera, rows: npt.NDArray[np.int64], read_bytes: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the pictures of rows one by one, reading as many chunks of the file at once as `read_bytes` allow."""
    dataset = array_at(group, camera.path)
    if camera.kind == "coded":
        yield from _read_coded(dataset, rows)
        return
    colours_first = dataset.shape[3] != 3
    chunks: tuple[int, ...] = dataset.chunks or (1,)
    block = max(read_bytes // row_bytes(dataset) // chunks[0], 1) * chunks[0]
    for start, stop in runs(rows):
        while start < stop:
            end = min(start - start % block + block, stop)
            with reading(dataset):
                frames = dataset[start:end]
            if camera.kind == "real":
                frames = to_uint8(frames, camera.scale, f"{at(dataset)} row {start}")
            yield from np.moveaxis(frames, 1, 3) if colours_first else frames
            start = end


def _read_coded(dataset: h5py.Dataset, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.uint8]]:
    block = max(min(_CODED_ROWS, READ_BYTES // row_bytes(dataset)), 1)
    for start, stop in runs(rows):
        while start < stop:
            end = min(start + block, stop)
            with reading(dataset):
                coded = [bytes(row) for row in dataset[start:end]]
            for row, data in enumerate(coded, start):
                yield read_image(io.BytesIO(data), f"{at(dataset)} row {row}")
            start = end


def _short(path: str) -> str:
    *folders, name = path.split("/")
    name = name.removesuffix("_image")
    return folders[-1] if name in _GENERIC and folders else name
