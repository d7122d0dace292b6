"""The source of recordings in HDF5."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import numpy.typing as npt

from lewm.data.fit import Frame
from lewm.data.importers.columns import USUAL, as_actions, as_rate, as_states
from lewm.data.importers.hdf5.coded_pictures import read_frames
from lewm.data.importers.hdf5.flat import INDEXES, scan_flat
from lewm.data.importers.hdf5.groups import find_demos, scan_demos, scan_single
from lewm.data.importers.hdf5.layout import Episode, Layout, Numbers, Scan
from lewm.data.importers.hdf5.reading import (
    READ_BYTES,
    array_at,
    check_index,
    check_rows,
    child,
    names_in,
    open_group,
    read_rows,
    reading,
    register_filters,
)
from lewm.data.importers.listing import listed, visible
from lewm.data.importers.source import ImportOptions, Recording, Source, SourceInfo

_SUFFIXES = (".h5", ".hdf5")


class HDF5Source(Source):
    """Episodes of an HDF5 file, or of all `*.h5` and `*.hdf5` files of a folder in the order of their names.

    Nothing outside of the file is read: links, virtual datasets and external storage are refused. A file of a folder
    that cannot be read counts as one episode, which is skipped and reported.

    Args:
        path: the file or folder.
        options: the wanted cameras.

    Raises:
        ValueError: nothing can be imported.
    """

    format: ClassVar[str] = "hdf5"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return bool(_files(path))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        register_filters()
        self._episodes: list[Episode | str] = []
        scans: list[Scan] = []
        for file in _files(path):
            try:
                if path.is_dir() and not file.resolve().is_relative_to(path.resolve()):
                    raise ValueError(f"{file.name}: links out of {path}; copy it in, or give the file itself")
                scan = _scan(file, options)
                if scans and scan.layout.shape != scans[0].layout.shape:
                    raise ValueError(
                        f"{file.name}: has other actions, states or cameras than the files before; import it alone"
                    )
                scans.append(scan)
                self._episodes += scan.episodes
            except ValueError as error:
                self._episodes.append(str(error))
        good = next((episode for episode in self._episodes if isinstance(episode, Episode)), None)
        if good is None:
            reason = (
                self._episodes[0] if self._episodes else f"{path}: holds no *.h5 or *.hdf5; give a file or a folder"
            )
            raise ValueError(reason)
        layout = scans[0].layout
        for scan in scans[1:]:
            layout = layout.merged(scan.layout)
        self._layout: Layout = layout
        self._info = SourceInfo(
            task=path.stem,
            action_kind="discrete" if layout.discrete else "continuous",
            action_size=layout.action_size,
            action_names=layout.action_names,
            state_names=layout.state_names,
            fps=_frame_rate(good.file),
            origin={
                "layout": scans[0].kind,
                "files": len(scans),
                "images": [camera.path for camera in layout.cameras],
            },
        )

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple("" if isinstance(episode, str) else episode.where for episode in self._episodes)

    def length(self, index: int) -> int:
        episode = self._episodes[index]
        return 0 if isinstance(episode, str) else len(episode.rows)

    def episode(self, index: int) -> Recording:
        episode, layout = self._episodes[index], self._layout
        if isinstance(episode, str):
            raise ValueError(episode)
        with open_group(episode.file, episode.group) as group:
            rows = _in_order(group, episode)
            actions = _read_actions(group, layout, episode, rows)
            states = as_states(_read_columns(group, layout.states, rows), episode.where) if layout.states else None
            for camera in layout.cameras:
                check_rows(array_at(group, camera.path), rows)
        return Recording(frames=_frames(episode, layout, rows), actions=actions, states=states, source=episode.where)


def _files(path: Path) -> list[Path]:
    files = visible(path) if path.is_dir() else [path]
    return [file for file in files if file.suffix.lower() in _SUFFIXES and file.is_file()]


def _scan(file: Path, options: ImportOptions) -> Scan:
    with open_group(file, "") as root:
        names = names_in(root)
        place, demos = find_demos(root)
        if demos:
            return scan_demos(file, root, place, demos, options)
        if "data" in names:
            raise ValueError(f"{file.name}/data: has no group demo_0; give a robomimic data set")
        if set(INDEXES) & set(names):
            return scan_flat(file, root, options)
        if {"action", "observation"} <= set(names) and "robot_state" in _names_of_group(root, "observation"):
            raise ValueError(
                f"{file.name}: is DROID's raw form, with pictures in recordings/MP4; import DROID's LeRobot version"
            )
        if any(isinstance(child(root, name), h5py.Group) for name in names):
            return scan_single(file, root, options)
        if set(USUAL) & set(names):
            return scan_flat(file, root, options)
    raise ValueError(
        f"{file.name}: holds {listed(names)}; must have `action` and `pixels`, robomimic's `data/demo_0`, or ACT's "
        "`action` and `observations/images`"
    )


def _frame_rate(file: Path) -> float | None:
    """Return the attribute `fps` of a file, if it is a number; no text is read, see this package's docstring."""
    with open_group(file, "") as root, reading(root, "fps"):
        if "fps" not in root.attrs:
            return None
        attribute = root.attrs.get_id("fps")
        return (
            as_rate(np.asarray(root.attrs["fps"]).item())
            if attribute.dtype.kind in "iuf" and attribute.shape == ()
            else None
        )


def _names_of_group(root: h5py.Group, name: str) -> list[str]:
    group = child(root, name)
    return names_in(group) if isinstance(group, h5py.Group) else []


def _frames(episode: Episode, layout: Layout, rows: npt.NDArray[np.int64]) -> Iterator[Frame | tuple[Frame, ...]]:
    with open_group(episode.file, episode.group) as group:
        read_bytes = READ_BYTES // len(layout.cameras)
        cameras = [read_frames(group, camera, rows, read_bytes) for camera in layout.cameras]
        for views in zip(*cameras, strict=True):
            yield views[0] if len(cameras) == 1 else views


def _read_actions(
    group: h5py.Group, layout: Layout, episode: Episode, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | npt.NDArray[np.int64]:
    """Return the actions of an episode's rows; a last one that was not done is zero."""
    count = array_at(group, layout.actions[0].path).shape[0]
    acted = rows if episode.steps or episode.number or count != len(rows) - 1 else rows[:-1]
    values = _read_columns(group, layout.actions, acted)
    if len(acted) < len(rows):
        values = np.append(values, np.zeros((1, values.shape[1]), values.dtype), axis=0)
    return as_actions(values, layout.discrete, layout.actions[0].path, episode.where)


def _read_columns(group: h5py.Group, columns: tuple[Numbers, ...], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return rows of arrays beside one another."""
    parts = [read_rows(array_at(group, numbers.path), rows).reshape(len(rows), numbers.width) for numbers in columns]
    return np.concatenate(parts, axis=1)


def _in_order(group: h5py.Group, episode: Episode) -> npt.NDArray[np.int64]:
    """Return an episode's rows in the order of its steps."""
    rows = np.asarray(episode.rows, dtype=np.int64)
    if episode.number is not None:
        numbers = np.unique(read_rows(check_index(array_at(group, episode.number)), rows))
        if len(numbers) != 1:
            raise ValueError(
                f"{episode.where}: {episode.number} has {len(numbers)} values in its rows; repair ep_offset and ep_len"
            )
    if episode.steps is None:
        return rows
    steps = read_rows(check_index(array_at(group, episode.steps)), rows).astype(np.int64)
    order = np.argsort(steps, kind="stable")
    steps = steps[order]
    if steps[0] < 0:
        raise ValueError(f"{episode.where}: {episode.steps} {steps[0]} is negative; repair or leave out the episode")
    if (jumps := np.flatnonzero(np.diff(steps) != 1)).size:
        before, after = steps[jumps[0]], steps[jumps[0] + 1]
        what = f"step {before} comes twice" if before == after else f"step {before + 1} is missing"
        raise ValueError(f"{episode.where}: {what}; repair or leave out the episode")
    return rows[order]
