"""What lies between the graphs of a planner, in NumPy: noise, starts, bounds. Compare `lewm.plan.search`.

Letters as in `lewm.deploy.graphs`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.deploy.manifest import Manifest, SearchSpace

WARM_UNIFORM = 0.5  # as in `lewm.plan.search`, which a test compares


def neutral(manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Return the distribution that a search starts from when nothing is known."""
    space, batch, horizon = manifest.space, manifest.sizes.batch, manifest.plan.horizon
    if space.kind == "discrete":
        probs = np.full((batch, horizon, space.size, space.num_actions), 1 / space.num_actions, np.float32)
        return {"search_probs": probs}
    low, high = (np.array(bound, np.float32) for bound in (space.low, space.high))
    shape = (batch, horizon, space.size)
    return {
        "search_mean": np.broadcast_to((low + high) / 2, shape),
        "search_std": np.broadcast_to((high - low) / 2, shape),
    }


def warm_start(manifest: Manifest, searched: NDArray[Any], steps: int) -> dict[str, NDArray[Any]]:
    """Return the distribution that goes on from a plan (B, H, a) of which `steps` steps were carried out."""
    fresh = neutral(manifest)
    if manifest.space.kind == "continuous":
        return {
            "search_mean": np.concatenate((searched[:, steps:], fresh["search_mean"][:, :steps]), axis=1),
            "search_std": fresh["search_std"],
        }
    kept = np.eye(manifest.space.num_actions, dtype=np.float32)[searched[:, steps:]]
    probs = (1 - WARM_UNIFORM) * kept + WARM_UNIFORM * fresh["search_probs"][:, steps:]
    return {"search_probs": np.concatenate((probs, fresh["search_probs"][:, :steps]), axis=1)}


def proposed_start(
    told: Mapping[str, Any], start: dict[str, NDArray[Any]], noise: NDArray[np.float32]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Return the start of a search, and the noise of its first iteration, after the graph `propose` told its part."""
    if "near_noise" in told:
        return start, np.asarray(told["near_noise"])
    return begin({name.removeprefix("start_"): np.asarray(value) for name, value in told.items()}), noise


def begin(distribution: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the state of a search before its first iteration."""
    best = distribution["search_mean"] if "search_mean" in distribution else distribution["search_probs"].argmax(-1)
    batch = len(best)
    infinite, usable = np.full(batch, np.inf, np.float32), np.ones(batch, dtype=bool)
    return {**distribution, "best": best, "best_cost": infinite, "usable": usable}


def draw(manifest: Manifest, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the noise of one iteration: (B, K-1, H, a) standard normal numbers or, for discrete actions, in [0, 1)."""
    plan, space = manifest.plan, manifest.space
    shape = (manifest.sizes.batch, plan.candidates - 1, plan.horizon, space.size)
    return rng.standard_normal(shape, np.float32) if space.kind == "continuous" else rng.random(shape, np.float32)


def step_bounds(
    manifest: Manifest,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    last: NDArray[np.float32] | None,
    max_change: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return bounds (H, a) of what is searched, of actions that are no positions.

    Where an action's rate is limited, the k-th action from now on differs from the last one by k times that at most.

    Args:
        manifest: Of the export.
        low: (A,) smallest environment action.
        high: (A,) largest environment action.
        last: (A,) action that was carried out last, None at the start.
        max_change: (A,) how far an action may change from one environment step to the next; None for any.
    """
    space, horizon = manifest.space, manifest.plan.horizon
    searched = space.size // len(low)  # sub-actions that are searched for a step: f, or one that is held
    lowest, highest = (np.tile(bound, (horizon, searched, 1)) for bound in (low, high))  # (H, f or 1, A)
    if max_change is not None and last is not None:
        after = 1 + np.arange(horizon * searched).reshape(horizon, searched, 1)
        lowest = np.clip(last - after * max_change, low, high)
        highest = np.clip(last + after * max_change, low, high)
    shape = (horizon, space.size)
    return lowest.astype(np.float32).reshape(shape), highest.astype(np.float32).reshape(shape)


def to_env(space: SearchSpace, actions: NDArray[Any]) -> NDArray[Any]:
    """Split model actions (B, m, f*A) or (B, m, f) into the environment's, (B, m*f, A) or (B, m*f)."""
    batch = len(actions)
    return actions.reshape(batch, -1) if space.kind == "discrete" else actions.reshape(batch, -1, len(space.env_low))
