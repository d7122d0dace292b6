"""The world model as a whole: encode, predict, roll out, and follow the online encoder (article, sections 4 and 8)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lewm.config import Config
from lewm.model.action import ActionEmbed, InverseDynamics
from lewm.model.encoder import Encoder, normalise
from lewm.model.frames_in import encoder_input
from lewm.model.predictor import Predictor
from lewm.model.steps_to_go import StepsToGo


class WorldModel(nn.Module):
    """Encoder f_theta, target encoder f_xi, action embedding and predictor g_phi."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.model)
        self.action_embed = ActionEmbed(config)
        self.predictor = Predictor(config.model)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        if not config.train.train_encoder:
            self.encoder.requires_grad_(False)
        self.steps_to_go = StepsToGo(config.model)
        self.inverse = InverseDynamics(config) if config.loss.inverse else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.pos_embed.device

    def encode(self, frame: Any) -> Tensor:
        """Represent whole frames as (B, N, D), with the network chosen for inference.

        Args:
            frame: (B, height, width, 3) uint8, or what `lewm.model.frames_in.pictures_in` makes it of.

        Raises:
            ValueError: If it is no picture, or could be several.
        """
        frame = encoder_input(frame, size=self.config.model.image_size, device=self.device)
        online = self.config.model.inference_encoder == "online"
        return (self.encoder if online else self.target_encoder)(frame)

    def fresh_encoder(self) -> Callable[[Tensor], Tensor]:
        """Return an encoder of the same form with random weights, in evaluation mode."""
        return Encoder(self.config.model).to(self.device).eval()

    def step(self, context: Sequence[tuple[Tensor, Tensor | None]], action: Tensor) -> Tensor:
        """Predict the next frame (B, N, D) from each frame's (tokens, positions) and actions (B, T, f*A or f)."""
        s_hat = self.predictor(context, self.action_embed(action))
        if self.config.model.residual:
            s_hat = s_hat + normalise(context[-1][0], self.config.model.final_norm)
        return s_hat

    def predict(self, tokens: Tensor, action: Tensor) -> Tensor:
        """Predict the next frame from whole frames.

        Args:
            tokens: (B, T, N, D) representations, oldest first, T at most `model.history`.
            action: (B, T, f*A) float or (B, T, f) int64, the action taken at each frame.

        Returns:
            (B, N, D) representation of frame t+1.
        """
        return self.step([(z, None) for z in tokens.unbind(1)], action)

    def rollout(self, tokens: Tensor, action: Tensor) -> Tensor:
        """Roll out a sequence of actions in representation space (Algorithm 2).

        Args:
            tokens: (B, T, N, D) representations of the newest T >= 1 frames, oldest first.
            action: (B, T-1+H, f*A) or (B, T-1+H, f): the T-1 past actions between those frames, then the H to come.

        Returns:
            (B, H, N, D) predicted representations of the next H frames.
        """
        frames = list(tokens.unbind(1))
        past = len(frames)
        for k in range(past, action.shape[1] + 1):
            seen = slice(max(0, k - self.config.model.history), k)
            frames.append(self.step([(z, None) for z in frames[seen]], action[:, seen]))
        return torch.stack(frames[past:], dim=1)

    @torch.no_grad()
    def ema_update(self, momentum: float, *, only_if: Tensor | None = None) -> None:
        """Move the target encoder, xi <- tau xi + (1 - tau) theta (Algorithm 1, line 26).

        BatchNorm statistics are no parameters: the target encoder keeps its own, gathered from its own forward passes,
        because the statistics of one set of weights do not fit another. With `loss.target_gradient` there is no
        network that lags: the target encoder is the online one, statistics included.

        Args:
            momentum: tau.
            only_if: Scalar on the device; where it is false, nothing moves. Nothing waits for it.
        """
        if self.config.loss.target_gradient:
            self.target_encoder.load_state_dict(self.encoder.state_dict())
            return
        xi: list[Tensor] = list(self.target_encoder.parameters())
        theta: list[Tensor] = list(self.encoder.parameters())
        weight = 1.0 - momentum
        weights = weight if only_if is None else [torch.where(only_if, weight, 0.0)] * len(xi)
        torch._foreach_lerp_(xi, theta, weights)  # pyright: ignore[reportPrivateImportUsage,reportArgumentType,reportCallIssue]
