"""A simulated task that a controller drives, while a page watches it, sets goals and takes over; no torch."""

import math
import queue
import threading
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.deploy.runtime import Controller
from lewm.envs import make_task
from lewm.serve.board import Board, told_of_look
from lewm.serve.pointing import Pointing, unit_place

SHOWN_SIZE = 320
"""Height and width in pixels of the picture that people see; the model sees its own size."""
_MOST_WAITING = 100  # of what a page's user did


class Simulated:
    """Step a task at a rate, drive it by a controller, and show both.

    Args:
        task: Its name.
        board: Where it is shown.
        rate: Environment steps a second.
        seed: Of starts and goals.
    """

    def __init__(self, task: str, board: Board, *, rate: float = 30.0, seed: int = 0) -> None:
        self._name, self._board, self._rate = task, board, rate
        self._shown_task = make_task(task, SHOWN_SIZE)
        self._model_task: Any = None  # draws what the model sees, once its size is known
        self._pointing = Pointing(task, seed)
        self._todo: queue.Queue[dict[str, Any]] = queue.Queue(_MOST_WAITING)
        self._given: Controller | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lewm-simulated", daemon=True)
        self._state = self._pointing.random_start()
        self._goal = self._pointing.random_goal(self._state)
        self._rule = self._shown_task.rule(self._pointing.protocol)
        self._mode, self._why = "preparing", ""
        self._hand: list[float] | None = None
        self._inside_for, self._counted = 0, False
        self._goals, self._reached, self._looks = 1, 0, 0
        self._times: deque[float] = deque(maxlen=30)

    # From other threads.

    def start(self) -> None:
        """Begin to step."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for that."""
        self._over.set()
        self._thread.join(10)

    def drive_by(self, controller: Controller) -> None:
        """Let a controller drive from the next step on."""
        self._given = controller

    def tell(self, why: str) -> None:
        """Say what is being waited for, while there is no controller."""
        self._why = why

    def fail(self, why: str) -> None:
        """Say that there will be no controller."""
        self._mode, self._why = "stopped", why

    def do(self, said: dict[str, Any]) -> None:
        """Take what a page's user did; it is done at the next step.

        Raises:
            ValueError: If it is nothing that can be done.
        """
        what = said.get("do")
        if what not in _DEEDS:
            raise ValueError(f"do={str(what)[:40]}: must be one of {', '.join(_DEEDS)}")
        if what == "goal" or (what == "hand" and said.get("at") is not None):
            unit_place(said.get("at"))
        if what == "drag":
            unit_place(said.get("by"), "by")
            if not isinstance(said.get("turn"), int | float) or not math.isfinite(said["turn"]):
                raise ValueError("turn: must be a number of radians")
        if (what == "drag") > self._pointing.drags or (what == "goal" and self._pointing.drags):
            raise ValueError(f"do={what}: is not how a goal of {self._name} is set")
        try:
            self._todo.put_nowait(said)
        except queue.Full:
            raise ValueError("do: too much at once; wait a little") from None

    # In the thread of the task.

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:  # whatever it is, the page must say that nothing goes on
            self._board.show({"state": "stopped", "why": f"{type(error).__name__}: {error}"[:300]})
            raise

    def _loop(self) -> None:
        controller: Controller | None = None
        todo: deque[NDArray[Any]] = deque()  # actions of the last look that are not done yet
        seen: deque[NDArray[np.float32]] = deque([self._state], maxlen=64)  # states since the last look
        fresh, single = True, False
        self._show_goal()
        soonest = time.monotonic()
        while not self._over.is_set():
            soonest = max(soonest + 1 / self._rate, time.monotonic() - 1 / self._rate)
            time.sleep(max(0.0, soonest - time.monotonic()))
            if controller is None and self._given is not None:
                controller, self._mode = self._given, "running"
            new_goal, anew = False, False
            while not self._todo.empty():
                done = self._done(self._todo.get())
                new_goal, anew, single = new_goal | (done == "goal"), anew | (done == "anew"), single | (done == "step")
            if new_goal or anew:
                self._show_goal()
            fresh = fresh or new_goal or anew
            stands = self._mode in ("stopped", "paused") and not single
            if stands or controller is None:
                self._show({})
                continue
            single = False
            told: dict[str, Any] = {}
            if self._mode == "hand":
                fresh = True
                if self._hand is None:
                    self._show({})
                    continue
                action = self._pointing.towards(self._hand, self._state)
            else:
                if fresh:
                    self._begin(controller)
                    todo.clear()
                    seen.clear()
                    seen.append(self._state)
                    fresh = False
                if not todo:
                    actions, told = self._look(controller, list(seen))
                    todo.extend(actions)
                    seen.clear()
                action = todo.popleft()
            before = self._state
            self._state = self._shown_task.simulate(before[None], np.asarray(action)[None, None])[0, 0]
            seen.append(self._state)
            self._judge(before)
            self._show(told, stepped=True)

    def _begin(self, controller: Controller) -> None:
        """Give the controller the goal, as a picture."""
        task, size = self._shown_task, controller.manifest.sizes.image_size
        if self._model_task is None or self._model_task.image_size != size:
            self._model_task = make_task(self._name, size)
        command = task.command(self._state[None])[0] if controller.manifest.space.relative else None
        controller.set_goal(self._model_task.render_states(self._goal[None])[0], command=command)

    def _look(self, controller: Controller, seen: list[NDArray[np.float32]]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Let the controller look at what was seen since it looked last."""
        sizes, plan, skip = controller.manifest.sizes, controller.manifest.plan, controller.manifest.space.frame_skip
        states = seen if len(seen) == 1 else seen[skip - 1 :: skip][-min(plan.execute, sizes.history) :]
        pictures = self._model_task.render_states(np.array(states))
        before, began = controller.last_look, time.perf_counter()
        actions = controller.act(pictures[None] if len(pictures) > 1 else pictures[0])
        seconds = time.perf_counter() - began
        self._looks += 1
        look = controller.last_look
        trusted = look is not None and look is not before
        told = told_of_look(controller, seconds, trusted=trusted) | {"look": self._looks, "way": [], "way2": []}
        if look is not None and trusted:
            told |= self._pointing.ways(controller.read(look.imagined), self._state)
        return actions, told

    def _done(self, said: dict[str, Any]) -> str:
        """Do what a page's user asks for, and say what of the rest it changes."""
        what, pointing = said["do"], self._pointing
        if what == "pause" and self._mode in ("running", "paused"):
            self._mode = "paused" if said.get("on") else "running"
        elif what == "take" and self._mode in ("running", "paused", "hand"):
            self._mode, self._hand = "hand" if said.get("on") else "running", None
        elif what == "hand":
            self._hand = None if said.get("at") is None else unit_place(said["at"])
        elif what == "step":
            return "step"
        elif what == "start":
            self._state = pointing.random_start()
            return self._new_goal(pointing.random_goal(self._state)) if pointing.drags else "anew"
        elif what == "random":
            return self._new_goal(pointing.random_goal(self._state))
        elif what == "goal":
            return self._new_goal(pointing.goal_at(unit_place(said["at"]), self._state))
        elif what == "drag":
            return self._new_goal(pointing.dragged(self._goal, unit_place(said["by"]), said["turn"], self._state))
        return ""

    def _new_goal(self, goal: NDArray[np.float32]) -> str:
        self._goal, self._inside_for, self._counted = goal, 0, False
        self._goals += 1
        return "goal"

    def _judge(self, before: NDArray[np.float32]) -> None:
        """Count how long the goal is held."""
        inside = bool(self._rule.inside(self._state[None], self._goal[None])[0])
        self._inside_for = self._inside_for + 1 if inside else 0
        if self._inside_for >= self._rule.steps and not self._counted:
            self._reached, self._counted = self._reached + 1, True

    def _show_goal(self) -> None:
        told = {"goals": self._goals, "reached": False, "way": [], "way2": []}
        self._board.show(told, goal=self._shown_task.render_states(self._goal[None])[0])

    def _show(self, told: dict[str, Any], *, stepped: bool = False) -> None:
        now = time.monotonic()
        if stepped:
            self._times.append(now)
        spent = now - self._times[0] if len(self._times) > 1 else math.nan
        status = {
            "state": self._mode,
            "why": self._why,
            "drags": self._pointing.drags,
            "goals": self._goals,
            "reached": self._counted and self._inside_for > 0,
            "reached_count": self._reached,
            "rate_now": (len(self._times) - 1) / spent if stepped and spent > 0 else None,
            **told,
        }
        picture = self._shown_task.render_states(self._state[None])[0] if self._board.watchers else None
        self._board.show(status, looked="look" in told, **({} if picture is None else {"now": picture}))


_DEEDS = ("pause", "step", "random", "start", "goal", "drag", "take", "hand")
