"""Repair leaves out what was found and nothing else, never in place, and never half."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from disc_world import EPISODES, LENGTH, Episode, make_episode, make_episodes, write
from lewm.data import Store, StoreWriter
from lewm.data.check.repair import repair
from lewm.data.check.store_check import CheckResult, check_store

SETTINGS = {"frame_skip": 1, "clip_frames": 4, "held_out": 0.2, "split_seed": 0, "whole": True}


def check(store: Store) -> CheckResult:
    return check_store(store, **SETTINGS)


@pytest.fixture
def walks() -> list[Episode]:
    return make_episodes()


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def test_bad_frames_are_left_out(tmp_path: Path, walks: list[Episode]) -> None:
    walks[0] = make_episode(100, length=3)  # too short
    walks[3].actions[7:9] = np.nan
    walks[4].states[2] = np.inf  # two frames before it: too short
    walks[5].frames[39] = 0
    walks[6].frames[10:25] = walks[6].frames[9]
    walks[7].frames[20:] = walks[8].frames[:20]  # a jump
    walks[10] = Episode(walks[9].frames, walks[9].actions, walks[9].states)
    store = write(tmp_path / "store", walks)
    before, result = files(store.path), check(store)
    assert result.count("error") == 2
    fixed = repair(store, result, tmp_path / "fixed")
    assert files(store.path) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fixed", "store"]

    cut = {
        0: [],
        3: [(0, 7), (9, 40)],
        4: [(3, 40)],
        5: [(0, 39)],
        6: [(0, 10), (25, 40)],
        7: [(0, 20), (20, 40)],
        10: [],
    }
    expected = [(e, *part) for e in range(EPISODES) for part in cut.get(e, [(0, LENGTH)])]
    assert fixed.num_episodes == len(expected)
    assert fixed.states is not None
    for number, (e, first, stop) in enumerate(expected):
        rows = fixed.episode(number)
        np.testing.assert_array_equal(fixed.frames[rows], walks[e].frames[first:stop])
        np.testing.assert_array_equal(fixed.actions[rows], walks[e].actions[first:stop])
        np.testing.assert_array_equal(fixed.states[rows], walks[e].states[first:stop])
        part = "" if (first, stop) == (0, LENGTH) else f", frames {first} to {stop - 1}"
        assert fixed.episodes.source[number] == f"walk {e}{part}"
        assert fixed.episodes.seed[number] == e
    assert fixed.meta.source.endswith("repaired")
    assert check(fixed).findings == ()
    fixed.validate()


def test_discrete_actions_and_no_states(tmp_path: Path) -> None:
    walks = make_episodes(discrete=True)
    walks[2].actions[11] = 9
    with StoreWriter(tmp_path / "store", write(tmp_path / "with", walks, state_names=("x", "y")).meta) as writer:
        for number, walk in enumerate(walks):
            writer.append(walk.frames, walk.actions, walk.states, text="go", group=number if number < 6 else None)
    store = Store(tmp_path / "store")
    fixed = repair(store, check(store), tmp_path / "fixed")
    assert fixed.num_episodes == EPISODES + 1
    assert set(fixed.episodes.text) == {"go"}
    assert fixed.episodes.group[:7].tolist() == [0, 1, 2, 2, 3, 4, 5]  # both parts of one that was cut
    assert (fixed.episodes.group[7:] < 0).all()
    assert check(fixed).findings == ()


def test_what_is_only_noted_is_kept(tmp_path: Path, walks: list[Episode]) -> None:
    walks[2].frames[6] = walks[2].frames[5]
    store = write(tmp_path / "store", walks)
    assert check(store).findings != ()
    with pytest.raises(ValueError, match="nothing was found that leaving out frames repairs"):
        repair(store, check(store), tmp_path / "fixed")


@pytest.fixture
def bad_store(tmp_path: Path, walks: list[Episode]) -> Store:
    walks[3].actions[7] = np.nan
    return write(tmp_path / "store", walks)


def test_out_must_be_new(tmp_path: Path, bad_store: Store) -> None:
    result = check(bad_store)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for name, words in (
        ("full", "is there already"),
        ("file", "is there already"),
        ("store", "lies in the store"),
        ("store/in/it", "lies in the store"),
    ):
        with pytest.raises(ValueError, match=rf"^out=.*: {words}.*; give a") as error:
            repair(bad_store, result, tmp_path / name)
        assert "\n" not in str(error.value)
    assert files(tmp_path / "full") == {"mine": b""}
    (tmp_path / "empty").mkdir()
    assert repair(bad_store, result, tmp_path / "empty").num_episodes == EPISODES + 1


def test_result_of_another_store(tmp_path: Path, bad_store: Store) -> None:
    result = check(write(tmp_path / "other", make_episodes(20)))
    with pytest.raises(ValueError, match="has changed since it was checked; check it again"):
        repair(bad_store, result, tmp_path / "fixed")


def test_nothing_would_be_left(tmp_path: Path, walks: list[Episode]) -> None:
    for walk in walks:
        walk.actions[::3] = np.nan
    store = write(tmp_path / "store", walks)
    with pytest.raises(ValueError, match="no part of 4 good frames is left"):
        repair(store, check(store), tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_repair_leaves_no_store_and_the_next_one_works(tmp_path: Path, bad_store: Store) -> None:
    code = f"""
import os, signal
from pathlib import Path
from lewm.data import Store, StoreWriter
from lewm.data.check.store_check import check_store
from lewm.data.check.repair import repair
append = StoreWriter.append
def killed(writer, *arguments, **named):
    append(writer, *arguments, **named)
    if writer.num_episodes == 5:
        os.kill(os.getpid(), signal.SIGKILL)
StoreWriter.append = killed
store = Store({str(bad_store.path)!r})
repair(store, check_store(store, **{SETTINGS!r}), {str(tmp_path / "fixed")!r})
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "fixed").exists()
    left = {entry.name for entry in tmp_path.iterdir()} - {"store"}
    assert all(name.startswith(".") for name in left)
    assert repair(bad_store, check(bad_store), tmp_path / "fixed").num_episodes == EPISODES + 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"store", "fixed"}


def test_a_full_disk_leaves_nothing(tmp_path: Path, bad_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    append = StoreWriter.append

    def full(writer: StoreWriter, *arguments, **named) -> None:
        if writer.num_episodes == 3:
            raise OSError(28, "No space left on device")
        append(writer, *arguments, **named)

    monkeypatch.setattr(StoreWriter, "append", full)
    with pytest.raises(OSError, match="fixed: disk full; there is no such store yet") as error:
        repair(bad_store, check(bad_store), tmp_path / "fixed")
    assert "\n" not in str(error.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"store"}


def test_a_disk_that_is_too_small_is_refused_first(
    tmp_path: Path, bad_store: Store, monkeypatch: pytest.MonkeyPatch, free_space: Callable[[float], None]
) -> None:
    result, frame = check(bad_store), bad_store.frames[0].nbytes + bad_store.actions[0].nbytes
    assert bad_store.states is not None
    needed = (bad_store.num_frames - 1) * (frame + bad_store.states[0].nbytes)  # one frame is left out
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "append", lambda *_, **__: pytest.fail("the repair was begun"))
        free_space(needed - 1)
        with pytest.raises(ValueError, match=r"^out=[^\n]*fixed: needs about [^\n]*, or free some space$"):
            repair(bad_store, result, tmp_path / "fixed")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (tmp_path / ".fixed.repair").mkdir()
    (tmp_path / ".fixed.repair" / "frames.npy").write_bytes(b"\0")  # a killed repair's, which gives room
    assert repair(bad_store, result, tmp_path / "fixed").num_frames == bad_store.num_frames - 1
