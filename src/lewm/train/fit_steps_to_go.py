"""Fit the learnt planning cost on frozen representations: model steps between two frames of one trajectory."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lewm.data.store import Store
from lewm.families.family import WorldModel
from lewm.plan.steps_to_go import StepsToGo
from lewm.train.frozen_frames import ENCODE_BATCH, freeze

ROLLOUTS = 4_000
BATCH_SIZE = 256
LEARNING_RATE = 1e-3
UNRELATED = 0.1  # share of goals from any episode, labelled with the reach, so that far stays far


def fit_steps_to_go(
    model: WorldModel,
    store: Store,
    episodes: np.ndarray,
    *,
    on_step: Callable[[], None],
    on_frames: Callable[[int, int], None] = lambda done, total: None,
) -> StepsToGo:
    """Fit a learnt cost to the time between frames of the same training episode, and return it.

    The present is half of the time an encoded frame and half of the time one that the model predicted, since a planner
    asks about predictions; the goal is an encoded frame. What the head learns is the median time that the behaviour
    in the data takes, which grows with the way to go even where the distance between representations is flat.

    Args:
        model: Trained model, which is not changed. Of its settings, `train.cost_steps` are the optimiser steps; times
            up to `train.cost_reach` model steps are told apart.
        store: Where the trajectories are, as `model.inputs` gives it.
        episodes: Training episodes.
        on_step: Called after every optimiser step, for progress.
        on_frames: Called while frames are encoded, before the first step, with how many are done, of how many.

    Raises:
        ValueError: If no training episode is as long as a model step.
    """
    config = model.config
    skip, horizon = config.data.frame_skip, config.plan.horizon
    reach = config.train.cost_reach * skip  # environment steps
    rng = np.random.default_rng(config.seed)
    model.eval()

    frozen = freeze(model, store, episodes, rng, on_frames=on_frames)
    encoded, frame, end = frozen.tokens, frozen.index, frozen.end  # (M, N, D)

    # predict ahead from some of them; a prediction stands for the row of the frame that it predicts
    row = np.arange(len(frame))
    usable = row[row + skip < end]
    if len(usable) == 0:
        most = max(1, int(store.episodes.length[episodes].max()) - 1)
        raise ValueError(f"data.frame_skip={skip}: is longer than every training episode; use {most} or fewer")
    first = rng.choice(usable, min(ROLLOUTS, len(usable)), replace=False)
    predicted, stands_for = _predict(model, store, encoded, frame, end, first, skip=skip, horizon=horizon)

    device = model.device
    torch.manual_seed(config.seed)
    cost = StepsToGo(config.model.num_tokens, config.model.token_width).to(device)
    optimizer = torch.optim.AdamW(cost.parameters(), lr=LEARNING_RATE)
    for step in range(config.train.cost_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / config.train.cost_steps))
        real = rng.integers(0, len(frame), BATCH_SIZE // 2)
        imagined = rng.integers(0, len(stands_for), BATCH_SIZE // 2)
        now = np.concatenate([real, stands_for[imagined]])
        away = np.floor(rng.random(BATCH_SIZE) * (np.minimum(reach, end[now] - 1 - now) + 1)).astype(np.int64)
        unrelated = rng.random(BATCH_SIZE) < UNRELATED
        goal = np.where(unrelated, rng.integers(0, len(frame), BATCH_SIZE), now + away)
        label = np.where(unrelated, reach, away) / skip
        tokens = torch.cat([encoded[real], predicted[imagined]]).float()
        estimate = cost(tokens, encoded[goal].float())
        loss = F.l1_loss(estimate, torch.as_tensor(label, dtype=torch.float32, device=device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        on_step()
    return cost.eval()


@torch.no_grad()
def _predict(
    model: WorldModel,
    store: Store,
    encoded: Tensor,
    frame: np.ndarray,
    end: np.ndarray,
    first: np.ndarray,
    *,
    skip: int,
    horizon: int,
) -> tuple[Tensor, np.ndarray]:
    """Roll out the data's actions from cache rows `first`; return predictions (R, N, D) and the rows they stand for."""
    tokens, rows = [], []
    for i in range(0, len(first), ENCODE_BATCH):
        now = first[i : i + ENCODE_BATCH]
        # beyond an episode's end any action will do: those predictions are dropped
        index = np.minimum(frame[now][:, None] + np.arange(skip * horizon), store.num_frames - 1)
        action = torch.from_numpy(store.actions[index].reshape(len(now), horizon, -1)).to(model.device)
        rollout = model.rollout(encoded[now].float()[:, None], action[:, :0], action).half()  # (b, H, N, D)
        ahead = now[:, None] + skip * np.arange(1, horizon + 1)
        inside = ahead < end[now][:, None]
        tokens.append(rollout[torch.from_numpy(inside).to(model.device)])
        rows.append(ahead[inside])
    return torch.cat(tokens), np.concatenate(rows)
