"""What everything else knows of a model: the protocol of families, and how one is made.

Algorithm 1 of the article is divided so: the loop draws the clips (lines 1-2) and takes the gradient step (24); a
family does what lies between (`losses`, lines 3-23) and what follows (`after_step`, lines 25-26).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lewm.config import Config
from lewm.config.choices import found_at
from lewm.data.store import Store
from lewm.families.presets import FAMILIES
from lewm.frames_in import pictures_in


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of B clips of T frames on the device that trains.

    Args:
        frames: (B, T, height, width, 3) uint8.
        actions: (B, T-1, f*A) float32, or (B, T-1, f) int64 for discrete actions.
        index: (B,) int64, each clip's first frame in the store; not on the device.
        goal: (B, height, width, 3) uint8, a later frame of each clip's episode, for families that ask for one.
        goal_steps: (B,) int64, environment steps from the clip's first frame to it.
        states: (B, T, S) float32 at the frames, where the store has them.
    """

    frames: Tensor
    actions: Tensor
    index: NDArray[np.int64]
    goal: Tensor | None = None
    goal_steps: Tensor | None = None
    states: Tensor | None = None


class Family(nn.Module, ABC):
    """A model that the loop can train."""

    encoder: nn.Module

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the objective of a batch (Algorithm 1, lines 3-23).

        Args:
            batch: `config.model.clip_frames` frames a clip.
            generator: CPU generator of what is drawn on the way; in the same state on every data-parallel rank.

        Returns:
            Scalars: the total `loss` first, then its parts before their weights.
        """

    def after_step(self, share_done: float, *, only_if: Tensor | None = None) -> dict[str, float]:
        """Do what follows an optimiser step (Algorithm 1, lines 25-26).

        Args:
            share_done: 0 at the first step, 1 at the last.
            only_if: Scalar on the device; where it is false, nothing moves. Nothing waits for it.

        Returns:
            Numbers for the metrics.
        """
        return {}

    @abstractmethod
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' continuous actions."""

    def standardise_states(self, names: tuple[str, ...], mean: Tensor, std: Tensor) -> None:
        """Take names, mean and standard deviation (S,) of the training episodes' states, if the store has them."""

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that training moves, by name, for counting: `encoder` among them."""

    @classmethod
    def completed(cls, config: Config, store: Store) -> Config:
        """Return the settings with what the family finds out when training starts."""
        return config

    def inputs(self, store: Store) -> Store:
        """Return the store that clips are drawn from: this one, or one with other contents in place of frames."""
        return store

    def compile_networks(self) -> None:
        """Compile the networks of a training step with torch.compile, in place."""
        for part in self.parts().values():
            part.compile()

    @property
    def num_parameters(self) -> int:
        """Weights that training moves."""
        return sum(p.numel() for part in self.parts().values() for p in part.parameters())


class WorldModel(Family):
    """A family that represents a frame by that frame alone, and predicts in the space of representations."""

    def encode(self, frame: Any, /) -> Tensor:
        """Represent frames as (B, N, D), as at inference.

        Args:
            frame: (B, height, width, 3) uint8, or what `lewm.frames_in.pictures_in` makes it of.

        Raises:
            ValueError: If it is no picture, or could be several.
        """
        return self.represent(encoder_input(frame, size=self.config.model.image_size, device=self.device))

    @abstractmethod
    def represent(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8, on the model's device and of its size, as (B, N, D)."""

    def represent_inputs(self, inputs: Tensor, /) -> Tensor:
        """Represent rows of `inputs(store).frames` as (B, N, D): frames, where a family has nothing else."""
        return self.represent(inputs)

    def encode_target(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, N, D), in the space that predictions are trained into."""
        return self.represent(frame)

    @abstractmethod
    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        """Roll out model actions in representation space (Algorithm 2).

        Args:
            states: (B, T, N, D) representations of the newest T >= 1 frames, oldest first.
            past_actions: (B, T-1, f*A) or (B, T-1, f), between those frames.
            actions: (B, H, f*A) or (B, H, f), from the newest frame on.

        Returns:
            (B, H, N, D) predicted representations of the next H frames.
        """

    def fresh_encoder(self) -> Callable[[Tensor], Tensor]:
        """Return `represent` of a model of the same form with random weights, in evaluation mode."""
        return make_model(self.config).to(self.device).eval().represent


class PolicyModel(Family):
    """A family that decides by itself, without predicting what comes of it."""

    @abstractmethod
    def decide(self, frame: Tensor, goal: Tensor, /) -> Tensor:
        """Return environment actions (B, L, A), or (B, L) int64, for frames and goals (B, height, width, 3) uint8."""


def encoder_input(frames: Any, *, size: int, device: torch.device) -> Tensor:
    """Return pictures (B, size, size, 3) uint8 on the device; see `pictures_in`. What is so already costs nothing."""
    if not isinstance(frames, Tensor) or frames.dtype != torch.uint8 or frames.shape[1:] != (size, size, 3):
        frames = torch.tensor(pictures_in("frames", frames, size=size))
    return frames.to(device)


def make_model(config: Config) -> Any:
    """Build the model of a configuration, with random weights from torch's global generator.

    Returns:
        A `WorldModel`, or a `PolicyModel` where `config.model.plans` is false.
    """
    return family_of(config)(config)


def family_of(config: Config) -> type[Family]:
    """Return the class of a configuration's family."""
    return found_at(FAMILIES[config.model.family][1])
