"""Many ridge regressions on parts of the same columns, each judged on episodes that it was not fitted on.

The products of all columns are summed once for each block of episodes. Any regression's fit, and its squared error on
a block that was left out, then follow from those sums, without another look at the rows.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST_BLOCKS = 24  # whose errors are kept apart: enough for a test of pairs
FOLDS = 4
RIDGE = 1e-6  # columns are standardised; more would hide a target's small lead over where the robot is

Columns = Sequence[int] | npt.NDArray[np.int64]


class BlockRegressions:
    """Fit regressions on some columns of a table, and return their errors on each block of its rows.

    Args:
        columns: (rows, D) finite values.
        block: (rows,) number of the block that each row is in, from 0 on without gaps; at least two blocks.
        ridge: penalty, as a share of the rows.
    """

    def __init__(self, columns: npt.NDArray[np.float64], block: npt.NDArray[np.int64], *, ridge: float = RIDGE) -> None:
        std = columns.std(axis=0)
        columns = (columns - columns.mean(axis=0)) / np.where(std > 1e-9, std, 1.0)
        columns = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)  # column 0 is the constant
        self.count: npt.NDArray[np.int64] = np.bincount(block)
        self._products = np.stack([columns[block == b].T @ columns[block == b] for b in range(len(self.count))])
        self._fold = np.arange(len(self.count)) % FOLDS
        whole = self._products.sum(axis=0)
        folds = range(min(FOLDS, len(self.count)))
        self._fits = np.stack([whole - self._products[self._fold == fold].sum(axis=0) for fold in folds])
        self._ridge = ridge

    def errors(self, inputs: Columns, targets: Columns) -> npt.NDArray[np.float64]:
        """Return sums of squared errors (blocks, targets) of a regression on a constant and some columns.

        Args:
            inputs: the columns that it sees.
            targets: the columns that it is to tell.
        """
        x = np.concatenate([[0], np.asarray(inputs, dtype=np.int64) + 1])
        y = np.asarray(targets, dtype=np.int64) + 1
        gram = self._fits[:, x[:, None], x]
        inner = np.arange(1, len(x))
        gram[:, inner, inner] += self._ridge * self._fits[:, :1, 0] + 1e-12
        weights = np.linalg.solve(gram, self._fits[:, x[:, None], y])[self._fold]  # (blocks, inputs, targets)
        cross = (self._products[:, x[:, None], y] * weights).sum(axis=1)
        square = (weights * (self._products[:, x[:, None], x] @ weights)).sum(axis=1)
        return np.maximum(self._products[:, y, y] - 2 * cross + square, 0.0)


def make_blocks(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the block of each row of stretches of some lengths: whole stretches, in at most 24 blocks.

    Stretches are dealt out in a drawn order, so that no block holds the data's beginning or end alone.
    """
    order = np.random.default_rng(0).permutation(len(lengths))
    block = np.empty(len(lengths), dtype=np.int64)
    block[order] = np.arange(len(lengths)) % min(MOST_BLOCKS, max(len(lengths), 1))
    return np.repeat(block, lengths)


def t_of_pairs(worse: npt.NDArray[np.float64], better: npt.NDArray[np.float64], count: npt.NDArray[np.int64]) -> float:
    """Return Student's t of the differences between two regressions' errors on the same blocks.

    Args:
        worse: (blocks,) sums of errors of the regression that is expected to be worse.
        better: (blocks,) those of the other.
        count: (blocks,) rows of each block.
    """
    if len(count) < 2:
        return 0.0
    # Blocks count by their rows: a short one is noisy.
    mean = (worse - better).sum() / count.sum()
    around = worse - better - mean * count
    spread = np.sqrt((around**2).sum() * len(count) / (len(count) - 1)) / count.sum()
    return float(mean / max(spread, 1e-12))


def t_at_least(blocks: int, z: float) -> float:
    """Return the value of Student's t that is as rare, over some blocks, as `z` is of the normal distribution.

    Cornish and Fisher's expansion, which is exact to some per cent from four degrees of freedom on.
    """
    free = max(blocks - 1, 1)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / free + second / free**2 + third / free**3
