"""The variance and covariance terms of VICReg (arXiv 2105.04906)."""

import torch
from torch import Tensor

from lewm.objective.moments import Centre, centred_covariance

TARGET_STD = 1.0
EPS = 1e-4
COVARIANCE_WEIGHT = 1 / 25


def vicreg(tokens: Tensor, positions: Tensor, *, centre: Centre, num_positions: int) -> Tensor:
    """Compute VICReg's variance hinge and covariance penalty on one representation.

    1/D sum_d max(0, 1 - sqrt(C_dd + eps)) + 1/25 * 1/D sum_{i != j} C_ij^2

    with C the covariance of the tokens. The paper weighs invariance 25, variance 25, covariance 1. Invariance is the
    prediction loss here, half a squared error where errors are small, and all is divided by 25, so that a weight of
    0.5 on this term is the paper's proportion. Equal tokens give 0.99.

    Args:
        tokens: (B, Nc, D).
        positions: (B, Nc) int64 grid index of each token.
        centre: mean that is removed first: over the "batch" as in the paper, or at each grid "position".
        num_positions: N, grid positions of a full frame.

    Returns:
        Scalar, float32 or better also under autocast, over the batch of all ranks.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        covariance = centred_covariance(tokens, positions, centre=centre, num_positions=num_positions)
        variance = covariance.diagonal()
        hinge = (TARGET_STD - torch.sqrt(variance + EPS)).clamp(min=0).mean()
        off_diagonal = (covariance - torch.diag(variance)).square().sum() / covariance.shape[0]
        return hinge + COVARIANCE_WEIGHT * off_diagonal
