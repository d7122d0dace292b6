"""VICReg's two terms against their formula."""

import numpy as np
import pytest
import torch

from lewm.objective.vicreg import vicreg


def reference(samples: np.ndarray) -> float:
    covariance = np.cov(samples.T)
    width = len(covariance)
    variance = sum(max(0.0, 1 - np.sqrt(covariance[d, d] + 1e-4)) for d in range(width)) / width
    off = sum(covariance[i, j] ** 2 for i in range(width) for j in range(width) if i != j) / width
    return (25 * variance + 1 * off) / 25


def test_equals_the_formula() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(5, 4, 3)) @ np.diag([0.3, 0.6, 2.0]) @ rng.normal(size=(3, 3))
    value = vicreg(torch.tensor(tokens), torch.zeros(5, 4, dtype=torch.long), centre="batch", num_positions=1)
    assert value.item() == pytest.approx(reference(tokens.reshape(-1, 3)), rel=1e-10)


def test_position_means_do_not_count() -> None:
    rng = np.random.default_rng(0)
    tokens = 0.5 * rng.normal(size=(6, 4, 3))
    positions = torch.arange(4).expand(6, 4)
    moved = torch.tensor(tokens + 10 * rng.normal(size=(1, 4, 3)))
    value = vicreg(moved, positions, centre="position", num_positions=4)
    centred = (tokens - tokens.mean(0)).reshape(-1, 3)
    # 24 tokens, 4 means: 20 degrees of freedom, where np.cov has 23.
    assert value.item() == pytest.approx(reference(centred * np.sqrt(23 / 20)), rel=1e-10)


def test_decorrelated_unit_variance_is_zero_and_equal_tokens_are_not() -> None:
    hadamard = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64).unsqueeze(1)
    positions = torch.zeros(4, 1, dtype=torch.long)
    assert vicreg(hadamard, positions, centre="batch", num_positions=1).item() == pytest.approx(0, abs=1e-12)
    assert vicreg(0 * hadamard, positions, centre="batch", num_positions=1).item() == pytest.approx(0.99)


def test_gradcheck() -> None:
    torch.manual_seed(0)
    tokens = (0.5 * torch.randn(4, 3, 3, dtype=torch.float64)).requires_grad_()
    positions = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 1, 0]])
    assert torch.autograd.gradcheck(lambda z: vicreg(z, positions, centre="position", num_positions=4), tokens)


def test_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    tokens, positions = torch.randn(8, 4, 16), torch.arange(4).expand(8, 4)
    expected = vicreg(tokens, positions, centre="batch", num_positions=4)
    with torch.autocast("cpu", torch.bfloat16):
        value = vicreg(tokens, positions, centre="batch", num_positions=4)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
