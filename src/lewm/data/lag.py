"""Whether actions fit the frames in time: how well the actions of earlier and later rows tell what moves.

Two witnesses are heard. Frames show moves as changes of thumbnails. States, where there are some whose entries an
action's entries move, show them exactly. What displacements and velocities command is in the action itself; what
absolute targets command is in their increments, or in how far they are from the state. `lewm.data.witness` says when a
lag is beyond doubt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lewm.data.entries import MOST, finite, match_entries, unwrap, usable_rows
from lewm.data.regression import BlockRegressions, make_blocks
from lewm.data.thumbnails import centroids, motion
from lewm.data.witness import LAGS, LAST, Witness, joined, make_witness

FEWEST_ROWS = 400  # with fewer, a regression on noise reaches what weak actions reach
MOST_ROWS = 20_000  # more change the curve by less than its width
# R² of actions from elsewhere in the data. What is measured is kept within bounds: a few draws can all be low by luck,
# and where every episode takes the same course, actions from elsewhere do tell what changes.
CHANCE = (0.05, 0.2)
DRAWS = 10
MOST_ACTIONS = 32  # different discrete actions told apart, the most frequent ones
MOST_ENTRIES = 8  # principal components that stand for longer action vectors
COMPONENTS = 8  # of a frame
RIDGE = 1e-3  # of regressions on frames, which are noisy
ANSWER = 0.2  # seconds that a robot may take to answer: actions that seem early by no more are not blamed
ANSWER_ROWS = 2  # the same in rows, at least
MOVES = 5  # last moves of an entry of the state that are known beside its place
SPEAKS = 0.1  # share of what is not known before that states' moves must be told by, for states to decide

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LagCurve:
    """How well actions tell what moves, over lags of -5 to 5 rows.

    Args:
        alone: (11,) R² of the action by itself; of an absolute target, beside where the robot is.
        beside: (11,) R² that it adds to what is known before: where things are, and how they moved last.
        chance: R² that actions from elsewhere in the data reach.
        related: whether the action of some row tells what changes, better than chance.
        lag: rows by which the actions come late, negative where they come early; 0 unless that is beyond doubt.
        by: whose moves these are.
        in_frames: the largest R² of what changes in the frames.
    """

    alone: Values
    beside: Values
    chance: float
    related: bool
    lag: int
    by: Literal["frames", "states"]
    in_frames: float

    @property
    def r2(self) -> tuple[float, float]:
        """R² at the estimated lag, and at lag 0, by the curve that has its peak there."""
        at = MOST + self.lag
        curve = self.alone if self.lag and self.beside.argmax() != at else self.beside
        return float(curve[at]), float(curve[MOST])


def measure_lag(
    thumbs: Sequence[npt.NDArray[np.float32]],
    actions: Sequence[npt.NDArray[Any]],
    *,
    states: Sequence[npt.NDArray[Any]] | None = None,
    control_mode: str = "unknown",
    fps: float | None = None,
    views: Sequence["FrameView"] | None = None,
) -> LagCurve | None:
    """Measure how well actions tell moves over the lag between them.

    Args:
        thumbs: of each stretch of an episode, its thumbnails (n, G, G).
        actions: of each stretch, its actions (n, A), or (n,) for discrete ones.
        states: of each stretch, its states (n, S), where there are any.
        control_mode: what continuous actions command; "unknown" where that is not known.
        fps: rows a second: how many of them a robot may take to answer.
        views: what `measure_views` says of the same stretches, if it was asked before.

    Returns:
        The curve, or None where there is too little to tell: fewer than 400 rows, or less than two stretches that are
        long enough, or frames or actions that never change.
    """
    views = measure_views(thumbs, actions) if views is None else views
    if not views:
        return None
    if len(views) > 1 and control_mode != "unknown":
        views = views[1:] if control_mode == "position" else views[:1]
    earliest = max(ANSWER_ROWS, math.ceil(ANSWER * fps) if fps else 0)
    best = max(views, key=lambda view: view.strength)
    related = any(view.related for view in views)
    # Controllers that look at the robot set its next target where it went: what is one row late may be that.
    doubted = 0 if control_mode in ("displacement", "velocity") or actions[0].ndim == 1 else 1
    shown = None if states is None else _of_states(actions, states, control_mode, *_rows(actions))
    if shown is not None and shown.r2_beside.max() > SPEAKS:
        lag = shown.lag(earliest=earliest, latest_doubted=doubted)
        if lag and best.related and best.witness.contradicts(lag):
            lag = 0
        return LagCurve(shown.r2_alone, shown.r2_beside, best.chance, related, lag, "states", best.strength)
    steps = (best is views[-1] and len(views) > 1) or control_mode == "position"
    lag = best.witness.lag(earliest=earliest, latest_doubted=doubted, increments=steps)
    if lag and (not best.related or any(_object(view, best, lag) for view in views)):
        lag = 0
    return LagCurve(best.witness.r2_alone, best.witness.r2_beside, best.chance, related, lag, "frames", best.strength)


def measure_views(thumbs: Sequence[npt.NDArray[np.float32]], actions: Sequence[npt.NDArray[Any]]) -> list["FrameView"]:
    """Return what frames say of the actions, and of the increments of continuous ones.

    Args:
        thumbs: of each stretch of an episode, its thumbnails (n, G, G).
        actions: of each stretch, its actions (n, A), or (n,) for discrete ones.

    Returns:
        Two views, one of discrete actions, or none where there is too little to tell; see `measure_lag`.
    """
    index, block = _rows(thumbs)
    if len(index) < FEWEST_ROWS or not block.any():
        return []
    change, known = _seen(thumbs, index)
    told = _told(actions)
    if change.shape[1] == 0:
        return []
    views = []
    for x in told:
        witness = make_witness(change, known, [x[index + k] for k in LAGS], block, ridge=RIDGE)
        views.append(FrameView(witness, _chance(change, known, x, index, block)))
    return views


def _rows(stretches: Sequence[npt.NDArray[Any]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows that are looked at, of all stretches together, and the block of episodes of each."""
    rows = usable_rows([len(stretch) for stretch in stretches])
    index, block = rows.index, make_blocks(rows.lengths)
    if len(index) > MOST_ROWS:
        kept = np.sort(np.random.default_rng(1).choice(len(index), MOST_ROWS, replace=False))
        index, block = index[kept], block[kept]
    return index, block


@dataclass(frozen=True, slots=True)
class FrameView:
    """What frames say of actions as they are, or of their increments."""

    witness: Witness
    chance: float

    @property
    def strength(self) -> float:
        """The most that the action of some row tells."""
        return float(max(self.witness.r2_alone.max(), self.witness.r2_beside.max()))

    @property
    def related(self) -> bool:
        """Whether the action of some row tells what changes, better than chance."""
        alone, beside = self.witness.r2_alone, self.witness.r2_beside
        return bool(self.strength > 2 * self.chance or self._fits(alone) or self._fits(beside))

    def _fits(self, r2: Values) -> bool:
        """Tell whether lag 0 is as good as any other, but for what chance does."""
        return bool(r2[MOST] > self.chance and r2[MOST] > r2.max() - self.chance)


def _object(view: FrameView, best: FrameView, lag: int) -> bool:
    """Tell whether another view speaks clearly for row 0, against the lag that the best one sees."""
    strong = view.witness.r2_beside[MOST] > best.witness.r2_beside[MOST + lag] / 2
    return bool(view is not best and strong and view.witness.contradicts(lag))


def _of_states(
    actions: Sequence[npt.NDArray[Any]],
    states: Sequence[npt.NDArray[Any]],
    control_mode: str,
    index: npt.NDArray[np.int64],
    block: npt.NDArray[np.int64],
) -> Witness | None:
    """Return what the states say, or None where no entry of theirs follows one of the actions'."""
    where = unwrap(states)
    if actions[0].ndim == 1:
        told = _kinds(np.concatenate(actions))
        chosen = sorted({j for _, j in match_entries(told, where.values, index)})
        groups = [(told, where.values[:, chosen])] if chosen else []
    else:
        series = unwrap(actions)
        pairs = match_entries(series.values, where.values, index)
        groups = [(series.near(i, where, j)[:, None], where.values[:, [j]]) for i, j in pairs]
    parts = []
    for action, place in groups:
        moves = [place[index + 1 - k] - place[index - k] for k in range(MOVES + 1)]
        known = np.concatenate([place[index], *moves[1:]], axis=1)
        rows = [action[index + k] for k in LAGS]
        with_place = range(place.shape[1]) if control_mode in ("position", "unknown") else ()
        parts.append(make_witness(moves[0], known, rows, block, ridge=1e-8, beside_alone=with_place))
    told_most = max((part.gain(part.span(0, LAST)) for part in parts), default=0.0)
    kept = [part for part in parts if part.gain(part.span(0, LAST)) > max(told_most / 2, 0.0)]
    return joined(kept) if kept else None


def _seen(thumbs: Sequence[npt.NDArray[np.float32]], index: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """Return what changes in the frames from some rows to the next (n, q), and what is known before (n, h)."""
    moved = np.concatenate([np.pad(motion(t.astype(np.float64)), ((0, 1), (0, 0))) for t in thumbs if len(t)])
    frames = np.concatenate([t for t in thumbs if len(t)])[index].astype(np.float64)
    change = moved[index]
    # Ranks, because changes have heavy tails, and a few large ones would decide.
    change = _ranks(change[:, np.ptp(change, axis=0) > 0])
    known = [_components(frames), centroids(frames), moved[index - 1], moved[index - 2]]
    return change, _ranks(np.concatenate(known, axis=1))


def _told(actions: Sequence[npt.NDArray[Any]]) -> list[Values]:
    """Return what regressions on frames see of all actions, (T, f) each: the actions, and their increments."""
    if actions[0].ndim == 1:
        kinds = _kinds(np.concatenate(actions))
        return [kinds] if kinds.shape[1] > 1 else []
    values = [finite(part) for part in actions]
    every = np.concatenate(values)
    std, mean = every.std(axis=0), every.mean(axis=0)
    varying = std > 1e-6
    if not varying.any():
        return []
    values = [np.clip((v - mean)[:, varying] / std[varying], -5.0, 5.0) for v in values]
    if varying.sum() > MOST_ENTRIES:
        every = np.concatenate(values)
        axes = np.linalg.eigh(every.T @ every)[1][:, ::-1][:, :MOST_ENTRIES]
        values = [v @ axes for v in values]
    plain = np.concatenate(values)
    steps = np.concatenate([np.diff(v, axis=0, prepend=v[:1]) for v in values])
    steps = np.clip(steps / np.maximum(steps.std(axis=0), 1e-9), -5.0, 5.0)
    return [np.concatenate([x, x**2], axis=1) for x in (plain, steps)]


def _kinds(values: npt.NDArray[Any]) -> Values:
    """Return which discrete action each row has, of the most frequent ones."""
    kinds, counts = np.unique(values, return_counts=True)
    frequent = kinds[np.argsort(-counts, kind="stable")[:MOST_ACTIONS]]
    return (values[:, None] == frequent).astype(np.float64)


def _chance(
    change: Values, known: Values, told: Values, index: npt.NDArray[np.int64], block: npt.NDArray[np.int64]
) -> float:
    """Return the R² that actions from elsewhere in the data reach."""
    q, h, f = change.shape[1], known.shape[1], told.shape[1]
    # Rolled and not shuffled, so that they are as smooth in time as the actions are.
    offsets = np.linspace(0, len(index), DRAWS + 2).astype(np.int64)[1:-1]
    elsewhere = [told[np.roll(index, offset)] for offset in offsets]
    fits = BlockRegressions(np.concatenate([change, known, *elsewhere], axis=1), block, ridge=RIDGE)
    ys, hs = range(q), q + np.arange(h)
    found = 0.0
    for before in (hs[:0], hs):
        errors = fits.errors(before, ys).sum(axis=0)
        for k in range(DRAWS):
            less = fits.errors(np.concatenate([before, q + h + k * f + np.arange(f)]), ys).sum(axis=0)
            found = max(found, float((1 - less / np.maximum(errors, 1e-12)).max()))
    return float(np.clip(found, *CHANCE))


def _components(frames: Values) -> Values:
    """Project thumbnails on their first principal components."""
    flat = frames.reshape(len(frames), -1)
    flat = flat - flat.mean(axis=0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    return flat @ vectors[:, ::-1][:, :COMPONENTS]


def _ranks(values: Values) -> Values:
    """Replace every column by its ranks, spread over -1 to 1; equal values share their mean rank."""
    ranks = np.empty_like(values)
    for k in range(values.shape[1]):
        _, place, counts = np.unique(values[:, k], return_inverse=True, return_counts=True)
        ranks[:, k] = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks / (len(values) - 1) * 2.0 - 1.0
