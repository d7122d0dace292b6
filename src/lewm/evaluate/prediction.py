"""How well the model predicts held-out frames, beside what two trivial rivals get."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.sampler import ClipSampler
from lewm.data.store import Store
from lewm.families.family import WorldModel

BATCH = 64
SMALLEST_ERROR = 1e-10  # a rival below this does not err at all, so that a ratio to it says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionReport:
    """Prediction on held-out clips; every list follows `horizon`."""

    horizon: list[int]
    """Model steps ahead; those that no held-out episode is long enough for are left out."""
    cosine: list[float]
    """Cosine between predicted and true tokens, averaged over tokens."""
    centred_cosine: list[float]
    """Cosine between whole frames after each position's training mean is removed from all their tokens."""
    copy_cosine: list[float]
    """`cosine` of a rival that predicts the present frame."""
    copy_centred_cosine: list[float]
    """`centred_cosine` of a rival that predicts the present frame."""
    error: list[float]
    """Mean squared error of the model."""
    copy_error: list[float]
    """Mean squared error of a rival that predicts the present frame."""
    mean_error: list[float]
    """Mean squared error of a rival that predicts each position's mean over the training set."""
    error_ratio: list[float]
    """`error` over that of the better rival; NaN when that rival does not err."""
    error_ratio_ci95: list[tuple[float, float]]
    """Its 95% interval, of episodes; NaN of a single one, whose clips are alike."""
    clips: int
    """Held-out clips that were measured."""
    episodes: int
    """Held-out episodes that the clips are from."""


def score(predicted: Tensor, target: Tensor, present: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """Compare predictions of one step with the truth and with the rivals.

    The centred cosine is that of whole frames, sum_n <p_n, t_n> / (|p| |t|) with p and t the tokens without their
    position's mean. A token therefore counts by how far it is from that mean: where nothing ever changes, only noise is
    left, and an average over tokens would be made of it.

    Args:
        predicted: (B, N, D) predicted tokens.
        target: (B, N, D) tokens of the frame that came.
        present: (B, N, D) tokens of the present frame.
        mean: (N, D) mean tokens of the training set.

    Returns:
        For each clip (B,): cosine, centred_cosine, copy_cosine, copy_centred_cosine, error, copy_error, mean_error.
    """
    centred = (target - mean).flatten(1)
    return {
        "cosine": F.cosine_similarity(predicted, target, dim=-1).mean(1),
        "centred_cosine": F.cosine_similarity((predicted - mean).flatten(1), centred, dim=-1),
        "copy_cosine": F.cosine_similarity(present, target, dim=-1).mean(1),
        "copy_centred_cosine": F.cosine_similarity((present - mean).flatten(1), centred, dim=-1),
        "error": (predicted - target).square().mean((1, 2)),
        "copy_error": (present - target).square().mean((1, 2)),
        "mean_error": centred.square().mean(1),
    }


def prediction_clips(
    store: Store,
    episodes: NDArray[np.int64],
    *,
    horizons: Sequence[int],
    history: int,
    frame_skip: int,
    count: int,
    seed: int,
) -> tuple[ClipSampler, NDArray[np.int64], list[int]]:
    """Choose the clips that prediction is measured on: `history` frames and as many as the longest horizon.

    Args:
        store: Where the clips are.
        episodes: Held-out episodes.
        horizons: Model steps ahead.
        history: Frames that the model sees.
        frame_skip: Environment steps between two frames.
        count: Clips, at most.
        seed: Seed of the choice.

    Returns:
        A sampler of clips of `history` + H frames, the first frames of the chosen clips, and the horizons up to H, the
        longest one that fits into some episode.

    Raises:
        ValueError: If not even the shortest horizon fits.
    """
    longest = int(store.episodes.length[episodes].max())
    fitting = sorted({h for h in horizons if (history - 1 + h) * frame_skip < longest})
    if not fitting:
        raise ValueError(
            f"eval.horizons={tuple(horizons)}: with data.frame_skip={frame_skip} and model.history={history} no "
            f"held-out episode of {store.path} is long enough (the longest has {longest} frames); use longer episodes"
        )
    sampler = ClipSampler(
        store, episodes, clip_frames=history + fitting[-1], frame_skip=frame_skip, batch_size=BATCH, seed=seed
    )
    chosen = sampler.starts
    if len(chosen) > count:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, count, replace=False))
    return sampler, chosen, fitting


@torch.no_grad()
def roll_out_clips(model: WorldModel, frames: NDArray[np.uint8], actions: NDArray, history: int) -> Tensor:
    """Predict the frames after the first `history` ones of clips (B, T, ...), as (B, T - history, N, D)."""
    seen = torch.from_numpy(np.ascontiguousarray(frames[:, :history])).to(model.device)
    tokens = model.encode(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
    done = torch.from_numpy(actions).to(model.device)
    return model.rollout(tokens, done[:, : history - 1], done[:, history - 1 :])


@torch.no_grad()
def measure_prediction(
    model: WorldModel,
    sampler: ClipSampler,
    index: NDArray[np.int64],
    *,
    horizons: Sequence[int],
    mean: Tensor,
    batch: int = BATCH,
) -> PredictionReport:
    """Measure rollouts on held-out clips (article, section 9; Algorithm 2).

    Predictions are held against the target encoder's representation of the frames that came, which is the space that
    they are trained into.

    Args:
        model: World model in evaluation mode.
        sampler: Sampler of clips of `model.history` + max(horizons) frames.
        index: First frames of the clips to measure.
        horizons: Model steps ahead, ascending.
        mean: (N, D) mean of the target encoder's tokens over training frames, for each position.
        batch: Clips at a time.
    """
    history = model.config.model.history
    parts: dict[str, list[list[Tensor]]] = {}
    for i in range(0, len(index), batch):
        clips = sampler.clips(index[i : i + batch])
        predicted = roll_out_clips(model, clips.frames, clips.actions, history)
        present = model.encode_target(torch.from_numpy(clips.frames[:, history - 1].copy()).to(model.device))
        for k, horizon in enumerate(horizons):
            frame = torch.from_numpy(clips.frames[:, history - 1 + horizon].copy()).to(model.device)
            of_clips = score(predicted[:, horizon - 1], model.encode_target(frame), present, mean)
            for name, value in of_clips.items():
                parts.setdefault(name, [[] for _ in horizons])[k].append(value.double().cpu())
    scores = {name: np.stack([torch.cat(part).numpy() for part in values]) for name, values in parts.items()}
    means = {name: values.mean(1).tolist() for name, values in scores.items()}
    rivals = [min(pair) for pair in zip(means["copy_error"], means["mean_error"], strict=True)]
    ratio = [
        error / rival if rival > SMALLEST_ERROR else float("nan")
        for error, rival in zip(means["error"], rivals, strict=True)
    ]
    episode = np.searchsorted(sampler.store.episodes.start, index, side="right")
    intervals = []
    for k in range(len(horizons)):
        rival = min(("copy_error", "mean_error"), key=lambda name: means[name][k])
        intervals.append(ratio_interval(scores["error"][k], scores[rival][k], episode))
    return PredictionReport(
        horizon=list(horizons),
        error_ratio=ratio,
        error_ratio_ci95=intervals,
        clips=len(index),
        episodes=len(np.unique(episode)),
        **means,
    )


def ratio_interval(
    error: NDArray[np.float64], rival: NDArray[np.float64], episode: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the 95% interval of sum(error) / sum(rival), by how the ratio varies from episode to episode.

    Args:
        error: Errors of the clips (M,).
        rival: Those of the rival (M,).
        episode: Which episode each clip is from (M,): clips of one are alike, so that it counts once.

    Returns:
        Both ends; NaN with a single episode, or where the rival does not err.
    """
    _, group = np.unique(episode, return_inverse=True)
    count, total = int(group.max()) + 1, float(rival.sum())
    if count < 2 or total <= SMALLEST_ERROR * len(rival):
        return float("nan"), float("nan")
    ratio = float(error.sum()) / total
    rest = np.bincount(group, error - ratio * rival)
    half = _student(count - 1) * float(np.sqrt(count / (count - 1) * (rest @ rest))) / total
    return max(0.0, ratio - half), ratio + half


def _student(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t, from 3 degrees on by its expansion around the normal one."""
    if freedom < 3:
        return (12.706, 4.303)[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def nearest(tokens: Tensor, library: Tensor, *, batch: int = BATCH) -> Tensor:
    """Return, for representations (M, N, D), the indices (M,) of the nearest ones of a library (L, N, D)."""
    flat = library.flatten(1)
    return torch.cat([torch.cdist(part.flatten(1), flat).argmin(1) for part in tokens.split(batch)])
