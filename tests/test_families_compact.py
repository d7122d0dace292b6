"""The compact family's loss against a naive version of it."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.families.compact.model import Compact
from tiny import IMAGE, batch_of, tiny

BATCH, D = 6, 16


def setup(config: Config, length: int = 2) -> tuple[Compact, Tensor, Tensor]:
    """A model, frames and actions."""
    torch.manual_seed(0)
    model = Compact(config).train()
    with torch.no_grad():  # the target must differ from the online encoder, and ages from zero
        model.target_encoder.pos_embed.add_(torch.randn_like(model.target_encoder.pos_embed))
        model.predictor.age_embed.normal_()
    frames = torch.randint(0, 256, (BATCH, length, IMAGE, IMAGE, 3), dtype=torch.uint8)
    return model, frames, torch.randn(BATCH, length - 1, config.model_action_size)


def losses_of(model: Compact, frames: Tensor, actions: Tensor) -> dict[str, Tensor]:
    return model.losses(batch_of(frames, actions), torch.Generator().manual_seed(0))


def smooth_l1(a: Tensor, b: Tensor) -> float:
    error = np.abs(a.double().numpy() - b.double().numpy())
    return float(np.where(error < 1, error**2 / 2, error - 0.5).mean())


def test_loss_is_the_sum_of_its_parts_by_their_weights() -> None:
    config = tiny(model__slowness=0.7, model__regulariser_weight=0.3, model__regulariser="vicreg")
    model, frames, actions = setup(config)
    with torch.no_grad():
        reference = copy.deepcopy(model)
        z, s_next = reference.encoder(frames[:, 0]), reference.target_encoder(frames[:, 1])
        assert z.shape == s_next.shape == (BATCH, 1, D)
        s_hat = reference.predictor([(z, None)], reference.action_embed(actions))
        reg = model.regulariser(z, torch.zeros(BATCH, 1, dtype=torch.int64)).item()
    losses = losses_of(model, frames, actions)
    assert losses["loss_pred"].item() == pytest.approx(smooth_l1(s_hat, s_next), rel=1e-4)
    assert losses["loss_slow"].item() == pytest.approx(smooth_l1(z, s_next), rel=1e-4)
    assert losses["loss_reg"].item() == pytest.approx(reg, rel=1e-4)
    parts = losses["loss_pred"] + 0.3 * losses["loss_reg"] + 0.7 * losses["loss_slow"]
    assert losses["loss"].item() == pytest.approx(parts.item(), rel=1e-5)
    assert next(iter(losses)) == "loss"


def test_predictions_are_fed_back() -> None:
    model, frames, actions = setup(tiny(model__rollout_steps=3), 4)
    with torch.no_grad():
        reference = copy.deepcopy(model)
        s_next = reference.target_encoder(frames[:, 1:].flatten(0, 1)).unflatten(0, (BATCH, 3))
        state, expected = reference.encoder(frames[:, 0]), 0.0
        for k in range(3):
            state = reference.predictor([(state, None)], reference.action_embed(actions[:, [k]]))
            expected += smooth_l1(state, s_next[:, k]) / 3
    assert losses_of(model, frames, actions)["loss_pred"].item() == pytest.approx(expected, rel=1e-4)


def test_inverse_dynamics_decode_the_summed_action_from_the_change() -> None:
    model, frames, actions = setup(tiny(model__inverse=0.5, model__regulariser_weight=0.0, data__frame_skip=3))
    assert model.inverse is not None
    torch.nn.init.normal_(model.inverse.decode.weight)
    with torch.no_grad():
        reference = copy.deepcopy(model)
        change = reference.target_encoder(frames[:, 1]) - reference.encoder(frames[:, 0])
        decoded = change.flatten(1) @ model.inverse.decode.weight.T
    expected = ((decoded - actions[:, 0].view(BATCH, 3, 2).sum(1) / 3**0.5) ** 2).mean().item()
    losses = losses_of(model, frames, actions)
    assert losses["loss_inv"].item() == pytest.approx(expected, rel=1e-4)
    rest = losses["loss_pred"] + losses["loss_slow"] + 0.5 * losses["loss_inv"]
    assert losses["loss"].item() == pytest.approx(rest.item(), rel=1e-4)
    losses["loss_inv"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.blocks.parameters())


def test_without_a_weight_there_is_no_inverse_model() -> None:
    model, frames, actions = setup(tiny())
    assert model.inverse is None
    assert "loss_inv" not in losses_of(model, frames, actions)


def test_gradient_through_the_target_reaches_both_frames_and_both_are_regularised() -> None:
    model, frames, actions = setup(tiny(model__target_gradient=True, model__slowness=0.0))
    seen: list[Tensor] = []

    def record(tokens: Tensor, positions: Tensor) -> Tensor:
        assert positions.shape == tokens.shape[:2]
        seen.append(tokens)
        return tokens.sum() * 0

    model.regulariser = record
    reference = copy.deepcopy(model)
    loss_pred = losses_of(model, frames, actions)["loss_pred"]
    z, s_next = reference.encoder(frames[:, 0]), reference.encoder(frames[:, 1])
    s_hat = reference.predictor([(z, None)], reference.action_embed(actions))
    torch.testing.assert_close(seen[0], torch.cat([z, s_next]))
    weights = model.encoder.patch.weight, reference.encoder.patch.weight
    smooth = torch.nn.functional.smooth_l1_loss
    ours = torch.autograd.grad(loss_pred, weights[0])[0]
    both = torch.autograd.grad(smooth(s_hat, s_next), weights[1], retain_graph=True)[0]
    one = torch.autograd.grad(smooth(s_hat, s_next.detach()), weights[1])[0]
    torch.testing.assert_close(ours, both, rtol=1e-3, atol=1e-5)
    assert (both - one).abs().max() > 0.1 * both.abs().max()
    assert model.after_step(0.5) == {}
    state = model.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.target_encoder.state_dict().items())
