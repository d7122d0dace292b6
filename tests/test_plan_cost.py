"""Costs of predicted representations, and the rollout of every candidate in one batch."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import PlanConfig
from lewm.plan import (
    ActionSpace,
    GoalCost,
    Region,
    corrected_rollout,
    cost,
    goal_cost,
    latent_cost_fn,
    over_horizon,
    planning_cost,
    pooled_cost,
    tokens_cost,
)
from lewm.plan.steps_to_go import StepsToGo

B, K, H, N, D = 2, 3, 4, 5, 6


class Drift:
    """A world whose tokens move by the action's sum, and by the past actions' sum once; it keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.grad: list[bool] = []

    def encode(self, frames: Tensor, /) -> Tensor:
        return frames.float().flatten(1)[:, None]

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        self.batches.append(len(states))
        self.grad.append(torch.is_grad_enabled())
        moved = past_actions.sum((1, 2))[:, None] + actions.sum(2).cumsum(1)  # (B, H)
        weight = torch.arange(1.0, 1 + states.shape[2] * states.shape[3]).reshape(states.shape[2:])
        return states.mean(1)[:, None] + moved[..., None, None] * weight


def steps_to_go(tokens: Tensor, goal: Tensor) -> Tensor:
    """Stand in for a learnt cost, and one that is not symmetric."""
    return (tokens - goal).abs().amax((-2, -1)) + tokens[..., 0, 0]


COSTS: dict[str, GoalCost] = {"tokens": tokens_cost, "pooled": pooled_cost, "steps_to_go": steps_to_go}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_distances_against_numpy() -> None:
    pred, goal = random(B, K, H, N, D), random(B, N, D, seed=1)
    tokens, pooled, steps = (goal_cost(of, pred, goal) for of in COSTS.values())
    assert tokens.shape == pooled.shape == steps.shape == (B, K, H)
    for b, k, h in np.ndindex(B, K, H):
        s, g = pred[b, k, h].numpy(), goal[b].numpy()
        np.testing.assert_allclose(tokens[b, k, h], np.square(s - g).sum() / (N * D), rtol=1e-5)
        np.testing.assert_allclose(pooled[b, k, h], np.square(s.mean(0) - g.mean(0)).mean(), rtol=1e-5)
        np.testing.assert_allclose(steps[b, k, h], np.abs(s - g).max() + s[0, 0], rtol=1e-5)


def test_goal_costs_nothing_and_pooling_forgets_places() -> None:
    goal = random(B, N, D)
    pred = goal[:, None, None].expand(B, K, H, N, D)
    assert goal_cost(tokens_cost, pred, goal).eq(0).all()
    moved = pred.roll(1, dims=3)  # the same tokens at other positions
    torch.testing.assert_close(goal_cost(pooled_cost, moved, goal), torch.zeros(B, K, H), atol=1e-12, rtol=0)
    assert goal_cost(tokens_cost, moved, goal).gt(0.1).all()


def test_over_horizon() -> None:
    costs = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 0.5]])
    assert over_horizon(costs, "last").tolist() == [4.0, 0.5]
    assert over_horizon(costs, "sum").tolist() == [7.0, 3.5]


def continuous(hold: bool = False) -> ActionSpace:
    size = 1 if hold else 2  # frame-skip 2 of a one-dimensional action
    return ActionSpace(
        kind="continuous", size=size, low=-torch.ones(size), high=torch.ones(size), frame_skip=2, hold=hold
    )


@pytest.mark.parametrize("kind", ["tokens", "pooled", "steps_to_go"])
@pytest.mark.parametrize("over", ["last", "sum"])
@pytest.mark.parametrize("hold", [False, True])
def test_latent_cost_is_that_of_single_rollouts(kind: str, over: Literal["last", "sum"], hold: bool) -> None:
    model, space = Drift(), continuous(hold)
    tokens, past, goal = random(B, 3, N, D), random(B, 2, 2, seed=1), random(B, N, D, seed=2)
    actions = random(B, K, H, space.size, seed=3)
    costs = latent_cost_fn(model, tokens, past, goal, space, COSTS[kind], over=over)(actions)
    assert costs.shape == (B, K)
    for b, k in np.ndindex(B, K):
        step = actions[b, k].repeat(1, 2) if hold else actions[b, k]
        pred = model.rollout(tokens[b, None], past[b, None], step[None])[0]  # (H, N, D)
        one = COSTS[kind](pred, goal[b])  # (H,)
        torch.testing.assert_close(costs[b, k], one[-1] if over == "last" else one.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("over", ["last", "sum"])
def test_latent_cost_of_a_region_is_that_of_single_rollouts(
    over: Literal["last", "sum"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "CPU_ROLLOUT_BATCH", 2)  # all chunks and environments share the region
    model, space = Drift(), continuous()
    region = Region(
        lambda tokens: tokens[..., 0, :2], torch.tensor([2.0, -1.0]), torch.tensor([2.5, 9.0]), torch.ones(2)
    )
    tokens, past, actions = random(B, 3, N, D), random(B, 2, 2, seed=1), random(B, K, H, 2, seed=3)
    costs = latent_cost_fn(model, tokens, past, region, space, steps_to_go, over=over)(actions)
    assert costs.shape == (B, K)
    for b, k in np.ndindex(B, K):
        pred = model.rollout(tokens[b, None], past[b, None], actions[b, k][None])[0]  # (H, N, D)
        steps = [np.linalg.norm([max(2 - x, x - 2.5, 0), max(-1 - y, y - 9, 0)]) for x, y in pred[:, 0, :2].tolist()]
        assert costs[b, k].item() == pytest.approx(steps[-1] if over == "last" else sum(steps), rel=1e-4)


def test_chunks_give_the_same_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, space = Drift(), continuous()
    tokens, past, goal = random(3, 1, N, D), torch.zeros(3, 0, 2), random(3, N, D, seed=2)
    actions = random(3, 7, H, 2, seed=3)
    cost_fn = latent_cost_fn(model, tokens, past, goal, space, tokens_cost, over="last")
    whole = cost_fn(actions)
    assert model.batches == [21]
    monkeypatch.setattr(cost, "CPU_ROLLOUT_BATCH", 5)  # no divisor of 7 or 21: chunks end within environments
    torch.testing.assert_close(cost_fn(actions), whole)
    assert model.batches == [21, 5, 5, 5, 5, 1]


def test_a_correction_is_added_to_every_step_before_the_next_one_starts() -> None:
    """Drift starts from the mean of the frames it is given: each prediction weighs in with its correction."""
    model, correction = Drift(), random(B, N, D, seed=3)
    tokens, past, future = random(B, 2, N, D), random(B, 1, 2, seed=1), random(B, 3, 2, seed=2)
    pred = corrected_rollout(model, tokens, past, future, correction)
    assert pred.shape == (B, 3, N, D)
    frames, actions = tokens, past
    for k in range(3):
        expected = model.rollout(frames, actions, future[:, k : k + 1])[:, -1] + correction
        torch.testing.assert_close(pred[:, k], expected)
        frames = torch.cat((frames, expected[:, None]), dim=1)
        actions = torch.cat((actions, future[:, k : k + 1]), dim=1)
    plain = corrected_rollout(model, tokens, past, future, None)
    torch.testing.assert_close(plain, model.rollout(tokens, past, future))


def test_no_gradients_are_kept() -> None:
    model = Drift()
    tokens = random(B, 1, N, D).requires_grad_()
    learnt = StepsToGo(N, D)
    cost_fn = latent_cost_fn(model, tokens, torch.zeros(B, 0, 2), random(B, N, D), continuous(), learnt, over="last")
    assert not cost_fn(random(B, K, H, 2)).requires_grad
    assert model.grad == [False]


def test_discrete_actions_reach_the_model_as_integers() -> None:
    space = ActionSpace(
        kind="discrete", size=1, low=torch.zeros(1), high=torch.ones(1), num_actions=2, frame_skip=2, hold=True
    )
    given: list[tuple[Tensor, Tensor]] = []

    class Keeper(Drift):
        def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
            given.append((past_actions, actions))
            return super().rollout(states, past_actions, actions)

    past = torch.ones((B, 1, 2), dtype=torch.int64)
    cost_fn = latent_cost_fn(Keeper(), random(B, 2, N, D), past, random(B, N, D), space, tokens_cost, over="last")
    cost_fn(torch.randint(0, 2, (B, K, H, 1), generator=torch.Generator()))
    ((before, coming),) = given
    assert before.dtype == coming.dtype == torch.int64
    assert (before.shape, coming.shape) == ((B * K, 1, 2), (B * K, H, 2))
    assert torch.equal(coming[..., 0], coming[..., 1])


def test_the_settings_name_the_cost() -> None:
    learnt = StepsToGo(N, D)
    assert planning_cost(PlanConfig(cost="tokens"), learnt) is tokens_cost
    assert planning_cost(PlanConfig(cost="pooled"), None) is pooled_cost
    assert planning_cost(PlanConfig(cost="steps_to_go"), learnt) is learnt
    with pytest.raises(
        ValueError, match=r"^plan\.cost=steps_to_go: this cost was not learnt; .*use plan\.cost tokens$"
    ):
        planning_cost(PlanConfig(cost="steps_to_go"), None)


@torch.no_grad()
def test_a_learnt_cost_broadcasts_and_is_none_at_the_goal() -> None:
    learnt = StepsToGo(N, D)
    pred, goal = random(B, K, H, N, D), random(B, N, D, seed=1)
    costs = goal_cost(learnt, pred, goal)
    assert costs.shape == (B, K, H)
    for b, k, h in np.ndindex(B, K, H):
        torch.testing.assert_close(costs[b, k, h], learnt(pred[b, k, h], goal[b]))
    torch.testing.assert_close(learnt(pred, goal[:, None, None]), learnt(goal[:, None, None], pred))  # there and back
    assert learnt(goal, goal).max() <= 1.001e-3 < costs.min()
