"""Starts of the closed loop: where goals lie, which starts a protocol keeps, and the file that lists them."""

import json
from pathlib import Path

import numpy as np
import pytest

from lewm.data import Store, StoreMeta, StoreWriter
from lewm.envs import Rule
from lewm.evaluate.starts import Starts, digest, make_starts, starts_text


@pytest.fixture
def store(tmp_path: Path) -> Store:
    meta = StoreMeta(task="line", image_size=2, action_kind="continuous", action_size=1, state_names=("x",))
    with StoreWriter(tmp_path / "store", meta) as writer:
        for number, length in enumerate((20, 6, 9, 30)):
            states = (100 * number + np.arange(length))[:, None].astype(np.float32)
            frames = np.broadcast_to(states[:, :, None, None].astype(np.uint8), (length, 2, 2, 3))
            writer.append(np.ascontiguousarray(frames), np.zeros((length, 1), np.float32), states)
    return Store(tmp_path / "store")


def test_goals_lie_ahead_on_the_same_trajectory(store: Store) -> None:
    starts = make_starts(store, np.array([1, 2, 3]), count=7, goal_offset=6, seed=0)
    np.testing.assert_array_equal(starts.goal_state, starts.state + 6)
    assert store.states is not None
    np.testing.assert_array_equal(starts.state, store.states[starts.index])
    np.testing.assert_array_equal(starts.goal_frame[:, 0, 0, 0], (starts.goal_state[:, 0]).astype(np.uint8))
    episodes = (starts.state[:, 0] // 100).astype(int).tolist()
    assert 1 not in episodes  # too short
    assert sorted(episodes) == [2, 2, 2, 3, 3, 3, 3]  # spread evenly: episode 2 has three starts in all
    assert sorted(episodes[:2]) == [2, 3]
    assert len(set(starts.index.tolist())) == 7
    assert len(make_starts(store, np.array([2]), count=50, goal_offset=6, seed=0).index) == 3
    np.testing.assert_array_equal(starts.first(2).state, starts.state[:2])


def test_goal_beyond_every_episode_is_an_error(store: Store) -> None:
    with pytest.raises(ValueError, match=r"eval\.goal_offset=9: .*at most 9 frames; use at most 8"):
        make_starts(store, np.array([1, 2]), count=3, goal_offset=9, seed=0)


def near(state: object, goal: object) -> np.ndarray:
    """Be at the goal, wherever that is, in the first half of a decade."""
    return np.asarray(state)[..., 0] % 10 < 5


@pytest.mark.parametrize("protocol", ["moderate", "strict"])
def test_starts_at_the_goal_and_those_that_do_not_count_are_left_out_and_counted(store: Store, protocol: str) -> None:
    rule = Rule(inside=near, counts=lambda state, goal: np.asarray(state)[..., 0] != 306)
    starts = make_starts(store, np.array([0, 3]), count=50, goal_offset=6, seed=0, protocol=protocol, rule=rule)  # pyright: ignore[reportArgumentType]
    assert not near(starts.state, starts.goal_state).any()
    # of 0..13 and 300..323, those that end in 5 to 9 are kept, but for 306
    assert sorted(starts.state[:, 0].tolist()) == [5, 6, 7, 8, 9, 305, 307, 308, 309, 315, 316, 317, 318, 319]
    assert (starts.candidates, starts.presolved, starts.left_out) == (38, 38 - 15, 1)
    usual = make_starts(store, np.array([0, 3]), count=50, goal_offset=6, seed=0)
    assert (len(usual.index), usual.candidates, usual.presolved, usual.left_out) == (38, 38, 0, 0)


def test_no_episode_gives_more_than_its_share(store: Store) -> None:
    def drawn(count: int, protocol: str) -> list[int]:
        starts = make_starts(
            store, np.array([0, 2, 3]), count=count, goal_offset=6, seed=1, protocol=protocol, rule=Rule(inside=near)  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        return np.bincount((starts.state[:, 0] // 100).astype(int), minlength=4).tolist()

    # episode 2 has no start that is not at its goal, episode 0 five, episode 3 ten
    assert drawn(6, "moderate") == [3, 0, 0, 3]
    assert drawn(14, "moderate") == [5, 0, 0, 7]  # not four more from episode 3
    assert sum(drawn(14, "standard")) == 14


def test_a_protocol_under_which_no_start_counts_is_refused(store: Store) -> None:
    nothing = Rule(inside=lambda state, goal: np.ones(len(np.asarray(state)), dtype=bool))
    with pytest.raises(ValueError, match=r"^eval\.protocol=moderate: counts none of 3 held-out starts, 3 of which"):
        make_starts(store, np.array([2]), count=4, goal_offset=6, seed=0, protocol="moderate", rule=nothing)


def text(store: Store, seed: int = 0, count: int = 5) -> str:
    starts = make_starts(store, np.array([2, 3]), count=count, goal_offset=6, seed=seed)
    return starts_text(starts, store, protocol="standard", seed=seed)


def test_the_list_of_starts_says_where_and_what(store: Store) -> None:
    listed = json.loads(text(store))
    starts = make_starts(store, np.array([2, 3]), count=5, goal_offset=6, seed=0)
    assert (listed["protocol"], listed["seed"], listed["state_names"]) == ("standard", 0, ["x"])
    assert [row["row"] for row in listed["starts"]] == starts.index.tolist()
    for row in listed["starts"]:
        assert row["goal_row"] == row["row"] + 6
        assert store.states is not None
        assert row["state"] == store.states[row["row"]].tolist()
        assert row["goal_state"] == store.states[row["goal_row"]].tolist()
        assert row["row"] in range(*store.episode(row["episode"]).indices(store.num_frames))


def test_the_same_draw_has_the_same_hash_and_another_has_another(store: Store) -> None:
    before = digest(text(store))
    assert before == digest(text(Store(store.path)))
    assert len({before, digest(text(store, seed=1)), digest(text(store, count=4))}) == 3
    np.save(store.path / "states.npy", np.load(store.path / "states.npy") + np.float32(1e-4))  # other data, same rows
    assert digest(text(Store(store.path))) != before


def test_a_goal_that_is_no_frame_has_no_row(store: Store) -> None:
    state, nowhere = np.array([[1.5]], dtype=np.float32), np.array([[np.nan]], dtype=np.float32)
    starts = Starts(np.array([21]), state, nowhere, np.zeros((1, 2, 2, 3), dtype=np.uint8))
    (row,) = json.loads(starts_text(starts, store, protocol="strict", seed=3))["starts"]
    assert row == {"episode": 1, "row": 21, "goal_row": None, "state": [1.5], "goal_state": [None]}
