"""Model-predictive path integral: refit to all candidates, weighted by their cost (article, section 8)."""

import torch
from torch import Tensor

from lewm.config import PlanConfig
from lewm.plan.search import Categorical, CostFn, Gaussian, Plan, WeightFn, search
from lewm.plan.space import ActionSpace


def mppi(
    cost_fn: CostFn,
    *,
    space: ActionSpace,
    batch: int,
    horizon: int,
    candidates: int,
    iterations: int,
    temperature: float,
    generator: torch.Generator,
    init: Gaussian | Categorical | None = None,
) -> Plan:
    """Plan by path-integral weighting (article, section 8, names MPPI and leaves its form open).

    Every iteration refits the distribution to all K candidates, weighted by a softmax of their negative costs: mean
    and standard deviation, or the weighted counts of each discrete action.

    Args:
        cost_fn: costs (B, K) of actions (B, K, H, a); lower is better.
        space: what is searched.
        batch: B, environments planned for at once.
        horizon: H, model steps.
        candidates: K.
        iterations: refits.
        temperature: share of the candidates' cost range (largest minus smallest), above 0. Small values follow the
            best candidate, large ones average over all.
        generator: source of randomness, on the space's device.
        init: warm start; the space's neutral distribution if None.

    Returns:
        The cheaper of the final mean and the best candidate seen.

    Raises:
        ValueError: if a number is out of range, or an environment has no candidate with a finite cost.

    Note:
        Classic MPPI keeps the standard deviation fixed; here it is refitted with the same weights, because with a
        handful of iterations a fixed one of half the range never settles.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: must be above 0; use 0.1")
    return search(
        cost_fn,
        lambda cost: path_integral_weights(cost, temperature),
        space=space,
        batch=batch,
        horizon=horizon,
        candidates=candidates,
        iterations=iterations,
        generator=generator,
        init=init,
    )


def path_integral_weights(cost: Tensor, temperature: float) -> Tensor:
    """Weight candidates by w_k = exp(-c_k / l) / sum_j exp(-c_j / l), with l = temperature * (max c - min c).

    Args:
        cost: (B, K); +inf marks a candidate that cannot be used, and has no part in the range.
        temperature: share of the cost range.

    Returns:
        (B, K), summing to 1; equal weights if all costs are equal; all 0 if no cost is finite.
    """
    smallest = cost.amin(dim=1, keepdim=True)
    largest = torch.where(cost.isfinite(), cost, smallest).amax(dim=1, keepdim=True)
    scale = (temperature * (largest - smallest)).clamp(min=torch.finfo(cost.dtype).tiny)
    return torch.nan_to_num(torch.softmax(-(cost - smallest) / scale, dim=1), nan=0.0)


def mppi_weights(plan: PlanConfig) -> WeightFn:
    """Return the weights by which a run's settings refit: those of `plan.temperature`."""
    return lambda cost: path_integral_weights(cost, plan.temperature)
