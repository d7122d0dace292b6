"""Barlow Twins' redundancy reduction (arXiv 2103.03230) on one representation."""

import torch
from torch import Tensor

from lewm.objective.moments import Centre, centred_covariance

EPS = 1e-2
OFF_DIAGONAL_WEIGHT = 5.1e-3


def barlow_twins(tokens: Tensor, positions: Tensor, *, centre: Centre, num_positions: int) -> Tensor:
    """Compute the Barlow Twins objective on the auto-correlation of the tokens.

    1/D [ sum_i (1 - R_ii)^2 + 0.0051 sum_{i != j} R_ij^2 ],  R_ij = C_ij / sqrt((C_ii + eps) (C_jj + eps))

    with C the covariance of the tokens. Equal tokens give 1.

    Args:
        tokens: (B, Nc, D).
        positions: (B, Nc) int64 grid index of each token.
        centre: mean that is removed first: over the "batch" as in the paper, or at each grid "position".
        num_positions: N, grid positions of a full frame.

    Returns:
        Scalar, float32 or better also under autocast, over the batch of all ranks.

    Note:
        The paper correlates two views. Here the agreement of two views is the prediction loss, and the correlation is
        of one representation with itself, so its diagonal would be 1 by construction. eps = 0.01 keeps the paper's
        on-diagonal term meaningful: it pays for dimensions whose standard deviation falls to about 0.1. The division
        by D makes the value comparable to the other regularisers.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        covariance = centred_covariance(tokens, positions, centre=centre, num_positions=num_positions)
        scale = torch.rsqrt(covariance.diagonal() + EPS)
        correlation = covariance * scale.unsqueeze(0) * scale.unsqueeze(1)
        diagonal = correlation.diagonal()
        on = (1 - diagonal).square().sum()
        off = (correlation - torch.diag(diagonal)).square().sum()
        return (on + OFF_DIAGONAL_WEIGHT * off) / covariance.shape[0]
