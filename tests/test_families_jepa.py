"""What the article's family and the compact one share: rollouts, the EMA target, parameter counts, and weights."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lewm.families.article.model import Article
from lewm.families.article.settings import ArticleSettings
from lewm.families.compact.model import Compact
from lewm.families.jepa import Jepa, context_frames, ema_momentum
from lewm.families.presets import preset
from lewm.model.encoder import Encoder, normalise
from lewm.model.predictor import Predictor
from tiny import IMAGE, tiny, tiny_article

N, D = 16, 16


def make(**settings: Any) -> Article:
    torch.manual_seed(0)
    model = Article(tiny_article(**settings))
    with torch.no_grad():  # ages start at zero, where they could not matter
        model.predictor.age_embed.normal_()
    return model.eval()


def tokens(batch: int, length: int) -> Tensor:
    return torch.randn(batch, length, N, D, generator=torch.Generator().manual_seed(0))


def actions(batch: int, length: int) -> Tensor:
    return torch.randn(batch, length, 2, generator=torch.Generator().manual_seed(1))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def predict(model: Jepa, seen: Tensor, action: Tensor) -> Tensor:
    """Predict the next frame from whole frames (B, T, N, D) and the actions (B, T, f*A) taken at them."""
    return model.step([(z, None) for z in seen.unbind(1)], action)


def roll(model: Jepa, seen: Tensor, action: Tensor) -> Tensor:
    """Roll out the actions (B, T-1+H, f*A), of which the first lead from one of the frames seen to the next."""
    past = seen.shape[1] - 1
    return model.rollout(seen, action[:, :past], action[:, past:])


def linear(rows: int, columns: int) -> int:
    return rows * columns + columns


def transformer(width: int, depth: int) -> int:
    attention, mlp = (
        linear(width, 3 * width) + linear(width, width),
        linear(width, 4 * width) + linear(4 * width, width),
    )
    return depth * (attention + mlp + 2 * 2 * width)


def test_parameter_counts_of_the_article() -> None:
    """11.5 M and 2 M where the article says about 10 M and 4 M: the sum of its own layers."""
    stem = 3 * 64 * 9 + 2 * 64 + 64 * 128 * 9 + 2 * 128 + linear(128 * 4 * 4, 384)
    encoder = stem + 64 * 384 + transformer(384, 6)
    literal = preset("literal").model
    assert isinstance(literal, ArticleSettings)
    final = 2 * 384  # of the final LayerNorm
    assert count(Encoder(literal)) == encoder + final == 11_534_784
    predictor = linear(384, 192) + 192 + 64 * 192 + 192 + transformer(192, 4) + 2 * 192 + linear(192, 384)
    assert count(Predictor(literal, mask_tokens=True)) == predictor == 1_940_544


def test_target_starts_as_a_copy_without_gradient() -> None:
    model = Compact(tiny())
    for ours, theirs in zip(model.encoder.parameters(), model.target_encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert ours.requires_grad
        assert not theirs.requires_grad


def test_encode_uses_the_network_of_the_setting() -> None:
    frame = torch.randint(0, 256, (2, IMAGE, IMAGE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ("online", "target"):
        model = make(model__inference_encoder=name)
        with torch.no_grad():
            model.target_encoder.pos_embed.normal_(generator=torch.Generator().manual_seed(3))
        network = model.encoder if name == "online" else model.target_encoder
        assert model.encode(frame).shape == (2, N, D)
        assert torch.equal(model.encode_target(frame), model.target_encoder(frame))
        assert torch.equal(model.encode(frame), network(frame))
        assert not torch.equal(model.encoder(frame), model.target_encoder(frame))


@pytest.mark.parametrize("history", [1, 2, 4])
@pytest.mark.parametrize("past", [1, 2, 3])
def test_rollout_is_repeated_prediction(history: int, past: int) -> None:
    """Algorithm 2; with history, each prediction sees the newest frames and the actions taken at them."""
    model, horizon = make(model__history=history), 4
    seen, action = tokens(3, past), actions(3, past - 1 + horizon)
    frames = list(seen.unbind(1))
    expected = []
    for _ in range(horizon):
        now = len(frames)
        first = max(0, now - history)
        s_hat = predict(model, torch.stack(frames[first:now], dim=1), action[:, first:now])
        expected.append(s_hat)
        frames.append(s_hat)
    got = roll(model, seen, action)
    assert got.shape == (3, horizon, N, D)
    torch.testing.assert_close(got, torch.stack(expected, dim=1))


def test_rollout_is_causal_and_sees_the_history() -> None:
    model = make(model__history=2)
    seen, action = tokens(1, 2), actions(1, 5)
    base = roll(model, seen, action)
    for k in range(5):
        changed = action.clone()
        changed[:, k] += 3
        moved = (roll(model, seen, changed) - base).abs().amax((0, 2, 3)) > 1e-5
        assert moved.tolist() == [step >= k - 1 for step in range(4)], k
    older = seen.clone()
    older[:, 0] += torch.randn(N, D, generator=torch.Generator().manual_seed(5))
    assert (roll(model, older, action) - base).abs().amax((0, 2, 3)).min() > 1e-5


def test_discrete_rollout() -> None:
    model = make(action__kind="discrete", action__size=4, data__frame_skip=3)
    action = torch.randint(0, 4, (2, 5, 3), generator=torch.Generator().manual_seed(0))
    got = roll(model, tokens(2, 1), action)
    assert got.shape == (2, 5, N, D)
    torch.testing.assert_close(got[:, :1], predict(model, tokens(2, 1), action[:, :1])[:, None])


def test_ema_update() -> None:
    """xi <- tau xi + (1 - tau) theta for parameters; BatchNorm statistics stay the target's own."""
    model = make(model__ema_start=0.9)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
        for name, buffer in model.encoder.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(1)
    theta = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    xi = {name: value.clone() for name, value in model.target_encoder.state_dict().items()}
    model.after_step(0.0)
    parameters = {name for name, _ in model.encoder.named_parameters()}
    buffers = {name for name, _ in model.encoder.named_buffers()}
    assert buffers
    for name, value in model.target_encoder.state_dict().items():
        if name in parameters:
            torch.testing.assert_close(value, 0.9 * xi[name] + 0.1 * theta[name])
        else:
            assert name in buffers
            assert torch.equal(value, xi[name])
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, theta[name])


def test_ema_update_at_its_ends() -> None:
    model = make(model__ema_start=0.0, model__ema_end=1.0)
    with torch.no_grad():
        model.encoder.pos_embed.add_(1)
    before = model.target_encoder.pos_embed.clone()
    assert model.after_step(1.0) == {"ema_momentum": 1.0}
    assert torch.equal(model.target_encoder.pos_embed, before)
    model.after_step(0.0)
    assert torch.equal(model.target_encoder.pos_embed, model.encoder.pos_embed)


def test_ema_momentum() -> None:
    assert ema_momentum(0.0, 0.9, 1.0) == pytest.approx(0.9)
    assert ema_momentum(0.25, 0.9, 1.0) == pytest.approx(1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2)
    assert ema_momentum(0.5, 0.9, 1.0) == pytest.approx(0.95)
    assert ema_momentum(1.0, 0.9, 1.0) == pytest.approx(1.0)


def test_ema_update_that_the_device_decides() -> None:
    model = make(model__ema_start=0.9)
    with torch.no_grad():
        model.encoder.pos_embed.normal_()
    asked, before = copy.deepcopy(model), model.target_encoder.pos_embed.clone()
    model.after_step(0.0, only_if=torch.tensor(False))
    assert torch.equal(model.target_encoder.pos_embed, before)
    model.after_step(0.0, only_if=torch.tensor(True))
    asked.after_step(0.0)
    torch.testing.assert_close(model.target_encoder.pos_embed, asked.target_encoder.pos_embed)


def test_context_frames_are_as_many_as_there_are_early_in_an_episode_up_to_all() -> None:
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert context_frames(1, generator) == 1
    assert torch.equal(generator.get_state(), state)  # draws nothing where there is nothing to draw
    assert {context_frames(3, generator) for _ in range(50)} == {1, 2, 3}


def test_target_gathers_its_own_batch_statistics() -> None:
    model = make().train()
    frame = torch.full((4, IMAGE, IMAGE, 3), 200, dtype=torch.uint8)
    frame[:, ::2] = 10
    with torch.no_grad():
        model.target_encoder(frame)
    online, target = (dict(network.named_buffers()) for network in (model.encoder, model.target_encoder))
    assert target["stem.1.num_batches_tracked"] == 1
    assert online["stem.1.num_batches_tracked"] == 0
    assert (target["stem.1.running_mean"] - online["stem.1.running_mean"]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model__final_norm": "layer", "model__action_conditioning": "film", "model__history": 3},
        {"model__stem": "linear", "action__kind": "discrete", "action__size": 5, "data__frame_skip": 2},
    ],
)
def test_weights_round_trip(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = make(**settings)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(1)
    other = Article(tiny_article(**settings)).eval()
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    action = torch.zeros(1, 2, 2, dtype=torch.int64) if model.action_embed.kind == "discrete" else actions(1, 2)
    assert torch.equal(roll(model, tokens(1, 1), action), roll(other, tokens(1, 1), action))


@torch.no_grad()
def test_residual_prediction_starts_as_copying_and_adds_the_predictor() -> None:
    model = Article(tiny_article(model__residual=True, model__full_context_prob=1.0)).eval()
    frames, action = torch.randn(2, 1, N, D), torch.randn(2, 1, model.config.model_action_size)
    copied = normalise(frames[:, 0], "unit")
    torch.testing.assert_close(predict(model, frames, action), copied)
    torch.nn.init.normal_(model.predictor.project_out.weight)
    model.predictor.residual = False
    change = model.predictor([(frames[:, 0], None)], model.action_embed(action))
    model.predictor.residual = True
    assert change.abs().max() > 0.1
    torch.testing.assert_close(predict(model, frames, action), copied + change)


def test_residual_prediction_needs_whole_frames() -> None:
    with pytest.raises(
        ValueError, match=r"^model\.full_context_prob=0\.0: model\.residual needs whole context frames; "
    ):
        tiny_article(model__residual=True)
