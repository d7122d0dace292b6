"""Checks of the frames: uniform, frozen, repeated, with jumps, or all alike. Of large data, a sample is looked at."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm.data.cameras import Tile
from lewm.data.check.findings import Finding, Span, count_frames, find_runs, first_of, join_spans
from lewm.data.store import Store
from lewm.data.thumbnails import thumbnails, transport

MOST_BYTES = 2**30  # of frames, a few seconds from a disk
MOST_FRAMES = 50_000  # whose thumbnails are kept in memory, 1 kB each
WINDOW = 200  # frames of an episode that are looked at together: short, so that a sample reaches many episodes
OVERLAP = 12  # of windows, so that a run of FROZEN still frames lies whole in one of them
BATCH = 64  # frames turned into thumbnails at once

UNIFORM = 2.0  # grey levels between the brightest and the darkest cell: a single dark pixel makes more
DARK = 16.0  # mean grey level of a frame that is called black
STILL = 0.25  # grey levels in the cell that changes most: sensor noise is above, a video codec's rounding below
STILL_SHARE = 0.1  # of the median change, where all changes are small
FROZEN = 10  # still frames in a row; against a wall, tasks are still for four or five
MOVES = 0.1  # of an action's standard deviation: less is a robot that holds still
FEWEST_SHOWN = 20  # pictures from which the rate of a camera is judged
REGULAR = 0.8  # share of pictures shown for one of two numbers of frames, if a camera is slower than the actions
JUMP = 2.5  # times the large changes of the data; pushing a block at full speed comes to 2.2
ISOLATED = 3.0  # times the changes of the three frames before and after: a glitch that passes is no cut
SAME = 2.0  # grey levels between two cameras in any cell: the rounding of another video codec
VARIED = 3.0  # grey levels that some cell must vary by; noise alone stays below


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What was seen in consecutive frames of an episode.

    Args:
        episode: number of the episode.
        first: the first of these frames in the episode.
        start: the same frame's number in the store.
        uniform: (n,) frames of one colour.
        dark: (n,) frames that are black.
        change: (n - 1,) grey levels by which the cell that changes most does.
        moved: (n - 1,) how far grey moves.
        digests: of each frame, where frames are images of their own; else none.
        thumbs: (n, G, G) of a sample of the views, None of others.
    """

    episode: int
    first: int
    start: int
    uniform: npt.NDArray[np.bool_]
    dark: npt.NDArray[np.bool_]
    change: npt.NDArray[np.float32]
    moved: npt.NDArray[np.float32]
    digests: tuple[bytes, ...]
    thumbs: npt.NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.uniform)

    @property
    def pictures(self) -> npt.NDArray[np.float32]:
        """The thumbnails of a view that has them."""
        assert self.thumbs is not None
        return self.thumbs

    def span(self, first: int, stop: int) -> Span:
        """Return frames of the view as frames of the episode."""
        return Span(self.episode, self.first + first, self.first + stop)

    def actions(self, store: Store) -> npt.NDArray[Any]:
        """Return the actions of these frames."""
        return np.asarray(store.actions[self.start : self.start + len(self)])

    def states(self, store: Store) -> npt.NDArray[np.float32]:
        """Return the states of these frames, of a store that has some."""
        assert store.states is not None
        return np.asarray(store.states[self.start : self.start + len(self)])


def look(store: Store, *, whole: bool, most_bytes: int = MOST_BYTES, tile: Tile | None = None) -> list[View]:
    """Look at windows of the episodes: a sample spread over all of them, or all; keep the thumbnails of the sample.

    Args:
        store: the data.
        whole: look at every frame.
        most_bytes: of frames in the sample.
        tile: look at one of several cameras, at the same places.
    """
    windows = [
        Span(episode, first, min(first + WINDOW, length))
        for episode, length in enumerate(store.episodes.length.tolist())
        for first in range(0, max(length - OVERLAP, 1), WINDOW - OVERLAP)
    ]
    budget = max(min(MOST_FRAMES, most_bytes // store.frames[0].nbytes), WINDOW)
    chosen, frames = set(), 0
    for k in np.random.default_rng(0).permutation(len(windows)).tolist():
        frames += windows[k].stop - windows[k].first
        if frames > budget:
            break
        chosen.add(k)
    looked = range(len(windows)) if whole else sorted(chosen)
    place = (slice(None), slice(None)) if tile is None else tile.place
    return [_view(store, windows[k], place, keep=k in chosen) for k in looked]


def _view(store: Store, window: Span, place: tuple[slice, slice], *, keep: bool) -> View:
    start = int(store.episodes.start[window.episode]) + window.first
    stop = start + window.stop - window.first
    thumbs, digests = [], []
    for k in range(start, stop, BATCH):
        frames = np.ascontiguousarray(store.frames[k : min(k + BATCH, stop), *place])
        thumbs.append(thumbnails(frames))
        if store.meta.action_kind == "none":
            digests += [hashlib.blake2b(frame, digest_size=16).digest() for frame in frames]
    pictures = np.concatenate(thumbs)
    difference = np.diff(pictures, axis=0)
    return View(
        episode=window.episode,
        first=window.first,
        start=start,
        uniform=np.ptp(pictures, axis=(1, 2)) < UNIFORM,
        dark=pictures.mean(axis=(1, 2)) < DARK,
        change=np.abs(difference).max(axis=(1, 2)),
        moved=transport(difference),
        digests=tuple(digests),
        thumbs=pictures if keep else None,
    )


def frames_in(views: Sequence[View]) -> int:
    """Count the frames of views in order; windows of one episode overlap."""
    frames = sum(map(len, views))
    for before, view in pairwise(views):
        if before.episode == view.episode:
            frames -= max(before.first + len(before) - view.first, 0)
    return frames


def _share(views: Sequence[View], where: Sequence[Span]) -> str:
    return f"{count_frames(where)} of {frames_in(views):,} frames looked at"


def check_pictures(store: Store, views: Sequence[View], std: npt.NDArray[np.float64] | None) -> list[Finding]:
    """Report what is wrong with the pictures of one camera.

    Args:
        store: the data.
        views: what was seen of them.
        std: (A,) standard deviation of the actions; None where there are none.
    """
    uniform = uniform_frames(views)
    unvaried = check_variation([view for view in views if view.thumbs is not None])
    findings = [*check_uniform(views, uniform), *unvaried]
    if std is not None and not unvaried:  # else nothing is seen to move
        held, again, shown = still_frames(store, views, std)
        findings += [*check_frozen(views, held), *check_repeated(views, again, shown), *check_jumps(views, held)]
    return findings


def check_cameras(
    store: Store, cameras: Mapping[str, Sequence[View]], std: npt.NDArray[np.float64] | None
) -> Iterator[Finding]:
    """Report what is wrong with each of several cameras by itself, and those that show the same.

    Args:
        store: the data.
        cameras: what was seen of each, by name, at the same places.
        std: (A,) standard deviation of the actions; None where there are none.
    """
    varied = []
    for name, views in cameras.items():
        found = check_pictures(store, views, std)
        varied += [] if any(finding.name == "little-variation" for finding in found) else [name]
        for finding in found:
            yield replace(finding, message=f"camera {name}: {finding.message}")
    for first, second in combinations(varied, 2):
        pairs = zip(cameras[first], cameras[second], strict=True)
        pictures = [(view.pictures, other.pictures) for view, other in pairs if view.thumbs is not None]
        if all(a.shape == b.shape and np.abs(a - b).max() <= SAME for a, b in pictures):
            message = f"cameras {first} and {second} show the same in all frames looked at"
            yield Finding(
                "warning", "same-cameras", (), message, "import one of them, or see which file is the other's"
            )


def check_variation(kept: Sequence[View]) -> list[Finding]:
    """Report frames that hardly vary, of views that have thumbnails."""
    low = np.min([view.pictures.min(axis=0) for view in kept], axis=0)
    high = np.max([view.pictures.max(axis=0) for view in kept], axis=0)
    most = float((high - low).max())
    if most >= VARIED:
        return []
    message = f"the frames hardly vary: no part of the picture by more than {most:.1f} of 255 grey levels"
    remedy = "see whether the camera shows what the actions move, and large enough"
    return [Finding("warning", "little-variation", (), message, remedy)]


def uniform_frames(views: Sequence[View]) -> tuple[Span, ...]:
    """Find frames of one colour."""
    return join_spans([view.span(*run) for view in views for run in find_runs(view.uniform)])


def check_uniform(views: Sequence[View], where: tuple[Span, ...]) -> Iterator[Finding]:
    """Report frames of one colour."""
    if where:
        colour = "black" if all(view.dark[view.uniform].all() for view in views) else "of one colour"
        message = f"{_share(views, where)} are {colour}, {first_of(where)}"
        yield Finding("warning", "uniform-frames", where, message, "leave them out", repairable=True)


def still_frames(
    store: Store, views: Sequence[View], std: npt.NDArray[np.float64]
) -> tuple[tuple[Span, ...], tuple[Span, ...], list[int]]:
    """Find frames that equal the one before although the action moves.

    Args:
        store: the data.
        views: what was seen.
        std: (A,) standard deviation of the actions.

    Returns:
        Long runs of them, short ones, and for how many frames each picture is shown.
    """
    changes = np.concatenate([view.change for view in views])
    limit = min(STILL, STILL_SHARE * float(np.median(changes[changes > 0]))) if changes.any() else 0.0
    held, again, shown = [], [], []
    for view in views:
        still = view.change <= limit
        shown += np.diff(np.flatnonzero(~still)).tolist()
        actions = view.actions(store)
        for first, stop in find_runs(still & ~view.uniform[1:]):
            if _moves(actions[max(first - 1, 0) : stop], actions[first:stop], std):
                (held if stop - first >= FROZEN else again).append(view.span(first + 1, stop + 1))
    return join_spans(held), join_spans(again), shown


def _moves(around: npt.NDArray[Any], inside: npt.NDArray[Any], std: npt.NDArray[np.float64]) -> bool:
    """Tell whether actions are neither constant, the one before included, nor zero."""
    if around.ndim == 1:
        return len(np.unique(around)) > 1
    around, inside, least = np.nan_to_num(around), np.nan_to_num(inside), MOVES * std
    return bool((np.ptp(around, axis=0) > least).any() and (np.abs(inside) > least).any())


def check_frozen(views: Sequence[View], where: tuple[Span, ...]) -> Iterator[Finding]:
    """Report a camera that hung."""
    if where:
        message = f"{_share(views, where)} stand still while the action moves, {first_of(where)}"
        yield Finding("warning", "frozen-frames", where, message, "leave them out: the camera hung", repairable=True)


def check_repeated(views: Sequence[View], where: tuple[Span, ...], shown: Sequence[int]) -> Iterator[Finding]:
    """Report single frames that come again, and a camera that is slower than the actions."""
    if not where:
        return
    message = f"{_share(views, where)} equal the one before while the action moves, {first_of(where)}"
    common = int(np.median(shown)) if len(shown) >= FEWEST_SHOWN else 1
    # A ratio of the rates that is no whole number gives two lengths.
    alike = max(float(np.isin(shown, [common + k, common + k + 1]).mean()) for k in (-1, 0)) if common > 1 else 0.0
    if alike > REGULAR:
        message += f"; most pictures are shown for {common} frames"
        remedy = f"import with frame_skip={common}: the camera is slower than the actions"
        yield Finding("warning", "repeated-frames", where, message, remedy)
    else:
        remedy = "none where something may block the motion; else see whether the camera drops frames"
        yield Finding("note", "repeated-frames", where, message, remedy)


def check_jumps(views: Sequence[View], held: Sequence[Span]) -> Iterator[Finding]:
    """Report cuts inside an episode: a change that is large for the data, and alone.

    What is large is measured on changes that last, by the median of three in a row, so that cuts do not raise it; and
    on those that are not zero, for data in which things move in steps.

    Args:
        views: what was seen.
        held: frames of a camera that hung; after them, a change is no surprise.
    """
    moved = [view.moved for view in views if len(view) > 1]
    changing = np.concatenate([*moved, [0.0]])
    changing = changing[changing > 0]
    if len(changing) == 0:
        return
    lasting = np.concatenate([_median_of_three(values) for values in moved])
    large = JUMP * max(np.quantile(lasting, 0.99), np.quantile(changing, 0.95))
    resumed = {(span.episode, span.stop) for span in held}
    found = set()
    for view in views:
        for k in np.flatnonzero((view.moved > large) & ~view.uniform[1:] & ~view.uniform[:-1]).tolist():
            beside = np.concatenate([view.moved[max(k - 3, 0) : k], view.moved[k + 1 : k + 4]])
            cut = view.span(k + 1, k + 1)
            if view.moved[k] > ISOLATED * beside.max(initial=0.0) and (cut.episode, cut.first) not in resumed:
                found.add(cut)
    if found:
        where = tuple(sorted(found))
        message = f"the picture jumps before {len(where)} of {frames_in(views):,} frames looked at, {first_of(where)}"
        remedy = "cut the episodes there: no action leads across"
        yield Finding("warning", "jumps", where, message, remedy, repairable=True)


def _median_of_three(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    padded = np.pad(values, 1, mode="edge")
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
