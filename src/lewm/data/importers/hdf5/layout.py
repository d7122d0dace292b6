"""Which arrays of an episode, or of a file of one row a frame, are its cameras, action and state."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from lewm.data.importers.columns import detect_action, find_named
from lewm.data.importers.hdf5.coded_pictures import Camera, camera_names, open_camera, picture_kind
from lewm.data.importers.hdf5.reading import MAX_ROWS, array_at, at, child, described, reading, whole
from lewm.data.importers.listing import listed
from lewm.data.importers.source import ImportOptions

_MAX_COLUMNS = 4096
_MAX_ACTIONS = 2**16


@dataclass(frozen=True, slots=True)
class Numbers:
    """An array of numbers, one row a frame.

    Args:
        path: the dataset in the episode's group.
        width: its columns.
    """

    path: str
    width: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is in an episode's group, and how wide it is.

    Args:
        actions: the actions' datasets, concatenated in this order.
        action_size: columns, or for discrete actions the largest number and one.
        discrete: whether there is one integer a frame.
        cameras: the wanted cameras.
        states: the states' datasets.
        action_names: names of the entries of an action that was put together, else nothing.
        state_names: names of all state variables.
    """

    actions: tuple[Numbers, ...]
    action_size: int
    discrete: bool
    cameras: tuple[Camera, ...]
    states: tuple[Numbers, ...]
    action_names: tuple[str, ...]
    state_names: tuple[str, ...]

    @property
    def shape(self) -> "Layout":
        """What must be the same everywhere: not how many discrete actions were seen, nor how bright pictures are."""
        cameras = tuple(replace(camera, scale=1.0) for camera in self.cameras)
        return replace(self, action_size=0 if self.discrete else self.action_size, cameras=cameras)

    @property
    def observed(self) -> tuple[str, ...]:
        """The datasets of cameras and states."""
        return (*(camera.path for camera in self.cameras), *(numbers.path for numbers in self.states))

    def merged(self, other: "Layout") -> "Layout":
        """Return what holds for the episodes of two layouts of one shape."""
        cameras = tuple(
            replace(one, scale=min(one.scale, two.scale)) for one, two in zip(self.cameras, other.cameras, strict=True)
        )
        return replace(self, action_size=max(self.action_size, other.action_size), cameras=cameras)


@dataclass(frozen=True, slots=True)
class Episode:
    """Where one episode is.

    Args:
        file: the file.
        group: its group in the file; empty for the file itself.
        name: what to call it; empty where the file is the episode.
        rows: its rows, in any order.
        steps: dataset that orders the rows, if there is one.
        number: dataset that must be the same in all rows, if there is one.
    """

    file: Path
    group: str
    name: str
    rows: range | npt.NDArray[np.int64]
    steps: str | None = None
    number: str | None = None

    @property
    def where(self) -> str:
        """The file, and what of it."""
        return f"{self.file.name} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file holds, in which form; a string in place of an episode says what is wrong with it."""

    kind: str
    layout: Layout
    episodes: list[Episode | str]


def find_layout(
    group: h5py.Group,
    where: str,
    paths: list[str],
    is_state: Callable[[str], bool],
    is_action: Callable[[str], bool],
    options: ImportOptions,
) -> Layout:
    """Find out what of an episode's group, or of a flat file, is imported.

    Args:
        group: the group.
        where: names it in errors.
        paths: its arrays.
        is_state: tells which of them are the state, unless the import names them.
        is_action: tells which of them may be the action, unless the import names them.
        options: names of cameras, action and state.

    Raises:
        ValueError: there is no picture or no action, or a choice is left to the user.
    """
    pictures: list[str] = []
    numbers: dict[str, tuple[int, bool]] = {}  # columns, and whether it is one number a row
    for path in paths:
        if not isinstance(node := child(group, path), h5py.Dataset) or not node.shape:
            continue
        if picture_kind(node) is not None:
            pictures.append(path)
        elif node.dtype.kind in "fiub" and node.ndim in (1, 2):
            numbers[path] = 1 if node.ndim == 1 else node.shape[1], node.ndim == 1
    cameras = _choose_cameras(where, paths, pictures, options.cameras)
    known = [path for path in paths if path not in pictures]
    chosen = find_named("action", where, options.action, list(numbers)) or [detect_action(where, known, is_action)]
    sizes = [_action_size(whole(array_at(group, path))) for path in chosen]
    discrete = len(chosen) == 1 and sizes[0][1]
    actions = tuple(Numbers(path, _width(array_at(group, path))) for path in chosen)
    states = find_named("state", where, options.state, list(numbers))
    states = states or [path for path in numbers if is_state(path) and path not in chosen]
    if sum(numbers[path][0] for path in states) > _MAX_COLUMNS:
        raise ValueError(f"{where}: has more than {_MAX_COLUMNS} state variables; leave some out of the file")
    for path in states:
        if numbers[path][0]:
            whole(array_at(group, path))
    return Layout(
        actions=actions,
        action_size=sizes[0][0] if discrete else sum(numbers.width for numbers in actions),
        discrete=discrete,
        cameras=tuple(open_camera(group, path) for path in cameras),
        states=tuple(Numbers(path, numbers[path][0]) for path in states if numbers[path][0]),
        action_names=() if len(chosen) == 1 else _entry_names(chosen, numbers),
        state_names=_entry_names(states, numbers),
    )


def _choose_cameras(where: str, paths: list[str], pictures: list[str], wanted: tuple[str, ...]) -> list[str]:
    cameras = camera_names(pictures)
    if not cameras:
        raise ValueError(
            f"{where}: has no images of three colours, nor coded ones, in {listed(paths)}; record or render images"
        )
    if not wanted and len(cameras) > 1:
        raise ValueError(f"cameras: {where} has {listed(cameras)}; name those to import")
    by_path = {path: path for path in pictures}
    if missing := [name for name in wanted if name not in cameras | by_path]:
        raise ValueError(f"cameras={missing[0]}: {where} has {listed(cameras)}; name one of them")
    return [(cameras | by_path)[name] for name in wanted or cameras]


def _entry_names(paths: list[str], numbers: dict[str, tuple[int, bool]]) -> tuple[str, ...]:
    """Name the columns of arrays by the ends of their paths, or by the paths where two end alike."""
    ends = [path.rpartition("/")[2] for path in paths]
    found: list[str] = []
    for path, end in zip(paths, ends, strict=True):
        name = end if ends.count(end) == 1 else path
        width, single = numbers[path]
        found += [name if single else f"{name}[{k}]" for k in range(width)]
    return tuple(found)


def _width(dataset: h5py.Dataset) -> int:
    return dataset.shape[1] if len(dataset.shape) == 2 else 1


def _action_size(dataset: h5py.Dataset) -> tuple[int, bool]:
    """Return the size of the actions, and whether they are discrete."""
    kind, shape, columns = dataset.dtype.kind, dataset.shape, _width(dataset)
    if kind not in "fiub" or len(shape) > 2 or shape[0] > MAX_ROWS or not 1 <= columns <= _MAX_COLUMNS:
        raise ValueError(
            f"{at(dataset)}: is {described(dataset)}; must be at most {MAX_ROWS} rows of 1 to {_MAX_COLUMNS} numbers"
        )
    if len(shape) == 2 or kind == "f":
        return columns, False
    with reading(dataset):
        largest = int(dataset[()].max(initial=0))
    if largest >= _MAX_ACTIONS:
        raise ValueError(f"{at(dataset)}: has {largest} among its discrete actions; must be less than {_MAX_ACTIONS}")
    return largest + 1, True
