"""Multi-block spatial masking of the context frame (article, section 4.4)."""

import torch
from torch import Tensor

from lewm.distributed import rank, world_size


def sample_context(
    *,
    grid: int,
    batch_size: int,
    blocks: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    context_ratio: float | None,
    full_context_prob: float,
    generator: torch.Generator,
) -> Tensor | None:
    """Draw the context positions M_c of a batch (Algorithm 1, line 3).

    Each frame gets some blocks whose scale and aspect ratio are drawn independently and whose place is uniform
    over all that fit, so that every cell can be reached. The context is the complement, cut at random to exactly
    `round(context_ratio * N)` cells, so that shapes are static; where the blocks leave fewer, covered cells fill it up.

    Args:
        grid: Cells along one side of a frame; N = grid * grid.
        batch_size: B, of this process; masks are drawn for the batch of all data-parallel ranks.
        blocks: Blocks of a frame.
        scale: Smallest and largest share of the grid that a block covers.
        aspect: Smallest and largest height / width of a block.
        context_ratio: Share of the cells that is kept; None for all that the blocks leave, down to the batch's fewest.
        full_context_prob: Probability that the batch sees the full frame.
        generator: CPU generator, in the same state on every rank.

    Returns:
        (B, Nc) int64 sorted positions, or None when this batch sees the full frame.
    """
    full = torch.rand((), generator=generator) < full_context_prob
    shape = (batch_size * world_size(), blocks)
    area = torch.empty(shape).uniform_(*scale, generator=generator)
    # log-uniform: an aspect ratio and its inverse are equally likely
    ratio = torch.empty(shape).uniform_(*torch.tensor(aspect).log().tolist(), generator=generator).exp()
    height = (grid * (area * ratio).sqrt()).round().clamp(1, grid)
    width = (grid * (area / ratio).sqrt()).round().clamp(1, grid)
    top = (torch.rand(shape, generator=generator) * (grid - height + 1)).floor()
    left = (torch.rand(shape, generator=generator) * (grid - width + 1)).floor()
    cell = torch.arange(grid)
    in_rows = (cell >= top[..., None]) & (cell < (top + height)[..., None])  # (B, blocks, grid)
    in_columns = (cell >= left[..., None]) & (cell < (left + width)[..., None])
    covered = (in_rows[..., :, None] & in_columns[..., None, :]).any(1).flatten(1)  # (B, N)
    # a random order with the context first; drawn even for a full frame, so that every step uses equally many numbers
    order = (torch.rand(covered.shape, generator=generator) + covered).argsort(1)
    if full:
        return None
    if context_ratio is None:
        count = max(1, int((~covered).sum(1).min()))
    else:
        count = max(1, round(context_ratio * grid * grid))
    return order[:, :count].sort(1).values.chunk(world_size())[rank()]
