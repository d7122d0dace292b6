"""The prediction loss."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.objective.moments import at_least_float32


def prediction_loss(
    s_hat: Tensor,
    s_next: Tensor,
    *,
    beta: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
    form: Literal["smooth_l1", "mse"] = "smooth_l1",
) -> Tensor:
    """Compute the Smooth-L1 distance of predicted to target tokens.

    L_pred = 1 / (B N) sum_b sum_j SmoothL1(s_hat_bj, s_next_bj)   (article, section 4.5; Algorithm 1, line 15)

    Args:
        s_hat: (B, N, D) predicted tokens.
        s_next: (B, N, D) target tokens; the caller stops their gradient.
        beta: threshold between the quadratic and the linear part, above 0.
        reduction: "sum" over the D dimensions (section 4.5), or their "mean" (section 7): a factor of D.
        form: "mse" takes half the squared error everywhere, which is what Smooth-L1 is below `beta` = 1.

    Returns:
        Scalar, float32 or better also under autocast. In data-parallel training it is the rank's own mean, whose
        average over ranks of equal batch size is the mean of the global batch.

    Raises:
        ValueError: if the shapes differ.
    """
    if s_hat.shape != s_next.shape:
        raise ValueError(f"s_hat={tuple(s_hat.shape)}: must have the shape of s_next; got {tuple(s_next.shape)}")
    with torch.autocast(s_hat.device.type, enabled=False):
        s_hat, s_next = at_least_float32(s_hat), at_least_float32(s_next)
        loss = F.mse_loss(s_hat, s_next) / 2 if form == "mse" else F.smooth_l1_loss(s_hat, s_next, beta=beta)
        return loss * s_hat.shape[-1] if reduction == "sum" else loss
