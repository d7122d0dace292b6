"""Goal-conditioned behaviour cloning: the action that the data took on its way to the goal; no world model at all."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import Config
from lewm.families.family import Batch, PolicyModel
from lewm.families.rivals.rival import ActionVector
from lewm.families.rivals.rival_settings import GCBCSettings
from lewm.model.encoder import Encoder


class GCBC(PolicyModel):
    """Policy pi(a_t .. a_{t+L-1} | o_t, o_g) for the L environment actions of `model.chunk` model steps.

    L = E[ |pi(o_t, o_{t+g}) - a|^2 ] for continuous actions, the cross-entropy for discrete ones, over the actions that
    come before the goal; g is uniform over 1 to `model.goal_offset` environment steps, as far as the episode reaches.

    The encoder has the form of the compact family's, one vector a frame, is the same for the present and the goal, and
    is trained end to end.

    Note:
        It is not told how many steps are left, because in closed loop nobody knows once `goal_offset` is over.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.model, GCBCSettings)
        settings = config.model
        self.length = settings.chunk * config.data.frame_skip
        self.encoder = Encoder(settings, project=True)
        self.action_vector = ActionVector(config)
        hidden = settings.hidden
        self.token = nn.Linear(settings.width, settings.features)
        self.head = nn.Sequential(
            nn.Linear(2 * settings.features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, self.length * config.action.size),
        )  # fmt: skip

    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take mean and standard deviation (A,) of the training episodes' continuous actions."""
        self.action_vector.standardise(mean, std)

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that training moves, by name."""
        return {"encoder": self.encoder, "policy": nn.ModuleList((self.token, self.head))}

    def forward(self, frame: Tensor, goal: Tensor) -> Tensor:
        """Return standardised actions, or logits, (B, L, A) for frames and goals (B, height, width, 3) uint8."""
        tokens = self.encoder(torch.cat([frame, goal]))  # (2B, 1, D)
        now, wanted = self.token(tokens).flatten(1).chunk(2)
        return self.head(torch.cat([now, wanted], dim=-1)).unflatten(-1, (self.length, -1))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the loss of the actions before each clip's goal."""
        assert batch.goal is not None
        assert batch.goal_steps is not None
        out = self(batch.frames[:, 0], batch.goal)  # (B, L, A)
        before = torch.arange(self.length, device=out.device) < batch.goal_steps[:, None]  # (B, L)
        return {"loss": cloning_loss(out, self._target(batch.actions.flatten(1)), before)}

    def _target(self, actions: Tensor) -> Tensor:
        """Turn environment actions (B, L*A) into standardised ones (B, L, A); leave discrete ones (B, L)."""
        if self.config.action.kind == "discrete":
            return actions
        size = self.config.action.size
        mean, std = self.action_vector.mean[:size], self.action_vector.std[:size]
        return (actions.unflatten(-1, (-1, size)) - mean) / std

    @torch.no_grad()
    def decide(self, frame: Tensor, goal: Tensor, /) -> Tensor:
        """Return environment actions (B, L, A), or (B, L) int64, for frames and goals (B, height, width, 3) uint8."""
        out = self(frame, goal)
        if self.config.action.kind == "discrete":
            return out.argmax(-1)
        size = self.config.action.size
        return out * self.action_vector.std[:size] + self.action_vector.mean[:size]


def cloning_loss(out: Tensor, target: Tensor, before: Tensor) -> Tensor:
    """Return the mean over the actions that come before the goal.

    Args:
        out: (B, L, A) predicted actions, or logits.
        target: (B, L, A) actions, or (B, L) int64.
        before: (B, L) bool, which ones count; at least the first.
    """
    if target.ndim == 2:
        error = F.cross_entropy(out.float().transpose(1, 2), target, reduction="none")  # (B, L)
    else:
        error = (out.float() - target).square().mean(-1)
    return error[before].mean()
