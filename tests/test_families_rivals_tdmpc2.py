"""TD-MPC2's equations against naive forms."""

import numpy as np
import torch

from lewm.families.rivals.tdmpc2 import TDMPC2, simnorm
from tiny import batch_of, rival

RHO = 0.5


def losses(model: TDMPC2, frames: torch.Tensor, actions: torch.Tensor) -> dict[str, torch.Tensor]:
    return model.losses(batch_of(frames, actions), torch.Generator())


def test_simnorm_equals_numpy() -> None:
    z = torch.randn(3, 24, dtype=torch.float64)
    expected = np.concatenate(
        [np.exp(group) / np.exp(group).sum(1, keepdims=True) for group in np.split(z.numpy(), 3, axis=1)], axis=1
    )
    np.testing.assert_allclose(simnorm(z), expected)


def test_loss_is_the_weighted_sum_over_the_horizon() -> None:
    torch.manual_seed(0)
    model = TDMPC2(rival("tdmpc2"))
    frames = torch.randint(256, (5, 4, 32, 32, 3), dtype=torch.uint8)
    actions = torch.randn(5, 3, 2)
    z, expected = model.encode(frames[:, 0])[:, 0], 0.0
    for t in range(3):
        z = simnorm(model.dynamics(torch.cat([z, actions[:, t]], dim=1)))
        expected += RHO**t * ((z - model.encode(frames[:, t + 1])[:, 0]) ** 2).mean().item()
    np.testing.assert_allclose(losses(model, frames, actions)["loss"].item(), expected, rtol=1e-5)


def test_no_gradient_reaches_the_target() -> None:
    """With dynamics that forget the present, the encoder is left alone."""
    torch.manual_seed(0)
    model = TDMPC2(rival("tdmpc2"))
    first = model.dynamics[0][0]  # pyright: ignore[reportIndexIssue]
    frames, actions = torch.randint(256, (5, 4, 32, 32, 3), dtype=torch.uint8), torch.randn(5, 3, 2)
    losses(model, frames, actions)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters())
    model.zero_grad()
    with torch.no_grad():
        first.weight[:, : -actions.shape[-1]] = 0  # pyright: ignore[reportIndexIssue]
    losses(model, frames, actions)["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())


def test_rollout_is_what_training_rolls_out() -> None:
    torch.manual_seed(0)
    model = TDMPC2(rival("tdmpc2"))
    frames, actions = torch.randint(256, (5, 4, 32, 32, 3), dtype=torch.uint8), torch.randn(5, 3, 2)
    ahead = model.rollout(model.encode(frames[:, 0])[:, None], actions[:, :0], actions)[:, :, 0]
    targets = model.encode(frames[:, 1:].flatten(0, 1)).unflatten(0, (5, 3))[:, :, 0]
    loss = sum(RHO**t * (ahead[:, t] - targets[:, t]).square().mean() for t in range(3))
    torch.testing.assert_close(losses(model, frames, actions)["loss"], loss)
