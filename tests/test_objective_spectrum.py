"""The collapse diagnostics on representations whose answer is known."""

import math

import numpy as np
import pytest
import torch

from lewm.objective import spectrum_report


def orthogonal_frames(width: int) -> torch.Tensor:
    """(2D, 1, D) tokens plus and minus each axis: mean 0, isotropic."""
    return torch.cat([torch.eye(width), -torch.eye(width)]).unsqueeze(1)


def test_isotropic_has_full_rank() -> None:
    report = spectrum_report(orthogonal_frames(6))
    assert report.effective_rank == pytest.approx(6)
    assert report.content_rank == pytest.approx(6)
    assert report.condition_number == pytest.approx(1)
    assert report.content_share == pytest.approx(1)
    assert report.feature_std == pytest.approx(math.sqrt(1 / 6))
    torch.testing.assert_close(report.spectrum, torch.full((6,), 1 / 6, dtype=torch.float64))


def test_known_eigenvalues() -> None:
    report = spectrum_report(orthogonal_frames(3) * torch.tensor([4.0, 1.0, 2.0]))
    p = np.array([16, 4, 1]) / 21
    torch.testing.assert_close(report.spectrum, torch.tensor(p))
    assert report.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert report.condition_number == pytest.approx(4)


def test_rank_one() -> None:
    report = spectrum_report(torch.linspace(-1, 1, 12).view(6, 2, 1) * torch.arange(1, 6))
    assert report.effective_rank == pytest.approx(1, abs=1e-4)
    assert report.condition_number == pytest.approx(1)


def test_condition_number_is_over_the_support_of_normalised_tokens() -> None:
    torch.manual_seed(0)
    tokens = torch.nn.functional.layer_norm(torch.randn(64, 16, 8), (8,))
    report = spectrum_report(tokens)
    assert report.spectrum[-1] < 1e-6  # the direction of ones is empty
    width = np.linalg.svd(tokens.flatten(0, 1).numpy(), compute_uv=False)  # the mean is small, and yet taken off
    assert report.condition_number == pytest.approx(width[0] / width[6], rel=0.01)
    assert report.effective_rank == pytest.approx(7, abs=0.05)


def test_content_share_is_the_variance_ratio() -> None:
    # Position and content vary along different axes and independently: a^2 and b^2 are their variances.
    a, b = 3.0, 1.0
    position, content = torch.tensor([-a, a, -a, a]), torch.tensor([-b, b])
    tokens = torch.stack([position.expand(2, 4), content.unsqueeze(1).expand(2, 4)], dim=-1)  # (2, 4, 2)
    report = spectrum_report(tokens)
    assert report.content_share == pytest.approx(b**2 / (a**2 + b**2))
    assert report.feature_std == pytest.approx((a + b) / 2)
    assert report.condition_number == pytest.approx(a / b)
    assert report.content_rank == pytest.approx(1)
    p = np.array([a**2, b**2]) / (a**2 + b**2)
    assert report.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()))


def test_random_tokens_agree_with_numpy() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(7, 5, 4)) + 2 * rng.normal(size=(1, 5, 4))
    report = spectrum_report(torch.tensor(tokens))
    z = tokens.reshape(-1, 4)
    p = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2
    p /= p.sum()
    np.testing.assert_allclose(report.spectrum.numpy(), p, rtol=1e-10)
    within = sum(((tokens[:, n] - tokens[:, n].mean(0)) ** 2).sum() for n in range(5))
    assert report.content_share == pytest.approx(within / ((z - z.mean(0)) ** 2).sum())
    assert report.feature_std == pytest.approx(z.std(0).mean())


def test_position_only_representation_has_no_content() -> None:
    torch.manual_seed(0)
    positions = torch.randn(9, 4)
    report = spectrum_report(positions.expand(5, 9, 4))
    p = np.linalg.svd((positions - positions.mean(0)).numpy(), compute_uv=False) ** 2
    p /= p.sum()
    assert report.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)
    assert report.content_rank == 0
    assert report.content_share == pytest.approx(0, abs=1e-12)


def test_rounding_error_is_not_taken_for_a_representation() -> None:
    torch.manual_seed(0)
    tokens = 1 + 1e-8 * torch.randn(8, 4, 6, dtype=torch.float64)
    report = spectrum_report(tokens)
    assert report.effective_rank == 0
    assert report.content_share == 0
    assert report.feature_std == 0
    assert report.condition_number == math.inf
    assert not report.spectrum.any()


@pytest.mark.parametrize("shape", [(4, 3), (0, 4, 3), (1, 2, 3, 4)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"tokens=\(.*\): must be \(B, N, D\)"):
        spectrum_report(torch.zeros(shape))


def test_refuses_tokens_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        spectrum_report(torch.full((2, 2, 2), torch.nan))
