"""The latent dynamics of TD-MPC2 (Hansen et al., arXiv 2310.16828), without reward, value and policy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import Config
from lewm.families.family import Batch
from lewm.families.rivals.rival import RivalWorldModel, frame_planes, halvings
from lewm.families.rivals.rival_settings import TDMPC2Settings

SIMPLEX = 8  # V, entries of a simplex
KERNELS = (7, 5, 3)


def simnorm(z: Tensor) -> Tensor:
    """Project latents (..., D) onto D / V simplices by a softmax over each group of V entries (section 3.1, eq. 1)."""
    return z.unflatten(-1, (-1, SIMPLEX)).softmax(-1).flatten(-2)


class NormedLinear(nn.Sequential):
    """Linear layer, LayerNorm, Mish (section 3.1)."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(nn.Linear(size_in, size_out), nn.LayerNorm(size_out), nn.Mish())


class TDMPC2(RivalWorldModel):
    """Encoder z = h(s) and dynamics z' = d(z, a), both onto simplices, trained by consistency alone.

    L = sum_{t=0}^{H-1} rho^t |z_{t+1} - sg(h(s_{t+1}))|^2,  z_0 = h(s_0), z_{t+1} = d(z_t, a_t)   (section 3.1, eq. 3)

    Note:
        Stores have no rewards, so the reward, value and policy terms of eq. 3 and 4 are left out, and with them all
        that keeps the latent informative in the paper: a constant encoder solves consistency too, and SimNorm,
        which bounds the latent, does not forbid that. What this rival shows is what the rest adds. The paper's
        convolutions end in the latent; here a linear layer follows, so that D is the same for every image size. There
        is no random shift of the frames: no other model here has one, and places matter.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.model, TDMPC2Settings)
        self.settings = config.model
        latent, hidden, channels = config.model.latent, config.model.hidden, config.model.channels
        sides = halvings(config.model.image_size)
        convolutions: list[nn.Module] = []
        for i in range(len(sides) - 1):
            kernel = KERNELS[min(i, len(KERNELS) - 1)]
            padding = kernel // 2 - sides[i] % 2  # an odd side is rounded down
            convolutions += [nn.Conv2d(channels if i else 3, channels, kernel, stride=2, padding=padding), nn.ReLU()]
        self.encoder = nn.Sequential(
            *convolutions, nn.Flatten(), nn.Linear(channels * sides[-1] ** 2, latent), nn.LayerNorm(latent)
        )
        self.dynamics = nn.Sequential(
            NormedLinear(latent + self.action_vector.width, hidden), NormedLinear(hidden, hidden),
            nn.Linear(hidden, latent), nn.LayerNorm(latent),
        )  # fmt: skip

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that training moves, by name."""
        return {"encoder": self.encoder, "predictor": self.dynamics}

    def h(self, frame: Tensor) -> Tensor:
        """Encode frames (B, height, width, 3) uint8 as latents (B, D)."""
        return simnorm(self.encoder(frame_planes(frame) - 0.5))

    def d(self, z: Tensor, action: Tensor) -> Tensor:
        """Predict the next latent (B, D) from a latent (B, D) and the action's vector (B, f*A)."""
        return simnorm(self.dynamics(torch.cat([z, action], dim=-1)))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the consistency loss of clips (eq. 3)."""
        frames, actions = batch.frames, self.action_vector(batch.actions)
        z = self.h(frames[:, 0])  # (B, D)
        with torch.no_grad():
            targets = self.h(frames[:, 1:].flatten(0, 1)).unflatten(0, frames[:, 1:].shape[:2])  # (B, H, D)
        loss = z.new_zeros(())
        for t in range(targets.shape[1]):
            z = self.d(z, actions[:, t])
            loss = loss + self.settings.rho**t * F.mse_loss(z, targets[:, t])
        return {"loss": loss}

    def represent(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 as (B, 1, D)."""
        return self.h(frame)[:, None]

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        """Predict (B, H, 1, D) from the newest of states (B, T, 1, D), and the actions from there on."""
        z, latents = states[:, -1, 0], []
        for a in self.action_vector(actions).unbind(1):
            z = self.d(z, a)
            latents.append(z)
        return torch.stack(latents, dim=1)[:, :, None]
