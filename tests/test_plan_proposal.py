"""Proposals in the terms of a search: held actions, changes of a command, discrete actions, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import ActionConfig, Config, PlanConfig
from lewm.plan import LatentController, Proposal, action_space
from lewm.plan.proposal import ProposalSettings, as_searched, required_proposal
from tiny import tiny

POSITIONS = ActionConfig(
    kind="continuous", size=2, low=(-1.0, -1.0), high=(1.0, 1.0), control_mode="position", max_change=(0.1, 0.2)
)
DISCRETE = ActionConfig(kind="discrete", size=3)


def config_of(action: ActionConfig | None = None, **plan: Any) -> Config:
    config = tiny(data__frame_skip=2)
    return replace(config, action=action or config.action, plan=replace(config.plan, **plan))


def test_a_held_action_is_the_mean_of_its_sub_actions_within_the_bounds() -> None:
    actions = torch.tensor([[[[0.2, -3.0], [0.4, -3.0]]]])  # (1, 1, f=2, A=2)
    held = as_searched(actions, action_space(config_of(hold=True), device="cpu"))
    torch.testing.assert_close(held, torch.tensor([[[0.3, -1.0]]]))
    each = as_searched(actions, action_space(config_of(hold=False), device="cpu"))
    torch.testing.assert_close(each, torch.tensor([[[0.2, -1.0, 0.4, -1.0]]]))


@pytest.mark.parametrize("hold", [False, True])
def test_changes_lead_from_the_present_command_to_those_proposed(hold: bool) -> None:
    space = action_space(config_of(POSITIONS, hold=hold), device="cpu").at(torch.tensor([[0.5, -0.5]]))
    ways = torch.tensor([[[0.55, -0.4], [0.6, -0.3]], [[0.65, -0.2], [0.7, -0.1]]])[None]  # (1, H=2, f=2, A)
    led = space.to_env(space.expand(as_searched(ways, space)))
    torch.testing.assert_close(led, ways)
    far = torch.full((1, 2, 2, 2), 0.9)  # no command moves further than it may, and none beyond its bounds
    led = space.to_env(space.expand(as_searched(far, space))).flatten(1, 2)
    torch.testing.assert_close(led[0], torch.tensor([[0.6, -0.3], [0.7, -0.1], [0.8, 0.1], [0.9, 0.3]]))


def test_what_two_commands_away_cannot_be_reached_is_caught_up_with_later() -> None:
    space = action_space(config_of(POSITIONS), device="cpu").at(torch.tensor([[0.0, 0.0]]))
    wanted = torch.tensor([[[0.15, 0.0], [0.15, 0.0]]])[None]
    led = space.to_env(space.expand(as_searched(wanted, space))).flatten(1, 2)
    torch.testing.assert_close(led[0, :, 0], torch.tensor([0.1, 0.15]))


class Chosen(Proposal):
    """Gives logits (B, H, f, V) that are fixed."""

    out: Tensor

    def actions(self, pair: Tensor, steps_left: Tensor) -> Tensor:
        return self.out


@pytest.mark.parametrize(("hold", "wanted"), [(False, [[0, 1]]), (True, [[2]])])
def test_discrete_actions_are_the_likeliest(hold: bool, wanted: list[list[int]]) -> None:
    config = config_of(DISCRETE, hold=hold, horizon=1)
    proposal = Chosen(ProposalSettings.of(config, ""))
    proposal.out = torch.tensor([[[[3.0, 0.0, 2.0], [0.0, 3.0, 2.0]]]])
    state = torch.zeros(1, config.model.num_tokens, config.model.token_width)
    said = proposal(state, state, action_space(config, device="cpu"), horizon=1)
    assert said.tolist() == [wanted]
    assert said.dtype == torch.int64


def test_a_plan_that_wants_a_proposal_is_refused_without() -> None:
    proposal = Proposal(ProposalSettings.of(config_of(horizon=3), ""))
    assert required_proposal(PlanConfig(horizon=9), proposal) is None
    assert required_proposal(PlanConfig(horizon=3, proposals=1), proposal) is proposal
    for plan, told in (
        (
            PlanConfig(planner="proposal"),
            "plan.planner=proposal: the run has no proposal; make one by `lewm distill",
        ),
        (PlanConfig(proposals=2), "plan.proposals=2: the run has no proposal; "),
    ):
        with pytest.raises(ValueError, match=told):
            required_proposal(plan, None)
    with pytest.raises(ValueError, match=r"plan\.horizon=4: the run's proposal has 3 steps; use 3 or fewer"):
        required_proposal(PlanConfig(horizon=4, planner="proposal"), proposal)
    with pytest.raises(ValueError, match=r"plan\.proposals=64: must leave one of 64 candidates for the mean; use"):
        PlanConfig(proposals=64).validate()


class Still:
    """A world in which nothing moves, and whose cost is therefore the same for all plans."""

    def encode(self, frames: Tensor, /) -> Tensor:
        return frames[:, 0, :1, :2].float()  # (B, 1, 2)

    def rollout(self, states: Tensor, past_actions: Tensor, actions: Tensor, /) -> Tensor:
        return states[:, -1:].expand(-1, actions.shape[1], -1, -1)


@pytest.mark.parametrize("changes", [{"planner": "proposal"}, {"proposals": 1}, {"planner": "mppi", "proposals": 1}])
def test_the_controller_asks_for_a_proposal_of_what_it_sees(changes: dict[str, Any]) -> None:
    config = config_of(hold=True, horizon=2, iterations=1, candidates=2, elites=1, over="last", **changes)
    config = replace(config, model=replace(config.model, width=16))
    seen: list[tuple[float, float]] = []

    class Told(Proposal):
        def forward(self, state: Tensor, goal: Tensor, space: Any, *, horizon: int) -> Tensor:
            seen.append((state[0, 0, 0].item(), goal[0, 0, 0].item()))
            return torch.full((1, horizon, 2), state[0, 0, 0].item() / 100)

    proposal = Told(ProposalSettings.of(replace(config, plan=replace(config.plan, horizon=3)), ""))
    space = action_space(config, device="cpu")
    driver = LatentController(
        Still(), config, space, proposal=proposal, batch=1, generator=torch.Generator().manual_seed(0)
    )
    size = config.model.image_size
    driver.reset(np.full((1, size, size, 3), 7, np.uint8))
    for shown in (20, 50):
        actions = driver.act(np.full((1, size, size, 3), shown, np.uint8))
        assert actions.shape == (1, 2, 2)
        if config.plan.planner == "proposal":
            np.testing.assert_allclose(actions, shown / 100, rtol=1e-6)
        assert driver.last_plan is not None
        assert driver.last_plan.searched.shape == (1, 2, 2)
    assert seen == [(20.0, 7.0), (50.0, 7.0)]
