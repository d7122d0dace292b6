"""Goals without a picture: what the texts mean, what is wrong with others, and the distance from a region."""

from math import inf

import numpy as np
import pytest
import torch

from lewm.plan import FrameGoal, Region, RegionGoal, StateGoal, parse_frame, parse_goal

NAMES = ("x", "y", "arm_angle")


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("state:0.3,-5e-1,2", StateGoal({"x": 0.3, "y": -0.5, "arm_angle": 2.0})),
        ("state:x=0.3", StateGoal({"x": 0.3})),
        ("state: y = 1 , x=.5", StateGoal({"x": 0.5, "y": 1.0})),  # in the order of the state
        ("region:x=0.2..0.4", RegionGoal({"x": (0.2, 0.4)})),
        ("region:y=-1..-0.5,x=0.2..", RegionGoal({"x": (0.2, inf), "y": (-1.0, -0.5)})),
        ("region:x=..4,y= 1 .. 2", RegionGoal({"x": (-inf, 4.0), "y": (1.0, 2.0)})),
        ("region:x=.2...4", RegionGoal({"x": (0.2, 0.4)})),
        ("frame:3:17", FrameGoal(3, 17)),
    ],
)
def test_goals_are_read(text: str, goal: object) -> None:
    read = parse_goal(text, NAMES)
    assert read == goal
    if not isinstance(read, FrameGoal):
        named = read.values if isinstance(read, StateGoal) else read.ranges
        assert list(named) == [name for name in NAMES if name in named]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"is no state, region or frame; give state:x=0\.3"),
        ("goal.png", r"give state:x=0\.3"),
        ("state", r"give state:x=0\.3"),
        ("stat:0.3,0.5", r"did you mean state:0\.3,0\.5\?"),
        ("regoin:x=0..1", r"did you mean region:x=0\.\.1\?"),
        ("state:0.3,0.5", r"gives 2 of 3 state variables; give x, y, arm_angle in this order, or .* state:x=0\.5"),
        ("state:x=0.3,0.5", r"'0\.5' has no name; write every part as name=value"),
        ("region:0.3..0.5", r"'0\.3\.\.0\.5' has no name; write every part as name=low\.\.high"),
        ("state:arm_angel=1", r"'arm_angel' is no state variable of the data; did you mean arm_angle\?"),
        ("region:z=0..1", r"'z' is no state variable of the data; give some of "),
        ("state:x=1,x=2", r"x comes twice; leave one out"),
        ("state:x=", r"'' is not a finite number"),
        ("state:x=near", r"'near' is not a finite number; write it as in 0\.3"),
        ("state:0,nan,0", r"'nan' is not a finite number"),
        ("state:x=1e39", r"'1e39' is not a finite number"),
        ("region:x=0..inf", r"'inf' is not a finite number"),
        ("region:x=0.3", r"x=0\.3 is no range; write x=low\.\.high, or state:x=0\.3 for one value"),
        ("region:x=..", r"x=\.\. is open at both ends; give one of them or leave x out"),
        ("region:x=0.4..0.2", r"x=0\.4\.\.0\.2 is empty; give the smaller number first"),
        ("region:x=0.4..0.4", r"is empty"),
        ("region:", r"'' has no name"),
        ("frame:3", r"must be frame:EPISODE:INDEX"),
        ("frame:3:-1", r"must be frame:EPISODE:INDEX"),
        ("frame:3:1:2", r"use frame:0:0 for the first frame"),
        ("frame:3:²", r"must be frame:EPISODE:INDEX"),
    ],
)
def test_other_texts_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as raised:
        parse_goal(text, NAMES)
    assert str(raised.value).startswith(f"goal={text}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["state:0.3", "state:x=0.3", "region:x=0..1"])
def test_data_without_states_has_frames_alone(text: str) -> None:
    with pytest.raises(ValueError, match=r"the data has no states; give frame:EPISODE:INDEX, or data with states"):
        parse_goal(text, ())
    assert parse_goal("frame:0:2", ()) == FrameGoal(0, 2)


def test_a_start_is_a_frame() -> None:
    assert parse_frame("frame:0:12", "start") == FrameGoal(0, 12)
    with pytest.raises(ValueError, match=r"^start=state:1: must be frame:EPISODE:INDEX"):
        parse_frame("state:1", "start")


def test_states_in_all_ranges_are_inside() -> None:
    states = np.array([[0.2, 9, 0], [0.1, 9, 0], [0.4, 9, 0.9], [0.4, 9, 1.1]], dtype=np.float32)
    inside = RegionGoal({"x": (0.15, 0.4), "arm_angle": (-inf, 1.0)})
    np.testing.assert_array_equal(
        inside.contains(states, NAMES), [True, False, False, False]
    )  # 0.4 in float32 is above
    np.testing.assert_array_equal(
        RegionGoal({"y": (9.0, inf)}).contains(states.reshape(2, 2, 3), NAMES), np.ones((2, 2), dtype=bool)
    )


def box(low: list[float], high: list[float]) -> Region:
    """Read four numbers from two tokens of width 3 by a fixed linear map; their units differ."""
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    scale = torch.tensor([1.0, 2.0, 0.5, 10.0])
    return Region(lambda tokens: tokens.flatten(-2) @ weight, torch.tensor(low), torch.tensor(high), scale)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([-1.0, 0.5, -inf, -inf], [1.0, inf, 0.2, inf]),
        ([0.3, -0.2, 0.0, 1.0], [0.3, -0.2, 0.0, 1.0]),  # a state
    ],
)
def test_cost_of_a_region_against_numpy(low: list[float], high: list[float]) -> None:
    region = box(low, high)
    pred = torch.randn(2, 3, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    costs = region.cost(pred)
    assert costs.shape == (2, 3, 4)
    for place in np.ndindex(2, 3, 4):
        total = 0.0
        for value, least, most, unit in zip(
            region.decode(pred[place]).tolist(), low, high, (1, 2, 0.5, 10), strict=True
        ):
            outside = least - value if value < least else value - most if value > most else 0.0
            total += (outside / unit) ** 2
        assert costs[place].item() == pytest.approx(total**0.5, rel=1e-4, abs=1e-6)


def test_inside_a_region_nothing_is_to_pay() -> None:
    pred = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    read = box([0.0] * 4, [0.0] * 4).decode(pred)
    region = box(read.amin(0).tolist(), read.amax(0).tolist())
    assert region.cost(pred).eq(0).all()
    assert region.cost(pred * 3).gt(0).any()
