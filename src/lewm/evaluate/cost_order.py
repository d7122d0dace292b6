"""Whether the planning cost tells how far a goal is: its rank correlation with steps to go and with true distance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lewm.data.store import Store
from lewm.evaluate.frames import encode_frames
from lewm.families.family import WorldModel
from lewm.plan import GoalCost

BATCH = 128


@dataclass(frozen=True, slots=True)
class FramePairs:
    """Pairs of frames of the same trajectory.

    Args:
        frame: (P,) index of the earlier frame in the store.
        gap: (P,) environment steps from it to the later one.
    """

    frame: NDArray[np.int64]
    gap: NDArray[np.int64]


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation of two samples (M,), ties sharing their mean rank; NaN if one is constant."""
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (x, y)]
    a, b = (r - r.mean() for r in ranks)
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank values (M,) from 1; equal ones share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2.0)[group]


def draw_pairs(store: Store, episodes: NDArray[np.int64], *, max_gap: int, count: int, seed: int) -> FramePairs:
    """Draw pairs of frames of the same episode whose gap is uniform over 0..max_gap, or as far as episodes reach.

    Args:
        store: Where the frames are.
        episodes: Held-out episodes.
        max_gap: Largest gap in environment steps.
        count: P, pairs to draw.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    start, length = store.episodes.start[episodes], store.episodes.length[episodes]
    gap = rng.integers(0, min(max_gap, int(length.max()) - 1) + 1, count)
    frame = np.empty_like(gap)
    for g in np.unique(gap):
        drawn = gap == g
        cumulative = np.cumsum(np.maximum(length - g, 0))  # episodes weigh as many pairs of this gap as they have
        place = rng.integers(0, cumulative[-1], drawn.sum())
        episode = np.searchsorted(cumulative, place, side="right")
        frame[drawn] = start[episode] + place - (cumulative[episode] - np.maximum(length - g, 0)[episode])
    return FramePairs(frame, gap)


@torch.no_grad()
def pair_costs(
    model: WorldModel, costs: Mapping[str, GoalCost], store: Store, pairs: FramePairs
) -> dict[str, NDArray[np.float64]]:
    """Return what each planning cost says of a pair: the cost (P,) of being at the first frame with the second as goal.

    Args:
        model: World model in evaluation mode.
        costs: The costs by name.
        store: Where the frames are.
        pairs: P pairs of frames.

    Returns:
        Each cost (P,) by its name.
    """
    parts: dict[str, list[NDArray]] = {name: [] for name in costs}
    for i in range(0, len(pairs.frame), BATCH):
        first, gap = pairs.frame[i : i + BATCH], pairs.gap[i : i + BATCH]
        now = encode_frames(model.encode, store.frames[first], model.device)  # (B, N, D)
        goal = encode_frames(model.encode, store.frames[first + gap], model.device)
        for name, cost in costs.items():
            parts[name].append(cost(now, goal).double().cpu().numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class CostReport:
    """How the planning cost orders pairs of held-out frames.

    Args:
        pairs: The pairs.
        costs: Each cost (P,) of the pairs.
        distance: The true distance (P,), or None when the task cannot tell.
        planning: Name of the cost that planning uses.
    """

    pairs: FramePairs
    costs: dict[str, NDArray[np.float64]]
    distance: NDArray[np.float64] | None
    planning: str

    def summary(self) -> dict[str, object]:
        """Return what goes into `eval.json`: the planning cost's rank correlations, and those of every cost."""
        steps = {name: rank_correlation(cost, self.pairs.gap) for name, cost in self.costs.items()}
        distance = dict.fromkeys(self.costs, float("nan"))
        if self.distance is not None:
            distance = {name: rank_correlation(cost, self.distance) for name, cost in self.costs.items()}
        return {
            "name": self.planning,
            "rank_correlation": steps[self.planning],
            "rank_correlation_distance": distance[self.planning],
            "by_cost": {name: {"steps": steps[name], "distance": distance[name]} for name in self.costs},
            "pairs": len(self.pairs.gap),
        }


def measure_cost(
    model: WorldModel,
    costs: Mapping[str, GoalCost],
    store: Store,
    episodes: NDArray[np.int64],
    *,
    distance: Callable[[NDArray, NDArray], NDArray] | None,
    planning: str,
    goal_offset: int,
    count: int,
    seed: int,
) -> CostReport:
    """Measure the costs on pairs of held-out frames that are 0 to 2 `goal_offset` environment steps apart.

    Args:
        model: World model in evaluation mode.
        costs: The costs by name.
        store: Where the frames are.
        episodes: Held-out episodes.
        distance: True distance of states (P, S) to goals (P, S), or None.
        planning: Name of the cost that planning uses.
        goal_offset: Environment steps between start and goal in closed loop.
        count: Pairs to draw.
        seed: Seed of the draw.
    """
    pairs = draw_pairs(store, episodes, max_gap=2 * goal_offset, count=count, seed=seed)
    found = pair_costs(model, costs, store, pairs)
    true = None
    if distance is not None and store.states is not None:
        true = distance(store.states[pairs.frame], store.states[pairs.frame + pairs.gap])
    return CostReport(pairs, found, true, planning)
