"""The planner's action space: what is searched, expanded for the model, and split for the environment."""

import numpy as np
import pytest
import torch

from lewm.config import ActionConfig, Config, DataConfig, PlanConfig
from lewm.families import preset
from lewm.families.compact.settings import CompactSettings
from lewm.plan import action_space, cem


def settings(kind: str = "continuous", size: int = 2, frame_skip: int = 3, hold: bool | None = False) -> Config:
    action = ActionConfig(kind="discrete" if kind == "discrete" else "continuous", size=size)
    data, plan = DataConfig(frame_skip=frame_skip), PlanConfig(hold=hold)
    return Config(action=action, data=data, model=CompactSettings(), plan=plan)


def test_every_sub_action_is_searched() -> None:
    space = action_space(settings(), device="cpu")
    assert (space.kind, space.size, space.num_actions) == ("continuous", 6, 0)
    torch.testing.assert_close(space.low, -torch.ones(6))
    torch.testing.assert_close(space.high, torch.ones(6))
    actions = torch.arange(12.0).reshape(2, 6)
    assert space.expand(actions) is actions
    assert space.to_env(actions).tolist()[1] == [[6, 7], [8, 9], [10, 11]]


def test_held_action_is_repeated() -> None:
    space = action_space(settings(hold=True), device="cpu")
    assert space.size == 2
    model_actions = space.expand(torch.tensor([[[1.0, 2.0]]]))
    assert model_actions.tolist() == [[[1, 2, 1, 2, 1, 2]]]
    assert space.to_env(model_actions).tolist() == [[[[1, 2], [1, 2], [1, 2]]]]


@pytest.mark.parametrize(("hold", "size"), [(False, 3), (True, 1)])
def test_discrete(hold: bool, size: int) -> None:
    space = action_space(settings("discrete", size=5, hold=hold), device="cpu")
    assert (space.kind, space.size, space.num_actions) == ("discrete", size, 5)
    assert space.high.tolist() == [4.0] * size
    model_actions = space.expand(torch.arange(size).expand(2, 4, size))
    assert model_actions.dtype == torch.int64
    assert model_actions[1, 2].tolist() == ([0, 0, 0] if hold else [0, 1, 2])
    assert space.to_env(model_actions).shape == (2, 4, 3)


def test_continuous_actions_alone_are_held_by_default() -> None:
    assert preset("tiny").plan.hold is None
    assert action_space(settings(hold=None), device="cpu").hold
    assert action_space(settings("discrete", size=5, hold=None), device="cpu").size == 3


def test_bounds_belong_to_each_entry_of_each_sub_action() -> None:
    low, high = np.array([-2.0, 0.0], dtype=np.float64), [3.0, 1.0]
    space = action_space(settings(), low, high, device="cpu")
    assert space.low.tolist() == [-2, 0, -2, 0, -2, 0]
    assert space.high.tolist() == [3, 1, 3, 1, 3, 1]
    assert space.low.dtype == torch.float32
    assert action_space(settings(), 0, 5, device="cpu").high.tolist() == [5] * 6


@pytest.mark.parametrize("value", [0.0, -1.5, 1e30])
def test_an_entry_that_never_varied_is_held_at_its_value(value: float) -> None:
    space = action_space(settings(hold=True), [-1.0, value], [2.0, value], device="cpu")
    plan = cem(lambda actions: (actions[..., 0] - 1.5).square().sum(-1), space=space, batch=2, horizon=3,
                    candidates=64, elites=8, iterations=4, generator=torch.Generator().manual_seed(0))  # fmt: skip
    torch.testing.assert_close(plan.actions[..., 1], torch.full((2, 3), value), rtol=0, atol=0)
    assert (plan.actions[..., 0] - 1.5).abs().max() < 0.3


@pytest.mark.parametrize(
    ("kind", "low", "high", "message"),
    [
        ("continuous", [0.0, 0.0, 0.0], None, r"low=.*must have action.size=2 entries"),
        ("continuous", 1.0, 1.0, r"low=1.0: must be below high=1.0"),
        ("continuous", [0.0, 1.0], [1.0, 0.5], r"low=1.0: must be below high=0.5 .entry 1."),
        ("continuous", -np.inf, 1.0, r"low=-inf: must be finite"),
        ("continuous", [0.0, np.nan], 1.0, r"low=\[0.0, nan\]: must be finite"),
        ("discrete", 0, None, r"low=0.*discrete actions have no bounds"),
    ],
)
def test_bad_bounds(kind: str, low: object, high: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        action_space(settings(kind), low, high, device="cpu")  # type: ignore[arg-type]


def positions(*, frame_skip: int = 2, **plan: object) -> Config:
    action = ActionConfig(
        kind="continuous", size=2, control_mode="position", low=(-1.0, 0.0), high=(1.0, 4.0), max_change=(0.5, 0.25)
    )
    data, searched = DataConfig(frame_skip=frame_skip), PlanConfig(**{"hold": None, **plan})  # type: ignore[arg-type]
    return Config(action=action, data=data, model=CompactSettings(), plan=searched)


def test_changes_of_a_position_are_searched_and_counted_from_the_present_command() -> None:
    space = action_space(positions(), device="cpu")
    assert (space.size, space.relative, space.hold) == (2, True, True)
    assert (space.low.tolist(), space.high.tolist()) == ([-0.5, -0.25], [0.5, 0.25])
    assert [bound.tolist() for bound in space.env_bounds] == [[-1, 0], [1, 4]]
    space = space.at(torch.tensor([[0.0, 1.0], [0.5, 2.0]]))
    changes = torch.tensor([[[0.25, -0.25], [0.0, 0.0]], [[0.25, 0.25], [0.25, 0.25]]])  # (B=2, H=2, A=2)
    rows = space.to_env(space.expand(changes))  # (B, H, f, A)
    assert rows[0].tolist() == [[[0.25, 0.75], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    assert rows[1].tolist() == [[[0.75, 2.25], [1.0, 2.5]], [[1.0, 2.75], [1.0, 3.0]]]  # within the bounds
    candidates = space.expand(changes[:, None].expand(2, 3, 2, 2))
    torch.testing.assert_close(space.to_env(candidates)[:, 1], rows)


def test_changes_of_every_sub_action_are_searched_where_none_is_held() -> None:
    space = action_space(positions(hold=False), device="cpu").at(torch.zeros(1, 2))
    assert space.size == 4
    rows = space.to_env(space.expand(torch.tensor([[[0.5, 0.25, -0.25, 0.25], [0.0, 0.0, 0.25, 0.0]]])))
    assert rows[0].flatten(0, 1).tolist() == [[0.5, 0.25], [0.25, 0.5], [0.25, 0.5], [0.5, 0.5]]


def test_how_far_a_position_may_change_can_be_set() -> None:
    assert action_space(positions(), max_change=0.1, device="cpu").high.tolist() == [pytest.approx(0.1)] * 2
    assert action_space(positions(max_change=0.3), device="cpu").high.tolist() == [pytest.approx(0.3)] * 2
    plain = positions(absolute=True)
    assert action_space(plain, device="cpu").high.tolist() == [1, 4]  # searched as they are
    with pytest.raises(ValueError, match=r"max_change=-0\.5: must not be negative"):
        action_space(positions(), max_change=[-0.5, 1.0], device="cpu")


def test_other_bounds_for_one_plan() -> None:
    space = action_space(positions(), device="cpu")
    assert [bound.tolist() for bound in space.within([-0.2, 1.0], 0.1 + np.array([0.0, 2.0])).env_bounds] == [
        [pytest.approx(-0.2), 1.0],
        [pytest.approx(0.1), pytest.approx(2.1)],
    ]
    plain = action_space(settings(), device="cpu")
    assert plain.within(-0.5, None).low.tolist() == [-0.5] * 6
    assert plain.within(None, None) is plain
    with pytest.raises(ValueError, match=r"low=2\.0: must be below high=1\.0"):
        plain.within(2.0, None)
    with pytest.raises(ValueError, match="discrete actions have no bounds"):
        action_space(settings("discrete", size=5), device="cpu").within(0, None)


def test_bounds_come_from_the_training_data_where_none_are_given() -> None:
    action = ActionConfig(kind="continuous", size=2, low=(-3.0, 0.0), high=(3.0, 5.0))
    config = Config(action=action, data=DataConfig(frame_skip=1), model=CompactSettings())
    space = action_space(config, device="cpu")
    assert (space.low.tolist(), space.high.tolist()) == ([-3, 0], [3, 5])
