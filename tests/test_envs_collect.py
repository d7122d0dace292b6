"""Collecting: the same store for any number of workers and interruptions, and one line for every error."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.data import Store
from lewm.envs import collect, make_task

collect_module = importlib.import_module("lewm.envs.collector")


def assert_same(store: Store, other: Store) -> None:
    for name in ("frames", "actions", "states"):
        np.testing.assert_array_equal(getattr(store, name), getattr(other, name))
    for name in ("start", "length", "seed", "group"):
        np.testing.assert_array_equal(getattr(store.episodes, name), getattr(other.episodes, name))


def gather(path: Path, *, task: str = "two-room", episodes: int = 3, **settings: int) -> Store:
    settings = {"image_size": 16, "episode_length": 5, "workers": 1, **settings}
    return collect(task, path, episodes=episodes, progress=False, **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["two-room", "two-room-discrete", "push-t", "reacher", "arm"])
def test_store_holds_what_the_task_did(tmp_path: Path, name: str) -> None:
    if name == "reacher":
        pytest.importorskip("dm_control", reason="dm_control is not installed; it is in the extra `mujoco`")
    store = gather(tmp_path / "store", task=name, episodes=2, episode_length=6)
    store.validate()
    task = make_task(name, 16)
    assert store.meta.task == name
    assert store.meta.action_kind == task.action_kind
    assert store.meta.state_names == task.state_names
    assert len(store.meta.action_names) == (task.action_size if task.action_kind == "continuous" else 0)
    assert (store.meta.action_names, store.meta.fps) == (task.action_names, task.metadata["render_fps"])
    assert store.meta.origin == {"format": "collect", "name": name}
    assert store.states is not None
    assert (store.num_episodes, store.num_frames) == (2, 12)
    np.testing.assert_array_equal(store.frames, task.render_states(store.states))
    for i in range(2):
        rows = store.episode(i)
        states, actions = store.states[rows], store.actions[rows]
        np.testing.assert_array_equal(task.reset(seed=int(store.episodes.seed[i]))[1]["state"], states[0])
        # Action t leads from frame t to frame t + 1.
        np.testing.assert_array_equal(task.simulate(states[None, 0], actions[None])[0, :-1], states[1:])
    assert not np.array_equal(store.states[0], store.states[6])


def test_seed_changes_every_episode(tmp_path: Path) -> None:
    one, two = gather(tmp_path / "one", seed=0), gather(tmp_path / "two", seed=1)
    assert one.states is not None
    assert two.states is not None
    assert not np.isclose(one.states[::5], two.states[::5]).all(axis=1).any()


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_store(tmp_path: Path) -> None:
    assert_same(gather(tmp_path / "one", episodes=6), gather(tmp_path / "two", episodes=6, workers=2))


def test_resuming_gives_the_same_store(tmp_path: Path) -> None:
    whole = gather(tmp_path / "whole", episodes=5)
    gather(tmp_path / "parts", episodes=2)
    assert_same(whole, gather(tmp_path / "parts", episodes=5))
    assert_same(whole, gather(tmp_path / "parts", episodes=4))  # it has them already


def test_a_kill_loses_no_complete_episode(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    script = (
        "import sys; from lewm.envs import collect\n"
        "collect('two-room', sys.argv[1], episodes=100000, image_size=16, episode_length=5, workers=1, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    deadline = time.monotonic() + 60.0
    while not (path / "episodes.parquet").exists() or (path / "episodes.parquet").stat().st_size < 2000:
        assert time.monotonic() < deadline, "the collector wrote nothing"
        assert process.poll() is None, "the collector ended by itself"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = Store(path).num_episodes
    assert_same(gather(path, episodes=done + 2), gather(tmp_path / "whole", episodes=done + 2))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"task": "two-room-discrete"}, "task"),
        ({"image_size": 32}, "image_size"),
        ({"episode_length": 6}, "source"),
        ({"seed": 1}, "source"),
    ],
)
def test_another_kind_of_episodes_is_refused(tmp_path: Path, settings: dict, field: str) -> None:
    gather(tmp_path / "store")
    with pytest.raises(ValueError, match=f"^{field}=[^\n]*give another folder$"):
        gather(tmp_path / "store", episodes=4, **settings)
    assert Store(tmp_path / "store").num_episodes == 3


@pytest.mark.parametrize(
    "settings", [{"episodes": 0}, {"episode_length": 1}, {"seed": -1}, {"workers": 0}, {"image_size": 4}]
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path, settings: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}=[^\n]*: must be [^\n]*; "):
        gather(tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


def fail_at_one(plan: Any, index: int):
    """Stand in for a worker's task, and fail in the second episode."""
    if index == 1:
        raise ArithmeticError("no good\nsecond line")
    return collect_module._collect_episode(plan, index)


def die(*_: object) -> None:
    """Stand in for a worker's task, and end its process."""
    os._exit(3)


@pytest.mark.slow
def test_a_failing_worker_gives_one_line_and_keeps_the_episodes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect_module, "_collect_episode", fail_at_one)
    with pytest.raises(RuntimeError, match=r"^episode=1: a worker failed \(ArithmeticError: no good\); [^\n]*$"):
        gather(tmp_path / "store", workers=2)
    assert Store(tmp_path / "store").num_episodes == 1


@pytest.mark.slow
def test_a_killed_worker_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "_collect_episode", die)
    with pytest.raises(RuntimeError, match=r"^episode=0: a worker failed \(BrokenProcessPool[^\n]*$"):
        gather(tmp_path / "store", workers=2)
    assert not (tmp_path / "store").exists()


def test_progress_goes_to_the_error_stream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    collect("two-room", tmp_path / "store", episodes=2, image_size=16, episode_length=5, workers=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert "frames/s" in err
    gather(tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")


FRAME = 16 * 16 * 3 + 2 * 4 + 2 * 4  # bytes of a frame, an action and a state
"""Bytes that a frame of Two-Room takes in these stores."""


def test_a_disk_that_is_too_small_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_space: Callable[[float], None]
) -> None:
    gather(tmp_path / "store", episodes=2)
    before = (tmp_path / "store" / "frames.npy").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(collect_module, "_collect_episode", lambda *_: pytest.fail("collecting was begun"))
        free_space(5 * 5 * FRAME - 1)
        for name, episodes in (("new/store", 5), ("store", 7)):
            with pytest.raises(ValueError, match=r"^out=[^\n]*: needs about 0\.1 MB and 0\.0 MB are free; [^\n]*$"):
                gather(tmp_path / name, episodes=episodes)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert (tmp_path / "store" / "frames.npy").read_bytes() == before
    free_space(5 * 5 * FRAME)
    assert gather(tmp_path / "store", episodes=7).num_episodes == 7  # the first two are there


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "make_task", lambda *_: pytest.fail("a task was made"))
    (tmp_path / "file").touch()
    for name in ("file", "file/store"):
        with pytest.raises(ValueError, match=r"^out=[^\n]*: [^\n]*file is no folder; give another path$"):
            gather(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
