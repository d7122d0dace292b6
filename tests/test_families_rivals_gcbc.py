"""Goal-conditioned cloning: which actions count, what is acted, and that it learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.data.store import split_episodes
from lewm.families.rivals.gcbc import cloning_loss
from lewm.train import load_run, train
from lewm.train.checkpoint import METRICS
from tiny import moving_dot, override, rival


def test_only_actions_before_the_goal_count() -> None:
    out, target = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    before = torch.tensor([[True, False, False], [True, True, True]])
    errors = ((out - target) ** 2).mean(-1).numpy()
    expected = np.mean([errors[0, 0], *errors[1]])
    np.testing.assert_allclose(cloning_loss(out, target, before), expected, rtol=1e-6)


def test_discrete_actions_are_scored_by_cross_entropy() -> None:
    out, target = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 2, 1]])
    before = torch.tensor([[True, True, False], [True, False, False]])
    log_probs = out.numpy() - np.log(np.exp(out.numpy()).sum(-1, keepdims=True))
    expected = -np.mean([log_probs[0, 0, 0], log_probs[0, 1, 1], log_probs[1, 0, 3]])
    np.testing.assert_allclose(cloning_loss(out, target, before), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("discrete", [False, True])
def test_learns_the_direction_of_the_goal(tmp_path: Path, discrete: bool) -> None:
    """Through the loop that trains everything else."""
    store = moving_dot(tmp_path / "store", episodes=40, length=16, discrete=discrete)
    config = override(
        rival("gcbc"),
        {"train.steps": 150, "train.batch_size": 32, "model.chunk": 2, "model.goal_offset": 8, "data.held_out": 0.1},
    )
    train(config, store.path, tmp_path / "run", progress=False)
    curve = [json.loads(line)["loss"] for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert np.mean(curve[-10:]) < 0.3 * np.mean(curve[:10])
    model = load_run(tmp_path / "run").model
    _, held_out = split_episodes(40, held_out=0.1, seed=0)
    start = store.episodes.start[held_out]
    frame, goal = (torch.from_numpy(store.frames[start + k]) for k in (3, 9))
    acted, taken = model.decide(frame, goal).numpy(), store.actions[start + 3]
    assert acted.shape == ((4, 2) if discrete else (4, 2, 2))
    if discrete:
        assert (acted == taken[:, None]).all()
    else:
        along = (acted * taken[:, None]).sum(-1) / np.linalg.norm(acted, axis=-1)
        assert (along > 0.71).all()  # nearer to the right one of the four directions than to any other
