"""A learnt distance for planning: how many model steps lie between two representations."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lewm.config import ModelConfig
from lewm.model.layers import init_weights


class StepsToGo(nn.Module):
    """Estimate the model steps from one representation to another, by a small MLP on both frames' tokens.

    Tokens are projected and flattened, not pooled: where something is lies in *which* token holds it. The head is
    fitted to frozen representations after training, on pairs from the same trajectories, so it does not shape them.
    """

    def __init__(self, config: ModelConfig, *, token_width: int = 16, hidden: int = 256) -> None:
        super().__init__()
        self.token = nn.Linear(config.width, token_width)
        frame = config.num_tokens * token_width
        self.mlp = nn.Sequential(
            nn.Linear(2 * frame, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )
        self.apply(init_weights)

    def forward(self, tokens: Tensor, goal: Tensor) -> Tensor:
        """Return the estimated steps, at least 0, from `tokens` (..., N, D) to `goal` (..., N, D) as (...)."""
        now, then = self.token(tokens).flatten(-2), self.token(goal).flatten(-2)
        now, then = torch.broadcast_tensors(now, then)
        return F.softplus(self.mlp(torch.cat([now, then - now], dim=-1))).squeeze(-1)
