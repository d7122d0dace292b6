"""The article's family: Algorithm 1 as it is written, with the readings and mendings that its settings name."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.config import Config
from lewm.families.article.settings import ArticleSettings
from lewm.families.family import Batch
from lewm.families.jepa import Jepa, context_frames
from lewm.model.encoder import Encoder
from lewm.model.mask import sample_context
from lewm.objective import make_regulariser, prediction_loss
from lewm.objective.moments import at_least_float32


class Article(Jepa):
    """A token a patch; the context frame is masked, and all tokens of the next frame are predicted.

    L = L_pred + lambda L_reg   (article, section 4.5; Algorithm 1)

    Beyond the article, `slowness` adds mu L_slow and `inverse` nu L_inv, as in the compact family.
    """

    def __init__(self, config: Config) -> None:
        assert isinstance(config.model, ArticleSettings)
        self.settings = s = config.model
        super().__init__(config, s, mask_tokens=s.mask_tokens)
        positions = s.num_tokens if s.apply_to == "tokens" else 1
        centre = s.centre if s.apply_to == "tokens" else "batch"  # one vector a frame is one position
        self.regulariser = make_regulariser(s.regulariser, centre=centre, num_positions=positions)

    def _new_encoder(self) -> Encoder:
        return Encoder(self.settings)

    def represent(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, N, D), with the network chosen for inference."""
        online = self.settings.inference_encoder == "online"
        return (self.encoder if online else self.target_encoder)(frame)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the objective of a batch; see `Family.losses`. The EMA (l.25-26) is `Jepa.after_step`."""
        s, steps = self.settings, self.settings.rollout_steps
        context_idx = self._sample_context(len(batch.frames), generator)  # l.3  (B, Nc), or None for whole frames
        seen = context_frames(s.history, generator)
        frames, actions = batch.frames[:, s.history - seen :], batch.actions[:, s.history - seen :]
        repeated = None if context_idx is None else context_idx.repeat_interleave(seen, 0)

        z_c = self.encoder(frames[:, :seen].flatten(0, 1), repeated)  # l.6-7   (B*T, Nc, D)
        with torch.no_grad():
            s_next = self.target_encoder(frames[:, seen:].flatten(0, 1))  # l.9-10  (B*R, N, D)
        s_next = s_next.unflatten(0, (-1, steps))  # (B, R, N, D)

        context = [(z, context_idx) for z in z_c.unflatten(0, (-1, seen)).unbind(1)]
        loss_pred = torch.zeros((), device=frames.device)
        for k in range(steps):
            newest = slice(max(0, seen + k - s.history), seen + k)
            s_hat = self.step(context[newest], actions[:, newest])  # l.12-13 (B, N, D)
            loss_pred = loss_pred + self._distance(*self._scored(s_hat, s_next[:, k], context_idx)) / steps  # l.15
            context.append((s_hat, None))

        loss_reg = self._regularise(z_c, repeated)  # l.17-21
        now, soon = context[seen - 1][0], s_next[:, 0]
        here = soon if context_idx is None else soon.gather(1, context_idx[..., None].expand_as(now))  # (B, Nc, D)
        loss_slow = self._distance(now, here)
        loss = loss_pred + s.regulariser_weight * loss_reg + s.slowness * loss_slow  # l.23
        losses = {"loss": loss, "loss_pred": loss_pred, "loss_reg": loss_reg, "loss_slow": loss_slow}
        if self.inverse is not None:
            done = self.action_embed.summed(actions[:, seen - 1])  # (B, A)
            losses["loss_inv"] = F.mse_loss(self.inverse(now, soon), done)
            losses["loss"] = loss + s.inverse * losses["loss_inv"]
        return losses

    def _sample_context(self, batch_size: int, generator: torch.Generator) -> Tensor | None:
        s = self.settings
        if s.full_context_prob == 1:
            return None
        context_idx = sample_context(
            grid=s.grid,
            batch_size=batch_size,
            blocks=s.mask_blocks,
            scale=s.mask_scale,
            aspect=s.mask_aspect,
            context_ratio=s.context_ratio,
            full_context_prob=s.full_context_prob,
            generator=generator,
        )
        return None if context_idx is None else context_idx.to(self.device)

    def _distance(self, s_hat: Tensor, s_next: Tensor) -> Tensor:
        s = self.settings
        return prediction_loss(s_hat, s_next, beta=s.beta, reduction=s.reduction, form=s.loss_form)

    def _scored(self, s_hat: Tensor, s_next: Tensor, context_idx: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tokens that the prediction loss compares: all, or those outside the context."""
        if self.settings.targets == "all" or context_idx is None:
            return s_hat, s_next
        return outside(s_hat, context_idx), outside(s_next, context_idx)

    def _regularise(self, z_c: Tensor, positions: Tensor | None) -> Tensor:
        """Regularise context tokens (B*T, Nc, D) at their positions, or the mean token of each frame."""
        if self.settings.apply_to == "frame":
            z_c = at_least_float32(z_c).mean(dim=1, keepdim=True)  # (B*T, 1, D)
            positions = None
        if positions is None:
            positions = torch.arange(z_c.shape[1], device=z_c.device).expand(z_c.shape[:2])
        return self.regulariser(z_c, positions)


def outside(tokens: Tensor, context_idx: Tensor) -> Tensor:
    """Keep the tokens (B, N, D) at positions not in `context_idx` (B, Nc), as (B, N - Nc, D)."""
    batch, count, width = tokens.shape
    kept = torch.ones(batch, count, dtype=torch.bool, device=tokens.device).scatter(1, context_idx, False)
    return tokens[kept].view(batch, count - context_idx.shape[1], width)
