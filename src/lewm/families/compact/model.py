"""The compact family: one vector a frame, predicted from whole frames."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.config import Config
from lewm.families.compact.settings import CompactSettings
from lewm.families.family import Batch
from lewm.families.jepa import Jepa, context_frames
from lewm.model.encoder import Encoder
from lewm.objective import make_regulariser, prediction_loss


class Compact(Jepa):
    """Encoder with a projector, EMA target, predictor over single tokens.

    L = L_pred + lambda L_reg + mu L_slow + nu L_inv

    Without the slowness term the representation can settle for where things are *within* a patch: that is easy to
    predict and satisfies the regulariser, and two places one patch apart look the same to a planner. What changes
    slowly along a trajectory is where things are in the scene. And L_inv, the squared error of decoding the action from
    the change of the representation, keeps what the action moves.

    Note:
        The article has a token a patch, masked contexts and the spectral term: family `article`.
    """

    def __init__(self, config: Config) -> None:
        assert isinstance(config.model, CompactSettings)
        self.settings = config.model
        super().__init__(config, config.model, mask_tokens=False)
        self.regulariser = make_regulariser(config.model.regulariser)

    def _new_encoder(self) -> Encoder:
        return Encoder(self.settings, project=True)

    def represent(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, 1, D)."""
        return self.encoder(frame)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the objective of a batch; see `Family.losses`. The EMA (l.25-26) is `Jepa.after_step`."""
        s, steps = self.settings, self.settings.rollout_steps
        seen = context_frames(s.history, generator)
        frames, actions = batch.frames[:, s.history - seen :], batch.actions[:, s.history - seen :]

        z = self.encoder(frames[:, :seen].flatten(0, 1))  # l.6-7   (B*T, 1, D)
        with torch.set_grad_enabled(s.target_gradient):
            target_encoder = self.encoder if s.target_gradient else self.target_encoder
            s_next = target_encoder(frames[:, seen:].flatten(0, 1))  # l.9-10  (B*R, 1, D)
        regularised = torch.cat([z, s_next]) if s.target_gradient else z
        s_next = s_next.unflatten(0, (-1, steps))  # (B, R, 1, D)

        context = list(z.unflatten(0, (-1, seen)).unbind(1))
        loss_pred = torch.zeros((), device=frames.device)
        for k in range(steps):
            newest = slice(max(0, seen + k - s.history), seen + k)
            s_hat = self.step([(frame, None) for frame in context[newest]], actions[:, newest])  # l.12-13 (B, 1, D)
            loss_pred = loss_pred + prediction_loss(s_hat, s_next[:, k]) / steps  # l.15
            context.append(s_hat)

        loss_reg = self.regulariser(regularised, regularised.new_zeros(regularised.shape[:2], dtype=torch.int64))
        now, soon = context[seen - 1], s_next[:, 0]
        loss_slow = prediction_loss(now, soon)
        loss = loss_pred + s.regulariser_weight * loss_reg + s.slowness * loss_slow  # l.23
        losses = {"loss": loss, "loss_pred": loss_pred, "loss_reg": loss_reg, "loss_slow": loss_slow}
        if self.inverse is not None:
            done = self.action_embed.summed(actions[:, seen - 1])  # (B, A)
            losses["loss_inv"] = F.mse_loss(self.inverse(now, soon), done)
            losses["loss"] = loss + s.inverse * losses["loss_inv"]
        return losses

    @torch.no_grad()
    def after_step(self, share_done: float, *, only_if: Tensor | None = None) -> dict[str, float]:
        """Move the target encoder; with `target_gradient` it is the online one, statistics included."""
        if not self.settings.target_gradient:
            return super().after_step(share_done, only_if=only_if)
        self.target_encoder.load_state_dict(self.encoder.state_dict())
        return {}
