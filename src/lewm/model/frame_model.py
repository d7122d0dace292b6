"""What the planning cost's fit and the evaluation need of a model; `WorldModel` and its rivals have it."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lewm.config import Config
from lewm.model.steps_to_go import StepsToGo


class FrameModel(Protocol):
    """A model whose representation of a frame depends on that frame alone, and which predicts in that space."""

    config: Config
    steps_to_go: StepsToGo

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def encode(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, N, D), as at inference."""
        ...

    def target_encoder(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, N, D), in the space that predictions live in."""
        ...

    def rollout(self, tokens: Tensor, action: Tensor, /) -> Tensor:
        """Predict (B, H, N, D) from tokens (B, T, N, D) and model actions (B, T-1+H, f*A) or (B, T-1+H, f)."""
        ...

    def fresh_encoder(self) -> Callable[[Tensor], Tensor]:
        """Return an encoder of the same form with random weights, in evaluation mode."""
        ...

    def eval(self) -> object:
        """Switch to evaluation mode."""
        ...
