"""Planning in representation space (article, section 8): pure planners over a cost function, and the closed loop."""

from lewm.plan.cem import cem
from lewm.plan.controller import LatentController, RecedingHorizon
from lewm.plan.cost import (
    LatentModel,
    latent_cost_fn,
    over_horizon,
    pooled_cost,
    steps_to_go_cost,
    tokens_cost,
)
from lewm.plan.mppi import mppi
from lewm.plan.search import Categorical, CostFn, Gaussian, Plan, warm_start
from lewm.plan.space import ActionSpace, action_space

__all__ = [
    "ActionSpace",
    "Categorical",
    "CostFn",
    "Gaussian",
    "LatentController",
    "LatentModel",
    "Plan",
    "RecedingHorizon",
    "action_space",
    "cem",
    "latent_cost_fn",
    "mppi",
    "over_horizon",
    "pooled_cost",
    "steps_to_go_cost",
    "tokens_cost",
    "warm_start",
]
