"""Success that must last, and ways that are not allowed: counted over the pieces that a closed loop comes in."""

import numpy as np
import pytest

from lewm.envs import PushT, Rule, TwoRoom
from lewm.evaluate.closed_loop import run_closed_loop
from lewm.evaluate.judge import Judge, Watch, held_from, lasting_for, reaches
from lewm.evaluate.starts import Starts


def test_a_goal_that_must_hold_counts_from_where_it_holds_to_the_end() -> None:
    inside = np.zeros((4, 10), dtype=bool)
    inside[0, 4:] = True  # from the fifth step on
    inside[1, :9] = True  # left at the last
    inside[2, 8:] = True  # for two steps alone
    inside[3] = True
    assert held_from(inside, 3).tolist() == [5, -1, -1, 1]


def test_steps_in_a_row_are_counted_as_one_by_one() -> None:
    inside = np.random.default_rng(0).random((20, 15)) < 0.7
    before = np.arange(20)
    expected = np.zeros(inside.shape, dtype=np.int64)
    for episode, row in enumerate(inside):
        count = before[episode]
        for step, there in enumerate(row):
            count = count + 1 if there else 0
            expected[episode, step] = count
    np.testing.assert_array_equal(lasting_for(inside, before), expected)


def watched(inside: np.ndarray, rule: Rule, *pieces: int) -> np.ndarray:
    """Return what a watch says of states that are 1 where they are at the goal, in pieces of so many steps."""
    states = inside.astype(np.float32)[..., None]
    watch, everyone, done, said = Watch(Judge(rule, np.ones((len(inside), 1), np.float32)), len(inside)), [], 0, []
    everyone = np.arange(len(inside))
    before = np.zeros((len(inside), 1), dtype=np.float32)
    for length in pieces:
        way = states[:, done : done + length]
        said.append(watch.succeeds(before, way, everyone))
        before, done = way[:, -1], done + length
    return np.concatenate(said, axis=1)


def there(states: object, goals: object) -> np.ndarray:
    return np.asarray(states)[..., 0] == np.asarray(goals)[..., 0]


@pytest.mark.parametrize("pieces", [(6,), (1, 1, 1, 1, 1, 1), (2, 4), (5, 1)])
def test_steps_in_a_row_count_across_decisions(pieces: tuple[int, ...]) -> None:
    inside = np.array([[0, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]], dtype=bool)
    first = [row.argmax() if row.any() else -1 for row in watched(inside, Rule(inside=there, steps=3), *pieces)]
    assert first == [3, -1, 5]
    first = [row.argmax() for row in watched(inside, Rule(inside=there), *pieces)]
    assert first == [1, 0, 3]
    assert not watched(inside, Rule(inside=there, steps=3, at_end=True), *pieces).any()  # told at the end alone


@pytest.mark.parametrize("pieces", [(6,), (1, 2, 3)])
def test_after_a_move_that_is_not_allowed_nothing_is_a_success(pieces: tuple[int, ...]) -> None:
    def stays(before: object, after: object) -> np.ndarray:
        """Forbid to leave the goal."""
        return np.asarray(after)[..., 0] >= np.asarray(before)[..., 0]

    inside = np.array([[0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1]], dtype=bool)
    np.testing.assert_array_equal(
        watched(inside, Rule(inside=there, legal=stays), *pieces), [[0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0]]
    )


class ThroughWalls(TwoRoom):
    """Two rooms without dynamics: an action moves the disc wherever it points."""

    def simulate(self, states: object, actions: object) -> np.ndarray:
        way = np.asarray(states)[:, None] + 0.04 * np.asarray(actions).cumsum(1)
        return way.astype(np.float32)


def two_ways() -> tuple[Starts, np.ndarray]:
    """Return starts and moves of two discs along x: one through the door, one through the wall."""
    state = np.array([[0.3, 0.5], [0.3, 0.2]], dtype=np.float32)
    goal = state + np.array([0.4, 0.0], dtype=np.float32)
    starts = Starts(np.arange(2), state, goal, np.zeros((2, 16, 16, 3), dtype=np.uint8))
    return starts, np.tile(np.array([1.0, 0.0], dtype=np.float32), (2, 10, 1))


def test_a_way_through_the_wall_is_no_legal_crossing() -> None:
    task = ThroughWalls(16)
    starts, moves = two_ways()

    def solved(protocol: str, length: int) -> list[bool]:
        def policy(states: np.ndarray, episodes: np.ndarray) -> np.ndarray:
            return moves[episodes, :length]

        judge = reaches(task, starts, protocol)  # pyright: ignore[reportArgumentType]
        return run_closed_loop(task, starts, policy, judge, budget=10, frame_skip=1).success.tolist()

    assert solved("moderate", 10) == [True, True]
    for length in (1, 3, 10):
        assert solved("strict", length) == [True, False]


def test_the_block_must_stay_for_three_steps_wherever_the_disc_is() -> None:
    task = PushT(16)
    goal = np.array([[100, 100, 256, 256, 0.5, 0, 0]], dtype=np.float32)
    start = goal + np.array([[300, 300, 60, 0, 0, 0, 0]], dtype=np.float32)
    starts = Starts(np.arange(1), start, goal, np.zeros((1, 16, 16, 3), dtype=np.uint8))
    off = np.array([50, 5, 5, 50, 5, 5, 5, 50])  # of the block, at each of eight steps

    class Staged(PushT):
        def simulate(self, states: object, actions: object) -> np.ndarray:
            way = np.repeat(goal[:, None], len(off), axis=1)
            way[0, :, 0], way[0, :, 2] = 400, 256 + off
            return way

    def solved_at(protocol: str) -> list[int]:
        judge = reaches(task, starts, protocol)  # pyright: ignore[reportArgumentType]
        policy = lambda states, episodes: np.zeros((1, len(off), 2))  # noqa: E731
        return run_closed_loop(Staged(16), starts, policy, judge, budget=8, frame_skip=1).solved_at.tolist()

    assert solved_at("strict") == [7]  # the first two steps at the goal are too few
    assert solved_at("moderate") == solved_at("standard") == [-1]  # the disc is far off
