"""What CEM and MPPI share: sampling, refitting, the choice of the plan, warm starts, costs that are no numbers."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.plan import ActionSpace, Categorical, Gaussian, Plan, SearchState, cem, mppi, warm_start
from lewm.plan.cem import elite_weights
from lewm.plan.search import (
    NEAR,
    SMOOTHING,
    STD_FLOOR,
    WARM_UNIFORM,
    around,
    begin,
    draw,
    finish,
    improve,
    neutral,
    propose,
    search,
)

B, H = 3, 4
CONTINUOUS = ActionSpace(
    kind="continuous", size=2, low=torch.tensor([-1.0, 0.0]), high=torch.tensor([1.0, 4.0])
)  # centre (0, 2), half range (1, 2)
DISCRETE = ActionSpace(kind="discrete", size=2, low=torch.zeros(2), high=torch.full((2,), 3.0), num_actions=4)
CHANGES = ActionSpace(
    kind="continuous",
    size=2,
    low=torch.full((2,), -0.1),
    high=torch.full((2,), 0.1),
    least=torch.full((2,), -1.0),
    most=torch.full((2,), 1.0),
    command=torch.zeros(B, 2),
)
Planner = Callable[..., Plan]
CEM = partial(cem, candidates=64, elites=8)
MPPI = partial(mppi, candidates=64, temperature=0.1)
both = pytest.mark.parametrize("planner", [CEM, MPPI], ids=["cem", "mppi"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(space: ActionSpace, count: int) -> Tensor:
    return draw(space, batch=B, horizon=H, candidates=count + 1, generator=seeded())


def quadratic(optimum: Tensor) -> Callable[[Tensor], Tensor]:
    """Cost of the distance to an optimum (B, H, a) of each environment's own."""
    return lambda actions: (actions - optimum[:, None]).square().sum((-2, -1))


def mismatches(optimum: Tensor) -> Callable[[Tensor], Tensor]:
    """Cost of discrete actions: entries that differ from the optimum (B, H, a)."""
    return lambda actions: (actions != optimum[:, None]).float().sum((-2, -1))


@both
def test_each_environment_finds_its_own_optimum(planner: Planner) -> None:
    optimum = torch.stack([torch.full((H, 2), x) for x in (0.7, -0.5, 0.2)])
    optimum[..., 1] += torch.tensor([2.5, 1.0, 3.5])[:, None]
    plan = planner(quadratic(optimum), space=CONTINUOUS, batch=B, horizon=H, iterations=20, generator=seeded())
    assert plan.actions.shape == (B, H, 2)
    start = quadratic(optimum)(Gaussian.initial(CONTINUOUS, B, H).mean[:, None])[:, 0]
    assert (plan.cost < 0.02 * start).all()
    torch.testing.assert_close(plan.cost, quadratic(optimum)(plan.actions[:, None])[:, 0])


@both
def test_discrete_optimum_is_found(planner: Planner) -> None:
    optimum = torch.randint(1, 4, (B, H, 2), generator=seeded(5))  # the initial mode is 0 everywhere
    plan = planner(mismatches(optimum), space=DISCRETE, batch=B, horizon=H, iterations=10, generator=seeded())
    assert plan.actions.dtype == torch.int64
    assert torch.equal(plan.actions, optimum)
    assert plan.cost.tolist() == [0.0] * B


@both
def test_bounds_are_kept_and_reached(planner: Planner) -> None:
    seen: list[Tensor] = []

    def outside(actions: Tensor) -> Tensor:  # the cheapest actions lie far beyond the upper bound
        seen.append(actions)
        return -(actions / CONTINUOUS.high).sum((-2, -1))

    plan = planner(outside, space=CONTINUOUS, batch=B, horizon=H, iterations=8, generator=seeded())
    for actions in [*seen, plan.actions, plan.distribution.mode()]:
        assert (actions >= CONTINUOUS.low).all()
        assert (actions <= CONTINUOUS.high).all()
    share = (plan.actions - CONTINUOUS.low) / (CONTINUOUS.high - CONTINUOUS.low)
    assert (share.mean((1, 2)) > 0.9).all()
    assert (share == 1).any()


@both
@pytest.mark.parametrize("space", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_generator_decides_everything(planner: Planner, space: ActionSpace) -> None:
    def plan(seed: int) -> Plan:
        cost = lambda actions: actions.float().sin().sum((-2, -1))  # noqa: E731
        return planner(cost, space=space, batch=B, horizon=H, iterations=2, generator=seeded(seed))

    def spread(plan: Plan) -> Tensor:
        distribution = plan.distribution
        return distribution.std if isinstance(distribution, Gaussian) else distribution.probs

    torch.manual_seed(1)
    first = plan(3)
    torch.manual_seed(2)
    again = plan(3)
    assert torch.equal(first.actions, again.actions)
    assert torch.equal(first.cost, again.cost)
    assert not torch.equal(spread(first), spread(plan(4)))


@both
@pytest.mark.parametrize("space", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_static_shapes_and_mean_first(planner: Planner, space: ActionSpace) -> None:
    seen: list[Tensor] = []

    def cost(actions: Tensor) -> Tensor:
        seen.append(actions)
        return actions.float().square().sum((-2, -1))

    plan = planner(cost, space=space, batch=B, horizon=H, iterations=3, generator=seeded())
    assert [tuple(actions.shape) for actions in seen] == [(B, 64, H, 2)] * 3 + [(B, 1, H, 2)]
    assert torch.equal(seen[0][:, 0], neutral(space, B, H).mode())
    assert torch.equal(seen[-1][:, 0], plan.distribution.mode())


@both
def test_plan_is_the_best_of_mean_and_candidates(planner: Planner) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    ridge = lambda actions: (actions[..., 0].abs() - 0.8).abs().sum(-1)  # two optima, a mean between them  # noqa: E731

    def cost(actions: Tensor) -> Tensor:
        seen.append((actions, ridge(actions)))
        return ridge(actions)

    plan = planner(cost, space=CONTINUOUS, batch=B, horizon=1, iterations=1, generator=seeded())
    actions, costs = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
    lowest, index = costs.min(dim=1)
    assert torch.equal(plan.cost, lowest)
    assert torch.equal(plan.actions, actions[torch.arange(B), index])
    assert (index < 64).any(), "no environment took a candidate"

    bowl = planner(
        quadratic(torch.tensor([0.3, 2.6]).expand(B, 8, 2)),
        space=CONTINUOUS,
        batch=B,
        horizon=8,
        iterations=6,
        generator=seeded(),
    )
    assert (bowl.actions == bowl.distribution.mode()).flatten(1).all(1).any(), "no environment took the mean"


def test_cost_that_is_no_number_is_never_chosen() -> None:
    optimum = torch.full((B, H, 2), 0.5)

    def broken(actions: Tensor) -> Tensor:  # the better half of the range costs NaN or minus infinity
        cost = quadratic(optimum)(actions)
        cost = torch.where(actions[:, :, 0, 0] > 0.4, torch.nan, cost)
        return torch.where(actions[:, :, 1, 0] > 0.4, -torch.inf, cost)

    for planner in (CEM, MPPI):
        plan = planner(broken, space=CONTINUOUS, batch=B, horizon=H, iterations=5, generator=seeded())
        assert plan.cost.isfinite().all()
        assert plan.actions.isfinite().all()
        assert plan.distribution.mode().isfinite().all()
        assert (plan.actions[:, :2, 0] <= 0.4).all()


@both
@pytest.mark.parametrize("space", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_no_usable_cost_names_the_environments(planner: Planner, space: ActionSpace) -> None:
    def broken(actions: Tensor) -> Tensor:
        cost = actions.float().sum((-2, -1))
        cost[1] = torch.nan
        return cost

    with pytest.raises(ValueError, match=r"cost_fn: no candidate has a finite cost in environments \[1\]"):
        planner(broken, space=space, batch=B, horizon=H, iterations=3, generator=seeded())


def test_bad_numbers() -> None:
    zero = lambda actions: actions.sum((-2, -1))  # noqa: E731
    rest = {"space": CONTINUOUS, "batch": B, "horizon": H, "generator": seeded()}
    with pytest.raises(ValueError, match="elites=9: must be 1 to candidates=8"):
        cem(zero, candidates=8, elites=9, iterations=1, **rest)
    with pytest.raises(ValueError, match="candidates=1: must be at least 2"):
        cem(zero, candidates=1, elites=1, iterations=1, **rest)
    with pytest.raises(ValueError, match="iterations=0: must be at least 1"):
        cem(zero, candidates=8, elites=2, iterations=0, **rest)
    with pytest.raises(ValueError, match="temperature=0: must be above 0"):
        mppi(zero, candidates=8, temperature=0, iterations=1, **rest)
    with pytest.raises(ValueError, match=r"cost_fn: returned shape \(3,\); return one cost a candidate, \(3, 8\)"):
        cem(lambda actions: actions.sum((-3, -2, -1)), candidates=8, elites=2, iterations=1, **rest)


def test_gaussian_samples_follow_mean_std_and_bounds() -> None:
    start = Gaussian.initial(CONTINUOUS, B, H)
    torch.testing.assert_close(start.mean[0, 0], torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(start.std[0, 0], torch.tensor([1.0, 2.0]))
    samples = start.sample(noise(CONTINUOUS, 2000), CONTINUOUS)
    assert samples.shape == (B, 2000, H, 2)
    on_bound = ((samples == CONTINUOUS.low) | (samples == CONTINUOUS.high)).float().mean()
    assert abs(float(on_bound) - 0.3173) < 0.01  # beyond one standard deviation
    narrow = Gaussian(start.mean + 0.25, start.std / 20).sample(noise(CONTINUOUS, 2000), CONTINUOUS)
    torch.testing.assert_close(narrow.mean((0, 1, 2)), torch.tensor([0.25, 2.25]), atol=3e-3, rtol=0)
    torch.testing.assert_close(narrow.std((0, 1, 2)), torch.tensor([0.05, 0.1]), atol=0, rtol=0.05)


def test_categorical_samples_follow_probabilities() -> None:
    probs = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.0, 0.0, 0.5, 0.5]]).expand(B, H, 2, 4)
    samples = Categorical(probs).sample(noise(DISCRETE, 3000), DISCRETE)
    assert samples.shape == (B, 3000, H, 2)
    for entry in range(2):
        share = torch.bincount(samples[..., entry].flatten(), minlength=4) / samples[..., entry].numel()
        torch.testing.assert_close(share, probs[0, 0, entry], atol=0.01, rtol=0)
    assert torch.equal(Categorical(probs).mode()[0, 0], torch.tensor([0, 2]))


@pytest.mark.slow
@pytest.mark.parametrize("space", [CONTINUOUS, DISCRETE, CHANGES], ids=["continuous", "discrete", "changes"])
def test_an_iteration_is_one_graph_of_given_noise(space: ActionSpace) -> None:
    """Traced without a break it gives the numbers that it gives eagerly, so it neither draws, waits nor raises."""

    def iteration(state: SearchState, noise: Tensor) -> SearchState:
        cost_fn = lambda actions: (actions.float() - 0.5).square().sum((-2, -1))  # noqa: E731
        return improve(state, noise, cost_fn, lambda cost: elite_weights(cost, 4), space)

    traced = torch.compile(iteration, backend="eager", fullgraph=True)
    one = other = begin(neutral(space, B, H))
    for k in range(3):
        given = draw(space, batch=B, horizon=H, candidates=16, generator=seeded(k))
        one, other = iteration(one, given), traced(other, given)
        for a, b in zip((*one.distribution, *one[1:]), (*other.distribution, *other[1:]), strict=True):
            assert torch.equal(a, b)
    assert one.best_cost.isfinite().all()
    assert one.usable.all()


def test_iterations_by_hand_are_the_planner() -> None:
    cost_fn = quadratic(torch.full((B, H, 2), 0.5))
    plan = CEM(cost_fn, space=CONTINUOUS, batch=B, horizon=H, iterations=3, generator=seeded())
    generator, state = seeded(), begin(neutral(CONTINUOUS, B, H))
    for _ in range(3):
        given = draw(CONTINUOUS, batch=B, horizon=H, candidates=64, generator=generator)
        state = improve(state, given, cost_fn, lambda cost: elite_weights(cost, 8), CONTINUOUS)
    by_hand = finish(state, cost_fn, CONTINUOUS)
    assert torch.equal(by_hand.searched, plan.searched)
    assert torch.equal(by_hand.cost, plan.cost)


def test_actions_without_a_finite_cost_are_marked_and_not_raised() -> None:
    def broken(actions: Tensor) -> Tensor:
        cost = actions.sum((-2, -1))
        return torch.where(torch.arange(B)[:, None] == 1, torch.nan, cost)

    state = begin(neutral(CONTINUOUS, B, H))
    state = improve(state, noise(CONTINUOUS, 15), broken, lambda cost: elite_weights(cost, 4), CONTINUOUS)
    assert state.usable.tolist() == [True, False, True]
    assert state.distribution.mode().isfinite().all()


def test_discrete_actions_are_the_inverse_transform_of_given_numbers() -> None:
    probs = torch.tensor([0.25, 0.0, 0.5, 0.25]).expand(B, H, 2, 4)
    given = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999])[None, :, None, None].expand(B, 6, H, 2)
    assert Categorical(probs).sample(given, DISCRETE)[0, :, 0, 0].tolist() == [0, 0, 2, 2, 3, 3]


def test_gaussian_refit_against_numpy() -> None:
    actions = Gaussian.initial(CONTINUOUS, B, H).sample(noise(CONTINUOUS, 10), CONTINUOUS)
    weights = torch.softmax(torch.randn(B, 10, generator=seeded(1)), dim=1)
    fitted = Gaussian.initial(CONTINUOUS, B, H).refit(actions, weights, CONTINUOUS)
    for b in range(B):
        mean = np.average(actions[b].numpy(), axis=0, weights=weights[b].numpy())
        std = np.sqrt(np.average((actions[b].numpy() - mean) ** 2, axis=0, weights=weights[b].numpy()))
        np.testing.assert_allclose(fitted.mean[b], mean, atol=1e-6)
        np.testing.assert_allclose(fitted.std[b], std, atol=1e-6)
    alone = Gaussian.initial(CONTINUOUS, B, H).refit(actions, torch.eye(10)[:B], CONTINUOUS)
    torch.testing.assert_close(alone.mean[2], actions[2, 2])
    torch.testing.assert_close(alone.std, (STD_FLOOR * torch.tensor([2.0, 4.0])).expand(B, H, 2))


def test_categorical_refit_against_numpy() -> None:
    actions = Categorical.initial(DISCRETE, B, H).sample(noise(DISCRETE, 10), DISCRETE)
    weights = torch.softmax(torch.randn(B, 10, generator=seeded(1)), dim=1)
    probs = Categorical.initial(DISCRETE, B, H).refit(actions, weights, DISCRETE).probs
    for b, h, entry in np.ndindex(B, H, 2):
        counts = np.bincount(actions[b, :, h, entry].numpy(), weights=weights[b].numpy(), minlength=4)
        np.testing.assert_allclose(probs[b, h, entry], (1 - SMOOTHING) * counts + SMOOTHING / 4, atol=1e-6)
    torch.testing.assert_close(probs.sum(-1), torch.ones(B, H, 2))


def test_warm_start_resumes_the_plan_and_ends_at_the_centre() -> None:
    actions = torch.rand(B, H, 2, generator=seeded())
    narrow = Gaussian(torch.zeros(B, H, 2), torch.full((B, H, 2), 0.01))
    start = warm_start(Plan(actions, actions, torch.zeros(B), narrow), 3, CONTINUOUS)
    assert isinstance(start, Gaussian)
    assert torch.equal(start.mean[:, :1], actions[:, 3:])
    assert torch.equal(start.mean[:, 1:], torch.tensor([0.0, 2.0]).expand(B, 3, 2))
    assert torch.equal(start.std, torch.tensor([1.0, 2.0]).expand(B, H, 2))


def test_discrete_warm_start_resumes_the_plan_and_ends_uniform() -> None:
    actions = torch.randint(0, 4, (B, H, 2), generator=seeded())
    start = warm_start(Plan(actions, actions, torch.zeros(B), Categorical.initial(DISCRETE, B, H)), 1, DISCRETE)
    assert isinstance(start, Categorical)
    assert torch.equal(start.mode()[:, :-1], actions[:, 1:])
    expected = torch.full((B, H, 2, 4), WARM_UNIFORM / 4)
    for b, h, entry in np.ndindex(B, H - 1, 2):
        expected[b, h, entry, actions[b, h + 1, entry]] += 1 - WARM_UNIFORM
    expected[:, -1] = 0.25
    torch.testing.assert_close(start.probs, expected)


@both
def test_warm_start_is_where_the_search_begins(planner: Planner) -> None:
    optimum = torch.tensor([0.9, 3.8]).expand(B, H, 2)
    arguments = {"space": CONTINUOUS, "batch": B, "horizon": H, "iterations": 1}
    init = Gaussian(optimum, torch.full((B, H, 2), 0.1))
    warm = planner(quadratic(optimum), generator=seeded(), init=init, **arguments)
    assert warm.cost.tolist() == [0.0] * B
    assert torch.equal(warm.actions, optimum)
    cold = planner(quadratic(optimum), generator=seeded(), **arguments)
    assert (cold.cost > 0).all()


def proposal_in(space: ActionSpace) -> Tensor:
    """A sequence (B, H, a) away from the neutral start."""
    if space.kind == "discrete":
        return torch.arange(B * H * 2).view(B, H, 2) % 4
    return space.low + 0.8 * (space.high - space.low).expand(B, H, 2)


@pytest.mark.parametrize("space", [CONTINUOUS, CHANGES, DISCRETE], ids=["continuous", "changes", "discrete"])
def test_noise_of_is_the_inverse_of_a_sample(space: ActionSpace) -> None:
    start, given = around(proposal_in(space), space), noise(space, 6)
    wanted = neutral(space, B, H).sample(noise(space, 3), space)
    again = torch.cat((start.noise_of(wanted, 6, space), given[:, 3:]), dim=1)
    torch.testing.assert_close(start.sample(again, space)[:, :3], wanted)
    torch.testing.assert_close(start.sample(again, space)[:, 3:], start.sample(given, space)[:, 3:])


@pytest.mark.parametrize("space", [CONTINUOUS, CHANGES, DISCRETE], ids=["continuous", "changes", "discrete"])
def test_some_candidates_stay_near_the_proposal(space: ActionSpace) -> None:
    proposed, given, start = proposal_in(space), noise(space, 400), neutral(space, B, H)
    drawn, free = start.sample(propose(start, proposed, given, 200, space), space), start.sample(given, space)
    torch.testing.assert_close(drawn[:, 0], proposed)
    torch.testing.assert_close(drawn[:, 200:], free[:, 200:])
    if space.kind == "discrete":
        same = (drawn[:, 1:200] == proposed[:, None]).float().mean().item()
        assert same == pytest.approx(1 - NEAR * 3 / 4, abs=0.03)
    else:
        near, far = ((some[:, 1:200] - proposed[:, None]).abs().mean() for some in (drawn, free))
        assert 0.0 < near < 0.6 * far
    torch.testing.assert_close(start.sample(propose(start, proposed, given, 1, space), space)[:, 1:], free[:, 1:])


@pytest.mark.parametrize("space", [CONTINUOUS, CHANGES, DISCRETE], ids=["continuous", "changes", "discrete"])
def test_without_weights_the_proposal_is_the_plan(space: ActionSpace) -> None:
    """Of changes, unless keeping the command is cheaper."""
    proposed, tried = proposal_in(space), []

    def cost_fn(actions: Tensor) -> Tensor:
        tried.append(actions.shape[1])
        return -actions.float().sum((-2, -1))

    settings = {"space": space, "batch": B, "horizon": H, "candidates": 8, "iterations": 3}
    plan = search(cost_fn, None, **settings, generator=seeded(), proposed=proposed)
    assert torch.equal(plan.searched, proposed)
    assert tried == [2 if space.relative else 1]
    with pytest.raises(ValueError, match="cost_fn: no candidate has a finite cost in environments"):
        search(lambda a: cost_fn(a) * torch.nan, None, **settings, generator=seeded(), proposed=proposed)


def test_a_search_tries_the_proposal_beside_the_plan_before() -> None:
    proposed, seen = proposal_in(CONTINUOUS), []
    before = neutral(CONTINUOUS, B, H)

    def cost_fn(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (actions - proposed[:, None]).square().sum((-2, -1))

    settings = {"space": CONTINUOUS, "batch": B, "horizon": H, "candidates": 8, "iterations": 2, "init": before}
    weights = partial(elite_weights, elites=4)
    plan = search(cost_fn, weights, **settings, generator=seeded(), proposed=proposed, proposals=3)
    assert torch.equal(seen[0][:, 0], before.mode())
    torch.testing.assert_close(seen[0][:, 1], proposed)
    assert not any(torch.equal(row, proposed) for row in seen[1].unbind(1))  # tried once
    torch.testing.assert_close(plan.searched, proposed)
