"""When a goal counts as reached: the planning cost below which two frames show one goal, by held-out frames."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.store import Store
from lewm.envs import TASKS, make_task
from lewm.families.family import WorldModel
from lewm.plan.cost import GoalCost

QUANTILE = 0.95
FRAMES = 500  # held-out frames that are the first of a pair
APART = 25  # environment steps between the frames of a pair, at most
ENCODE_BATCH = 256


@dataclass(frozen=True, slots=True)
class Reached:
    """A threshold of the planning cost, and how far it can be trusted.

    Args:
        below: largest cost at which two frames are taken to show one goal.
        pairs: pairs that show one goal, on which it was set.
        missed: share of other pairs that show one goal, but whose cost is above it.
        false_positives: share of pairs that do not show one goal, but whose cost is not above it.
        others: how many these are.
    """

    below: float
    pairs: int
    missed: float
    false_positives: float
    others: int


@torch.no_grad()
def measure_reached(
    model: WorldModel, cost: GoalCost, store: Store, held_out: NDArray[np.int64], *, seed: int
) -> Reached | None:
    """Set the threshold at the 95% quantile of the cost between held-out frames that show one goal.

    The frames of a pair are of one trajectory, up to 25 environment steps apart: near misses are among them. They show
    one goal if the task says so of their states or, where the data is of no known task, if they are one step apart. One
    half of the episodes sets the threshold, the other tells how often it is wrong.

    Args:
        model: trained model in evaluation mode.
        cost: the planning cost.
        store: the data.
        held_out: episodes that were not trained on.
        seed: seed of the draw.

    Returns:
        The threshold, or None where there are too few pairs to set one.
    """
    rng = np.random.default_rng(seed)
    sides = [_pairs(store, episodes, rng) for episodes in (held_out[::2], held_out[1::2])]
    if min(len(first) for first, _ in sides) == 0:
        return None
    measured = []
    for first, second in sides:
        one_goal = _show_one_goal(store, first, second)
        costs = _costs(model, cost, store, first, second)
        measured.append((costs[one_goal], costs[~one_goal]))
    (same, _), (other_same, other) = measured
    if min(len(same), len(other_same), len(other)) < 20:
        return None
    below = float(np.quantile(same, QUANTILE))
    return Reached(below, len(same), float((other_same > below).mean()), float((other <= below).mean()), len(other))


def _pairs(
    store: Store, episodes: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the frames of pairs (M,), (M,) of one trajectory, half of them one step apart."""
    start, length = store.episodes.start[episodes], store.episodes.length[episodes]
    index = np.concatenate([np.arange(s, s + n) for s, n in zip(start, length, strict=True)] or [np.empty(0, np.int64)])
    end = np.repeat(start + length, length)
    usable = np.flatnonzero(index + 1 < end)
    # little data: a frame is in several pairs
    chosen = np.sort(rng.choice(usable, FRAMES, replace=len(usable) < FRAMES)) if len(usable) else usable
    first, end = index[chosen], end[chosen]
    apart = np.where(rng.random(len(first)) < 0.5, 1, rng.integers(1, APART + 1, len(first)))
    pairs = np.unique(np.stack([first, np.minimum(first + apart, end - 1)]), axis=1)
    return pairs[0], pairs[1]


def _show_one_goal(store: Store, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which pairs of frames show one goal."""
    if store.states is None or store.meta.task not in TASKS:
        return second - first == 1
    task = make_task(store.meta.task, store.meta.image_size)
    return task.success(store.states[first], store.states[second])


def _costs(
    model: WorldModel, cost: GoalCost, store: Store, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the planning cost between the frames of pairs, (M,)."""

    def encode(index: NDArray[np.int64]) -> Tensor:
        parts = (store.frames[index[i : i + ENCODE_BATCH]] for i in range(0, len(index), ENCODE_BATCH))
        return torch.cat([model.encode(torch.from_numpy(part).to(model.device)) for part in parts])

    return cost(encode(first), encode(second)).double().cpu().numpy()
