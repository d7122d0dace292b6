"""Cross-entropy method: refit to the elites (article, section 8)."""

import torch
from torch import Tensor

from lewm.config import PlanConfig
from lewm.plan.search import Categorical, CostFn, Gaussian, Plan, WeightFn, search
from lewm.plan.space import ActionSpace


def cem(
    cost_fn: CostFn,
    *,
    space: ActionSpace,
    batch: int,
    horizon: int,
    candidates: int,
    iterations: int,
    elites: int,
    generator: torch.Generator,
    init: Gaussian | Categorical | None = None,
) -> Plan:
    """Plan by the cross-entropy method (article, section 8: K = 64, H = 8, 3 iterations).

    Every iteration refits a diagonal Gaussian (or one categorical distribution per entry, for discrete actions) to the
    E cheapest of K candidates. What else happens in an iteration, and which sequence is returned: `search`.

    Args:
        cost_fn: costs (B, K) of actions (B, K, H, a); lower is better.
        space: what is searched.
        batch: B, environments planned for at once.
        horizon: H, model steps.
        candidates: K.
        iterations: refits.
        elites: E, 1 to K.
        generator: source of randomness, on the space's device.
        init: warm start; the space's neutral distribution if None.

    Returns:
        The cheaper of the final mean and the best candidate seen.

    Raises:
        ValueError: if a number is out of range, or an environment has no candidate with a finite cost.
    """
    if not 1 <= elites <= candidates:
        raise ValueError(f"elites={elites}: must be 1 to candidates={candidates}; use {max(1, candidates // 8)}")
    return search(
        cost_fn,
        lambda cost: elite_weights(cost, elites),
        space=space,
        batch=batch,
        horizon=horizon,
        candidates=candidates,
        iterations=iterations,
        generator=generator,
        init=init,
    )


def elite_weights(cost: Tensor, elites: int) -> Tensor:
    """Share the weight equally among the cheapest candidates.

    Args:
        cost: (B, K); +inf marks a candidate that cannot be used.
        elites: E.

    Returns:
        (B, K): 1/E for the E cheapest and 0 for the rest; if fewer than E are finite, those alone share the weight.
    """
    lowest, index = cost.topk(elites, dim=1, largest=False)
    weights = torch.zeros_like(cost).scatter(1, index, lowest.isfinite().to(cost.dtype))
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=1)


def cem_weights(plan: PlanConfig) -> WeightFn:
    """Return the weights by which a run's settings refit: those of `plan.elites`."""
    return lambda cost: elite_weights(cost, plan.elites)
