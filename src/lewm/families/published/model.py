"""The published LeWM as a family: its loss, and what evaluation and planning ask of it (arXiv 2603.19312)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import Config
from lewm.distributed import world_size
from lewm.families.family import Batch, WorldModel
from lewm.families.published.modules import ActionEmbed, Encoder, Predictor
from lewm.families.published.settings import PublishedSettings
from lewm.objective.gaussian import gaussian_sigreg

T_MAX = 3.0  # up to where the released statistic compares characteristic functions


class Published(WorldModel):
    """Encoder with projector, causal predictor over `history` frames, and action embedding."""

    encoder: Encoder

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.model, PublishedSettings)
        self.settings = config.model
        self.encoder = Encoder(config.model)
        self.predictor = Predictor(config.model)
        self.action_embed = ActionEmbed(config.model, config.action.kind, config.action.size, config.data.frame_skip)

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that training moves, by name."""
        return {"encoder": self.encoder, "predictor": self.predictor, "action": self.action_embed}

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take the moments (A,) of the training episodes' continuous actions."""
        self.action_embed.standardise(mean, std)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the published objective, with gradients through both frames of every pair.

        L = mean |g(z_1..t, a_1..t) - z_t+1|^2 + lambda SIGReg(z)

        SIGReg tests the B representations of each time step against the standard normal distribution and averages over
        time steps. See `PublishedSettings` for how lambda keeps its balance in batches of another size.

        Args:
            batch: Clips of `clip_frames` frames.
            generator: Unused; dropout and random directions are drawn by the global generator of the device.

        Returns:
            Scalars: the total `loss`, and its parts before the weight, `loss_pred` and `loss_reg`.
        """
        cfg, (clips, steps) = self.settings, batch.frames.shape[:2]
        z = self.encoder(batch.frames.flatten(0, 1)).unflatten(0, (clips, steps))  # (B, T, D)
        e_a = self.action_embed(batch.actions)  # (B, T-1, D)
        z_hat = self.predictor(z[:, :-1], e_a)  # (B, T-1, D): each from the frames up to its own
        loss_pred = F.mse_loss(z_hat, z[:, 1:])

        time = torch.arange(steps, device=z.device).expand(clips, -1)  # (B, T)
        sample = {"centre": "position", "num_positions": steps}  # a sample of its own for each time step
        sketch = {"num_directions": cfg.num_directions, "t_max": T_MAX, "knots": 2 * cfg.knots - 1}
        statistic = gaussian_sigreg(z, time, **sample, **sketch)  # grows with the number of clips
        loss_reg = statistic * (cfg.reference_batch / (clips * world_size()))

        loss = loss_pred + cfg.regulariser_weight * loss_reg
        return {"loss": loss, "loss_pred": loss_pred, "loss_reg": loss_reg}

    def represent(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, 1, D)."""
        return self.encoder(frame)[:, None]

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        """Roll actions out in representation space; each prediction sees the `history` frames before it.

        Args:
            states: (B, T, 1, D) representations of the newest T >= 1 frames, oldest first.
            past_actions: (B, T-1, f*A) or (B, T-1, f): the actions between those frames.
            actions: (B, H, f*A) or (B, H, f): the actions from there on.

        Returns:
            (B, H, 1, D) predicted representations of the next H frames.
        """
        z = list(states[:, :, 0].unbind(1))
        e_a = self.action_embed(torch.cat([past_actions, actions], dim=1))  # (B, T-1+H, D)
        past = len(z)
        for k in range(past, e_a.shape[1] + 1):
            seen = slice(max(0, k - self.settings.history), k)
            z.append(self.predictor(torch.stack(z[seen], dim=1), e_a[:, seen], newest=True)[:, 0])
        return torch.stack(z[past:], dim=1)[:, :, None]
