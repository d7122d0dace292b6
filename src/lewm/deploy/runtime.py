"""The controller of a robot's computer: an export folder in, actions out, at a fixed rate and never late.

It needs NumPy and ONNX Runtime alone. `lewm.LatentController` is the same in PyTorch, but for deadlines, limits and
fallbacks. Letters as in `lewm.deploy.graphs`.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from dataclasses import dataclass, replace
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from lewm.config.checks import shown
from lewm.deploy import searching
from lewm.deploy.consistent import require_consistent
from lewm.deploy.goals import read_box, read_boxes
from lewm.deploy.limits import Limits, looks_of, number, positions
from lewm.deploy.manifest import MANIFEST, Manifest, read_manifest
from lewm.deploy.memory import Memory
from lewm.deploy.sessions import Session, load_sessions
from lewm.deploy.watch import EventKind, Events, Guard, Latency, Pace, Stopwatch
from lewm.frames_in import pictures_in
from lewm.run_spec import RunSpec

Fallback = Literal["stop", "hold"] | Callable[["Controller"], npt.ArrayLike]
"""What to do in place of a plan: stand still, repeat the last action, or what a function says."""
PENALTY = 1e6


@dataclass(frozen=True, slots=True)
class Look:
    """What came of a look.

    Args:
        actions: (B, L, A) or (B, L) environment actions until the next look.
        memory: The episode so far.
        iterations: Of the planner.
        cost: Of the plan, the largest of the batch.
        surprise: How wrong the newest prediction was, the largest of the batch; NaN where there was none.
        imagined: (B, H, N, D) what the plan is predicted to lead through.
    """

    actions: NDArray[Any]
    memory: Memory
    iterations: int
    cost: float
    surprise: float
    imagined: NDArray[np.float32]


class Controller:
    """Drive a robot, or B simulated ones, to a goal.

    Example:
        controller = Controller.load("arm-export", deadline=0.02)
        controller.set_goal({"x": 0.3, "y": 0.5}, command=arm.joints())
        actions = controller.act(camera())
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: RunSpec,
        graphs: Mapping[str, Session],
        *,
        seed: int = 0,
        deadline: float | None = None,
        fallback: Fallback = "stop",
        low: npt.ArrayLike | None = None,
        high: npt.ArrayLike | None = None,
        max_change: npt.ArrayLike | None = None,
        keep_out: Sequence[Mapping[str, Any]] = (),
        delay: float = 0.0,
        guarded: bool = True,
    ) -> None:
        """Set up; `load` says what the settings are."""
        if not callable(fallback) and fallback not in ("stop", "hold"):
            raise ValueError(f"fallback={shown(fallback)}: must be stop, hold or a function; use stop")
        self.manifest, self.spec, self.deadline, self.fallback = manifest, spec, deadline, fallback
        self._graphs = graphs
        self.draw_anew(seed)
        self._limits = Limits.of(manifest, low, high, max_change)
        self._forbidden = read_boxes(keep_out, manifest.state_goals, spec.state_names)
        self._delay = looks_of(delay, manifest, spec)
        limit = manifest.surprise.get if guarded else {}.get
        self._guard = Guard(limit("limit"), limit("cost_limit"))
        self.events, self.latency = Events(), Latency()
        self._iteration, self._rest = Pace(), Pace()
        self._thread: ThreadPoolExecutor | None = None
        self._running: Future[Look] | None = None
        self._number = 0
        self._goal: dict[str, NDArray[np.float32]] | None = None
        self._kind = ""
        self.last_look: Look | None = None
        """What came of the last look that was trusted."""
        self._begin(None)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        cores: Sequence[int] | None = None,
        **settings: Any,
    ) -> "Controller":
        """Load an export folder, after the digest of every file in it was checked.

        Args:
            folder: The --out folder of `lewm export`.
            provider: cpu, cuda, tensorrt or openvino.
            threads: Threads of the graphs; None takes one a physical core.
            cores: Numbers of the processor's cores that these threads run on; None for all.
            settings: Any of these.

                - `seed`: of the search's noise, 0 if not given.
                - `deadline`: seconds that a look may take: iterations of the planner are done until it would pass. None
                  does all of them.
                - `fallback`: what to do when the model is not trusted: "stop" (the default) stands still, "hold"
                  repeats the last action, and a function gets the controller and returns actions as `act` does.
                - `low`, `high`: (A,) bounds of the actions; those of the training episodes if not given.
                - `max_change`: (A,) how far an action may change from one environment step to the next.
                - `keep_out`: boxes of the state that plans avoid, `[{"x": (0.2, 0.4), "y": (0.1, 0.3)}]`, 4 at most.
                - `delay`: seconds from the picture to the moment at which its action takes effect, in whole model
                  steps. The state at that moment is predicted, and planned from.
                - `guarded`: whether surprise and cost can call the fallback.

        Raises:
            ValueError: If the folder is not whole or a setting does not fit it.
        """
        manifest, spec = read_manifest(folder)
        require_consistent(manifest, spec, str(Path(folder) / MANIFEST))
        if cores is not None and not isinstance(cores, Iterable):
            raise ValueError(f"cores={shown(cores)}: must be a list of numbers; give [0, 1], or leave it out for all")
        pinned = None if cores is None else frozenset(cores)
        graphs = load_sessions(Path(folder), manifest, provider=provider, threads=threads, cores=pinned)
        return cls(manifest, spec, graphs, **settings)

    @property
    def deadline(self) -> float | None:
        """Seconds that a look may take, None for no limit; it may be set at any time."""
        return self._deadline

    @deadline.setter
    def deadline(self, seconds: float | None) -> None:
        if seconds is not None and not 0 < number(seconds) < TIMEOUT_MAX:
            raise ValueError(f"deadline={shown(seconds)}: must be seconds, more than 0; leave it out for no limit")
        self._deadline = None if seconds is None else float(seconds)

    @property
    def needs_command(self) -> bool:
        """Whether a goal is set with what the robot was told last: where actions are positions."""
        return positions(self.manifest, self.spec)

    # Goals.

    def set_goal(self, goal: Any, *, command: npt.ArrayLike | None = None) -> None:
        """Begin an episode with a new goal.

        Args:
            goal: A picture (height, width, 3), or B of them; the state, `{"x": 0.3, "y": 0.5}`; or ranges of it,
                `{"x": (0.2, 0.4), "y": (0.1, None)}`. Variables that are not named may have any value.
            command: Where actions are positions, what the robot was told last, or where its joints are: (A,) or (B, A).

        Raises:
            ValueError: If the goal is neither, or not of this robot.
        """
        sizes, last = self.manifest.sizes, self._told(command)
        if isinstance(goal, Mapping):
            if not self.manifest.plan.refinements:
                raise ValueError(
                    "plan.planner=proposal: proposes ways to goals that are pictures; give a picture, or export the "
                    "run with another planner"
                )
            ends = read_box("goal", goal, self.manifest.state_goals, self.spec.state_names)
            names, kind = ("goal_low", "goal_high"), "_state"
            given = {name: np.tile(end, (sizes.batch, 1)) for name, end in zip(names, ends, strict=True)}
        else:
            pictures = pictures_in("goal", goal, size=sizes.image_size, batch=sizes.batch)
            given, kind = {"goal": self._encode(pictures)}, ""
            if not np.isfinite(given["goal"]).all():
                raise ValueError("goal: the model's numbers of it are not finite; give another picture")
        self._goal, self._kind = given, kind
        self._begin(last)

    def restart(self, *, command: npt.ArrayLike | None = None) -> None:
        """Begin an episode with the same goal; `command` as in `set_goal`.

        Raises:
            ValueError: If the command is missing, or none of this robot.
        """
        self._begin(self._told(command))

    def _told(self, command: npt.ArrayLike | None) -> NDArray[np.float32] | None:
        """Check what each robot was told last, (B, A)."""
        if command is None and self.needs_command:
            raise ValueError(
                "command=None: these actions are positions, planned from the present one on; give set_goal(goal, "
                "command=...) what the robot was told last, or where its joints are"
            )
        return None if command is None else self._limits.told(command, self.manifest)

    def _begin(self, last: NDArray[np.float32] | None) -> None:
        self._memory, self._looked_at = Memory.begin(self.manifest, last), False
        self._guard.reset()

    def draw_anew(self, seed: int) -> None:
        """Draw the noise of the next searches from a seed."""
        try:
            self._rng = np.random.default_rng(seed)
        except (TypeError, ValueError):
            raise ValueError(f"seed={shown(seed)}: must be a whole number, at least 0; use 0") from None

    @property
    def reached(self) -> NDArray[np.bool_]:
        """Whether each goal counts as reached in the newest frame, (B,); see `plan.reached_below` of the settings.

        Of a frame that was not trusted, and answered by the fallback, it is False.

        Raises:
            ValueError: If no frame was looked at, or training found no threshold.
        """
        if self._goal is None or not self._looked_at:
            raise ValueError("reached: no frame was looked at in this episode; call set_goal and act first")
        below = 0.0 if self._kind else self.manifest.plan.reached_below
        if below is None:
            raise ValueError(
                "plan.reached_below=None: training had too few held-out frames that show one goal to set it; train on "
                "more episodes, or ask the task itself"
            )
        if self._memory.count == 0:
            return np.zeros(self.manifest.sizes.batch, dtype=bool)
        judged = self._graphs[f"judge{self._kind}"]({"tokens": self._memory.states[:, -1], **self._goal})
        return judged["cost"] <= below

    def read(self, imagined: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return what is read of the state from predictions (B, H, N, D), as (B, H) by label of `StateGoals`.

        It is empty where the run's data has no states, or the export has no graph that reads them.
        """
        if "read" not in self._graphs:
            return {}
        values = self._graphs["read"]({"imagined": imagined})["values"]
        return dict(zip(self.manifest.state_goals.labels, np.moveaxis(values, -1, 0), strict=True))

    @property
    def picture(self) -> NDArray[np.uint8] | None:
        """The newest frames of the episode, (B, height, width, 3); None before the first look, and after a fallback."""
        return self._memory.picture

    @property
    def guard(self) -> Guard:
        """The limits of surprise and cost."""
        return self._guard

    def graph(self, name: str) -> Session:
        """Return a graph by its name in the manifest."""
        return self._graphs[name]

    # Looks.

    def act(self, frames: Any) -> NDArray[Any]:
        """Look, plan, and say what to do until the next look.

        Args:
            frames: The newest picture, (height, width, 3) or (B, height, width, 3), uint8 or what
                `lewm.frames_in.pictures_in` makes that of. Where `plan.execute` is more than 1 and the model sees
                several frames, the newest of them, (B, m, height, width, 3), one a model step.

        Returns:
            The environment's actions of the next `plan.execute` model steps, (execute * f, A) or (execute * f,); with
            (B, ...) in front where B is more than 1.

        Raises:
            ValueError: If there is no goal, or the picture is none. Nothing else is raised: what goes wrong is counted
                in `events` and answered by the fallback.
        """
        watch = Stopwatch(self.deadline)
        if self._goal is None:
            raise ValueError("goal=None: there is no goal; call set_goal(goal) first")
        sizes, plan = self.manifest.sizes, self.manifest.plan
        pictures = pictures_in("frames", frames, size=sizes.image_size, batch=sizes.batch, steps=True)
        pictures = pictures if pictures.ndim == 5 else pictures[:, None]
        begun = self._memory.count > 0
        fewest, most = min(plan.execute, sizes.history) if begun else 1, plan.execute if self._looked_at else 1
        if not fewest <= pictures.shape[1] <= most:
            wanted = str(most) if fewest == most else f"{fewest} to {most}"
            raise ValueError(
                f"frames: got {pictures.shape[1]} a call, must be {wanted}; give one for every model step done"
            )
        self._number, self._looked_at = self._number + 1, True
        look = self._looked(pictures[:, -fewest:], watch)
        if look is None:
            actions = self._fall_back()
        else:
            self._memory, self.last_look, actions = look.memory, look, look.actions
            if look.iterations < plan.refinements:
                self._event("late", f"{look.iterations} of {plan.refinements} iterations")
        self.latency.add(watch.seconds)
        return actions[0] if sizes.batch == 1 else actions

    def _looked(self, pictures: NDArray[np.uint8], watch: Stopwatch) -> Look | None:
        """Plan in this thread; with a deadline in another one, which is not waited for much longer than that.

        Returns:
            None where the plan is not to be carried out; an event says why.
        """
        try:
            if self.deadline is None:
                return self._plan(self._memory, pictures, watch)
            if self._running is not None and not self._running.done():
                self._event("stalled", "the look before has not ended")
                return None
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="lewm-plan")
            self._running = self._thread.submit(self._plan, self._memory, pictures, watch)
            one = max(self._iteration.seconds, self._rest.seconds)
            return self._running.result(timeout=self.deadline + one - watch.seconds)
        except StillRunning:
            self._event("stalled", f"no plan after {1e3 * watch.seconds:.0f} ms")
        except _NotTrustedError as error:
            self._event(error.kind, error.detail)
        except Exception as error:  # of a runtime's own kinds: a robot must be told something
            self._event("failed", f"{type(error).__name__}: {error}")
        return None

    def _plan(self, memory: Memory, pictures: NDArray[np.uint8], watch: Stopwatch) -> Look:
        """Look and plan; nothing of the controller changes but its pace, its noise and its guard.

        Raises:
            _NotTrustedError: If the plan is not to be carried out.
        """
        memory, surprise = self._remember(memory, pictures)
        memory, situation = self._situation(memory)
        search, noise = self._search_start(memory, situation)
        frames = situation["states"].shape[1]
        number = f"_{frames}" if self.manifest.sizes.history > 1 else ""
        finish = self._graphs[f"finish{self._kind}{number}"]
        done, wanted = 0, self.manifest.plan.refinements
        while done < wanted and (done == 0 or watch.allows(self._iteration.seconds + self._rest.seconds)):
            began = time.perf_counter()
            noise = searching.draw(self.manifest, self._rng) if done else noise
            after = self._graphs[f"improve{self._kind}{number}"]({**search, "noise": noise, **situation})
            search = {name.removeprefix("next_"): value for name, value in after.items()}
            self._iteration.add(time.perf_counter() - began)
            done += 1
        began = time.perf_counter()
        plan = finish({**search, **situation})
        self._rest.add(time.perf_counter() - began)
        cost = self._judged(plan, bool(search["usable"].all()))
        actions, memory = self._carried_out(memory, plan)
        return Look(actions, memory, done, cost, surprise, plan["imagined"])

    def _remember(self, memory: Memory, pictures: NDArray[np.uint8]) -> tuple[Memory, float]:
        """Encode what is seen, and compare it with what was predicted."""
        steps = [self._encode(np.ascontiguousarray(pictures[:, k])) for k in range(pictures.shape[1])]
        tokens = np.stack(steps, axis=1)
        _require(bool(np.isfinite(tokens).all()), "not finite", "the frame's representation")
        before, expected = memory, memory.expected
        in_flight = self._delay * self.manifest.plan.execute
        shown = max(0, memory.issued.shape[1] - in_flight)
        memory = replace(memory.after(tokens, shown), picture=pictures[:, -1], expected=None)
        if expected is None:
            return memory, math.nan
        error = tokens[:, -1] - expected
        surprise, moved = _size(error), _size(expected - before.states[:, -1])
        same = before.picture is not None and bool((before.picture == memory.picture).all())
        limit = self._guard.surprise
        blind = same and limit is not None and moved > limit
        _require(not blind, "frozen camera", f"the same picture again, where a change of {moved:.4g} was predicted")
        _require(not self._guard.surprising(surprise), "surprise", f"{surprise:.4g}, and the limit is {limit}")
        gain = self.manifest.correction / self.manifest.plan.execute  # an error grows with every step
        return replace(memory, correction=memory.correction + gain * error), surprise

    def _situation(self, memory: Memory) -> tuple[Memory, dict[str, Any]]:
        """Return what the graphs take of the present: of the moment at which the next action takes effect."""
        assert self._goal is not None
        states, actions = memory.seen()
        if memory.issued.shape[1]:  # some are on their way
            imagined = self._imagine(memory, memory.issued)
            history = self.manifest.sizes.history
            memory = replace(memory, expected=imagined[:, self.manifest.plan.execute - 1])
            states = np.concatenate((states, imagined), axis=1)[:, -history:]
            actions = np.concatenate((actions, memory.issued), axis=1)[:, -(states.shape[1] - 1) or 10**9 :]
        given: dict[str, Any] = {**self._goal, "states": states, "past_actions": actions}
        given |= {"correction": memory.correction}
        given |= {"forbidden_low": self._forbidden[0], "forbidden_high": self._forbidden[1]}
        space, limits = self.manifest.space, self._limits
        if space.relative:
            change = np.array(space.high[: len(limits.low)], np.float32) if limits.change is None else limits.change
            given |= {"low": limits.low, "high": limits.high, "command": memory.last, "max_change": change}
        elif space.kind == "continuous":
            last = None if memory.last is None else memory.last[0]
            low, high = searching.step_bounds(self.manifest, limits.low, limits.high, last, limits.change)
            given |= {"low": low, "high": high}
        return memory, given

    def _imagine(self, memory: Memory, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Roll model actions (B, m, f*A) out from the newest frame, (B, m, N, D)."""
        horizon, steps = self.manifest.plan.horizon, actions.shape[1]
        padded = np.zeros((len(actions), horizon, actions.shape[2]), actions.dtype)
        padded[:, :steps] = actions
        states, past = memory.seen()
        number = f"_{memory.count}" if self.manifest.sizes.history > 1 else ""
        given = {"states": states, "past_actions": past, "correction": memory.correction, "actions": padded}
        return self._graphs[f"imagine{number}"](given)["imagined"][:, :steps]

    def _search_start(
        self, memory: Memory, situation: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Return the state of a search before its first iteration, and the noise of that."""
        manifest, noise = self.manifest, searching.draw(self.manifest, self._rng)
        found, execute = memory.searched, manifest.plan.execute
        known = searching.neutral(manifest) if found is None else searching.warm_start(manifest, found, execute)
        start = searching.begin(known)
        if not manifest.plan.proposes or self._kind:
            return start, noise
        told = self._graphs["propose"]({**situation, **start, "tokens": situation["states"][:, -1], "noise": noise})
        return searching.proposed_start(told, start, noise)

    def _judged(self, plan: Mapping[str, NDArray[Any]], usable: bool) -> float:
        """Return the cost of a plan that can be trusted."""
        whole = usable and all(np.isfinite(value).all() for value in plan.values())
        _require(bool(whole), "not finite", "the plan or its cost")
        cost = float(plan["cost"].max())
        _require(cost < PENALTY, "forbidden", "every plan leads into a forbidden box")
        a_step = cost / (self.manifest.plan.horizon if self.manifest.plan.over == "sum" else 1)
        costly = not self._kind and self._guard.costly(a_step)
        _require(not costly, "cost", f"{a_step:.4g} a step, and the limit is {self._guard.cost}")
        return cost

    def _carried_out(self, memory: Memory, plan: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], Memory]:
        execute = self.manifest.plan.execute
        first = plan["actions"][:, :execute]
        actions, last = searching.to_env(self.manifest.space, first), memory.last
        if self.manifest.space.kind == "continuous":
            actions = self._limits.obeyed_by(actions, last)
            first, last = actions.reshape(first.shape), actions[:, -1]
        expected = plan["imagined"][:, execute - 1] if memory.expected is None else memory.expected
        issued = np.concatenate((memory.issued, first), axis=1)
        return actions, replace(memory, last=last, searched=plan["searched"], expected=expected, issued=issued)

    # What is not trusted.

    def _fall_back(self) -> NDArray[Any]:
        """Return the fallback's actions (B, execute * f, A), and begin anew from what is seen next."""
        space, execute = self.manifest.space, self.manifest.plan.execute
        actions = still = self._still(execute * space.frame_skip)
        if callable(self.fallback):
            try:
                actions = np.broadcast_to(np.asarray(self.fallback(self), dtype=still.dtype), still.shape).copy()
                if not np.isfinite(actions).all():
                    raise ValueError("is not finite")
                if space.kind == "discrete" and not ((actions >= 0) & (actions < space.num_actions)).all():
                    raise ValueError(f"is no action of 0 to {space.num_actions - 1}")
            except Exception as error:  # a robot must be told something, whatever a user's function does
                self._event("fallback failed", f"{type(error).__name__}: {error}")
                actions = still
        elif self.fallback == "hold" and self._memory.last is not None:
            actions = np.repeat(self._memory.last[:, None], still.shape[1], axis=1)
        last = None
        if space.kind == "continuous":
            actions = self._limits.obeyed_by(actions, self._memory.last)
            last = actions[:, -1]
        self._memory = Memory.begin(self.manifest, last)
        return actions

    def _still(self, length: int) -> NDArray[Any]:
        """Return actions (B, length, A) that move nothing: the present command, or zero; of discrete ones the first."""
        batch, space = self.manifest.sizes.batch, self.manifest.space
        if space.kind == "discrete":
            return np.zeros((batch, length), np.int64)
        if self._memory.last is not None and self.spec.control_mode == "position":
            return np.repeat(self._memory.last[:, None], length, axis=1)
        return np.zeros((batch, length, len(space.env_low)), np.float32)

    def _event(self, kind: EventKind, detail: str) -> None:
        self.events.add(self._number, kind, detail)

    # What is given.

    def _encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._graphs["encode"]({"frame": pictures})["tokens"]


class _NotTrustedError(Exception):
    """A look's plan is not to be carried out."""

    def __init__(self, kind: EventKind, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind: EventKind = kind
        self.detail = detail


def _require(fine: bool, kind: EventKind, detail: str) -> None:
    if not fine:
        raise _NotTrustedError(kind, detail)


def _size(error: NDArray[np.float32]) -> float:
    """Return the root of the mean square of an error (B, N, D), the largest of the batch."""
    return float(np.sqrt(np.square(error).mean((1, 2))).max())
