"""Is the representation alive: effective rank, condition number, and how much of it is content."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SUPPORT = 1e-6  # eigenvalues above this share of the largest one count as support
ROUNDING = 1e-12  # variance below this share of the mean square is rounding error, not signal


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectrumReport:
    """What the variance of a batch of tokens consists of."""

    effective_rank: float
    """exp(entropy of the normalised eigenvalues of the tokens' covariance): 1 to D; 0 for equal tokens."""
    content_rank: float
    """The same after the mean at each grid position is removed; 0 if tokens depend on position alone."""
    condition_number: float
    """sqrt(largest / smallest eigenvalue) over the support, at most 1,000; infinite for equal tokens."""
    content_share: float
    """Share of the tokens' variance that is within a grid position: 0 if only position matters, at most 1."""
    feature_std: float
    """Standard deviation over all tokens, averaged over the D dimensions."""
    spectrum: Tensor
    """(D,) normalised eigenvalues, descending, float64 on the CPU; zeros for equal tokens."""


@torch.no_grad()
def spectrum_report(tokens: Tensor) -> SpectrumReport:
    """Measure the spectrum of the tokens of full frames.

    effective rank = exp(-sum_k p_k log p_k), with p_k as in the article, section 4.5. A final LayerNorm makes the rank
    D - 1 and the plain condition number infinite, so it is taken over the support: the eigenvalues above 1e-6 of the
    largest. content share = sum_bnd (z - mean_b z)^2 / sum_bnd (z - mean_bn z)^2.

    Args:
        tokens: (B, N, D), token n of every frame at grid position n. Of one process: ranks are not combined.

    Returns:
        The report; its numbers need many more tokens than D to mean something, and the content at least two frames.

    Raises:
        ValueError: if the shape is wrong or a token is not finite.
    """
    if tokens.ndim != 3 or 0 in tokens.shape:
        raise ValueError(f"tokens={tuple(tokens.shape)}: must be (B, N, D) and not empty; pass tokens of full frames")
    if not torch.isfinite(tokens).all():
        raise ValueError("tokens=NaN or infinite: must be finite; the model has diverged, go back to a checkpoint")
    z = tokens.detach().to(torch.float32 if tokens.device.type == "mps" else torch.float64)
    total, variance = _spectrum(z - z.mean(dim=(0, 1)), z)
    content, within = _spectrum(z - z.mean(dim=0), z)
    support = total[total > SUPPORT * total[0]]
    return SpectrumReport(
        effective_rank=_effective_rank(total),
        content_rank=_effective_rank(content),
        condition_number=math.sqrt(float(support[0] / support[-1])) if len(support) else math.inf,
        content_share=float(within.sum() / variance.sum()) if variance.any() else 0.0,
        feature_std=float(variance.sqrt().mean()),
        spectrum=total,
    )


def _spectrum(centred: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised eigenvalues, descending, and the variance of each dimension; zeros if it is all rounding error."""
    samples = centred.flatten(0, 1)
    covariance = (samples.T @ samples / len(samples)).to("cpu", torch.float64)
    variance = covariance.diagonal()
    if variance.sum() <= ROUNDING * tokens.square().mean(dim=(0, 1)).sum().cpu():
        return torch.zeros_like(variance), torch.zeros_like(variance)
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(0)
    return eigenvalues / eigenvalues.sum(), variance


def _effective_rank(p: Tensor) -> float:
    return math.exp(-float(torch.xlogy(p, p).sum())) if p.any() else 0.0
