"""The spectral SIGReg against its definition by singular values."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.objective.moments import Centre
from lewm.objective.spectral import spectral_sigreg

CENTRES: list[Centre] = ["batch", "position"]


def make_tokens(
    *, batch: int = 6, context: int = 5, width: int = 4, grid: int = 9, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Tokens in float64 with unequal directions and a mean of their own at each of randomly chosen positions."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.stack([torch.randperm(grid, generator=generator)[:context] for _ in range(batch)])
    offsets = torch.randn(grid, width, generator=generator, dtype=torch.float64)
    tokens = torch.randn(batch, context, width, generator=generator, dtype=torch.float64)
    return tokens * torch.arange(1, width + 1) + 3 * offsets[positions], positions


def reference(tokens: np.ndarray, positions: np.ndarray, centre: str) -> float:
    """KL of the normalised squared singular values, token by token."""
    z = tokens.reshape(-1, tokens.shape[-1]).copy()
    where = positions.reshape(-1) if centre == "position" else np.zeros(len(z))
    for group in np.unique(where):
        z[where == group] -= z[where == group].mean(0)
    p = np.linalg.svd(z, compute_uv=False) ** 2
    p = p[p > 0] / p.sum()
    return float((p * np.log(tokens.shape[-1] * p)).sum())


def through_svd(tokens: Tensor) -> Tensor:
    z = tokens.flatten(0, 1)
    p = torch.linalg.svdvals(z - z.mean(0)) ** 2
    p = p / p.sum()
    return (p * torch.log(len(p) * p)).sum()


def gradient_of(tokens: Tensor, positions: Tensor, centre: Centre, grid: int) -> Tensor:
    leaf = tokens.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(spectral_sigreg(leaf, positions, centre=centre, num_positions=grid), leaf)
    return gradient


@pytest.mark.parametrize("centre", CENTRES)
def test_equals_the_svd_definition(centre: Centre) -> None:
    tokens, positions = make_tokens()
    value = spectral_sigreg(tokens, positions, centre=centre, num_positions=9)
    assert value.item() == pytest.approx(reference(tokens.numpy(), positions.numpy(), centre), rel=1e-10)


def test_gradient_equals_autograd_through_svd() -> None:
    tokens, positions = make_tokens()
    leaf = tokens.clone().requires_grad_()
    (expected,) = torch.autograd.grad(through_svd(leaf), leaf)
    torch.testing.assert_close(gradient_of(tokens, positions, "batch", 9), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("centre", CENTRES)
def test_gradcheck(centre: Centre) -> None:
    tokens, positions = make_tokens(batch=4, context=4, width=3, grid=6)
    leaf = tokens.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: spectral_sigreg(z, positions, centre=centre, num_positions=6), leaf)


def test_isotropic_is_zero_with_zero_gradient() -> None:
    width = 8
    directions = torch.cat([torch.eye(width), -torch.eye(width)]).double()  # all eigenvalues exactly equal
    tokens, positions = directions.unsqueeze(1), torch.zeros(2 * width, 1, dtype=torch.long)
    assert spectral_sigreg(tokens, positions, centre="batch", num_positions=1).item() == pytest.approx(0, abs=1e-12)
    gradient = gradient_of(tokens, positions, "batch", 1)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_gradient_at_equal_eigenvalues_is_the_analytic_one() -> None:
    # Eigenvalues 4, 1, 1, 1 along the axes: the gradient at each token is 2 z f'(lambda) / (n - 1), along itself.
    scale = torch.tensor([2.0, 1, 1, 1], dtype=torch.float64)
    tokens = torch.cat([torch.diag(scale), -torch.diag(scale)]).unsqueeze(1)
    eigenvalues = 2 * scale**2 / 7
    p = eigenvalues / eigenvalues.sum()
    kl = (p * torch.log(4 * p)).sum()
    slope = (torch.log(4 * p) - kl) / eigenvalues.sum()
    gradient = gradient_of(tokens, torch.zeros(8, 1, dtype=torch.long), "batch", 1)
    torch.testing.assert_close(gradient, 2 * tokens * slope / 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rank_one_is_log_d_with_finite_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokens = (torch.randn(16, 4, 1) * torch.randn(8)).to(dtype)
    positions = torch.arange(4).expand(16, 4)
    value = spectral_sigreg(tokens, positions, centre="batch", num_positions=4)
    assert value.item() == pytest.approx(math.log(8), abs=1e-5)
    gradient = gradient_of(tokens, positions, "batch", 4)
    # A step that cannot leave the line of the tokens leaves the loss as it is: no gradient, but rounding error.
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() < 1e-5


def test_equal_tokens_are_log_d_with_finite_gradient() -> None:
    tokens, positions = torch.ones(4, 3, 6), torch.arange(3).expand(4, 3)
    assert spectral_sigreg(tokens, positions, centre="batch", num_positions=3).item() == pytest.approx(math.log(6))
    assert torch.equal(gradient_of(tokens, positions, "batch", 3), torch.zeros_like(tokens))


def test_ignores_scale_and_offset() -> None:
    tokens, positions = make_tokens()
    value = spectral_sigreg(tokens, positions, centre="batch", num_positions=9)
    moved = spectral_sigreg(1e-6 * tokens + 1, positions, centre="batch", num_positions=9)
    assert moved.item() == pytest.approx(value.item(), rel=1e-6)


def test_descent_flattens_a_rank_deficient_spectrum() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(32, 2, 3) @ torch.randn(3, 6) + 1e-3 * torch.randn(32, 2, 6)
    positions = torch.zeros(32, 2, dtype=torch.long)
    leaf = tokens.requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=0.05)
    start = spectral_sigreg(leaf, positions, centre="batch", num_positions=1).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = spectral_sigreg(leaf, positions, centre="batch", num_positions=1)
        loss.backward()
        optimizer.step()
    assert start > 0.6
    assert loss.item() < 0.05


def test_position_that_occurs_once_contributes_nothing() -> None:
    tokens, positions = make_tokens(batch=5, context=4, grid=4)
    extra = torch.full((1, 4, 4), 100.0, dtype=torch.float64)
    alone = torch.tensor([[4, 5, 6, 7]])
    value = spectral_sigreg(tokens, positions, centre="position", num_positions=8)
    both, where = torch.cat([tokens, extra]), torch.cat([positions, alone])
    with_extra = spectral_sigreg(both, where, centre="position", num_positions=8)
    assert with_extra.item() == pytest.approx(value.item(), rel=1e-12)
    assert torch.equal(gradient_of(both, where, "position", 8)[-1], torch.zeros(4, 4, dtype=torch.float64))


def test_is_float32_under_autocast() -> None:
    tokens, positions = (part.float() if part.is_floating_point() else part for part in make_tokens(width=16, batch=12))
    expected_gradient = gradient_of(tokens, positions, "batch", 9)
    expected = spectral_sigreg(tokens, positions, centre="batch", num_positions=9)
    leaf = tokens.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = spectral_sigreg(leaf, positions, centre="batch", num_positions=9)
        of_half = spectral_sigreg(tokens.bfloat16(), positions, centre="batch", num_positions=9)
    value.backward()
    assert value.dtype == of_half.dtype == torch.float32
    assert torch.equal(value, expected)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, expected_gradient)


def test_non_finite_token_gives_nan() -> None:
    tokens, positions = make_tokens()
    tokens[0, 0, 0] = torch.nan
    assert spectral_sigreg(tokens, positions, centre="batch", num_positions=9).isnan()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself
def test_compiles_without_a_graph_break() -> None:
    tokens, positions = make_tokens()
    compiled = torch.compile(spectral_sigreg, backend="aot_eager", fullgraph=True)
    leaf = tokens.clone().requires_grad_()
    value = compiled(leaf, positions, centre="position", num_positions=9)
    value.backward()
    assert value.item() == pytest.approx(reference(tokens.numpy(), positions.numpy(), "position"), rel=1e-10)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, gradient_of(tokens, positions, "position", 9))
