"""Action embedding (article, section 4.6)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import ActionConfig
from lewm.model.layers import init_weights


class ActionEmbed(nn.Module):
    """Embed the actions between two frames of a clip, e_a = Embed(a_t).

    Discrete actions use a lookup table, with rows of its own for each place in a frame-skip, summed. Continuous ones
    are standardised by `mean` and `std`, which come from the training episodes, and pass a two-layer GELU MLP. Images
    have no action: their embedding is zero and has no weights.
    """

    def __init__(self, action: ActionConfig, *, frame_skip: int, width: int) -> None:
        """Set the weights up for model actions of `frame_skip` sub-actions, embedded as P = `width` numbers."""
        super().__init__()
        self.kind, self.size, self.width = action.kind, action.size, width
        self.mean: Tensor
        self.std: Tensor
        self.offset: Tensor
        if self.kind == "discrete":
            self.table = nn.Embedding(frame_skip * self.size, width)
            nn.init.normal_(self.table.weight, std=frame_skip**-0.5)  # the sum has unit variance
            self.register_buffer("offset", torch.arange(frame_skip) * self.size, persistent=False)
        elif self.kind == "continuous":
            self.register_buffer("mean", torch.zeros(frame_skip * self.size))
            self.register_buffer("std", torch.ones(frame_skip * self.size))
            self.mlp = nn.Sequential(nn.Linear(frame_skip * self.size, width), nn.GELU(), nn.Linear(width, width))
            self.apply(init_weights)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' actions; a constant entry is only shifted."""
        if self.kind != "continuous":
            return
        repeats = len(self.mean) // len(mean)
        self.mean.copy_(mean.repeat(repeats))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0).repeat(repeats))

    def forward(self, action: Tensor) -> Tensor:
        """Embed model actions, (..., f*A) float, (..., f) int64, or (..., 0) for none, as (..., P)."""
        if self.kind == "none":
            return action.new_zeros(*action.shape[:-1], self.width)
        if self.kind == "discrete":
            return self.table(action + self.offset).sum(-2)
        return self.mlp((action - self.mean) / self.std)

    def summed(self, action: Tensor) -> Tensor:
        """Sum the f sub-actions of model actions (..., f*A) or (..., f), standardised or one-hot, over sqrt(f).

        Returns:
            (..., A), of unit variance if the sub-actions are independent.
        """
        if self.kind == "discrete":
            steps = F.one_hot(action, self.size).to(self.table.weight.dtype)
        else:
            steps = ((action - self.mean) / self.std).unflatten(-1, (-1, self.size))
        return steps.sum(-2) / steps.shape[-2] ** 0.5


class InverseDynamics(nn.Module):
    """Decode the sum of the sub-actions, linearly, from the change of the representation (Pathak et al., 2017).

    What the robot does to itself at once, such as moving its own hand, may be too small in the frame, or too quick, for
    the other terms to keep it; then nothing that it touches can be predicted either. The decoder is linear, so that
    the representation moves with the action, and is used in training alone.
    """

    def __init__(self, numbers: int, action_size: int) -> None:
        """Set the weights up for a representation of N * D = `numbers`."""
        super().__init__()
        self.decode = nn.Linear(numbers, action_size)
        nn.init.zeros_(self.decode.weight)
        nn.init.zeros_(self.decode.bias)

    def forward(self, tokens: Tensor, next_tokens: Tensor) -> Tensor:
        """Decode from representations (B, N, D) of two consecutive frames the summed action (B, A)."""
        return self.decode((next_tokens - tokens).flatten(1))
