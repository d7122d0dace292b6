"""Whether measured numbers tell what is said of them: two rates apart, or a ratio from a bound."""

from collections.abc import Mapping
from math import ceil, floor, log10, sqrt
from typing import Any, Literal

from lewm.evaluate.closed_loop import wilson_interval

WORTHWHILE = 0.1
"""Difference of two success rates below which one policy counts as no better than another."""
FEWEST_EPISODES = 4
"""Held-out episodes below which a probe's R^2 tells little: frames of one episode are alike."""
_MOST = 100_000  # more episodes are no advice

Told = Literal["better", "worse", "no better"]


def told_apart(
    rate: float, interval: tuple[float, float], other: float, other_interval: tuple[float, float]
) -> Told | None:
    """Say what the 95% intervals of two success rates tell of the first beside the other.

    Returns:
        better or worse where the intervals lie apart, "no better" where at most `WORTHWHILE` more is possible, and None
        where there are too few episodes to tell.
    """
    if interval[0] > other_interval[1]:
        return "better"
    if interval[1] < other_interval[0]:
        return "worse"
    most = rate - other + sqrt((interval[1] - rate) ** 2 + (other - other_interval[0]) ** 2)  # as `newcombe_interval`
    return "no better" if most < WORTHWHILE else None


def policies_told_apart(planning: Mapping[str, Any]) -> Told | None:
    """Say what the success of a controller tells beside a random policy's; see `told_apart`."""
    return told_apart(*(planning[key] for key in ("success_rate", "ci95", "random_success_rate", "random_ci95")))


def episodes_to_tell(rate: float, other: float, count: int) -> int | None:
    """Return about how many episodes would tell two rates apart, were they as measured on `count`; None if too many."""
    while count < _MOST:
        count = _rounded_up(ceil(1.1 * count))
        ours, others = round(rate * count), round(other * count)
        intervals = wilson_interval(ours, count), wilson_interval(others, count)
        if told_apart(ours / count, intervals[0], others / count, intervals[1]) is not None:
            return count
    return None


def episodes_to_tell_ratio(ratio: float, interval: tuple[float, float], bound: float, count: int) -> int | None:
    """Return about how many held-out episodes would tell on which side of a bound a ratio lies."""
    if ratio == bound:
        return None
    needed = ceil(count * (max(ratio - interval[0], interval[1] - ratio) / (ratio - bound)) ** 2)
    return _rounded_up(max(needed, count + 1)) if needed < _MOST else None


def _rounded_up(count: int) -> int:
    """Round a count up to two digits."""
    unit = 10 ** max(floor(log10(count)) - 1, 0)
    return ceil(count / unit) * unit
