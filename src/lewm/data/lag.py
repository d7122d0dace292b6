"""Whether actions fit the frames in time: how well the actions of earlier and later rows predict what changes.

Row t of the actions leads from frame t to frame t + 1. For every lag k, a ridge regression predicts the change from
frame t to t + 1 by the action in row t + k, is fitted on half of the episodes, and is judged on the other half. Two
regressions are needed, because each misleads about some robots:

    alone     by the action only. A heavy robot, or one that is told where to be, moves by what it was told some rows
              before, so that the best lag is below 0 though nothing is wrong.
    beside    by the action, the frame and the last change, against the frame and the last change: what the action
              adds. Here the right row is best for those robots. A policy that follows from the frame alone misleads
              it, since the next action then tells what the next frame is.

So actions are taken for late only if a later row is clearly better by both, and for early if an earlier one is beside
the frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm.data.thumbnails import centroids, motion

MOST = 5
LAGS = np.arange(-MOST, MOST + 1)
FEWEST_ROWS = 400  # with fewer, a regression on noise reaches what weak actions reach
MOST_ROWS = 20_000  # more change the curve by less than its width
# R² of actions from elsewhere in the data. What is measured is kept within bounds: a few draws can all be low by luck,
# and where every episode takes the same course, actions from elsewhere do tell what changes.
CHANCE = (0.05, 0.2)
DRAWS = 10
MOST_ACTIONS = 64  # different discrete actions told apart, the most frequent ones
COMPONENTS = 8  # of a frame
RIDGE = 1e-2


@dataclass(frozen=True, slots=True)
class LagCurve:
    """How well actions predict what changes, over lags of -5 to 5 rows.

    Args:
        alone: (11,) R² of the action by itself, the best of five measures of change.
        beside: (11,) R² that it adds to the frame and the last change, the best of five.
        chance: R² that actions from elsewhere in the data reach.
    """

    alone: npt.NDArray[np.float64]
    beside: npt.NDArray[np.float64]
    chance: float

    @property
    def related(self) -> bool:
        """Whether the action of some row tells what changes, better than chance."""
        best = max(self.alone.max(), self.beside.max())
        return bool(best > 2 * self.chance or self._fits(self.alone) or self._fits(self.beside))

    @property
    def lag(self) -> int:
        """Rows by which the actions seem to come late, negative where they come early; 0 unless that is clear."""
        if not self.related or self._fits(self.beside):
            return 0
        # Where several lags are as good by the second regression, the first decides between them.
        telling = self._telling
        lag = int(LAGS[np.argmax(np.where(telling > telling.max() - self.chance, self.alone, -np.inf))])
        # The second is misled towards later rows only.
        early = lag < 0 and telling is self.beside
        return 0 if self._fits(self.alone) and not early else lag

    @property
    def r2(self) -> tuple[float, float]:
        """R² at the estimated lag, and at lag 0, of the regression that tells."""
        return float(self._telling[MOST + self.lag]), float(self._telling[MOST])

    def _fits(self, r2: npt.NDArray[np.float64]) -> bool:
        """Tell whether lag 0 is as good as any other, but for what chance does."""
        return bool(r2[MOST] > self.chance and r2[MOST] > r2.max() - self.chance)

    @property
    def _telling(self) -> npt.NDArray[np.float64]:
        return self.beside if self.beside.max() > 2 * self.chance else self.alone


def measure_lag(thumbs: Sequence[npt.NDArray[np.float32]], actions: Sequence[npt.NDArray[Any]]) -> LagCurve | None:
    """Measure how well actions predict changes over the lag between them.

    Args:
        thumbs: of each stretch of an episode, its thumbnails (n, G, G).
        actions: of each stretch, its actions (n, A), or (n,) for discrete ones.

    Returns:
        The curve, or None where there is too little to tell: fewer than 400 rows, or less than two stretches that are
        long enough, or frames or actions that never change.
    """
    # The same rows for all lags; the first and last have no action at some lag, and the first no last change.
    rows = [np.arange(MOST, len(stretch) - 1 - MOST) for stretch in thumbs]
    used = [i for i, inner in enumerate(rows) if len(inner)]
    if len(used) < 2 or sum(len(rows[i]) for i in used) < FEWEST_ROWS:
        return None
    sides, order = np.zeros(len(thumbs), dtype=bool), np.random.default_rng(0).permutation(used)
    sides[order[::2]] = True
    moved = [motion(thumbs[i].astype(np.float64)) for i in used]
    change = np.concatenate([m[rows[i]] for i, m in zip(used, moved, strict=True)])
    before = np.concatenate([m[rows[i] - 1] for i, m in zip(used, moved, strict=True)])
    frames = np.concatenate([thumbs[i][rows[i]] for i in used]).astype(np.float64)
    features, starts = _action_features(actions), np.cumsum([0, *map(len, actions)])
    index = np.concatenate([starts[i] + rows[i] for i in used])
    train = np.concatenate([np.full(len(rows[i]), sides[i]) for i in used])
    if len(index) > MOST_ROWS:
        kept = np.sort(np.random.default_rng(1).choice(len(index), MOST_ROWS, replace=False))
        change, before, frames, index, train = change[kept], before[kept], frames[kept], index[kept], train[kept]
    change = change[:, (np.ptp(change[train], axis=0) > 0) & (np.ptp(change[~train], axis=0) > 0)]
    if change.shape[1] == 0 or features.shape[1] == 0:
        return None
    # Ranks, because changes have heavy tails, and a few large ones would decide.
    target = _ranks(change)
    known = _ranks(np.concatenate([_components(frames), centroids(frames), before], axis=1))
    by_mean, by_known = _errors(np.empty((len(target), 0)), target, train), _errors(known, target, train)

    def r2(rows: npt.NDArray[np.int64]) -> tuple[float, float]:
        alone = 1 - _errors(features[rows], target, train) / by_mean
        beside = 1 - _errors(np.concatenate([known, features[rows]], axis=1), target, train) / by_known
        return alone.max(), beside.max()

    alone, beside = np.array([r2(index + lag) for lag in LAGS]).T
    # Rolled and not shuffled, so that they are as smooth in time as the actions are.
    elsewhere = [np.roll(index, offset) for offset in np.linspace(0, len(index), DRAWS + 2).astype(np.int64)[1:-1]]
    chance = float(np.clip(np.max([r2(rows) for rows in elsewhere]), *CHANCE))
    return LagCurve(alone, beside, chance)


def _action_features(actions: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Return what a regression sees of all actions (rows, F): values and their squares, or which one it is."""
    values = np.concatenate(actions)
    if values.ndim == 1:
        kinds, counts = np.unique(values, return_counts=True)
        frequent = kinds[np.argsort(-counts, kind="stable")[:MOST_ACTIONS]]
        return (values[:, None] == frequent).astype(np.float64) if len(kinds) > 1 else np.empty((len(values), 0))
    values = np.where(np.isfinite(values), values, 0.0).astype(np.float64)
    std = values.std(axis=0)
    varying = std > 1e-6
    standard = np.clip((values - values.mean(axis=0))[:, varying] / std[varying], -5.0, 5.0)
    return np.concatenate([standard, standard**2], axis=1)


def _components(frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Project thumbnails on their first principal components."""
    flat = frames.reshape(len(frames), -1)
    flat = flat - flat.mean(axis=0)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    return flat @ vectors[:, ::-1][:, :COMPONENTS]


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Replace every column by its ranks, spread over -1 to 1; equal values share their mean rank."""
    ranks = np.empty_like(values)
    for k in range(values.shape[1]):
        _, place, counts = np.unique(values[:, k], return_inverse=True, return_counts=True)
        ranks[:, k] = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks / (len(values) - 1) * 2.0 - 1.0


def _errors(
    inputs: npt.NDArray[np.float64], target: npt.NDArray[np.float64], train: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Fit a ridge regression on the rows of `train` and return the mean squared error on the others, per target."""
    mean, std = inputs[train].mean(axis=0), inputs[train].std(axis=0)
    inputs = (inputs - mean) / np.where(std > 1e-9, std, 1.0)
    centre = target[train].mean(axis=0)
    gram = inputs[train].T @ inputs[train]
    gram[np.diag_indices_from(gram)] += RIDGE * train.sum()
    weights = np.linalg.solve(gram, inputs[train].T @ (target[train] - centre))
    return ((target[~train] - centre - inputs[~train] @ weights) ** 2).mean(axis=0)
