"""What the rows of the actions tell of the moves that frames or states show, and whether that is clear enough to speak.

Row t of the actions leads from frame t to frame t + 1. A *witness* is a set of regressions of that move, each judged on
episodes that it was not fitted on:

    alone     on the action of row t + k, for lags k of -5 to 5.
    beside    on the action of row t + k, beside what is known at frame t: where things are, and how they moved last.
    jointly   on all rows up to 0, all later ones, or all, beside what is known.

Three things look like a lag and are none. Smooth actions make neighbouring rows nearly equal: a lag must be better than
every other one in a test over the episodes. A controller that looks at the robot tells, in later rows, where the robot
went: the row that is said to be the cause must tell much more than all rows up to 0 together, which must add next to
nothing to the later ones. Rows up to 0 also tell much if the way is so smooth that they foretell the later ones; then
increments must show by themselves at which row they fit. A robot that answers over several rows, or some rows late, is
told apart from early actions by the rows in between, which must add nothing, and by time: a delay that robots have is
never called a lag.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lewm.data.entries import MOST
from lewm.data.regression import BlockRegressions, t_at_least, t_of_pairs

LAGS = np.arange(-MOST, MOST + 1)
LAST = 2 * MOST  # place of the latest row in the lags
CLEAR = 3.3  # how rare, in standard deviations, a difference must be by chance: 1 in 2,000
PROBABLE, LIKELY = 2.0, 1.3  # the same for further conditions: 1 in 40, and 1 in 10
LITTLE = 0.15  # what rows up to 0 may tell, as a share of what the later row does
SMOOTH = 0.8  # R² by which earlier actions foretell one
MUCH = 0.3  # R² of a row by itself that needs no other support
LEAST = 0.05  # share of what is not known before that the row must tell beyond what row 0, and rows up to it, do
FEWEST_BLOCKS = 4  # of episodes
SPARE = 0.25  # what rows on the wrong side may add, as a share of what the row's side adds
TELLING = 0.5  # share of what the best measure tells, from which a measure takes part


@dataclass(frozen=True, slots=True)
class Witness:
    """Errors of the regressions, summed over the measures that tell most; one entry for each of B blocks of episodes.

    Args:
        count: (B,) rows of each block.
        mean: (B,) errors of the mean move.
        known: (B,) of what is known at frame t.
        alone: (11, B) of each row by itself.
        beside: (11, B) of each row beside what is known.
        span: returns those (B,) of all rows from one to another together, by their places in the lags.
        foretold: returns the R² of a later row's actions by those of rows up to 0, by its place.
    """

    count: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    known: npt.NDArray[np.float64]
    alone: npt.NDArray[np.float64]
    beside: npt.NDArray[np.float64]
    span: Callable[[int, int], npt.NDArray[np.float64]]
    foretold: Callable[[int], float]

    @property
    def r2_alone(self) -> npt.NDArray[np.float64]:
        """(11,) R² of the action by itself."""
        return 1 - self.alone.sum(axis=1) / max(self.mean.sum(), 1e-12)

    @property
    def r2_beside(self) -> npt.NDArray[np.float64]:
        """(11,) R² that the action adds to what is known."""
        return 1 - self.beside.sum(axis=1) / max(self.known.sum(), 1e-12)

    def gain(self, errors: npt.NDArray[np.float64]) -> float:
        """Return the share of what is not known that a regression tells."""
        return float(1 - errors.sum() / max(self.known.sum(), 1e-12))

    def lag(self, *, earliest: int, latest_doubted: int = 0, increments: bool = False) -> int:
        """Return the rows by which the actions come late, negative where early; 0 unless that is beyond doubt.

        Args:
            earliest: rows by which the robot may answer late, so that actions only seem early.
            latest_doubted: rows by which actions only seem late if they follow from where the robot is.
            increments: whether the regressions see how actions change, which fits moves at one row alone.
        """
        if len(self.count) < FEWEST_BLOCKS:
            return 0
        beside, alone = (int(errors.sum(axis=1).argmin()) for errors in (self.beside, self.alone))
        if MOST + latest_doubted < beside and self._leads(beside) and self._beats_past(beside):
            return beside - MOST
        if increments and MOST + max(latest_doubted, 1) < alone and self._peaks(alone) and self._later_beat_past(alone):
            return alone - MOST
        if beside < MOST - earliest and self._leads(beside) and self._between_add_nothing(beside):
            return beside - MOST
        return 0

    def contradicts(self, lag: int) -> bool:
        """Tell whether row 0 is clearly better than the row at a lag."""
        return self._better(self.beside[MOST], self.beside[MOST + lag])

    def _better(self, errors: npt.NDArray[np.float64], than: npt.NDArray[np.float64], z: float = CLEAR) -> bool:
        """Tell whether a regression's errors are smaller, by more than chance makes over the blocks."""
        return t_of_pairs(than, errors, self.count) > t_at_least(len(self.count), z)

    def _leads(self, at: int) -> bool:
        """Tell whether a row is clearly better than every other, and by enough than row 0, beside what is known."""
        if self.r2_beside[at] - max(self.r2_beside[MOST], 0.0) < LEAST:
            return False
        return all(self._better(self.beside[at], self.beside[k]) for k in range(len(LAGS)) if k != at)

    def _peaks(self, at: int) -> bool:
        """Tell whether a row tells much by itself, more than the rows on both sides, and clearly more than the others.

        At the end of the range that cannot be seen: what is trending rises up to there.
        """
        r2 = self.r2_alone
        if at == LAST or r2[at] < MUCH or r2[at] - max(r2[MOST], 0.0) < LEAST:
            return False
        far = {k: abs(k - at) > 1 for k in range(len(LAGS)) if k != at}
        return all(self._better(self.alone[at], self.alone[k], CLEAR if far[k] else LIKELY) for k in far)

    def _beats_past(self, at: int) -> bool:
        """Tell whether one later row tells more than all rows up to 0, and is among the best by itself."""
        past, alone = self.span(0, MOST), self.r2_alone
        if at == LAST and alone.argmax() < at - 1:
            return False  # at the end of the range, what is beyond is not seen
        if at == MOST + 1 and alone[at] - max(alone[MOST], 0.0) < MUCH:
            return False  # a controller that looks where the robot is answers one row later
        if alone[at] < alone.max() - LEAST or self.gain(self.beside[at]) - self.gain(past) < LEAST:
            return False
        if self.gain(past) > LITTLE * self.gain(self.beside[at]):
            return False  # they tell much themselves, as a cause does
        return self._better(self.beside[at], past) and self._others_add_nothing(at)

    def _later_beat_past(self, at: int) -> bool:
        """Tell whether later rows together tell more than those up to 0, which tell much as smooth actions foretell."""
        if self.foretold(at) < SMOOTH:
            return False
        return self._better(self.span(MOST + 1, LAST), self.span(0, MOST), PROBABLE) and self._others_add_nothing(at)

    def _others_add_nothing(self, at: int) -> bool:
        """Tell whether rows up to 0 add next to nothing to later ones, and rows after one to those up to it.

        Next to nothing is a share of what later rows add to those up to 0.
        """
        everything, past = self.gain(self.span(0, LAST)), self.gain(self.span(0, MOST))
        without = min(self.gain(self.span(MOST + 1, LAST)), self.gain(self.span(0, at)))
        return everything - without < SPARE * (everything - past)

    def _between_add_nothing(self, at: int) -> bool:
        """Tell whether the rows between an early one and 0 add nothing to those up to the early one."""
        before, present = self.gain(self.span(0, at)), self.gain(self.span(0, MOST))
        return present - before < SPARE * min(LEAST, before)


def make_witness(
    targets: npt.NDArray[np.float64],
    known: npt.NDArray[np.float64],
    rows: Sequence[npt.NDArray[np.float64]],
    block: npt.NDArray[np.int64],
    *,
    ridge: float,
    beside_alone: Sequence[int] = (),
) -> Witness:
    """Fit the regressions of a witness.

    Args:
        targets: (n, q) measures of the moves.
        known: (n, h) what is known at frame t.
        rows: for each of the eleven lags, (n, f) what a regression sees of the action there.
        block: (n,) block of episodes of each row.
        ridge: of the regressions.
        beside_alone: columns of `known` that the action by itself is seen with.
    """
    q, h, f = targets.shape[1], known.shape[1], rows[0].shape[1]
    fits = BlockRegressions(np.concatenate([targets, known, *rows], axis=1), block, ridge=ridge)
    ys, hs, first = range(q), q + np.arange(h), q + h

    def seen(low: int, high: int) -> npt.NDArray[np.int64]:
        return np.arange(first + low * f, first + (high + 1) * f)

    def beside(low: int, high: int) -> npt.NDArray[np.float64]:
        return fits.errors(np.concatenate([hs, seen(low, high)]), ys)

    def foretold(at: int) -> float:
        values = seen(at, at)
        told, guessed = (fits.errors(x, values).sum(axis=0) for x in (seen(0, MOST), []))
        return float(np.median(1 - told / np.maximum(guessed, 1e-12)))

    last, shown = len(rows) - 1, q + np.asarray(beside_alone, dtype=np.int64)
    mean, base, whole = fits.errors([], ys), fits.errors(hs, ys), beside(0, last)
    told = 1 - whole.sum(axis=0) / np.maximum(base.sum(axis=0), 1e-12)
    chosen = told >= TELLING * max(told.max(), 0.0)
    if not chosen.any():
        chosen = told == told.max()
    scale, scale_alone = (np.where(chosen, 1 / np.maximum(e.sum(axis=0), 1e-12), 0.0) for e in (base, mean))
    lags = range(last + 1)
    return Witness(
        count=fits.count,
        mean=mean @ scale_alone,
        known=base @ scale,
        alone=np.stack([fits.errors(np.concatenate([shown, seen(k, k)]), ys) @ scale_alone for k in lags]),
        beside=np.stack([beside(k, k) @ scale for k in lags]),
        span=lambda low, high: beside(low, high) @ scale,
        foretold=foretold,
    )


def joined(parts: Sequence[Witness]) -> Witness:
    """Return one witness of several that saw the same blocks."""
    sums = {
        name: np.sum([getattr(part, name) for part in parts], axis=0) for name in ("mean", "known", "alone", "beside")
    }
    return Witness(
        parts[0].count,
        **sums,
        span=lambda low, high: np.sum([p.span(low, high) for p in parts], axis=0),
        foretold=lambda at: float(np.median([p.foretold(at) for p in parts])),
    )
