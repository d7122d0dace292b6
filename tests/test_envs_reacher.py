"""Reacher against dm_control's own environment, and against its success rule by hand."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from lewm.envs import Reacher, make_task

needs_mujoco = pytest.mark.skipif(
    importlib.util.find_spec("dm_control") is None, reason="dm_control is not installed; it is in the extra `mujoco`"
)


@pytest.fixture(scope="module")
def task() -> Reacher:
    if importlib.util.find_spec("dm_control") is None:
        pytest.skip("dm_control is not installed; it is in the extra `mujoco`")
    return Reacher(64)


def state(**values: float) -> np.ndarray:
    """Return a state at rest with the arm stretched to the right, but for the named values."""
    return np.array([values.get(name, 0.0) for name in Reacher.state_names])


def roll(task: Reacher, seed: int, steps: int) -> np.ndarray:
    """Return the states (steps + 1, 4) of the behaviour policy."""
    task.reset(seed=seed)
    behaviour, states = task.behaviour(seed), [task.state]
    for _ in range(steps):
        task.advance(behaviour.act(task))
        states.append(task.state)
    return np.stack(states)


def turned(states: np.ndarray, apart: int) -> np.ndarray:
    """Return the larger of both joints' turns over some steps, in radians."""
    offset = np.abs(states[apart:, :2] - states[:-apart, :2])
    return np.maximum(np.minimum(offset[:, 0], 2 * np.pi - offset[:, 0]), offset[:, 1])


def test_one_action_is_one_step_of_dm_control_s(task: Reacher) -> None:
    from dm_control.suite import reacher  # pyright: ignore[reportMissingImports]

    env = reacher.easy(random=0)
    env.reset()
    with env.physics.reset_context():
        env.physics.data.qpos[:], env.physics.data.qvel[:] = (0.5, 2.0), 0.0
    actions = np.random.default_rng(0).uniform(-0.2, 1.0, (40, 2))
    path = []
    for action in actions:
        env.step(action)
        path.append([*env.physics.data.qpos, *env.physics.data.qvel])
    ours = task.simulate(state(shoulder=0.5, wrist=2.0)[None], actions[None])[0]
    theirs = np.array(path)
    assert theirs[:, 1].max() > 2.75  # it meets the wrist's limit
    np.testing.assert_allclose(np.exp(1j * ours[:, 0]), np.exp(1j * theirs[:, 0]), atol=1e-4)
    np.testing.assert_allclose(ours[:, 1:], theirs[:, 1:], atol=1e-3)


def test_result_does_not_depend_on_what_was_simulated_before(task: Reacher) -> None:
    rng = np.random.default_rng(1)
    starts = np.stack([state(shoulder=i, wrist=2.5, wrist_velocity=4.0) for i in range(4)])
    actions = rng.uniform(-1.0, 1.0, (4, 10, 2))
    together = task.simulate(starts, actions)
    for i in range(4):
        np.testing.assert_array_equal(Reacher(16).simulate(starts[i : i + 1], actions[i : i + 1])[0], together[i])


def test_wrist_is_held_and_shoulder_goes_round(task: Reacher) -> None:
    path = task.simulate(state()[None], np.tile((-1.0, 1.0), (1, 100, 1)))[0]
    assert np.radians(160.0) < path[:, 1].max() < np.pi
    assert np.unwrap(path[:, 0])[-1] < -2.0 * np.pi
    assert np.abs(path[:, 0]).max() <= np.pi


def test_actions_are_clipped(task: Reacher) -> None:
    one, more = (task.simulate(state()[None], np.full((1, 5, 2), size)) for size in (1.0, 3.0))
    np.testing.assert_array_equal(one, more)


@needs_mujoco
def test_wrist_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^state=.*: the wrist turns by up to 160 degrees; keep it within 2.79"):
        Reacher(16).set_state(state(wrist=3.2))


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({}, True),
        ({"shoulder": 0.049, "wrist": -0.049}, True),
        ({"shoulder": 0.051}, False),
        ({"wrist": 0.051}, False),
        ({"wrist": -0.051}, False),
        ({"shoulder": 2.0 * np.pi - 0.02}, True),
        ({"shoulder_velocity": 5.0}, True),
    ],
)
def test_success_is_both_angles_within_the_tolerance(task: Reacher, change: dict[str, float], reached: bool) -> None:
    assert task.success(state(**change), state()) == reached
    assert (task.distance(state(**change), state()) < 1.0) == reached


def test_distance_by_hand(task: Reacher) -> None:
    assert task.distance(state(shoulder=0.2, wrist=0.5), state()) == pytest.approx(0.5 / 0.05)
    assert task.distance(state(shoulder=3.1), state(shoulder=-3.1)) == pytest.approx((2.0 * np.pi - 6.2) / 0.05)
    assert task.distance(state(wrist=2.7), state(wrist=-2.7)) == pytest.approx(5.4 / 0.05)


def test_frame_shows_the_arm_and_no_target(task: Reacher) -> None:
    right, up = task.render_states(np.stack([state(), state(shoulder=np.pi / 2)])).astype(int)

    def is_arm(frame: np.ndarray, row: int, column: int) -> bool:
        return frame[row, column, 0] > frame[row, column, 2] + 20

    # The links end 0.12 and 0.22 from the middle of the frame, which shows 0.31 to every side.
    assert is_arm(right, 32, 40)
    assert is_arm(right, 32, 52)
    assert is_arm(up, 24, 32)
    assert is_arm(up, 12, 32)
    assert not is_arm(right, 24, 32)
    # dm_control's target, with radius 0.05, would hide the joint of the shoulder.
    assert right[32, 30, 2] > right[32, 30, 0]
    assert not is_arm(right, 34, 32)


def test_a_small_turn_is_seen_and_no_pixel_jumps(task: Reacher) -> None:
    """The tolerance is about a pixel: the frame must change with the angle, not from time to time."""
    states = np.stack([state(shoulder=0.3, wrist=wrist) for wrist in np.linspace(0.0, 0.05, 51)])
    frames = task.render_states(states).astype(int)
    assert np.abs(frames[-1] - frames[0]).max() > 60
    assert np.abs(np.diff(frames, axis=0)).max() < 30


@needs_mujoco
def test_nothing_is_said_at_the_end_of_the_process() -> None:
    code = "from lewm.envs import Reacher\ntask, other = Reacher(16), Reacher(32)\ntask.reset()\nother.reset()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_initial_states_vary(task: Reacher) -> None:
    states = np.stack([task.reset(seed=seed)[1]["state"] for seed in range(60)])
    assert len(np.unique(np.floor(states[:, 0] / (np.pi / 2)))) == 4
    assert states[:, 1].min() < -2.2
    assert states[:, 1].max() > 2.2
    np.testing.assert_array_equal(states[:, 2:], 0.0)


def test_behaviour_turns_the_arm_everywhere_and_smoothly(task: Reacher) -> None:
    episodes = [roll(task, seed, 100) for seed in range(30)]
    assert 0.7 < np.median(np.concatenate([turned(states, 25) for states in episodes])) < 1.3
    assert 0.03 < np.median(np.concatenate([turned(states, 1) for states in episodes])) < 0.07
    states = np.concatenate(episodes)
    counts, *_ = np.histogram2d(states[:, 0], states[:, 1], bins=6, range=((-np.pi, np.pi), (-2.8, 2.8)))
    assert (counts > 0).mean() > 0.9
    assert counts.sum(0).min() > 0.04 * counts.sum()


@needs_mujoco
def test_dynamics_need_nothing_to_draw_with() -> None:
    code = (
        "import numpy as np\nfrom lewm.envs import Reacher\ntask = Reacher(16)\n"
        "assert task.simulate(np.zeros((1, 4)), np.ones((1, 3, 2))).all()\n"
        "try:\n    task.render()\nexcept ValueError as error:\n    print(error)"
    )
    environment = os.environ | {"MUJOCO_GL": "disable"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("MUJOCO_GL=disable: MuJoCo cannot draw with it"), done.stderr


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ValueError, match=r"^task=reacher: cannot import mujoco .*; pip install 'lewm\[mujoco\]'$"):
        make_task("reacher")
