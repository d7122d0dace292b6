"""The compact family: one vector a frame, predicted from whole frames."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.config import Config
from lewm.data.store import Store
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

    What actions move at once, such as the robot's own hand, is easiest to predict, and fills a vector that has to be
    filled; what the hand only pushes is left out. With `proprio` the last P numbers of the vector read where the hand
    is, from the frame, by what the robot measured in training (L_read). The others need it no longer, and slowness and
    the regulariser work on these alone: they are filled by what moves less.

    L = L_pred + lambda L_reg + mu L_slow + L_read

    Note:
        The article has a token a patch, masked contexts and the spectral term: family `article`.
    """

    def __init__(self, config: Config) -> None:
        assert isinstance(config.model, CompactSettings)
        self.settings = config.model
        super().__init__(config, config.model, mask_tokens=False)
        self.regulariser = make_regulariser(config.model.regulariser)
        known = len(config.model.proprio)
        self.known_columns: Tensor
        self.known_mean: Tensor
        self.known_std: Tensor
        if known:
            self.register_buffer("known_columns", torch.arange(known))
            self.register_buffer("known_mean", torch.zeros(known))
            self.register_buffer("known_std", torch.ones(known))
            # the numbers that are read weigh as much in a distance between frames as all the others
            self._read_scale = math.sqrt((config.model.width - known) / known)

    @classmethod
    def completed(cls, config: Config, store: Store) -> Config:
        """Check that the store has the variables that the settings name."""
        assert isinstance(config.model, CompactSettings)
        there = store.meta.state_names
        for name in config.model.proprio:
            if name not in there:
                has = f"has {', '.join(there)}" if there else "has no states"
                raise ValueError(f"model.proprio={name}: the store {store.path} {has}; name some of these, or none")
        return config

    def standardise_states(self, names: tuple[str, ...], mean: Tensor, std: Tensor) -> None:
        """Take names, mean and standard deviation (S,) of the training episodes' states."""
        if not self.settings.proprio:
            return
        columns = torch.tensor([names.index(name) for name in self.settings.proprio])
        self.known_columns.copy_(columns)
        self.known_mean.copy_(mean[columns])
        self.known_std.copy_(torch.where(std[columns] > 1e-6, std[columns], 1.0))

    def known(self, states: Tensor | None) -> Tensor | None:
        """Return what the robot measured, standardised, (..., P), of states (..., S); None without `proprio`."""
        if not self.settings.proprio or states is None:
            return None
        return (states[..., self.known_columns] - self.known_mean) / self.known_std

    def halves(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of representations (..., D) that are free, and the P that read, standardised."""
        free = tokens.shape[-1] - len(self.settings.proprio)
        return tokens[..., :free], tokens[..., free:] / self._read_scale if self.settings.proprio else tokens[
            ..., free:
        ]

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

        known = self.known(None if batch.states is None else batch.states[:, s.history - seen :])  # (B, T+R, P)

        z = self.encoder(frames[:, :seen].flatten(0, 1))  # l.6-7   (B*T, 1, D)
        with torch.set_grad_enabled(s.target_gradient):
            target_encoder = self.encoder if s.target_gradient else self.target_encoder
            s_next = target_encoder(frames[:, seen:].flatten(0, 1))  # l.9-10  (B*R, 1, D)
        regularised, _ = self.halves(torch.cat([z, s_next]) if s.target_gradient else z)
        s_next = s_next.unflatten(0, (-1, steps))  # (B, R, 1, D)

        context = list(z.unflatten(0, (-1, seen)).unbind(1))
        now, soon = context[seen - 1], s_next[:, 0]
        loss_pred = torch.zeros((), device=frames.device)
        for k in range(steps):
            newest = slice(max(0, seen + k - s.history), seen + k)
            s_hat = self.step([(frame, None) for frame in context[newest]], actions[:, newest])  # l.12-13 (B, 1, D)
            free, read = self.halves(s_hat)
            loss_pred = loss_pred + prediction_loss(free, self.halves(s_next[:, k])[0]) / steps  # l.15
            if known is not None:
                loss_pred = loss_pred + prediction_loss(read, known[:, seen + k, None]) / steps
            context.append(s_hat)

        loss_reg = self.regulariser(regularised, regularised.new_zeros(regularised.shape[:2], dtype=torch.int64))
        loss_slow = prediction_loss(self.halves(now)[0], self.halves(soon)[0])
        loss = loss_pred + s.regulariser_weight * loss_reg + s.slowness * loss_slow  # l.23
        losses = {"loss": loss, "loss_pred": loss_pred, "loss_reg": loss_reg, "loss_slow": loss_slow}
        if known is not None:
            read = self.halves(torch.stack([*context[:seen], *(s_next.unbind(1) if s.target_gradient else ())], 1))[1]
            losses["loss_read"] = prediction_loss(read.squeeze(2), known[:, : read.shape[1]])
            losses["loss"] = losses["loss"] + losses["loss_read"]
        if self.inverse is not None:
            done = self.action_embed.summed(actions[:, seen - 1])  # (B, A)
            losses["loss_inv"] = F.mse_loss(self.inverse(now, soon), done)
            losses["loss"] = losses["loss"] + s.inverse * losses["loss_inv"]
        return losses

    @torch.no_grad()
    def after_step(self, share_done: float, *, only_if: Tensor | None = None) -> dict[str, float]:
        """Move the target encoder; with `target_gradient` it is the online one, statistics included."""
        if not self.settings.target_gradient:
            return super().after_step(share_done, only_if=only_if)
        self.target_encoder.load_state_dict(self.encoder.state_dict())
        return {}
