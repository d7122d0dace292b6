"""Checks of actions and states: finite, in range, used, varied. They are small, so all rows are read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lewm.data.check.findings import Finding, Span, count_frames, find_spans, first_of
from lewm.data.store import Store

ROWS = 2**16  # read at once
BINS = 40
CONSTANT = 1e-6  # standard deviation up to which training takes an entry of an action for constant
SATURATED = 0.3  # share of values at either end: more than the noise of a policy puts there
BINARY = 0.95  # share at both ends from which an entry is a switch, such as a gripper's
SCALES = 1000.0  # ratio of standard deviations: beyond it, one entry is probably in another unit
MOST_NAMES = 10  # in a message
MOST_KINDS = 2**16  # of discrete actions that are counted, whatever a file says there are


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionNumbers:
    """How actions are distributed, one entry for each of A (discrete: one).

    Args:
        names: of the entries.
        low: (A,) smallest finite value; high: (A,) largest.
        mean: (A,) and std: (A,) of the finite values.
        at_low: (A,) share of the values that equal the smallest; at_high: (A,) the largest.
        counts: (A, 40) histogram from low to high; discrete: (1, number of actions) how often each is taken.
    """

    names: tuple[str, ...]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    at_low: npt.NDArray[np.float64]
    at_high: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


def check_finite(store: Store) -> Iterator[Finding]:
    """Report actions and states that are no finite numbers."""
    arrays: dict[str, npt.NDArray[Any] | None] = {"states": store.states}
    if store.meta.action_kind == "continuous":
        arrays["actions"] = store.actions
    for name, array in arrays.items():
        where = () if array is None else _rows_where(store, array, lambda rows: ~np.isfinite(rows))
        if where:
            message = f"{name} are not finite in {count_frames(where)} frames, {first_of(where)}"
            remedy = "leave these frames out, or write the right values"
            yield Finding("error", f"bad-{name}", where, message, remedy, repairable=True)


def measure_actions(store: Store) -> ActionNumbers:
    """Measure how the actions of a store are distributed."""
    return _measure_discrete(store) if store.meta.action_kind == "discrete" else _measure_continuous(store)


def check_actions(store: Store, numbers: ActionNumbers) -> Iterator[Finding]:
    """Report actions that never vary, are out of range, or are oddly spread."""
    constant = numbers.std <= CONSTANT
    if constant.all():
        message = "all actions are the same, so nothing can be learnt about what they do"
        remedy = "import the right column, or import the frames as images without actions"
        yield Finding("error", "constant-actions", (), message, remedy)
    if store.meta.action_kind == "discrete":
        yield from _check_discrete(store, numbers.counts[0])
    elif not constant.all():
        yield from _check_spread(numbers, constant)


def _check_spread(numbers: ActionNumbers, constant: npt.NDArray[np.bool_]) -> Iterator[Finding]:
    if constant.any():
        message = f"constant in all frames: {_listed(numbers.names, constant)}"
        remedy = "leave these entries of the action out, or record data in which they vary"
        yield Finding("warning", "constant-actions", (), message, remedy)
    ends = numbers.at_low + numbers.at_high
    saturated = ~constant & (ends > SATURATED) & (ends < BINARY)
    if saturated.any():
        message = (
            f"at their smallest or largest value in over {SATURATED:.0%} of the frames: "
            f"{_listed(numbers.names, saturated)}"
        )
        remedy = "see whether the recording clips what the robot gets unclipped"
        yield Finding("note", "saturated-actions", (), message, remedy)
    std = np.where(constant, np.nan, numbers.std)
    small, large = int(np.nanargmin(std)), int(np.nanargmax(std))
    if std[large] > SCALES * std[small]:
        message = (
            f"{numbers.names[large]} varies by {std[large]:.3g} and {numbers.names[small]} by {std[small]:.3g} "
            "(standard deviations)"
        )
        remedy = "see whether one is in another unit, or hardly used; training standardises each"
        yield Finding("note", "action-scales", (), message, remedy)


def _check_discrete(store: Store, counts: npt.NDArray[np.int64]) -> Iterator[Finding]:
    size = store.meta.action_size
    where = _rows_where(store, store.actions, lambda rows: (rows < 0) | (rows >= size))
    if where:
        message = f"actions are outside 0 to {size - 1} in {count_frames(where)} frames, {first_of(where)}"
        remedy = "leave these frames out, or correct the values or action_size"
        yield Finding("error", "bad-actions", where, message, remedy, repairable=True)
    unused = counts == 0
    if unused.any() and (~unused).sum() > 1:
        message = f"never taken: {_listed([f'action {k}' for k in range(len(counts))], unused)}"
        remedy = "record data with them, or number the others 0, 1, 2, ...; a planner would try them blindly"
        yield Finding("warning", "unused-actions", (), message, remedy)


def _measure_discrete(store: Store) -> ActionNumbers:
    size = min(store.meta.action_size, MOST_KINDS)
    counts = np.zeros(size, dtype=np.int64)
    for _, rows in _chunks(store.actions):
        counts += np.bincount(rows[(rows >= 0) & (rows < size)], minlength=size)
    share, values = counts / max(counts.sum(), 1), np.arange(size)
    mean = np.array([share @ values])
    return ActionNumbers(
        names=("action",),
        low=np.zeros(1),
        high=np.array([size - 1.0]),
        mean=mean,
        std=np.sqrt(np.array([share @ (values - mean) ** 2])),
        at_low=share[:1],
        at_high=share[-1:],
        counts=counts[None],
    )


def _measure_continuous(store: Store) -> ActionNumbers:
    size = store.meta.action_size
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    total, known = np.zeros(size), np.zeros(size, dtype=np.int64)
    for _, rows in _chunks(store.actions):
        finite = np.isfinite(rows)
        low = np.minimum(low, np.where(finite, rows, np.inf).min(axis=0))
        high = np.maximum(high, np.where(finite, rows, -np.inf).max(axis=0))
        total += np.where(finite, rows, 0.0).sum(axis=0, dtype=np.float64)
        known += finite.sum(axis=0)
    low, high, known = np.where(known > 0, low, 0.0), np.where(known > 0, high, 0.0), np.maximum(known, 1)
    mean, extent = total / known, np.maximum(high - low, np.finfo(np.float64).tiny)
    squares, ends = np.zeros(size), np.zeros((2, size), dtype=np.int64)
    counts = np.zeros((size, BINS), dtype=np.int64)
    for _, rows in _chunks(store.actions):
        finite = np.isfinite(rows)
        squares += (np.where(finite, rows - mean, 0.0) ** 2).sum(axis=0)
        ends += np.stack([(rows == low).sum(axis=0), (rows == high).sum(axis=0)])
        for k in range(size):
            place = (rows[finite[:, k], k] - low[k]) / extent[k] * BINS
            counts[k] += np.bincount(np.minimum(place.astype(np.int64), BINS - 1), minlength=BINS)
    return ActionNumbers(
        names=store.meta.action_names or tuple(f"action {k}" for k in range(size)),
        low=low,
        high=high,
        mean=mean,
        std=np.sqrt(squares / known),
        at_low=ends[0] / known,
        at_high=ends[1] / known,
        counts=counts,
    )


def _chunks(array: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for start in range(0, len(array), ROWS):
        yield start, np.asarray(array[start : start + ROWS])


def _rows_where(
    store: Store, array: npt.NDArray[Any], bad: Callable[[npt.NDArray[Any]], npt.NDArray[np.bool_]]
) -> tuple[Span, ...]:
    """Return the frames of which some entry of an array is bad."""
    found = [start + np.flatnonzero(bad(rows).reshape(len(rows), -1).any(axis=1)) for start, rows in _chunks(array)]
    return find_spans(store, np.concatenate(found))


def _listed(names: Sequence[str], which: npt.NDArray[np.bool_]) -> str:
    chosen = [name for name, yes in zip(names, which, strict=True) if yes]
    more = len(chosen) - MOST_NAMES
    return ", ".join(chosen[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
