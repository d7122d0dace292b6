"""Closed loop on a line: intervals, starts, the loop's bookkeeping, and each of its policies."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lewm.config import ActionConfig, Config, DataConfig, PlanConfig
from lewm.envs import Rule, make_task
from lewm.envs.task import Behaviour, Task
from lewm.evaluate.closed_loop import (
    Loop,
    ModelPolicy,
    cost_alone,
    newcombe_interval,
    planner_alone,
    random_policy,
    run_closed_loop,
    straight_policy,
    wilson_interval,
)
from lewm.evaluate.judge import Judge, reaches
from lewm.evaluate.starts import Starts
from lewm.families.compact.settings import CompactSettings
from lewm.plan import GoalCost, Region, RegionGoal, action_space

SIZE, SPEED, SKIP, BUDGET = 16, 0.1, 2, 12


class Line(Task):
    """Move a point along a line; every pixel's brightness is its place."""

    name: ClassVar[str] = "line"
    state_names: ClassVar[tuple[str, ...]] = ("x",)
    action_kind: ClassVar[Literal["continuous", "discrete"]] = "continuous"
    action_size: ClassVar[int] = 1

    @property
    def state(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def set_state(self, state: ArrayLike) -> None:
        raise NotImplementedError

    def success(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.bool_]:
        return self.distance(state, goal) < 0.051

    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        return np.abs(np.asarray(state, dtype=np.float64) - np.asarray(goal, dtype=np.float64))[..., 0]

    def moves(self, actions: ArrayLike) -> NDArray[np.float32]:
        return np.clip(np.asarray(actions, dtype=np.float32), -1.0, 1.0)

    def simulate(self, states: ArrayLike, actions: ArrayLike) -> NDArray[np.float32]:
        way = np.asarray(states)[:, None] + SPEED * self.moves(actions).cumsum(1)
        return np.clip(way, 0.0, 1.0).astype(np.float32)

    def straight_action(self, states: ArrayLike, goals: ArrayLike) -> NDArray:
        return np.clip((np.asarray(goals) - np.asarray(states)) / SPEED, -1.0, 1.0)

    def render_states(self, states: ArrayLike) -> NDArray[np.uint8]:
        grey = np.rint(255.0 * np.asarray(states)).astype(np.uint8)[:, :, None, None]
        return np.broadcast_to(grey, (len(grey), SIZE, SIZE, 3))

    def behaviour(self, seed: int) -> Behaviour:
        raise NotImplementedError

    def _draw_initial_state(self, rng: np.random.Generator) -> NDArray[np.float32]:
        raise NotImplementedError


class DiscreteLine(Line):
    """The same with three actions: left, stay and right."""

    action_kind: ClassVar[Literal["continuous", "discrete"]] = "discrete"
    action_size: ClassVar[int] = 3

    def moves(self, actions: ArrayLike) -> NDArray[np.float32]:
        return (np.asarray(actions)[..., None] - 1).astype(np.float32)


class Model:
    """Know the line: one token, which holds the place; its rollout errs by a factor."""

    device = torch.device("cpu")

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def encode(self, frames: Tensor, /) -> Tensor:
        return frames[:, 0, 0, :1].float()[:, None] / 255.0  # (B, 1, 1)

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        moves = actions if actions.is_floating_point() else (actions - 1).float()
        way = states[:, -1, 0] + self.gain * SPEED * moves.sum(-1).cumsum(1)  # (B, H)
        return way.clamp(0, 1)[..., None, None]


def apart(tokens: Tensor, goal: Tensor) -> Tensor:
    """Stand in for a learnt cost: the distance of the places."""
    return (tokens - goal).abs().mean((-2, -1))


def inverted(tokens: Tensor, goal: Tensor) -> Tensor:
    """Stand in for a learnt cost that errs by its sign."""
    return -apart(tokens, goal)


def model_policy(
    model: Model, config: Config, task: Task, starts: Starts, *, cost: GoalCost = apart, record: int = 0
) -> ModelPolicy:
    known: Any = model
    learnt: Any = cost
    return ModelPolicy(known, config, task, starts, action_space(config, device="cpu"), cost=learnt, record=record)


def make_starts_on_line(task: Task, count: int = 8) -> Starts:
    state = np.linspace(0.1, 0.3, count, dtype=np.float32)[:, None]
    goal = state + 0.6
    return Starts(np.arange(count), state, goal, task.render_states(goal))


def make_config(task: Task, **plan: Any) -> Config:
    kind, size = task.action_kind, task.action_size
    return Config(
        action=ActionConfig(kind=kind, size=size),
        data=DataConfig(frame_skip=SKIP),
        model=CompactSettings(image_size=SIZE, history=plan.pop("history", 1)),
        plan=PlanConfig(**{"horizon": 4, "candidates": 64, "elites": 8, "iterations": 2, "over": "sum"} | plan),
    )


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Wilson's interval from the literature: 8 of 10, and the limits at 0 and n
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_of_another_confidence() -> None:
    narrow, wide = wilson_interval(8, 10, confidence=0.5), wilson_interval(8, 10)
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]


def test_newcombe_interval() -> None:
    # examples (a) and (g) of Newcombe, 1998, table II, method 10
    assert newcombe_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert newcombe_interval(10, 10, 0, 20) == pytest.approx((0.6791, 1.0), abs=1e-4)


def test_loop_counts_environment_steps() -> None:
    task, seen, asked = Line(SIZE), [], []
    starts = Starts(
        np.arange(3),
        np.array([[0.0], [0.0], [0.0]], dtype=np.float32),
        np.array([[0.3], [0.0], [0.9]], dtype=np.float32),
        np.zeros((3, SIZE, SIZE, 3), np.uint8),
    )

    def right(states: NDArray[np.float32], episodes: NDArray[np.int64]) -> NDArray:
        seen.append(states)
        asked.append(episodes.tolist())
        return np.ones((len(states), 4, 1), dtype=np.float32)  # two model steps of two environment steps

    ticks = []
    loop = run_closed_loop(
        task, starts, right, reaches(task, starts), budget=6, frame_skip=SKIP, tick=lambda: ticks.append(1)
    )
    # reached in the middle of a model step; left at once; out of reach within the budget
    assert loop.solved_at.tolist() == [3, -1, -1]
    assert loop.success.tolist() == [True, False, False]
    np.testing.assert_allclose(loop.states[0, :, 0], 0.1 * np.minimum(np.arange(7), 3), atol=1e-6)  # its success stays
    np.testing.assert_allclose(loop.states[1, :, 0], 0.1 * np.arange(7), atol=1e-6)
    assert len(ticks) == 2
    assert asked == [[0, 1, 2], [1, 2]]
    np.testing.assert_allclose(seen[0][:, :, 0], np.zeros((3, 1)))
    np.testing.assert_allclose(seen[1][:, :, 0], np.tile([0.2, 0.4], (2, 1)), atol=1e-6)  # one state a model step


def test_loop_stops_when_every_goal_is_reached() -> None:
    task = Line(SIZE)
    starts = make_starts_on_line(task)
    calls = []

    def jump(states: NDArray[np.float32], _: NDArray[np.int64]) -> NDArray:
        calls.append(1)
        return np.ones((len(states), 8, 1), dtype=np.float32)

    loop = run_closed_loop(task, starts, jump, reaches(task, starts), budget=80, frame_skip=SKIP)
    assert loop.success.all()
    assert len(calls) == 1
    assert loop.states.shape == (8, 81, 1)
    for way, solved_at in zip(loop.states, loop.solved_at, strict=True):
        np.testing.assert_array_equal(way[solved_at:], np.broadcast_to(way[solved_at], way[solved_at:].shape))
        assert way[solved_at] > way[solved_at - 1]


def test_solved_episodes_cost_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is planned, simulated and drawn as if it had been alone, but for the random draws."""
    task = Line(SIZE)
    starts, config = make_starts_on_line(task, 3), make_config(task, history=2, iterations=4)
    goal = starts.state + np.array([[0.2], [0.6], [0.4]], dtype=np.float32)
    starts = replace(starts, goal_state=goal, goal_frame=task.render_states(goal))
    sizes: dict[str, list[int]] = {"rollout": [], "render_states": [], "simulate": []}

    def counted(of: Any, name: str) -> None:
        whole = getattr(of, name)

        def call(first: Any, *rest: Any) -> Any:
            sizes[name].append(len(first))
            return whole(first, *rest)

        monkeypatch.setattr(of, name, call)

    model = Model()
    policy = model_policy(model, config, task, starts)
    counted(model, "rollout")
    counted(task, "render_states")
    counted(task, "simulate")
    loop = run_closed_loop(task, starts, policy, reaches(task, starts), budget=BUDGET, frame_skip=SKIP)
    assert loop.success.all()
    assert len(set(loop.solved_at.tolist())) == 3
    # an episode that is solved at an environment step is decided for in the model steps up to it
    left = [int((loop.solved_at > step).sum()) for step in range(0, int(loop.solved_at.max()), SKIP)]
    assert left[0] == 3
    assert left[-1] == 1
    assert sizes["simulate"] == sizes["render_states"] == left
    assert policy.decisions == len(left)
    assert policy.plans == sum(left)
    scored = sum(left) * (config.plan.candidates * config.plan.iterations + 1)
    assert sum(sizes["rollout"]) == scored


@pytest.mark.parametrize("task_class", [Line, DiscreteLine])
def test_random_policy_is_uniform(task_class: type[Line]) -> None:
    task = task_class(SIZE)
    actions = random_policy(task, seed=0, length=400)(np.zeros((20, 1, 1), np.float32), np.arange(20))
    if task.action_kind == "continuous":
        assert actions.shape == (20, 400, 1)
        assert actions.dtype == np.float32
        assert np.histogram(actions, 4, (-1, 1))[0] == pytest.approx([2000] * 4, rel=0.1)
    else:
        assert actions.shape == (20, 400)
        assert np.bincount(actions.ravel()) == pytest.approx([8000 / 3] * 3, rel=0.1)


@pytest.mark.parametrize("task_class", [Line, DiscreteLine])
@pytest.mark.parametrize("over", ["last", "sum"])
def test_split_names_the_part_that_fails(task_class: type[Line], over: Literal["last", "sum"]) -> None:
    task = task_class(SIZE)
    # With the last step's cost alone, planning anew at each step puts arriving off: such plans are carried out whole.
    execute = 4 if over == "last" else 1
    starts, config = make_starts_on_line(task), make_config(task, over=over, execute=execute, iterations=4)
    space = action_space(config, device="cpu")

    def rate(policy: Any) -> float:
        success = reaches(task, starts)
        return float(run_closed_loop(task, starts, policy, success, budget=BUDGET, frame_skip=SKIP).success.mean())

    def model_rate(model: Model, cost: GoalCost = apart) -> float:
        return rate(model_policy(model, config, task, starts, cost=cost))

    def cost_rate(model: Any, cost: GoalCost = apart) -> float:
        return rate(cost_alone(model, cost, task, starts, space, config.plan, seed=0))

    assert rate(planner_alone(task, starts, space, config.plan, seed=0)) == 1.0
    assert cost_rate(Model()) == model_rate(Model()) == 1.0
    # the cost is wrong: true dynamics do not help
    assert cost_rate(Model(), inverted) == model_rate(Model(), inverted) == 0.0
    # the model's dynamics are wrong: the cost alone still plans
    assert cost_rate(Model(gain=-1.0)) == 1.0
    assert model_rate(Model(gain=-1.0)) == 0.0


@pytest.mark.parametrize("history", [1, 3])
def test_model_policy_keeps_what_was_imagined(history: int) -> None:
    task = Line(SIZE)
    starts, config = make_starts_on_line(task), make_config(task, execute=2, history=history)
    policy = model_policy(Model(), config, task, starts, record=3)
    loop = run_closed_loop(task, starts, policy, reaches(task, starts), budget=8, frame_skip=SKIP)
    assert policy.decisions == len(policy.imagined) == 2
    assert policy.seconds > 0
    assert all(imagined.shape == (3, 4, 1, 1) for imagined in policy.imagined)
    # what a true model imagines is what comes
    came = loop.states[:3, [SKIP, 2 * SKIP]]
    np.testing.assert_allclose(policy.imagined[0][:, :2, 0].numpy(), came, atol=0.01)


def test_last_plan_of_an_ended_episode_stays() -> None:
    task = Line(SIZE)
    starts, config = make_starts_on_line(task, 4), make_config(task)
    goal = starts.state + np.array([[0.6], [0.2], [0.6], [0.6]], dtype=np.float32)
    starts = replace(starts, goal_state=goal, goal_frame=task.render_states(goal))
    policy = model_policy(Model(), config, task, starts, record=2)
    loop = run_closed_loop(task, starts, policy, reaches(task, starts), budget=BUDGET, frame_skip=SKIP)
    end = int(-(-loop.solved_at[1] // SKIP))  # decisions that were made for it
    assert 0 < end < -(-loop.solved_at[0] // SKIP)
    imagined = torch.stack(policy.imagined)  # (p, record, H, N, D)
    assert imagined.shape[:2] == (policy.decisions, 2)
    assert (imagined[end:, 1] == imagined[end - 1, 1]).all()
    # the other goes on, and a true model imagines what comes
    steps = np.minimum(np.arange(policy.decisions) * SKIP + SKIP, BUDGET)
    before_end = steps <= loop.solved_at[0]
    came = loop.states[0, steps[before_end]]
    np.testing.assert_allclose(imagined[before_end, 0, 0, 0].numpy(), came, atol=0.01)


def test_straight_policy_heads_for_each_episodes_own_goal() -> None:
    task = Line(SIZE)
    starts = make_starts_on_line(task, 3)
    goal = np.array([[0.0], [0.55], [0.9]], dtype=np.float32)
    starts = replace(starts, state=np.array([[0.2], [0.2], [0.2]], dtype=np.float32), goal_state=goal)
    loop = run_closed_loop(task, starts, straight_policy(task, starts), reaches(task, starts), budget=6, frame_skip=1)
    assert loop.solved_at.tolist() == [2, 3, -1]
    np.testing.assert_allclose(loop.states[2, -1], 0.8, atol=1e-6)


@pytest.mark.parametrize("task_class", [Line, DiscreteLine])
def test_model_pursues_a_region_and_not_the_frame(task_class: type[Line]) -> None:
    task = task_class(SIZE)
    config, wanted = make_config(task, iterations=4), RegionGoal({"x": (0.55, 0.7)})
    low, high = torch.tensor([[0.55], [0.7]])
    region = Region(lambda tokens: tokens[..., 0, :], low, high, torch.ones(1))
    starts = replace(make_starts_on_line(task), region=region)  # the frames show places on the right of it

    rule = Rule(inside=lambda states, _: wanted.contains(np.asarray(states), task.state_names))
    judge = Judge(rule, starts.goal_state)

    def run(model: Model) -> Loop:
        policy = model_policy(model, config, task, starts)
        return run_closed_loop(task, starts, policy, judge, budget=BUDGET, frame_skip=SKIP)

    loop = run(Model())
    for start, way, solved_at in zip(starts.state, loop.states, loop.solved_at, strict=True):
        assert 0.55 <= way[solved_at, 0] <= 0.7, start
        assert not 0.55 <= way[solved_at - 1, 0] <= 0.7, start
    assert loop.success.all()
    assert starts.first(3).region is region
    assert run(Model(gain=-1.0)).success.mean() == 0.0


def test_an_arm_is_driven_to_the_end_and_counts_what_it_holds() -> None:
    task = make_task("arm", 16)
    state = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]], dtype=np.float32)
    goal = np.array([[0.5, 0.5, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]], dtype=np.float32)
    starts = Starts(np.arange(2), state, goal, np.zeros((2, 16, 16, 3), dtype=np.uint8))
    loop = run_closed_loop(task, starts, straight_policy(task, starts), reaches(task, starts), budget=30, frame_skip=1)
    assert loop.success.all()
    assert 3 < loop.solved_at[0] < 12  # the servo takes some steps
    assert loop.solved_at[1] == 1

    def passing(states: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Come through the goal, and go on."""
        return np.full((len(states), 1, 2), 2.0)

    assert not run_closed_loop(task, starts, passing, reaches(task, starts), budget=30, frame_skip=1).success.any()
