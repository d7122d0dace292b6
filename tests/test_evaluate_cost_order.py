"""The cost: rank correlation by hand, pairs inside episodes, and a cost that knows the distance."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.data import Store, StoreMeta, StoreWriter
from lewm.evaluate.cost_order import draw_pairs, measure_cost, rank_correlation
from lewm.plan.cost import DISTANCES

LENGTHS = (5, 30, 12)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Episodes that walk at constant speed: all pixels and the state are ten times the frame's number."""
    meta = StoreMeta(task="test", image_size=2, action_kind="continuous", action_size=1, state_names=("x",))
    with StoreWriter(tmp_path / "store", meta) as writer:
        for length in LENGTHS:
            x = np.arange(length)
            frames = np.broadcast_to((8 * x).astype(np.uint8)[:, None, None, None], (length, 2, 2, 3))
            states = x[:, None].astype(np.float32)
            writer.append(np.ascontiguousarray(frames), np.ones((length, 1), np.float32), states)
    return Store(tmp_path / "store")


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 40, 900]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    # 1 - 6 (0 + 1 + 1 + 1 + 1) / (5 * 24)
    assert rank_correlation([1, 2, 3, 4, 5], [1, 3, 2, 5, 4]) == pytest.approx(0.8)
    # ties share their mean rank: 1, 2.5, 2.5, 4 against 1, 2, 3, 4
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_pairs_lie_inside_episodes_and_reach_every_gap(store: Store) -> None:
    pairs = draw_pairs(store, np.array([0, 2]), max_gap=50, count=2000, seed=0)
    end = np.cumsum(LENGTHS)
    episode = np.searchsorted(end, pairs.frame, side="right")
    assert set(episode) == {0, 2}
    np.testing.assert_array_equal(np.searchsorted(end, pairs.frame + pairs.gap, side="right"), episode)
    assert set(pairs.gap) == set(range(12))  # as far as the longest of the two reaches
    assert {int(f) for f in pairs.frame[(episode == 2) & (pairs.gap == 3)]} == set(range(35, 44))


class Stub:
    """A model whose tokens are the pixels."""

    device = torch.device("cpu")

    def encode(self, frame: Tensor) -> Tensor:
        return frame.float().flatten(1, 2)


def inverted(tokens: Tensor, goal: Tensor) -> Tensor:
    """Stand in for a learnt cost that is wrong on purpose."""
    return -(tokens - goal).abs().mean((-2, -1))


def test_costs_of_a_perfect_and_of_an_inverted_cost(store: Store) -> None:
    model = Stub()
    report = measure_cost(
        model,  # pyright: ignore[reportArgumentType]
        DISTANCES | {"steps_to_go": inverted},
        store,
        np.array([1, 2]),
        distance=lambda state, goal: np.abs(state - goal)[..., 0],
        planning="tokens",
        goal_offset=5,
        count=300,
        seed=0,
    )
    assert report.pairs.gap.max() == 10
    np.testing.assert_allclose(report.costs["tokens"], (8.0 * report.pairs.gap) ** 2)
    np.testing.assert_allclose(report.costs["pooled"], (8.0 * report.pairs.gap) ** 2)
    summary = report.summary()
    assert summary["rank_correlation"] == pytest.approx(1.0)
    assert summary["rank_correlation_distance"] == pytest.approx(1.0)
    by_cost = SimpleNamespace(**summary["by_cost"])  # pyright: ignore[reportCallIssue]
    assert by_cost.steps_to_go == {"steps": pytest.approx(-1.0), "distance": pytest.approx(-1.0)}
    assert summary["pairs"] == 300


def test_without_a_true_distance_only_steps_are_known(store: Store) -> None:
    report = measure_cost(
        Stub(),  # pyright: ignore[reportArgumentType]
        DISTANCES,
        store,
        np.array([1]),
        distance=None,
        planning="pooled",
        goal_offset=5,
        count=50,
        seed=0,
    )
    summary = report.summary()
    assert list(report.costs) == ["tokens", "pooled"]  # a cost that was not learnt is not measured
    assert summary["rank_correlation"] == pytest.approx(1.0)
    assert np.isnan(summary["rank_correlation_distance"])  # pyright: ignore[reportArgumentType, reportCallIssue]
