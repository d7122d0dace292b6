"""What of the true state can be read from representations, by linear and MLP probes, beside a random encoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lewm.evaluate.angles import RADIANS, full_turns

RIDGES = tuple(10.0**k for k in range(-8, 2))  # as shares of the features' mean square times their number
MLP_HIDDEN, MLP_STEPS, MLP_BATCH, MLP_LEARNING_RATE = 128, 400, 128, 3e-3
VALIDATION_SHARE = 0.2
SMALLEST_STD = 1e-6


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A fitted linear map from features (..., P) to targets (..., S): (x - x_mean) weight + y_mean."""

    weight: Tensor
    x_mean: Tensor
    y_mean: Tensor
    ridge: float

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.x_mean) @ self.weight + self.y_mean


def probe_targets(
    states: NDArray[np.float32], names: Sequence[str], turns: Mapping[str, float] | None = None
) -> tuple[Tensor, list[str]]:
    """Turn states (M, S) into probe targets: an angle becomes its sine and its cosine.

    Args:
        states: (M, S).
        names: of the variables.
        turns: a full turn of each that is an angle; as `full_turns` finds them in these states if not given.

    Returns:
        Targets (M, S') float32, and their names.
    """
    turns = full_turns(names, states) if turns is None else turns
    columns, labels = [], []
    for name, values in zip(names, states.T, strict=True):
        if name in turns:
            radians = values * (RADIANS / turns[name])
            columns += [np.sin(radians), np.cos(radians)]
            labels += [f"{name} (sine)", f"{name} (cosine)"]
        else:
            columns.append(values)
            labels.append(name)
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32)), labels


def r2_score(target: Tensor, predicted: Tensor) -> Tensor:
    """Return the coefficient of determination of each target, 1 - sum (y - y_hat)^2 / sum (y - mean y)^2, (S,)."""
    rest = (target - predicted).square().sum(0)
    return 1.0 - rest / (target - target.mean(0)).square().sum(0)


def _solve_ridge(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Solve one centred ridge regression of y (M, S) on x (M, P)."""
    small = x.shape[1] <= x.shape[0]
    gram = (x.T @ x if small else x @ x.T).double()
    gram.diagonal().add_(ridge * gram.trace().clamp_min(torch.finfo(x.dtype).tiny))
    solution = torch.linalg.solve(gram, (x.T @ y if small else y).double()).to(x.dtype)
    return solution if small else x.T @ solution


def _ridge_path(x: Tensor, y: Tensor, ridges: Sequence[float]) -> list[Tensor]:
    """Solve centred ridge regressions of y (M, S) on x (M, P), one for each ridge, by one eigendecomposition.

    With fewer features than samples it is that of X'X, else that of XX', which has the same non-zero eigenvalues.
    """
    scale = max(x.square().sum().item(), torch.finfo(x.dtype).tiny)  # the trace of either matrix
    small = x.shape[1] <= x.shape[0]
    values, vectors = torch.linalg.eigh((x.T @ x if small else x @ x.T).double())
    values = values.clamp_min(0.0)
    right = vectors.T @ (x.T @ y if small else y).double()
    weights = []
    for ridge in ridges:
        solution = (vectors @ (right / (values + ridge * scale)[:, None])).to(x.dtype)
        weights.append(solution if small else x.T @ solution)
    return weights


def fit_linear(x: Tensor, y: Tensor, validation: Tensor) -> LinearProbe:
    """Fit a ridge regression in closed form; the ridge is the best one on a validation part, then all is fitted.

    Args:
        x: (M, P) float32 features, on the CPU.
        y: (M, S) float32 targets.
        validation: (M,) bool, samples that choose the ridge. They come from other episodes than the rest, because
            frames of one episode resemble each other.
    """
    fit = ~validation
    x_mean, y_mean = x[fit].mean(0), y[fit].mean(0)
    path = _ridge_path(x[fit] - x_mean, y[fit] - y_mean, RIDGES)
    scale = y.std(0).clamp_min(SMALLEST_STD)  # targets count alike, whatever their unit
    errors = [
        (((x[validation] - x_mean) @ weight + y_mean - y[validation]) / scale).square().mean().item() for weight in path
    ]
    ridge = RIDGES[int(np.argmin(errors))]
    x_mean, y_mean = x.mean(0), y.mean(0)
    return LinearProbe(_solve_ridge(x - x_mean, y - y_mean, ridge), x_mean, y_mean, ridge)


def fit_mlp(x: Tensor, y: Tensor, *, seed: int) -> Callable[[Tensor], Tensor]:
    """Fit a small MLP from features (M, P) to targets (M, S), both scaled first, by a fixed number of AdamW steps."""
    x_mean, x_scale = x.mean(0), (x - x.mean(0)).square().mean().sqrt().clamp_min(SMALLEST_STD)
    y_mean, y_std = y.mean(0), y.std(0).clamp_min(SMALLEST_STD)
    inputs, targets = (x - x_mean) / x_scale, (y - y_mean) / y_std
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        mlp = nn.Sequential(
            nn.Linear(x.shape[1], MLP_HIDDEN), nn.GELU(), nn.Linear(MLP_HIDDEN, MLP_HIDDEN), nn.GELU(),
            nn.Linear(MLP_HIDDEN, y.shape[1]),
        ).to(x.device)  # fmt: skip
        optimiser = torch.optim.AdamW(mlp.parameters(), lr=MLP_LEARNING_RATE, weight_decay=1e-2, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, MLP_LEARNING_RATE, total_steps=MLP_STEPS)
        for _ in range(MLP_STEPS):
            rows = torch.randint(len(x), (min(MLP_BATCH, len(x)),), generator=generator).to(x.device)
            loss = (mlp(inputs[rows]) - targets[rows]).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    @torch.no_grad()
    def predict(features: Tensor) -> Tensor:
        return mlp((features - x_mean) / x_scale) * y_std + y_mean

    return predict


def downsample(frames: NDArray[np.uint8], side: int = 16) -> Tensor:
    """Average frames (M, height, width, 3) over blocks, to about (M, side * side * 3) pixels for a linear probe."""
    block = max(frames.shape[1] // side, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    parts = [nn.functional.avg_pool2d(part.float() / 255.0, block).flatten(1) for part in pixels.split(256)]
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """Frames and states that probes are fitted to and measured on.

    Args:
        train_frames, test_frames: (M, height, width, 3) uint8 of training and of held-out episodes.
        train_states, test_states: (M, S) float32.
        train_episode: (M,) the episode of each training frame.
        names: Names of the S state variables.
        turns: A full turn of each of them that is an angle; as `full_turns` finds them in the training frames if None.
    """

    train_frames: NDArray[np.uint8]
    train_states: NDArray[np.float32]
    train_episode: NDArray[np.int64]
    test_frames: NDArray[np.uint8]
    test_states: NDArray[np.float32]
    names: tuple[str, ...]
    turns: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.turns is None:
            object.__setattr__(self, "turns", full_turns(self.names, self.train_states))

    def targets(self) -> tuple[Tensor, Tensor, list[str]]:
        """Return the probe targets of training and of held-out frames, and their names."""
        train, names = probe_targets(self.train_states, self.names, self.turns)
        return train, probe_targets(self.test_states, self.names, self.turns)[0], names


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Held-out R^2 of each probe, (S,) over `names`, and the linear probe that maps flattened tokens to them.

    Args:
        names: What is probed: the state's variables that vary, angles as sine and cosine.
        r2: R^2 (S,) by probe: linear_pooled, linear_flattened, mlp_pooled, mlp_flattened, linear_pixels.
        random_r2: The same for a freshly initialised encoder; pixels have none.
        linear: The linear probe on flattened tokens of the trained encoder.
    """

    names: list[str]
    r2: dict[str, NDArray[np.float64]]
    random_r2: dict[str, NDArray[np.float64]]
    linear: LinearProbe

    def summary(self) -> dict[str, object]:
        """Return what goes into `eval.json`: means over the state's variables, and the main probe for each."""
        probes: dict[str, object] = {
            name: {"r2": float(values.mean())}
            | ({"random_r2": float(self.random_r2[name].mean())} if name in self.random_r2 else {})
            for name, values in self.r2.items()
        }
        main = self.r2["linear_flattened"]
        return {
            "r2": float(main.mean()),
            "random_r2": float(self.random_r2["linear_flattened"].mean()),
            "r2_by_state": dict(zip(self.names, main.tolist(), strict=True)),
            **probes,
        }


def validation_part(episode: NDArray[np.int64], *, seed: int) -> Tensor:
    """Choose the samples (M,) bool of a fifth of the episodes, at least one and not all.

    With a single episode, its last fifth.
    """
    ids = np.unique(episode)
    if len(ids) < 2:
        return torch.arange(len(episode)) >= int(len(episode) * (1.0 - VALIDATION_SHARE))
    count = max(1, round(VALIDATION_SHARE * len(ids)))
    return torch.from_numpy(np.isin(episode, np.random.default_rng(seed).permutation(ids)[:count]))


def measure_probes(
    data: ProbeSet,
    encode: Callable[[NDArray[np.uint8]], Tensor],
    encode_random: Callable[[NDArray[np.uint8]], Tensor],
    *,
    seed: int,
) -> ProbeReport | None:
    """Fit probes of the state on training frames and measure them on held-out frames.

    Args:
        data: Frames and states.
        encode: The trained encoder, frames (M, height, width, 3) to tokens (M, N, D).
        encode_random: The same encoder with fresh weights.
        seed: Seed of the validation part and of the MLPs.

    Returns:
        R^2 of every probe, or None when no variable of the state varies.
    """
    y, y_test, names = data.targets()
    varies = (y.std(0) > SMALLEST_STD) & (y_test.std(0) > SMALLEST_STD)
    if not varies.any():
        return None
    y, y_test = y[:, varies], y_test[:, varies]
    validation = validation_part(data.train_episode, seed=seed)
    r2: dict[str, NDArray[np.float64]] = {}
    random_r2: dict[str, NDArray[np.float64]] = {}
    linear = None
    for scores, function in ((r2, encode), (random_r2, encode_random)):
        tokens, tokens_test = function(data.train_frames).cpu(), function(data.test_frames).cpu()
        for form in ("pooled", "flattened"):
            x, x_test = (t.mean(1) if form == "pooled" else t.flatten(1) for t in (tokens, tokens_test))
            probe = fit_linear(x, y, validation)
            scores[f"linear_{form}"] = r2_score(y_test, probe(x_test)).double().numpy()
            scores[f"mlp_{form}"] = r2_score(y_test, fit_mlp(x, y, seed=seed)(x_test)).double().numpy()
            if scores is r2 and form == "flattened":
                linear = probe
    pixels = fit_linear(downsample(data.train_frames), y, validation)
    r2["linear_pixels"] = r2_score(y_test, pixels(downsample(data.test_frames))).double().numpy()
    assert linear is not None
    return ProbeReport([name for name, keep in zip(names, varies.tolist(), strict=True) if keep], r2, random_r2, linear)
