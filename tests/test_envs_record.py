"""Recording: frames, actions and states as they were, one for one; and only whole episodes, whatever happens."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

import lewm
from lewm.data import Store
from lewm.envs import Recorder, record

SIZE = 8


class Counter(gymnasium.Env):
    """Shows its seed and its step in every pixel, and ends after `length` steps or never.

    Frame, observation and action are arrays that it uses again, as environments do.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, length: int | None = 6, *, actions: Any = None, observations: Any = None) -> None:
        self.length, self.render_mode = length, "rgb_array"
        self.action_space = actions or Box(-1.0, 1.0, (2, 3), np.float32)
        self.observation_space = observations or Box(-np.inf, np.inf, (2,), np.float64)
        self._frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        self._observation = np.zeros(2)
        self.number = self.t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.number, self.t = 0 if seed is None else seed % 251, 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.t += 1
        return self._look(), 0.0, self.t == self.length, False, {}

    def _look(self) -> np.ndarray:
        self._observation[:] = self.number, self.t
        return self._observation

    def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._frame[:] = self.number, self.t, 99
        return self._frame


def act(observation: np.ndarray) -> np.ndarray:
    """Act in a way that tells the step."""
    return np.full((2, 3), observation[1] / 100, np.float32)


def check(store: Store) -> None:
    """Frame, action and state of every row must tell the same step of the same episode."""
    store.validate()
    assert store.states is not None
    for index in range(store.num_episodes):
        rows = store.episode(index)
        steps, number = np.arange(rows.stop - rows.start), store.episodes.seed[index] % 251
        assert (store.frames[rows] == np.stack([np.full_like(steps, number), steps, np.full_like(steps, 99)], 1)[
            :, None, None
        ]).all()  # fmt: skip
        np.testing.assert_array_equal(store.states[rows], np.stack([np.full_like(steps, number), steps], 1))
        np.testing.assert_allclose(store.actions[rows], np.repeat(steps[:, None] / 100, 6, 1))


def test_round_trip(tmp_path: Path) -> None:
    store = record(Counter(), tmp_path / "store", episodes=3, policy=act, image_size=SIZE, seed=4)
    check(store)
    assert store.episodes.length.tolist() == [6, 6, 6]
    assert len(set(store.episodes.seed.tolist())) == 3
    meta = store.meta
    assert (meta.task, meta.fps, meta.image_size) == ("Counter", 5.0, SIZE)
    assert (meta.action_kind, meta.action_size) == ("continuous", 6)
    assert meta.state_names == ("observation[0]", "observation[1]")
    assert meta.origin == {"format": "record", "name": "Counter", "fit": "crop"}


def test_frames_are_fitted(tmp_path: Path) -> None:
    class Wide(Counter):
        def render(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
            frame = np.zeros((20, 40, 3), np.uint8)
            frame[:, 10:30] = 200
            return frame

    crop = record(Wide(), tmp_path / "crop", episodes=1, image_size=10)
    assert (crop.frames == 200).all()
    pad = record(Wide(), tmp_path / "pad", episodes=1, image_size=10, fit="pad")
    assert (pad.frames[:, 0] == 0).all()
    assert pad.frames[:, 5, 5].tolist() == [[200] * 3] * 6


def test_discrete_actions_without_states(tmp_path: Path) -> None:
    env = Counter(actions=Discrete(3), observations=Box(0, 255, (4, 4, 3), np.uint8))
    store = record(env, tmp_path / "store", episodes=20, image_size=SIZE)
    store.validate()
    assert (store.meta.action_kind, store.meta.action_size, store.states) == ("discrete", 3, None)
    assert sorted(set(store.actions.tolist())) == [0, 1, 2]


def test_random_actions_depend_on_seed_and_episode(tmp_path: Path) -> None:
    stores = [record(Counter(), tmp_path / str(k), episodes=2, image_size=SIZE, seed=k // 2) for k in range(4)]
    np.testing.assert_array_equal(stores[0].actions, stores[1].actions)
    assert not np.isclose(stores[0].actions, stores[2].actions).any()
    assert not np.isclose(stores[0].actions[:6], stores[0].actions[6:]).any()


def test_resuming_gives_the_same_store(tmp_path: Path) -> None:
    whole = record(Counter(), tmp_path / "whole", episodes=5, image_size=SIZE)
    record(Counter(), tmp_path / "parts", episodes=2, image_size=SIZE)
    for episodes in (5, 3):
        parts = record(Counter(), tmp_path / "parts", episodes=episodes, image_size=SIZE)
        for name in ("frames", "actions", "states"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    with pytest.raises(ValueError, match=r"^source=[^\n]*seed 1[^\n]*give another folder$"):
        record(Counter(), tmp_path / "parts", episodes=6, image_size=SIZE, seed=1)


def test_endless_episodes_are_cut(tmp_path: Path) -> None:
    store = record(Counter(None), tmp_path / "store", episodes=2, policy=act, image_size=SIZE, episode_length=9)
    check(store)
    assert store.episodes.length.tolist() == [9, 9]


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    with Recorder(Counter(), tmp_path / "store", image_size=SIZE) as env:
        observation, _ = env.reset(seed=3)
        for _ in range(6):  # to its end
            observation, *_ = env.step(act(observation))
        assert env.get_wrapper_attr("writer").num_episodes == 1
        env.reset(seed=8)  # never acted in
        observation, _ = env.reset(seed=9)
        for _ in range(4):  # given up
            observation, *_ = env.step(act(observation))
        observation, _ = env.reset()
        for _ in range(2):  # until it is closed
            observation, *_ = env.step(act(observation))
    store = Store(tmp_path / "store")
    check(store)
    assert store.episodes.length.tolist() == [6, 4, 2]
    assert store.episodes.seed.tolist() == [3, 9, 0]
    with Recorder(Counter(), tmp_path / "store", image_size=SIZE) as env:  # goes on
        observation, _ = env.reset(seed=1)
        env.step(act(observation))
    check(Store(tmp_path / "store"))
    assert Store(tmp_path / "store").num_episodes == 4


def test_an_exception_gives_the_episode_up(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Recorder(Counter(), tmp_path / "store", image_size=SIZE) as env:
            observation, _ = env.reset(seed=3)
            for _ in range(6):
                observation, *_ = env.step(act(observation))
            observation, _ = env.reset(seed=4)
            env.step(act(observation))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    check(Store(tmp_path / "store"))
    assert Store(tmp_path / "store").episodes.seed.tolist() == [3]


def test_a_step_after_the_end_is_refused(tmp_path: Path) -> None:
    with Recorder(Counter(1), tmp_path / "store", image_size=SIZE) as env:
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
            env.step(np.zeros((2, 3)))
        env.reset()
        env.step(np.zeros((2, 3)))
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
            env.step(np.zeros((2, 3)))
    assert Store(tmp_path / "store").num_frames == 1


def test_a_kill_loses_no_complete_episode(tmp_path: Path) -> None:
    script = (
        "import sys; from lewm.envs import record; from test_envs_record import Counter, SIZE\n"
        "record(Counter(), sys.argv[1], episodes=100000, image_size=SIZE)"
    )
    path = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parent)
    deadline = time.monotonic() + 60.0
    while not (path / "episodes.parquet").exists() or (path / "episodes.parquet").stat().st_size < 2000:
        assert time.monotonic() < deadline, "nothing was recorded"
        assert process.poll() is None, "the recording ended by itself"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = Store(path).num_episodes
    again = record(Counter(), path, episodes=done + 2, image_size=SIZE)
    whole = record(Counter(), tmp_path / "whole", episodes=done + 2, image_size=SIZE)
    np.testing.assert_array_equal(again.actions, whole.actions)
    np.testing.assert_array_equal(again.frames, whole.frames)


def test_an_environment_of_gymnasium(tmp_path: Path) -> None:
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    store = lewm.record(env, tmp_path / "store", episodes=2, image_size=32, fit="pad")
    store.validate()
    assert (store.meta.task, store.meta.action_kind, store.meta.action_size) == ("CartPole-v1", "discrete", 2)
    assert store.states is not None
    observation, _ = env.reset(seed=int(store.episodes.seed[0]))  # it is still open
    for t in range(int(store.episodes.length[0])):
        np.testing.assert_array_equal(observation, store.states[t])
        observation, _, terminated, _, _ = env.step(int(store.actions[t]))
    assert terminated  # the last action leads out of the episode
    assert len(np.unique(store.frames[: store.episodes.length[0]], axis=0)) > 5
    env.close()


class WithoutFrames(Counter):
    render_mode = None

    def __init__(self) -> None:
        super().__init__()
        self.render_mode = None


class OddFrames(Counter):
    def render(self) -> Any:
        return [np.zeros((4, 4, 3), np.uint8)]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            Counter(actions=MultiBinary(3)),
            r"^action_space=MultiBinary\(3\): must be a Box of real numbers, or Discrete",
        ),
        (Counter(actions=Discrete(3, start=1)), r"^action_space=Discrete\(3, start=1\): must be"),
        (Counter(actions=Box(0, 5, (2,), np.int64)), r"^action_space=Box\(.*must be"),
        (Counter(actions=Dict(a=Discrete(2))), r"^action_space=Dict\(.*must be"),
        (WithoutFrames(), r"^render_mode=None: .*make the environment with render_mode='rgb_array'$"),
        ("CartPole-v1", r"^env=str: must be one gymnasium\.Env; "),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_recorded_leaves_no_store(tmp_path: Path, env: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        record(env, tmp_path / "store", episodes=1, image_size=SIZE)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()


def test_odd_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^render\(\)=list: must be a frame"):
        record(OddFrames(), tmp_path / "store", episodes=1, image_size=SIZE)
    assert not (tmp_path / "store").exists()


def test_a_recorder_without_an_episode_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> None:
        with Recorder(Counter(), tmp_path / "deep" / "store", image_size=SIZE) as env:
            env.reset()
            env.step(env.action_space.sample())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"episodes": 0}, {"episode_length": 0}, {"seed": -1}])
def test_bad_settings(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}=[^\n]*: must be at least"):
        record(Counter(), tmp_path / "store", **{"episodes": 1, **settings})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("action", [np.full((2, 3), np.nan), np.zeros(3)])
def test_a_policy_that_is_wrong_is_told_at_once(action: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^action=\[.*\]: must be finite and of the action space's size, 6; mend"):
        record(Counter(), tmp_path / "store", episodes=1, policy=lambda observation: action, episode_length=5)
