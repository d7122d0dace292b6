"""MPPI's share of the search: a softmax of negative costs."""

import numpy as np
import torch
from torch import Tensor

from lewm.plan import ActionSpace, Categorical, mppi
from lewm.plan.mppi import path_integral_weights
from lewm.plan.search import SMOOTHING


def softmax(cost: np.ndarray, temperature: float) -> np.ndarray:
    """Weight costs (B, K) the naive way, in float64."""
    cost = cost.astype(np.float64)
    scale = temperature * (cost.max(1, keepdims=True) - cost.min(1, keepdims=True))
    raw = np.exp(-cost / scale)
    return raw / raw.sum(1, keepdims=True)


def test_weights_against_numpy() -> None:
    cost = torch.rand(4, 32, generator=torch.Generator()) * torch.tensor([1e-3, 1.0, 10.0, 1e3])[:, None]
    for temperature in (0.05, 0.1, 2.0):
        expected = softmax(cost.numpy(), temperature)
        np.testing.assert_allclose(path_integral_weights(cost, temperature), expected, rtol=1e-3, atol=1e-7)


def test_weights_do_not_change_with_scale_or_offset() -> None:
    cost = torch.rand(2, 16, generator=torch.Generator())
    torch.testing.assert_close(
        path_integral_weights(8 * cost + 2, 0.1), path_integral_weights(cost, 0.1), rtol=1e-3, atol=1e-6
    )


def test_limits() -> None:
    cost = torch.tensor([[3.0, 1.0, 2.0, 5.0]])
    torch.testing.assert_close(path_integral_weights(cost, 1e-3), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(path_integral_weights(cost, 1e4), torch.full((1, 4), 0.25), atol=1e-4, rtol=0)
    torch.testing.assert_close(path_integral_weights(torch.ones(1, 4), 0.1), torch.full((1, 4), 0.25))


def test_infinite_costs_weigh_nothing() -> None:
    inf = torch.inf
    weights = path_integral_weights(torch.tensor([[1.0, inf, 2.0, 1.5], [inf, inf, inf, inf]]), 0.5)
    expected = softmax(np.array([[1.0, 2.0, 1.5]]), 0.5)[0]
    np.testing.assert_allclose(weights[0], [expected[0], 0, expected[1], expected[2]], atol=1e-6)
    assert weights[1].tolist() == [0, 0, 0, 0]


def test_discrete_iteration_weighs_counts() -> None:
    space = ActionSpace(kind="discrete", size=1, low=torch.zeros(1), high=torch.full((1,), 2.0), num_actions=3)
    seen: list[tuple[Tensor, Tensor]] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append((actions, (actions.float() - 1.4).abs().sum((-2, -1))))
        return seen[-1][1]

    plan = mppi(
        cost,
        space=space,
        batch=2,
        horizon=3,
        candidates=16,
        iterations=1,
        temperature=0.2,
        generator=torch.Generator(),
    )
    assert isinstance(plan.distribution, Categorical)
    actions, costs = seen[0]
    weights = softmax(costs.numpy(), 0.2)
    for b, h in np.ndindex(2, 3):
        counts = np.bincount(actions[b, :, h, 0].numpy(), weights=weights[b], minlength=3)
        expected = (1 - SMOOTHING) * counts + SMOOTHING / 3
        np.testing.assert_allclose(plan.distribution.probs[b, h, 0], expected, atol=1e-5)
