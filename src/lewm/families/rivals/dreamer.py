"""The world model of DreamerV3 (Hafner et al., arXiv 2301.04104): reconstructs frames; no reward, actor or critic."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lewm.config import Config
from lewm.families.family import Batch
from lewm.families.rivals.rival import RivalWorldModel, frame_planes, halvings
from lewm.families.rivals.rival_settings import DreamerSettings

UNIMIX = 0.01  # share of the uniform distribution in every categorical one
BETA_PRED, BETA_DYN, BETA_REP = 1.0, 1.0, 0.1
FREE_NATS = 1.0


def unimix(logits: Tensor) -> Tensor:
    """Return the probabilities (..., S, C) of categorical latents, 1% of them uniform."""
    return (1 - UNIMIX) * logits.float().softmax(-1) + UNIMIX / logits.shape[-1]


def straight_through(probs: Tensor) -> Tensor:
    """Draw one-hot latents (..., S, C); the gradient is that of the probabilities."""
    drawn = torch.multinomial(probs.detach().flatten(0, -2), 1).view(probs.shape[:-1])
    return F.one_hot(drawn, probs.shape[-1]) + probs - probs.detach()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL[p || q] (...) of latents of S independent categoricals (..., S, C)."""
    return (p * (p.log() - q.log())).sum((-2, -1))


def kl_losses(posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Return the dynamics loss and the representation loss, each the mean over all latents (..., S, C).

    L_dyn = max(1, KL[sg(q) || p]),  L_rep = max(1, KL[q || sg(p)])
    """
    dynamics = kl(posterior.detach(), prior).clamp_min(FREE_NATS)
    representation = kl(posterior, prior.detach()).clamp_min(FREE_NATS)
    return dynamics.mean(), representation.mean()


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of planes (B, C, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of every place."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Dense(nn.Sequential):
    """Linear layer, LayerNorm, SiLU."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__(nn.Linear(size_in, size_out), nn.LayerNorm(size_out), nn.SiLU())


class Recurrence(nn.Module):
    """The sequence model h' = f(h, z, a): a GRU whose gates are normalised together."""

    def __init__(self, latent: int, action: int, deterministic: int, hidden: int) -> None:
        super().__init__()
        self.embed = Dense(latent + action, hidden)
        self.gates = nn.Linear(deterministic + hidden, 3 * deterministic, bias=False)
        self.norm = nn.LayerNorm(3 * deterministic)

    def forward(self, h: Tensor, z: Tensor, action: Tensor) -> Tensor:
        """Advance states h (B, Dh), given latents (B, S*C) and actions (B, f*A)."""
        x = self.embed(torch.cat([z, action], dim=-1))
        reset, candidate, update = self.norm(self.gates(torch.cat([h, x], dim=-1))).chunk(3, dim=-1)
        candidate = (reset.sigmoid() * candidate).tanh()
        update = (update - 1).sigmoid()  # starts by keeping
        return update * candidate + (1 - update) * h


class Dreamer(RivalWorldModel):
    """Recurrent state-space model.

    Sequence model  h_t = f(h_{t-1}, z_{t-1}, a_{t-1})
    Encoder         z_t ~ q(z_t | x_t)
    Dynamics        z_t ~ p(z_t | h_t)
    Decoder         x_t = g(h_t, z_t)

    L = beta_pred |g(h_t, z_t) - x_t|^2 + beta_dyn L_dyn + beta_rep L_rep

    Note:
        What is measured here must be a function of one frame, so the posterior sees the frame alone, q(z_t | x_t);
        the paper's sees the state too, q(z_t | h_t, x_t). So the prior predicts the very distribution that a frame is
        represented by. The representation is that distribution, the S x C probabilities, flattened. A rollout follows
        the prior, feeding back its most probable latent. A clip's first frame has no predecessor: it is reconstructed,
        with h = 0, and has no prior to be near to. There are no rewards or ends, so no heads for them, and no actor
        and critic: the package's planner takes their place. Pixels need no symlog, which is for values of any size. The
        norms are LayerNorm, as in the paper's first version, because it is the quicker one; the GRU is one block.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.model, DreamerSettings)
        settings = config.model
        self.classes, deterministic, hidden = settings.classes, settings.deterministic, settings.hidden
        latent, widths = settings.token_width, settings.channels
        sides = halvings(settings.image_size)
        channels = [3, *(widths[min(i, len(widths) - 1)] for i in range(len(sides) - 1))]
        self.deterministic = deterministic
        encoder: list[nn.Module] = []
        for before, after in pairwise(channels):
            encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), ChannelNorm(after), nn.SiLU()]
        self.encoder = nn.Sequential(*encoder, nn.Flatten(), nn.Linear(channels[-1] * sides[-1] ** 2, latent))
        self.recurrence = Recurrence(latent, self.action_vector.width, deterministic, hidden)
        self.prior = nn.Sequential(Dense(deterministic, hidden), nn.Linear(hidden, latent))
        decoder: list[nn.Module] = [
            nn.Linear(deterministic + latent, channels[-1] * sides[-1] ** 2),
            nn.Unflatten(1, (channels[-1], sides[-1], sides[-1])),
        ]
        for i in range(len(sides) - 1, 0, -1):
            odd = sides[i - 1] % 2  # the encoder has rounded down
            decoder += [
                ChannelNorm(channels[i]), nn.SiLU(),
                nn.ConvTranspose2d(channels[i], channels[i - 1], 4, stride=2, padding=1, output_padding=odd),
            ]  # fmt: skip
        self.decoder = nn.Sequential(*decoder)

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that training moves, by name."""
        predictor = nn.ModuleList((self.recurrence, self.prior))
        return {"encoder": self.encoder, "predictor": predictor, "decoder": self.decoder}

    def posterior(self, planes: Tensor) -> Tensor:
        """Return q(z | x) as probabilities (B, S, C), of planes (B, 3, height, width) in [0, 1]."""
        return unimix(self.encoder(planes - 0.5).unflatten(-1, (-1, self.classes)))

    def dynamics(self, h: Tensor) -> Tensor:
        """Return p(z | h) as probabilities (..., S, C), of states (..., Dh)."""
        return unimix(self.prior(h).unflatten(-1, (-1, self.classes)))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the objective of clips; latents are drawn by torch's global generator."""
        frames, actions = batch.frames, self.action_vector(batch.actions)
        count, length = frames.shape[:2]
        planes = frame_planes(frames)  # (B*T, 3, height, width)
        q = self.posterior(planes)  # (B*T, S, C)
        z = straight_through(q).flatten(1)  # (B*T, S*C)
        latents = z.unflatten(0, (count, length))
        states = [latents.new_zeros(count, self.deterministic)]
        for t in range(1, length):
            states.append(self.recurrence(states[-1], latents[:, t - 1], actions[:, t - 1]))
        h = torch.stack(states, dim=1)  # (B, T, Dh)
        p = self.dynamics(h[:, 1:])  # (B, T-1, S, C)
        decoded = self.decoder(torch.cat([h.flatten(0, 1), z], dim=-1))
        loss_pred = F.mse_loss(decoded.float(), planes) * planes[0].numel()  # summed over a frame
        loss_dyn, loss_rep = kl_losses(q.unflatten(0, (count, length))[:, 1:], p)
        loss = BETA_PRED * loss_pred + BETA_DYN * loss_dyn + BETA_REP * loss_rep
        return {"loss": loss, "loss_pred": loss_pred, "loss_dyn": loss_dyn, "loss_rep": loss_rep}

    def represent(self, frame: Tensor, /) -> Tensor:
        """Represent frames (B, height, width, 3) uint8 by their posterior's probabilities, (B, 1, S*C)."""
        return self.posterior(frame_planes(frame)).flatten(1)[:, None]

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        """Predict the prior's probabilities (B, H, 1, S*C), from frames' (B, T, 1, S*C) and the actions since them."""
        done = self.action_vector(torch.cat((past_actions, actions), dim=1))
        h = states.new_zeros(len(states), self.deterministic)
        probs, predicted = list(states[:, :, 0].unbind(1)), []
        for k in range(done.shape[1]):
            z = probs[k].unflatten(-1, (-1, self.classes))
            mode = F.one_hot(z.argmax(-1), self.classes).flatten(1).to(h.dtype)
            h = self.recurrence(h, mode, done[:, k])
            if k >= past_actions.shape[1]:
                predicted.append(self.dynamics(h).flatten(1))
                probs.append(predicted[-1])
        return torch.stack(predicted, dim=1)[:, :, None]
