"""Parts of the published LeWM: encoder, predictor and action embedding (arXiv 2603.19312)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.families.published.settings import PublishedSettings
from lewm.model.layers import BatchNorm2d

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red, green, blue
ENCODER_EPS, PREDICTOR_EPS = 1e-12, 1e-6  # of the layer norms that the release sets apart from the usual 1e-5
INITIAL_STD = 0.02


class Projector(nn.Module):
    """Two-layer MLP with BatchNorm between them, over the batch of all ranks."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.norm = BatchNorm2d(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Project (..., D); in training, all leading dimensions are one batch."""
        hidden = self.fc1(x.flatten(0, -2))
        hidden = self.norm(hidden[..., None, None]).flatten(1)  # each a picture of one pixel
        return self.fc2(F.gelu(hidden)).view(x.shape)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block of ViT, with a bias in every projection."""

    def __init__(self, settings: PublishedSettings) -> None:
        super().__init__()
        width, self.num_heads = settings.width, settings.num_heads
        self.norm1 = nn.LayerNorm(width, eps=ENCODER_EPS)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=ENCODER_EPS)
        self.fc1 = nn.Linear(width, settings.mlp_ratio * width)
        self.fc2 = nn.Linear(settings.mlp_ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (B, L, D)."""
        normed = self.norm1(x)
        heads = (part(normed).unflatten(-1, (self.num_heads, -1)) for part in (self.query, self.key, self.value))
        query, key, value = (part.transpose(1, 2) for part in heads)  # (B, heads, L, D/heads)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Encoder(nn.Module):
    """Map a frame to one vector: a vision transformer's class token, and a projector."""

    def __init__(self, settings: PublishedSettings) -> None:
        super().__init__()
        width, patch = settings.width, settings.patch_size
        self.patch = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, settings.num_patches + 1, width))  # the class token's first
        self.blocks = nn.ModuleList(EncoderBlock(settings) for _ in range(settings.depth))
        self.norm = nn.LayerNorm(width, eps=ENCODER_EPS)
        self.apply(_init_vit)
        for parameter in (self.class_token, self.positions):
            nn.init.trunc_normal_(parameter, std=INITIAL_STD)
        self.projector = Projector(width, settings.projector_width)  # starts as PyTorch starts it
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def forward(self, frame: Tensor) -> Tensor:
        """Encode frames (B, height, width, 3) uint8 as (B, D)."""
        x = frame.permute(0, 3, 1, 2).to(self.pixel_mean.dtype) / 255  # (B, 3, height, width)
        x = self.patch((x - self.pixel_mean) / self.pixel_std).flatten(2).transpose(1, 2)  # (B, patches, D)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.projector(self.norm(x)[:, 0])


class PredictorBlock(nn.Module):
    """Causal transformer block whose two branches an action shifts, scales and gates (AdaLN-zero).

    Note:
        Each branch has a norm of its own behind the modulated one, as released.
    """

    def __init__(self, settings: PublishedSettings) -> None:
        super().__init__()
        width, self.num_heads, self.dropout = settings.width, settings.predictor_heads, settings.dropout
        inner = settings.predictor_heads * settings.predictor_head_width
        self.norm = nn.LayerNorm(width, eps=PREDICTOR_EPS, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, settings.predictor_mlp_width)
        self.fc2 = nn.Linear(settings.predictor_mlp_width, width)
        nn.init.zeros_(self.modulation.weight)  # starts as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, e_a: Tensor, *, newest: bool = False) -> Tensor:
        """Transform (B, T, D), given action embeddings (B, T, D); with `newest`, the last frame alone, (B, 1, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(e_a)).chunk(6, dim=-1)
        attended = self._attend(self.attention_norm(self.norm(x) * (1 + scale1) + shift1), newest)
        if newest:  # the other frames were only attended to
            x, gate1, shift2, scale2, gate2 = (part[:, -1:] for part in (x, gate1, shift2, scale2, gate2))
        x = x + gate1 * attended
        hidden = F.gelu(self.fc1(self.mlp_norm(self.norm(x) * (1 + scale2) + shift2)))
        return x + gate2 * self._drop(self.fc2(self._drop(hidden)))

    def _attend(self, x: Tensor, newest: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if newest:
            inner = self.qkv.out_features // 3
            parts = F.linear(x[:, -1:], self.qkv.weight[:inner]), *F.linear(x, self.qkv.weight[inner:]).chunk(2, dim=-1)
            query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        else:
            query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(query, key, value, is_causal=not newest, dropout_p=dropout)
        return self._drop(self.out(x.transpose(1, 2).flatten(2)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Predictor(nn.Module):
    """Predict the frame after each of up to `history` frames from those up to it and the actions taken there."""

    def __init__(self, settings: PublishedSettings) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, settings.history, settings.width))
        self.dropout = nn.Dropout(settings.input_dropout)
        self.blocks = nn.ModuleList(PredictorBlock(settings) for _ in range(settings.predictor_depth))
        self.norm = nn.LayerNorm(settings.width)
        self.projector = Projector(settings.width, settings.projector_width)

    def forward(self, z: Tensor, e_a: Tensor, *, newest: bool = False) -> Tensor:
        """Predict from representations and action embeddings, each (B, T, D), oldest first.

        Args:
            z: Representations of the frames.
            e_a: Embeddings of the actions taken at them.
            newest: Predict the frame after the newest alone.

        Returns:
            (B, T, D), or (B, 1, D).
        """
        x = self.dropout(z + self.positions[:, : z.shape[1]])
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, e_a)
        return self.projector(self.norm(last(x, e_a, newest=newest)))


class ActionEmbed(nn.Module):
    """Embed the actions between two frames of a clip.

    Continuous actions are standardised by `mean` and `std`, which come from the training episodes; discrete ones are
    one-hot, a block for each place in a frame-skip.
    """

    def __init__(self, settings: PublishedSettings, kind: str, size: int, frame_skip: int) -> None:
        super().__init__()
        self.num_choices = size if kind == "discrete" else None
        inputs = frame_skip * size
        self.mix = nn.Conv1d(inputs, settings.action_channels, 1)
        self.fc1 = nn.Linear(settings.action_channels, settings.mlp_ratio * settings.width)
        self.fc2 = nn.Linear(settings.mlp_ratio * settings.width, settings.width)
        self.mean: Tensor
        self.std: Tensor
        if self.num_choices is None:
            self.register_buffer("mean", torch.zeros(inputs))
            self.register_buffer("std", torch.ones(inputs))

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' actions; a constant entry is only shifted."""
        repeats = len(self.mean) // len(mean)
        self.mean.copy_(mean.repeat(repeats))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0).repeat(repeats))

    def forward(self, action: Tensor) -> Tensor:
        """Embed model actions (B, T, f*A) float or (B, T, f) int64 as (B, T, D)."""
        if self.num_choices is None:
            x = (action - self.mean) / self.std
        else:
            x = F.one_hot(action, self.num_choices).flatten(-2).to(self.mix.weight.dtype)
        x = self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.fc2(F.silu(self.fc1(x)))


def _init_vit(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
