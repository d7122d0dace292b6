"""Replay buffers in zarr, as Diffusion Policy's data sets are: version 2 or 3 of the format, a folder or a zip file.

    data/img, data/state, data/action      one row a frame, all episodes one after the other
    meta/episode_ends                      where each episode ends

A camera is any array of pictures in `data`, colours last or first: bytes, or real numbers of 0 to 1 or 0 to 255. States
are the arrays of numbers that are states in the flat layout of HDF5, and a robot's, `robot0_eef_pos` and the like.
"""

import lzma
import math
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from lewm.data.fit import Frame
from lewm.data.importers.columns import as_actions, as_rate, as_states, detect_action, find_named, is_action
from lewm.data.importers.hdf5.coded_pictures import camera_names
from lewm.data.importers.hdf5.flat import STATE
from lewm.data.importers.listing import listed, visible
from lewm.data.importers.pixels import find_scale, to_uint8
from lewm.data.importers.source import ImportOptions, Recording, Source, SourceInfo

if TYPE_CHECKING:  # for all other formats, zarr need not be there
    import zarr

_GROUP_FILES = (".zgroup", "zarr.json")
_ROBOT = re.compile(r"(?!.*demo_(start|end)_pose)robot[0-9]+_.*")
_SAMPLES = 4  # chunks of real numbers that are looked at

# Bounds of what a file may ask for. A damaged or hostile one may claim any size.
_READ_BYTES = 64 * 2**20
_TABLE_BYTES = 2**30
_MAX_ROWS = 2**27
_MAX_EPISODES = 2**20
_MAX_COLUMNS = 4096
_MAX_ACTIONS = 2**16

_BROKEN = (
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, RuntimeError, OverflowError,
    MemoryError, EOFError, SystemError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip


class ZarrSource(Source):
    """Episodes of a replay buffer.

    Nothing is read from behind a link that leads out of its folder. A chunk of pictures that is missing leaves out its
    episodes, because zarr would read it as black. It writes no chunks of zeros, so one of numbers is read as that, and
    noted.

    Args:
        path: the store, or a folder that holds one `*.zarr`.
        options: the wanted cameras, action and state.

    Raises:
        ValueError: nothing can be imported.
    """

    format: ClassVar[str] = "zarr"

    @classmethod
    def matches(cls, path: Path) -> bool:
        """Look for the file of a group, in a zip file as well."""
        return bool(_stores(path))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        stores = _stores(path)
        if len(stores) != 1:
            what = (
                f"has {len(stores)} stores, {listed(store.name for store in stores)}" if stores else "is no zarr store"
            )
            raise ValueError(f"{path}: {what}; give one, with data/ and meta/episode_ends")
        if path.is_dir() and not stores[0].resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{stores[0].name}: links out of {path}; copy it in, or give the store itself")
        self._name = stores[0].name
        from lewm.data.importers.zarr_store import open_store

        with _reading(self._name):
            self._store, root = open_store(stores[0])
        arrays, broken = self._arrays(root)
        ends = self._episode_ends(root)
        self._choose(arrays, broken, options)
        self._starts, self._ends = [0, *ends[:-1]], ends
        self._info = self._describe(stores[0], root, ends[-1])

    @property
    def info(self) -> SourceInfo:
        """What the arrays are."""
        return self._info

    @property
    def num_episodes(self) -> int:
        """Entries of `meta/episode_ends`."""
        return len(self._ends)

    def length(self, index: int) -> int:
        """Return the number of rows of an episode."""
        return max(self._ends[index] - self._starts[index], 0)

    def episode(self, index: int) -> Recording:
        """Open one episode; its pictures are read some chunks at a time."""
        start, end = self._starts[index], self._ends[index]
        where = f"{self._name} episode {index}"
        if end <= start:
            raise ValueError(f"{where}: ends at row {end} and begins at row {start}; repair meta/episode_ends")
        for array in (*self._actions, *self._states, *self._cameras.values()):
            if array.shape[0] < end:
                raise ValueError(f"{where}: ends at row {end}, and {array.path} has {array.shape[0]}; copy it again")
        actions = as_actions(self._rows(self._actions, start, end), self._discrete, "action", where)
        states = as_states(self._rows(self._states, start, end), where) if self._states else None
        return Recording(frames=self._frames(start, end), actions=actions, states=states, source=where)

    def _arrays(self, root: "zarr.Group") -> "tuple[dict[str, zarr.Array], dict[str, str]]":
        """Return the arrays in `data`, and why others cannot be read."""
        from lewm.data.importers.zarr_store import open_array

        arrays: dict[str, zarr.Array] = {}
        broken: dict[str, str] = {}
        for name in self._store.names_in("data"):
            try:
                with _reading(f"{self._name}/data/{name}"):
                    arrays[name] = open_array(root, f"data/{name}")
            except ValueError as error:
                broken[name] = str(error)
        if not arrays:
            reason = next(iter(broken.values()), f"{self._name}: has no arrays in data/; give a replay buffer")
            raise ValueError(reason)
        return arrays, broken

    def _episode_ends(self, root: "zarr.Group") -> list[int]:
        from lewm.data.importers.zarr_store import open_array

        with _reading(f"{self._name}/meta/episode_ends"):
            array = open_array(root, "meta/episode_ends")
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise ValueError("is not one whole number an episode")
            if not 0 < array.shape[0] <= _MAX_EPISODES:
                raise ValueError(f"has {array.shape[0]} episodes")
            return [int(end) for end in np.asarray(array[:])]

    def _choose(self, arrays: "dict[str, zarr.Array]", broken: dict[str, str], options: ImportOptions) -> None:
        """Find the cameras, the action and the state."""
        pictures = [name for name, array in arrays.items() if _is_picture(array)]
        cameras = camera_names(pictures)
        by_name = cameras | {name: name for name in pictures}
        for name in options.cameras:
            if name in broken:
                raise ValueError(broken[name])
            if name not in by_name:
                raise ValueError(f"cameras={name}: {self._name} has {listed(cameras)}; name one of them")
        if not cameras:
            other = next(iter(broken.values()), f"{self._name}: has no pictures of three colours in {listed(arrays)}")
            raise ValueError(f"{other}; record images" if ";" not in other else other)
        if not options.cameras and len(cameras) > 1:
            raise ValueError(f"cameras: {self._name} has {listed(cameras)}; name those to import")
        self._cameras = {name: arrays[by_name[name]] for name in options.cameras or cameras}
        for array in self._cameras.values():
            self._store.whole.append(f"{array.path}/")
        numbers = [name for name, array in arrays.items() if name not in pictures and array.ndim <= 2]
        chosen = find_named("action", self._name, options.action, numbers)
        chosen = chosen or [detect_action(self._name, numbers, is_action)]
        states = find_named("state", self._name, options.state, numbers) or [
            name for name in numbers if name not in chosen and (STATE.fullmatch(name) or _ROBOT.fullmatch(name))
        ]
        self._actions, self._states = [arrays[name] for name in chosen], [arrays[name] for name in states]
        for array in (*self._actions, *self._states):
            if array.shape[0] > _MAX_ROWS or not 1 <= _width(array) <= _MAX_COLUMNS:
                raise ValueError(f"{self._name}/{array.path}: has shape {array.shape}; leave it out")
        self._action_names = () if len(chosen) == 1 else _entry_names(chosen, self._actions)
        self._state_names = _entry_names(states, self._states)
        only = self._actions[0]
        self._discrete = len(chosen) == 1 and only.ndim == 1 and only.dtype.kind != "f"
        self._scales = {name: self._scale(array) for name, array in self._cameras.items()}

    def _describe(self, path: Path, root: "zarr.Group", last: int) -> SourceInfo:
        size = sum(_width(array) for array in self._actions)
        if self._discrete:
            with _reading(f"{self._name}/{self._actions[0].path}"):
                largest = int(np.asarray(self._actions[0][:last]).max(initial=0))
            if largest >= _MAX_ACTIONS:
                raise ValueError(
                    f"{self._name}: has {largest} among its discrete actions; must be below {_MAX_ACTIONS}"
                )
            size = largest + 1
        notes = []
        for array in (*self._actions, *self._states):
            if missing := array.nchunks - array.nchunks_initialized:
                notes.append(f"{array.path}: {missing} of {array.nchunks} chunks are missing and are read as zeros")
        return SourceInfo(
            task=path.name.removesuffix(".zip").removesuffix(".zarr"),
            action_kind="discrete" if self._discrete else "continuous",
            action_size=size,
            action_names=self._action_names,
            state_names=self._state_names,
            fps=as_rate(root.attrs.get("fps")),
            origin={
                "zarr_format": root.metadata.zarr_format,
                "images": [array.path for array in self._cameras.values()],
                "notes": notes,
            },
        )

    def _scale(self, array: "zarr.Array") -> float:
        if array.dtype.kind != "f":
            return 1.0
        where = f"{self._name}/{array.path}"
        rows = np.unique(np.linspace(0, array.shape[0] - 1, _SAMPLES).astype(np.int64)).tolist()
        with _reading(where):
            sample = np.stack([np.asarray(array[row]) for row in rows])
        return find_scale(sample, where)

    def _rows(self, arrays: "list[zarr.Array]", start: int, end: int) -> npt.NDArray[Any]:
        """Return rows of arrays beside one another."""
        parts = []
        for array in arrays:
            with _reading(f"{self._name}/{array.path}"):
                if (end - start) * _row_bytes(array) > _TABLE_BYTES:
                    raise ValueError(f"{end - start} rows are too many for one episode")
                parts.append(np.asarray(array[start:end]).reshape(end - start, _width(array)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _frames(self, start: int, end: int) -> Iterator[Frame | tuple[Frame, ...]]:
        cameras = [self._pictures(name, start, end) for name in self._cameras]
        for views in zip(*cameras, strict=True):
            yield views[0] if len(cameras) == 1 else views

    def _pictures(self, name: str, start: int, end: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield pictures one by one, reading as many chunks at once as the bound allows."""
        array, scale = self._cameras[name], self._scales[name]
        where = f"{self._name}/{array.path}"
        chunk: int = array.chunks[0]
        block = max(_READ_BYTES // len(self._cameras) // _row_bytes(array) // chunk, 1) * chunk
        while start < end:
            stop = min(start - start % block + block, end)
            with _reading(f"{where} rows {start} to {stop - 1}"):
                pictures = np.asarray(array[start:stop])
            if array.dtype.kind == "f":
                pictures = to_uint8(pictures, scale, f"{where} rows {start} to {stop - 1}")
            yield from pictures if array.shape[3] == 3 else np.moveaxis(pictures, 1, 3)
            start = stop


@contextmanager
def _reading(where: str) -> Iterator[None]:
    """Make an error of the library a line that names where it happened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what else lies in the folder
            yield
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{where}: cannot be read ({reason}); copy it again or write it again") from error


def _stores(path: Path) -> list[Path]:
    if _is_store(path):
        return [path]
    if not path.is_dir():
        return []
    return [entry for entry in visible(path) if entry.name.endswith((".zarr", ".zarr.zip")) and _is_store(entry)]


def _is_store(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in _GROUP_FILES)
    if not path.is_file() or not path.name.endswith(".zip"):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return any(name in file.namelist() for name in _GROUP_FILES)
    except (OSError, zipfile.BadZipFile):
        return False


def _is_picture(array: "zarr.Array") -> bool:
    kind, shape = array.dtype.kind, array.shape
    right = len(shape) == 4 and 3 in (shape[1], shape[3]) and (array.dtype == np.uint8 or kind == "f")
    return right and shape[0] > 0 and 0 < _row_bytes(array) <= _READ_BYTES


def _width(array: "zarr.Array") -> int:
    return array.shape[1] if array.ndim == 2 else 1


def _row_bytes(array: "zarr.Array") -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def _entry_names(names: list[str], arrays: "list[zarr.Array]") -> tuple[str, ...]:
    return tuple(
        name if array.ndim == 1 else f"{name}[{k}]"
        for name, array in zip(names, arrays, strict=True)
        for k in range(_width(array))
    )
