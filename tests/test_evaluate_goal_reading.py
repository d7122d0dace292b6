"""Goals given by the state: the probe that reads them, and where they are met in closed loop."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data import Store
from lewm.envs import Rule, TwoRoom
from lewm.evaluate.goal_reading import StateGoalReader, aim, frame_index, read_goal
from lewm.evaluate.probe import ProbeSet
from lewm.evaluate.starts import Starts
from lewm.plan import FrameGoal, RegionGoal, StateGoal, parse_goal
from tiny import moving_dot

NAMES = ("x", "arm_angle", "hidden", "fixed")
TRAIN, TEST = 300, 100


def frames_of(states: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Show x and the angle in pixels; the rest cannot be seen."""
    seen = np.stack([states[:, 0] * 20, np.sin(states[:, 1]) * 100, np.cos(states[:, 1]) * 100], axis=1) + 120
    return np.rint(seen).astype(np.uint8)[:, None, None, :]


def encode(frames: NDArray[np.uint8]) -> Tensor:
    """Mix the pixels into two tokens of width 3."""
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    return (torch.from_numpy(frames[:, 0, 0].astype(np.float32)) @ weight).unflatten(1, (2, 3))


@pytest.fixture
def data() -> ProbeSet:
    rng = np.random.default_rng(0)
    count = TRAIN + TEST
    columns = (rng.uniform(-4, 4, count), rng.uniform(0, 2 * np.pi, count), rng.normal(0, 1, count), np.full(count, 3))
    states = np.stack(columns, axis=1).astype(np.float32)
    frames = frames_of(states)
    return ProbeSet(
        frames[:TRAIN], states[:TRAIN], np.arange(TRAIN) // 30, frames[TRAIN:], states[TRAIN:], NAMES
    )  # fmt: skip


def read(text: str, data: ProbeSet) -> StateGoalReader:
    goal = parse_goal(text, NAMES)
    assert not isinstance(goal, FrameGoal)
    return read_goal(text, goal, data, encode, device=torch.device("cpu"), seed=0)


def test_a_region_costs_the_true_distance_in_standard_deviations(data: ProbeSet) -> None:
    reader = read("region:x=-1..1.5", data)
    x = data.test_states[:, 0]
    wanted = np.maximum(np.maximum(-1 - x, x - 1.5), 0) / data.train_states[:, 0].std()
    np.testing.assert_allclose(reader.region.cost(encode(data.test_frames)), wanted, atol=0.03)
    assert list(reader.r2) == ["x"]
    assert reader.r2["x"] == pytest.approx(1.0, abs=0.01)


def test_a_state_sets_sine_and_cosine_of_an_angle(data: ProbeSet) -> None:
    reader = read("state:x=1,arm_angle=7", data)
    x, angle = data.test_states[:, 0], data.test_states[:, 1]
    train = data.train_states[:, 1]
    parts = (
        (x - 1) / data.train_states[:, 0].std(),
        (np.sin(angle) - np.sin(7)) / np.sin(train).std(),
        (np.cos(angle) - np.cos(7)) / np.cos(train).std(),
    )
    np.testing.assert_allclose(reader.region.cost(encode(data.test_frames)), np.linalg.norm(parts, axis=0), atol=0.05)
    assert list(reader.r2) == ["x", "arm_angle (sine)", "arm_angle (cosine)"]


def test_the_state_is_read_by_name(data: ProbeSet) -> None:
    state = read("state:x=1", data).read(encode(data.test_frames)[7])
    assert list(state) == ["x", "arm_angle", "hidden"]  # what never varies is not read
    assert state["x"] == pytest.approx(data.test_states[7, 0], abs=0.05)
    turn = state["arm_angle"] - data.test_states[7, 1]
    assert np.cos(turn) == pytest.approx(1.0, abs=1e-3)


def test_what_cannot_be_seen_has_no_r2(data: ProbeSet) -> None:
    reader = read("region:hidden=0..1,x=0..", data)
    hidden = reader.r2["hidden"]
    assert hidden is not None
    assert hidden < 0.2
    assert list(reader.r2) == ["x", "hidden"]
    constant = dataclasses.replace(data, test_states=np.ones_like(data.test_states))
    assert read("state:x=1", constant).r2 == {"x": None}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("region:arm_angle=0..1", r"arm_angle is an angle, .* has no range; leave it out, or .* state:arm_angle=0\.5"),
        ("state:fixed=3", r"fixed is the same in all training frames, so it has no probe; leave it out"),
        ("state:0,0,0,3", r"fixed is the same"),
    ],
)
def test_a_goal_that_no_probe_reads_is_refused(data: ProbeSet, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^goal={text}: {told}"):
        read(text, data)


def test_frames_are_counted_in_their_episode(tmp_path: Path) -> None:
    store = moving_dot(tmp_path / "store", episodes=3, length=5)
    assert frame_index(FrameGoal(2, 4), store, "frame:2:4", "goal") == 14
    with pytest.raises(ValueError, match=r"start=frame:3:0: .* has no such episode; use 0 to 2"):
        frame_index(FrameGoal(3, 0), store, "frame:3:0", "start")
    with pytest.raises(ValueError, match=r"goal=frame:1:5: episode 1 has no such frame; use 0 to 4"):
        frame_index(FrameGoal(1, 5), store, "frame:1:5", "goal")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return moving_dot(tmp_path / "store", episodes=3, length=5)


def turned(text: str, store: Store) -> Any:
    """Turn two starts to a goal of Two-Room, whose state has the store's names; also return what was asked to read."""
    asked: list[Any] = []

    def reader(goal: StateGoal | RegionGoal) -> StateGoalReader:
        asked.append(goal)
        return StateGoalReader("the region", {"x": 0.9}, lambda tokens: {})  # pyright: ignore[reportArgumentType]

    start = np.array([[0.2, 0.2], [0.8, 0.8]], dtype=np.float32)
    starts = Starts(np.arange(2), start, start + 9, np.full((2, 32, 32, 3), 7, np.uint8))
    task = TwoRoom(32)
    return aim(text, lambda rule: starts, task, store, reader, rule=task.rule("standard")), asked


def states(*positions: tuple[float, float]) -> NDArray[np.float32]:
    """Give each of two episodes a way (2, L, 2) through the same positions."""
    return np.repeat(np.array(positions, dtype=np.float32)[None], 2, axis=0)


def test_a_frame_is_pursued_by_its_picture_and_met_by_its_state(store: Store) -> None:
    aimed, asked = turned("frame:1:2", store)
    assert store.states is not None
    assert asked == []
    assert aimed.starts.region is None
    np.testing.assert_array_equal(aimed.starts.goal_frame, np.repeat(store.frames[7][None], 2, axis=0))
    np.testing.assert_array_equal(aimed.starts.goal_state, np.repeat(store.states[7][None], 2, axis=0))
    assert aimed.report == {"text": "frame:1:2", "kind": "frame"}


def test_a_state_is_met_within_the_tolerance_of_the_task(store: Store) -> None:
    aimed, asked = turned("state:y=0.5,x=0.3", store)
    assert asked == [StateGoal({"x": 0.3, "y": 0.5})]
    assert aimed.starts.region == "the region"
    np.testing.assert_allclose(aimed.starts.goal_state, [[0.3, 0.5]] * 2)
    task = TwoRoom(32)
    np.testing.assert_array_equal(aimed.starts.goal_frame[1], task.render_states(np.array([[0.3, 0.5]]))[0])
    np.testing.assert_array_equal(aimed.judge(states((0.35, 0.5), (0.5, 0.3))), [[True, False]] * 2)
    assert aimed.report == {"text": "state:y=0.5,x=0.3", "kind": "state", "r2": {"x": 0.9}}


@pytest.mark.parametrize("text", ["state:y=0.5,x=0.3", "region:x=0.25..0.35"])
def test_starts_are_drawn_by_a_rule_that_knows_the_goal(store: Store, text: str) -> None:
    rules: list[Rule] = []
    here = np.array([[0.2, 0.2], [0.8, 0.8], [0.3, 0.5]], dtype=np.float32)
    starts = Starts(np.arange(3), here, here, np.zeros((3, 32, 32, 3), np.uint8))

    def draw(rule: Rule) -> Starts:
        rules.append(rule)
        return starts

    def reader(goal: StateGoal | RegionGoal) -> StateGoalReader:
        return StateGoalReader("the region", {}, lambda tokens: {})  # pyright: ignore[reportArgumentType]

    task = TwoRoom(32)
    aimed = aim(text, draw, task, store, reader, rule=task.rule("strict"))
    (rule,) = rules
    assert aimed.judge.rule is rule
    assert rule.inside(here, here).tolist() == [False, False, True]  # whatever the frame ahead was
    assert rule.legal is not None
    if text.startswith("state"):  # from the other room alone
        assert rule.counts is not None
        assert rule.counts(here, here).tolist() == [False, True, False]
    else:
        assert rule.counts is None


def test_a_region_is_met_by_the_true_state_inside(store: Store) -> None:
    aimed, asked = turned("region:x=0.25..0.35", store)
    assert asked == [RegionGoal({"x": (0.25, 0.35)})]
    np.testing.assert_array_equal(aimed.judge(states((0.3, 0.9), (0.36, 0.5))), [[True, False]] * 2)
    assert np.isnan(aimed.starts.goal_state).all()
    assert not aimed.starts.goal_frame.any()
    np.testing.assert_array_equal(aimed.starts.state[:, 0], np.array([0.2, 0.8], dtype=np.float32))
    assert aimed.report["kind"] == "region"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("state:x=0.3", r"leaves y open, so the task cannot tell success; give all variables, or a region"),
        ("state:0.5,0.1", r"is no possible state: .*the disc would stand in a wall"),
        ("frame:9:0", r"has no such episode; use 0 to 2"),
        ("state:z=1", r"give some of x, y"),
    ],
)
def test_goals_whose_success_nobody_can_tell_are_refused(store: Store, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^goal={text}: .*{told}"):
        turned(text, store)


def test_a_goal_of_an_angle_in_degrees(data: ProbeSet) -> None:
    def in_degrees(states: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([states[:, :1], states[:, 1:2] * (180 / np.pi), states[:, 2:]], axis=1)

    degrees = ProbeSet(data.train_frames, in_degrees(data.train_states), data.train_episode, data.test_frames,
                       in_degrees(data.test_states), data.names)  # fmt: skip
    tokens = encode(data.test_frames)
    mine, wanted = (read(f"state:arm_angle={goal}", of) for goal, of in ((90, degrees), (np.pi / 2, data)))
    np.testing.assert_allclose(mine.region.cost(tokens), wanted.region.cost(tokens), atol=1e-3)
    for k in range(5):
        assert mine.read(tokens[k])["arm_angle"] == pytest.approx(degrees.test_states[k, 1], abs=2.0)
