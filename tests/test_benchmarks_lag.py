"""The benchmark of the lag: shifted recordings are the aligned ones moved, and a cell counts what is said of them."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import lag  # pyright: ignore[reportMissingImports]
import lag_world  # pyright: ignore[reportMissingImports]


@pytest.mark.parametrize("kind", lag_world.KINDS)
def test_a_shift_moves_the_actions_alone(kind: str) -> None:
    two, three = (lag_world.make_recording(kind, smooth=True, episodes=5, late=k, seed=[1]) for k in (2, 3))
    np.testing.assert_array_equal(two.frames, three.frames)
    np.testing.assert_array_equal(two.states, three.states)
    np.testing.assert_array_equal(two.actions[:, :-1], three.actions[:, 1:])


def test_advice_is_worth_what_it_says() -> None:
    cases = [(0, 0), (0, 3), (3, 0), (3, 3), (3, 4), (3, -3), (-4, -4)]
    assert [lag.outcome(*case) for case in cases] == [
        "silent", "false", "silent", "right", "other amount", "other side", "right",
    ]  # fmt: skip


def test_a_cell_counts_its_cases(tmp_path: Path) -> None:
    with_states = {cell["states"]: cell for cell in lag.measure("position", "late", False, 20, range(2), tmp_path)}
    assert set(with_states) == {False, True}
    for cell in with_states.values():
        assert cell["cases"] == sum(sum(by.values()) for by in cell["by_shift"].values()) == 2
    assert with_states[True]["said"]["right"] == 2
    assert with_states[True]["mode"] == {"right": 2}
