"""What CEM and MPPI share: one iteration that improves a plan, and the loop around it (article, section 8).

The two planners differ only in how much weight a candidate has in the refit: `cem.elite_weights` and
`mppi.path_integral_weights`. An iteration, `improve`, is a function of tensors: its noise is given, its shapes never
depend on values, and it neither waits for the device nor raises. So it runs the same eagerly, compiled and exported.
All B environments and all K candidates are one batch of one `cost_fn` call.

Letters: B environments, K candidates, H horizon, a searched entries per step, V discrete actions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.plan.space import ActionSpace

CostFn = Callable[[Tensor], Tensor]
"""Costs (B, K) of searched actions (B, K, H, a); lower is better."""
WeightFn = Callable[[Tensor], Tensor]
"""Weights (B, K) of candidates with costs (B, K): at least 0, summing to 1, and 0 where the cost is infinite."""

STD_FLOOR = 0.025
"""Smallest standard deviation after a refit, as a share of the range: the search never freezes."""
FINEST = 5
"""Changes of a command are drawn at many scales at once, the finest this many times halved: a robot far from the goal
needs the largest, and one that holds it the smallest."""
SMOOTHING = 0.1
"""Share of uniform probability mixed into every refit of discrete actions: no action is ever ruled out."""
WARM_UNIFORM = 0.5
"""Share of uniform probability in a warm start of discrete actions, as a Gaussian's warm start has its full spread."""
NEAR = 0.3
"""Spread of candidates near a proposal, as a share of the full one; or of discrete actions, of uniform probability."""


class Gaussian(NamedTuple):
    """Diagonal Gaussian over continuous action sequences; samples are clamped to the bounds."""

    mean: Tensor
    """(B, H, a), within the bounds."""
    std: Tensor
    """(B, H, a)."""

    @classmethod
    def initial(cls, space: ActionSpace, batch: int, horizon: int) -> "Gaussian":
        """Start at the centre of the bounds with half the range as standard deviation.

        About a third of the samples of each entry then lie on a bound, where the best moves of many tasks are.
        """
        shape = (batch, horizon, space.size)
        return cls(((space.low + space.high) / 2).expand(shape), ((space.high - space.low) / 2).expand(shape))

    def mode(self) -> Tensor:
        """Give the most likely sequence, (B, H, a)."""
        return self.mean

    def sample(self, noise: Tensor, space: ActionSpace) -> Tensor:
        """Turn standard normal numbers (B, count, H, a) into sequences, (B, count, H, a)."""
        return (self.mean[:, None] + self._scale(noise.shape[1], space) * noise).clamp(space.low, space.high)

    def noise_of(self, actions: Tensor, count: int, space: ActionSpace) -> Tensor:
        """Return what `sample` turns into sequences (B, P, H, a), as the first P of `count` rows of noise."""
        scale = self._scale(count, space)[:, : actions.shape[1]]
        return torch.where(scale > 0, (actions - self.mean[:, None]) / scale.clamp(min=1e-12), 0.0)

    def _scale(self, count: int, space: ActionSpace) -> Tensor:
        """Return the standard deviations of `count` candidates, (B, count or 1, H, a)."""
        if not space.relative:
            return self.std[:, None]
        return self.std[:, None] * torch.logspace(0, -FINEST, count, 2, device=self.std.device)[:, None, None]

    def refit(self, actions: Tensor, weights: Tensor, space: ActionSpace) -> "Gaussian":
        """Fit weighted mean and standard deviation to candidates (B, K, H, a) with weights (B, K)."""
        share = weights[:, :, None, None]
        mean = (share * actions).sum(1).clamp(space.low, space.high)  # (B, H, a); rounding may pass a bound
        std = (share * (actions - mean[:, None]).square()).sum(1).sqrt()
        floor = STD_FLOOR * 2.0**-FINEST if space.relative else STD_FLOOR
        return Gaussian(mean, torch.maximum(std, floor * (space.high - space.low)))

    @classmethod
    def resuming(cls, actions: Tensor, steps: int, space: ActionSpace) -> "Gaussian":
        """Start at a plan's actions (B, H, a) less the first `steps` steps, then the centre; the spread is full."""
        fresh = cls.initial(space, actions.shape[0], actions.shape[1])
        return cls(torch.cat((actions[:, steps:], fresh.mean[:, :steps]), dim=1), fresh.std)

    def near(self, space: ActionSpace) -> "Gaussian":
        """Give the same mean with a smaller spread."""
        return Gaussian(self.mean, NEAR * self.std)


class Categorical(NamedTuple):
    """Independent categorical distributions over discrete action sequences."""

    probs: Tensor
    """(B, H, a, V)."""

    @classmethod
    def initial(cls, space: ActionSpace, batch: int, horizon: int) -> "Categorical":
        """Start with every action equally likely."""
        shape = (batch, horizon, space.size, space.num_actions)
        return cls(torch.full(shape, 1 / space.num_actions, device=space.device))

    def mode(self) -> Tensor:
        """Give the most likely sequence, (B, H, a) int64."""
        return self.probs.argmax(-1)

    def sample(self, noise: Tensor, space: ActionSpace) -> Tensor:
        """Turn numbers (B, count, H, a) in [0, 1) into sequences, (B, count, H, a) int64, by inverse transform."""
        below = self.probs.cumsum(-1)[:, None, ..., :-1]  # (B, 1, H, a, V-1); no number is beyond the last action
        return (noise[..., None] >= below).sum(-1)

    def noise_of(self, actions: Tensor, count: int, space: ActionSpace) -> Tensor:
        """Return what `sample` turns into sequences (B, P, H, a), as the first P of `count` rows of noise."""
        probs = self.probs[:, None].expand(-1, actions.shape[1], *self.probs.shape[1:])
        chosen = actions[..., None]
        upper, share = probs.cumsum(-1).gather(-1, chosen), probs.gather(-1, chosen)
        return (upper - share / 2)[..., 0]

    def refit(self, actions: Tensor, weights: Tensor, space: ActionSpace) -> "Categorical":
        """Fit smoothed weighted frequencies to candidates (B, K, H, a) with weights (B, K)."""
        counts = F.one_hot(actions, space.num_actions).to(weights.dtype)  # (B, K, H, a, V)
        frequency = (weights[:, :, None, None, None] * counts).sum(1)
        return Categorical((1 - SMOOTHING) * frequency + SMOOTHING / space.num_actions)

    @classmethod
    def resuming(cls, actions: Tensor, steps: int, space: ActionSpace) -> "Categorical":
        """Start at a plan's actions (B, H, a) less the first `steps` steps, then uniform; half the mass is uniform."""
        fresh = cls.initial(space, actions.shape[0], actions.shape[1]).probs
        kept = F.one_hot(actions[:, steps:], space.num_actions).to(fresh.dtype)
        probs = (1 - WARM_UNIFORM) * kept + WARM_UNIFORM * fresh[:, steps:]
        return cls(torch.cat((probs, fresh[:, :steps]), dim=1))

    def near(self, space: ActionSpace) -> "Categorical":
        """Give the same mode with a smaller spread."""
        only = F.one_hot(self.mode(), space.num_actions).to(self.probs.dtype)
        return Categorical((1 - NEAR) * only + NEAR / space.num_actions)


class SearchState(NamedTuple):
    """How far a search has come."""

    distribution: Gaussian | Categorical
    """What the next candidates are drawn from."""
    best: Tensor
    """Cheapest candidate so far, (B, H, a)."""
    best_cost: Tensor
    """Its cost, (B,); infinite before the first iteration."""
    usable: Tensor
    """Whether every iteration had a candidate with a finite cost, (B,) bool."""


class Plan(NamedTuple):
    """What a planner found."""

    actions: Tensor
    """Model actions of the chosen sequence, (B, H, f*A) float32 or (B, H, f) int64; `space.to_env` splits them."""
    searched: Tensor
    """The same as it was searched, (B, H, a): float32 within the bounds, or int64."""
    cost: Tensor
    """Its cost, (B,)."""
    distribution: Gaussian | Categorical
    """Last refit: mean and standard deviation, or probabilities."""

    def rows(self, index: Tensor) -> "Plan":
        """Give the plan of some environments, those with the numbers `index` (B',)."""
        distribution = type(self.distribution)(*(part[index] for part in self.distribution))
        return Plan(self.actions[index], self.searched[index], self.cost[index], distribution)


def neutral(space: ActionSpace, batch: int, horizon: int) -> Gaussian | Categorical:
    """Give the distribution that a search starts from when nothing is known."""
    return (Gaussian if space.kind == "continuous" else Categorical).initial(space, batch, horizon)


def warm_start(plan: Plan, steps: int, space: ActionSpace) -> Gaussian | Categorical:
    """Give the distribution that the next search starts from, after `steps` steps of a plan were carried out.

    It is centred on the sequence that is being carried out, not on the last refit's mean: where they differ, starting
    from the mean would lose the better sequence and put off arriving again and again when only the last step counts.

    Args:
        plan: the plan before.
        steps: model steps carried out since, 1 to H.
        space: what is searched.

    Returns:
        The plan's actions without the first `steps` steps, padded with as many neutral ones (centre, or uniform).
    """
    return (Gaussian if space.kind == "continuous" else Categorical).resuming(plan.searched, steps, space)


def draw(space: ActionSpace, *, batch: int, horizon: int, candidates: int, generator: torch.Generator) -> Tensor:
    """Draw the noise of one iteration: (B, K-1, H, a) standard normal numbers or, for discrete actions, in [0, 1)."""
    make = torch.randn if space.kind == "continuous" else torch.rand
    return make((batch, candidates - 1, horizon, space.size), generator=generator, device=space.device)


def around(proposed: Tensor, space: ActionSpace) -> Gaussian | Categorical:
    """Give the distribution with its mode at a plan (B, H, a), and its full spread."""
    return (Gaussian if space.kind == "continuous" else Categorical).resuming(proposed, 0, space)


def propose(
    distribution: Gaussian | Categorical, proposed: Tensor, noise: Tensor, count: int, space: ActionSpace
) -> Tensor:
    """Let some candidates of an iteration be what is proposed, and others near it.

    Args:
        distribution: what the iteration draws from.
        proposed: a plan (B, H, a).
        noise: as `draw` draws it.
        count: candidates, the first of them the proposal itself; at least 1.
        space: what is searched.

    Returns:
        Noise of which `improve` makes such candidates, and the others as before.
    """
    near = around(proposed, space).near(space).sample(noise[:, : count - 1], space)
    chosen = torch.cat((proposed[:, None], near), dim=1)
    return torch.cat((distribution.noise_of(chosen, noise.shape[1], space), noise[:, count:]), dim=1)


def begin(distribution: Gaussian | Categorical) -> SearchState:
    """Start a search from a distribution."""
    best = distribution.mode()
    batch, device = len(best), best.device
    infinite = torch.full((batch,), torch.inf, device=device)
    return SearchState(distribution, best, infinite, torch.ones(batch, dtype=torch.bool, device=device))


def improve(state: SearchState, noise: Tensor, cost_fn: CostFn, weight_fn: WeightFn, space: ActionSpace) -> SearchState:
    """Sample, score and refit once.

    The first candidate is always the current mean (the mode, if discrete), the other K - 1 are samples.

    Args:
        state: how far the search has come.
        noise: what the samples are made of, as `draw` draws it.
        cost_fn: costs (B, K) of actions (B, K, H, a). A cost that is not finite counts as +inf: such a candidate is
            never chosen and has no part in the refit.
        weight_fn: weight of every candidate in the refit.
        space: what is searched.

    Returns:
        The state after the iteration.
    """
    distribution, best, best_cost, usable = state
    actions = torch.cat((distribution.mode()[:, None], distribution.sample(noise, space)), dim=1)  # (B, K, H, a)
    cost = _score(cost_fn, actions)  # (B, K)
    refitted = distribution.refit(actions, weight_fn(cost), space)
    lowest, index = cost.min(dim=1)
    winner = torch.take_along_dim(actions, index[:, None, None, None], dim=1)[:, 0]  # (B, H, a)
    best = torch.where((lowest < best_cost)[:, None, None], winner, best)
    return SearchState(refitted, best, torch.minimum(lowest, best_cost), usable & lowest.isfinite())


def finish(state: SearchState, cost_fn: CostFn, space: ActionSpace) -> Plan:
    """Choose the plan: the cheaper of the last mean and the best candidate ever scored.

    The mean averages out the luck of single samples but can fall between two good ways round an obstacle, or lag behind
    after few iterations; a candidate cannot. On a tie the mean is taken. Where changes of a command are searched,
    keeping the present command is scored beside the mean, and is the plan if nothing is cheaper.

    Args:
        state: how far the search has come.
        cost_fn: as in `improve`; it is called once more, with K = 1, or K = 2 for changes of a command.
        space: what is searched.
    """
    finals = state.distribution.mode()[:, None]  # (B, 1, H, a)
    if space.relative:
        finals = torch.cat((torch.zeros_like(finals), finals), dim=1)  # on a tie the command is kept
    final_cost, index = _score(cost_fn, finals).min(dim=1)
    final = torch.take_along_dim(finals, index[:, None, None, None], dim=1)[:, 0]
    chosen = torch.where((final_cost <= state.best_cost)[:, None, None], final, state.best)
    return Plan(space.expand(chosen), chosen, torch.minimum(final_cost, state.best_cost), state.distribution)


def search(
    cost_fn: CostFn,
    weight_fn: WeightFn | None,
    *,
    space: ActionSpace,
    batch: int,
    horizon: int,
    candidates: int,
    iterations: int,
    generator: torch.Generator,
    init: Gaussian | Categorical | None = None,
    proposed: Tensor | None = None,
    proposals: int = 1,
) -> Plan:
    """Improve a plan `iterations` times.

    Args:
        cost_fn: costs (B, K) of actions (B, K, H, a); see `improve`.
        weight_fn: weight of every candidate in the refit; None improves nothing, and the plan is what is started from.
        space: what is searched.
        batch: B, environments planned for at once.
        horizon: H, model steps.
        candidates: K, at least 2.
        iterations: at least 1.
        generator: source of randomness, on the space's device.
        init: distribution to start from, as `warm_start` makes it of the plan before; the neutral one if None.
        proposed: a plan (B, H, a) from elsewhere; it is what is started from where nothing is improved.
        proposals: candidates of the first iteration that come from it; see `propose`.

    Returns:
        The plan.

    Raises:
        ValueError: if K or the number of iterations is too small, a cost has a wrong shape, or in some iteration no
            candidate of an environment had a finite cost.
    """
    if candidates < 2:
        raise ValueError(f"candidates={candidates}: must be at least 2, the mean and a sample; use 64")
    if iterations < 1:
        raise ValueError(f"iterations={iterations}: must be at least 1; use 3")
    if weight_fn is None and proposed is not None:
        init = around(proposed, space)
    state = begin(neutral(space, batch, horizon) if init is None else init)
    for number in range(iterations):
        if weight_fn is None:
            break
        noise = draw(space, batch=batch, horizon=horizon, candidates=candidates, generator=generator)
        if number == 0 and proposed is not None:
            noise = propose(state.distribution, proposed, noise, proposals, space)
        state = improve(state, noise, cost_fn, weight_fn, space)
    plan = finish(state, cost_fn, space)
    # Looked at once, here, and not in an iteration: every look waits for the device.
    usable = state.usable & plan.cost.isfinite()
    if not bool(usable.all()):
        failed = (~usable).nonzero().flatten().tolist()
        raise ValueError(f"cost_fn: no candidate has a finite cost in environments {failed}; check model and goal")
    return plan


def _score(cost_fn: CostFn, actions: Tensor) -> Tensor:
    """Cost (B, K) of every candidate, with +inf for what is not finite."""
    cost = cost_fn(actions)
    if cost.shape != actions.shape[:2]:
        wanted = tuple(actions.shape[:2])
        raise ValueError(f"cost_fn: returned shape {tuple(cost.shape)}; return one cost a candidate, {wanted}")
    cost = cost.float()
    return torch.where(cost.isfinite(), cost, torch.inf)
