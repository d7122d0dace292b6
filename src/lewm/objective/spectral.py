"""The article's regulariser: KL divergence of the token spectrum from a flat one."""

import math
from typing import Any

import torch
from torch import Tensor

from lewm.objective.moments import Centre, centred_covariance


class _SpectralKL(torch.autograd.Function):
    """f(C) = KL(p || uniform) of C's normalised eigenvalues, with the gradient V diag(df/dlambda) V^T.

    The general backward of an eigen- or singular-value decomposition divides by lambda_i - lambda_j, and the optimum
    here is that all are equal. For a function of the eigenvalues alone those terms cancel, so they are never formed.
    """

    @staticmethod
    def forward(ctx: Any, covariance: Tensor) -> Tensor:
        width = covariance.shape[0]
        info = torch.finfo(covariance.dtype)
        # A decomposition of NaN raises; the caller should see a non-finite loss instead, and say which batch it was.
        finite = torch.isfinite(covariance).all()
        matrix = torch.where(finite, covariance, torch.eye(width, dtype=covariance.dtype, device=covariance.device))
        if matrix.device.type == "mps":  # no eigendecomposition there
            eigenvalues, vectors = (part.to(covariance.device) for part in torch.linalg.eigh(matrix.cpu()))
        else:
            eigenvalues, vectors = torch.linalg.eigh(matrix)  # (D,), (D, D)
        eigenvalues = eigenvalues.clamp(min=0)
        # The floor keeps 1 / total finite when all tokens are equal; KL is then log D, its largest value.
        total = eigenvalues.sum().clamp(min=math.sqrt(info.tiny))
        p = eigenvalues / total
        kl = math.log(width) + torch.xlogy(p, p).sum()
        # df/dlambda_k = (log(D p_k) - KL) / sum(lambda). It diverges at an empty direction, but there the tokens,
        # by which the chain rule multiplies it, vanish faster: a floor at rounding error keeps the product at zero.
        slope = (torch.log(width * p.clamp(min=info.eps)) - kl) / total
        ctx.save_for_backward((vectors * slope) @ vectors.T)
        return torch.where(finite, kl, kl * torch.nan)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return gradient * slope


def spectral_sigreg(tokens: Tensor, positions: Tensor, *, centre: Centre, num_positions: int) -> Tensor:
    """Compute the spectral SIGReg of the tokens.

    KL(p || u) = sum_k p_k log(D p_k),  p_k = sigma_k^2 / sum_d sigma_d^2
    (article, section 4.5; Algorithm 1, lines 17-21)

    sigma are the singular values of the centred (B*Nc, D) token matrix; their squares are, up to a factor that p does
    not see, the eigenvalues of the (D, D) covariance, which are cheaper. 0 for a flat spectrum, log D for rank one or
    for equal tokens. It does not see the scale of the tokens.

    Args:
        tokens: (B, Nc, D).
        positions: (B, Nc) int64 grid index of each token.
        centre: mean that is removed first: "batch" as in the article, or the mean at each grid "position".
        num_positions: N, grid positions of a full frame.

    Returns:
        Scalar, float32 or better also under autocast, over the batch of all ranks; NaN if a token is not finite.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        covariance = centred_covariance(tokens, positions, centre=centre, num_positions=num_positions)
        kl = _SpectralKL.apply(covariance)
    assert isinstance(kl, Tensor)
    return kl
