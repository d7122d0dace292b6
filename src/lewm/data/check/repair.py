"""Write a store anew without the frames that a check found bad."""

import dataclasses
import shutil
from pathlib import Path

from lewm.data.check.findings import Span
from lewm.data.check.store_check import CheckResult
from lewm.data.store import Store, StoreWriter, frame_bytes
from lewm.files import check_folder, check_space, plain_os_error


def repair(store: Store, result: CheckResult, out: str | Path) -> Store:
    """Copy a store without the frames of the repairable findings; an episode is split where frames are left out.

    Parts in which no training clip fits are left out as well. The store itself is only read. The new one is written
    beside `out` and gets its name in the end: after a kill or with a full disk there is no `out`, and the next repair
    starts afresh.

    Args:
        store: the store that was checked, best with `whole=True`: of a sample, only what the sample showed is known.
        result: what was found.
        out: folder of the new store; must not exist, or be empty.

    Returns:
        The new store.

    Raises:
        ValueError: there is nothing to repair, or nothing would be left, or the result is of another store; or as
            `check_repair`.
        OSError: the new store could not be written; there is no `out`.
    """
    out = Path(out).absolute()
    if (result.num_episodes, result.num_frames) != (store.num_episodes, store.num_frames):
        raise ValueError(f"{store.path}: has changed since it was checked; check it again")
    cuts = sorted({span for finding in result.findings if finding.repairable for span in finding.where})
    if not cuts:
        raise ValueError(f"{store.path}: nothing was found that leaving out frames repairs; use it as it is")
    parts = _parts(store, cuts, result.clip_span)
    if not parts:
        raise ValueError(f"{store.path}: no part of {result.clip_span} good frames is left; record or import it again")
    meta = dataclasses.replace(store.meta, source=f"{store.meta.source}, repaired")
    temporary = _temporary(out)
    check_repair(store, out, sum(part.stop - part.first for part in parts))
    with plain_os_error(out, "there is no such store yet"):
        shutil.rmtree(temporary, ignore_errors=True)  # a killed repair's
        try:
            with StoreWriter(temporary, meta) as writer:
                for part in parts:
                    _copy(store, part, writer)
            if out.exists():
                out.rmdir()  # it is empty; not every system renames onto a folder
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Store(out)


def check_repair(store: Store, out: Path, frames: int) -> None:
    """Check that a repaired store can be written; best asked before the store is checked whole, with all its frames.

    Args:
        store: the store to repair.
        out: folder of the new store.
        frames: frames that the new store will have, at most.

    Raises:
        ValueError: `out` is taken, lies in the store or cannot be written, or the disk has no room for the frames.
    """
    if store.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"out={out}: lies in the store itself; give another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out}: is there already; give a new folder")
    check_folder(out.parent, "out")
    left = sum(file.stat().st_size for file in _temporary(out).glob("*"))  # by a killed repair, to be removed
    check_space(out, frames * frame_bytes(store.meta) - left, "out", "free some space")


def _temporary(out: Path) -> Path:
    return out.with_name(f".{out.name}.repair")


def _parts(store: Store, cuts: list[Span], least: int) -> list[Span]:
    """Return what lies between the cuts of each episode, of at least so many frames."""
    by_episode: dict[int, list[Span]] = {}
    for cut in cuts:
        by_episode.setdefault(cut.episode, []).append(cut)
    parts = []
    for episode, length in enumerate(store.episodes.length.tolist()):
        first = 0
        for cut in [*by_episode.get(episode, ()), Span(episode, length, length)]:
            if cut.first - first >= least:
                parts.append(Span(episode, first, cut.first))
            first = max(first, cut.stop)
    return parts


def _copy(store: Store, part: Span, writer: StoreWriter) -> None:
    start, episodes = int(store.episodes.start[part.episode]), store.episodes
    rows = slice(start + part.first, start + part.stop)
    source = episodes.source[part.episode]
    if part.stop - part.first < episodes.length[part.episode]:
        source = f"{source}, frames {part.first} to {part.stop - 1}"
    writer.append(
        store.frames[rows],
        store.actions[rows],
        None if store.states is None else store.states[rows],
        source=source,
        seed=int(episodes.seed[part.episode]),
        text=episodes.text[part.episode],
        group=None if (group := int(episodes.group[part.episode])) < 0 else group,
    )
