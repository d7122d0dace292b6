"""The range of actions, and how far they change, within episodes alone."""

from pathlib import Path

import numpy as np

from lewm.data import Store, StoreMeta, StoreWriter
from lewm.data.action_range import action_range


def test_ranges_and_changes_of_some_episodes(tmp_path: Path) -> None:
    meta = StoreMeta(task="", image_size=8, action_kind="continuous", action_size=3)
    slow, gripper = np.arange(101) * 0.01, np.r_[np.zeros(50), np.ones(51)]
    slow[60:] += 1.0  # one jump in a hundred changes
    with StoreWriter(tmp_path / "s", meta) as writer:
        for start in (0.0, 50.0, 900.0):  # the step from one episode to the next is no change
            actions = np.stack([start + slow, gripper, np.full(101, 7.0)], axis=1)
            writer.append(np.zeros((101, 8, 8, 3), np.uint8), actions)
    measured = action_range(Store(tmp_path / "s"), np.array([0, 1]), quantile=0.98)
    np.testing.assert_allclose(measured.low, [0.0, 0.0, 7.0])
    np.testing.assert_allclose(measured.high, [52.0, 1.0, 7.0])
    # The jump is rare, the gripper's every change is full, and what never moves has no change.
    np.testing.assert_allclose(measured.max_change, [0.01, 1.0, 0.0], atol=1e-4)
    everything = action_range(Store(tmp_path / "s"), np.array([0]), quantile=1.0)
    np.testing.assert_allclose(everything.max_change, [1.01, 1.0, 0.0], atol=1e-4)
