"""What every task keeps, by Gymnasium's own checker and by replaying its dynamics."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lewm.envs import TASKS, Task, make_task


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    """One task of each kind, at a small image size."""
    if request.param == "reacher":
        pytest.importorskip("dm_control", reason="dm_control is not installed; it is in the extra `mujoco`")
    return make_task(request.param, 32)


def roll(task: Task, *, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the states (steps + 1, S) and actions (steps, ...) of the task's own behaviour."""
    task.reset(seed=seed)
    behaviour = task.behaviour(seed)
    states, actions = [task.state], []
    for _ in range(steps):
        actions.append(behaviour.act(task))
        task.advance(actions[-1])
        states.append(task.state)
    return np.stack(states), np.stack(actions)


# Joint targets are in radians, which is what they are recorded in.
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized space")
def test_gymnasium_accepts_the_task(task: Task) -> None:
    # The check of other render modes needs a registered environment; there is one mode.
    check_env(task, skip_render_check=True)


def test_observation_and_info(task: Task) -> None:
    frame, info = task.reset(seed=3)
    assert frame.shape == (32, 32, 3)
    assert frame.dtype == np.uint8
    assert info["state"].dtype == np.float32
    assert info["state"].shape == (len(task.state_names),)
    after, reward, terminated, truncated, info = task.step(task.behaviour(0).act(task))
    assert (reward, terminated, truncated) == (0.0, False, False)
    np.testing.assert_array_equal(info["state"], task.state)
    np.testing.assert_array_equal(after, task.render())


def test_seed_decides_the_episode(task: Task) -> None:
    states, actions = roll(task, seed=5, steps=12)
    again, same = roll(make_task(task.name, 32), seed=5, steps=12)
    other, _ = roll(task, seed=6, steps=12)
    np.testing.assert_array_equal(states, again)
    np.testing.assert_array_equal(actions, same)
    assert not np.array_equal(states[0], other[0])


def test_set_state_continues_exactly(task: Task) -> None:
    states, actions = roll(task, seed=2, steps=40)
    task.reset(seed=9)
    task.set_state(states[20])
    np.testing.assert_array_equal(task.state, states[20])
    for t in range(20, 40):
        task.step(actions[t])
        np.testing.assert_array_equal(task.state, states[t + 1])


def test_simulate_is_stepping_for_many_and_leaves_the_task_alone(task: Task) -> None:
    episodes = [roll(task, seed=seed, steps=8) for seed in range(3)]
    task.reset(seed=4)
    before = task.state
    path = task.simulate(np.stack([s[0] for s, _ in episodes]), np.stack([a for _, a in episodes]))
    assert path.dtype == np.float32
    np.testing.assert_array_equal(path, np.stack([s[1:] for s, _ in episodes]))
    np.testing.assert_array_equal(task.state, before)


def test_frames_depend_on_the_state_alone(task: Task) -> None:
    states, _ = roll(task, seed=1, steps=6)
    frames = task.render_states(states)
    assert frames.shape == (7, 32, 32, 3)
    other = make_task(task.name, 32)
    for state, frame in zip(states, frames, strict=True):
        other.set_state(state)
        np.testing.assert_array_equal(other.render(), frame)
    assert len(np.unique(frames.reshape(7, -1), axis=0)) == len(np.unique(states, axis=0)) >= 6


@pytest.mark.parametrize("size", [64, 96, 224])
def test_frames_look_alike_at_every_size(task: Task, size: int) -> None:
    task.reset(seed=1)
    large = make_task(task.name, size).render_states(task.state[None])[0].astype(float)
    np.testing.assert_allclose(large.mean((0, 1)), task.render().mean((0, 1)), atol=3.0)


def test_success_and_distance_broadcast_and_agree_at_the_goal(task: Task) -> None:
    states, _ = roll(task, seed=0, steps=4)
    success, distance = task.success(states[:, None], states[None]), task.distance(states[:, None], states[None])
    assert success.shape == distance.shape == (5, 5)
    assert success.dtype == np.bool_
    assert np.diag(success).all()
    np.testing.assert_array_equal(np.diag(distance), 0.0)
    np.testing.assert_allclose(distance, distance.T)


def test_straight_action_is_of_the_task_and_stays_at_the_goal(task: Task) -> None:
    states = np.stack([task.reset(seed=seed)[1]["state"] for seed in range(4)])
    goals = states[::-1]
    actions = task.straight_action(states, goals)
    assert len(actions) == 4
    for state, goal, action in zip(states, goals, actions, strict=True):
        assert task.action_space.contains(np.int64(action) if action.ndim == 0 else action)
        np.testing.assert_array_equal(task.straight_action(state[None], goal[None])[0], action)
    stay = states
    for _ in range(5):
        stay = task.simulate(stay, task.straight_action(stay, states)[:, None])[:, 0]
    assert task.success(stay, states).all()


def test_place_is_where_the_frame_shows_what_moves(task: Task) -> None:
    # What moves is seen at its place in a frame, and no longer there in a later one.
    states, _ = roll(task, seed=3, steps=40)
    large = make_task(task.name, 128)
    places = large.place(states)
    assert places is not None
    assert places.shape == (41, 2)
    assert ((places >= 0) & (places <= 128)).all()
    first, last = (large.render_states(states[[k]])[0].astype(int) for k in (0, 40))
    assert np.linalg.norm(places[0] - places[40]) > 40
    changed = np.abs(first - last).max(axis=-1) > 30
    for x, y in places[[0, 40]]:
        assert changed[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].any()
    middle = make_task(task.name, 64).place(states)
    assert middle is not None
    np.testing.assert_allclose(places, 2 * middle)


def test_bad_state_is_refused(task: Task) -> None:
    with pytest.raises(ValueError, match=r"state=.*finite numbers; give"):
        task.set_state(np.full(len(task.state_names), np.nan))
    with pytest.raises(ValueError, match=r"state=.*finite numbers; give"):
        task.set_state(np.zeros(len(task.state_names) + 1))


@pytest.mark.parametrize("size", [0, 8, 1024])
def test_bad_image_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size={size}: must be between 16 and 512 pixels; use 64 to 224"):
        make_task("two-room", size)


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^task=two-rom: must be one of .*; did you mean two-room\?$"):
        make_task("two-rom")
    with pytest.raises(ValueError, match=r"did you mean push-t\?"):
        make_task("pusht")
