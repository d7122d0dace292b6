"""What a page shows: the newest state of a look, and the newest pictures; who writes never waits for who reads."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.deploy.runtime import Controller
from lewm.serve.wire import jpeg_of

PICTURES = ("now", "goal")


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown at a moment.

    Args:
        status: Values that JSON has.
        pictures: JPEG by name, of `PICTURES`, with a number that grows with each new one.
        number: Grows with every change.
    """

    status: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    number: int = 0


class Board:
    """Hold the newest of what is shown, for any number of pages."""

    def __init__(self) -> None:
        self._lock, self._shown = threading.Lock(), Shown()
        self._looked = math.nan
        self.watchers = 0
        """Pages that are open; pictures need not be made for none."""

    def show(self, status: Mapping[str, Any], *, looked: bool = False, **pictures: NDArray[np.uint8]) -> None:
        """Change some values, and pictures (height, width, 3), by name; `looked` says that the model did its work."""
        made = {name: jpeg_of(picture) for name, picture in pictures.items()}
        with self._lock:
            old = self._shown
            number = old.number + 1
            new = {name: (number, picture) for name, picture in made.items()}
            values = {name: _in_json(value) for name, value in status.items()}
            self._shown = Shown({**old.status, **values}, {**old.pictures, **new}, number)
            if looked:
                self._looked = time.monotonic()

    @property
    def shown(self) -> Shown:
        """What is shown now; `age` of its status is seconds since the model did its work, None if it never did."""
        with self._lock:
            age = time.monotonic() - self._looked
            return Shown({**self._shown.status, "age": _in_json(age)}, self._shown.pictures, self._shown.number)


def told_of_look(controller: Controller, seconds: float, *, trusted: bool) -> dict[str, Any]:
    """Return what a page says of the look that a controller just did, and of its limits."""
    look, guard, plan = controller.last_look, controller.guard, controller.manifest.plan
    told: dict[str, Any] = {
        "trusted": trusted,
        "ms": 1e3 * seconds,
        "deadline_ms": None if controller.deadline is None else 1e3 * controller.deadline,
        "surprise_limit": guard.surprise,
        "of_iterations": plan.refinements,
        "events": dict(controller.events.counts),
        "last_event": controller.events.newest[-1].detail if controller.events.newest else "",
    }
    if look is not None and trusted:
        told |= {"cost": look.cost, "surprise": look.surprise, "iterations": look.iterations}
    return told


def _in_json(value: Any) -> Any:
    """Return a value as JSON has it, which knows no NaN."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
