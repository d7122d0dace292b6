"""Probes: a planted state is found, nothing is found in noise, ridge equals its definition."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.evaluate import probe as probe_module
from lewm.evaluate.probe import (
    ProbeSet,
    _ridge_path,
    _solve_ridge,
    downsample,
    fit_linear,
    fit_mlp,
    measure_probes,
    probe_targets,
    r2_score,
    validation_part,
)

TRAIN, TEST, TOKENS, WIDTH = 600, 200, 4, 6


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "MLP_STEPS", 150)


def test_r2_against_hand_values() -> None:
    target = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 8.0]])
    assert r2_score(target, target).tolist() == [1.0, 1.0]
    assert r2_score(target, target.mean(0).expand(3, 2)).tolist() == pytest.approx([0.0, 0.0])
    assert r2_score(target, torch.tensor([[1.0, 1.0], [2.0, 3.0], [3.0, 8.0]])).tolist() == pytest.approx([0.75, 1.0])


@pytest.mark.parametrize(("samples", "features"), [(40, 7), (7, 40)])
def test_ridge_equals_its_definition(samples: int, features: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, features))
    y = rng.standard_normal((samples, 3))
    x, y = x - x.mean(0), y - y.mean(0)
    given = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    for ridge, weight in zip((1e-3, 1e-1), _ridge_path(*given, (1e-3, 1e-1)), strict=True):
        penalty = ridge * (x**2).sum()
        expected = np.linalg.solve(x.T @ x + penalty * np.eye(features), x.T @ y)
        np.testing.assert_allclose(weight.numpy(), expected, atol=1e-4)
        np.testing.assert_allclose(_solve_ridge(*given, ridge).numpy(), expected, atol=1e-4)


def test_ridge_is_chosen_on_the_validation_part() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 80, generator=generator)
    validation = torch.arange(100) >= 70
    clean = fit_linear(x, x[:, :1], validation)
    noise = fit_linear(x, torch.randn(100, 1, generator=generator), validation)
    assert clean.ridge < 1e-4 < noise.ridge


def test_angles_become_sine_and_cosine() -> None:
    states = np.array([[1.0, np.pi / 2], [2.0, np.pi]], dtype=np.float32)
    targets, names = probe_targets(states, ("x", "block_angle"))
    assert names == ["x", "block_angle (sine)", "block_angle (cosine)"]
    np.testing.assert_allclose(targets.numpy(), [[1.0, 1.0, 0.0], [2.0, 0.0, -1.0]], atol=1e-6)


def test_mlp_finds_what_a_linear_probe_cannot_and_is_reproducible() -> None:
    x = torch.rand(800, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = x[:, :1] * x[:, 1:]
    linear = fit_linear(x[:600], y[:600], torch.arange(600) >= 500)
    before = torch.random.get_rng_state()
    first, second = (fit_mlp(x[:600], y[:600], seed=3)(x[600:]) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, second)
    assert r2_score(y[600:], linear(x[600:])).item() < 0.2
    assert r2_score(y[600:], first).item() > 0.8


def test_validation_part_takes_whole_episodes() -> None:
    episode = np.repeat(np.arange(10), 7)
    part = validation_part(episode, seed=0).numpy()
    assert len(np.unique(episode[part])) == 2
    assert not set(episode[part]) & set(episode[~part])
    assert validation_part(np.zeros(10, dtype=np.int64), seed=0).sum() == 2


def make_data(names: tuple[str, ...] = ("x", "y", "still")) -> ProbeSet:
    """Frames whose first pixels hold the state x, y; a third variable never changes."""
    rng = np.random.default_rng(0)
    states = rng.integers(0, 256, (TRAIN + TEST, 2))
    frames = np.zeros((TRAIN + TEST, 16, 16, 3), dtype=np.uint8)
    frames[:, 0, :2, 0] = states
    states = np.concatenate([states / 255.0, np.ones((len(states), 1))], axis=1).astype(np.float32)
    episode = np.arange(TRAIN) // 20
    return ProbeSet(frames[:TRAIN], states[:TRAIN], episode, frames[TRAIN:], states[TRAIN:], names)


def knowing(frames: np.ndarray) -> Tensor:
    """Hold x in the first token and y in the last one: a flattened probe sees both, a pooled one their sum."""
    tokens = torch.zeros(len(frames), TOKENS, WIDTH)
    tokens[:, 0, 0] = torch.from_numpy(frames[:, 0, 0, 0] / 255.0)
    tokens[:, -1, 0] = torch.from_numpy(frames[:, 0, 1, 0] / 255.0)
    return tokens


def ignorant(frames: np.ndarray) -> Tensor:
    return torch.randn(len(frames), TOKENS, WIDTH, generator=torch.Generator().manual_seed(len(frames)))


def test_planted_state_is_found_and_noise_is_not() -> None:
    report = measure_probes(make_data(), knowing, ignorant, seed=0)
    assert report is not None
    assert report.names == ["x", "y"]  # what never changes is not probed
    assert report.r2["linear_flattened"].min() > 0.999
    assert report.r2["mlp_flattened"].min() > 0.95
    assert report.r2["linear_pooled"].max() < 0.7
    assert report.r2["linear_pixels"].min() > 0.98  # 16 x 16 pixels are not averaged
    assert max(values.max() for values in report.random_r2.values()) < 0.1
    summary = report.summary()
    assert summary["r2"] == pytest.approx(report.r2["linear_flattened"].mean())
    assert set(summary) == {
        "r2", "random_r2", "r2_by_state", "linear_pooled", "linear_flattened", "mlp_pooled", "mlp_flattened",
        "linear_pixels",
    }  # fmt: skip
    read = report.linear(knowing(make_data().test_frames).flatten(1))
    np.testing.assert_allclose(read.numpy(), make_data().test_states[:, :2], atol=0.02)


def test_state_that_never_changes_cannot_be_probed() -> None:
    data = make_data()
    data.train_states[:, :2] = 0.5
    assert measure_probes(data, knowing, ignorant, seed=0) is None


def test_downsample_averages_blocks() -> None:
    frames = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    frames[0, :4, :4, 1] = np.arange(16).reshape(4, 4) * 17
    pixels = downsample(frames).view(3, 16, 16)
    assert pixels[1, 0, 0].item() == pytest.approx(0.5)
    assert pixels.sum().item() == pytest.approx(0.5)
