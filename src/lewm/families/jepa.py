"""What the article's family and the compact one share: the networks, the EMA target, and rollouts."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lewm.config import Config, JepaSettings
from lewm.families.family import WorldModel
from lewm.model.action import ActionEmbed, InverseDynamics
from lewm.model.encoder import Encoder
from lewm.model.predictor import Predictor


class Jepa(WorldModel):
    """Encoder f_theta, target encoder f_xi, action embedding and predictor g_phi (article, sections 4.1 to 4.6)."""

    encoder: Encoder

    def __init__(self, config: Config, settings: JepaSettings, *, mask_tokens: bool) -> None:
        super().__init__(config)
        self.encoder = self._new_encoder()
        self.action_embed = ActionEmbed(
            config.action, frame_skip=config.data.frame_skip, width=settings.predictor_width
        )
        self.predictor = Predictor(settings, mask_tokens=mask_tokens)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        numbers = settings.num_tokens * settings.token_width
        learns_actions = settings.inverse > 0 and config.action.kind != "none"
        self.inverse = InverseDynamics(numbers, config.action.size) if learns_actions else None
        self.history = settings.history
        self._ema = settings.ema_start, settings.ema_end

    def _new_encoder(self) -> Encoder:
        """Return an encoder of this family's form, with random weights."""
        raise NotImplementedError

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' continuous actions."""
        self.action_embed.standardise(mean, std)

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that training moves, by name."""
        return {"encoder": self.encoder, "predictor": self.predictor, "action": self.action_embed}

    def compile_networks(self) -> None:
        """Compile the networks of a training step with torch.compile, in place."""
        for network in (self.encoder, self.target_encoder, self.predictor):
            network.compile()

    def fresh_encoder(self) -> Callable[[Tensor], Tensor]:
        """Return an encoder of the same form with random weights, in evaluation mode."""
        return self._new_encoder().to(self.device).eval()

    def encode_target(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, N, D), by the target encoder."""
        return self.target_encoder(frame)

    def step(self, context: Sequence[tuple[Tensor, Tensor | None]], action: Tensor) -> Tensor:
        """Predict the next frame (B, N, D) from each frame's (tokens, positions) and actions (B, T, f*A or f)."""
        return self.predictor(context, self.action_embed(action))

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        """Roll out model actions in representation space (Algorithm 2); see `WorldModel.rollout`."""
        frames, done = list(states.unbind(1)), torch.cat((past_actions, actions), dim=1)
        past = len(frames)
        for k in range(past, past + actions.shape[1]):
            seen = slice(max(0, k - self.history), k)
            frames.append(self.step([(z, None) for z in frames[seen]], done[:, seen]))
        return torch.stack(frames[past:], dim=1)

    @torch.no_grad()
    def after_step(self, share_done: float, *, only_if: Tensor | None = None) -> dict[str, float]:
        """Move the target encoder by an exponential moving average (EMA; Algorithm 1, lines 25-26).

        xi <- tau xi + (1 - tau) theta, with tau on a cosine.

        BatchNorm statistics are no parameters: the target encoder keeps its own, gathered from its own forward passes,
        because the statistics of one set of weights do not fit another.
        """
        momentum = ema_momentum(share_done, *self._ema)
        xi: list[Tensor] = list(self.target_encoder.parameters())
        theta: list[Tensor] = list(self.encoder.parameters())
        weight = 1.0 - momentum
        weights = weight if only_if is None else [torch.where(only_if, weight, 0.0)] * len(xi)
        torch._foreach_lerp_(xi, theta, weights)  # pyright: ignore[reportPrivateImportUsage,reportArgumentType,reportCallIssue]
        return {"ema_momentum": momentum}


def ema_momentum(share_done: float, start: float, end: float) -> float:
    """Return tau of the EMA: a cosine from `start` to `end` over the run (article, section 4.2)."""
    return end - (end - start) * 0.5 * (1 + math.cos(math.pi * min(1.0, share_done)))


def context_frames(history: int, generator: torch.Generator) -> int:
    """Draw how many context frames a training batch sees: as many as there are early in an episode, up to all."""
    return 1 if history == 1 else 1 + int(torch.randint(history, (), generator=generator))
