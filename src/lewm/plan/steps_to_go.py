"""A learnt distance for planning: how many model steps lie between two representations."""

from torch import Tensor, nn

from lewm.model.layers import init_weights


class StepsToGo(nn.Module):
    """Estimate the model steps from one representation to another, as the distance of two small embeddings.

    Tokens are projected and flattened, not pooled: where something is lies in *which* token holds it. A distance is
    zero where it should be and smooth in between, which a free function of both frames is not when its labels are
    noisy; it takes the way back to be as long as the way there. The head is fitted to frozen representations after
    training, on pairs from the same trajectories, so it does not shape them.
    """

    def __init__(self, num_tokens: int, width: int, *, hidden: int = 256, embedding: int = 32) -> None:
        """Set the weights up for representations of N = `num_tokens` tokens of D = `width`."""
        super().__init__()
        token_width = max(16, hidden // num_tokens)  # one token a frame keeps its width
        self.token = nn.Linear(width, token_width)
        self.mlp = nn.Sequential(
            nn.Linear(num_tokens * token_width, hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, embedding, bias=False),  # an offset would leave all distances as they are
        )  # fmt: skip
        self.apply(init_weights)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed representations (..., N, D) as points (..., E) whose distances are model steps."""
        return self.mlp(self.token(tokens).flatten(-2))

    def forward(self, tokens: Tensor, goal: Tensor) -> Tensor:
        """Return the estimated steps, at least 0, from `tokens` (..., N, D) to `goal` (..., N, D) as (...)."""
        offset = self.embed(tokens) - self.embed(goal)
        return (offset.square().sum(-1) + 1e-6).sqrt()  # the gradient is finite where both are equal
