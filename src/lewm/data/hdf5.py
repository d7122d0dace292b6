"""Recordings in HDF5: the flat layout of LeWM's and stable-worldmodel's data sets, and robomimic's.

Flat: one dataset a column and one row a frame, `pixels` (N, height, width, 3) and `action` (N, A), with the episodes in
`ep_offset` and `ep_len`, or in `ep_idx` (or `episode_idx`) for rows in any order; `step_idx` orders an episode's rows.
Robomimic: one group a demonstration, `data/demo_0/obs/agentview_image` and `data/demo_0/actions`, and so on.

A camera is any dataset of uint8 images, with the colours last or first; robomimic's ending `_image` is no part of its
name. States are, in the flat layout, the columns named `state`, `proprio`, `observation`, `qpos`, `qvel`, `*_pos`, and
those that begin with `state_`, `proprio_`, `privileged_` or `pos_`; in robomimic's, what else is in `obs`. Actions are
discrete if there is one integer a frame. The task has the file's name: the environment's description is a text
attribute, and the HDF5 library reads such a text for ever in some damaged files.

The flat files have a habit: the last action of an episode is NaN, because nothing was done there. It leads out of the
episode and is never used, so zeros are stored for it. A NaN anywhere else makes the episode bad.
"""

import contextlib
import importlib
import importlib.util
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import numpy.typing as npt

from lewm.data.importing import Format, Frame, ImportOptions, Recording, Source, SourceInfo
from lewm.data.listing import visible

_SUFFIXES = (".h5", ".hdf5")
_STATE = re.compile(r"state|proprio|observation|qpos|qvel|(state|proprio|privileged|pos)_.*|(?!goal|prev).*_pos")
_PLUGINS = {32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd", 32026: "blosc2"}
_DEMO = re.compile(r"demo_([0-9]{1,9})")

# Bounds of what a file may ask for. A damaged or hostile one may claim any shape.
_READ_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**28
_TABLE_BYTES = 2**30
_MAX_ROWS = 2**27
_MAX_EPISODES = 2**20
_MAX_COLUMNS = 4096
_MAX_ACTIONS = 2**16


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything is in an episode's group, and how wide it is.

    Args:
        actions: dataset of the actions.
        action_size: columns, or for discrete actions the largest number and one.
        discrete: whether there is one integer a frame.
        cameras: the wanted cameras and their datasets.
        states: dataset and columns of each state.
        state_names: names of all state variables.
    """

    actions: str
    action_size: int
    discrete: bool
    cameras: tuple[tuple[str, str], ...]
    states: tuple[tuple[str, int], ...]
    state_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Episode:
    """Where one episode is.

    Args:
        file: the file.
        group: its group in the file; empty for the file itself.
        name: what to call it.
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
        return f"{self.file.name} {self.name}"


@dataclass(frozen=True, slots=True)
class _Scan:
    """What a file holds; a string in place of an episode says what is wrong with it."""

    layout: _Layout
    episodes: list[_Episode | str]


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

    format: ClassVar[Format] = "hdf5"

    @classmethod
    def matches(cls, path: Path) -> bool:
        return bool(_files(path))

    def __init__(self, path: Path, options: ImportOptions) -> None:
        if importlib.util.find_spec("hdf5plugin") is not None:
            importlib.import_module("hdf5plugin")  # registers its filters
        self._episodes: list[_Episode | str] = []
        scans: list[_Scan] = []
        for file in _files(path):
            try:
                if path.is_dir() and not file.resolve().is_relative_to(path.resolve()):
                    raise ValueError(f"{file.name}: links out of {path}; copy it in, or give the file itself")
                scan = _scan(file, options.cameras)
                if scans and _shape(scan.layout) != _shape(scans[0].layout):
                    raise ValueError(
                        f"{file.name}: has other actions, states or cameras than the files before; import it alone"
                    )
                scans.append(scan)
                self._episodes += scan.episodes
            except ValueError as error:
                self._episodes.append(str(error))
        good = next((episode for episode in self._episodes if isinstance(episode, _Episode)), None)
        if good is None:
            reason = (
                self._episodes[0] if self._episodes else f"{path}: holds no *.h5 or *.hdf5; give a file or a folder"
            )
            raise ValueError(reason)
        layout = replace(scans[0].layout, action_size=max(scan.layout.action_size for scan in scans))
        self._layout: _Layout = layout
        kind = "robomimic" if good.group else "flat"
        self._info = SourceInfo(
            task=path.stem,
            action_kind="discrete" if layout.discrete else "continuous",
            action_size=layout.action_size,
            state_names=layout.state_names,
            origin={"layout": kind, "files": len(scans), "images": [dataset for _, dataset in layout.cameras]},
        )

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def num_episodes(self) -> int:
        return len(self._episodes)

    def length(self, index: int) -> int:
        episode = self._episodes[index]
        return 0 if isinstance(episode, str) else len(episode.rows)

    def episode(self, index: int) -> Recording:
        episode, layout = self._episodes[index], self._layout
        if isinstance(episode, str):
            raise ValueError(episode)
        with _group(episode.file, episode.group) as group:
            rows = _in_order(group, episode)
            actions = _read_rows(_dataset(group, layout.actions), rows)
            if layout.discrete:
                actions = actions.astype(np.int64)
                if (bad := np.flatnonzero(actions < 0)).size:
                    raise ValueError(
                        f"{episode.where}: action {actions[bad[0]]} at step {bad[0]} is negative; repair or leave out "
                        "the episode"
                    )
            else:
                actions = _float32(actions.reshape(len(rows), layout.action_size))
                if np.isnan(actions[-1]).any():
                    actions[-1] = 0.0
                _check_finite(actions, layout.actions, episode)
            states = None
            if layout.states:
                parts = [
                    _float32(_read_rows(_dataset(group, name), rows).reshape(len(rows), width))
                    for name, width in layout.states
                ]
                states = np.concatenate(parts, axis=1)
                _check_finite(states, "states", episode)
            for _, name in layout.cameras:
                _check_rows(_dataset(group, name), rows)
        return Recording(
            frames=_frames(episode, tuple(name for _, name in layout.cameras), rows),
            actions=actions,
            states=states,
            source=episode.where,
        )


def _files(path: Path) -> list[Path]:
    files = visible(path) if path.is_dir() else [path]
    return [file for file in files if file.suffix.lower() in _SUFFIXES and file.is_file()]


def _shape(layout: _Layout) -> _Layout:
    """Return what must be the same in all files: of discrete actions, not how many were seen."""
    return replace(layout, action_size=0) if layout.discrete else layout


def _scan(file: Path, cameras: tuple[str, ...]) -> _Scan:
    with _group(file, "") as root:
        names = _names(root)
        if "data" in names:
            return _scan_robomimic(file, root, cameras)
        if "action" in names:
            return _scan_flat(file, root, cameras)
    raise ValueError(
        f"{file.name}: holds {_listed(names)}; must have `action` and `pixels`, or robomimic's `data/demo_0`"
    )


def _scan_flat(file: Path, root: h5py.Group, wanted: tuple[str, ...]) -> _Scan:
    names = _names(root)
    states = [name for name in names if _STATE.fullmatch(name)]
    layout = _layout(root, file.name, "action", names, states, wanted)
    num_rows = _dataset(root, "action").shape[0]
    number = next((name for name in ("ep_idx", "episode_idx") if name in names), None)
    steps = "step_idx" if "step_idx" in names else None
    for name in (steps, number):
        if name is not None:
            _check_index(_whole(_dataset(root, name)))
    episodes: list[_Episode | str] = []
    if "ep_offset" in names and "ep_len" in names:
        starts, lengths = _read_index(root, "ep_offset"), _read_index(root, "ep_len")
        if len(starts) != len(lengths) or len(starts) > _MAX_EPISODES:
            raise ValueError(
                f"{file.name}: has {len(starts)} ep_offset and {len(lengths)} ep_len; must be as many, and at most "
                f"{_MAX_EPISODES}"
            )
        outside = (lengths < 1) | (starts < 0) | (starts > num_rows - lengths)
        taken = _overlaps(starts, np.where(outside, 0, lengths))
        for k, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            if outside[k]:
                episodes.append(
                    f"{file.name} episode {k}: ep_offset={start} and ep_len={length} are not within the {num_rows} "
                    "rows; repair or leave out the episode"
                )
            elif taken[k]:
                episodes.append(f"{file.name} episode {k}: overlaps another one; repair or leave out the episode")
            else:
                episodes.append(_Episode(file, "", f"episode {k}", range(start, start + length), steps, number))
    elif number is not None:
        numbers = _read_index(root, number)
        order = np.argsort(numbers, kind="stable")
        firsts = np.flatnonzero(np.diff(numbers[order])) + 1
        if len(firsts) >= _MAX_EPISODES:
            raise ValueError(f"{file.name}: has {len(firsts) + 1} values of {number}; must be at most {_MAX_EPISODES}")
        for rows in np.split(order, firsts) if len(order) else []:
            if (k := int(numbers[rows[0]])) < 0:
                episodes.append(f"{file.name} episode {k}: {number} is negative; repair or leave out the episode")
            else:
                episodes.append(_Episode(file, "", f"episode {k}", rows, steps))
    else:
        raise ValueError(
            f"{file.name}: does not say which rows are an episode; add ep_offset and ep_len, or ep_idx and step_idx"
        )
    if not episodes:
        raise ValueError(f"{file.name}: holds no episode; record some")
    return _Scan(layout, episodes)


def _scan_robomimic(file: Path, root: h5py.Group, wanted: tuple[str, ...]) -> _Scan:
    data = _child(root, "data")
    names = _names(data) if isinstance(data, h5py.Group) else []
    demos = sorted((int(match[1]), name) for name in names if (match := _DEMO.fullmatch(name)))
    if not isinstance(data, h5py.Group) or not demos:
        raise ValueError(f"{file.name}/data: has no group demo_0; give a robomimic data set")
    layout: _Layout | None = None
    episodes: list[_Episode | str] = []
    for _, name in demos:
        try:
            demo = _child(data, name)
            obs = _child(demo, "obs") if isinstance(demo, h5py.Group) else None
            if not isinstance(demo, h5py.Group) or not isinstance(obs, h5py.Group):
                raise ValueError(f"{file.name}/data/{name}: has no group obs; extract observations with images first")
            columns = [f"obs/{key}" for key in _names(obs)]
            found = _layout(demo, f"{file.name}/data/{name}", "actions", columns, columns, wanted)
            if layout is not None and _shape(found) != _shape(layout):
                raise ValueError(
                    f"{file.name} {name}: has other actions, states or images than those before; leave it out"
                )
            used = ["actions", *(column for _, column in found.cameras), *(column for column, _ in found.states)]
            lengths = {column: _dataset(demo, column).shape[0] for column in used}
            if len(set(lengths.values())) > 1:
                raise ValueError(
                    f"{file.name} {name}: has other numbers of rows in {lengths}; repair it or leave it out"
                )
            layout = replace(found, action_size=max(found.action_size, layout.action_size)) if layout else found
            episodes.append(_Episode(file, f"data/{name}", name, range(lengths["actions"])))
        except ValueError as error:
            episodes.append(str(error))
    if layout is None:
        raise ValueError(episodes[0])
    return _Scan(layout, episodes)


def _layout(
    group: h5py.Group, where: str, actions: str, names: list[str], states: list[str], wanted: tuple[str, ...]
) -> _Layout:
    """Find out what of an episode's group, or of a flat file, is imported."""
    cameras: dict[str, str] = {}
    numbers: list[tuple[str, int, bool]] = []
    for name in names:
        if not isinstance(node := _child(group, name), h5py.Dataset) or not node.shape:
            continue
        short = name.rpartition("/")[2]
        if node.dtype == np.uint8 and node.ndim == 4 and 3 in (node.shape[1], node.shape[3]):
            cameras[short.removesuffix("_image")] = name
        elif name in states and node.dtype.kind in "fiub" and node.ndim in (1, 2):
            numbers.append((name, 1 if node.ndim == 1 else node.shape[1], node.ndim == 1))
    if not cameras:
        raise ValueError(
            f"{where}: has no images of uint8 and three colours in {_listed(names)}; record or render images"
        )
    if not wanted and len(cameras) > 1:
        raise ValueError(f"cameras: {where} has {', '.join(cameras)}; name those to import")
    if missing := [name for name in wanted if name not in cameras]:
        raise ValueError(f"cameras={missing[0]}: {where} has {', '.join(cameras)}; name one of them")
    chosen = tuple((name, cameras[name]) for name in wanted or cameras)
    for _, name in chosen:
        _images(_whole(_dataset(group, name)))
    size, discrete = _actions(_whole(_dataset(group, actions)))
    if sum(width for _, width, _ in numbers) > _MAX_COLUMNS:
        raise ValueError(f"{where}: has more than {_MAX_COLUMNS} state variables; leave some out of the file")
    state_names = [
        name.rpartition("/")[2] + ("" if scalar else f"[{k}]") for name, width, scalar in numbers for k in range(width)
    ]
    used = tuple((name, width) for name, width, _ in numbers if width)
    for name, _ in used:
        _whole(_dataset(group, name))
    return _Layout(actions, size, discrete, chosen, used, tuple(state_names))


def _actions(dataset: h5py.Dataset) -> tuple[int, bool]:
    """Return the size of the actions, and whether they are discrete."""
    kind, shape = dataset.dtype.kind, dataset.shape
    columns = shape[1] if len(shape) == 2 else 1
    if kind not in "fiub" or len(shape) > 2 or shape[0] > _MAX_ROWS or not 1 <= columns <= _MAX_COLUMNS:
        raise ValueError(
            f"{_where(dataset)}: is {_described(dataset)}; must be at most {_MAX_ROWS} rows of 1 to {_MAX_COLUMNS} "
            "numbers"
        )
    if len(shape) == 2 or kind == "f":
        return columns, False
    with _reading(dataset):
        largest = int(dataset[()].max(initial=0))
    if largest >= _MAX_ACTIONS:
        raise ValueError(
            f"{_where(dataset)}: has {largest} among its discrete actions; must be less than {_MAX_ACTIONS}"
        )
    return largest + 1, True


def _images(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset of images if a frame of it can be held in memory."""
    if not 0 < _row_bytes(dataset) <= _READ_BYTES:
        raise ValueError(f"{_where(dataset)}: is {_described(dataset)}, absurd images; write the file again")
    return dataset


def _check_index(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return a dataset of one integer a row if all of it can be held in memory."""
    if dataset.dtype.kind not in "iu" or dataset.ndim != 1 or dataset.shape[0] > _MAX_ROWS:
        raise ValueError(f"{_where(dataset)}: is {_described(dataset)}; must be integers, at most {_MAX_ROWS}")
    return dataset


def _read_index(group: h5py.Group, name: str) -> npt.NDArray[np.int64]:
    dataset = _check_index(_whole(_dataset(group, name)))
    with _reading(dataset):
        return dataset[()].astype(np.int64)


def _overlaps(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which episodes begin before an earlier one ends."""
    order = np.argsort(starts, kind="stable")
    ends = np.maximum.accumulate((starts + lengths)[order])
    taken = np.zeros(len(starts), dtype=np.bool_)
    taken[order[1:]] = starts[order[1:]] < ends[:-1]
    return taken


def _in_order(group: h5py.Group, episode: _Episode) -> npt.NDArray[np.int64]:
    """Return an episode's rows in the order of its steps."""
    rows = np.asarray(episode.rows, dtype=np.int64)
    if episode.number is not None:
        numbers = np.unique(_read_rows(_check_index(_dataset(group, episode.number)), rows))
        if len(numbers) != 1:
            raise ValueError(
                f"{episode.where}: {episode.number} has {len(numbers)} values in its rows; repair ep_offset and ep_len"
            )
    if episode.steps is None:
        return rows
    steps = _read_rows(_check_index(_dataset(group, episode.steps)), rows).astype(np.int64)
    order = np.argsort(steps, kind="stable")
    steps = steps[order]
    if steps[0] < 0:
        raise ValueError(f"{episode.where}: {episode.steps} {steps[0]} is negative; repair or leave out the episode")
    if (jumps := np.flatnonzero(np.diff(steps) != 1)).size:
        before, after = steps[jumps[0]], steps[jumps[0] + 1]
        what = f"step {before} comes twice" if before == after else f"step {before + 1} is missing"
        raise ValueError(f"{episode.where}: {what}; repair or leave out the episode")
    return rows[order]


def _frames(
    episode: _Episode, names: tuple[str, ...], rows: npt.NDArray[np.int64]
) -> Iterator[Frame | tuple[Frame, ...]]:
    with _group(episode.file, episode.group) as group:
        cameras = [_read_frames(_dataset(group, name), rows, _READ_BYTES // len(names)) for name in names]
        for views in zip(*cameras, strict=True):
            yield views[0] if len(names) == 1 else views


def _read_frames(
    dataset: h5py.Dataset, rows: npt.NDArray[np.int64], read_bytes: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield rows one by one, reading as many chunks of the file at once as `read_bytes` allow."""
    colours_first = dataset.shape[3] != 3
    chunks: tuple[int, ...] = dataset.chunks or (1,)
    block = max(read_bytes // _row_bytes(dataset) // chunks[0], 1) * chunks[0]
    for start, stop in _runs(rows):
        while start < stop:
            end = min(start - start % block + block, stop)
            with _reading(dataset):
                frames = dataset[start:end]
            yield from np.moveaxis(frames, 1, 3) if colours_first else frames
            start = end


def _runs(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the parts of rows that follow one another in the file."""
    ends = np.append(np.flatnonzero(np.diff(rows) != 1) + 1, len(rows)).tolist()
    for first, end in zip([0, *ends], ends, strict=False):
        yield int(rows[first]), int(rows[first]) + end - first


def _read_rows(dataset: h5py.Dataset, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return rows of a dataset that are small enough to be held together."""
    _check_rows(dataset, rows)
    first, stop = int(rows.min()), int(rows.max()) + 1
    if len(rows) * _row_bytes(dataset) > _TABLE_BYTES:
        raise ValueError(f"{_where(dataset)}: {len(rows)} rows are too many for one episode; split it")
    with _reading(dataset):
        if (stop - first) * _row_bytes(dataset) <= _READ_BYTES:
            return dataset[first:stop][rows - first]
        return np.concatenate([dataset[start:end] for start, end in _runs(rows)])


def _check_rows(dataset: h5py.Dataset, rows: npt.NDArray[np.int64]) -> None:
    if len(rows) == 0 or (last := int(rows.max())) >= dataset.shape[0]:
        what = "no rows" if len(rows) == 0 else f"{dataset.shape[0]} rows and the episode needs row {last}"
        raise ValueError(f"{_where(dataset)}: has {what}; repair or leave out the episode")


def _float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinite, which is looked for
        return values.astype(np.float32)


def _check_finite(values: npt.NDArray[np.float32], name: str, episode: _Episode) -> None:
    if (bad := np.flatnonzero(~np.isfinite(values).all(axis=1))).size:
        raise ValueError(f"{episode.where}: {name} at step {bad[0]} not finite; repair or leave out the episode")


@contextlib.contextmanager
def _group(file: Path, name: str) -> Iterator[h5py.Group]:
    """Open a file, and in it a group by its path."""
    with _reading(file.name):
        # Room for some chunks, so that rows in no order do not decompress one each.
        opened = h5py.File(file, "r", rdcc_nbytes=_READ_BYTES)
    with opened as group:
        for part in name.split("/") if name else ():
            group = _child(group, part)
            assert isinstance(group, h5py.Group)
        yield group


@contextlib.contextmanager
def _reading(what: h5py.Group | h5py.Dataset | str, name: str = "") -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{_where(what, name)}: cannot be read ({reason}); copy the file again or write it again"
        ) from error


def _names(group: h5py.Group) -> list[str]:
    with _reading(group):
        return sorted(name for name in group if isinstance(name, str))  # of bytes are those that are no text


def _child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """Return what a path leads to, or None if it is no group and no dataset; no link is followed."""
    node: Any = group
    for name in path.split("/"):
        with _reading(node, name):
            link = node.get(name, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise ValueError(f"{_where(node, name)}: is missing; write the file again")
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{_where(node, name)}: is a link, which is not followed; copy the data into the file")
            node = node[name]
    return node if isinstance(node, (h5py.Group, h5py.Dataset)) else None


def _dataset(group: h5py.Group, path: str) -> h5py.Dataset:
    """Return an array whose data is in the file."""
    dataset = _child(group, path)
    if not isinstance(dataset, h5py.Dataset) or not dataset.shape:
        raise ValueError(f"{_where(group, path)}: is not an array; write the file again")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{_where(dataset)}: has its data in other files, which are not read; copy it into this one")
    return dataset


def _whole(dataset: h5py.Dataset) -> h5py.Dataset:
    """Return an array if all of it was written, so that its shape is no mere claim, and it can be decompressed."""
    chunks = dataset.chunks
    with _reading(dataset):
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(k) for k in range(properties.get_nfilters())]
        for code, _, _, called in filters:
            if not h5py.h5z.filter_avail(code):
                name = _PLUGINS.get(code) or called.decode(errors="replace") or f"filter {code}"
                raise ValueError(
                    f"{_where(dataset)}: is compressed with {name}, which is missing here; pip install hdf5plugin"
                )
        if chunks is None:
            whole = dataset.id.get_storage_size() >= math.prod(dataset.shape) * dataset.dtype.itemsize
        else:
            if filters and math.prod(chunks) * dataset.dtype.itemsize > _CHUNK_BYTES:
                raise ValueError(
                    f"{_where(dataset)}: has chunks of {chunks}, absurd ones; make them smaller with h5repack"
                )
            sides = zip(dataset.shape, chunks, strict=True)
            whole = dataset.id.get_num_chunks() >= math.prod(-(-side // chunk) for side, chunk in sides)
    if not whole:
        raise ValueError(
            f"{_where(dataset)}: is {_described(dataset)} and not all of it was written; write the file again"
        )
    return dataset


def _where(node: h5py.Group | h5py.Dataset | str, name: str = "") -> str:
    """Return a file, and the path in it of a group, of a dataset or of a name in a group."""
    if not isinstance(node, str):
        node = Path(node.file.filename).name + (node.name or "").rstrip("/")
    return f"{node}/{name}" if name else node


def _described(dataset: h5py.Dataset) -> str:
    return f"{dataset.dtype}[{', '.join(map(str, dataset.shape))}]"


def _row_bytes(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.shape[1:]) * dataset.dtype.itemsize


def _listed(names: list[str]) -> str:
    return (", ".join(names[:20]) + (" ..." if len(names) > 20 else "")) or "nothing"
