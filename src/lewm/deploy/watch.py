"""When a controller stops trusting itself: what is measured in every look, and what happened; no torch."""

import logging
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LOG = logging.getLogger("lewm.deploy")
MOST_EVENTS = 1000
LATENCIES = 1000

EventKind = Literal[
    "stalled", "late", "failed", "not finite", "surprise", "cost", "frozen camera", "forbidden", "fallback failed"
]
"""Why a look was not trusted. `late` alone is no reason for the fallback: fewer iterations were done than wanted."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a look.

    Args:
        look: Number of the look since the controller was loaded, from 1.
        kind: What.
        detail: In words, with numbers.
    """

    look: int
    kind: EventKind
    detail: str


class Events:
    """The newest events, and how many there were of each kind."""

    def __init__(self) -> None:
        self.newest: deque[Event] = deque(maxlen=MOST_EVENTS)
        self.counts: Counter[EventKind] = Counter()

    def add(self, look: int, kind: EventKind, detail: str) -> None:
        """Count, keep and log an event."""
        event = Event(look, kind, detail)
        self.newest.append(event)
        self.counts[kind] += 1
        LOG.warning("look %d: %s: %s", look, kind, detail)


class Latency:
    """Seconds of the newest looks, in a ring that never grows."""

    def __init__(self, size: int = LATENCIES) -> None:
        self._ring, self._count = np.zeros(size), 0

    def add(self, seconds: float) -> None:
        """Note how long a look took."""
        self._ring[self._count % len(self._ring)] = seconds
        self._count += 1

    @property
    def seconds(self) -> NDArray[np.float64]:
        """The newest looks, in no order."""
        return self._ring[: min(self._count, len(self._ring))].copy()

    def summary(self) -> dict[str, float]:
        """Return the number of looks and their p50, p95, p99 and largest time in milliseconds."""
        if not self._count:
            return {"looks": 0}
        p50, p95, p99, most = (1e3 * np.percentile(self.seconds, (50, 95, 99, 100))).tolist()
        return {"looks": self._count, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": most}


class Pace:
    """How long one part of a look takes, but for rare outliers: what nine of ten of the newest took at most.

    Of fewer than ten it is the median.
    """

    def __init__(self) -> None:
        self._newest: deque[float] = deque(maxlen=32)

    def add(self, seconds: float) -> None:
        """Take a measurement."""
        self._newest.append(seconds)

    @property
    def seconds(self) -> float:
        """The estimate; 0 before the first measurement."""
        count = len(self._newest)
        return sorted(self._newest)[count // 2 if count < 10 else (9 * count - 1) // 10] if count else 0.0


class Stopwatch:
    """Time since it was made, against a deadline."""

    def __init__(self, deadline: float | None) -> None:
        self._began, self._deadline = time.perf_counter(), deadline

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def allows(self, seconds: float) -> bool:
        """Whether so much more time is left before the deadline."""
        return self._deadline is None or self.seconds + seconds <= self._deadline


@dataclass(slots=True)
class Guard:
    """Judge whether the model can be trusted in the present, from what held-out data showed.

    One transition is surprising if the root of its mean square error is above `surprise`. Two in a row, or one that is
    `GROSS` times as large, are an alarm; so is a plan whose cost for each step is above `cost`.

    Args:
        surprise: Limit; None for no such alarm.
        cost: Limit; None for no such alarm.
    """

    surprise: float | None
    cost: float | None
    surprised: bool = False

    GROSS = 2.0

    def reset(self) -> None:
        """Begin an episode."""
        self.surprised = False

    def surprising(self, error: float) -> bool:
        """Whether the error of the newest prediction is an alarm."""
        if self.surprise is None:
            return False
        above = not error <= self.surprise
        alarm = above and (self.surprised or not error <= self.GROSS * self.surprise)
        self.surprised = above
        return alarm

    def costly(self, cost_a_step: float) -> bool:
        """Whether the cost of a plan is an alarm."""
        return self.cost is not None and not cost_a_step <= self.cost
