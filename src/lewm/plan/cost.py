"""What a plan is judged by: the distance of predicted representations from the goal (article, section 8)."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from lewm.config import PlanConfig
from lewm.plan.goal import Region
from lewm.plan.search import CostFn
from lewm.plan.space import ActionSpace

ROLLOUT_BATCH = 4096
"""Most action sequences rolled out at once; more are scored in chunks. At 64 tokens of width 384 and a horizon of 8,
a full chunk's predictions take 3.2 GB in float32."""
CPU_ROLLOUT_BATCH = 128
"""The same on a CPU, where a chunk that stays in the caches is quicker."""


class LatentModel(Protocol):
    """What planning needs of a world model; `lewm.model.WorldModel` has it."""

    def encode(self, frames: Tensor, /) -> Tensor:
        """Encode frames (B, height, width, 3) uint8 into tokens (B, N, D)."""
        ...

    def rollout(self, tokens: Tensor, actions: Tensor, /) -> Tensor:
        """Predict (B, H, N, D) from tokens (B, T, N, D) and model actions (B, T-1+H, f*A) (article, Algorithm 2)."""
        ...

    def steps_to_go(self, tokens: Tensor, goal: Tensor, /) -> Tensor:
        """Estimate the model steps (...) between representations (..., N, D) whose leading dimensions broadcast."""
        ...


def tokens_cost(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance of all tokens: |s_hat - s_goal|^2 / (N D) (article, section 8).

    Args:
        pred: predicted tokens, (B, K, H, N, D).
        goal: the goal's tokens, (B, N, D).

    Returns:
        (B, K, H).
    """
    return (pred - goal[:, None, None]).square().mean(dim=(-2, -1))


def pooled_cost(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance of the mean token, over D (article, section 8, with its average pooling).

    Args:
        pred: predicted tokens, (B, K, H, N, D).
        goal: the goal's tokens, (B, N, D).

    Returns:
        (B, K, H).
    """
    return (pred.mean(dim=-2) - goal.mean(dim=-2)[:, None, None]).square().mean(dim=-1)


def steps_to_go_cost(model: LatentModel, pred: Tensor, goal: Tensor) -> Tensor:
    """Model steps that the model has learnt to expect between a prediction and the goal.

    Args:
        model: a model whose steps-to-go head is fitted.
        pred: predicted tokens, (B, K, H, N, D).
        goal: the goal's tokens, (B, N, D).

    Returns:
        (B, K, H).

    Note:
        The article's cost is the distance in representation space, which need not grow with the distance in the world;
        `tokens_cost` and `pooled_cost` are that form.
    """
    return model.steps_to_go(pred, goal[:, None, None])


def over_horizon(costs: Tensor, over: Literal["last", "sum"]) -> Tensor:
    """Turn the cost of every step, (..., H), into one per sequence, (...): the last step's, or the sum."""
    return costs[..., -1] if over == "last" else costs.sum(dim=-1)


def goal_cost(model: LatentModel, pred: Tensor, goal: Tensor | Region, plan: PlanConfig) -> Tensor:
    """Cost of predictions for a goal: the distance from a region, or `plan.cost` for a goal that was encoded.

    Args:
        model: world model in evaluation mode.
        pred: predicted tokens, (B, K, H, N, D).
        goal: the goals' representations, (B, N, D), or one region for all.
        plan: which cost.

    Returns:
        (B, K, H).
    """
    if isinstance(goal, Region):
        return goal.cost(pred)
    match plan.cost:
        case "tokens":
            return tokens_cost(pred, goal)
        case "pooled":
            return pooled_cost(pred, goal)
        case "steps_to_go":
            return steps_to_go_cost(model, pred, goal)


def corrected_rollout(model: LatentModel, tokens: Tensor, actions: Tensor, correction: Tensor | None) -> Tensor:
    """Roll a model out, and correct what it predicts at every step before the next one starts from there.

    A robot at rest that is told to stay is then predicted to stay, however far ahead: an error that the model makes at
    every step would add up along the horizon if only the last prediction were corrected.

    Args:
        model: world model in evaluation mode.
        tokens: representations of the last T frames, oldest first, (B, T, N, D).
        actions: model actions between those frames and from there on, (B, T-1+H, f*A) or (B, T-1+H, f).
        correction: added to every step's prediction, (B, N, D); None for nothing.

    Returns:
        (B, H, N, D).
    """
    if correction is None:
        return model.rollout(tokens, actions)
    past = tokens.shape[1]
    for end in range(past, actions.shape[1] + 1):
        pred = model.rollout(tokens, actions[:, :end])[:, -1:] + correction[:, None]
        tokens = torch.cat((tokens, pred), dim=1)
    return tokens[:, past:]


def latent_cost_fn(
    model: LatentModel,
    tokens: Tensor,
    past_actions: Tensor,
    goal: Tensor | Region,
    space: ActionSpace,
    plan: PlanConfig,
    *,
    correction: Tensor | None = None,
) -> CostFn:
    """Make the function that scores action sequences by rolling the model out (article, Algorithm 2).

    All K candidates of all B environments are one batch, in chunks that bound memory. No gradients are kept.

    Args:
        model: world model in evaluation mode.
        tokens: representations of the last T frames, oldest first, (B, T, N, D).
        past_actions: model actions carried out between those frames, (B, T-1, f*A) or (B, T-1, f).
        goal: the goals' representations, (B, N, D), or one region for all.
        space: what is searched.
        plan: which cost, and over which steps.
        correction: added to what every model step predicts, (B, N, D); None for nothing.

    Returns:
        cost_fn(actions (B, K, H, a)) -> (B, K).
    """

    @torch.no_grad()
    def cost_fn(actions: Tensor) -> Tensor:
        batch, candidates = actions.shape[:2]
        future = space.expand(actions).flatten(0, 1)  # (B*K, H, f*A)
        environment = torch.arange(batch, device=actions.device).repeat_interleave(candidates)  # (B*K,)
        size = CPU_ROLLOUT_BATCH if actions.device.type == "cpu" else ROLLOUT_BATCH
        costs = []
        for chunk, rows in zip(future.split(size), environment.split(size), strict=True):
            sequence = torch.cat((past_actions[rows], chunk), dim=1)  # (C, T-1+H, f*A)
            offset = None if correction is None else correction[rows]
            pred = corrected_rollout(model, tokens[rows], sequence, offset)  # (C, H, N, D)
            if plan.over == "last":
                pred = pred[:, -1:]  # the other steps would be judged for nothing
            # Each sequence of the chunk counts as an environment with one candidate: a chunk may end within one.
            wanted = goal if isinstance(goal, Region) else goal[rows]
            costs.append(over_horizon(goal_cost(model, pred[:, None], wanted, plan), plan.over)[:, 0])
        return torch.cat(costs).view(batch, candidates)

    return cost_fn
