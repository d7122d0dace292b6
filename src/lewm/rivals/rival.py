"""What all rivals share: actions as vectors, and the form that training, planning and evaluation know."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import Config, TrainConfig
from lewm.data.sampler import Clips
from lewm.data.store import Store
from lewm.evaluate import Evaluation, evaluate_model
from lewm.model.steps_to_go import StepsToGo
from lewm.train.steps_to_go import fit_steps_to_go

HEAD = "steps_to_go."


def scaled(width: int, config: Config, *, multiple: int = 8) -> int:
    """Return a width that makes a rival as large as the package's model, if `width` does so at the preset `tiny`.

    The package's transformers have about 12 depth width^2 weights, and a rival's weights are the square of its widths.
    """
    m = config.model
    ours = m.depth * m.width**2 + m.predictor_depth * m.predictor_width**2
    tiny = 3 * 96**2 + 3 * 64**2
    return max(1, round(width * math.sqrt(ours / tiny) / multiple)) * multiple


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


class Rival(nn.Module, ABC):
    """A model that is trained on the same clips, by the same number of steps of the same optimiser."""

    name: ClassVar[str]

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.action_vector = ActionVector(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.action_vector.mean.device

    @property
    def num_parameters(self) -> int:
        """Weights that training moves; the planning cost, which is fitted afterwards, is none of the model's."""
        return sum(p.numel() for name, p in self.named_parameters() if p.requires_grad and not name.startswith(HEAD))

    @property
    def train_config(self) -> TrainConfig:
        """How it is trained: as the settings say."""
        return self.config.train

    @property
    @abstractmethod
    def clip_frames(self) -> int:
        """Frames of a training clip."""

    @abstractmethod
    def losses(self, clips: Clips, store: Store) -> dict[str, Tensor]:
        """Compute the objective of a batch: scalars, the total `loss` among them. May draw from torch's generator."""

    @abstractmethod
    def finish(self, store: Store, episodes: np.ndarray) -> None:
        """Do what comes after training, on the training episodes."""

    @abstractmethod
    def evaluate(self, of: Evaluation, *, progress: bool) -> dict[str, Any]:
        """Measure the trained model, in the form of `eval.json`."""


class RivalWorldModel(Rival):
    """A rival with one representation token a frame, in the form of `FrameModel`.

    Args:
        config: Settings of the run.
        width: D, width of the token.
    """

    def __init__(self, config: Config, width: int) -> None:
        super().__init__(config)
        self.steps_to_go = StepsToGo(replace(config.model, latent="frame", width=width))

    @abstractmethod
    def encode(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, 1, D)."""

    @abstractmethod
    def rollout(self, tokens: Tensor, action: Tensor, /) -> Tensor:
        """Predict (B, H, 1, D) from tokens (B, T, 1, D) and model actions (B, T-1+H, f*A) or (B, T-1+H, f)."""

    @abstractmethod
    def loss_of(self, frames: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Compute the objective of clips (B, T, height, width, 3) uint8 and actions (B, T-1, f*A) or (B, T-1, f)."""

    def target_encoder(self, frame: Tensor, /) -> Tensor:
        """Represent frames as `encode` does: there is one encoder."""
        return self.encode(frame)

    def fresh_encoder(self) -> Callable[[Tensor], Tensor]:
        """Return an encoder of the same form with random weights, in evaluation mode."""
        return type(self)(self.config).to(self.device).eval().encode  # pyright: ignore[reportCallIssue]

    def losses(self, clips: Clips, store: Store) -> dict[str, Tensor]:
        """Compute the objective of a batch of clips."""
        return self.loss_of(
            torch.from_numpy(clips.frames).to(self.device), torch.from_numpy(clips.actions).to(self.device)
        )

    def finish(self, store: Store, episodes: np.ndarray) -> None:
        """Fit the learnt planning cost on the rival's representations, if planning uses it."""
        if self.config.plan.cost == "steps_to_go":
            fit_steps_to_go(self, store, episodes, self.config, on_step=lambda: None)

    def evaluate(self, of: Evaluation, *, progress: bool) -> dict[str, Any]:
        """Measure everything that is measured of the package's own model."""
        return evaluate_model(of, progress=progress)[0]


def frame_planes(frame: Tensor) -> Tensor:
    """Turn frames (..., height, width, 3) uint8 into planes (M, 3, height, width) in [0, 1], channels last."""
    return frame.flatten(0, -4).permute(0, 3, 1, 2).float() / 255.0


def halvings(image_size: int) -> list[int]:
    """Return the sides of a frame's planes under convolutions of stride 2, from the image's down to at most 4."""
    sides = [image_size]
    while sides[-1] > 4:
        sides.append(sides[-1] // 2)
    return sides
