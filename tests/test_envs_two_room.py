"""Two-Room against plain geometry: walls, the shortest way, the drawn disc, coverage of the behaviour."""

from itertools import pairwise

import numpy as np
import pytest

from lewm.envs import TwoRoom, TwoRoomDiscrete

RADIUS, STEP = 0.05, 0.04
DOOR = (0.43, 0.57)  # where the disc's centre passes the wall


def free_positions(count: int, *, seed: int = 0) -> np.ndarray:
    task = TwoRoom()
    return np.stack([task.reset(seed=seed + i)[1]["state"] for i in range(count)])


def overlap(position: np.ndarray) -> np.ndarray:
    """Return how deep discs (..., 2) are in one of the wall's rectangles: the naive distance to each."""
    depth = []
    for low, high in (((0.47, 0.0), (0.53, 0.38)), ((0.47, 0.62), (0.53, 1.0))):
        depth.append(RADIUS - np.linalg.norm(position - np.clip(position, low, high), axis=-1))
    return np.max(depth, axis=0)


def go(start: tuple[float, float], action: tuple[float, float], steps: int) -> np.ndarray:
    return TwoRoom().simulate(np.array([start]), np.tile(action, (1, steps, 1)))[0]


def test_free_move_adds_the_action() -> None:
    np.testing.assert_allclose(go((0.2, 0.3), (1.0, -0.5), 3)[-1], (0.32, 0.24), atol=1e-6)


def test_action_is_clipped() -> None:
    np.testing.assert_allclose(go((0.2, 0.3), (9.0, 0.0), 1)[-1], (0.24, 0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((0.30, 0.2), (1.0, 0.0), (0.42, 0.2)),  # against the wall
        ((0.70, 0.2), (-1.0, 0.0), (0.58, 0.2)),  # against it from the other room
        ((0.30, 0.9), (1.0, -0.5), (0.42, 0.7)),  # along it
        ((0.20, 0.2), (-1.0, -1.0), (0.05, 0.05)),  # into a corner
        ((0.50, 0.5), (0.0, 1.0), (0.5, 0.57)),  # against the door's post
        ((0.30, 0.5), (1.0, 0.0), (0.7, 0.5)),  # through the door
    ],
)
def test_walls_stop_and_let_slide(
    start: tuple[float, float], action: tuple[float, float], end: tuple[float, float]
) -> None:
    np.testing.assert_allclose(go(start, action, 10)[-1], end, atol=1e-6)


def test_random_walks_never_enter_a_wall_nor_tunnel() -> None:
    rng = np.random.default_rng(0)
    start = free_positions(64)
    # Large held actions press hard against every wall.
    actions = np.repeat(rng.uniform(-2.0, 2.0, (64, 20, 2)), 10, axis=1)
    path = np.concatenate([start[:, None], TwoRoom().simulate(start, actions)], axis=1).astype(float)
    assert overlap(path).max() < 1e-5
    assert path.min() > RADIUS - 1e-6
    assert path.max() < 1.0 - RADIUS + 1e-6
    # Sliding round a door post turns the move; it must not lengthen it (but for the substeps' size).
    assert np.linalg.norm(np.diff(path, axis=1), axis=-1).max() < 1.01 * np.sqrt(2.0) * STEP
    before, after = path[:, :-1], path[:, 1:]
    crossing = (before[..., 0] < 0.5) != (after[..., 0] < 0.5)
    assert crossing.sum() > 10
    heights = np.stack([before[crossing, 1], after[crossing, 1]])
    assert heights.min() > DOOR[0] - STEP
    assert heights.max() < DOOR[1] + STEP


def go_straight(task: TwoRoom, start: tuple[float, float], goal: tuple[float, float], steps: int) -> np.ndarray:
    """Return the way (steps + 1, 2) of moving straight."""
    way = [np.array([start], dtype=np.float32)]
    for _ in range(steps):
        way.append(task.simulate(way[-1], task.straight_action(way[-1], np.array([goal]))[:, None])[:, 0])
    return np.concatenate(way)


def test_straight_way_is_a_line_at_full_speed_and_ends_at_the_goal() -> None:
    way = go_straight(TwoRoom(), (0.1, 0.9), (0.4, 0.8), 9)
    np.testing.assert_allclose(way[:, 1] - 0.9, -(way[:, 0] - 0.1) / 3, atol=1e-6)
    np.testing.assert_allclose(way[:8, 0], 0.1 + STEP * np.arange(8), atol=1e-6)
    np.testing.assert_allclose(way[-1], (0.4, 0.8), atol=1e-6)


@pytest.mark.parametrize("kind", [TwoRoom, TwoRoomDiscrete])
def test_straight_way_minds_no_wall(kind: type[TwoRoom]) -> None:
    task = kind()
    assert task.success(go_straight(task, (0.2, 0.5), (0.8, 0.5), 50)[-1], (0.8, 0.5))  # through the door
    stuck = go_straight(task, (0.2, 0.1), (0.8, 0.2), 50)
    np.testing.assert_allclose(stuck[-1, 0], 0.42, atol=0.04)  # against the wall
    assert not task.success(stuck, (0.8, 0.2)).any()


def test_straight_discrete_actions_take_the_axis_with_more_left() -> None:
    goals = np.array([(0.1, 0.5), (0.9, 0.5), (0.25, 0.1), (0.3, 0.9), (0.265, 0.485)])
    actions = TwoRoomDiscrete().straight_action(np.tile((0.25, 0.5), (5, 1)), goals)
    np.testing.assert_array_equal(actions, [1, 2, 3, 4, 0])


def test_set_state_refuses_walls() -> None:
    for bad in ((0.5, 0.2), (0.44, 0.8), (0.02, 0.5), (0.5, 0.59), (1.5, 0.5)):
        with pytest.raises(ValueError, match=r"state=.*: the disc would stand in a wall; keep 0.05 away from walls"):
            TwoRoom().set_state(bad)


def test_initial_states_cover_both_rooms_and_no_wall() -> None:
    start = free_positions(300)
    assert overlap(start).max() < 1e-5
    cells = np.unique(np.floor(start * 4).astype(int), axis=0)
    assert len(cells) == 16
    assert 0.4 < (start[:, 0] < 0.5).mean() < 0.6


def test_success_within_the_published_distance() -> None:
    goal = np.array([0.3, 0.3])
    np.testing.assert_array_equal(TwoRoom().success([(0.3, 0.369), (0.371, 0.3), (0.35, 0.35)], goal), [1, 0, 0])


def test_distance_is_the_best_way_through_the_door() -> None:
    # The naive way: try every pair of points at which the wall's two faces may be passed.
    states, goals = free_positions(40), free_positions(40, seed=500)
    heights = np.linspace(*DOOR, 281)
    first, second = np.meshgrid(heights, heights, indexing="ij")
    for start, end in zip(states.astype(float), goals.astype(float), strict=True):
        left, right = sorted((start, end), key=lambda p: p[0])
        if left[0] < 0.47 and right[0] > 0.53:
            points = (left, np.stack([np.full_like(first, 0.47), first], -1),
                      np.stack([np.full_like(second, 0.53), second], -1), right)  # fmt: skip
            expected = np.min(sum((np.linalg.norm(b - a, axis=-1) for a, b in pairwise(points)), np.zeros(())))
        elif left[0] < 0.47 < right[0] or left[0] < 0.53 < right[0]:
            continue  # one of them stands in the door
        else:
            expected = np.linalg.norm(right - left)
        assert TwoRoom().distance(start, end) == pytest.approx(expected, abs=1e-4)


def test_distance_between_rooms_by_hand() -> None:
    # Both far above the door: to its upper edge, along it, and out again.
    expected = 2 * np.hypot(0.27, 0.33) + 0.06
    assert TwoRoom().distance((0.2, 0.1), (0.8, 0.1)) == pytest.approx(expected, abs=1e-6)
    assert TwoRoom().distance((0.2, 0.5), (0.8, 0.5)) == pytest.approx(0.6, abs=1e-6)


def test_distance_agrees_with_success_nearby() -> None:
    states = free_positions(400)
    distance = TwoRoom().distance(states[:, None], states[None])
    straight = np.linalg.norm(states[:, None] - states[None], axis=-1)
    success = TwoRoom().success(states[:, None], states[None])
    assert (distance >= straight - 1e-6).all()
    np.testing.assert_allclose(distance[success], straight[success], atol=5e-3)
    assert (distance > straight + 0.1).any()


@pytest.mark.parametrize("size", [64, 128, 224])
def test_drawn_disc_has_the_area_and_the_centre_of_the_true_one(size: int) -> None:
    task = TwoRoom(size)
    states = np.array([(0.2, 0.3), (0.2031, 0.7017), (0.31, 0.85)])
    empty = task.render_states(np.array([[0.8, 0.5]]))[0].astype(float)
    pixel = np.arange(size) + 0.5
    for state, frame in zip(states, task.render_states(states).astype(float), strict=True):
        # The share of each pixel that the disc covers, from the green channel in the left room.
        cover = ((empty - frame)[..., 1] / (empty[0, 0, 1] - 30.0))[:, : size * 2 // 5]
        assert cover.sum() == pytest.approx(np.pi * (RADIUS * size) ** 2, rel=0.03)
        centre = np.array([cover.sum(0) @ pixel[: cover.shape[1]], cover.sum(1) @ pixel]) / cover.sum()
        np.testing.assert_allclose(centre, state * size, atol=0.05)


def test_frame_shows_wall_door_and_disc() -> None:
    frame = TwoRoom(64).render_states(np.array([[0.25, 0.75]]))[0].astype(int)
    assert frame[10, 32].max() < 80  # wall
    assert frame[32, 32].min() > 180  # door
    red, green, blue = frame[48, 16]  # row from y, column from x
    assert red > 180
    assert max(green, blue) < 80


def test_disc_at_the_border_is_cut_by_nothing_else() -> None:
    frame = TwoRoom(64).render_states(np.array([[0.05, 0.05]]))[0].astype(int)
    red = (frame[..., 0] - frame[..., 1]) > 60
    assert red[:7, :7].sum() == red.sum() == pytest.approx(np.pi * (RADIUS * 64) ** 2, abs=6)


@pytest.mark.parametrize("kind", [TwoRoom, TwoRoomDiscrete])
def test_behaviour_visits_both_rooms(kind: type[TwoRoom]) -> None:
    task, visited, crossed = kind(), np.zeros((5, 5), dtype=bool), 0
    for seed in range(16):
        task.reset(seed=seed)
        behaviour, states = task.behaviour(seed), []
        for _ in range(100):
            task.advance(behaviour.act(task))
            states.append(task.state)
        path = np.stack(states)
        left = path[:, 0] < 0.5
        crossed += int(left.any() and not left.all())
        visited[tuple(np.floor(path * 5).astype(int).T)] = True
    assert crossed >= 13
    assert visited.sum() >= 23  # of 25, and the wall takes the corners of some


def test_discrete_actions_move_along_the_axes() -> None:
    task = TwoRoomDiscrete()
    ends = task.simulate(np.tile((0.25, 0.5), (5, 1)), np.arange(5)[:, None])[:, 0]
    expected = [(0.25, 0.5), (0.21, 0.5), (0.29, 0.5), (0.25, 0.46), (0.25, 0.54)]
    np.testing.assert_allclose(ends, expected, atol=1e-6)


@pytest.mark.parametrize("action", [-1, 5])
def test_unknown_discrete_action_is_refused(action: int) -> None:
    with pytest.raises(ValueError, match=r"action=.*must be between 0 and 4"):
        TwoRoomDiscrete().step(action)


def test_discrete_behaviour_uses_every_action() -> None:
    task = TwoRoomDiscrete()
    task.reset(seed=0)
    behaviour = task.behaviour(1)
    actions = []
    for _ in range(300):
        actions.append(int(behaviour.act(task)))
        task.advance(actions[-1])
    assert set(actions) == set(range(5))
