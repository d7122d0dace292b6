"""The arm: its servos against a solved equation, its noise, what counts as held, and its pictures."""

import numpy as np
import pytest

from lewm.envs import make_task
from lewm.envs.arm import BASE, LIMITS, REACH, Arm, joint_places


@pytest.fixture(scope="module")
def task() -> Arm:
    return Arm(64)


def at_rest(*angles: float) -> np.ndarray:
    return np.array([*angles, 0.0, 0.0], dtype=np.float32)


def test_a_servo_follows_its_target_with_a_lag(task: Arm) -> None:
    target = np.array([0.3, -0.1])  # near enough that the limit of speed does not matter
    way = task.simulate(at_rest(0.0, 0.0)[None], np.tile(target, (1, 12, 1)))[0, :, :2]
    time = 0.1 * np.arange(1, 13)[:, None]
    solved = target * (1.0 - (1.0 + 10.0 * time) * np.exp(-10.0 * time))  # critically damped, from rest
    np.testing.assert_allclose(way, solved, atol=0.015)
    assert way[0, 0] < 0.15  # most of the move is still to come after one step
    np.testing.assert_allclose(way[-1], target, atol=0.02)


def test_no_servo_is_faster_than_it_can(task: Arm) -> None:
    way = task.simulate(at_rest(-2.0, 2.0)[None], np.array([[[2.0, -2.0]] * 20]))[0, :, :2]
    assert np.abs(np.diff(way, axis=0)).max() < 0.4 + 0.02
    np.testing.assert_allclose(way[-1], [2.0, -2.0], atol=0.05)


def test_noise_is_small_random_and_drawn_by_state_and_action_alone(task: Arm) -> None:
    states = np.random.default_rng(0).uniform(-1, 1, (4000, 4)).astype(np.float32)
    states[:, 2:] = 0
    after = task.simulate(states, states[:, None, :2])[:, 0]  # told to be where it is
    noise = after[:, :2].astype(np.float64) - states[:, :2]
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=3e-4)
    np.testing.assert_allclose(noise.std(0), 0.003, rtol=0.05)
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < 0.06 * 0.003**2
    np.testing.assert_array_equal(task.simulate(states[:5], states[:5, None, :2])[:, 0], after[:5])
    zero = np.zeros((2, 4), dtype=np.float32)
    zero[1] = -0.0  # another sign, the same state
    both = task.simulate(zero, np.zeros((2, 1, 2)))
    np.testing.assert_array_equal(both[0], both[1])


def test_targets_beyond_the_limits_are_cut(task: Arm) -> None:
    way = task.simulate(at_rest(2.5, 2.3)[None], np.array([[[9.0, 9.0]] * 20]))[0, -1, :2]
    np.testing.assert_allclose(way, LIMITS, atol=0.02)
    np.testing.assert_allclose(task.action_space.high, LIMITS)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="a joint is beyond its limit"):
        task.set_state(at_rest(2.8, 0.0))


def test_success_is_the_tip_within_three_per_cent_of_the_reach(task: Arm) -> None:
    stretched = at_rest(0.0, 0.0)
    assert task.success(at_rest(0.029, 0.0), stretched)  # stretched out, a radian of the shoulder is the reach
    assert not task.success(at_rest(0.031, 0.0), stretched)
    assert task.success(at_rest(0.0, 0.05), stretched)  # the elbow moves the tip less
    assert not task.success(at_rest(0.0, 0.08), stretched)
    assert task.distance(at_rest(0.1, -0.2), stretched) == pytest.approx(0.2)
    assert task.hold == 10


def test_moving_straight_is_to_command_the_goals_angles(task: Arm) -> None:
    goal = at_rest(1.0, -0.5)[None]
    np.testing.assert_array_equal(task.straight_action(at_rest(0.0, 0.0)[None], goal), goal[:, :2])
    np.testing.assert_array_equal(task.command(goal), goal[:, :2])


def test_the_picture_shows_the_tip_where_it_is(task: Arm) -> None:
    states = np.random.default_rng(1).uniform(-2, 2, (20, 4)).astype(np.float32)
    frames = task.render_states(states).astype(int)
    red = (frames[..., 0] > 170) & (frames[..., 1] < 60)
    for mask, place in zip(red, task.place(states), strict=True):
        rows, columns = np.nonzero(mask)
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], place, atol=0.6)
    np.testing.assert_allclose(joint_places(at_rest(0.0, 0.0))[2], [BASE[0] + REACH, BASE[1]])


def test_pictures_do_not_depend_on_those_beside_them(task: Arm) -> None:
    states = np.random.default_rng(2).uniform(-2, 2, (70, 4)).astype(np.float32)
    frames = task.render_states(states)
    np.testing.assert_array_equal(task.render_states(states[66:67])[0], frames[66])


def test_its_own_size_of_pictures() -> None:
    assert make_task("arm").image_size == 96
    assert make_task("arm", 48).image_size == 48
    assert make_task("two-room").image_size == 64


def test_behaviour_moves_rests_and_makes_small_moves(task: Arm) -> None:
    changes = []
    for seed in range(6):
        task.reset(seed=seed)
        behaviour, actions = task.behaviour(seed), []
        for _ in range(100):
            actions.append(behaviour.act(task))
            task.advance(actions[-1])
        changes.append(np.abs(np.diff(actions, axis=0)).max(axis=1))
    largest = np.concatenate(changes)
    assert largest.max() < 0.5
    assert 0.2 < (largest > 0.15).mean() < 0.4
    assert 0.4 < (largest < 0.1).mean() < 0.65
