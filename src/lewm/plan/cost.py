"""The planning cost: the distance of predicted representations from the goal (article, section 8)."""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from lewm.config import PlanConfig
from lewm.plan.goal import Region
from lewm.plan.search import CostFn
from lewm.plan.space import ActionSpace
from lewm.plan.steps_to_go import StepsToGo

ROLLOUT_BATCH = 4096
"""Most action sequences rolled out at once; more are scored in chunks. At 64 tokens of width 384 and a horizon of 8,
a full chunk's predictions take 3.2 GB in float32."""
CPU_ROLLOUT_BATCH = 128
"""The same on a CPU, where a chunk that stays in the caches is quicker."""


GoalCost = Callable[[Tensor, Tensor], Tensor]
"""Costs (...) of representations (..., N, D) for goals (..., N, D), whose leading dimensions broadcast; lower is
better. A distance is a function, a learnt cost such as `StepsToGo` is a module."""


class LatentModel(Protocol):
    """What planning needs of a world model; `lewm.families.family.WorldModel` has it."""

    def encode(self, frames: Tensor, /) -> Tensor:
        """Encode frames (B, height, width, 3) uint8 into tokens (B, N, D)."""
        ...

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        """Predict (B, H, N, D) from states (B, T, N, D), past (B, T-1, f*A) and coming (B, H, f*A) model actions."""
        ...


def tokens_cost(tokens: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance of all tokens: |s_hat - s_goal|^2 / (N D) (article, section 8).

    Args:
        tokens: representations, (..., N, D).
        goal: the goals' representations, (..., N, D).

    Returns:
        (...).
    """
    return (tokens - goal).square().mean(dim=(-2, -1))


def pooled_cost(tokens: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance of the mean token, over D (article, section 8, average pooling); as `tokens_cost`."""
    return (tokens.mean(dim=-2) - goal.mean(dim=-2)).square().mean(dim=-1)


DISTANCES: dict[str, GoalCost] = {"tokens": tokens_cost, "pooled": pooled_cost}


def planning_cost(plan: PlanConfig, learnt: StepsToGo | None) -> GoalCost:
    """Return the cost that `plan.cost` names.

    Args:
        plan: which cost.
        learnt: the run's learnt cost, if it has one.

    Raises:
        ValueError: if the learnt cost is wanted, and there is none.

    Note:
        The article's cost is the distance in representation space, which need not grow with the distance in the world.
    """
    if plan.cost in DISTANCES:
        return DISTANCES[plan.cost]
    if learnt is None:
        raise ValueError(
            "plan.cost=steps_to_go: this cost was not learnt; finish the training with `lewm train --resume RUN`, give "
            "the run's cost=run.cost, or use plan.cost tokens"
        )
    return learnt


def over_horizon(costs: Tensor, over: Literal["last", "sum"]) -> Tensor:
    """Turn the cost of every step, (..., H), into one per sequence, (...): the last step's, or the sum."""
    return costs[..., -1] if over == "last" else costs.sum(dim=-1)


def goal_cost(cost: GoalCost, pred: Tensor, goal: Tensor | Region) -> Tensor:
    """Cost of predictions for a goal: the distance from a region, or a cost for a goal that was encoded.

    Args:
        cost: of a representation for another.
        pred: predicted tokens, (B, K, H, N, D).
        goal: the goals' representations, (B, N, D), or one region for all.

    Returns:
        (B, K, H).
    """
    return goal.cost(pred) if isinstance(goal, Region) else cost(pred, goal[:, None, None])


def corrected_rollout(
    model: LatentModel, states: Tensor, past_actions: Tensor, actions: Tensor, correction: Tensor | None
) -> Tensor:
    """Roll a model out, and correct what it predicts at every step before the next one starts from there.

    A robot at rest that is told to stay is then predicted to stay, however far ahead: an error that the model makes at
    every step would add up along the horizon if only the last prediction were corrected.

    Args:
        model: world model in evaluation mode.
        states: representations of the last T frames, oldest first, (B, T, N, D).
        past_actions: model actions between those frames, (B, T-1, f*A) or (B, T-1, f).
        actions: model actions from there on, (B, H, f*A) or (B, H, f).
        correction: added to every step's prediction, (B, N, D); None for nothing.

    Returns:
        (B, H, N, D).
    """
    if correction is None:
        return model.rollout(states, past_actions, actions)
    past = states.shape[1]
    for action in actions.split(1, dim=1):
        pred = model.rollout(states, past_actions, action) + correction[:, None]
        states, past_actions = torch.cat((states, pred), dim=1), torch.cat((past_actions, action), dim=1)
    return states[:, past:]


def latent_cost_fn(
    model: LatentModel,
    states: Tensor,
    past_actions: Tensor,
    goal: Tensor | Region,
    space: ActionSpace,
    cost: GoalCost,
    *,
    over: Literal["last", "sum"],
    correction: Tensor | None = None,
    penalty: Callable[[Tensor], Tensor] | None = None,
    whole: bool = False,
) -> CostFn:
    """Make the function that scores action sequences by rolling the model out (article, Algorithm 2).

    All K candidates of all B environments are one batch, in chunks that bound memory. No gradients are kept.

    Args:
        model: world model in evaluation mode.
        states: representations of the last T frames, oldest first, (B, T, N, D).
        past_actions: model actions carried out between those frames, (B, T-1, f*A) or (B, T-1, f).
        goal: the goals' representations, (B, N, D), or one region for all.
        space: what is searched.
        cost: of a representation for the goal's.
        over: whether the last predicted step counts, or the sum over all.
        correction: added to what every model step predicts, (B, N, D); None for nothing.
        penalty: further costs (C,) of predictions (C, H, N, D).
        whole: score all candidates in one call, as an exported graph does, and not in chunks.

    Returns:
        cost_fn(actions (B, K, H, a)) -> (B, K).
    """

    @torch.no_grad()
    def cost_fn(actions: Tensor) -> Tensor:
        batch, candidates = actions.shape[:2]
        future = space.expand(actions).flatten(0, 1)  # (B*K, H, f*A)
        environment = torch.arange(batch, device=actions.device).repeat_interleave(candidates)  # (B*K,)
        size = CPU_ROLLOUT_BATCH if actions.device.type == "cpu" else ROLLOUT_BATCH
        size = batch * candidates if whole else size
        costs = []
        for chunk, rows in zip(future.split(size), environment.split(size), strict=True):
            offset = None if correction is None else correction[rows]
            pred = corrected_rollout(model, states[rows], past_actions[rows], chunk, offset)  # (C, H, N, D)
            further = 0.0 if penalty is None else penalty(pred)
            if over == "last":
                pred = pred[:, -1:]  # the other steps would be judged for nothing
            # Each sequence of the chunk counts as an environment with one candidate: a chunk may end within one.
            wanted = goal.rows(rows) if isinstance(goal, Region) else goal[rows]
            costs.append(over_horizon(goal_cost(cost, pred[:, None], wanted), over)[:, 0] + further)
        return torch.cat(costs).view(batch, candidates)

    return cost_fn
