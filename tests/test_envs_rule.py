"""What success is under each protocol, task by task."""

from typing import Any

import numpy as np
import pytest

from lewm.envs import TASKS, Arm, PushT, TwoRoom, TwoRoomDiscrete, make_task
from lewm.envs.two_room import STEP


def available(name: str) -> Any:
    try:
        return make_task(name, 16)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", TASKS)
def test_standard_is_the_success_of_the_task(name: str) -> None:
    task = available(name)
    rule = task.rule("standard")
    assert (rule.steps, rule.at_end) == (max(task.hold, 1), task.hold > 0)
    assert rule.legal is rule.counts is None
    rng = np.random.default_rng(0)
    states = np.stack([task._draw_initial_state(rng) for _ in range(30)])
    near = states + rng.normal(0, 0.02, states.shape).astype(np.float32)
    for goals in (near, states[:, None]):
        np.testing.assert_array_equal(rule.inside(near, goals), task.success(near, goals))


@pytest.mark.parametrize("name", TASKS)
def test_strict_is_no_easier_in_time_and_moderate_is_as_long(name: str) -> None:
    task = available(name)
    standard, moderate, strict = (task.rule(protocol) for protocol in ("standard", "moderate", "strict"))
    assert (moderate.steps, moderate.at_end) == (standard.steps, standard.at_end)
    assert strict.steps >= standard.steps
    steps = {"two-room": 1, "two-room-discrete": 1, "push-t": 3, "reacher": 2, "arm": 10}
    assert strict.steps == steps[name]
    assert strict.at_end == (name == "arm")  # held


@pytest.mark.parametrize("name", TASKS)
def test_a_pose_names_variables_of_the_state(name: str) -> None:
    task = TASKS[name]
    assert task.pose
    for part in task.pose:
        assert set(part.entries) <= set(task.state_names)
        assert part.step > 0


def push_t(**changes: float) -> np.ndarray:
    state = dict.fromkeys(PushT.state_names, 0.0) | {"agent_x": 100, "agent_y": 100, "block_x": 250, "block_y": 250}
    return np.array(list((state | changes).values()), dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "moderate", "strict"),
    [
        ({}, True, True),
        ({"agent_x": 119}, True, True),
        ({"agent_x": 400}, False, True),  # the disc is ignored
        ({"block_x": 259}, True, True),
        ({"block_x": 256, "block_y": 258.5}, True, False),  # 10.4 units
        ({"block_x": 271}, False, False),
        ({"agent_x": 115, "block_x": 265}, False, False),  # 21 units together
        ({"block_angle": np.radians(9)}, True, True),
        ({"block_angle": np.radians(11)}, True, False),
        ({"block_angle": 2 * np.pi - np.radians(9)}, True, True),  # it comes round
        ({"block_angle": np.radians(21)}, False, False),
    ],
)
def test_push_t(change: dict[str, float], moderate: bool, strict: bool) -> None:
    task = PushT(16)
    for protocol, reached in (("moderate", moderate), ("strict", strict)):
        assert task.rule(protocol).inside(push_t(**change), push_t()) == reached  # pyright: ignore[reportArgumentType]


def test_two_room_is_closer_by_strict() -> None:
    task, goal = TwoRoom(16), np.array([0.2, 0.2])
    near, nearer = np.array([0.24, 0.2]), np.array([0.234, 0.2])
    assert task.rule("moderate").inside(near, goal)
    assert not task.rule("strict").inside(near, goal)
    assert task.rule("strict").inside(nearer, goal)


@pytest.mark.parametrize("task_class", [TwoRoom, TwoRoomDiscrete])
@pytest.mark.parametrize("protocol", ["moderate", "strict"])
def test_only_ways_from_room_to_room_count(task_class: type[TwoRoom], protocol: Any) -> None:
    counts = task_class(16).rule(protocol).counts
    assert counts is not None
    left, right, door = np.array([0.2, 0.5]), np.array([0.9, 0.2]), np.array([0.48, 0.5])
    assert counts(left, right)
    assert counts(right, left)
    assert not counts(left, np.array([0.4, 0.9]))
    assert not counts(left, door)
    assert not counts(door, right)


def two_room_moves(starts: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the states before and after each true move."""
    way = TwoRoom(16).simulate(starts, actions)
    return np.concatenate([starts[:, None], way[:, :-1]], axis=1), way


def test_every_true_move_of_two_room_is_legal() -> None:
    legal, rng = TwoRoom(16).rule("strict").legal, np.random.default_rng(0)
    assert legal is not None
    starts = rng.uniform((0.3, 0.25), (0.7, 0.75), (20000, 2)).astype(np.float32)  # around the door and its posts
    starts = np.stack([start for start in starts if TwoRoom(16).possible(start)])
    actions = rng.uniform(-1, 1, (len(starts), 6, 2))
    actions = np.where(rng.random((len(starts), 1, 1)) < 0.5, np.sign(actions), actions)
    assert legal(*two_room_moves(starts, actions)).all()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((0.41, 0.2), (0.45, 0.2)),  # into the wall
        ((0.5, 0.5), (0.5, 0.42)),  # further than an action moves it
        ((0.5, 0.44), (0.5, 0.405)),  # through a post of the door
        ((0.4, 0.2), (0.6, 0.2)),  # to the other side
        ((0.06, 0.2), (0.03, 0.2)),  # over the border
    ],
)
def test_what_no_action_does_is_not_legal(before: tuple[float, float], after: tuple[float, float]) -> None:
    legal = TwoRoom(16).rule("strict").legal
    assert legal is not None
    assert not legal(np.array(before), np.array(after))
    assert legal(np.array([0.45, 0.5]), np.array([0.45 + STEP, 0.5]))


def test_the_arm_is_held_under_every_protocol() -> None:
    task = Arm(16)
    stretched = np.zeros(4)
    for protocol in ("standard", "moderate", "strict"):
        inside = task.rule(protocol).inside
        assert inside(np.array([0.029, 0, 0, 0]), stretched)
        assert not inside(np.array([0.031, 0, 0, 0]), stretched)


def test_the_reacher_turns_the_short_way_and_is_judged_by_its_tip() -> None:
    task = available("reacher")
    goal = np.array([np.pi - 0.01, 0.0, 0, 0])
    moderate, strict = task.rule("moderate").inside, task.rule("strict").inside
    assert moderate(np.array([-np.pi + 0.01, 0.0, 0, 0]), goal)  # 0.02 radians, and not a turn
    assert not moderate(np.array([np.pi - 0.07, 0.0, 0, 0]), goal)
    # stretched out, the tip is 0.24 m from the shoulder, so 0.04 radians are 9.6 mm and 0.044 are 10.6
    assert strict(np.array([np.pi - 0.05, 0.0, 0, 0]), goal)
    assert not strict(np.array([np.pi - 0.054, 0.0, 0, 0]), goal)
    # bent far back, the tip is near the shoulder, which then may turn further
    bent = np.array([0.0, 2.7, 0, 0])
    turned = np.array([0.1, 2.7, 0, 0])
    assert strict(turned, bent)
    assert not moderate(turned, bent)


def test_a_state_is_possible_or_not_and_the_task_stays_where_it_is() -> None:
    task = TwoRoom(16)
    before = task.state
    assert task.possible(np.array([0.9, 0.9]))
    assert not task.possible(np.array([0.5, 0.2]))
    np.testing.assert_array_equal(task.state, before)
    block = PushT(16)
    assert block.possible(push_t())
    assert not block.possible(push_t(agent_x=250, agent_y=260))  # in the block
    assert not block.possible(push_t(agent_x=5))  # in the wall
    assert not block.possible(push_t(block_x=3))
