"""Goal-conditioned cloning: which actions count, what is acted, and that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lewm.data.sampler import ClipSampler
from lewm.plan import action_space
from lewm.rivals.gcbc import GCBC, cloning_loss
from lewm.rivals.run import train_rival
from tiny import moving_dot, tiny


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


def test_goals_lie_ahead_in_the_same_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The square's place tells the time, so that goals can be looked up in the episode."""
    store = moving_dot(tmp_path / "store", episodes=4, length=12)
    config = tiny(data__frame_skip=2, plan__execute=2, eval__goal_offset=6, train__batch_size=64)
    model = GCBC(config)
    sampler = ClipSampler(store, np.arange(4), clip_frames=model.clip_frames, frame_skip=2, batch_size=64)
    clips, seen = sampler.batch(0), {}

    def forward(frame: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        seen.update(frame=frame.numpy(), goal=goal.numpy())
        return torch.zeros(64, model.length, 2)

    monkeypatch.setattr(model, "forward", forward)
    model.losses(clips, store)
    np.testing.assert_array_equal(seen["frame"], store.frames[clips.index])
    own = store.frames.reshape(4, 12, *store.frames.shape[1:])[clips.index // 12]  # (B, 12, height, width, 3)
    same = (own == seen["goal"][:, None]).all((2, 3, 4))
    assert (same.sum(1) == 1).all()  # no two frames of an episode are alike
    ahead = same.argmax(1) - clips.index % 12
    assert ahead.min() == 1
    assert ahead.max() == 6


@pytest.mark.parametrize("discrete", [False, True])
def test_learns_the_direction_of_the_goal(tmp_path: Path, discrete: bool) -> None:
    store = moving_dot(tmp_path / "store", episodes=40, length=16, discrete=discrete)
    config = tiny(
        action__kind="discrete" if discrete else "continuous",
        action__size=4 if discrete else 2,
        train__steps=150,
        train__batch_size=32,
        plan__execute=2,
        eval__goal_offset=8,
    )
    torch.manual_seed(0)
    model = GCBC(config)
    curve = train_rival(model, store, np.arange(36))
    assert np.mean(curve[-10:]) < 0.3 * np.mean(curve[:10])
    start = store.episodes.start[36:]
    acted = model.act(store.frames[start + 3], store.frames[start + 9], action_space(config, device="cpu"))
    assert acted.shape == ((4, 2) if discrete else (4, 2, 2))
    taken = store.actions[start + 3]
    if discrete:
        assert (acted == taken[:, None]).all()
    else:
        along = (acted * taken[:, None]).sum(-1) / np.linalg.norm(acted, axis=-1)
        assert (along > 0.71).all()  # nearer to the right one of the four directions than to any other
        assert np.abs(acted).max() <= 1
