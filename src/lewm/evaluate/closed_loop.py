"""Closed loop from held-out starts: the model's planner, a random policy, and what planner and cost reach on their own.

Everything runs on states through the task's true dynamics, all episodes in one batch. A policy gets the states that a
controller has reached since its last decision, one a model step, and turns them into what it may see: frames for the
model, the state itself for the planner alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.config import Config, PlanConfig
from lewm.data.store import Store
from lewm.envs import Task
from lewm.evaluate.frames import encode_frames
from lewm.model import FrameModel
from lewm.plan import ActionSpace, LatentController, RecedingHorizon, Region, latent_cost_fn, over_horizon

Policy = Callable[[NDArray[np.float32]], NDArray]
"""Environment actions (E, L, A) or (E, L) from states (E, m, S): those after each model step since the last call."""
Success = Callable[[NDArray[np.float32]], NDArray[np.bool_]]
"""Whether states (E, L, S) of E episodes have reached their goals, (E, L)."""


@dataclass(frozen=True, slots=True)
class Starts:
    """Where episodes start, at a moment of a held-out trajectory, and where they shall end.

    Args:
        index: (E,) the start's frame in the store.
        state: (E, S) the start's state.
        goal_state: (E, S) the goal's state; NaN where the goal is more than one state.
        goal_frame: (E, height, width, 3) uint8, the goal's frame; black where the goal has none.
        region: What the model's plans are to reach instead of the goal's frame, for a goal given by the state.
    """

    index: NDArray[np.int64]
    state: NDArray[np.float32]
    goal_state: NDArray[np.float32]
    goal_frame: NDArray[np.uint8]
    region: Region | None = None

    def first(self, count: int) -> "Starts":
        """Return the first `count` episodes."""
        return replace(
            self,
            index=self.index[:count],
            state=self.state[:count],
            goal_state=self.goal_state[:count],
            goal_frame=self.goal_frame[:count],
        )


@dataclass(frozen=True, slots=True)
class Loop:
    """What closed-loop episodes came to.

    Args:
        solved_at: (E,) the environment step, from 1, at which the goal was first reached; -1 for never.
        states: (E, budget + 1, S) the way, from the start on. An episode goes on after its success, until all have
            succeeded; then the last state stays.
    """

    solved_at: NDArray[np.int64]
    states: NDArray[np.float32]

    @property
    def success(self) -> NDArray[np.bool_]:
        """Whether each goal was reached within the budget, (E,)."""
        return self.solved_at >= 0


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a success rate.

    Args:
        successes: Successes, 0 to `trials`.
        trials: Independent trials, at least 1.
        confidence: Share of such intervals that hold the true rate.
    """
    assert 0 <= successes <= trials
    assert trials > 0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def make_starts(store: Store, episodes: NDArray[np.int64], *, count: int, goal_offset: int, seed: int) -> Starts:
    """Draw starts and goals from held-out trajectories: the goal is the frame `goal_offset` environment steps ahead.

    Starts are spread evenly over the episodes. A goal that is as good as reached at the start is kept, as the published
    protocol keeps it; how many there are is reported.

    Args:
        store: A store with states.
        episodes: Held-out episodes.
        count: E, starts wanted; there are fewer when the episodes have fewer.
        goal_offset: Environment steps from start to goal.
        seed: Seed of the draw.

    Raises:
        ValueError: If no held-out episode is long enough.
    """
    assert store.states is not None
    rng = np.random.default_rng(seed)
    begin, end = store.episodes.start[episodes], (store.episodes.start + store.episodes.length)[episodes] - goal_offset
    per_episode = [rng.permutation(np.arange(*bounds)) for bounds in zip(begin.tolist(), end.tolist(), strict=True)]
    index = np.concatenate(per_episode)
    if len(index) == 0:
        longest = int(store.episodes.length[episodes].max())
        raise ValueError(
            f"eval.goal_offset={goal_offset}: held-out episodes of {store.path} have at most {longest} frames; "
            f"use at most {longest - 1} or longer episodes"
        )
    turn = np.concatenate([np.arange(len(part)) for part in per_episode])  # the first start of each episode comes first
    index = index[np.lexsort((rng.random(len(index)), turn))][:count]
    goal = index + goal_offset
    return Starts(index, store.states[index], store.states[goal], store.frames[goal])


def run_closed_loop(
    task: Task,
    starts: Starts,
    policy: Policy,
    success: Success,
    *,
    budget: int,
    frame_skip: int,
    tick: Callable[[], None] | None = None,
) -> Loop:
    """Let a policy act from every start, all in one batch, until the budget is spent or every goal is reached.

    Args:
        task: The true dynamics.
        starts: E starts and goals.
        policy: Called with the start, then with the states (E, m, S) after each of the m model steps that it asked for.
        success: Tells which states have reached the goals.
        budget: Environment steps of an episode.
        frame_skip: Environment steps of a model step.
        tick: Called after every decision.
    """
    ways, done = [starts.state[:, None]], 0
    solved_at = np.full(len(starts.state), -1, dtype=np.int64)
    seen = starts.state[:, None]
    while done < budget and (solved_at < 0).any():
        actions = policy(seen)[:, : budget - done]
        way = task.simulate(ways[-1][:, -1], actions)  # (E, L, S)
        reached = success(way)  # (E, L)
        newly = (solved_at < 0) & reached.any(axis=1)
        solved_at[newly] = done + 1 + reached[newly].argmax(axis=1)
        seen = way[:, frame_skip - 1 :: frame_skip]
        ways.append(way)
        done += actions.shape[1]
        if tick is not None:
            tick()
    states = np.concatenate(ways, axis=1)
    rest = np.repeat(states[:, -1:], budget + 1 - states.shape[1], axis=1)
    return Loop(solved_at, np.concatenate([states, rest], axis=1))


def reaches(task: Task, starts: Starts) -> Success:
    """Return the task's own test: whether states (E, L, S) are as good as the goals' states."""
    return lambda states: task.success(states, starts.goal_state[:, None])


def random_policy(task: Task, *, seed: int, length: int) -> Policy:
    """Return a policy that draws every action uniformly from the task's space, `length` environment steps at once."""
    rng = np.random.default_rng(seed)
    space = task.action_space

    def act(states: NDArray[np.float32]) -> NDArray:
        if task.action_kind == "discrete":
            return rng.integers(task.action_size, size=(len(states), length))
        shape = (len(states), length, task.action_size)
        return rng.uniform(space.low, space.high, shape).astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]

    return act


class ModelPolicy:
    """The model: frames in, planned by the latent cost of the model's own rollouts."""

    def __init__(
        self, model: FrameModel, config: Config, task: Task, starts: Starts, space: ActionSpace, *, record: int = 0
    ) -> None:
        """Set the controller up.

        Args:
            model: World model in evaluation mode.
            config: Settings of the run.
            task: Draws the frames.
            starts: E starts and goals.
            space: What is searched.
            record: First episodes whose imagined representations are kept.
        """
        generator = torch.Generator(space.device).manual_seed(config.seed)
        self._controller = LatentController(model, config, space, batch=len(starts.state), generator=generator)
        self._controller.reset(starts.goal_frame if starts.region is None else starts.region)
        self._task, self._record = task, record
        self._newest = min(config.plan.execute, config.model.history)
        self.imagined: list[Tensor] = []
        """For each decision, the representations (record, H, N, D) that its plan is predicted to lead through."""
        self.decisions = 0
        """Plans made, each for all environments at once."""
        self.seconds = 0.0
        """Time spent in them, encoding included, drawing frames not."""

    def __call__(self, states: NDArray[np.float32]) -> NDArray:
        states = states[:, -self._newest :]
        frames = self._task.render_states(states.reshape(-1, states.shape[-1]))
        frames = frames.reshape(*states.shape[:2], *frames.shape[1:])
        began = time.perf_counter()
        actions = self._controller.act(frames)
        self.seconds += time.perf_counter() - began
        self.decisions += 1
        if self._record:
            self.imagined.append(self._controller.imagined()[: self._record].cpu())
        return actions


def planner_alone(task: Task, starts: Starts, space: ActionSpace, plan: PlanConfig, *, seed: int) -> Policy:
    """Return the planner with nothing learnt: the true distance of the true dynamics' states as its cost.

    Args:
        task: The true dynamics and distance.
        starts: E starts and goals.
        space: What is searched.
        plan: The planner and its numbers, the same as the model's.
        seed: Seed of the search.
    """
    planner = RecedingHorizon(
        plan, space, batch=len(starts.state), generator=torch.Generator(space.device).manual_seed(seed)
    )

    def act(states: NDArray[np.float32]) -> NDArray:
        def cost_fn(actions: Tensor) -> Tensor:  # (B, K, H, a) -> (B, K)
            batch, candidates = actions.shape[:2]
            begin = np.repeat(states[:, -1], candidates, axis=0)
            ways = simulate_model_steps(task, begin, space.expand(actions).flatten(0, 1), space, plan.over)
            distance = task.distance(ways, np.repeat(starts.goal_state, candidates, axis=0)[:, None])  # (B*K, H)
            costs = torch.from_numpy(np.asarray(distance, dtype=np.float32)).to(space.device)
            return over_horizon(costs, plan.over).view(batch, candidates)

        return _first_steps(planner, cost_fn, space, plan)

    return act


def cost_alone(
    model: FrameModel, task: Task, starts: Starts, space: ActionSpace, plan: PlanConfig, *, seed: int
) -> Policy:
    """Return the planner with the latent cost, but of the frames that the true dynamics lead to.

    Args:
        model: World model in evaluation mode; it encodes, and predicts nothing.
        task: The true dynamics.
        starts: E starts and goals.
        space: What is searched.
        plan: The planner, its numbers and its cost, the same as the model's.
        seed: Seed of the search.
    """
    planner = RecedingHorizon(
        plan, space, batch=len(starts.state), generator=torch.Generator(space.device).manual_seed(seed)
    )
    true_model = TrueModel(model, task, space, plan)
    goal = encode_frames(model.encode, starts.goal_frame, model.device)

    def act(states: NDArray[np.float32]) -> NDArray:
        begin = torch.from_numpy(states[:, -1].copy()).to(space.device)[:, None]  # (B, T=1, S)
        shape = (len(begin), 0, space.size)
        nothing = torch.zeros(shape, dtype=torch.int64 if space.kind == "discrete" else torch.float32)
        past = space.expand(nothing.to(space.device))
        return _first_steps(planner, latent_cost_fn(true_model, begin, past, goal, space, plan), space, plan)

    return act


class TrueModel:
    """A world model that knows the true dynamics: its rollout draws and encodes the frames that really come."""

    def __init__(self, model: FrameModel, task: Task, space: ActionSpace, plan: PlanConfig) -> None:
        self._model, self._task, self._space, self._plan = model, task, space, plan

    def encode(self, frames: Tensor, /) -> Tensor:
        """Represent frames as the model does."""
        return self._model.encode(frames)

    def steps_to_go(self, tokens: Tensor, goal: Tensor, /) -> Tensor:
        """Estimate steps as the model does."""
        return self._model.steps_to_go(tokens, goal)

    @torch.no_grad()
    def rollout(self, states: Tensor, actions: Tensor, /) -> Tensor:
        """Represent what comes of model actions (B, H, f*A) from states (B, 1, S), (B, H, N, D).

        When only the last step counts, only that one is drawn: (B, 1, N, D).
        """
        ways = simulate_model_steps(self._task, states[:, -1].cpu().numpy(), actions, self._space, self._plan.over)
        frames = self._task.render_states(ways.reshape(-1, ways.shape[-1]))
        return encode_frames(self._model.encode, frames, self._model.device).unflatten(0, ways.shape[:2])


def simulate_model_steps(
    task: Task, states: NDArray[np.float32], actions: Tensor, space: ActionSpace, over: str
) -> NDArray[np.float32]:
    """Follow the true dynamics through model actions (M, H, f*A) or (M, H, f), from states (M, S).

    Returns:
        States (M, H, S) after each model step; (M, 1, S), the last one, when `over` is "last".
    """
    ways = task.simulate(states, space.to_env(actions).flatten(1, 2).cpu().numpy())
    return ways[:, -1:] if over == "last" else ways[:, space.frame_skip - 1 :: space.frame_skip]


def _first_steps(
    planner: RecedingHorizon, cost_fn: Callable[[Tensor], Tensor], space: ActionSpace, plan: PlanConfig
) -> NDArray:
    """Plan, and return the environment actions (B, execute * f, A) or (B, execute * f) to carry out."""
    chosen = planner.plan(cost_fn).actions[:, : plan.execute]
    return space.to_env(space.expand(chosen)).flatten(1, 2).cpu().numpy()
