"""What makes a controller distrust itself, within two looks; and that it runs for long."""

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from controllers import InRuntime, Toy, picture, settings
from lewm.deploy.runtime import Controller
from lewm.deploy.watch import LATENCIES, LOG, MOST_EVENTS, Guard, Pace

START, GOAL = np.array([[10.0, 10.0]]), np.array([[14.0, 16.0]])


def test_two_small_surprises_in_a_row_or_a_gross_one() -> None:
    guard = Guard(1.0, None)
    assert [guard.surprising(error) for error in (0.9, 1.1, 0.9, 1.1, 1.2, 0.5, 2.1, float("nan"))] == [
        False, False, False, False, True, False, True, True,
    ]  # fmt: skip


class Drive:
    """A toy world that is driven in, in which something may go wrong.

    The model knows the world, so that the largest error of a prediction is that of the pictures: half a level.
    """

    def __init__(self) -> None:
        self.world = InRuntime(Toy(), settings(over="sum", cost="tokens", iterations=3), batch=1)
        self.controller: Controller = self.world.controller
        self.controller._guard.surprise = 0.2
        self.controller.set_goal(picture(GOAL))
        self.place, self.offset = START.copy(), 0.0
        self.last = picture(self.place)[0]

    def look(self, *, frozen: bool = False) -> NDArray[Any]:
        frame = self.last if frozen else picture(self.place + self.offset)[0]
        actions, self.last = self.controller.act(frame), frame
        self.place = self.place + actions.sum(0)
        return actions

    def wrap(self, name: str, change: Callable[[dict[str, NDArray[Any]]], Any]) -> None:
        """Do something with what a graph gives."""
        graphs = dict(self.controller._graphs)
        before = graphs[name]

        def session(given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            out = before(given)
            change(out)
            return out

        graphs[name] = session  # pyright: ignore[reportArgumentType]
        self.controller._graphs = graphs


@pytest.mark.parametrize(
    ("wrong", "kinds"),
    [
        ("nothing", set()),
        ("a stalled model", {"stalled"}),
        ("not a number", {"not finite"}),
        ("a frozen camera", {"frozen camera"}),
        ("a moved camera", {"surprise"}),
        ("a slow machine", {"stalled"}),
    ],
)
def test_the_fallback_is_taken_within_two_looks(wrong: str, kinds: set[str]) -> None:
    drive, go_on = Drive(), threading.Event()
    drive.look()
    drive.look()
    assert not drive.controller.events.counts
    if wrong == "a stalled model":
        drive.controller.deadline = 0.1
        drive.wrap("improve", lambda _: go_on.wait(60))
    elif wrong == "not a number":
        drive.wrap("finish", lambda out: out["actions"].fill(np.nan))
    elif wrong == "a moved camera":
        drive.offset = 3.0
    elif wrong == "a slow machine":  # not one iteration is done by then
        drive.controller.deadline = 0.1
        drive.wrap("improve", lambda _: time.sleep(0.5))
    actions = [drive.look(frozen=wrong == "a frozen camera") for _ in range(2)]
    go_on.set()
    assert np.isfinite(actions).all()
    assert set(drive.controller.events.counts) == kinds
    assert any((looked == 0).all() for looked in actions) == bool(kinds)


def reachable(controller: Controller) -> tuple[int, int]:
    """Count the objects that a controller holds, and their bytes; classes, modules and functions are not its own."""
    seen: dict[int, Any] = {}
    stack: list[Any] = [vars(controller)]
    while stack:
        found = stack.pop()
        if id(found) in seen or isinstance(found, type | type(sys) | type(reachable) | logging.Logger):
            continue
        seen[id(found)] = found
        stack += gc.get_referents(found)
    sizes = (found.nbytes if isinstance(found, np.ndarray) else sys.getsizeof(found) for found in seen.values())
    return len(seen), sum(sizes)


@pytest.mark.slow
def test_a_controller_holds_no_more_after_thousands_of_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are replaced by what costs no time; every other look ends in a fallback, and goals come and go."""
    monkeypatch.setattr(LOG, "disabled", True)
    config = settings(history=3, execute=2, candidates=8, elites=2)
    world = InRuntime(Toy(), config, batch=1)
    controller = world.controller
    failing = [False]

    def stand_in(name: str) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
        outputs = controller.manifest.graphs[name].outputs
        blank = {
            key: np.ones(shape, dtype)
            for key, shape, dtype in zip(outputs.names, outputs.shapes, outputs.dtypes, strict=True)
        }

        def session(_: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            if failing[0] and name.startswith("finish"):
                raise RuntimeError("no memory")
            return {key: value.copy() for key, value in blank.items()}

        return session

    controller._graphs = {name: stand_in(name) for name in controller.manifest.graphs}  # pyright: ignore[reportAttributeAccessIssue]
    goal = picture(GOAL)
    frames = picture(np.repeat(START[:, None], 2, axis=1))
    found, count = [], 0
    for looks in (2 * max(MOST_EVENTS, LATENCIES) + 100, 1000, 1000):
        for _ in range(looks):
            if count % 100 == 0:
                controller.set_goal(goal)
            failing[0] = count % 2 == 1
            controller.act(frames[:, : 1 if count % 100 == 0 else 2])
            count += 1
        gc.collect()
        found.append(reachable(controller))
    assert controller.latency.summary()["looks"] == count
    assert controller.events.counts == {"failed": count // 2}
    assert len(controller.events.newest) == MOST_EVENTS
    objects, memory = np.array(found).T
    assert np.ptp(objects) <= 20, objects  # numbers that grow, and the like
    assert np.ptp(memory) <= 2000, memory


def test_one_slow_iteration_does_not_count_for_long() -> None:
    pace = Pace()
    assert pace.seconds == 0.0
    for seconds in (0.5, *[0.01] * 9):
        pace.add(seconds)
    assert pace.seconds == 0.01
    for _ in range(4):
        pace.add(0.5)
    assert pace.seconds == 0.5
