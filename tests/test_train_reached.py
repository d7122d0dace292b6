"""When a goal counts as reached: a threshold of the cost that misses one pair in twenty, and what it lets through."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm.data import Store, StoreMeta, StoreWriter
from lewm.plan.cost import GoalCost, tokens_cost
from lewm.train.reached import Reached, measure_reached


class Shade:
    """A model that represents a frame by its shade."""

    device = torch.device("cpu")

    def encode(self, frames: torch.Tensor, /) -> torch.Tensor:
        return frames[:, :1, :1, 0].float()  # (B, 1, 1)


def store(path: Path, task: str, *, episodes: int = 12, step: int = 1) -> Store:
    meta = StoreMeta(task=task, image_size=16, action_kind="continuous", action_size=2, state_names=("x", "y"))
    rng = np.random.default_rng(0)
    with StoreWriter(path, meta) as writer:
        for _ in range(episodes):
            shade = rng.integers(0, 100) + step * np.arange(60)
            frames = np.broadcast_to(shade[:, None, None, None], (60, 16, 16, 3)).astype(np.uint8)
            states = np.stack([0.1 + 0.003 * shade, np.full(60, 0.5)], axis=1)
            writer.append(frames, np.zeros((60, 2)), states)
    return Store(path)


def measure(data: Store, held_out: np.ndarray, cost: GoalCost = tokens_cost) -> Reached | None:
    model: Any = Shade()
    return measure_reached(model, cost, data, held_out, seed=0)


def test_the_task_says_which_frames_show_one_goal(tmp_path: Path) -> None:
    """Two-Room's goals are 0.07 wide: 7 steps of 3 shades are within, 8 are not."""
    measured = measure(store(tmp_path / "s", "two-room", step=3), np.arange(12))
    assert measured is not None
    assert 3 * 5 <= measured.below**0.5 <= 3 * 7
    assert measured.missed < 0.15
    assert measured.false_positives == 0.0
    assert measured.others >= 20


def test_data_of_no_known_task_takes_frames_one_step_apart(tmp_path: Path) -> None:
    measured = measure(store(tmp_path / "s", "robot", step=2), np.arange(12))
    assert measured is not None
    assert measured.below == pytest.approx(4.0)  # every step is two shades
    assert measured.missed == 0.0
    assert measured.false_positives == 0.0


def test_the_threshold_is_of_the_cost_that_is_planned_with(tmp_path: Path) -> None:
    measured = measure(
        store(tmp_path / "s", "robot", step=2), np.arange(12), lambda a, b: 3 * (a - b).abs().mean((-2, -1))
    )
    assert measured is not None
    assert measured.below == pytest.approx(6.0)


def test_too_few_frames_set_no_threshold(tmp_path: Path) -> None:
    assert measure(store(tmp_path / "s", "two-room"), np.arange(1)) is None
    short = store(tmp_path / "t", "robot", episodes=2)
    assert measure(short, np.empty(0, dtype=np.int64)) is None
