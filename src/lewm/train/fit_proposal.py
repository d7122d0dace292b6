"""Fit a proposal on frozen representations: which actions the data took from a frame to a later one of its episode."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.store import Store
from lewm.families.family import WorldModel
from lewm.plan.proposal import Proposal, ProposalSettings
from lewm.train.frozen_frames import CACHE_VALUES, FrozenFrames, freeze

BATCH_SIZE = 256
LEARNING_RATE = 1e-3
HELD_OUT_PAIRS = 2048


@dataclass(frozen=True, slots=True)
class FittedProposal:
    """A proposal, and how well it tells what data that it was not fitted to did.

    Args:
        proposal: In evaluation mode.
        error: Of held-out pairs, over `rival`: squared error of standardised actions, or cross-entropy.
        rival: The same of the mean action, or of how often each action was taken, in the training episodes.
    """

    proposal: Proposal
    error: float
    rival: float


def fit_proposal(
    model: WorldModel,
    store: Store,
    settings: ProposalSettings,
    *,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
    steps: int,
    on_step: Callable[[], None],
) -> FittedProposal:
    """Fit a proposal to pairs of frames of the same training episode, whose later frame is the goal.

    The goal is uniform over 1 to `settings.reach` model steps ahead, as far as the episode reaches. The actions that
    come after the goal do not count; where actions are positions, the last one before the goal stands for them.

    Args:
        model: Trained model, which is not changed.
        store: Where the trajectories are, as `model.inputs` gives it.
        settings: Of the proposal.
        train: Training episodes.
        held_out: Episodes to measure it on.
        steps: Optimiser steps.
        on_step: Called after every step, for progress.

    Raises:
        ValueError: If no training episode has two frames.
    """
    config = model.config
    rng = np.random.default_rng(config.seed)
    model.eval()
    torch.manual_seed(config.seed)
    proposal = Proposal(settings).to(model.device)
    pairs = Pairs(store, freeze(model, store, train, rng), proposal, config.action.control_mode == "position")
    pairs.standardise()
    optimizer = torch.optim.AdamW(proposal.parameters(), lr=LEARNING_RATE)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
        error, late = pairs.losses(pairs.draw(rng, BATCH_SIZE))
        optimizer.zero_grad(set_to_none=True)
        (error + late).backward()
        optimizer.step()
        on_step()
    proposal.eval()
    others = Pairs(store, freeze(model, store, held_out, rng, most=CACHE_VALUES // 8), proposal, pairs.positions)
    drawn = others.draw(rng, HELD_OUT_PAIRS)
    with torch.no_grad():
        error, _ = others.losses(drawn)
        return FittedProposal(proposal, error.item(), others.rival(drawn, pairs.frequencies()).item())


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pairs by the rows of their frames.

    Args:
        now: (B,) the first frame.
        away: (B,) environment steps from there to the goal.
        action: (B, L) rows of the actions from there on.
        counts: (B, L) bool, which of them count.
    """

    now: NDArray[np.int64]
    away: NDArray[np.int64]
    action: NDArray[np.int64]
    counts: Tensor


class Pairs:
    """Pairs of frames of an episode, with the actions between them."""

    def __init__(self, store: Store, frozen: FrozenFrames, proposal: Proposal, positions: bool) -> None:
        """Take frames, and whether their actions are positions."""
        self.frozen, self.proposal, self.positions = frozen, proposal, positions
        self.settings = proposal.settings
        self.actions = torch.from_numpy(np.asarray(store.actions[frozen.index])).to(frozen.tokens.device)
        self.usable = np.flatnonzero(np.arange(len(frozen.index)) + 1 < frozen.end)
        if not len(self.usable):
            raise ValueError(f"data={store.path}: has no episode with two frames; give a store of longer episodes")

    @property
    def discrete(self) -> bool:
        """Whether actions are numbers of actions."""
        return self.settings.action_kind == "discrete"

    def standardise(self) -> None:
        """Let the proposal standardise continuous actions by these; a constant entry is only shifted."""
        if not self.discrete:
            std, mean = torch.std_mean(self.actions, dim=0, correction=0)
            self.proposal.mean.copy_(mean)
            self.proposal.std.copy_(torch.where(std > 1e-6, std, 1.0))

    def draw(self, rng: np.random.Generator, count: int) -> Drawn:
        """Draw `count` pairs."""
        settings, end = self.settings, self.frozen.end
        length, reach = settings.horizon * settings.frame_skip, settings.reach * settings.frame_skip
        now = rng.choice(self.usable, count)
        away = 1 + np.floor(rng.random(count) * np.minimum(reach, end[now] - 1 - now)).astype(np.int64)
        ahead = np.arange(length)
        before = torch.from_numpy(ahead < away[:, None]).to(self.actions.device)
        counts = torch.ones_like(before) if self.positions else before
        return Drawn(now, away, now[:, None] + np.minimum(ahead, away[:, None] - 1), counts)

    def losses(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Return the errors of the actions and of the steps left, as a share of the reach."""
        tokens = self.frozen.tokens
        steps = torch.as_tensor(drawn.away / self.settings.frame_skip, dtype=torch.float32, device=tokens.device)
        pair = self.proposal.see(tokens[drawn.now].float(), tokens[drawn.now + drawn.away].float())
        out = self.proposal.actions(pair, steps).flatten(1, 2)  # (B, L, A), or logits (B, L, V)
        error = self._errors(out, drawn)[drawn.counts].mean()
        return error, F.l1_loss(self.proposal.steps_left(pair), steps) / self.settings.reach

    def _errors(self, out: Tensor, drawn: Drawn) -> Tensor:
        target = self.actions[drawn.action]
        if self.discrete:
            return F.cross_entropy(out.transpose(1, 2), target, reduction="none")
        return (out - (target - self.proposal.mean) / self.proposal.std).square().mean(-1)

    def frequencies(self) -> Tensor:
        """Return what is said of every action without looking: logits (V,), or the mean (A,), which is 0."""
        size = self.settings.action_size
        if not self.discrete:
            return torch.zeros(size, device=self.actions.device)
        return (torch.bincount(self.actions, minlength=size) + 1).float().log()

    def rival(self, drawn: Drawn, said: Tensor) -> Tensor:
        """Return the error of saying the same of every action."""
        return self._errors(said.expand(*drawn.action.shape, -1), drawn)[drawn.counts].mean()
