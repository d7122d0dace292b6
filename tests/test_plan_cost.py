"""Costs of predicted representations, and the rollout of every candidate in one batch."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import PlanConfig
from lewm.plan import (
    ActionSpace,
    Region,
    corrected_rollout,
    cost,
    latent_cost_fn,
    over_horizon,
    pooled_cost,
    steps_to_go_cost,
    tokens_cost,
)

B, K, H, N, D = 2, 3, 4, 5, 6


class Drift:
    """A world whose tokens move by the action's sum, and by the past actions' sum once; it keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.grad: list[bool] = []

    def encode(self, frames: Tensor, /) -> Tensor:
        return frames.float().flatten(1)[:, None]

    def rollout(self, tokens: Tensor, actions: Tensor, /) -> Tensor:
        self.batches.append(len(tokens))
        self.grad.append(torch.is_grad_enabled())
        past, future = actions.split((tokens.shape[1] - 1, actions.shape[1] - tokens.shape[1] + 1), dim=1)
        moved = past.sum((1, 2))[:, None] + future.sum(2).cumsum(1)  # (B, H)
        weight = torch.arange(1.0, 1 + tokens.shape[2] * tokens.shape[3]).reshape(tokens.shape[2:])
        return tokens.mean(1)[:, None] + moved[..., None, None] * weight

    def steps_to_go(self, tokens: Tensor, goal: Tensor, /) -> Tensor:
        return (tokens - goal).abs().amax((-2, -1)) + tokens[..., 0, 0]  # not symmetric


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_distances_against_numpy() -> None:
    pred, goal = random(B, K, H, N, D), random(B, N, D, seed=1)
    tokens, pooled, steps = tokens_cost(pred, goal), pooled_cost(pred, goal), steps_to_go_cost(Drift(), pred, goal)
    assert tokens.shape == pooled.shape == steps.shape == (B, K, H)
    for b, k, h in np.ndindex(B, K, H):
        s, g = pred[b, k, h].numpy(), goal[b].numpy()
        np.testing.assert_allclose(tokens[b, k, h], np.square(s - g).sum() / (N * D), rtol=1e-5)
        np.testing.assert_allclose(pooled[b, k, h], np.square(s.mean(0) - g.mean(0)).mean(), rtol=1e-5)
        np.testing.assert_allclose(steps[b, k, h], np.abs(s - g).max() + s[0, 0], rtol=1e-5)


def test_goal_costs_nothing_and_pooling_forgets_places() -> None:
    goal = random(B, N, D)
    pred = goal[:, None, None].expand(B, K, H, N, D)
    assert tokens_cost(pred, goal).eq(0).all()
    moved = pred.roll(1, dims=3)  # the same tokens at other positions
    torch.testing.assert_close(pooled_cost(moved, goal), torch.zeros(B, K, H), atol=1e-12, rtol=0)
    assert tokens_cost(moved, goal).gt(0.1).all()


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
def test_latent_cost_is_that_of_single_rollouts(kind: str, over: str, hold: bool) -> None:
    model, space = Drift(), continuous(hold)
    plan = PlanConfig(cost=kind, over=over, hold=hold)  # type: ignore[arg-type]
    tokens, past, goal = random(B, 3, N, D), random(B, 2, 2, seed=1), random(B, N, D, seed=2)
    actions = random(B, K, H, space.size, seed=3)
    costs = latent_cost_fn(model, tokens, past, goal, space, plan)(actions)
    assert costs.shape == (B, K)
    for b, k in np.ndindex(B, K):
        step = actions[b, k].repeat(1, 2) if hold else actions[b, k]
        pred = model.rollout(tokens[b, None], torch.cat((past[b], step))[None])[:, None]  # (1, 1, H, N, D)
        one = {
            "tokens": lambda pred=pred, b=b: tokens_cost(pred, goal[b, None]),
            "pooled": lambda pred=pred, b=b: pooled_cost(pred, goal[b, None]),
            "steps_to_go": lambda pred=pred, b=b: steps_to_go_cost(model, pred, goal[b, None]),
        }[kind]()[0, 0]
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
    costs = latent_cost_fn(model, tokens, past, region, space, PlanConfig(over=over))(actions)
    assert costs.shape == (B, K)
    for b, k in np.ndindex(B, K):
        pred = model.rollout(tokens[b, None], torch.cat((past[b], actions[b, k]))[None])[0]  # (H, N, D)
        steps = [np.linalg.norm([max(2 - x, x - 2.5, 0), max(-1 - y, y - 9, 0)]) for x, y in pred[:, 0, :2].tolist()]
        assert costs[b, k].item() == pytest.approx(steps[-1] if over == "last" else sum(steps), rel=1e-4)


def test_chunks_give_the_same_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, space = Drift(), continuous()
    tokens, past, goal = random(3, 1, N, D), torch.zeros(3, 0, 2), random(3, N, D, seed=2)
    actions = random(3, 7, H, 2, seed=3)
    cost_fn = latent_cost_fn(model, tokens, past, goal, space, PlanConfig(cost="tokens"))
    whole = cost_fn(actions)
    assert model.batches == [21]
    monkeypatch.setattr(cost, "CPU_ROLLOUT_BATCH", 5)  # no divisor of 7 or 21: chunks end within environments
    torch.testing.assert_close(cost_fn(actions), whole)
    assert model.batches == [21, 5, 5, 5, 5, 1]


def test_a_correction_is_added_to_every_step_before_the_next_one_starts() -> None:
    """Drift starts from the mean of the frames it is given: each prediction weighs in with its correction."""
    model, correction = Drift(), random(B, N, D, seed=3)
    tokens, past, future = random(B, 2, N, D), random(B, 1, 2, seed=1), random(B, 3, 2, seed=2)
    pred = corrected_rollout(model, tokens, torch.cat((past, future), dim=1), correction)
    assert pred.shape == (B, 3, N, D)
    frames, actions = tokens, past
    for k in range(3):
        actions = torch.cat((actions, future[:, k : k + 1]), dim=1)
        expected = model.rollout(frames, actions)[:, -1] + correction
        torch.testing.assert_close(pred[:, k], expected)
        frames = torch.cat((frames, expected[:, None]), dim=1)
    plain = corrected_rollout(model, tokens, torch.cat((past, future), dim=1), None)
    torch.testing.assert_close(plain, model.rollout(tokens, torch.cat((past, future), dim=1)))


def test_no_gradients_are_kept() -> None:
    model = Drift()
    tokens = random(B, 1, N, D).requires_grad_()
    cost_fn = latent_cost_fn(
        model, tokens, torch.zeros(B, 0, 2), random(B, N, D), continuous(), PlanConfig(cost="tokens")
    )
    assert not cost_fn(random(B, K, H, 2)).requires_grad
    assert model.grad == [False]


def test_discrete_actions_reach_the_model_as_integers() -> None:
    space = ActionSpace(
        kind="discrete", size=1, low=torch.zeros(1), high=torch.ones(1), num_actions=2, frame_skip=2, hold=True
    )
    given: list[Tensor] = []

    class Keeper(Drift):
        def rollout(self, tokens: Tensor, actions: Tensor, /) -> Tensor:
            given.append(actions)
            return super().rollout(tokens, actions)

    past = torch.ones((B, 1, 2), dtype=torch.int64)
    cost_fn = latent_cost_fn(Keeper(), random(B, 2, N, D), past, random(B, N, D), space, PlanConfig(cost="tokens"))
    cost_fn(torch.randint(0, 2, (B, K, H, 1), generator=torch.Generator()))
    assert given[0].dtype == torch.int64
    assert given[0].shape == (B * K, 1 + H, 2)
    assert torch.equal(given[0][..., 0], given[0][..., 1])
