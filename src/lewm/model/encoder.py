"""The frame encoder f: convolutional stem, patch projection, thin ViT (article, section 4.1)."""

import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import EncoderSettings
from lewm.model.layers import BatchNorm2d, Block, init_weights, position_embedding


def normalise(tokens: Tensor, final_norm: str) -> Tensor:
    """Bring tokens (..., D) to the scale of representations; the identity for the norms that learn their own scale."""
    if final_norm == "unit":
        return F.layer_norm(tokens, tokens.shape[-1:])
    if final_norm == "rms":
        return F.rms_norm(tokens, tokens.shape[-1:], eps=1e-6)
    return tokens


class Projector(nn.Module):
    """Turn a frame's tokens into its one representation token: a two-layer MLP with BatchNorm (published LeWM).

    Note:
        The published model projects a class token. Here every patch token is narrowed and all are flattened, since
        where something is lies in which token holds it.
    """

    def __init__(self, config: EncoderSettings) -> None:
        super().__init__()
        narrow, hidden = max(8, 4 * config.width // config.num_patches), config.mlp_ratio * config.width
        self.narrow = nn.Linear(config.width, narrow)
        self.fc1 = nn.Linear(config.num_patches * narrow, hidden)
        self.norm = BatchNorm2d(hidden)
        self.fc2 = nn.Linear(hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Project tokens (B, N, D) to (B, 1, D)."""
        x = self.fc1(self.narrow(x).flatten(1))
        x = self.norm(x[..., None, None]).flatten(1)  # a picture of one pixel
        return self.fc2(F.gelu(x))[:, None]


class Encoder(nn.Module):
    """Map a frame to one representation token a patch, or to one for the frame.

    Args:
        config: Sizes and forms; `stem="linear"` replaces the two convolutions by one linear patch projection.
        project: Project all tokens to one.
    """

    def __init__(self, config: EncoderSettings, *, project: bool = False) -> None:
        super().__init__()
        first, second = config.stem_channels
        if config.stem == "conv":
            self.stem = nn.Sequential(
                nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False), BatchNorm2d(first), nn.GELU(),
                nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False), BatchNorm2d(second), nn.GELU(),
            )  # fmt: skip
            self.patch = nn.Conv2d(second, config.width, config.patch_size, stride=config.patch_size)
        else:
            self.stem = nn.Identity()
            self.patch = nn.Conv2d(3, config.width, config.effective_patch, stride=config.effective_patch)
        self.pos_embed = nn.Parameter(position_embedding(config.grid, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.project = Projector(config) if project else None
        self.norm = nn.LayerNorm(config.width) if config.final_norm == "layer" else nn.Identity()
        self.final_norm = config.final_norm
        self.apply(init_weights)

    def forward(self, frame: Tensor, context_idx: Tensor | None = None) -> Tensor:
        """Encode frames, or only their context patches.

        Args:
            frame: (B, height, width, 3) uint8.
            context_idx: (B, Nc) int64 positions of the patches that enter the transformer; None for all N.

        Returns:
            (B, Nc, D) tokens, in the order of `context_idx`; (B, 1, D) if one token stands for the frame.
        """
        x = frame.permute(0, 3, 1, 2)  # (B, 3, height, width), channels last in memory: the stem is quicker
        x = x.to(self.pos_embed.dtype) / 127.5 - 1.0  # in [-1, 1]
        x = self.patch(self.stem(x)).flatten(2).transpose(1, 2) + self.pos_embed  # (B, N, D)
        if context_idx is not None:  # the stem saw the whole frame; the transformer sees the context alone
            x = x.gather(1, context_idx[..., None].expand(-1, -1, x.shape[-1]))  # (B, Nc, D)
        for block in self.blocks:
            x = block(x)
        if self.project is not None:
            x = self.project(x)  # (B, 1, D)
        return normalise(self.norm(x), self.final_norm)
