"""Action embedding (article, section 4.6)."""

import torch
from torch import Tensor, nn

from lewm.config import Config
from lewm.model.layers import init_weights


class ActionEmbed(nn.Module):
    """Embed the actions between two frames of a clip, e_a = Embed(a_t).

    Discrete actions use a lookup table, with rows of its own for each place in a frame-skip, summed. Continuous ones
    are standardised by `mean` and `std`, which come from the training episodes, and pass a two-layer GELU MLP.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.kind, self.size = config.action.kind, config.action.size
        width = config.model.predictor_width
        self.mean: Tensor
        self.std: Tensor
        self.offset: Tensor
        if self.kind == "discrete":
            self.table = nn.Embedding(config.data.frame_skip * self.size, width)
            nn.init.normal_(self.table.weight, std=config.data.frame_skip**-0.5)  # the sum has unit variance
            self.register_buffer("offset", torch.arange(config.data.frame_skip) * self.size, persistent=False)
        else:
            self.register_buffer("mean", torch.zeros(config.model_action_size))
            self.register_buffer("std", torch.ones(config.model_action_size))
            self.mlp = nn.Sequential(nn.Linear(config.model_action_size, width), nn.GELU(), nn.Linear(width, width))
            self.apply(init_weights)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' actions; a constant entry is only shifted."""
        repeats = len(self.mean) // len(mean)
        self.mean.copy_(mean.repeat(repeats))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0).repeat(repeats))

    def forward(self, action: Tensor) -> Tensor:
        """Embed model actions, (..., f*A) float or (..., f) int64, as (..., P)."""
        if self.kind == "discrete":
            return self.table(action + self.offset).sum(-2)
        return self.mlp((action - self.mean) / self.std)
