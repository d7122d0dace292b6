"""The narrow, action-conditioned predictor g (article, sections 4.3 and 4.6)."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from lewm.model.encoder import normalise
from lewm.model.layers import Block, init_weights, position_embedding


class PredictorSettings(Protocol):
    """What a predictor needs of a family's settings."""

    @property
    def width(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def final_norm(self) -> str: ...
    @property
    def predictor_width(self) -> int: ...
    @property
    def predictor_depth(self) -> int: ...
    @property
    def predictor_heads(self) -> int: ...
    @property
    def mlp_ratio(self) -> int: ...
    @property
    def action_conditioning(self) -> str: ...
    @property
    def history(self) -> int: ...
    @property
    def residual(self) -> bool: ...


class Predictor(nn.Module):
    """Predict every token of the next frame from context tokens and actions.

    The sequence is the context tokens, projected to the predictor's width, followed by one mask token a position of
    the next frame. Each carries its 2-D position; context tokens also carry the age of their frame. An action enters
    at the tokens of the frame where it was taken, the latest one at the mask tokens too. Without mask tokens, the
    newest frame's own tokens become the next frame's, in half of the time.
    """

    def __init__(self, config: PredictorSettings, *, mask_tokens: bool) -> None:
        super().__init__()
        width = config.predictor_width
        self.conditioning, self.final_norm = config.action_conditioning, config.final_norm
        self.project_in = nn.Linear(config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width)) if mask_tokens else None
        in_grid = config.num_tokens > 1 and config.grid**2 == config.num_tokens
        position = position_embedding(config.grid, width) if in_grid else torch.zeros(config.num_tokens, width)
        self.pos_embed = nn.Parameter(position)
        self.age_embed = nn.Parameter(torch.zeros(config.history, width))  # row 0 is the present frame
        self.blocks = nn.ModuleList(
            Block(width, config.predictor_heads, config.mlp_ratio, film=config.action_conditioning == "film")
            for _ in range(config.predictor_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, config.width)
        self.residual = config.residual
        self.apply(init_weights)
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        if config.residual:  # starts as copying
            nn.init.zeros_(self.project_out.weight)
        for block in self.blocks:  # `apply` has overwritten the start as an unmodulated block
            if isinstance(block, Block) and block.film is not None:
                nn.init.zeros_(block.film.weight)

    def forward(self, context: Sequence[tuple[Tensor, Tensor | None]], e_a: Tensor) -> Tensor:
        """Predict the next frame's representation, s_hat = g(z_c, e_a).

        Args:
            context: For each of the T frames, oldest first: tokens (B, Nc, D), and their positions (B, Nc) int64 or
                None for all N in order.
            e_a: (B, T, P) action embeddings, the action taken at each frame.

        Returns:
            (B, N, D) predicted tokens of frame t+1, not yet normalised; with `residual`, the present ones and a change.
        """
        tokens, condition = [], []
        for i, (z, position) in enumerate(context):
            pos_embed = self.pos_embed if position is None else self.pos_embed[position]
            x = self.project_in(normalise(z, self.final_norm)) + pos_embed + self.age_embed[len(context) - 1 - i]
            tokens.append(x)
            condition.append(e_a[:, i, None].expand_as(x))
        if self.mask_token is not None:
            mask = (self.mask_token + self.pos_embed).expand(len(e_a), -1, -1)  # (B, N, P)
            tokens.append(mask)
            condition.append(e_a[:, -1:].expand_as(mask))
        x, e = torch.cat(tokens, dim=1), torch.cat(condition, dim=1)  # (B, T*Nc + N, P)
        if self.conditioning == "add":
            x = x + e
        elif self.conditioning == "token":
            x = torch.cat([e_a + self.age_embed[: e_a.shape[1]].flip(0), x], dim=1)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, e)
        x = last(x, e, read=len(self.pos_embed))  # of the other tokens nothing more is read
        s_hat = self.project_out(self.norm(x))
        return s_hat + normalise(context[-1][0], self.final_norm) if self.residual else s_hat
