"""Which entry of the state each entry of an action moves: the states' order and units may be others than the actions'.

A pair of entries is judged by the moves of the state: how they go with the action, or with the action's increments, at
the best of eleven lags, so that neither a lag nor the kind of the action decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST = 5  # rows by which actions are tried earlier and later
MATCHED = 0.3  # correlation from which an entry of the state is taken for what an action's entry moves
SPEED = 0.95  # correlation with another entry's moves from which an entry of the state is its speed
TURNS = (2 * np.pi, 360.0)  # full turns of angles, which wrap
STILL = 1e-9


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of several stretches that have an action at every lag.

    Args:
        index: (n,) numbers of the rows in the concatenated stretches.
        lengths: rows of each stretch that has any.
    """

    index: npt.NDArray[np.int64]
    lengths: tuple[int, ...]


def usable_rows(lengths: Sequence[int], lags: int = MOST) -> Rows:
    """Return the rows of stretches of some lengths that have all lags, and a row before, within the stretch."""
    starts, first = np.cumsum([0, *lengths]), lags + 1
    parts = [np.arange(start + first, start + n - 1 - lags) for start, n in zip(starts, lengths, strict=False)]
    kept = [part for part in parts if len(part)]
    index = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
    return Rows(index, tuple(map(len, kept)))


def finite(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return values as numbers that can be calculated with; what is no number becomes 0."""
    return np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True, slots=True)
class Series:
    """Values of all stretches, one after the other, in which angles go on where they wrapped.

    Args:
        values: (T, D).
        turns: (D,) the full turn of an angle that wrapped, 0 of other values.
        stretch: (T,) number of the stretch that each row is in.
    """

    values: npt.NDArray[np.float64]
    turns: npt.NDArray[np.float64]
    stretch: npt.NDArray[np.int64]

    def near(self, entry: int, other: "Series", other_entry: int) -> npt.NDArray[np.float64]:
        """Return an entry (T,), in each stretch by as many full turns away as brings it near another series' entry."""
        values, turn = self.values[:, entry], self.turns[entry]
        if not turn or turn != other.turns[other_entry]:
            return values
        count = np.bincount(self.stretch)
        away = np.bincount(self.stretch, values - other.values[:, other_entry]) / np.maximum(count, 1)
        return values - turn * np.round(away / turn)[self.stretch]


def unwrap(stretches: Sequence[npt.NDArray[Any]]) -> Series:
    """Put stretches (n, D) together, and let angles go on where they wrapped from one end of the turn to the other."""
    parts = [finite(part) for part in stretches]
    stretch = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    every = np.concatenate(parts)
    low, high = every.min(axis=0), every.max(axis=0)
    turns = np.zeros(every.shape[1])
    for turn in TURNS:
        full = (high - low > 0.9 * turn) & (high - low < 1.05 * turn)
        for k in np.flatnonzero(full):
            if any((np.abs(np.diff(part[:, k])) > 0.8 * turn).any() for part in parts):
                turns[k] = turn
                every[:, k] = np.concatenate([np.unwrap(part[:, k], period=turn) for part in parts])
    return Series(every, turns, stretch)


def match_entries(
    actions: npt.NDArray[np.float64],
    states: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    lags: int = MOST,
) -> list[tuple[int, int]]:
    """Pair entries of the action with the entries of the state that they move.

    Args:
        actions: (T, A) of all stretches.
        states: (T, S).
        rows: (n,) the rows to look at.
        lags: rows by which actions are tried earlier and later.

    Returns:
        Pairs of an entry of the action and one of the state, at most one for each entry of the action.
    """
    moves = states[rows + 1] - states[rows]
    usable = (moves.std(axis=0) > STILL) & ~_speeds(states, rows)
    if not usable.any() or len(rows) < 3:
        return []
    best = np.zeros((actions.shape[1], states.shape[1]))
    target = _standard(moves)
    for lag in range(-lags, lags + 1):
        now, before = actions[rows + lag], actions[rows + lag - 1]
        for told in (now, now - before):
            best = np.maximum(best, np.abs(_standard(told).T @ target) / len(rows))
    best[:, ~usable] = 0.0
    chosen = best.argmax(axis=1)
    return [(i, int(j)) for i, j in enumerate(chosen) if best[i, j] > MATCHED]


def _speeds(states: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which entries of the state are the speed of another one, or a copy of what moved it last."""
    target = _standard(states[rows + 1] - states[rows])
    like = np.zeros((states.shape[1], states.shape[1]))
    for told in (states[rows], states[rows + 1], states[rows] + states[rows + 1]):
        like = np.maximum(like, np.abs(_standard(told).T @ target) / max(len(rows), 1))
    np.fill_diagonal(like, 0.0)
    mutual = like.T > SPEED  # on a circle, each coordinate is as good as the other's speed
    return np.asarray(((like > SPEED) & ~mutual).any(axis=1))


def _standard(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    std = values.std(axis=0)
    return np.where(std > STILL, (values - values.mean(axis=0)) / np.where(std > STILL, std, 1.0), 0.0)
