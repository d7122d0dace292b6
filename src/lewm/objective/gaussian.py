"""The published sketched isotropic Gaussian regulariser of LeJEPA and LeWM (arXiv 2511.08544, 2603.19312)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.distributed import rank, sum_over_ranks
from lewm.objective.moments import Centre, at_least_float32, group_sum

T_MAX = 5.0
KNOTS = 17


def gaussian_sigreg(
    tokens: Tensor,
    positions: Tensor,
    *,
    centre: Centre,
    num_positions: int,
    num_directions: int = 256,
    t_max: float = T_MAX,
    knots: int = KNOTS,
) -> Tensor:
    """Test the tokens against the standard normal distribution along random directions.

    T = mean_u n * integral_{-5}^{5} |1/n sum_j exp(i t <u, z_j>) - exp(-t^2/2)|^2 exp(-t^2/2) dt

    the Epps-Pulley statistic, by the trapezoid rule with 17 knots, averaged over random unit vectors u. The factor n,
    the number of samples of the global batch, is that of LeJEPA's listing: samples that are normal give about 1.06 for
    any n, equal samples at the origin 0.41 n. The weight of this term is therefore relative to the batch size.

    Args:
        tokens: (B, Nc, D), or (B, 1, D) for one vector a frame.
        positions: (B, Nc) int64 grid index of each token.
        centre: "batch" tests all tokens as one sample; "position" tests the tokens at each grid position as a sample
            of their own, and averages the statistics, weighted by the number of tokens.
        num_positions: N, grid positions of a full frame.
        num_directions: random directions, drawn anew in every call.
        t_max: where the integral ends; the published LeWM takes 3.
        knots: an odd number of them, over [-t_max, t_max]; the published LeWM takes 33.

    Returns:
        Scalar, float32 or better also under autocast, over the batch of all ranks.

    Note:
        Directions come from the tokens' device's global generator (`torch.manual_seed`), which a resumed run must
        restore. All ranks draw, and use what rank 0 drew, whatever the state of their own generators.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        samples = at_least_float32(tokens).flatten(0, 1)  # (B*Nc, D)
        directions = _unit_directions(samples, num_directions)  # (D, M)
        # The integrand is even in t and vanishes at t = 0: the positive knots carry it all, at twice the weight.
        t = torch.linspace(-t_max, t_max, knots, dtype=samples.dtype, device=samples.device)[knots // 2 + 1 :]  # (Q,)
        phi = torch.exp(-t.square() / 2)
        spacing = 2 * t_max / (knots - 1)
        quadrature = 2 * spacing * phi * torch.where(t == t[-1], 0.5, 1.0)

        angle = ((samples @ directions).unsqueeze(-1) * t).flatten(1)  # (B*Nc, M*Q)
        waves = torch.cat([angle.cos(), angle.sin(), angle.new_ones(angle.shape[0], 1)], dim=1)
        sums = sum_over_ranks(group_sum(waves, positions, centre=centre, num_positions=num_positions))  # (G, 2*M*Q + 1)
        count = sums[:, -1]  # (G,)
        real, imaginary = (
            (sums[:, :-1] / count.clamp(min=1).unsqueeze(-1)).unflatten(1, (2, num_directions, -1)).unbind(1)
        )  # (G, M, Q)
        error = (real - phi).square() + imaginary.square()
        statistic = count * (error @ quadrature).mean(dim=1)  # (G,)
        return (statistic * count).sum() / count.sum()


def _unit_directions(samples: Tensor, num_directions: int) -> Tensor:
    """Draw unit vectors (D, M), the same on every rank."""
    directions = torch.randn(samples.shape[1], num_directions, dtype=samples.dtype, device=samples.device)
    if rank() != 0:  # the sum is then what rank 0 drew
        directions = torch.zeros_like(directions)
    return F.normalize(sum_over_ranks(directions), dim=0)
