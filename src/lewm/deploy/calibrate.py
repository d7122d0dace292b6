"""What held-out data shows of a model, by which a controller on a robot knows when not to trust it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lewm.data.sampler import ClipSampler
from lewm.deploy.graphs import StateReader
from lewm.deploy.manifest import StateGoals
from lewm.deploy.watch import Guard
from lewm.evaluate.evaluation import Evaluation, probe_set
from lewm.evaluate.frames import draw_frames, encode_frames
from lewm.evaluate.goal_reading import fit_reader

LIMIT_QUANTILE, COST_QUANTILE = 0.995, 0.999
QUANTILES = (0.5, 0.9, 0.99, 0.999)
MOST_FRAMES = 1000


@torch.no_grad()
def surprises(of: Evaluation, episode: int) -> NDArray[np.float64]:
    """Return the size of each prediction's error along an episode: the root of its mean square over N*D.

    The predictions are those that a controller compares with the next look: `plan.execute` model steps ahead.
    """
    config, ahead = of.config, of.config.plan.execute
    frame_skip, history = config.data.frame_skip, config.model.history
    frames = history + ahead
    span = of.store.episode(episode)
    if span.stop - span.start < (frames - 1) * frame_skip + 1:
        return np.zeros(0)
    sampler = ClipSampler(
        of.store, np.array([episode]), clip_frames=frames, frame_skip=frame_skip, batch_size=64, seed=0
    )
    starts = sampler.starts[:: ahead * frame_skip]  # looks follow each other
    batch = sampler.clips(starts)
    tokens = encode_frames(of.model.encode, batch.frames.reshape(-1, *batch.frames.shape[2:]), of.model.device)
    tokens = tokens.unflatten(0, batch.frames.shape[:2])  # (M, T+execute, N, D)
    actions = torch.from_numpy(batch.actions).to(of.model.device)
    predicted = of.model.rollout(tokens[:, :history], actions[:, : history - 1], actions[:, history - 1 :])[:, -1]
    return (predicted - tokens[:, -1]).square().mean((1, 2)).sqrt().cpu().numpy().astype(np.float64)


@torch.no_grad()
def calibrate(of: Evaluation) -> dict[str, float]:
    """Return the limits of surprise and cost, quantiles, and how often data that training never saw would alarm.

    The limits come from half of the held-out episodes, the rate of false alarms from the other half.
    """
    episodes = of.held_out.tolist()
    first, second = episodes[::2], episodes[1::2] or episodes
    errors = _joined([surprises(of, episode) for episode in first])
    found = {f"q{q:g}": float(np.quantile(errors, q)) for q in QUANTILES}
    limit = float(np.quantile(errors, LIMIT_QUANTILE))
    looks, alarms = 0, 0
    for episode in second:
        guard = Guard(limit, None)
        told = [guard.surprising(error) for error in surprises(of, episode).tolist()]
        looks, alarms = looks + len(told), alarms + sum(told)
    index = draw_frames(of.store, np.array(first), MOST_FRAMES, seed=of.config.seed)
    tokens = encode_frames(of.model.encode, of.store.frames[index], of.model.device)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(of.config.seed)).to(tokens.device)
    costs = of.cost(tokens, tokens[order]).cpu().numpy()
    return found | {
        "limit": limit,
        "cost_limit": float(np.quantile(costs, COST_QUANTILE)),
        "held_out_looks": float(looks),
        "false_alarms": alarms / max(looks, 1),
    }


def _joined(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    errors = np.concatenate(parts) if parts else np.zeros(0)
    if not len(errors):
        raise ValueError("export: no held-out episode is as long as a look ahead; train on longer episodes")
    return errors


def state_reader(of: Evaluation) -> tuple[StateReader, StateGoals] | tuple[None, StateGoals]:
    """Fit the probe that reads the state's variables from representations; None where the data has no states."""
    data = probe_set(of)
    if data is None:
        return None, StateGoals()

    def encode(frames: NDArray[np.uint8]) -> Tensor:
        return encode_frames(of.model.encode, frames, of.model.device)

    probe, labels, scale, r2 = fit_reader(data, encode, seed=of.config.seed)
    if not labels:
        return None, StateGoals()
    reader = StateReader(probe.weight, probe.x_mean, probe.y_mean, scale)
    scores = tuple(-1.0 if score is None else score for score in r2)
    turns = data.turns or {}
    goals = StateGoals(labels=tuple(labels), r2=scores, angles=tuple(turns), full_turns=tuple(turns.values()))
    return reader, goals
