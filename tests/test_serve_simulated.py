"""The simulated task behind the page: goals by a place, dragged blocks, a hand, pauses; and what is shown of it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lewm.cli import main
from lewm.envs import make_task
from lewm.serve import shipped
from lewm.serve.board import Board
from lewm.serve.pointing import Pointing
from lewm.serve.simulated import Simulated
from serving import shipped_policy


@pytest.mark.parametrize("name", ["two-room", "arm"])
def test_a_place_becomes_a_state_that_shows_it_there(name: str) -> None:
    pointing, task = Pointing(name), make_task(name, 64)
    for place in ([0.8, 0.3], [0.25, 0.6], [0.62, 0.85]):
        goal = pointing.goal_at(place, task.state)
        assert task.possible(goal)
        found = task.place(goal)
        assert found is not None
        np.testing.assert_allclose(found / 64, place, atol=0.01)


def test_a_place_that_cannot_be_becomes_the_nearest() -> None:
    pointing, task = Pointing("two-room"), make_task("two-room", 64)
    assert task.possible(goal := pointing.goal_at([0.5, 0.1], task.state))  # in the wall
    assert np.abs(goal - [0.5, 0.1]).max() < 0.1
    arm = make_task("arm", 64)
    place = arm.place(Pointing("arm").goal_at([1.0, 1.0], arm.state))  # out of reach
    assert place is not None
    np.testing.assert_allclose(place / 64, [0.5 + 0.44 / 2**0.5] * 2, atol=0.03)


def test_of_two_poses_the_arm_takes_the_nearer() -> None:
    pointing = Pointing("arm")
    for elbow in (-1.0, 1.0):
        state = np.array([0.0, elbow, 0.0, 0.0], np.float32)
        assert np.sign(pointing.goal_at([0.6, 0.7], state)[1]) == elbow


def test_a_block_is_dragged_and_the_disc_stands_behind_it() -> None:
    pointing = Pointing("push-t")
    state = np.array([100, 100, 250, 250, 0.3, 0, 0], np.float32)
    goal = pointing.dragged(state, [0.1, 0.0], 0.2, state)
    np.testing.assert_allclose(goal[2:5], [250 + 51.2, 250, 0.5], rtol=1e-5)
    assert goal[0] < goal[2]  # it pushed from the left
    assert make_task("push-t", 64).possible(goal)
    np.testing.assert_array_equal(pointing.dragged(goal, [1.0, 0.0], 0.0, state), goal)  # out of the arena


def test_lines_are_drawn_of_what_is_read() -> None:
    state = np.array([0.2, 0.1, 0.0, 0.0], np.float32)
    angles = np.array([[0.2, 0.4, 0.6]], np.float32)
    read = {f"shoulder ({part})": of(angles) for part, of in (("sine", np.sin), ("cosine", np.cos))}
    read |= {f"elbow ({part})": of(angles / 2) for part, of in (("sine", np.sin), ("cosine", np.cos))}
    pointing, task = Pointing("arm"), make_task("arm", 64)
    line = pointing.ways(read, state)["way"]
    steps = np.array([state, *([a, a / 2, 0, 0] for a in angles[0])])
    places = task.place(steps)
    assert places is not None
    np.testing.assert_allclose(line, places / 64, atol=1e-5)
    assert pointing.ways({}, state) == {}
    assert pointing.ways({"shoulder (sine)": angles}, state) == {}  # too little is known


class Slow:
    """A task that a model drives, and what is shown of it."""

    def __init__(self, name: str) -> None:
        self.board = Board()
        self.board.watchers = 1
        self.simulated = Simulated(name, self.board, rate=60.0)

    def status(self) -> dict[str, Any]:
        return self.board.shown.status

    def wait(self, name: str, value: Any, seconds: float = 30.0) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while self.status().get(name) != value:
            assert time.monotonic() < until, f"{name} is {self.status().get(name)} and never {value}"
            time.sleep(0.02)
        return self.status()


@pytest.fixture
def rooms() -> Iterator[Slow]:
    found = Slow("two-room")
    found.simulated.start()
    yield found
    found.simulated.stop()


@pytest.mark.slow
def test_a_model_reaches_a_goal_that_was_pointed_at(rooms: Slow) -> None:
    rooms.wait("state", "preparing")
    rooms.simulated.tell("wait")
    rooms.wait("why", "wait")
    rooms.simulated.tell("")
    rooms.simulated.drive_by(shipped_policy("two-room").controller())
    rooms.wait("state", "running")
    reached = rooms.status()["reached_count"]
    rooms.simulated.do({"do": "goal", "at": [0.8, 0.2]})
    status = rooms.wait("goals", 2)
    until = time.monotonic() + 60
    while (status := rooms.status())["reached_count"] == reached or not status["reached"]:
        assert time.monotonic() < until, status
        time.sleep(0.05)
    np.testing.assert_allclose(rooms.simulated._state, [0.8, 0.2], atol=0.12)
    assert np.array(status["way"]).shape[1] == 2
    assert status["cost"] > 0
    assert status["ms"] > 0
    assert set(rooms.board.shown.pictures) == {"now", "goal"}
    rooms.simulated.do({"do": "pause", "on": True})
    rooms.wait("state", "paused")
    rooms.simulated.do({"do": "random"})
    rooms.wait("goals", 3)
    looks = rooms.status()["look"]
    time.sleep(0.2)
    assert rooms.status()["look"] == looks
    rooms.simulated.do({"do": "step"})
    rooms.wait("look", looks + 1)
    rooms.simulated.do({"do": "pause", "on": False})
    rooms.simulated.do({"do": "take", "on": True})
    rooms.wait("state", "hand")
    rooms.simulated.do({"do": "hand", "at": [0.2, 0.8]})
    until = time.monotonic() + 30
    while np.abs(rooms.simulated._state - [0.2, 0.8]).max() > 0.25 and time.monotonic() < until:
        time.sleep(0.05)  # the wall may be in the way; but nearer it comes


def test_what_goes_wrong_is_shown(rooms: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms.simulated.fail("the export failed")
    assert rooms.wait("state", "stopped")["why"] == "the export failed"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"do": "fly"}, "do=fly: must be one of pause, step"),
        ({}, "do=None: must be one of"),
        ({"do": "goal", "at": [0.1]}, "at: must be two numbers"),
        ({"do": "goal", "at": [0.1, float("nan")]}, "at: must be two numbers"),
        ({"do": "goal", "at": ["a", 1]}, "at: must be two numbers"),
        ({"do": "hand", "at": {}}, "at: must be two numbers"),
        ({"do": "drag", "by": [0.1, 0.1], "turn": 0.0}, "do=drag: is not how a goal of two-room is set"),
        ({"do": "drag", "by": [0.1, 0.1]}, "turn: must be a number"),
    ],
)
def test_a_page_that_asks_for_nonsense_is_told(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Simulated("two-room", Board()).do(said)


def test_an_export_is_kept_by_the_content_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "cache_folder", lambda: tmp_path)
    assert shipped.shipped_names() == ("arm", "push-t", "two-room")
    folder = shipped.export_of("two-room")
    assert folder.parent == tmp_path / "exports"
    assert folder.name.startswith("two-room-")
    assert not shipped.is_whole(folder)
    assert shipped.export_of(str(tmp_path)) == tmp_path
    monkeypatch.setattr(shipped, "__version__", "9")
    assert shipped.export_of("two-room") != folder


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, told in (
        (
            ["two-rooms"],
            "name=two-rooms: must be one of arm, push-t, two-room, or an export folder; did you mean two-room?",
        ),
        ([str(tmp_path)], "has no manifest.json"),
        (["two-room", "--rate", "0"], "rate=0.0: must be 1 to 200 steps a second; use 30"),
        (["two-room", "--port", "-1"], "port=-1: must be 0 to 65535; use 8000"),
    ):
        assert main(["view", *argv]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
