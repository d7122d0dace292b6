"""Replays of demonstrations of Push-T: what was recorded comes again, noise where it is wanted, groups, and errors."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.config import DataConfig
from lewm.data import Store
from lewm.envs import PushT, collect
from lewm.envs.push_t_demos import EXACT, NOISE, Demonstration, Replay, draw_replay, read_demonstrations

zarr = pytest.importorskip("zarr", reason="zarr is not installed; it is in the extra `zarr`")

LENGTHS = (40, 30, 36, 12)
ARENA_TARGETS = np.array([[256.0, 300.0], [300.0, 180.0], [180.0, 256.0], [400.0, 400.0]])


def recorded(number: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return states (L, 5) and absolute targets (L, 2) of a made-up demonstration that pushes the block."""
    task, rng = PushT(16), np.random.default_rng(number)
    task.set_state([100.0 + 40.0 * number, 420.0, 230.0 + 20.0 * number, 250.0, 1.0 + number, 0.0, 0.0])
    states, targets = [], []
    for step in range(length):
        target = ARENA_TARGETS[(number + step // 10) % 4] + rng.normal(0.0, 3.0, 2)
        target = task.state[:2] + np.clip(target - task.state[:2], -40.0, 40.0)
        states.append(task.state[:5])
        targets.append(target)
        task.advance((target - task.state[:2]) / 100.0)
    return np.stack(states), np.stack(targets)


DEMOS = [recorded(number, length) for number, length in enumerate(LENGTHS)]


def write_zarr(path: Path, **changed: Any) -> Path:
    """Write a replay buffer as the public one is, with some of its arrays changed."""
    count = sum(LENGTHS)
    arrays = {
        "state": np.concatenate([states for states, _ in DEMOS]),
        "action": np.concatenate([targets for _, targets in DEMOS]).astype(np.float32),
        "img": np.full((count, 4, 4, 3), 200, np.float32),
        "n_contacts": np.ones((count, 1), np.float32),
    } | changed
    root = zarr.open_group(path, mode="w", zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    for name, array in arrays.items():
        if array is not None:
            data.create_array(name, data=array)
    meta.create_array("episode_ends", data=np.cumsum(LENGTHS))
    return path


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zarr(tmp_path_factory.mktemp("demos") / "demos.zarr")


def gather(path: Path, demos: Path, *, episodes: int = 8, **settings: Any) -> Store:
    settings = {"image_size": 16, "episode_length": 20, "workers": 1, **settings}
    return collect("push-t", path, episodes=episodes, behaviour="demos", demos=demos, progress=False, **settings)


def test_a_replay_without_noise_is_the_demonstration(demos: Path) -> None:
    task = PushT(16)
    for (states, _), demonstration in zip(DEMOS, read_demonstrations(demos), strict=True):
        for first in (0, 5):
            replay = Replay(demonstration, first, 0.0, np.random.default_rng(0))
            task.set_state(replay.start)
            way = [task.state]
            for _ in range(len(states) - first - 1):
                task.advance(replay.act(task))
                way.append(task.state)
            # In between, the speed is read from the positions, and so is not exact.
            np.testing.assert_allclose(np.stack(way)[:, :5], states[first:], atol=0.01 if first == 0 else 12.0)
    assert np.ptp(np.concatenate([states[:, 2:5] for states, _ in DEMOS]), axis=0).min() > 1.0  # the block was pushed


def test_a_replay_stays_at_the_last_target(demos: Path) -> None:
    task, demonstration = PushT(16), read_demonstrations(demos)[3]
    replay = Replay(demonstration, 10, 0.0, np.random.default_rng(0))
    task.set_state(replay.start)
    for _ in range(15):
        task.advance(replay.act(task))
    np.testing.assert_allclose(task.state[:2], demonstration.targets[-1], atol=1.0)


def test_draws_take_turns_and_have_noise(demos: Path) -> None:
    read, task = read_demonstrations(demos), PushT(16)
    drawn = [draw_replay(read, index, 20, seed=index, order_seed=0) for index in range(200)]
    numbers = np.array([number for _, number in drawn]).reshape(-1, len(LENGTHS))
    assert all(sorted(turn) == list(range(len(LENGTHS))) for turn in numbers.tolist())
    assert len({tuple(turn) for turn in numbers.tolist()}) > 10
    levels = np.array([replay._noise for replay, _ in drawn])
    assert abs((levels == 0.0).mean() - EXACT) < 0.1
    assert levels.max() <= NOISE
    assert len(set(levels.tolist())) > 100
    for replay, number in drawn:  # the demonstration lasts as long as the replay, or it began early
        assert replay._frame <= max(LENGTHS[number] - 20, 9)
        np.testing.assert_array_equal(replay.start, read[number].states[replay._frame])
    assert len({replay._frame for replay, number in drawn if number == 0}) > 10
    still = Demonstration(read[0].states, np.tile(read[0].states[0, :2], (len(read[0].states), 1)))
    noisy = Replay(still, 0, 0.1, np.random.default_rng(0))
    task.set_state(noisy.start)
    actions = np.array([noisy.act(task) for _ in range(1000)])
    assert abs(actions.mean()) < 0.02
    assert 0.09 < actions.std() < 0.11


def test_the_store_holds_out_whole_demonstrations(tmp_path: Path, demos: Path) -> None:
    store = gather(tmp_path / "store", demos, episodes=12)
    group = store.episodes.group
    assert sorted(group.tolist()) == sorted([0, 1, 2, 3] * 3)
    assert [f"demonstration {number}" for number in group] == store.episodes.source
    assert "replays of 4 demonstrations in demos.zarr" in store.meta.source
    assert str(tmp_path) not in store.meta.source
    data = DataConfig()
    train, held_out = store.split(held_out=data.held_out, seed=data.split_seed)
    assert len(held_out) == 3
    assert len(set(group[held_out].tolist())) == 1
    assert not set(group[held_out].tolist()) & set(group[train].tolist())
    more = gather(tmp_path / "more", demos, episodes=20)
    _, also = more.split(held_out=data.held_out, seed=data.split_seed)
    assert set(more.episodes.group[also].tolist()) == set(group[held_out].tolist())  # however many there are of each


def test_actions_lead_from_state_to_state(tmp_path: Path, demos: Path) -> None:
    store, task = gather(tmp_path / "store", demos, episodes=3), PushT(16)
    assert store.states is not None
    for episode in range(3):
        rows = store.episode(episode)
        states, actions = store.states[rows], store.actions[rows]
        np.testing.assert_array_equal(task.simulate(states[None, 0], actions[None])[0, :-1], states[1:])
    np.testing.assert_array_equal(store.frames, task.render_states(store.states))


@pytest.mark.slow
def test_any_number_of_workers_and_interruptions_gives_the_same_store(tmp_path: Path, demos: Path) -> None:
    one, two = gather(tmp_path / "one", demos), gather(tmp_path / "two", demos, workers=2)
    gather(tmp_path / "parts", demos, episodes=3)
    for other in (two, gather(tmp_path / "parts", demos)):
        assert one.states is not None
        assert other.states is not None
        for name in ("frames", "actions", "states"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.episodes.group, other.episodes.group)
    another = gather(tmp_path / "seed", demos, seed=1)
    assert not np.array_equal(one.actions, another.actions)


def test_other_episodes_are_not_added(tmp_path: Path, demos: Path) -> None:
    gather(tmp_path / "store", demos, episodes=2)
    with pytest.raises(ValueError, match=r"^source=[^\n]*give another folder$"):
        collect("push-t", tmp_path / "store", episodes=3, image_size=16, episode_length=20, workers=1, progress=False)


def outside(path: Path) -> Path:
    return write_zarr(path, action=np.full((sum(LENGTHS), 2), 900.0, np.float32))


def unknown(path: Path) -> Path:
    states = np.concatenate([states for states, _ in DEMOS])
    states[3, 0] = np.nan
    return write_zarr(path, state=states)


def wide(path: Path) -> Path:
    return write_zarr(path, state=np.zeros((sum(LENGTHS), 9), np.float32))


def no_action(path: Path) -> Path:
    return write_zarr(path, action=None, other=np.zeros((sum(LENGTHS), 2), np.float32))


def cut_short(path: Path) -> Path:
    write_zarr(path)
    shutil.rmtree(path / "meta")
    return path


def text(path: Path) -> Path:
    path.write_text("no zarr", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path, r"is not there; give"),
        (text, r"is no recording of Push-T \(is no zarr store; "),
        (outside, r"demonstration 0 has positions outside 0 to 512"),
        (unknown, r"states at step 3 not finite"),
        (wide, r"has 9 state variables and 2 of action, and Push-T's has 5 and 2; give"),
        (no_action, r"is no recording of Push-T \(action=action: "),
        (cut_short, r"meta/episode_ends"),
    ],
)
def test_what_is_no_recording_of_push_t_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], told: str
) -> None:
    path = make(tmp_path / "demos.zarr")
    with pytest.raises(ValueError, match=rf"^demos={path}: [^\n]*{told}[^\n]*$") as error:
        gather(tmp_path / "store", path)
    assert len(str(error.value)) <= 300 + len(str(path))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("task", "settings", "told"),
    [
        ("arm", {"behaviour": "demos", "demos": "x"}, r"^behaviour=demos: is of push-t, and arm has no demonstrations"),
        ("push-t", {"behaviour": "demos"}, r"^behaviour=demos: needs the demonstrations; give .* by --demos$"),
        ("push-t", {"demos": "x"}, r"^demos=x: is not read by the scripted behaviour; give --behaviour demos as well$"),
        ("push-t", {"behaviour": "human"}, r"^behaviour=human: must be one of scripted, demos; "),
    ],
)
def test_behaviour_task_and_demonstrations_must_go_together(
    tmp_path: Path, task: str, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        collect(task, tmp_path / "store", episodes=2, workers=1, progress=False, **settings)
    assert not (tmp_path / "store").exists()
