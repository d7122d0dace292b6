"""Planning in representation space (article, section 8): pure planners over a cost function, and the closed loop."""

from lewm.plan.cem import cem
from lewm.plan.controller import LatentController, RecedingHorizon
from lewm.plan.cost import (
    GoalCost,
    LatentModel,
    corrected_rollout,
    goal_cost,
    latent_cost_fn,
    over_horizon,
    planning_cost,
    pooled_cost,
    tokens_cost,
)
from lewm.plan.goal import FrameGoal, Region, RegionGoal, StateGoal, parse_frame, parse_goal
from lewm.plan.mppi import mppi
from lewm.plan.proposal import Proposal
from lewm.plan.search import Categorical, CostFn, Gaussian, Plan, SearchState, begin, draw, finish, improve, warm_start
from lewm.plan.space import ActionSpace, action_space
from lewm.plan.steps_to_go import StepsToGo

__all__ = [
    "ActionSpace",
    "Categorical",
    "CostFn",
    "FrameGoal",
    "Gaussian",
    "GoalCost",
    "LatentController",
    "LatentModel",
    "Plan",
    "Proposal",
    "RecedingHorizon",
    "Region",
    "RegionGoal",
    "SearchState",
    "StateGoal",
    "StepsToGo",
    "action_space",
    "begin",
    "cem",
    "corrected_rollout",
    "draw",
    "finish",
    "goal_cost",
    "improve",
    "latent_cost_fn",
    "mppi",
    "over_horizon",
    "parse_frame",
    "parse_goal",
    "planning_cost",
    "pooled_cost",
    "tokens_cost",
    "warm_start",
]
