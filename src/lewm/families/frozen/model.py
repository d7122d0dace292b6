"""A pretrained encoder that stays as it is, under a predictor that is trained on its cached tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lewm.config import Config
from lewm.data.store import Store
from lewm.families.family import Batch, WorldModel
from lewm.families.frozen.feature_store import FeatureStore
from lewm.families.frozen.onnx_encoder import OnnxEncoder
from lewm.families.frozen.settings import FrozenSettings
from lewm.families.jepa import context_frames
from lewm.model.action import ActionEmbed
from lewm.model.encoder import normalise
from lewm.model.predictor import Predictor
from lewm.objective import prediction_loss


class Frozen(WorldModel):
    """Encoder from an ONNX file, its tokens brought to unit scale, and a predictor over whole frames.

    L = SmoothL1(g(z_t, a_t), z_{t+1})

    Nothing can collapse, since the encoder is given. In kind this is DINO-WM (arXiv 2411.04983) and that stage of
    V-JEPA 2 which learns actions (arXiv 2506.09985).
    """

    encoder: OnnxEncoder

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.model, FrozenSettings)
        self.settings = s = config.model
        self.encoder = OnnxEncoder(s)
        self.action_embed = ActionEmbed(config.action, frame_skip=config.data.frame_skip, width=s.predictor_width)
        self.predictor = Predictor(s, mask_tokens=False)

    @classmethod
    def completed(cls, config: Config, store: Store) -> Config:
        """Return the settings with what the encoder's file says of itself: its SHA-256, N and D."""
        assert isinstance(config.model, FrozenSettings)
        encoder = OnnxEncoder(config.model)
        tokens = encoder(torch.from_numpy(store.frames[:1].copy()))
        model = dataclasses.replace(
            config.model,
            encoder_file=str(Path(config.model.encoder_file).resolve()),
            encoder_sha256=encoder.digest,
            tokens=tokens.shape[1],
            width=tokens.shape[2],
        )
        return dataclasses.replace(config, model=model)

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' continuous actions."""
        self.action_embed.standardise(mean, std)

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that training moves, by name; the encoder is not among them."""
        return {"predictor": self.predictor, "action": self.action_embed}

    def inputs(self, store: Store) -> Store:
        """Return the store with the encoder's tokens in place of frames, cached beside it."""
        return FeatureStore(store, self.encoder, name=f"{self.encoder.digest[:12]}-{self._layout()}")

    def _layout(self) -> str:
        s = self.settings
        return f"{s.encoder_size}-{s.tokens}x{s.width}-{s.encoder_output or 'first'}-{s.skip_tokens}"

    def represent_inputs(self, inputs: Tensor, /) -> Tensor:
        """Represent tokens (B, N, D) of the cache as (B, N, D)."""
        return normalise(inputs.float(), self.settings.final_norm)

    def represent(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, N, D)."""
        return self.represent_inputs(self.encoder(frame))

    def fresh_encoder(self) -> Callable[[Tensor], Tensor]:
        """Return a random convolution with the same number of tokens, in evaluation mode: the trivial rival."""
        s = self.settings
        side = max(1, s.grid)
        patch = s.image_size // side
        random = nn.Conv2d(3, s.width, patch, stride=patch).to(self.device).eval()

        def encode(frame: Tensor) -> Tensor:
            tokens = random(frame.permute(0, 3, 1, 2).float() / 127.5 - 1).flatten(2).transpose(1, 2)
            return normalise(tokens, s.final_norm)

        return encode

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the prediction loss of clips of cached tokens (B, T, N, D); see `Family.losses`."""
        s, steps = self.settings, self.settings.rollout_steps
        seen = context_frames(s.history, generator)
        inputs, actions = batch.frames[:, s.history - seen :], batch.actions[:, s.history - seen :]
        z = self.represent_inputs(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])  # (B, T+R, N, D)
        context, s_next = list(z[:, :seen].unbind(1)), z[:, seen:]
        loss = torch.zeros((), device=z.device)
        for k in range(steps):
            newest = slice(max(0, seen + k - s.history), seen + k)
            s_hat = self.step(context[newest], actions[:, newest])  # (B, N, D)
            loss = loss + prediction_loss(s_hat, s_next[:, k]) / steps
            context.append(s_hat)
        return {"loss": loss, "loss_pred": loss}

    def step(self, context: Sequence[Tensor], action: Tensor) -> Tensor:
        """Predict the next frame (B, N, D) from frames (B, N, D) and actions (B, T, f*A or f)."""
        return self.predictor([(z, None) for z in context], self.action_embed(action))

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        """Roll out model actions in representation space; see `WorldModel.rollout`."""
        frames, done = list(states.unbind(1)), torch.cat((past_actions, actions), dim=1)
        past = len(frames)
        for k in range(past, past + actions.shape[1]):
            seen = slice(max(0, k - self.settings.history), k)
            frames.append(self.step(frames[seen], done[:, seen]))
        return torch.stack(frames[past:], dim=1)
