"""Closed loop from held-out starts: the model's planner, a random policy, and what planner and cost reach on their own.

Everything runs on states through the task's true dynamics, all episodes in one batch, which a solved episode leaves. A
policy gets the states that a controller has reached since its last decision, one a model step, and turns them into what
it may see: frames for the model, the state itself for the planner alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.config import Config, PlanConfig
from lewm.envs import Task
from lewm.evaluate.frames import encode_frames
from lewm.evaluate.judge import Judge, Watch
from lewm.evaluate.starts import Starts
from lewm.families.family import PolicyModel, WorldModel
from lewm.plan import (
    ActionSpace,
    CostFn,
    GoalCost,
    LatentController,
    Proposal,
    RecedingHorizon,
    StepsToGo,
    latent_cost_fn,
    over_horizon,
)

Policy = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray]
"""Environment actions (E', L, A) or (E', L) from states (E', m, S), those after each model step since the last call,
and the numbers (E',) of the episodes that go on: increasing, each among those of the last call."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What closed-loop episodes came to.

    Args:
        solved_at: (E,) the environment step, from 1, with which the episode succeeded; -1 for never.
        states: (E, budget + 1, S) the way, from the start on. An episode ends with its success, whose state stays.
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
    # where the bound is exact, rounding would leave 1e-18 of it
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half


def newcombe_interval(
    successes: int, trials: int, other_successes: int, other_trials: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the difference of two success rates, the first less the other.

    Newcombe's hybrid score interval (1998, method 10), of independent trials. It is wide for two policies that met the
    same starts, since what is easy for one is mostly easy for the other.

    Args:
        successes: Successes, 0 to `trials`.
        trials: Independent trials, at least 1.
        other_successes: Successes that are compared with.
        other_trials: Their trials.
        confidence: Share of such intervals that hold the true difference.
    """
    low, high = wilson_interval(successes, trials, confidence=confidence)
    other_low, other_high = wilson_interval(other_successes, other_trials, confidence=confidence)
    rate, other = successes / trials, other_successes / other_trials
    return (
        rate - other - sqrt((rate - low) ** 2 + (other_high - other) ** 2),
        rate - other + sqrt((high - rate) ** 2 + (other - other_low) ** 2),
    )


def paired_interval(
    both: int, first: int, other: int, neither: int, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the difference of two success rates on the same starts, the first less the other.

    Newcombe's hybrid score interval of paired proportions (1998, method 10): Wilson's intervals, drawn together by how
    much the two go with each other. Two that succeed on all of 200 starts differ by -1.9 to 1.9 points.

    Args:
        both: Starts that both solved.
        first: Starts that the first alone solved.
        other: Starts that the other alone solved.
        neither: Starts that none solved.
        confidence: Share of such intervals that hold the true difference.
    """
    trials, successes, other_successes = both + first + other + neither, both + first, both + other
    low, high = wilson_interval(successes, trials, confidence=confidence)
    other_low, other_high = wilson_interval(other_successes, trials, confidence=confidence)
    rate, other_rate = successes / trials, other_successes / trials
    together = both * neither - first * other
    if together > 0:  # corrected for continuity
        together = max(together - trials / 2, 0)
    spread = sqrt(successes * (trials - successes) * other_successes * (trials - other_successes))
    phi = together / spread if spread else 0.0

    def half(a: float, b: float) -> float:
        return sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    return (
        rate - other_rate - half(rate - low, other_high - other_rate),
        rate - other_rate + half(high - rate, other_rate - other_low),
    )


def run_closed_loop(
    task: Task,
    starts: Starts,
    policy: Policy,
    judge: Judge,
    *,
    budget: int,
    frame_skip: int,
    tick: Callable[[], None] | None = None,
) -> Loop:
    """Let a policy act from every start, all in one batch, until the budget is spent or every goal is reached.

    An episode that succeeds leaves the batch: nothing is decided, simulated or drawn for it any more. Where the rule
    wants a goal to be held at the end, for the last steps of the budget, every episode lasts for all of it.

    Args:
        task: The true dynamics.
        starts: E starts and goals.
        policy: Called with the starts, then with the states (E', m, S) after each of the m model steps that it asked
            for, of the episodes that have not reached their goals.
        judge: Tells which states are at the goals, and what success is.
        budget: Environment steps of an episode.
        frame_skip: Environment steps of a model step.
        tick: Called after every decision.
    """
    states = np.repeat(starts.state[:, None], budget + 1, axis=1)
    solved_at = np.full(len(states), -1, dtype=np.int64)
    going_on, seen, done = np.arange(len(states)), states[:, :1], 0
    watch = Watch(judge, len(states))
    while done < budget and len(going_on):
        actions = policy(seen, going_on)[:, : budget - done]
        way = task.simulate(states[going_on, done], actions)  # (E', L, S)
        after = slice(done + 1, done + 1 + way.shape[1])
        states[going_on, after] = way
        states[going_on, after.stop :] = way[:, -1:]
        reached = watch.succeeds(states[going_on, done], way, going_on)  # (E', L)
        solved = reached.any(axis=1)
        for episode, step in zip(going_on[solved], after.start + reached[solved].argmax(axis=1), strict=True):
            solved_at[episode] = step
            states[episode, step:] = states[episode, step]
        seen, going_on = way[~solved, frame_skip - 1 :: frame_skip], going_on[~solved]
        done += way.shape[1]
        if tick is not None:
            tick()
    if judge.rule.at_end:
        solved_at = watch.held_since(budget)
    return Loop(solved_at, states)


def random_policy(task: Task, *, seed: int, length: int) -> Policy:
    """Return a policy that draws every action uniformly from the task's space, `length` environment steps at once."""
    rng = np.random.default_rng(seed)
    space = task.action_space

    def act(states: NDArray[np.float32], _: NDArray[np.int64]) -> NDArray:
        if task.action_kind == "discrete":
            return rng.integers(task.action_size, size=(len(states), length))
        shape = (len(states), length, task.action_size)
        return rng.uniform(space.low, space.high, shape).astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]

    return act


def straight_policy(task: Task, starts: Starts) -> Policy:
    """Return a policy that sees the true state and moves straight to the goal, one environment step at once."""

    def act(states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray:
        return task.straight_action(states[:, -1], starts.goal_state[episodes])[:, None]

    return act


class ModelPolicy:
    """The model: frames in, planned by the latent cost of the model's own rollouts."""

    def __init__(
        self,
        model: WorldModel,
        config: Config,
        task: Task,
        starts: Starts,
        space: ActionSpace,
        *,
        cost: StepsToGo | None = None,
        proposal: Proposal | None = None,
        record: int = 0,
    ) -> None:
        """Set the controller up.

        Args:
            model: World model in evaluation mode.
            config: Settings of the run.
            task: Draws the frames.
            starts: E starts and goals.
            space: What is searched.
            cost: The run's learnt cost, if it has one.
            proposal: The run's proposal, if it has one.
            record: First episodes whose imagined representations are kept.
        """
        generator = torch.Generator(space.device).manual_seed(config.seed)
        self._controller = LatentController(
            model, config, space, cost=cost, proposal=proposal, batch=len(starts.state), generator=generator
        )
        goal = starts.goal_frame if starts.region is None else starts.region
        self._controller.reset(goal, command=task.command(starts.state) if space.relative else None)
        self._task, self._record = task, record
        self._newest = min(config.plan.execute, config.model.history)
        self._episodes = np.arange(len(starts.state))
        self.imagined: list[Tensor] = []
        """For each decision, the representations (record, H, N, D) that its plan is predicted to lead through. Of an
        episode that has ended, the last plan stays."""
        self.decisions = 0
        """Decisions, each for all episodes that went on."""
        self.plans = 0
        """Plans made in them, one an episode."""
        self.seconds = 0.0
        """Time spent in them, encoding included, drawing frames not."""

    def __call__(self, states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray:
        self._controller.keep(np.searchsorted(self._episodes, episodes))
        self._episodes = episodes
        states = states[:, -self._newest :]
        frames = self._task.render_states(states.reshape(-1, states.shape[-1]))
        frames = frames.reshape(*states.shape[:2], *frames.shape[1:])
        began = time.perf_counter()
        actions = self._controller.act(frames)
        self.seconds += time.perf_counter() - began
        self.decisions += 1
        self.plans += len(episodes)
        if self._record:
            self.imagined.append(self._imagine(episodes[episodes < self._record]))
        return actions

    def recorded(self) -> Tensor:
        """Return what the plans of recorded episodes were predicted to lead through, (record, p, H, N, D)."""
        return torch.stack(self.imagined, dim=1)

    def _imagine(self, recorded: NDArray[np.int64]) -> Tensor:
        """Return what the present plans of recorded episodes lead through, beside the last ones of those that ended."""
        if len(recorded) == 0:
            return self.imagined[-1]
        now = self._controller.imagined()[: len(recorded)].cpu()  # recorded episodes are the first
        if not self.imagined:
            return now
        return self.imagined[-1].index_copy(0, torch.from_numpy(recorded), now)


class _Planned:
    """The planner, with a cost that is made of the true states."""

    def __init__(
        self,
        starts: Starts,
        space: ActionSpace,
        plan: PlanConfig,
        cost_at: Callable[[NDArray[np.float32], NDArray[np.int64], ActionSpace], CostFn],
        *,
        task: Task,
        seed: int,
    ) -> None:
        """Set the planner up; `cost_at` makes the cost at states (E', m, S) of the episodes (E',) that go on."""
        generator = torch.Generator(space.device).manual_seed(seed)
        self._planner = RecedingHorizon(plan, space, batch=len(starts.state), generator=generator)
        if space.relative:
            self._planner.reset(torch.from_numpy(task.command(starts.state)).to(space.device))
        self._execute, self._cost_at = plan.execute, cost_at
        self._episodes = np.arange(len(starts.state))

    def __call__(self, states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray:
        self._planner.keep(np.searchsorted(self._episodes, episodes))
        self._episodes = episodes
        space = self._planner.space
        plan = self._planner.plan(self._cost_at(states, episodes, space))
        return space.to_env(plan.actions[:, : self._execute]).flatten(1, 2).cpu().numpy()


def planner_alone(task: Task, starts: Starts, space: ActionSpace, plan: PlanConfig, *, seed: int) -> Policy:
    """Return the planner with nothing learnt: the true distance of the true dynamics' states as its cost.

    Args:
        task: The true dynamics and distance.
        starts: E starts and goals.
        space: What is searched.
        plan: The planner and its numbers, the same as the model's.
        seed: Seed of the search.
    """

    def cost_at(states: NDArray[np.float32], episodes: NDArray[np.int64], space: ActionSpace) -> CostFn:
        def cost_fn(actions: Tensor) -> Tensor:  # (B, K, H, a) -> (B, K)
            batch, candidates = actions.shape[:2]
            begin, goal = (np.repeat(x, candidates, axis=0) for x in (states[:, -1], starts.goal_state[episodes]))
            ways = simulate_model_steps(task, begin, space.expand(actions).flatten(0, 1), space, plan.over)
            distance = task.distance(ways, goal[:, None])  # (B*K, H)
            costs = torch.from_numpy(np.asarray(distance, dtype=np.float32)).to(space.device)
            return over_horizon(costs, plan.over).view(batch, candidates)

        return cost_fn

    return _Planned(starts, space, plan, cost_at, task=task, seed=seed)


def cost_alone(
    model: WorldModel, cost: GoalCost, task: Task, starts: Starts, space: ActionSpace, plan: PlanConfig, *, seed: int
) -> Policy:
    """Return the planner with the latent cost, but of the frames that the true dynamics lead to.

    Args:
        model: World model in evaluation mode; it encodes, and predicts nothing.
        cost: Of a representation for the goal's.
        task: The true dynamics.
        starts: E starts and goals.
        space: What is searched.
        plan: The planner and its numbers, the same as the model's.
        seed: Seed of the search.
    """
    true_model = TrueModel(model, task, space, plan)
    goals = encode_frames(model.encode, starts.goal_frame, model.device)

    def cost_at(states: NDArray[np.float32], episodes: NDArray[np.int64], space: ActionSpace) -> CostFn:
        begin = torch.from_numpy(states[:, -1].copy()).to(space.device)[:, None]  # (B, T=1, S)
        shape = (len(begin), 0, space.model_action_size)
        past = torch.zeros(shape, dtype=torch.int64 if space.kind == "discrete" else torch.float32, device=space.device)
        goal = goals[torch.from_numpy(episodes).to(goals.device)]
        return latent_cost_fn(true_model, begin, past, goal, space, cost, over=plan.over)

    return _Planned(starts, space, plan, cost_at, task=task, seed=seed)


class TrueModel:
    """A world model that knows the true dynamics: its rollout draws and encodes the frames that really come."""

    def __init__(self, model: WorldModel, task: Task, space: ActionSpace, plan: PlanConfig) -> None:
        self._model, self._task, self._space, self._plan = model, task, space, plan

    def encode(self, frames: Tensor, /) -> Tensor:
        """Represent frames as the model does."""
        return self._model.encode(frames)

    @torch.no_grad()
    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
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


class DecidingPolicy:
    """A model that decides by itself: frames in, actions out, without a plan."""

    def __init__(self, model: PolicyModel, task: Task, starts: Starts, space: ActionSpace) -> None:
        """Set the policy up for E starts and goals, with actions within the space."""
        self._model, self._task, self._goal, self._space = model, task, starts.goal_frame, space
        self.decisions, self.plans, self.seconds = 0, 0, 0.0

    def __call__(self, states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray:
        frames = self._task.render_states(states[:, -1])
        began, device = time.perf_counter(), self._model.device
        actions = self._model.decide(
            torch.from_numpy(frames).to(device), torch.from_numpy(self._goal[episodes]).to(device)
        )
        if self._space.kind == "continuous":
            actions = actions.clamp(*self._space.env_bounds).float()
        self.seconds += time.perf_counter() - began
        self.decisions += 1
        self.plans += len(episodes)
        return actions.cpu().numpy()
