"""An amortised plan: what the data did on its way from one representation to another, as a small network says it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lewm.config import Config, PlanConfig
from lewm.model.layers import init_weights
from lewm.plan.search import WeightFn
from lewm.plan.space import ActionSpace

PROPOSAL_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ProposalSettings:
    """What a proposal was made for; in the file of its weights."""

    num_tokens: int
    """N, tokens of a representation."""
    token_width: int
    """D, numbers of a token."""
    action_kind: Literal["continuous", "discrete"]
    action_size: int
    """A, length of an action; or V, number of discrete ones."""
    frame_skip: int
    """f, environment steps of a model step."""
    horizon: int
    """H, model steps of a chunk."""
    reach: int
    """Largest number of model steps to the goal that are told apart."""
    weights: str
    """SHA-256 of the run's weights: of another encoder, representations mean something else."""
    version: int = PROPOSAL_VERSION

    @classmethod
    def of(cls, config: Config, weights: str) -> "ProposalSettings":
        """Return the settings of a run's proposal."""
        assert config.action.kind != "none"
        return cls(
            num_tokens=config.model.num_tokens,
            token_width=config.model.token_width,
            action_kind=config.action.kind,
            action_size=config.action.size,
            frame_skip=config.data.frame_skip,
            horizon=config.plan.horizon,
            reach=config.train.cost_reach,
            weights=weights,
        )


class Proposal(nn.Module):
    """Propose the actions of H model steps from a representation towards another, and how many steps they are apart.

    It is fitted to trajectories, after training and on frozen representations: given a frame, a later frame of the same
    episode and the model steps between them, which actions were taken. What it knows of the way is what the data shows
    of it.
    """

    def __init__(self, settings: ProposalSettings, *, hidden: int = 256) -> None:
        """Set the weights up."""
        super().__init__()
        self.settings = settings
        token_width = max(16, hidden // settings.num_tokens)  # one token a frame keeps its width
        self.token = nn.Linear(settings.token_width, token_width)
        self.pair = nn.Sequential(
            nn.Linear(2 * settings.num_tokens * token_width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
        )  # fmt: skip
        self.steps = nn.Linear(hidden, 1)
        size = settings.horizon * settings.frame_skip * settings.action_size
        self.chunk = nn.Sequential(nn.Linear(hidden + 1, hidden), nn.GELU(), nn.Linear(hidden, size))
        self.apply(init_weights)
        # of the training episodes' continuous actions
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(settings.action_size))
        self.register_buffer("std", torch.ones(settings.action_size))

    def see(self, state: Tensor, goal: Tensor) -> Tensor:
        """Represent pairs of states and goals, (B, N, D) each, as (B, hidden)."""
        return self.pair(torch.cat((self.token(state).flatten(-2), self.token(goal).flatten(-2)), dim=-1))

    def steps_left(self, pair: Tensor) -> Tensor:
        """Estimate the model steps (B,) that the data takes for pairs (B, hidden)."""
        return self.steps(pair)[:, 0] * self.settings.reach

    def actions(self, pair: Tensor, steps_left: Tensor) -> Tensor:
        """Return standardised actions (B, H, f, A), or logits (B, H, f, V), for pairs and the model steps (B,) left."""
        share = (steps_left / self.settings.reach).clamp(0.0, 1.0)[:, None]
        out = self.chunk(torch.cat((pair, share), dim=-1))
        return out.unflatten(-1, (self.settings.horizon, self.settings.frame_skip, -1))

    def forward(self, state: Tensor, goal: Tensor, space: ActionSpace, *, horizon: int) -> Tensor:
        """Propose a plan in the terms of a search.

        Args:
            state: representations of the newest frames, (B, N, D).
            goal: representations of the goals, (B, N, D).
            space: what is searched; where actions are positions, around the present commands. Bounds may be of each
                step.
            horizon: H, model steps of the plan, at most those that were learnt.

        Returns:
            (B, H, a) float32 within the bounds, or int64.
        """
        pair = self.see(state, goal)
        out = self.actions(pair, self.steps_left(pair))[:, :horizon]
        if space.kind == "discrete":
            return (out.mean(2, keepdim=True) if space.hold else out).argmax(-1).flatten(2)
        return as_searched(out * self.std + self.mean, space)


def as_searched(actions: Tensor, space: ActionSpace) -> Tensor:
    """Turn continuous actions (B, H, f, A) into what a space searches for them, (B, H, a), within its bounds.

    Where one action is held for a model step, it is the mean of its sub-actions. Where actions are positions, it is the
    changes that lead from the present command to these ones: to the last one of a model step, if they are held.
    """
    if not space.relative:
        return (actions.mean(2) if space.hold else actions.flatten(2)).clamp(space.low, space.high)
    assert space.command is not None
    assert space.least is not None
    assert space.most is not None
    size, share = actions.shape[-1], space.frame_skip if space.hold else 1
    command, changes = space.command, []
    for wanted in (actions[:, :, -1] if space.hold else actions.flatten(1, 2)).unbind(1):
        change = ((wanted - command) / share).clamp(space.low[:size], space.high[:size])
        command = (command + share * change).clamp(space.least, space.most)
        changes.append(change)
    return torch.stack(changes, dim=1).flatten(1).unflatten(1, (actions.shape[1], -1))


def no_weights(_: PlanConfig) -> WeightFn | None:
    """Return that nothing is searched: the plan is the proposal."""
    return None


def required_proposal(plan: PlanConfig, proposal: Proposal | None) -> Proposal | None:
    """Return the proposal that plans come from, or start from; None if they do not.

    Raises:
        ValueError: If the settings want one and there is none, or plans look further ahead.
    """
    if not plan.proposes:
        return None
    setting = "plan.planner=proposal" if plan.planner == "proposal" else f"plan.proposals={plan.proposals}"
    if proposal is None:
        raise ValueError(
            f"{setting}: the run has no proposal; make one by `lewm distill RUN` and give the controller "
            "proposal=run.proposal, or use plan.planner cem and plan.proposals 0"
        )
    if plan.horizon > (most := proposal.settings.horizon):
        raise ValueError(f"plan.horizon={plan.horizon}: the run's proposal has {most} steps; use {most} or fewer")
    return proposal
