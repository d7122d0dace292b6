"""Prediction scores: what perfect, copying and mean predictors get, against formulas written out in NumPy."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.data import Store, StoreMeta, StoreWriter
from lewm.evaluate.prediction import measure_prediction, nearest, prediction_clips, ratio_interval, score
from lewm.families.family import make_model
from tiny import IMAGE, tiny, tiny_article

SKIP, LENGTH = 2, 12
HISTORY: dict[str, Any] = {"model__history": 3, "action__size": 1}
Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Episodes in which one pixel counts the frames and the action says so."""
    rng = np.random.default_rng(0)
    meta = StoreMeta(task="test", image_size=2, action_kind="continuous", action_size=1)
    with StoreWriter(tmp_path / "store", meta) as writer:
        for _ in range(3):
            frames = rng.integers(0, 200, (LENGTH, 2, 2, 3), dtype=np.uint8)
            writer.append(frames, np.ones((LENGTH, 1), dtype=np.float32))
    return Store(tmp_path / "store")


class Stub:
    """A model whose tokens are the pixels, with a rollout to be chosen."""

    device = torch.device("cpu")
    config = SimpleNamespace(model=SimpleNamespace(history=1))

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout

    def encode(self, frame: Tensor) -> Tensor:
        return frame.float().flatten(1, 2) / 100.0  # (B, 4, 3)

    encode_target = encode


def measure(store: Store, rollout: Rollout, mean: Tensor, horizons: list[int]):
    sampler, index, kept = prediction_clips(
        store, np.arange(3), horizons=horizons, history=1, frame_skip=SKIP, count=1000, seed=0
    )
    assert kept == horizons
    model = Stub(rollout)
    # small batches, so that a mean of batch means would be wrong
    return measure_prediction(model, sampler, index, horizons=kept, mean=mean, batch=4)  # pyright: ignore[reportArgumentType]


def test_perfect_predictor_has_no_error(store: Store) -> None:
    encoded = torch.from_numpy(np.array(store.frames)).float().flatten(1, 2) / 100.0

    def oracle(tokens: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """Find the present frame in the store and look up what comes."""
        assert (past.shape[1:], actions.shape[1:]) == ((0, SKIP), (4, SKIP))
        start = torch.cdist(tokens[:, 0].flatten(1), encoded.flatten(1)).argmin(1)
        return encoded[start[:, None] + SKIP * torch.arange(1, actions.shape[1] + 1)]

    report = measure(store, oracle, encoded.mean(0), [1, 2, 4])
    assert report.horizon == [1, 2, 4]
    assert report.error_ratio == pytest.approx([0.0] * 3, abs=1e-9)
    assert report.cosine == pytest.approx([1.0] * 3, abs=1e-6)
    assert report.centred_cosine == pytest.approx([1.0] * 3, abs=1e-6)
    assert report.clips == 3 * (LENGTH - 4 * SKIP)
    assert all(error > 0.1 for error in report.copy_error + report.mean_error)


def test_copying_model_is_no_better_than_the_better_rival(store: Store) -> None:
    def copy(tokens: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        return tokens[:, -1:].expand(-1, actions.shape[1], -1, -1)

    encoded = torch.from_numpy(np.array(store.frames)).float().flatten(1, 2) / 100.0
    report = measure(store, copy, encoded.mean(0), [1, 2])
    assert report.error == pytest.approx(report.copy_error)
    assert report.cosine == pytest.approx(report.copy_cosine)
    assert report.centred_cosine == pytest.approx(report.copy_centred_cosine)
    # frames of noise: the mean is the better rival, by a factor of about two
    assert all(ratio > 1.5 for ratio in report.error_ratio)


def test_predicting_the_mean_has_ratio_one(store: Store) -> None:
    mean = (torch.from_numpy(np.array(store.frames)).float().flatten(1, 2) / 100.0).mean(0)

    def middle(tokens: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        return mean.expand(len(tokens), actions.shape[1], -1, -1)

    report = measure(store, middle, mean, [1, 2])
    assert report.error_ratio == pytest.approx([1.0, 1.0])
    assert report.centred_cosine == pytest.approx([0.0, 0.0])


def test_error_ratio_is_nan_where_nothing_changes(tmp_path: Path) -> None:
    meta = StoreMeta(task="test", image_size=2, action_kind="continuous", action_size=1)
    with StoreWriter(tmp_path / "still", meta) as writer:
        for _ in range(3):
            writer.append(np.full((LENGTH, 2, 2, 3), 7, np.uint8), np.zeros((LENGTH, 1), np.float32))
    report = measure(Store(tmp_path / "still"), lambda t, p, a: t[:, -1:] + 1.0, torch.zeros(4, 3), [1])
    assert np.isnan(report.error_ratio[0])


def test_scores_equal_the_formulas() -> None:
    rng = np.random.default_rng(1)
    predicted, target, present = rng.standard_normal((3, 5, 4, 6)).astype(np.float32)
    mean = rng.standard_normal((4, 6)).astype(np.float32)
    scores = score(*(torch.from_numpy(x) for x in (predicted, target, present, mean)))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))

    for b in range(5):
        tokens = [cosine(predicted[b, n], target[b, n]) for n in range(4)]
        assert scores["cosine"][b].item() == pytest.approx(np.mean(tokens), abs=1e-5)
        assert scores["centred_cosine"][b].item() == pytest.approx(
            cosine(predicted[b] - mean, target[b] - mean), abs=1e-5
        )
        assert scores["copy_centred_cosine"][b].item() == pytest.approx(
            cosine(present[b] - mean, target[b] - mean), abs=1e-5
        )
        assert scores["error"][b].item() == pytest.approx(((predicted[b] - target[b]) ** 2).mean(), rel=1e-5)
        assert scores["copy_error"][b].item() == pytest.approx(((present[b] - target[b]) ** 2).mean(), rel=1e-5)
        assert scores["mean_error"][b].item() == pytest.approx(((mean - target[b]) ** 2).mean(), rel=1e-5)


def test_horizons_that_do_not_fit_are_left_out(store: Store) -> None:
    choose = {"history": 2, "frame_skip": SKIP, "count": 5, "seed": 0}
    sampler, index, kept = prediction_clips(store, np.arange(3), horizons=(1, 2, 4, 5, 8), **choose)
    assert kept == [1, 2, 4]  # two frames of history and 4 ahead take (2 - 1 + 4) * 2 + 1 = 11 of 12 frames
    assert sampler.clips(index).frames.shape[1] == 2 + 4
    assert len(index) == 5
    with pytest.raises(ValueError, match=r"eval\.horizons=\(8,\): .*longest has 12 frames"):
        prediction_clips(store, np.arange(3), horizons=(8,), **choose)


@pytest.mark.parametrize("config", [tiny(**HISTORY), tiny_article(**HISTORY)], ids=["compact", "article"])
def test_history_reaches_the_model(tmp_path: Path, config: Config) -> None:
    meta = StoreMeta(task="test", image_size=IMAGE, action_kind="continuous", action_size=1)
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", meta) as writer:
        frames = rng.integers(0, 255, (9, IMAGE, IMAGE, 3), np.uint8)
        writer.append(frames, rng.standard_normal((9, 1), np.float32))
    sampler, index, kept = prediction_clips(
        Store(tmp_path / "store"), np.array([0]), horizons=(1, 2), history=3, frame_skip=1, count=10, seed=0
    )
    torch.manual_seed(0)
    model = make_model(config).eval()
    with torch.no_grad():  # the predictions are held against the target encoder, which is another one
        for parameter in model.target_encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    mean = torch.zeros(config.model.num_tokens, config.model.token_width)
    report = measure_prediction(model, sampler, index, horizons=kept, mean=mean)

    clips = sampler.clips(index)
    frames, actions = torch.from_numpy(clips.frames), torch.from_numpy(clips.actions)
    with torch.no_grad():
        tokens = torch.stack([model.encode(frames[:, i]) for i in range(3)], dim=1)
        predicted = model.rollout(tokens, actions[:, :2], actions[:, 2:])[:, 1]
        error = (predicted - model.encode_target(frames[:, 4])).square().mean()
        without = model.rollout(tokens[:, 2:], actions[:, :0], actions[:, 2:])[:, 1]
    assert report.error[1] == pytest.approx(error.item(), rel=1e-4)
    assert (predicted - without).abs().max() > 1e-2  # the history tells
    assert (model.encode(frames[:, 4]) - model.encode_target(frames[:, 4])).abs().max() > 1e-2


def test_nearest_finds_the_closest_frame() -> None:
    library = torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 11, 7])
    assert nearest(library[rows] + 0.01, library, batch=2).tolist() == rows.tolist()


def test_interval_of_the_ratio_is_of_episodes() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        level = 0.5 + 0.1 * rng.normal(size=6)  # an episode each
        episode = np.repeat(np.arange(6), 20)
        rival = rng.uniform(0.9, 1.1, 120)
        low, high = ratio_interval(level[episode] * rival, rival, episode)
        held.append(low <= 0.5 <= high)
    assert 0.91 < np.mean(held) < 0.98  # and not the few that clips, taken as independent, would give
    half = np.array([0.4, 0.6, 0.4, 0.6])
    low, high = ratio_interval(half, np.ones(4), np.arange(4))
    assert (low, high) == pytest.approx((0.5 - 3.182 * 0.2 / 12**0.5, 0.5 + 3.182 * 0.2 / 12**0.5), abs=1e-3)
    assert np.isnan(ratio_interval(half, np.ones(4), np.zeros(4, np.int64))).all()  # one episode tells nothing
    low, high = ratio_interval(np.array([0.4, 0.6]), np.ones(2), np.arange(2))
    assert (low, high) == pytest.approx((0.0, 0.5 + 1.2706), abs=1e-3)
    assert np.isnan(ratio_interval(half, np.zeros(4), np.arange(4))).all()
