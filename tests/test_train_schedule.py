"""Schedules at the points that their documentation names, and what decays."""

import math
from dataclasses import replace

import pytest
import torch

from lewm.families.article.model import Article
from lewm.train.schedule import learning_rate, make_optimizer
from tiny import ARTICLE, TINY, tiny_article

TRAIN = replace(TINY.train, steps=101, warmup=0.2, learning_rate=1.0, final_learning_rate=0.1)


def test_learning_rate() -> None:
    """20 steps of warm-up, so the peak is at step 19; then 80 steps of cosine, half-way at step 60."""
    assert [learning_rate(step, TRAIN) for step in (0, 9, 19)] == pytest.approx([0.05, 0.5, 1.0])
    assert learning_rate(20, TRAIN) == pytest.approx(1.0)
    assert learning_rate(40, TRAIN) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate(60, TRAIN) == pytest.approx(0.55)
    assert learning_rate(100, TRAIN) == pytest.approx(0.1)


def test_learning_rate_without_warm_up() -> None:
    train = replace(TRAIN, warmup=0.0)
    assert learning_rate(0, train) == learning_rate(1, train) == 1.0
    assert learning_rate(100, train) == pytest.approx(0.1)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (2, 0.5), (10, 0.99)])
def test_learning_rate_of_short_runs(steps: int, warmup: float) -> None:
    train = replace(TRAIN, steps=steps, warmup=warmup)
    rates = [learning_rate(step, train) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1.0


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_what_decays(kind) -> None:
    config = tiny_article(action__kind=kind, model__action_conditioning="film", model__final_norm="layer")
    model = Article(config)
    optimizer = make_optimizer(model, replace(TRAIN, weight_decay=0.3, betas=(0.8, 0.9), eps=1e-5))
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.8, 0.9), 1e-5)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters()
    }
    assert "encoder.stem.1.weight" in norms
    free = set()
    for name, parameter in model.named_parameters():
        if name.startswith("target_encoder."):
            assert id(parameter) not in decays
            continue
        assert decays[id(parameter)] in (0.0, 0.3)
        if decays[id(parameter)] == 0:
            free.add(name)
    named = {"encoder.pos_embed", "predictor.pos_embed", "predictor.age_embed", "predictor.mask_token"}
    biases = {name for name, p in model.named_parameters() if name.endswith(".bias") and p.requires_grad}
    assert free == named | biases | {name for name in norms if not name.startswith("target_encoder.")}
    assert len(decays) == sum(p.requires_grad for p in model.parameters())


def test_decay_shrinks_weights_alone() -> None:
    """With zero gradients, AdamW multiplies what decays by 1 - rate x decay and leaves the rest."""
    torch.manual_seed(0)
    model = Article(ARTICLE)
    optimizer = make_optimizer(model, replace(TRAIN, weight_decay=0.5, learning_rate=0.1))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    weight = "predictor.blocks.0.mlp.0.weight"
    after = dict(model.named_parameters())
    torch.testing.assert_close(after[weight], before[weight] * 0.95)
    for name in ("encoder.pos_embed", "predictor.mask_token", "encoder.stem.1.weight"):
        assert torch.equal(after[name], before[name])
