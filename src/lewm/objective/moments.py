"""Means and covariances of tokens, exact over ranks: what every regulariser is computed from."""

from typing import Literal

import torch
from torch import Tensor

from lewm.distributed import sum_over_ranks

Centre = Literal["batch", "position"]


def at_least_float32(tokens: Tensor) -> Tensor:
    """Cast half precisions to float32; leave float32 and float64 as they are."""
    return tokens if tokens.dtype == torch.float64 else tokens.float()


def group_sum(values: Tensor, positions: Tensor, *, centre: Centre, num_positions: int) -> Tensor:
    """Sum over the whole batch, or over the tokens at each grid position; this rank's share.

    Args:
        values: (B*Nc, C).
        positions: (B, Nc) int64 grid index of each token.
        centre: "batch" for one group, "position" for one group a grid position.
        num_positions: N, grid positions of a full frame.

    Returns:
        (1, C) or (N, C); zeros at positions that occur nowhere.
    """
    if centre == "batch":
        return values.sum(dim=0, keepdim=True)
    return values.new_zeros(num_positions, values.shape[1]).index_add(0, positions.flatten(), values)


def centred_covariance(tokens: Tensor, positions: Tensor, *, centre: Centre, num_positions: int) -> Tensor:
    """Compute the unbiased covariance of all tokens of the global batch about their group's mean.

    C = 1 / sum_g max(n_g - 1, 0) * sum_i (z_i - m_g(i)) (z_i - m_g(i))^T, with groups g by `centre`. A position that
    occurs once in the batch contributes neither scatter nor degrees of freedom.

    Args:
        tokens: (B, Nc, D).
        positions: (B, Nc) int64 grid index of each token; they may differ from sample to sample.
        centre: mean that is removed, "batch" (article, section 4.5) or "position".
        num_positions: N, grid positions of a full frame.

    Returns:
        (D, D), float32 or better; the same on every rank.
    """
    samples = at_least_float32(tokens).flatten(0, 1)  # (B*Nc, D)
    # The scatter is stationary in the mean, so no gradient flows through it: exact, and one collective less.
    with torch.no_grad():
        ones = samples.new_ones(samples.shape[0], 1)
        counted = torch.cat([samples, ones], dim=1)
        sums = sum_over_ranks(group_sum(counted, positions, centre=centre, num_positions=num_positions))  # (G, D + 1)
        count = sums[:, -1:]
        mean = sums[:, :-1] / count.clamp(min=1)
        freedom = (count - 1).clamp(min=0).sum().clamp(min=1)
    centred = samples - (mean if centre == "batch" else mean[positions.flatten()])
    return sum_over_ranks(centred.T @ centred) / freedom
