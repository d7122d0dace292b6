"""CEM's share of the search: equal weight for the elites, none for the rest."""

import numpy as np
import torch
from torch import Tensor

from lewm.plan import ActionSpace, Categorical, Gaussian, cem
from lewm.plan.cem import elite_weights
from lewm.plan.search import SMOOTHING, STD_FLOOR


def test_elites_share_the_weight() -> None:
    cost = torch.tensor([[5.0, 1.0, 3.0, 2.0], [0.0, 9.0, -1.0, 4.0]])
    assert elite_weights(cost, 2).tolist() == [[0, 0.5, 0, 0.5], [0.5, 0, 0.5, 0]]


def test_infinite_costs_are_no_elites() -> None:
    inf = torch.inf
    weights = elite_weights(torch.tensor([[inf, 1.0, inf, 2.0], [inf, inf, inf, inf]]), 3)
    assert weights.tolist() == [[0, 0.5, 0, 0.5], [0, 0, 0, 0]]


def test_one_iteration_against_numpy() -> None:
    space = ActionSpace(kind="continuous", size=2, low=-torch.ones(2), high=torch.ones(2))
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (actions - 0.6).abs().sum((-2, -1))

    plan = cem(
        cost, space=space, batch=3, horizon=4, candidates=20, iterations=1, elites=5, generator=torch.Generator()
    )
    assert isinstance(plan.distribution, Gaussian)
    for b, actions in enumerate(seen[0].numpy()):  # (K, H, a)
        elites = actions[np.argsort(np.abs(actions - 0.6).sum((1, 2)))[:5]]
        np.testing.assert_allclose(plan.distribution.mean[b], elites.mean(0), atol=1e-6)
        floor = 2 * STD_FLOOR
        np.testing.assert_allclose(plan.distribution.std[b], np.maximum(elites.std(0), floor), atol=1e-6)


def test_one_discrete_iteration_against_numpy() -> None:
    space = ActionSpace(kind="discrete", size=1, low=torch.zeros(1), high=torch.full((1,), 2.0), num_actions=3)
    seen: list[Tensor] = []
    values = torch.tensor([0.3, 0.0, 1.0])
    steps = torch.tensor([1.0, 1.7, 2.3])[:, None]  # no two different sequences cost the same

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (values[actions] * steps).sum((-2, -1))

    plan = cem(
        cost, space=space, batch=2, horizon=3, candidates=16, iterations=1, elites=4, generator=torch.Generator()
    )
    assert isinstance(plan.distribution, Categorical)
    for b, actions in enumerate(seen[0].numpy()):  # (K, H, 1)
        elites = actions[np.argsort((values.numpy()[actions] * steps.numpy()).sum((1, 2)), kind="stable")[:4]]
        for h in range(3):
            share = np.bincount(elites[:, h, 0], minlength=3) / 4
            expected = (1 - SMOOTHING) * share + SMOOTHING / 3
            np.testing.assert_allclose(plan.distribution.probs[b, h, 0], expected, atol=1e-6)
