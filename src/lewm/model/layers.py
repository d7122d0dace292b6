"""Transformer block, positions and norms shared by the encoder and the predictor."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.distributed import sum_over_ranks, world_size


class Attention(nn.Module):
    """Multi-head self-attention by `scaled_dot_product_attention`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, read: int | None = None) -> Tensor:
        """Attend among the tokens of `x` (B, L, W); with `read`, for the last so many of them, (B, read, W)."""
        batch, length, width = x.shape
        if read is not None and read < length:
            return self._newest(x, read)
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, L, W/heads) each
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(batch, length, width))

    def _newest(self, x: Tensor, read: int) -> Tensor:
        batch, length, width = x.shape
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(x[:, length - read :], weight[:width], bias[:width])
        key, value = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(batch, read, width))


class Block(nn.Module):
    """Pre-norm transformer block (article, section 4.1); with `film`, its norms are modulated (section 4.6).

    Args:
        width: Token width.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over `width`.
        film: Scale and shift the output of both norms by a linear function of a condition.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: int, *, film: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))
        self.film = nn.Linear(width, 4 * width) if film else None
        if self.film is not None:  # starts as the unmodulated block
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None, *, read: int | None = None) -> Tensor:
        """Transform tokens `x` (B, L, W), given a `condition` (B, L, W) if the block has FiLM.

        Args:
            x: Tokens.
            condition: What modulates each of them.
            read: How many of the last tokens are wanted: the others are only attended to. None for all.

        Returns:
            (B, L, W), or (B, read, W).
        """
        first = 0 if read is None else x.shape[1] - read
        if self.film is None:
            x = x[:, first:] + self.attention(self.norm1(x), read)
            return x + self.mlp(self.norm2(x))
        scale1, shift1, scale2, shift2 = self.film(condition).chunk(4, dim=-1)
        x = x[:, first:] + self.attention(self.norm1(x) * (1 + scale1) + shift1, read)
        return x + self.mlp(self.norm2(x) * (1 + scale2[:, first:]) + shift2[:, first:])


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batch of all data-parallel ranks, on any device."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, h, w) by the moments of all ranks' batches."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count = sum_over_ranks(x.new_tensor(x.numel() / x.shape[1]))
        mean = sum_over_ranks(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum or 0.0)
            self.num_batches_tracked.add_(1)
        x = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (x * self.weight[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def position_embedding(grid: int, width: int) -> Tensor:
    """Return 2-D sine-cosine positions (grid * grid, width), row-major: half of the width for rows, half columns."""
    assert width % 4 == 0
    frequency = 10_000.0 ** (-torch.arange(width // 4) / (width / 4))
    angle = torch.arange(grid)[:, None] * frequency  # (grid, width/4)
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, width/2)
    rows = axis[:, None].expand(grid, grid, -1)
    columns = axis[None, :].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=-1).reshape(grid * grid, width)


def init_weights(module: nn.Module) -> None:
    """Initialise linear layers with unit gain (Xavier), zero bias.

    ViT's usual 0.02 is made for widths near 768. At a tenth of that it starts the action embedding near 0.003 beside
    positions of 0.7, and the predictor ignores actions for most of a short run.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
