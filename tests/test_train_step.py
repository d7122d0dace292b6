"""What one training step does, whatever the family."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.families.article.model import Article
from lewm.families.compact.model import Compact
from lewm.families.family import Batch, Family
from lewm.train.schedule import make_optimizer
from lewm.train.step import train_step
from tiny import IMAGE, batch_of, make_fused_optimizer, tiny, tiny_article

BATCH = 4


def setup(config: Config, length: int = 2) -> tuple[Compact | Article, Batch]:
    """A model and a batch."""
    torch.manual_seed(0)
    model = (Article if config.model.family == "article" else Compact)(config).train()
    with torch.no_grad():  # the target must differ from the online encoder, and ages from zero
        model.target_encoder.pos_embed.add_(torch.randn_like(model.target_encoder.pos_embed))
        model.predictor.age_embed.normal_()
    frames = torch.randint(0, 256, (BATCH, length, IMAGE, IMAGE, 3), dtype=torch.uint8)
    return model, batch_of(frames, torch.randn(BATCH, length - 1, config.model_action_size))


def step(model: Family, config: Config, batch: Batch, **other: Any) -> tuple[dict[str, Tensor], torch.optim.Optimizer]:
    optimizer = other.pop("optimizer", None) or make_optimizer(model, config.train)
    torch.manual_seed(0)  # of random directions
    settings = {"learning_rate": 1e-2, "share_done": 0.0} | other
    out, _ = train_step(model, optimizer, batch, config.train, generator=torch.Generator().manual_seed(0), **settings)
    return out, optimizer


def test_no_gradient_reaches_the_target_and_all_else_learns() -> None:
    config = tiny_article(model__action_conditioning="film", model__history=2)
    model, batch = setup(config, 3)
    with torch.no_grad():
        dict(model.predictor.named_parameters())["blocks.0.film.weight"].normal_(std=0.1)
    step(model, config, batch)
    for name, parameter in model.named_parameters():
        if name.startswith("target_encoder."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            if not name.endswith(("qkv.bias", "patch.bias")):  # a key's bias cannot change a softmax
                assert parameter.grad.any(), name


def test_step_is_adamw_then_ema() -> None:
    """Lines 24 and 26: the target follows the weights after their update."""
    config = tiny(train__clip_norm=1e9, train__weight_decay=0.1, model__ema_start=0.75)
    model, batch = setup(config)
    before = copy.deepcopy(model)
    step(model, config, batch, learning_rate=0.02)
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
    model, batch = setup(config)
    free = copy.deepcopy(model)
    out, _ = step(model, config, batch)
    assert out["grad_norm"] > 0.05  # the norm before clipping is reported

    def norm(m: Family) -> float:
        return float(torch.stack([p.grad.square().sum() for p in m.parameters() if p.grad is not None]).sum().sqrt())

    assert norm(model) == pytest.approx(1e-2, rel=1e-3)
    step(free, tiny(train__clip_norm=1e9), batch)
    assert norm(free) == pytest.approx(out["grad_norm"].item(), rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("fused", [False, True])
def test_what_is_not_finite_changes_no_weight(value: float, where: str, fused: bool) -> None:
    config = tiny()
    model, batch = setup(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum() * (value if where == "loss" else 1.0)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return torch.full((BATCH, 1, 16), value)

    optimizer = (make_fused_optimizer if fused else make_optimizer)(model, config.train)
    model.regulariser = lambda z, _: Bad.apply(z)
    out, _ = step(model, config, batch, optimizer=optimizer)
    assert not (torch.isfinite(out["loss"]) and torch.isfinite(out["grad_norm"]))
    assert torch.isfinite(out["loss"]) == (where == "gradient")
    for state in optimizer.state.values():  # a fused optimiser makes them first, and is then told
        assert not any(value.any() for value in state.values())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_a_fused_step_is_the_same_step() -> None:
    """On a GPU the optimiser is fused, and nothing waits to see whether the step was finite."""
    config = tiny_article()  # of biases before batch normalisation the gradient is noise, made large
    model, batch = setup(config)
    fused = copy.deepcopy(model)
    pairs = ((model, make_optimizer(model, config.train)), (fused, make_fused_optimizer(fused, config.train)))
    for _ in range(3):
        for m, optimizer in pairs:
            step(m, config, batch, learning_rate=1e-3, optimizer=optimizer)
    for (name, ours), theirs in zip(model.named_parameters(), fused.parameters(), strict=True):
        if not name.endswith(("qkv.bias", "patch.bias")):  # a key's bias cannot change a softmax: noise, made large
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_bfloat16_is_close_to_float32() -> None:
    exact, rough = tiny(), tiny(train__precision="bfloat16")
    model, batch = setup(exact)
    other = copy.deepcopy(model)
    out, _ = step(model, exact, batch)
    half, _ = step(other, rough, batch)
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert value.item() == pytest.approx(out[name].item(), rel=0.05), name
    assert half["loss"] != out["loss"]  # the switch does something
    for name, parameter in other.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.isfinite(parameter).all(), name


def test_a_batch_can_be_learnt() -> None:
    config = tiny(model__regulariser="none", model__slowness=0.0)
    model, batch = setup(config)
    optimizer = make_optimizer(model, config.train)
    losses = [step(model, config, batch, optimizer=optimizer, share_done=1.0)[0]["loss_pred"].item() for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0]
