"""Algorithm 1 against a naive version of it, and what one step may change."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.model import WorldModel
from lewm.objective import make_regulariser
from lewm.train.schedule import make_optimizer
from lewm.train.step import compute_loss, outside, train_step
from tiny import IMAGE, make_fused_optimizer, tiny

BATCH, N, D = 4, 16, 16


def setup(config: Config, length: int = 2) -> tuple[WorldModel, Tensor, Tensor, Tensor]:
    """A model, frames, actions and context positions."""
    torch.manual_seed(0)
    model = WorldModel(config).train()
    with torch.no_grad():  # the target must differ from the online encoder, and ages from zero
        model.target_encoder.pos_embed.add_(torch.randn_like(model.target_encoder.pos_embed))
        model.predictor.age_embed.normal_()
    frames = torch.randint(0, 256, (BATCH, length, IMAGE, IMAGE, 3), dtype=torch.uint8)
    actions = torch.randn(BATCH, length - 1, config.model_action_size)
    context_idx = torch.stack([torch.randperm(N)[:6].sort().values for _ in range(BATCH)])
    return model, frames, actions, context_idx


def smooth_l1(s_hat: np.ndarray, target: np.ndarray, beta: float, reduction: str) -> float:
    """Section 4.5, one element at a time; section 7 averages over D instead of summing."""
    total, (batch, count, width) = 0.0, s_hat.shape
    for b in range(batch):
        for j in range(count):
            for d in range(width):
                error = abs(float(s_hat[b, j, d]) - float(target[b, j, d]))
                total += error**2 / (2 * beta) if error < beta else error - beta / 2
    return total / (batch * count) / (width if reduction == "mean" else 1)


def spectral_kl(z: np.ndarray) -> float:
    """Lines 17-21."""
    matrix = z.reshape(-1, z.shape[-1]).astype(np.float64)
    sigma = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)
    p = sigma**2 / (sigma**2).sum()
    return float((p * np.log(len(p) * p)).sum())


def regulariser(config: Config) -> Callable[[Tensor, Tensor], Tensor]:
    return make_regulariser(config.loss, config.model.num_tokens)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("targets", ["all", "blocks"])
def test_loss_is_that_of_algorithm_1(reduction: str, targets: str) -> None:
    config = tiny(loss__reduction=reduction, loss__beta=0.5, loss__weight=0.3, mask__targets=targets)
    model, frames, actions, context_idx = setup(config)
    with torch.no_grad():
        reference = copy.deepcopy(model)
        z_c = reference.encoder(frames[:, 0], context_idx)  # l.7
        s_next = reference.target_encoder(frames[:, 1])  # l.10
        s_hat = reference.predictor([(z_c, context_idx)], reference.action_embed(actions))  # l.12-13
    scored = [[n for n in range(N) if targets == "all" or n not in context_idx[b]] for b in range(BATCH)]
    assert len(scored[0]) == (16 if targets == "all" else 10)
    expected_pred = smooth_l1(
        np.stack([s_hat[b, scored[b]].numpy() for b in range(BATCH)]),
        np.stack([s_next[b, scored[b]].numpy() for b in range(BATCH)]),
        0.5,
        reduction,
    )
    expected_reg = spectral_kl(z_c.numpy())
    losses = compute_loss(model, frames, actions, context_idx, regulariser(config), config)
    loss, loss_pred, loss_reg = (losses[name] for name in ("loss", "loss_pred", "loss_reg"))
    assert loss_pred.item() == pytest.approx(expected_pred, rel=1e-4)
    assert loss_reg.item() == pytest.approx(expected_reg, rel=1e-4)
    assert loss.item() == pytest.approx(expected_pred + 0.3 * expected_reg, rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_slowness_compares_the_present_with_the_next_frame_position_by_position(masked: bool) -> None:
    config = tiny(loss__slowness=0.7, loss__weight=0.0)
    model, frames, actions, context_idx = setup(config)
    context_idx = context_idx if masked else None
    with torch.no_grad():
        reference = copy.deepcopy(model)
        z_c = reference.encoder(frames[:, 0], context_idx).numpy()
        s_next = reference.target_encoder(frames[:, 1]).numpy()
    if context_idx is not None:
        s_next = np.stack([s_next[b, context_idx[b].numpy()] for b in range(BATCH)])
    losses = compute_loss(model, frames, actions, context_idx, regulariser(config), config)
    loss, loss_pred, loss_slow = (losses[name] for name in ("loss", "loss_pred", "loss_slow"))
    assert loss_slow.item() == pytest.approx(smooth_l1(z_c, s_next, config.loss.beta, "mean"), rel=1e-4)
    assert loss.item() == pytest.approx(loss_pred.item() + 0.7 * loss_slow.item(), rel=1e-5)


def test_inverse_dynamics_decode_the_summed_action_from_the_change_of_the_tokens() -> None:
    config = tiny(loss__inverse=0.5, loss__weight=0.0, mask__full_context_prob=1.0)
    model, frames, actions, _ = setup(config)
    assert model.inverse is not None
    torch.nn.init.normal_(model.inverse.decode.weight)
    with torch.no_grad():
        reference = copy.deepcopy(model)
        change = reference.target_encoder(frames[:, 1]) - reference.encoder(frames[:, 0])
        decoded = change.flatten(1) @ model.inverse.decode.weight.T
    embed = model.action_embed
    standard = ((actions[:, 0] - embed.mean) / embed.std).view(BATCH, config.data.frame_skip, config.action.size)
    expected = ((decoded - standard.sum(1) / config.data.frame_skip**0.5) ** 2).mean().item()
    losses = compute_loss(model, frames, actions, None, regulariser(config), config)
    assert losses["loss_inv"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(losses["loss_pred"].item() + 0.5 * expected, rel=1e-4)
    losses["loss_inv"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.blocks.parameters())
    assert all(p.grad is None for p in model.target_encoder.parameters())


def test_without_a_weight_there_is_no_inverse_model() -> None:
    config = tiny()
    model, frames, actions, context_idx = setup(config)
    assert model.inverse is None
    assert "loss_inv" not in compute_loss(model, frames, actions, context_idx, regulariser(config), config)


def test_full_frames() -> None:
    """Without a context every position enters, is scored, and is regularised at its own place."""
    config = tiny(mask__targets="blocks", loss__centre="position")
    model, frames, actions, _ = setup(config)
    seen: list[Tensor] = []

    def record(tokens: Tensor, positions: Tensor) -> Tensor:
        seen.extend((tokens, positions))
        return tokens.new_zeros(())

    reference = copy.deepcopy(model)
    everything = torch.arange(N).expand(BATCH, -1)
    full = compute_loss(model, frames, actions, None, record, config)
    explicit = tiny(mask__targets="all", loss__centre="position")
    torch.testing.assert_close(full, compute_loss(reference, frames, actions, everything, record, explicit))
    assert seen[0].shape == (BATCH, N, D)
    assert torch.equal(seen[1], everything)
    assert torch.equal(seen[3], everything)


@pytest.mark.parametrize(("history", "past"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_multi_step_loss_feeds_predictions_back(history: int, past: int) -> None:
    steps = 3
    config = tiny(model__history=history, train__rollout_steps=steps, loss__weight=0.2)
    model, frames, actions, context_idx = setup(config, past + steps)
    tokens_seen: list[Tensor] = []

    def record(tokens: Tensor, positions: Tensor) -> Tensor:
        tokens_seen.extend((tokens, positions))
        return tokens.new_ones(())

    reference = copy.deepcopy(model)
    with torch.no_grad():
        # the stem's batch statistics are those of all context frames together
        z_c = reference.encoder(frames[:, :past].flatten(0, 1), context_idx.repeat_interleave(past, 0)).unflatten(
            0, (-1, past)
        )
        s_next = reference.target_encoder(frames[:, past:].flatten(0, 1)).unflatten(0, (-1, steps))
        sequence: list[tuple[Tensor, Tensor | None]] = [(z_c[:, i], context_idx) for i in range(past)]
        expected = 0.0
        for k in range(steps):
            first = max(0, len(sequence) - history)
            e_a = reference.action_embed(actions[:, first : len(sequence)])
            s_hat = reference.predictor(sequence[first:], e_a)
            expected += smooth_l1(s_hat.numpy(), s_next[:, k].numpy(), 1.0, "mean") / steps
            sequence.append((s_hat, None))
    losses = compute_loss(model, frames, actions, context_idx, record, config)
    loss, loss_pred = losses["loss"], losses["loss_pred"]
    assert loss_pred.item() == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(expected + 0.2, rel=1e-4)
    tokens, positions = tokens_seen
    assert tokens.shape == (BATCH * past, 6, D)
    assert torch.equal(positions.unflatten(0, (BATCH, past))[:, past - 1], context_idx)
    assert torch.equal(positions.unflatten(0, (BATCH, past))[:, 0], context_idx)


def test_gradient_passes_through_what_is_fed_back() -> None:
    """The first action also serves the second prediction, which sees it through the first alone."""
    gradients = []
    for steps in (1, 2):
        config = tiny(train__rollout_steps=steps, loss__regulariser="none")
        model, frames, actions, context_idx = setup(config, 3)
        actions.requires_grad_()
        model.eval()  # so that the first target is the same in both
        end = 1 + steps
        loss_pred = compute_loss(model, frames[:, :end], actions[:, :steps], context_idx, regulariser(config), config)[
            "loss_pred"
        ]
        (gradient,) = torch.autograd.grad(steps * loss_pred, actions)
        gradients.append(gradient[:, 0])
    assert (gradients[1] - gradients[0]).abs().max() > 0.05 * gradients[0].abs().max() > 0


def test_outside() -> None:
    tokens = torch.arange(2 * 5).view(2, 5, 1)
    assert outside(tokens, torch.tensor([[0, 3], [1, 4]])).squeeze(-1).tolist() == [[1, 2, 4], [5, 7, 8]]


def step(
    model: WorldModel, config: Config, frames: Tensor, actions: Tensor, context_idx: Tensor | None, **other: Any
) -> tuple[dict[str, Tensor], torch.optim.Optimizer]:
    optimizer = other.pop("optimizer", None) or make_optimizer(model, config.train)
    settings = {"learning_rate": 1e-2, "momentum": 0.9, "regulariser": regulariser(config)} | other
    out = train_step(
        model,
        optimizer,
        frames,
        actions,
        context_idx,
        settings["regulariser"],
        config,
        learning_rate=settings["learning_rate"],
        momentum=settings["momentum"],
    )
    return out, optimizer


def test_no_gradient_reaches_the_target_and_all_else_learns() -> None:
    config = tiny(model__action_conditioning="film", model__history=2)
    model, frames, actions, context_idx = setup(config, 3)
    with torch.no_grad():
        dict(model.predictor.named_parameters())["blocks.0.film.weight"].normal_(std=0.1)
    step(model, config, frames, actions, context_idx)
    for name, parameter in model.named_parameters():
        if name.startswith(("target_encoder.", "steps_to_go.")):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            if not name.endswith(("qkv.bias", "patch.bias")):  # a key's bias cannot change a softmax
                assert parameter.grad.any(), name


def test_step_is_adamw_then_ema() -> None:
    """Lines 24 and 26: the target follows the weights after their update."""
    config = tiny(train__clip_norm=1e9, train__weight_decay=0.1)
    model, frames, actions, context_idx = setup(config)
    before = copy.deepcopy(model)
    step(model, config, frames, actions, context_idx, learning_rate=0.02, momentum=0.75)
    name = "blocks.0.mlp.0.weight"
    old, new = (dict(m.encoder.named_parameters())[name] for m in (before, model))
    assert new.grad is not None
    # AdamW's first step: both moments are their own gradient after bias correction
    expected = old * (1 - 0.02 * 0.1) - 0.02 * new.grad / (new.grad.abs() + config.train.eps)
    torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-6)
    target_old, target = (dict(m.target_encoder.named_parameters())[name] for m in (before, model))
    torch.testing.assert_close(target, 0.75 * target_old + 0.25 * new)


def test_gradient_is_clipped() -> None:
    config = tiny(train__clip_norm=1e-2)
    model, frames, actions, context_idx = setup(config)
    free = copy.deepcopy(model)
    out, _ = step(model, config, frames, actions, context_idx)
    assert out["grad_norm"] > 0.05  # the norm before clipping is reported

    def norm(m: WorldModel) -> float:
        return float(torch.stack([p.grad.square().sum() for p in m.parameters() if p.grad is not None]).sum().sqrt())

    assert norm(model) == pytest.approx(1e-2, rel=1e-3)
    step(free, tiny(train__clip_norm=1e9), frames, actions, context_idx)
    assert norm(free) == pytest.approx(out["grad_norm"].item(), rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("fused", [False, True])
def test_what_is_not_finite_changes_no_weight(value: float, where: str, fused: bool) -> None:
    config = tiny()
    model, frames, actions, context_idx = setup(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum() * (value if where == "loss" else 1.0)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return torch.full((BATCH, 6, D), value)

    optimizer = (make_fused_optimizer if fused else make_optimizer)(model, config.train)
    out, _ = step(
        model, config, frames, actions, context_idx, regulariser=lambda z, _: Bad.apply(z), optimizer=optimizer
    )
    assert not (torch.isfinite(out["loss"]) and torch.isfinite(out["grad_norm"]))
    assert torch.isfinite(out["loss"]) == (where == "gradient")
    for state in optimizer.state.values():  # a fused optimiser makes them first, and is then told
        assert not any(value.any() for value in state.values())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_fused_step_is_the_same_step() -> None:
    """On a GPU the optimiser is fused, and nothing waits to see whether the step was finite."""
    config = tiny()
    model, frames, actions, context_idx = setup(config)
    fused = copy.deepcopy(model)
    pairs = ((model, make_optimizer(model, config.train)), (fused, make_fused_optimizer(fused, config.train)))
    for _ in range(3):
        for m, optimizer in pairs:
            step(m, config, frames, actions, context_idx, learning_rate=1e-3, optimizer=optimizer)
    for (name, ours), theirs in zip(model.named_parameters(), fused.parameters(), strict=True):
        if not name.endswith(("qkv.bias", "patch.bias")):  # a key's bias cannot change a softmax: noise, made large
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_bfloat16_is_close_to_float32() -> None:
    exact, rough = tiny(), tiny(train__precision="bfloat16")
    model, frames, actions, context_idx = setup(exact)
    other = copy.deepcopy(model)
    out, _ = step(model, exact, frames, actions, context_idx)
    half, _ = step(other, rough, frames, actions, context_idx)
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert value.item() == pytest.approx(out[name].item(), rel=0.05), name
    assert half["loss"] != out["loss"]  # the switch does something
    for name, parameter in other.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.isfinite(parameter).all(), name


def test_a_batch_can_be_learnt() -> None:
    config = tiny(loss__weight=0.0, loss__regulariser="none")
    model, frames, actions, context_idx = setup(config)
    optimizer = make_optimizer(model, config.train)
    losses = [
        train_step(
            model,
            optimizer,
            frames,
            actions,
            context_idx,
            regulariser(config),
            config,
            learning_rate=1e-2,
            momentum=1.0,
        )["loss_pred"].item()
        for _ in range(40)
    ]
    assert losses[-1] < 0.6 * losses[0]


def test_straightening_is_one_minus_the_cosine_of_two_changes_in_a_row() -> None:
    config = tiny(loss__straightening=0.4, loss__weight=0.0, train__rollout_steps=2, mask__full_context_prob=1.0)
    model, frames, actions, _ = setup(config, length=3)
    with torch.no_grad():
        reference = copy.deepcopy(model)
        z = reference.encoder(frames[:, 0]).flatten(1).double().numpy()
        later = reference.target_encoder(frames[:, 1:].flatten(0, 1)).unflatten(0, (BATCH, 2)).flatten(2)
    first, second = later[:, 0].double().numpy() - z, (later[:, 1] - later[:, 0]).double().numpy()
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    expected = np.mean(1 - (first * second).sum(1) / lengths)
    losses = compute_loss(model, frames, actions, None, regulariser(config), config)
    assert losses["loss_straight"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(losses["loss_pred"].item() + 0.4 * expected, rel=1e-4)


def test_published_form_sends_gradients_through_both_frames_and_regularises_both() -> None:
    settings = {"loss__target_gradient": True, "mask__full_context_prob": 1.0, "loss__weight": 0.3}
    config = tiny(**settings, model__latent="frame", model__final_norm="none", loss__form="mse")
    model, frames, actions, _ = setup(config)
    seen: list[Tensor] = []

    def regularise(tokens: Tensor, positions: Tensor) -> Tensor:
        assert positions.shape == tokens.shape[:2]
        seen.append(tokens)
        return tokens.sum() * 0

    reference = copy.deepcopy(model)
    losses = compute_loss(model, frames, actions, None, regularise, config)
    z_c, s_next = reference.encoder(frames[:, 0]), reference.encoder(frames[:, 1])
    s_hat = reference.predictor([(z_c, None)], reference.action_embed(actions))
    expected = (s_hat - s_next).square().mean() / 2
    torch.testing.assert_close(seen[0], torch.cat([z_c, s_next]))
    torch.testing.assert_close(losses["loss_pred"], expected)
    ours = torch.autograd.grad(losses["loss_pred"], model.encoder.patch.weight)[0]
    both = torch.autograd.grad(expected, reference.encoder.patch.weight, retain_graph=True)[0]
    one = torch.autograd.grad((s_hat - s_next.detach()).square().mean() / 2, reference.encoder.patch.weight)[0]
    torch.testing.assert_close(ours, both, rtol=1e-3, atol=1e-5)
    assert (both - one).abs().max() > 0.1 * both.abs().max()
    optimizer = make_optimizer(model, config.train)
    train_step(model, optimizer, frames, actions, None, regularise, config, learning_rate=1e-2, momentum=0.9)
    state = model.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.target_encoder.state_dict().items())


def test_weight_of_this_step_counts() -> None:
    config = tiny(loss__weight=0.5)
    model, frames, actions, context_idx = setup(config)
    half, none = (
        compute_loss(copy.deepcopy(model), frames, actions, context_idx, regulariser(config), config, weight=weight)
        for weight in (None, 0.0)
    )
    assert none["loss"].item() == pytest.approx(none["loss_pred"].item())
    assert half["loss"].item() - none["loss"].item() == pytest.approx(0.5 * half["loss_reg"].item(), rel=1e-4)


def test_encoder_that_is_not_trained_stays_as_it_starts() -> None:
    config = tiny(train__train_encoder=False)
    model, frames, actions, context_idx = setup(config)
    parts = {"encoder.": False, "target_encoder.": False, "predictor.": True}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, config.train)
    for encoder in (model.encoder, model.target_encoder):  # as they are made: the same weights
        encoder.load_state_dict(model.encoder.state_dict())
    before |= {name: p.detach().clone() for name, p in model.named_parameters()}
    step = {"learning_rate": 1e-2, "momentum": 0.5}
    train_step(model, optimizer, frames, actions, context_idx, regulariser(config), config, **step)
    for part, moves in parts.items():
        moved = [not torch.equal(p, before[n]) for n, p in model.named_parameters() if n.startswith(part)]
        assert any(moved) == moves, part
