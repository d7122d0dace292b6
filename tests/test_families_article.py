"""The article's loss against a naive version of Algorithm 1."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import Config
from lewm.families.article.model import Article, outside
from tiny import IMAGE, batch_of, tiny_article

BATCH, N, D = 4, 16, 16


def setup(config: Config, length: int = 2) -> tuple[Article, Tensor, Tensor, Tensor]:
    """A model, frames, actions and context positions."""
    torch.manual_seed(0)
    model = Article(config).train()
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


def losses_of(
    model: Article,
    frames: Tensor,
    actions: Tensor,
    context_idx: Tensor | None,
    regularise: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Compute the losses for a context that is given, and of all context frames that there are."""
    replaced: Any = copy.copy(model)  # whose methods are replaced
    replaced.__dict__ = model.__dict__.copy()
    replaced._sample_context = lambda *_: context_idx
    if regularise is not None:
        replaced.regulariser = regularise
    return replaced.losses(batch_of(frames, actions), all_frames(model.settings.history))


def all_frames(history: int) -> torch.Generator:
    """Return a generator whose first draw below `history` is the largest."""
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        if history == 1 or int(torch.randint(history, (), generator=generator)) == history - 1:
            return torch.Generator().manual_seed(seed)
    raise AssertionError


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("targets", ["all", "blocks"])
def test_loss_is_that_of_algorithm_1(reduction: str, targets: str) -> None:
    settings = {"model__reduction": reduction, "model__targets": targets}
    config = tiny_article(**settings, model__beta=0.5, model__regulariser_weight=0.3)
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
    losses = losses_of(model, frames, actions, context_idx)
    loss, loss_pred, loss_reg = (losses[name] for name in ("loss", "loss_pred", "loss_reg"))
    assert loss_pred.item() == pytest.approx(expected_pred, rel=1e-4)
    assert loss_reg.item() == pytest.approx(expected_reg, rel=1e-4)
    assert loss.item() == pytest.approx(expected_pred + 0.3 * expected_reg, rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_slowness_compares_the_present_with_the_next_frame_position_by_position(masked: bool) -> None:
    config = tiny_article(model__slowness=0.7, model__regulariser_weight=0.0, model__beta=0.9)
    model, frames, actions, context_idx = setup(config)
    context_idx = context_idx if masked else None
    with torch.no_grad():
        reference = copy.deepcopy(model)
        z_c = reference.encoder(frames[:, 0], context_idx).numpy()
        s_next = reference.target_encoder(frames[:, 1]).numpy()
    if context_idx is not None:
        s_next = np.stack([s_next[b, context_idx[b].numpy()] for b in range(BATCH)])
    losses = losses_of(model, frames, actions, context_idx)
    loss, loss_pred, loss_slow = (losses[name] for name in ("loss", "loss_pred", "loss_slow"))
    assert loss_slow.item() == pytest.approx(smooth_l1(z_c, s_next, 0.9, "mean"), rel=1e-4)
    assert loss.item() == pytest.approx(loss_pred.item() + 0.7 * loss_slow.item(), rel=1e-5)


def test_inverse_dynamics_decode_the_summed_action_from_the_change_of_the_tokens() -> None:
    config = tiny_article(model__inverse=0.5, model__regulariser_weight=0.0, model__full_context_prob=1.0)
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
    losses = losses_of(model, frames, actions, None)
    assert losses["loss_inv"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(losses["loss_pred"].item() + 0.5 * expected, rel=1e-4)
    losses["loss_inv"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.blocks.parameters())
    assert all(p.grad is None for p in model.target_encoder.parameters())


def test_without_a_weight_there_is_no_inverse_model() -> None:
    config = tiny_article()
    model, frames, actions, context_idx = setup(config)
    assert model.inverse is None
    assert "loss_inv" not in losses_of(model, frames, actions, context_idx)


def test_full_frames() -> None:
    """Without a context every position enters, is scored, and is regularised at its own place."""
    config = tiny_article(model__targets="blocks", model__centre="position")
    model, frames, actions, _ = setup(config)
    seen: list[Tensor] = []

    def record(tokens: Tensor, positions: Tensor) -> Tensor:
        seen.extend((tokens, positions))
        return tokens.new_zeros(())

    reference = copy.deepcopy(model)
    everything = torch.arange(N).expand(BATCH, -1)
    full = losses_of(model, frames, actions, None, record)
    explicit = tiny_article(model__targets="all", model__centre="position")
    other = Article(explicit).train()
    other.load_state_dict(reference.state_dict())
    torch.testing.assert_close(full, losses_of(other, frames, actions, everything, record))
    assert seen[0].shape == (BATCH, N, D)
    assert torch.equal(seen[1], everything)
    assert torch.equal(seen[3], everything)


@pytest.mark.parametrize("history", [1, 2, 3])
def test_multi_step_loss_feeds_predictions_back(history: int) -> None:
    steps, past = 3, history
    config = tiny_article(model__history=history, model__rollout_steps=steps, model__regulariser_weight=0.2)
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
    losses = losses_of(model, frames, actions, context_idx, record)
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
        config = tiny_article(model__rollout_steps=steps, model__regulariser="none")
        model, frames, actions, context_idx = setup(config, 3)
        actions.requires_grad_()
        model.eval()  # so that the first target is the same in both
        end = 1 + steps
        loss_pred = losses_of(model, frames[:, :end], actions[:, :steps], context_idx)["loss_pred"]
        (gradient,) = torch.autograd.grad(steps * loss_pred, actions)
        gradients.append(gradient[:, 0])
    assert (gradients[1] - gradients[0]).abs().max() > 0.05 * gradients[0].abs().max() > 0


def test_outside() -> None:
    tokens = torch.arange(2 * 5).view(2, 5, 1)
    assert outside(tokens, torch.tensor([[0, 3], [1, 4]])).squeeze(-1).tolist() == [[1, 2, 4], [5, 7, 8]]


def test_early_in_an_episode_there_are_fewer_context_frames() -> None:
    """Every number of context frames up to the history is trained on; the older ones are left out."""
    model, frames, actions, _ = setup(tiny_article(model__history=3), 4)
    counts = set()

    def record(tokens: Tensor, positions: Tensor) -> Tensor:
        counts.add(len(tokens) // BATCH)
        return tokens.new_zeros(())

    model.regulariser = record
    for seed in range(20):
        model.losses(batch_of(frames, actions), torch.Generator().manual_seed(seed))
    assert counts == {1, 2, 3}


def test_masks_follow_the_generator() -> None:
    model, frames, actions, _ = setup(tiny_article())
    one, same, other = (
        model.losses(batch_of(frames, actions), torch.Generator().manual_seed(seed))["loss_reg"].item()
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_regularising_the_frame_is_regularising_its_mean_token() -> None:
    model, frames, actions, context_idx = setup(tiny_article(model__apply_to="frame"))
    seen: list[Tensor] = []

    def record(tokens: Tensor, positions: Tensor) -> Tensor:
        seen.extend((tokens, positions))
        return tokens.new_zeros(())

    losses_of(model, frames, actions, context_idx, record)
    with torch.no_grad():
        z_c = copy.deepcopy(model).encoder(frames[:, 0], context_idx)
    torch.testing.assert_close(seen[0], z_c.mean(1, keepdim=True))
    assert torch.equal(seen[1], torch.zeros(BATCH, 1, dtype=torch.int64))
