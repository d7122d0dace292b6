"""The sketched Gaussian SIGReg: values known from calculus, and the definition with complex numbers."""

import math

import numpy as np
import pytest
import torch

from lewm.objective.gaussian import gaussian_sigreg

ROOT = math.sqrt(2 * math.pi)


def reference(samples: np.ndarray, directions: np.ndarray) -> float:
    """Epps-Pulley by 17 knots, one direction after the other."""
    t = np.linspace(-5, 5, 17)
    phi = np.exp(-(t**2) / 2)
    values = []
    for direction in directions.T:
        characteristic = np.exp(1j * np.outer(samples @ direction, t)).mean(0)
        integrand = np.abs(characteristic - phi) ** 2 * phi
        values.append(len(samples) * sum((integrand[k] + integrand[k + 1]) / 2 * 0.625 for k in range(16)))
    return float(np.mean(values))


def test_equals_the_definition() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(6, 4, 5, dtype=torch.float64) * 1.5 + 0.5
    positions = torch.arange(4).expand(6, 4)
    torch.manual_seed(1)
    directions = torch.randn(5, 8, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    torch.manual_seed(1)
    pooled = gaussian_sigreg(tokens, positions, centre="batch", num_positions=4, num_directions=8)
    assert pooled.item() == pytest.approx(reference(tokens.flatten(0, 1).numpy(), directions.numpy()), rel=1e-10)
    torch.manual_seed(1)
    apart = gaussian_sigreg(tokens, positions, centre="position", num_positions=4, num_directions=8)
    each = [reference(tokens[:, n].numpy(), directions.numpy()) for n in range(4)]
    assert apart.item() == pytest.approx(np.mean(each), rel=1e-10)


def test_positions_may_differ_between_samples() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(5, 2, 3, dtype=torch.float64)
    positions = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 1], [1, 0]])
    torch.manual_seed(1)
    value = gaussian_sigreg(tokens, positions, centre="position", num_positions=4, num_directions=6)
    torch.manual_seed(1)
    directions = torch.randn(3, 6, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    at = [tokens[positions == n].numpy() for n in range(3)]
    expected = sum(len(z) / 10 * reference(z, directions.numpy()) for z in at)
    assert value.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("batch", [64, 512])
def test_normal_samples_give_the_expectation_of_the_null(batch: int) -> None:
    torch.manual_seed(0)
    positions = torch.zeros(batch, 1, dtype=torch.long)
    values = [
        gaussian_sigreg(torch.randn(batch, 1, 32), positions, centre="batch", num_positions=1).item() for _ in range(8)
    ]
    # E n |ecf - phi|^2 = 1 - phi^2, so E T = integral (1 - exp(-t^2)) exp(-t^2 / 2) dt, for any n.
    assert np.mean(values) == pytest.approx(ROOT * (1 - 1 / math.sqrt(3)), rel=0.06)


def test_equal_samples_give_the_closed_form() -> None:
    tokens, positions = torch.zeros(50, 1, 8), torch.zeros(50, 1, dtype=torch.long)
    value = gaussian_sigreg(tokens, positions, centre="batch", num_positions=1)
    expected = 50 * ROOT * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_descent_makes_samples_normal() -> None:
    torch.manual_seed(0)
    tokens = (0.3 * torch.randn(128, 1, 4) + torch.tensor([1.0, -1, 0, 0])).requires_grad_()
    positions = torch.zeros(128, 1, dtype=torch.long)
    optimizer = torch.optim.Adam([tokens], lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        gaussian_sigreg(tokens, positions, centre="batch", num_positions=1, num_directions=16).backward()
        optimizer.step()
    samples = tokens.detach().flatten(0, 1)
    torch.testing.assert_close(samples.mean(0), torch.zeros(4), rtol=0, atol=0.08)
    torch.testing.assert_close(samples.T.cov(), torch.eye(4), rtol=0, atol=0.12)


def test_directions_are_redrawn_and_repeat_with_the_seed() -> None:
    tokens, positions = torch.linspace(-1, 1, 48).view(8, 2, 3), torch.arange(2).expand(8, 2)
    torch.manual_seed(0)
    first = gaussian_sigreg(tokens, positions, centre="batch", num_positions=2, num_directions=4)
    second = gaussian_sigreg(tokens, positions, centre="batch", num_positions=2, num_directions=4)
    torch.manual_seed(0)
    again = gaussian_sigreg(tokens, positions, centre="batch", num_positions=2, num_directions=4)
    assert first != second
    assert torch.equal(first, again)


def test_is_float32_under_autocast() -> None:
    torch.manual_seed(0)
    tokens, positions = torch.randn(8, 4, 16), torch.arange(4).expand(8, 4)
    torch.manual_seed(1)
    expected = gaussian_sigreg(tokens, positions, centre="batch", num_positions=4)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        value = gaussian_sigreg(tokens, positions, centre="batch", num_positions=4)
        of_half = gaussian_sigreg(tokens.bfloat16(), positions, centre="batch", num_positions=4)
    assert value.dtype == of_half.dtype == torch.float32
    assert torch.equal(value, expected)
