"""What the rivals share: actions as vectors, and frames as planes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import Config
from lewm.families.family import WorldModel


class ActionVector(nn.Module):
    """Turn model actions into vectors: standardised by the training episodes if continuous, one-hot if discrete."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.discrete, self.size = config.action.kind == "discrete", config.action.size
        self.width = config.data.frame_skip * self.size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' actions; a constant entry is only shifted."""
        repeats = self.width // self.size
        self.mean.copy_(mean.repeat(repeats))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0).repeat(repeats))

    def forward(self, action: Tensor) -> Tensor:
        """Turn model actions (..., f*A) float or (..., f) int64 into vectors (..., f*A)."""
        x = F.one_hot(action, self.size).flatten(-2).to(self.mean.dtype) if self.discrete else action
        return (x - self.mean) / self.std


class RivalWorldModel(WorldModel):
    """A rival with one representation token a frame, and actions as vectors."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.action_vector = ActionVector(config)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' continuous actions."""
        self.action_vector.standardise(mean, std)


def frame_planes(frame: Tensor) -> Tensor:
    """Turn frames (..., height, width, 3) uint8 into planes (M, 3, height, width) in [0, 1], channels last."""
    return frame.flatten(0, -4).permute(0, 3, 1, 2).float() / 255.0


def halvings(image_size: int) -> list[int]:
    """Return the sides of a frame's planes under convolutions of stride 2, from the image's down to at most 4."""
    sides = [image_size]
    while sides[-1] > 4:
        sides.append(sides[-1] // 2)
    return sides
