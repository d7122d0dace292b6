"""Recordings of other formats into a store: decoded in parallel, in bounded memory, resumable.

An importer is a `Source`: it reads a recording's tables when it is opened, and one episode at a time afterwards. What
is common to all of them is here: square frames, frame-skip, worker processes, the order in the store, and resuming.
"""

import contextlib
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from lewm.data.control_mode import GIVEN, write_guess
from lewm.data.fit import FrameFit, FrameFitter
from lewm.data.foreign import describe
from lewm.data.store import Store, StoreMeta, StoreWriter, set_control_mode
from lewm.processes import frame_counter, in_order, num_cores

FORMATS: dict[str, str] = {
    "lerobot": "lewm.data.lerobot:LeRobotSource",
    "hdf5": "lewm.data.hdf5:HDF5Source",
    "zarr": "lewm.data.zarr_replay:ZarrSource",
    "video": "lewm.data.video:VideoSource",
    "frames": "lewm.data.frame_folders:FrameFolderSource",
    "images": "lewm.data.images:ImageFolderSource",
    "webdataset": "lewm.data.webdataset:WebDatasetSource",
}
"""Where the importer of each format lives, in the order in which they are tried."""

Format = Literal["lerobot", "hdf5", "zarr", "video", "frames", "images", "webdataset"]
Frame = av.VideoFrame | npt.NDArray[np.uint8]
"""A decoded video frame, or (height, width, 3) uint8 in the order red, green, blue."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A picture that cannot be used; where pictures have nothing to do with each other, it alone is left out.

    Args:
        reason: names it and says why, in one line.
    """

    reason: str


_SCRATCH = ".import"
_AHEAD_PER_WORKER = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions(FrameFit):
    """What of a recording is imported, and how."""

    cameras: tuple[str, ...] = ()
    """Cameras of the recording, tiled in one square frame if several; empty where there is only one."""
    action: tuple[str, ...] = ()
    """Columns, datasets or features that are the action, concatenated in this order; empty to detect them."""
    state: tuple[str, ...] = ()
    """Columns, datasets or features that are the state, concatenated in this order; empty to detect them."""
    control_mode: Literal["position", "displacement", "velocity"] | None = None
    """What continuous actions command: where to be, how far or how fast to move; by default it is guessed."""
    frame_skip: int = 1
    """Keep every n-th frame; an action is then the n actions between two of them, concatenated."""

    def __post_init__(self) -> None:
        FrameFit.__post_init__(self)
        if self.frame_skip < 1:
            raise ValueError(f"frame_skip={self.frame_skip}: must be at least 1; use 1 for every frame")
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras={', '.join(self.cameras)}: a camera is named twice; name each once")
        for field_, names in (("action", self.action), ("state", self.state)):
            if len(set(names)) != len(names):
                raise ValueError(f"{field_}={', '.join(names)}: a name is given twice; give each once")
        if self.image_size % self.tiles:
            raise ValueError(
                f"image_size={self.image_size}: must be divisible by {self.tiles} to tile {len(self.cameras)} cameras; "
                f"use {self.image_size // self.tiles * self.tiles}"
            )
        if self.tiles > 1 and self.crop_box is not None:
            raise ValueError(f"crop_box={self.crop_box}: is of one camera; leave it out, or name one camera")

    @property
    def tiles(self) -> int:
        """Cameras along each side of a frame."""
        return math.isqrt(max(len(self.cameras), 1) - 1) + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceInfo:
    """What a recording says about itself; it becomes the store's `meta.json`."""

    task: str
    """Name of the task, robot or data set."""
    action_kind: Literal["continuous", "discrete", "none"]
    """Real vectors, one integer out of `action_size`, or images without actions."""
    action_size: int
    """Length of the recorded action vector, number of discrete actions, or 0."""
    action_names: tuple[str, ...] = ()
    """Names of the entries of a continuous action, where the recording has them."""
    state_names: tuple[str, ...] = ()
    """Names of the state variables; empty when there are none."""
    fps: float | None = None
    """Frames a second, where time is real."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What else the recording says, as JSON: format, version, cameras, statistics, task texts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recording:
    """One episode of a recording, before its frames are fitted.

    Args:
        frames: yields the L frames; of several cameras, a tuple of one frame a camera. Each camera keeps its size. Of
            images of their own, `LeftOut` in place of one that cannot be used.
        actions: (L, A) real, (L,) integer for discrete actions, or (L, 0) for none: action t is taken at frame t.
        states: (L, S) real, or None.
        source: where it comes from, in a few words that find it again.
        text: the task in words, where the recording has them.
        same_size: whether all frames of a camera must have the size of the first; images of their own need not.
        left_out: what else of it cannot be used, in one line each.
    """

    frames: Iterable[Frame | tuple[Frame, ...] | LeftOut]
    actions: npt.NDArray[Any]
    states: npt.NDArray[Any] | None
    source: str
    text: str = ""
    same_size: bool = True
    left_out: tuple[str, ...] = ()


class Source(ABC):
    """A recording that can be imported.

    Opening it reads and checks its tables and decodes no frame. It is opened anew in every worker process. Whatever is
    wrong with the files is a `ValueError` of one line, `where: what; remedy`: when opening, if nothing can be
    imported; in `episode`, if that episode cannot be, and then it is skipped and reported.

    Args:
        path: what the user gave: a file or a folder.
        options: the wanted cameras, action and state; fitting and frame-skip are not the source's business.
    """

    format: ClassVar[Format]

    @classmethod
    @abstractmethod
    def matches(cls, path: Path) -> bool:
        """Tell at a glance, without reading data, whether a path looks like this format."""

    @abstractmethod
    def __init__(self, path: Path, options: ImportOptions) -> None: ...

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """What the recording says about itself."""

    @property
    @abstractmethod
    def num_episodes(self) -> int:
        """Episodes in the recording, bad ones included."""

    @abstractmethod
    def length(self, index: int) -> int:
        """Return the number of frames of an episode, or a guess for the progress bar."""

    @abstractmethod
    def episode(self, index: int) -> Recording:
        """Open one episode; its frames are decoded while they are iterated over."""


@dataclass(frozen=True, slots=True)
class FittedEpisode:
    """One episode, fitted: its frames are in a file of their own, because they may be larger than memory."""

    frames: Path
    actions: npt.NDArray[Any]
    states: npt.NDArray[Any] | None
    source: str
    text: str
    fitted: str
    left_out: tuple[str, ...] = ()


EpisodeStream = Generator[FittedEpisode | str]
"""Episodes in order, or why one cannot be imported."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Args:
        store: the store.
        skipped: for each episode that could not be imported, its number in the recording and why.
        fitted: what was done to the frames, in a few words.
        left_out: the single pictures that could not be used, and why.
    """

    store: Store
    skipped: tuple[tuple[int, str], ...]
    fitted: str
    left_out: tuple[str, ...] = ()


def detect_format(path: Path) -> Format:
    """Return the format of a recording.

    Raises:
        ValueError: there is nothing there, or it looks like no known format.
    """
    if not path.exists():
        raise ValueError(f"{path}: does not exist; give a recording's file or folder")
    for name in FORMATS:
        if _importer(name).matches(path):
            return name  # type: ignore[return-value]
    what = describe(path) or f"looks like none of {', '.join(FORMATS)}; name one with --format"
    raise ValueError(f"{path}: {what}")


def open_source(path: Path, options: ImportOptions, format_: Format | None = None) -> Source:
    """Open a recording; see `Source`.

    Raises:
        ValueError: nothing can be imported from it.
    """
    if not path.exists():
        raise ValueError(f"{path}: does not exist; give a recording's file or folder")
    return _importer(format_ or detect_format(path))(path, options)


def import_recording(
    path: str | Path,
    out: str | Path,
    *,
    options: ImportOptions | None = None,
    format_: Format | None = None,
    max_episodes: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Imported:
    """Import a recording into a store, going on after the episodes that the store already has.

    Episodes are stored in the recording's order: the store is the same, byte for byte, for any number of workers and of
    interruptions. A script that asks for more than one worker must keep its own work under
    `if __name__ == "__main__":`, because the processes are started afresh.

    Args:
        path: the recording.
        out: folder of the store.
        options: cameras, action, state, frame size and frame-skip.
        format_: one of `FORMATS`; None detects it.
        max_episodes: import at most this many episodes of the recording; None for all.
        workers: processes; None takes one a core as far as there are episodes, 1 starts none.
        progress: show a bar with frames a second and the time left, on the error stream.

    Raises:
        ValueError: nothing could be imported, or the store holds something else.
        RuntimeError: a worker died; the episodes before are in the store.
        OSError: the store could not be written; the episodes before are in it.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1; leave it out for one a core")

    def read_all(source: Source, path: Path, options: ImportOptions, todo: range, scratch: Path) -> EpisodeStream:
        count = min(num_cores(), len(todo) // 2) if workers is None else workers
        return _read_all(source, path, options, todo, scratch, count)

    return import_episodes(
        path, out, read_all, options=options, format_=format_, max_episodes=max_episodes, progress=progress
    )


def import_episodes(
    path: str | Path,
    out: str | Path,
    read_all: Callable[[Source, Path, ImportOptions, range, Path], EpisodeStream],
    *,
    options: ImportOptions | None,
    format_: Format | None,
    max_episodes: int | None,
    progress: bool,
) -> Imported:
    """Import a recording whose episodes are decoded by `read_all`; else like `import_recording`.

    Args:
        read_all: of a source, its path, the options, the numbers of the wanted episodes and a folder for their frames,
            yields every episode in order.
    """
    options = options or ImportOptions()
    path, out = Path(path).absolute(), Path(out)
    if max_episodes is not None and max_episodes < 1:
        raise ValueError(f"max_episodes={max_episodes}: must be at least 1; leave it out for all")
    if out.resolve() == path.resolve() or path.resolve() in out.resolve().parents:
        raise ValueError(f"out={out}: lies in the recording; give a folder outside of {path}")
    source = open_source(path, options, format_)
    meta = store_meta(source, path, options)
    total = min(source.num_episodes, max_episodes or source.num_episodes)
    skipped: list[tuple[int, str]] = []
    left_out: list[str] = []
    fitted = ""
    with StoreWriter(out, meta) as writer:
        scratch = out / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # a killed import's
        scratch.mkdir()
        try:
            todo = range(_next_episode(writer), total)
            lengths = [max(source.length(index), 0) // options.frame_skip for index in todo]
            with (
                frame_counter(sum(lengths), f"importing {path.name}", show=progress) as count,
                contextlib.closing(read_all(source, path, options, todo, scratch)) as episodes,
            ):
                for index, expected, episode in zip(todo, lengths, episodes, strict=True):
                    if isinstance(episode, str):
                        skipped.append((index, episode))
                        count(expected)
                        continue
                    size = (len(episode.actions), meta.image_size, meta.image_size, 3)
                    frames = np.memmap(episode.frames, dtype=np.uint8, mode="r", shape=size)
                    writer.append(frames, episode.actions, episode.states, source=episode.source, text=episode.text,
                                  seed=index)  # fmt: skip
                    fitted = episode.fitted
                    left_out += episode.left_out
                    del frames
                    episode.frames.unlink()
                    count(expected)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if writer.num_episodes == 0:
            index, reason = skipped[0]
            raise ValueError(f"{path}: none of its {total} episodes can be imported; episode {index}: {reason}")
    if options.control_mode is not None:
        set_control_mode(out, options.control_mode, GIVEN)
    elif todo or not Store(out).meta.control_evidence:
        write_guess(out)
    return Imported(Store(out), tuple(skipped), fitted, tuple(left_out))


def store_meta(source: Source, path: Path, options: ImportOptions) -> StoreMeta:
    """Return the metadata of the store that a recording becomes."""
    info, skip = source.info, options.frame_skip
    if skip > 1 and info.action_kind != "continuous":
        raise ValueError(
            f"frame_skip={skip}: only continuous actions can be concatenated; use 1, and data.frame_skip in training"
        )
    names = info.action_names
    splits = info.origin.get("splits", {})
    form = f"{source.format} of {', '.join(splits)}" if splits else source.format
    return StoreMeta(
        task=info.task,
        image_size=options.image_size,
        action_kind=info.action_kind,
        action_size=info.action_size * skip,
        control_mode=options.control_mode or "unknown",
        control_evidence="" if options.control_mode is None else GIVEN,
        action_names=names if skip == 1 else tuple(f"{name}+{k}" for k in range(skip) for name in names),
        state_names=info.state_names,
        fps=None if info.fps is None else info.fps / skip,
        source=f"lewm import {path.name} ({form})",
        origin={
            **info.origin,
            "format": source.format,
            "path": str(path),
            "fit": options.fit,
            "crop_box": options.crop_box,
            "cameras": options.cameras,
            "action": options.action,
            "state": options.state,
            "frame_skip": skip,
        },
    )


def _read_all(
    source: Source, path: Path, options: ImportOptions, todo: range, scratch: Path, workers: int
) -> EpisodeStream:
    """Yield every episode in order, or why it cannot be imported, a few of them ahead of the writer."""
    if workers <= 1:
        for index in todo:
            yield read_episode(source, index, options, scratch)
        return
    arguments = ((path, options, source.format, index, scratch) for index in todo)
    yield from in_order(_work, arguments, names=todo, workers=workers, ahead=workers * _AHEAD_PER_WORKER)


def _work(path: Path, options: ImportOptions, format_: Format, index: int, scratch: Path) -> FittedEpisode | str:
    return read_episode(worker_source(path, options, format_), index, options, scratch)


@lru_cache(maxsize=1)
def worker_source(path: Path, options: ImportOptions, format_: Format) -> Source:
    """Open a recording once a process."""
    return open_source(path, options, format_)


def read_episode(source: Source, index: int, options: ImportOptions, scratch: Path) -> FittedEpisode | str:
    """Decode and fit one episode; return it, or why it cannot be imported."""
    file = scratch / f"{index}.frames"
    try:
        return _fit_episode(source.episode(index), options, file)
    except (ValueError, FFmpegError) as error:
        file.unlink(missing_ok=True)
        return " ".join(str(error).split())


def _fit_episode(recording: Recording, options: ImportOptions, file: Path) -> FittedEpisode:
    skip, size, tiles = options.frame_skip, options.image_size, options.tiles
    length = len(recording.actions)
    kept = length // skip
    if kept == 0:
        raise ValueError(f"{recording.source}: has {length} actions, less than frame_skip={skip}; use a smaller one")
    cell = size // tiles
    fit = FrameFit(image_size=cell, fit=options.fit, crop_box=options.crop_box)
    fitters = [FrameFitter(fit) for _ in range(tiles**2)]  # one a camera: a scaler keeps the tables of one size
    lost: dict[int, str] = {}
    seen, shapes, frame = 0, [], np.zeros((size, size, 3), dtype=np.uint8)
    with open(file, "wb") as out:
        for seen, views in enumerate(recording.frames, 1):
            if seen > length:
                break
            if isinstance(views, LeftOut):
                assert not recording.same_size, "a recording cannot do without a frame"
                lost[seen - 1] = views.reason
                continue
            views = views if isinstance(views, tuple) else (views,)
            sizes = [view.shape[:2] if isinstance(view, np.ndarray) else (view.height, view.width) for view in views]
            shapes = shapes or sizes
            if sizes != shapes and recording.same_size:
                raise ValueError(
                    f"{recording.source}: frame {seen - 1} has another size than those before; split it there"
                )
            place, rest = divmod(seen - 1, skip)
            if rest or place >= kept:
                continue
            for k, (view, fitter) in enumerate(zip(views, fitters, strict=False)):
                top, left = k // tiles * cell, k % tiles * cell
                frame[top : top + cell, left : left + cell] = fitter(view)
            out.write(frame.data)
    if seen != length:
        has = "more" if seen > length else str(seen)
        raise ValueError(f"{recording.source}: has {has} frames for {length} actions; leave it out or repair it")
    if len(lost) == length:
        raise ValueError(lost[0])
    fitted = "; ".join(dict.fromkeys(fit.describe(*shape) for shape in shapes))
    if not recording.same_size:
        fitted = f"images of any size, scaled to {size}x{size} ({options.fit})"
    actions, states = recording.actions, recording.states
    if skip > 1:
        actions = actions[: kept * skip].reshape(kept, -1)
        states = None if states is None else states[: kept * skip : skip]
    if lost:
        kept_rows = np.setdiff1d(np.arange(length), list(lost))
        actions, states = actions[kept_rows], None if states is None else states[kept_rows]
    left_out = (*lost.values(), *recording.left_out)
    return FittedEpisode(file, actions, states, recording.source, recording.text, fitted, left_out)


def _next_episode(writer: StoreWriter) -> int:
    """Return the episode of the recording that follows the last one in the store."""
    return 0 if writer.last_seed is None else writer.last_seed + 1


def _importer(name: str) -> type[Source]:
    module, _, attribute = FORMATS[name].partition(":")
    return getattr(import_module(module), attribute)
