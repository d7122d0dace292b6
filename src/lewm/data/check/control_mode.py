"""What continuous actions command, guessed from what they do: a position, a displacement or a velocity.

States decide where there are some whose entries the actions' entries move. A position draws the state to itself: the
move follows from how far the target is from where the robot is. A displacement or a velocity makes the same move
wherever the robot is; which of the two it is shows in the units, or in the names. Frames show only whether things move
by the actions or by their increments. What is left in doubt is "unknown".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from lewm.data.check.check_frames import look
from lewm.data.entries import MOST, match_entries, unwrap, usable_rows
from lewm.data.lag import FEWEST_ROWS, MOST_ROWS, FrameView, measure_views
from lewm.data.regression import BlockRegressions, make_blocks
from lewm.data.store import Store, set_control_mode

ControlMode = Literal["unknown", "position", "displacement", "velocity"]
GIVEN = "given"  # begins the evidence of a control mode that no guess replaces

MOST_BYTES = 2**27  # of frames that are looked at
FEWEST = 100  # rows from which states are heard
TOLD = 0.3  # share of the move that an entry must tell
HALF = 0.5  # of what is left untold that the robot's place must take away, for a target
MORE = 0.8  # of what actions tell, increments must tell less where actions move things by themselves
SAME = 0.1  # share of the move that the robot's place may tell beside a displacement
FOLLOWS = 0.9  # correlation of a target with where the robot is next, in the same units, that needs no other support
LEVELS = 0.5  # correlation of a target with where the robot is
UNITS = 0.25  # relative error of a unit that is still that unit
WINDOW = 8  # rows over which moves are summed, so that a robot that answers late has arrived
WORDS: dict[ControlMode, tuple[str, ...]] = {
    "velocity": ("vel", "speed", "twist"),
    "displacement": ("delta", "displacement", "relative"),
}


@dataclass(frozen=True, slots=True)
class Guess:
    """What actions seem to command.

    Args:
        mode: the control mode; "unknown" where that is in doubt.
        evidence: in a few words, what it was guessed from, or why not.
        moves: whether an action makes the same move wherever the robot is, be it a displacement or a velocity.
    """

    mode: ControlMode
    evidence: str
    moves: bool = False


def guess_control_mode(store: Store) -> tuple[ControlMode, str]:
    """Guess what the continuous actions of a store command, from its states or else from its frames.

    Returns:
        The control mode, and in a few words what it was guessed from; "unknown" and why where that is in doubt.
    """
    found = guess(store)
    return found.mode, found.evidence


def guess(store: Store, seen: Sequence[FrameView] | None = None) -> Guess:
    """Guess what actions command, and say more than `guess_control_mode` does.

    Args:
        store: the data.
        seen: what `measure_views` says of its frames, if it was asked before.
    """
    if store.meta.action_kind != "continuous":
        return Guess("unknown", "")
    if store.states is not None:
        found = _by_states(store)
        if found.evidence:
            return found
    if seen is None and len(usable_rows(store.episodes.length.tolist()).index) < FEWEST_ROWS:
        seen = []  # there is no need to look at the frames
    if seen is None:
        views = [view for view in look(store, whole=False, most_bytes=MOST_BYTES) if view.thumbs is not None]
        seen = measure_views([view.pictures for view in views], [view.actions(store) for view in views])
    return _by_frames(store, seen)


def write_guess(path: Path) -> None:
    """Guess what the actions of a store command and write it into the store, unless it was given.

    Args:
        path: folder of a store that has an episode at least.
    """
    store = Store(path)
    if store.meta.action_kind == "continuous" and not store.meta.control_evidence.startswith(GIVEN):
        set_control_mode(path, *guess_control_mode(store))


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one entry of the action commands: kind "" where it is in doubt, `told` the share of the move it tells."""

    kind: Literal["", "position", "moves"]
    told: float
    unit: float = 0.0


def _by_states(store: Store) -> Guess:
    """Guess from the states; no evidence where no entry of theirs follows the actions."""
    assert store.states is not None
    slices = [store.episode(e) for e in range(store.num_episodes)]
    lags = MOST if sum(max(s.stop - s.start - 12, 0) for s in slices) >= FEWEST else 0
    rows = usable_rows([s.stop - s.start for s in slices], lags)
    if len(rows.index) < FEWEST or len(rows.lengths) < 2:
        return Guess("unknown", "")
    actions, states = unwrap([store.actions[s] for s in slices]), unwrap([store.states[s] for s in slices])
    index, block = rows.index, make_blocks(rows.lengths)
    if len(index) > MOST_ROWS:
        kept = np.sort(np.random.default_rng(1).choice(len(index), MOST_ROWS, replace=False))
        index, block = index[kept], block[kept]
    ends = np.repeat([s.stop for s in slices], [s.stop - s.start for s in slices])
    pairs = match_entries(actions.values, states.values, index, lags)
    judged = [(actions.near(i, states, j), states.values[:, j]) for i, j in pairs]
    entries = [_judge(action, state, index, block, ends, lags) for action, state in judged]
    told = [entry for entry in entries if entry.told >= TOLD]
    if not told:
        return Guess("unknown", "")
    kinds = {kind: [entry for entry in told if entry.kind == kind] for kind in ("position", "moves")}
    kind = max(kinds, key=lambda name: len(kinds[name]))
    chosen = kinds[kind]
    if 2 * len(chosen) <= len(told):
        return Guess("unknown", "not guessed: by the states, the entries of the actions command different things")
    share = float(np.median([entry.told for entry in chosen]))
    of = f"{len(chosen)} of {store.meta.action_size} entries"
    if kind == "position":
        return Guess("position", f"guessed: by the states, an action is where {of} go; it tells {share:.2f} of that")
    unit = float(np.median([entry.unit for entry in chosen]))
    said = f"an action moves {of}, wherever they are; it tells {share:.2f} of the moves, {unit:.3g} for each 1 of it"
    mode = _moves_mode(store, unit)
    if mode == "unknown":
        return Guess(mode, f"not guessed: by the states, {said}, which may be a displacement or a velocity", True)
    return Guess(mode, f"guessed: by the states, {said}", True)


def _judge(
    action: npt.NDArray[np.float64],
    state: npt.NDArray[np.float64],
    index: npt.NDArray[np.int64],
    block: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    lags: int,
) -> _Entry:
    """Say what one entry of the action commands of the entry of the state that it moves."""
    if _stays_at(action[index], state[index + 1]):
        return _Entry("position", float(np.corrcoef(action[index], state[index + 1])[0, 1] ** 2))
    place, move, last = state[index], state[index + 1] - state[index], state[index] - state[index - 1]
    rows = [action[index + k] for k in range(-lags, lags + 1)]
    fits = BlockRegressions(np.stack([move, last, place, *rows], axis=1), block, ridge=1e-8)
    base = fits.errors([], [0]).sum()

    def best(*seen: int) -> tuple[float, int]:
        errors = [fits.errors([*seen, 3 + k], [0]).sum() for k in range(len(rows))]
        return float(1 - min(errors) / max(base, 1e-12)), int(np.argmin(errors))

    (moved, lag), (drawn, target_lag) = best(1), best(1, 2)
    alone, placed = (float(1 - fits.errors(seen, [0]).sum() / max(base, 1e-12)) for seen in ([1], [1, 2]))
    if max(moved - alone, drawn - placed) < TOLD * (1 - alone) or max(moved, drawn) < TOLD:
        return _Entry("", 0.0)
    column = rows[target_lag]
    design = np.stack([column, place, last, np.ones(len(move))], axis=1)
    (pull, hold, *_), *_ = np.linalg.lstsq(design, move, rcond=None)
    levels = float(np.corrcoef(column, state[index + 1])[0, 1]) if column.std() > 0 else 0.0
    ratio = pull / -hold * column.std() / max(state.std(), 1e-12) if hold else 0.0
    if 1 - drawn < HALF * (1 - moved) and drawn - moved > SAME / 2:
        fits_target = pull > 0 > hold and levels > LEVELS and 0.5 < ratio < 2
        return _Entry("position" if fits_target else "", drawn)
    if drawn - moved > SAME:
        return _Entry("", drawn)
    return _Entry("moves", moved, _unit(action, state, index + (lag - lags), index, ends))


def _stays_at(action: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> bool:
    """Tell whether a state is, after the action, where the action says, in the action's own units."""
    spread = action.std()
    if spread == 0 or after.std() == 0:
        return False
    like = float(np.corrcoef(action, after)[0, 1])
    same = abs(after.std() / spread - 1) < UNITS and abs(action.mean() - after.mean()) < UNITS * spread
    return like > FOLLOWS and bool(same)


def _unit(
    action: npt.NDArray[np.float64],
    state: npt.NDArray[np.float64],
    told: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> float:
    """Return by how much the state moves for each 1 of the action, summed over some rows."""
    fit = np.maximum(told, index) + WINDOW < ends[index]
    window = WINDOW if fit.any() else 1
    told, index = (told[fit], index[fit]) if fit.any() else (told, index)
    sums = np.concatenate([[0.0], np.cumsum(action)])
    asked, moved = sums[told + window] - sums[told], state[index + window] - state[index]
    asked, moved = asked - asked.mean(), moved - moved.mean()
    return float(abs(asked @ moved) / max(asked @ asked, 1e-12))


def _moves_mode(store: Store, unit: float) -> ControlMode:
    """Tell displacements from velocities by the unit of the move, or by the actions' names."""
    named = _named(store)
    if named != "unknown":
        return named
    fps = store.meta.fps
    displacement, velocity = abs(unit - 1) < UNITS, fps is not None and abs(unit * fps - 1) < UNITS
    if displacement == velocity:
        return "unknown"
    return "displacement" if displacement else "velocity"


def _named(store: Store) -> ControlMode:
    """Return what most names of the actions' entries say they are."""
    names = [name.lower() for name in store.meta.action_names]
    for mode, words in WORDS.items():
        if names and 2 * sum(any(word in name for word in words) for name in names) > len(names):
            return mode
    return "unknown"


def _by_frames(store: Store, seen: Sequence[FrameView]) -> Guess:
    """Guess from what frames move by: the actions, or their increments."""
    if len(seen) < 2:
        return Guess("unknown", f"not guessed: fewer than {FEWEST_ROWS} rows in which frames and actions change")
    plain, steps = (float(view.witness.r2_alone.max()) for view in seen)
    plain, steps = max(plain, 0.0), max(steps, 0.0)
    said = f"by the frames, increments of the actions tell {steps:.2f} of what moves, actions {plain:.2f}"
    if steps > TOLD and plain < HALF * steps:
        return Guess("position", f"guessed: {said}")
    moves, named = plain > TOLD and steps < MORE * plain, _named(store)
    if moves and named != "unknown":
        return Guess(named, f"guessed: {said}, and by the actions' names", True)
    return Guess("unknown", f"not guessed: {said}", moves)
