"""Closed loop in an environment of one's own: the model's controller beside a random policy, from the same starts.

Of the environment, its pictures, its actions and a test of success are all that is known. There is one environment an
episode, and they are planned for in one batch, which an episode leaves when it has ended.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from lewm.config import Config
from lewm.data.fit import FrameFit, FrameFitter
from lewm.data.store import Store
from lewm.envs.recorder import action_kind, rendered
from lewm.evaluate.closed_loop import newcombe_interval, wilson_interval
from lewm.evaluate.doctor import env_verdict
from lewm.evaluate.evaluation import Evaluation, open_run, require_actions, show_progress
from lewm.evaluate.frames import episode_of
from lewm.evaluate.goal_reading import frame_index
from lewm.evaluate.judge import held_from
from lewm.plan import LatentController, parse_frame
from lewm.pretrained import pretrained_names
from lewm.run_spec import RunSpec

EPISODES = 50

Frames = NDArray[np.uint8]
Fit = Callable[[Frames], Frames]
Policy = Callable[[Frames, NDArray[np.int64]], NDArray]
"""Rows of actions (E', L, A) or (E', L) from frames (E', m, height, width, 3), one a model step since the last call, of
the episodes (E',) that go on: increasing, each among those of the last call."""


@dataclass(frozen=True, slots=True)
class EnvGoal:
    """What an episode shall reach.

    Args:
        frame: (height, width, 3) uint8, what the camera shows there.
        state: (S,) the state there, as the store has it; None where none is known.
        episode: the store's episode that it is a frame of; None for one that was given.
        index: number of the frame in that episode.
    """

    frame: Frames
    state: NDArray[np.float32] | None = None
    episode: int | None = None
    index: int | None = None


Given = EnvGoal | str | Frames | tuple[Frames, Any]
"""A goal as a user gives it: a frame, a frame and a state, or `frame:EPISODE:INDEX` of the store."""
Success = Callable[[Any, EnvGoal], Any] | str


def evaluate_env(
    run: str | Path,
    make_env: Callable[[], gymnasium.Env],
    *,
    success: Success,
    episodes: int | None = None,
    goals: Sequence[Given] | None = None,
    budget: int | None = None,
    hold: int = 0,
    seed: int | None = None,
    fit: Literal["crop", "pad", "stretch"] | None = None,
    command: Callable[[Any], npt.ArrayLike] | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    config: Config | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure how often a run's controller reaches goals in an environment of one's own, beside a random policy.

        def success(env, goal):
            return np.linalg.norm(env.unwrapped.place - goal.state) < 0.1

        lewm.evaluate_env("runs/mine", lambda: gymnasium.make("Mine-v0", render_mode="rgb_array"), success=success)

    Episode i starts with `env.reset(seed=...)`, by the same seed for both policies. Frames come from `render()` and are
    fitted as the run's were. The controller's actions are clipped to the action space.

    Args:
        run: run folder.
        make_env: makes a Gymnasium environment of `render_mode="rgb_array"`, a new one at each call: one an episode.
        success: `success(env, goal) -> bool`, asked after every environment step, with what `make_env` made and an
            `EnvGoal`; or the name of an entry of `info` that tells, such as "is_success".
        episodes: episodes of either policy; None takes 50, or one for each goal that is given.
        goals: frames (height, width, 3) uint8, pairs of a frame and a state, or `frame:EPISODE:INDEX`, taken in turn;
            None draws frames of held-out episodes.
        budget: environment steps in which the goal must be reached; None takes `eval.budget`.
        hold: last environment steps of the budget in which the goal must hold; 0 where reaching it once is enough.
        seed: of starts, goals, the random policy and the planner; None takes the run's.
        fit: how frames become squares, where the run does not say how its own did.
        command: where the run's actions are positions, `command(env)` gives the present one (A,) when an episode starts
            (such as where the robot's joints are); plans lead on from there.
        data: store; None takes the one that the run was trained on.
        device: auto, cpu, cuda or mps; None takes the run's setting.
        config: settings whose `eval`, `plan` and `seed` replace the run's; None keeps those.
        progress: show progress and the time left on standard error.

    Returns:
        Plain numbers, ready for JSON. Of the controller, and with `random_` before the name of the random policy:
        `successes`, `success_rate`, `ci95` (Wilson's interval), `solved_at` (for each episode its environment step,
        or that since which the goal holds; -1 for never) and `ended` (episodes that the environment ended before).
        `difference` of the two rates and `difference_ci95` (Newcombe's interval). `solved_at_start`: episodes that
        began in the goal; `same_starts`: that began with the same frame for both policies; `distinct`: how many
        differ in start or goal; `goal_episodes`: how many episodes of the store the goals come from.
        `seconds_per_plan`. `episodes`, `budget`, `hold`, `seed`, and `plan`, the settings of the planner. `better`:
        True, False, or None where that cannot be told; and `verdict`, one sentence.

    Raises:
        ValueError: the run, the store, the environment, the goals or `success` do not fit.
    """
    if str(run) in pretrained_names() and not Path(run).exists():
        raise ValueError(f"run={run}: no such folder; `lewm eval --pretrained {run}` measures the model of that name")
    of = open_run(run, data=data, device=device, config=config)
    require_actions(of)
    of = replace(of, config=replace(of.config, seed=of.config.seed if seed is None else seed))
    steps = of.config.eval.budget if budget is None else budget
    count = (EPISODES if goals is None else len(goals)) if episodes is None else episodes
    for name, value, least in (("episodes", count, 1), ("budget", steps, 1)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}; give a larger number")
    if not 0 <= hold <= steps:
        raise ValueError(f"hold={hold}: must be 0 to the budget of {steps} steps; use 0 where reaching once is enough")
    if (command is None) == of.space.relative:
        raise ValueError(
            "command=None: the run's actions are positions, planned from the present one on; give a function of the "
            "environment, such as one that tells where its joints are"
            if command is None
            else "command: the run's actions are no positions, and no plan starts from one; leave it out"
        )
    fitted = _fitter(of.spec, fit)
    wanted = _draw_goals(of, count) if goals is None else _given_goals(of.store, goals, count, fitted)
    with contextlib.ExitStack() as stack:
        envs = _make_envs(make_env, count, stack, of.spec)
        fleet = _Fleet(envs, wanted, success, fitted, budget=steps, hold=hold, seed=of.config.seed)
        policy = _ModelPolicy(of, np.stack([goal.frame for goal in wanted]), envs, command)
        with show_progress(progress) as stage:
            with stage("the controller", steps) as tick:
                ours = fleet.drive(policy, pause=policy.pause, newest=policy.newest, tick=tick)
            with stage("a random policy", steps) as tick:
                chance = fleet.drive(fleet.random_actions, pause=1, newest=0, tick=tick)
    asked = {"episodes": count, "budget": steps, "hold": hold, "seed": of.config.seed}
    return _results(asked, of.config, wanted, ours, chance, policy)


@dataclass(frozen=True, slots=True)
class _Course:
    """What the episodes of a policy came to; see `evaluate_env`."""

    solved_at: NDArray[np.int64]
    ended: NDArray[np.bool_]
    solved_at_start: NDArray[np.bool_]
    first: Frames


class _Fleet:
    """The environments, one an episode, and the goals."""

    def __init__(
        self,
        envs: Sequence[gymnasium.Env],
        goals: Sequence[EnvGoal],
        success: Success,
        fit: Fit,
        *,
        budget: int,
        hold: int,
        seed: int,
    ) -> None:
        self._hold = hold
        self._envs, self._goals, self._success, self._fit, self._budget = envs, goals, success, fit, budget
        drawn = [np.random.SeedSequence([seed, number]).generate_state(2).tolist() for number in range(len(envs))]
        self._seeds, self._action_seeds = zip(*drawn, strict=True)

    def drive(self, policy: Policy, *, pause: int, newest: int, tick: Callable[[], None]) -> _Course:
        """Let a policy act from all starts until the budget is spent or every episode has ended.

        Args:
            policy: what acts.
            pause: environment steps of a model step, after which a frame is taken.
            newest: frames that the policy looks at, the last ones before a decision.
            tick: called after every environment step of the batch.
        """
        count = len(self._envs)
        inside = np.zeros((count, self._budget), dtype=bool)  # whether each step led into the goal
        over, ended = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        begun = [env.reset(seed=seed)[1] for env, seed in zip(self._envs, self._seeds, strict=True)]
        at_start = np.array([self._reached(number, info, at_start=True) for number, info in enumerate(begun)])
        first = np.stack([self._look(number) for number in range(count)])
        seen, going_on, done = first[:, None], np.arange(count), 0
        while done < self._budget and len(going_on):
            rows = policy(seen, going_on)[:, : self._budget - done]
            length = rows.shape[1]
            frames: dict[int, list[Frames]] = {number: [] for number in going_on.tolist()}
            for k in range(length):
                for number, row in zip(going_on.tolist(), rows[:, k], strict=True):
                    if over[number]:
                        continue
                    *_, terminated, truncated, info = self._envs[number].step(self._action(number, row))
                    inside[number, done + k] = self._reached(number, info)
                    if inside[number, done + k] and not self._hold:
                        over[number] = True
                    elif terminated or truncated:
                        over[number] = ended[number] = True
                    elif (k + 1) % pause == 0 and k + 1 > length - newest * pause:
                        frames[number].append(self._look(number))
                tick()
            done += length
            going_on = going_on[~over[going_on]]
            if newest and done < self._budget and len(going_on):
                seen = np.stack([np.stack(frames[number]) for number in going_on.tolist()])
        solved_at = np.where(inside.any(axis=1), inside.argmax(axis=1) + 1, -1)
        if self._hold:
            solved_at = held_from(inside, self._hold)
        return _Course(solved_at, ended & (solved_at < 0), at_start, first)

    def random_actions(self, _: Frames, going_on: NDArray[np.int64]) -> NDArray:
        """Draw every action of all episodes from the action space."""
        drawn = []
        for number in going_on.tolist():
            space = self._envs[number].action_space
            space.seed(self._action_seeds[number])
            drawn.append([space.sample() for _ in range(self._budget)])
        return np.array(drawn)

    def _look(self, number: int) -> Frames:
        return self._fit(rendered(self._envs[number]))

    def _action(self, number: int, row: NDArray) -> Any:
        """Return a row of actions as the environment takes it."""
        space = self._envs[number].action_space
        if isinstance(space, Discrete):
            return int(row)
        assert isinstance(space, Box)
        return np.clip(row.reshape(space.shape), space.low, space.high).astype(space.dtype)

    def _reached(self, number: int, info: dict[str, Any], *, at_start: bool = False) -> bool:
        if isinstance(self._success, str):
            if self._success in info:
                value = info[self._success]
            elif at_start:  # many environments tell it after a step alone
                return False
            else:
                told = ", ".join(map(str, info)) or "nothing"
                raise ValueError(f"success={self._success}: info has no such entry; it has {told[:150]}")
        else:
            value = self._success(self._envs[number], self._goals[number])
        if np.size(value) != 1 or np.asarray(value).item() not in (0, 1):
            told = " ".join(str(value).split())[:50] if np.size(value) == 1 else f"{np.size(value)} values"
            raise ValueError(f"success: gave {told}, must give True or False; compare a distance with a tolerance")
        return bool(value)


class _ModelPolicy:
    """The controller of a run, on rows of actions for the environment."""

    def __init__(
        self,
        of: Evaluation,
        goals: Frames,
        envs: Sequence[gymnasium.Env],
        command: Callable[[Any], npt.ArrayLike] | None,
    ) -> None:
        space, config = of.space, of.config
        generator = torch.Generator(space.device).manual_seed(config.seed)
        self._controller = LatentController(
            of.model, config, space, cost=of.learnt, proposal=of.proposal, batch=len(goals), generator=generator
        )
        self._goals, self._envs, self._command = goals, envs, command
        self._episodes = np.arange(len(goals))
        self._in_row = of.spec.steps_in_row
        self.pause = of.spec.steps_in_model_step
        """Environment steps of a model step."""
        self.newest = min(config.plan.execute, config.model.history)
        """Frames that a decision looks at, but for the first."""
        self.plans = 0
        """Plans made, one an episode and decision."""
        self.seconds = 0.0
        """Time spent in them."""

    def __call__(self, frames: Frames, going_on: NDArray[np.int64]) -> NDArray:
        if self._controller.last_plan is None:  # only now have the episodes started
            present = None if self._command is None else np.stack([self._command(env) for env in self._envs])
            self._controller.reset(self._goals, command=present)
        self._controller.keep(np.searchsorted(self._episodes, going_on))
        self._episodes = going_on
        began = time.perf_counter()
        rows = self._controller.act(frames)  # (E', L, n*A) or (E', L)
        self.seconds += time.perf_counter() - began
        self.plans += len(going_on)
        return rows if rows.ndim == 2 else rows.reshape(len(rows), rows.shape[1] * self._in_row, -1)


def _fitter(spec: RunSpec, fit: Literal["crop", "pad", "stretch"] | None) -> Fit:
    """Return what makes pictures into frames as those are that the run was trained on."""
    camera, known = spec.cameras[0], spec.cameras[0].fit or fit
    if fit is not None and fit != known:
        raise ValueError(f"fit={fit}: the run's frames were fitted by {known}; leave it out")
    if len(spec.cameras) > 1:
        names = ", ".join(camera.name for camera in spec.cameras)
        raise ValueError(
            f"cameras={names[:100]}: the run's frames are tiled of several cameras, and render() gives one picture; "
            "train on one camera"
        )
    fitter = FrameFitter(FrameFit(image_size=spec.image_size, fit=known or "crop", crop_box=camera.crop_box))

    def fitted(frame: Frames) -> Frames:
        if known is None and frame.ndim == 3 and frame.shape[0] != frame.shape[1]:
            raise ValueError(
                f"frame={frame.shape[1]}x{frame.shape[0]}: is no square, and the run does not say how its frames "
                "were fitted; give fit='crop', 'pad' or 'stretch'"
            )
        return np.array(fitter(frame))  # a copy: environments use their arrays again

    return fitted


def _make_envs(
    make_env: Callable[[], gymnasium.Env], count: int, stack: contextlib.ExitStack, spec: RunSpec
) -> list[gymnasium.Env]:
    """Make an environment an episode, and check each against the run."""
    if isinstance(make_env, gymnasium.Env) or not callable(make_env):
        raise ValueError(
            f"make_env={type(make_env).__name__}: must be a function that makes an environment, as lambda: MyEnv()"
        )
    envs: list[gymnasium.Env] = []
    for _ in range(count):
        env = make_env()
        if not isinstance(env, gymnasium.Env):
            raise ValueError(f"make_env: gave {type(env).__name__}, must give one gymnasium.Env; vectors do not do")
        if any(env.unwrapped is other.unwrapped for other in envs[-1:]):
            raise ValueError("make_env: gave the same environment twice; make a new one at each call")
        stack.callback(env.close)
        envs.append(env)
        if env.render_mode != "rgb_array":
            raise ValueError(
                f"render_mode={env.render_mode}: frames come from render(); make the environment with "
                "render_mode='rgb_array'"
            )
        kind, size = action_kind(env.action_space)
        wants = spec.action_kind, spec.action_size // spec.steps_in_row
        if (kind, size) != wants:
            raise ValueError(
                f"action_space={' '.join(str(env.action_space).split())[:100]}: is {kind} of size {size}, and the "
                f"model's actions are {wants[0]} of size {wants[1]}; give the environment that the data is of"
            )
    return envs


def _draw_goals(of: Evaluation, count: int) -> list[EnvGoal]:
    """Draw frames of held-out episodes, spread evenly over them."""
    rng = np.random.default_rng(of.config.seed)
    turns = np.resize(rng.permutation(of.held_out), count)
    start, length = of.store.episodes.start[turns], of.store.episodes.length[turns]
    return [_goal_of(of.store, int(place)) for place in start + rng.integers(length)]


def _goal_of(store: Store, place: int) -> EnvGoal:
    """Return the frame at a place of the store as a goal."""
    episode = int(episode_of(store, np.array([place]))[0])
    state = None if store.states is None else np.array(store.states[place])
    return EnvGoal(np.array(store.frames[place]), state, episode, place - int(store.episodes.start[episode]))


def _given_goals(store: Store, goals: Sequence[Given], count: int, fit: Fit) -> list[EnvGoal]:
    """Return as many goals as there are episodes, of those given in turn."""
    if len(goals) == 0:
        raise ValueError("goals=[]: is empty; leave it out to draw goals from held-out episodes")
    known = []
    for goal in goals:
        if isinstance(goal, str):
            known.append(_goal_of(store, frame_index(parse_frame(goal, "goal"), store, goal, "goal")))
            continue
        if isinstance(goal, tuple) and len(goal) == 2:
            goal = EnvGoal(goal[0], np.asarray(goal[1], dtype=np.float32))
        elif not isinstance(goal, EnvGoal):
            goal = EnvGoal(np.asarray(goal))
        known.append(replace(goal, frame=fit(goal.frame)))
    return [known[number % len(known)] for number in range(count)]


def _results(
    asked: dict[str, int],
    config: Config,
    goals: Sequence[EnvGoal],
    ours: _Course,
    chance: _Course,
    policy: _ModelPolicy,
) -> dict[str, Any]:
    count, results = len(goals), dict[str, Any](asked)
    for prefix, course in (("", ours), ("random_", chance)):
        successes = int((course.solved_at >= 0).sum())
        results |= {
            f"{prefix}successes": successes,
            f"{prefix}success_rate": successes / count,
            f"{prefix}ci95": list(wilson_interval(successes, count)),
            f"{prefix}solved_at": course.solved_at.tolist(),
            f"{prefix}ended": int(course.ended.sum()),
        }
    counts = results["successes"], count, results["random_successes"], count
    results |= {
        "difference": results["success_rate"] - results["random_success_rate"],
        "difference_ci95": list(newcombe_interval(*counts)),
        "solved_at_start": int(ours.solved_at_start.sum()),
        "distinct": len(
            {(start.tobytes(), goal.frame.tobytes()) for start, goal in zip(ours.first, goals, strict=True)}
        ),
        "same_starts": int((ours.first == chance.first).all(axis=(1, 2, 3)).sum()),
        "goal_episodes": len({goal.episode for goal in goals} - {None}),
        "seconds_per_plan": policy.seconds / policy.plans,  # of one environment, planned in a batch
        "plan": asdict(config.plan),
    }
    results["better"], results["verdict"] = env_verdict(results)
    return results
