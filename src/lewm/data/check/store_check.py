"""Find what is wrong with a store before hours are spent on training with it.

Lengths, actions and states are read whole, for they are small. Of the frames a sample is read, unless all are asked
for: 16 x 16 grey thumbnails of them are what the checks see. No check is certain. Each is set so that the data of this
package's own tasks raises nothing, and that a defect which would spoil training is seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm.config import DataConfig
from lewm.data.cameras import camera_tiles
from lewm.data.check.check_actions import ActionNumbers, check_actions, check_finite, measure_actions
from lewm.data.check.check_frames import View, check_cameras, check_pictures, check_variation, frames_in, look
from lewm.data.check.check_twins import check_equal_episodes, check_equal_images, equal_episodes
from lewm.data.check.control_mode import ControlMode, guess
from lewm.data.check.findings import SEVERITIES, Finding, Severity, Span
from lewm.data.lag import LagCurve, measure_lag, measure_views
from lewm.data.store import Store

FEW_EPISODES = 20  # with a tenth held out, two episodes are left to judge by
FEW_IMAGES = 1000
EXAMPLES, POINTS, CELLS = 24, 2000, 16
MOST_PLACES = 1000  # of a finding, in JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What the data shows.

    Args:
        points: (M, 2) frames on the two largest principal components of their thumbnails.
        place: (M,) how far through its episode each of these frames is, 0 to 1.
        visited: share of 16 x 16 cells between the extreme points that hold one.
        compared: episodes that were compared with each other.
        distinct: how many of these are left when each group of equal ones counts once.
    """

    points: npt.NDArray[np.float64]
    place: npt.NDArray[np.float64]
    visited: float
    compared: int
    distinct: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What was found in a store, worst first, and the numbers behind it.

    Args:
        findings: what is wrong.
        num_episodes: episodes of the store.
        num_frames: frames of the store.
        episodes_read: episodes of which frames were looked at.
        frames_read: frames that were looked at.
        clip_span: frames of an episode that a training clip spans.
        lengths: (E,) frames of each episode.
        actions: how actions are distributed, or None without actions.
        lag: how well actions tell what moves, or None where that cannot be told.
        control_mode: what continuous actions command, as the store says or, where it does not, as guessed now.
        control_evidence: how that is known.
        coverage: what the data shows.
        examples: (M,) frames of the store to show, ascending.
    """

    findings: tuple[Finding, ...]
    num_episodes: int
    num_frames: int
    episodes_read: int
    frames_read: int
    clip_span: int
    lengths: npt.NDArray[np.int64]
    actions: ActionNumbers | None
    lag: LagCurve | None
    control_mode: ControlMode
    control_evidence: str
    coverage: Coverage
    examples: npt.NDArray[np.int64]

    def count(self, severity: Severity) -> int:
        """Return how many findings have a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the findings, and the numbers that fit in a few lines, as plain values."""
        names = ("num_episodes", "num_frames", "episodes_read", "frames_read", "clip_span")
        names = (*names, "control_mode", "control_evidence")
        numbers: dict[str, Any] = {name: getattr(self, name) for name in names}
        numbers |= {f"{name}s": self.count(name) for name in SEVERITIES}
        numbers["findings"] = []
        for finding in self.findings:
            where = [[span.episode, span.first, span.stop] for span in finding.where[:MOST_PLACES]]
            numbers["findings"].append(
                asdict(replace(finding, where=())) | {"places": len(finding.where), "where": where}
            )
        lag, coverage = self.lag, self.coverage
        numbers["lag"] = lag and {
            "lag": lag.lag,
            "related": lag.related,
            "by": lag.by,
            "r2_alone": lag.alone.round(4).tolist(),
            "r2_beside": lag.beside.round(4).tolist(),
            "r2_chance": round(lag.chance, 4),
        }
        numbers["coverage"] = {name: getattr(coverage, name) for name in ("visited", "compared", "distinct")}
        return numbers


def check_store(
    store: Store | str | Path,
    *,
    frame_skip: int = 1,
    clip_frames: int = 2,
    held_out: float = DataConfig().held_out,
    split_seed: int = DataConfig().split_seed,
    whole: bool = False,
) -> CheckResult:
    """Look for what is wrong with a store.

    Args:
        store: the data, or its folder.
        frame_skip: environment steps between two frames of a training clip.
        clip_frames: frames of a training clip.
        held_out: share of the episodes that is held out.
        split_seed: seed of the split.
        whole: look at every frame, and not at a sample of up to 50,000 frames and 1 GiB; wanted before a repair.

    Returns:
        Findings, worst first, and the numbers behind them.

    Raises:
        ValueError: the share to hold out is not between 0 and 1.
    """
    store = store if isinstance(store, Store) else Store(store)
    images = store.meta.action_kind == "none"  # frames that have nothing to do with each other
    clip_span = 1 if images else (clip_frames - 1) * frame_skip + 1
    training = np.ones(store.num_episodes, dtype=bool)
    if len(np.unique(store.episodes.group)) > 1:
        training[store.split(held_out=held_out, seed=split_seed)[1]] = False

    views = look(store, whole=whole)
    kept = [view for view in views if view.thumbs is not None]
    cameras = {name: look(store, whole=whole, tile=part) for name, part in camera_tiles(store.meta).items()}
    findings = [*_check_size(store, clip_span), *check_finite(store)]
    actions = lag = None
    mode, evidence = store.meta.control_mode, store.meta.control_evidence
    groups, compared = [], 0
    if images:
        findings += check_equal_images(views, training)
    else:
        actions = measure_actions(store)
        findings += check_actions(store, actions)
    std = None if actions is None else actions.std
    findings += check_cameras(store, cameras, std) if cameras else check_pictures(store, views, std)
    if actions is not None and not check_variation(kept):  # else nothing is seen to move
        lag, mode, evidence = _measure_lag(store, kept)
        groups, compared = equal_episodes(store)
        findings += _check_lag(lag)
        findings += check_equal_episodes(store, groups, compared, training)
    return CheckResult(
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        num_episodes=store.num_episodes,
        num_frames=store.num_frames,
        episodes_read=len({view.episode for view in views}),
        frames_read=frames_in(views),
        clip_span=clip_span,
        lengths=store.episodes.length,
        actions=actions,
        lag=lag,
        control_mode=mode,
        control_evidence=evidence,
        coverage=_coverage(store, kept, compared, compared - sum(len(group) - 1 for group in groups)),
        examples=_examples(kept),
    )


def _check_size(store: Store, clip_span: int) -> Iterator[Finding]:
    """Report too little data, and episodes that no clip fits in."""
    count, frames = store.num_episodes, store.num_frames
    if store.meta.action_kind == "none":
        if frames < FEW_IMAGES:
            message = f"has {frames} images, and usual are 10,000 and more"
            yield Finding("warning", "few-images", (), message, "import more images")
        return
    if count < FEW_EPISODES:
        episodes = f"{count} episode{'s' if count > 1 else ''}"
        message = f"has {episodes}, {frames:,} frames, and usual are hundreds of episodes, 10,000 frames and more"
        remedy = "record more" if count > 1 else "record more: some are held out, so it takes 2 at least"
        yield Finding("warning" if count > 1 else "error", "few-episodes", (), message, remedy)
    lengths = store.episodes.length
    short = np.flatnonzero(lengths < clip_span)
    if len(short):
        where = tuple(Span(e, 0, int(lengths[e])) for e in short.tolist())
        message = (
            f"{len(short)} of {count} episodes are shorter than a clip of {clip_span} frames and are not trained on, "
            f"first episode {short[0]} of {lengths[short[0]]} frames"
        )
        remedy = "use a smaller frame-skip or shorter clips, or leave them out"
        severity = "error" if len(short) == count else "warning"
        yield Finding(severity, "short-episodes", where, message, remedy, repairable=len(short) < count)


def _measure_lag(store: Store, kept: Sequence[View]) -> tuple[LagCurve | None, ControlMode, str]:
    """Measure the lag by what the actions command, which is guessed if the store does not say it."""
    thumbs, actions = [view.pictures for view in kept], [view.actions(store) for view in kept]
    seen = measure_views(thumbs, actions)
    mode, evidence = store.meta.control_mode, store.meta.control_evidence
    acts: str = mode
    if mode == "unknown":
        found = guess(store, seen)
        mode, evidence = found.mode, found.evidence
        acts = "displacement" if found.moves else mode  # or a velocity, which acts alike
    states = None if store.states is None else [view.states(store) for view in kept]
    fps = store.meta.fps
    lag = measure_lag(thumbs, actions, states=states, control_mode=acts, fps=fps, views=seen)
    return lag, mode, evidence


def _check_lag(lag: LagCurve | None) -> Iterator[Finding]:
    """Report actions that do not fit the frames in time, or at all."""
    if lag is None:
        return
    if not lag.related:
        most = max(lag.in_frames, 0.0)
        message = (
            f"actions tell nothing about what changes in the frames: R² is at most {most:.2f} for actions of up to 5 "
            f"frames earlier or later, and chance makes {lag.chance:.2f}"
        )
        remedy = "see whether actions and frames are of the same episodes and in the same order"
        yield Finding("warning", "unrelated-actions", (), message, remedy)
    elif lag.lag:
        side, other = ("late", "earlier") if lag.lag > 0 else ("early", "later")
        frames = f"{abs(lag.lag)} frame{'s' if abs(lag.lag) > 1 else ''}"
        message = (
            f"actions seem to come {frames} {side}: shifted by that they predict what changes in the {lag.by} with an "
            f"R² of {lag.r2[0]:.2f}, and as they are with {lag.r2[1]:.2f}"
        )
        remedy = f"shift the actions {frames} {other} within each episode"
        if lag.lag < 0:
            remedy += ", unless the robot itself reacts late"
        yield Finding("warning", "action-lag", (), message, remedy)


def _coverage(store: Store, kept: Sequence[View], compared: int, distinct: int) -> Coverage:
    total = sum(map(len, kept))
    chosen = np.unique(np.linspace(0, total - 1, POINTS).astype(np.int64))
    pictures, place, passed = [], [], 0
    for view in kept:
        inside = chosen[(chosen >= passed) & (chosen < passed + len(view))] - passed
        pictures.append(view.pictures[inside])
        place.append((view.first + inside) / max(int(store.episodes.length[view.episode]) - 1, 1))
        passed += len(view)
    flat = np.concatenate(pictures).reshape(len(chosen), -1).astype(np.float64)
    flat -= flat.mean(axis=0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    points = flat @ vectors[:, ::-1][:, :2]
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # of frames of a single pixel
    low, extent = points.min(axis=0), np.maximum(np.ptp(points, axis=0), 1e-9)
    cells = np.minimum(((points - low) / extent * CELLS).astype(np.int64), CELLS - 1)
    visited = len(np.unique(cells @ [CELLS, 1])) / CELLS**2
    place = np.concatenate(place)
    return Coverage(points=points, place=place, visited=visited, compared=compared, distinct=distinct)


def _examples(kept: Sequence[View]) -> npt.NDArray[np.int64]:
    """Choose frames to show, at random places of views that are spread over the data."""
    rng = np.random.default_rng(0)
    views = [kept[k] for k in np.linspace(0, len(kept) - 1, EXAMPLES).astype(np.int64)]
    return np.unique([view.start + rng.integers(len(view)) for view in views])
