"""Recordings of other formats into a store: decoded in parallel, in bounded memory, resumable.

An importer is a `Source`. What is common to all of them is here: square frames, frame-skip, worker processes, the order
in the store, and resuming.
"""

import contextlib
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from lewm.config.choices import FORMATS, FormatName, chosen
from lewm.data.check.control_mode import GIVEN, write_guess
from lewm.data.importers.foreign import describe
from lewm.data.importers.resume import left_to_import, meta_to_go_on
from lewm.data.importers.source import (
    ImportOptions,
    LeftOut,
    Recording,
    Source,
    camera_fitter,
    store_meta,
    thinned,
)
from lewm.data.store import Store, StoreWriter, frame_bytes, set_control_mode
from lewm.data.store_files import EPISODES, META
from lewm.files import check_folder, check_space, short_errors, shorten
from lewm.processes import frame_counter, in_order, num_cores

_SCRATCH = ".import"
_AHEAD_PER_WORKER = 2
_LONGEST_PATH = 80  # of an error that says why as well
_LONGEST = 100.0  # times the median length: a damaged table gives an episode millions of frames


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


def detect_format(path: Path) -> FormatName:
    """Return the format of a recording.

    Raises:
        ValueError: there is nothing there, or it looks like no known format.
    """
    if not path.exists():
        raise ValueError(f"{path}: does not exist; give a recording's file or folder")
    if all((path / name).is_file() for name in (META, EPISODES, "frames.npy")):
        raise ValueError(f"{path}: is a store already; give it to `lewm train --data`")
    for name in FORMATS:
        if chosen(FORMATS, name).matches(path):
            return name
    what = describe(path) or f"looks like none of {', '.join(FORMATS)}; name one with --format"
    raise ValueError(f"{path}: {what}")


@short_errors()
def open_source(path: Path, options: ImportOptions, format_: FormatName | None = None) -> Source:
    """Open a recording; see `Source`.

    Raises:
        ValueError: nothing can be imported from it.
    """
    if not path.exists():
        raise ValueError(f"{path}: does not exist; give a recording's file or folder")
    return chosen(FORMATS, format_ or detect_format(path))(path, options)


def import_recording(
    path: str | Path,
    out: str | Path,
    *,
    options: ImportOptions | None = None,
    format_: FormatName | None = None,
    max_episodes: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Imported:
    """Import a recording into a store, going on with the episodes that the store does not have yet.

    Episodes are stored in the recording's order: the store is the same, byte for byte, for any number of workers and of
    interruptions. What the recording has gained since, such as an episode that was broken and is mended, comes behind
    what the store has. A recording may have moved; it is known by its first and its last stored episode.

    A script that asks for more than one worker must keep its own work under `if __name__ == "__main__":`, because the
    processes are started afresh.

    Args:
        path: the recording.
        out: folder of the store.
        options: cameras, action, state, frame size and frame-skip.
        format_: one of `lewm.config.choices.FORMATS`; None detects it.
        max_episodes: import at most this many episodes of the recording; None for all.
        workers: processes; None takes one a core as far as there are episodes, 1 starts none.
        progress: show a bar with frames a second and the time left, on the error stream.

    Raises:
        ValueError: nothing could be imported, or the store holds something else, or cannot be written, or the disk
            has no room for the episodes that are missing.
        RuntimeError: a worker died; the episodes before are in the store.
        OSError: the store could not be written; the episodes before are in it.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: must be at least 1; leave it out for one a core")

    def read_all(
        source: Source, path: Path, options: ImportOptions, todo: Sequence[int], scratch: Path
    ) -> EpisodeStream:
        count = min(num_cores(), len(todo) // 2) if workers is None else workers
        return _read_all(source, path, options, todo, scratch, count)

    return import_episodes(
        path, out, read_all, options=options, format_=format_, max_episodes=max_episodes, progress=progress
    )


@short_errors()
def import_episodes(
    path: str | Path,
    out: str | Path,
    read_all: Callable[[Source, Path, ImportOptions, Sequence[int], Path], EpisodeStream],
    *,
    options: ImportOptions | None,
    format_: FormatName | None,
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
    check_folder(out, "out")
    source = open_source(path, options, format_)
    meta = store_meta(source, path, options)
    total = min(source.num_episodes, max_episodes or source.num_episodes)
    skipped: list[tuple[int, str]] = []
    left_out: list[str] = []
    fitted = ""
    with StoreWriter(out, meta, go_on=meta_to_go_on) as writer:
        todo = range(total)
        if writer.num_episodes:
            todo = left_to_import(Store(out), source, options, path, total)
        scratch = out / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # a killed import's
        lengths = [max(source.length(index), 0) // options.frame_skip for index in todo]
        if lengths:
            likely = np.minimum(lengths, _LONGEST * np.median(lengths))
            needed = likely.sum() + likely.max()  # an episode is in a file of its own until it is stored
            check_space(out, needed * frame_bytes(meta), "out", "fewer --episodes")
        scratch.mkdir()
        try:
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
            where = shorten(path, _LONGEST_PATH)
            raise ValueError(f"{where}: none of its {total} episodes can be imported; episode {index}: {reason}")
    if options.control_mode is not None:
        set_control_mode(out, options.control_mode, GIVEN)
    elif todo or not Store(out).meta.control_evidence:
        write_guess(out)
    return Imported(Store(out), tuple(skipped), fitted, tuple(left_out))


def _read_all(
    source: Source, path: Path, options: ImportOptions, todo: Sequence[int], scratch: Path, workers: int
) -> EpisodeStream:
    """Yield every episode in order, or why it cannot be imported, a few of them ahead of the writer."""
    if workers <= 1:
        for index in todo:
            yield read_episode(source, index, options, scratch)
        return
    arguments = ((path, options, source.format, index, scratch) for index in todo)
    yield from in_order(_work, arguments, names=todo, workers=workers, ahead=workers * _AHEAD_PER_WORKER)


def _work(path: Path, options: ImportOptions, format_: FormatName, index: int, scratch: Path) -> FittedEpisode | str:
    return read_episode(worker_source(path, options, format_), index, options, scratch)


@lru_cache(maxsize=1)
def worker_source(path: Path, options: ImportOptions, format_: FormatName) -> Source:
    """Open a recording once a process."""
    return open_source(path, options, format_)


def read_episode(source: Source, index: int, options: ImportOptions, scratch: Path) -> FittedEpisode | str:
    """Decode and fit one episode; return it, or why it cannot be imported."""
    file = scratch / f"{index}.frames"
    try:
        return _fit_episode(source.episode(index), options, file)
    except (ValueError, FFmpegError) as error:
        file.unlink(missing_ok=True)
        return shorten(error)


def _fit_episode(recording: Recording, options: ImportOptions, file: Path) -> FittedEpisode:
    skip, size = options.frame_skip, options.image_size
    length = len(recording.actions)
    kept = length // skip
    if kept == 0:
        raise ValueError(
            f"{recording.source}: has {length} actions, less than frame_skip={skip}; use {max(length, 1)} or fewer"
        )
    fitter = camera_fitter(options)
    lost: dict[int, str] = {}
    seen, shapes = 0, []
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
            out.write(np.ascontiguousarray(fitter(*views)).data)
    if seen != length:
        has = "more" if seen > length else str(seen)
        raise ValueError(f"{recording.source}: has {has} frames for {length} actions; leave it out or repair it")
    if len(lost) == length:
        raise ValueError(lost[0])
    fitted = fitter.describe(shapes)
    if not recording.same_size:
        fitted = f"images of any size, scaled to {size}x{size} ({options.fit})"
    actions, states = thinned(recording, skip)
    if lost:
        kept_rows = np.setdiff1d(np.arange(length), list(lost))
        actions, states = actions[kept_rows], None if states is None else states[kept_rows]
    left_out = (*lost.values(), *recording.left_out)
    return FittedEpisode(file, actions, states, recording.source, recording.text, fitted, left_out)
