"""Barlow Twins on one representation against its formula."""

import numpy as np
import pytest
import torch

from lewm.objective.barlow import barlow_twins


def reference(samples: np.ndarray) -> float:
    covariance = np.cov(samples.T)
    width, total = len(covariance), 0.0
    for i in range(width):
        for j in range(width):
            r = covariance[i, j] / np.sqrt((covariance[i, i] + 0.01) * (covariance[j, j] + 0.01))
            total += (1 - r) ** 2 if i == j else 0.0051 * r**2
    return total / width


def test_equals_the_formula() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(5, 4, 3)) @ np.diag([0.1, 0.6, 2.0]) @ rng.normal(size=(3, 3))
    value = barlow_twins(torch.tensor(tokens), torch.zeros(5, 4, dtype=torch.long), centre="batch", num_positions=1)
    assert value.item() == pytest.approx(reference(tokens.reshape(-1, 3)), rel=1e-10)


def test_redundancy_and_collapse_cost() -> None:
    torch.manual_seed(0)
    positions = torch.zeros(1000, 1, dtype=torch.long)
    independent = torch.randn(1000, 1, 16)
    copies = independent[:, :, :1].expand(-1, -1, 16)

    def value(tokens: torch.Tensor) -> float:
        return barlow_twins(tokens, positions, centre="batch", num_positions=1).item()

    assert value(independent) < 1e-3
    assert value(copies) == pytest.approx(15 * 0.0051, rel=0.05)
    assert value(torch.zeros(1000, 1, 16)) == pytest.approx(1)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 1, 0]])
    assert torch.autograd.gradcheck(lambda z: barlow_twins(z, positions, centre="position", num_positions=4), tokens)


def test_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    tokens, positions = torch.randn(8, 4, 16), torch.arange(4).expand(8, 4)
    expected = barlow_twins(tokens, positions, centre="batch", num_positions=4)
    with torch.autocast("cpu", torch.bfloat16):
        value = barlow_twins(tokens, positions, centre="batch", num_positions=4)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
