"""The published LeWM: its counts, its objective against NumPy, its predictor, and its released checkpoints."""

import json
import math
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lewm.config import ActionConfig, DataConfig
from lewm.families.family import Batch
from lewm.families.presets import preset
from lewm.families.published.model import Published
from lewm.families.published.modules import Predictor
from lewm.families.published.released import read_released, write_released
from lewm.families.published.released_config import from_released, to_released
from lewm.families.published.settings import PublishedSettings
from tiny import batch_of

RELEASED = PublishedSettings()
SMALL = PublishedSettings(
    image_size=28,
    width=12,
    depth=2,
    projector_width=20,
    predictor_depth=2,
    predictor_heads=2,
    predictor_head_width=8,
    predictor_mlp_width=24,
    dropout=0.0,
    num_directions=16,
)


def make(settings: PublishedSettings, kind: Any = "continuous", size: int = 2, frame_skip: int = 5) -> Published:
    config = replace(preset("published"), model=settings, data=DataConfig(frame_skip=frame_skip))
    return Published(replace(config, action=ActionConfig(kind=kind, size=size)))


def small(
    settings: PublishedSettings = SMALL, kind: str = "continuous", size: int = 2, frame_skip: int = 3
) -> Published:
    """Return a model whose every parameter matters: as it starts, its predictor ignores the actions."""
    torch.manual_seed(0)
    model = make(settings, kind, size, frame_skip)
    with torch.no_grad():
        for block in model.predictor.blocks:
            for parameter in block.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def a_batch(clips: int = 6, frames: int = 4, inputs: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (clips, frames, 28, 28, 3), dtype=torch.uint8, generator=generator)
    return batch_of(pictures, torch.randn(clips, frames - 1, inputs, generator=generator))


def released_shapes(
    *, width: int = 192, layers: int = 12, patches: int = 256, inputs: int = 10, later: bool = False
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the released names and shapes, by transformers 4 or its later releases."""

    def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((f"{name}.weight", (rows, columns)), (f"{name}.bias", (rows,)))

    def norm(name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((f"{name}.weight", (width,)), (f"{name}.bias", (width,)))

    yield "encoder.embeddings.cls_token", (1, 1, width)
    yield "encoder.embeddings.position_embeddings", (1, patches + 1, width)
    yield "encoder.embeddings.patch_embeddings.projection.weight", (width, 3, 14, 14)
    yield "encoder.embeddings.patch_embeddings.projection.bias", (width,)
    for i in range(layers):
        at = f"encoder.layers.{i}." if later else f"encoder.encoder.layer.{i}."
        parts = ("q_proj", "k_proj", "v_proj") if later else ("attention.query", "attention.key", "attention.value")
        for part in (*parts, "o_proj" if later else "output.dense"):
            yield from linear(f"{at}attention.{part}", width, width)
        yield from linear(at + ("mlp.fc1" if later else "intermediate.dense"), 4 * width, width)
        yield from linear(at + ("mlp.fc2" if later else "output.dense"), width, 4 * width)
        yield from norm(f"{at}layernorm_before")
        yield from norm(f"{at}layernorm_after")
    yield from norm("encoder.layernorm")
    yield "predictor.pos_embedding", (1, 3, width)
    yield from norm("predictor.transformer.norm")
    for i in range(6):
        at = f"predictor.transformer.layers.{i}."
        yield from norm(f"{at}attn.norm")
        yield f"{at}attn.to_qkv.weight", (3 * 16 * 64, width)
        yield from linear(f"{at}attn.to_out.0", width, 16 * 64)
        yield from norm(f"{at}mlp.net.0")
        yield from linear(f"{at}mlp.net.1", 2048, width)
        yield from linear(f"{at}mlp.net.4", width, 2048)
        yield from linear(f"{at}adaLN_modulation.1", 6 * width, width)
    yield "action_encoder.patch_embed.weight", (10, inputs, 1)
    yield "action_encoder.patch_embed.bias", (10,)
    yield from linear("action_encoder.embed.0", 4 * width, 10)
    yield from linear("action_encoder.embed.2", width, 4 * width)
    for name in ("projector", "pred_proj"):
        yield from linear(f"{name}.net.0", 2048, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.net.1.{part}", (2048,)
        yield f"{name}.net.1.num_batches_tracked", ()
        yield from linear(f"{name}.net.3", width, 2048)


def random_weights(**form: Any) -> dict[str, Tensor]:
    """Return tensors of the released names and shapes; each is filled with a number of its own."""
    tensors = {}
    for number, (name, shape) in enumerate(released_shapes(**form)):
        tensors[name] = torch.full(shape, 1e-3 * (number + 1))
    return tensors


def write_folder(folder: Path, tensors: dict[str, Any], config: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_released(RELEASED, 10) if config is None else config))
    torch.save(tensors, folder / "weights.pt")
    return folder


def test_counts_are_the_released() -> None:
    with torch.device("meta"):
        model = make(RELEASED)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts == {"encoder": 6_294_144, "predictor": 11_584_128, "action_embed": 156_206}
    assert sum(counts.values()) == 18_034_478
    shapes = dict(released_shapes())
    assert len(shapes) == 303
    assert len(model.state_dict()) == 303 + 2  # and the two moments of the actions
    buffers = sum(math.prod(shape) for name, shape in shapes.items() if "running" in name or "tracked" in name)
    assert sum(map(math.prod, shapes.values())) - buffers == 18_034_478


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 100}, r"^model\.image_size=100: must be divisible by the patch of 14; use 98 or 112$"),
        ({"image_size": 8}, r"^model\.image_size=8: .* use 14$"),
        ({"width": 100}, r"^model\.width=100: must be divisible by its 3 heads; use 99$"),
        ({"depth": 0}, r"^model\.depth=0: must be at least 1; "),
        ({"knots": 1}, r"^model\.knots=1: must be at least 2; "),
        ({"dropout": 1.0}, r"^model\.dropout=1\.0: must be in \[0, 1\); "),
        ({"regulariser_weight": -0.1}, r"^model\.regulariser_weight=-0\.1: must not be negative; "),
        ({"regulariser_weight": math.nan}, r"^model\.regulariser_weight=nan: "),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RELEASED, **settings).validate()


def epps_pulley(samples: np.ndarray, directions: np.ndarray) -> float:
    """The released statistic: 17 knots from 0 to 3, twice, by the trapezoid rule, times the number of samples."""
    t = np.linspace(0, 3, 17)
    phi = np.exp(-(t**2) / 2)
    total = 0.0
    for direction in directions.T:
        characteristic = np.exp(1j * np.outer(samples @ direction, t)).mean(0)
        integrand = np.abs(characteristic - phi) ** 2 * phi
        total += 2 * sum((integrand[k] + integrand[k + 1]) / 2 * 3 / 16 for k in range(16))
    return len(samples) * total / directions.shape[1]


@pytest.mark.parametrize("clips", [4, 6])
def test_losses_equal_the_formulas(clips: int) -> None:
    model, batch = small().double(), a_batch(clips)
    batch = replace(batch, actions=batch.actions.double())
    model.eval()  # of BatchNorm the running moments: a frame is then encoded by itself
    torch.manual_seed(5)
    losses = model.losses(batch, torch.Generator())
    torch.manual_seed(5)
    directions = torch.randn(12, 16, dtype=torch.float64)
    directions /= directions.norm(dim=0)
    with torch.no_grad():
        z = torch.stack([model.encode(frames)[:, 0] for frames in batch.frames.unbind(1)], dim=1)  # (B, T, D)
        z_hat = [  # the frame after each, from those up to it
            model.rollout(z[:, : t + 1, None], batch.actions[:, :t], batch.actions[:, t : t + 1])[:, 0, 0]
            for t in range(3)
        ]
    squared = [((z_hat[t] - z[:, t + 1]) ** 2).numpy() for t in range(3)]
    statistic = np.mean([epps_pulley(z[:, t].numpy(), directions.numpy()) for t in range(4)])
    assert losses["loss_pred"].item() == pytest.approx(np.mean(squared), rel=1e-9)
    assert losses["loss_reg"].item() == pytest.approx(statistic * 128 / clips, rel=1e-9)
    assert list(losses) == ["loss", "loss_pred", "loss_reg"]
    assert losses["loss"].item() == pytest.approx(np.mean(squared) + 0.09 * 128 / clips * statistic, rel=1e-9)


def test_the_balance_of_the_loss_does_not_follow_the_batch() -> None:
    model = small().eval()
    once = a_batch(4)
    twice = batch_of(once.frames.repeat(2, 1, 1, 1, 1), once.actions.repeat(2, 1, 1))
    parts = []
    for batch in (once, twice):
        torch.manual_seed(5)
        parts.append(model.losses(batch, torch.Generator()))
    for name in parts[0]:
        torch.testing.assert_close(parts[0][name], parts[1][name])


def test_gradients_flow_through_both_frames() -> None:
    model, batch = small(), a_batch()
    frames = batch.frames.flatten(0, 1)
    grown = model.encoder(frames).unflatten(0, (6, 4)).detach().requires_grad_()
    predicted = model.predictor(grown[:, :-1], model.action_embed(batch.actions))
    (predicted - grown[:, 1:]).square().mean().backward()
    assert grown.grad is not None
    assert (grown.grad[:, -1].abs().sum(-1) > 0).all()  # as a target alone
    assert (grown.grad[:, 0].abs().sum(-1) > 0).all()  # as an input alone
    model.losses(batch, torch.Generator())["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.slow
def test_it_learns() -> None:
    model, batch = small(), a_batch(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    curve = []
    for _ in range(30):
        losses = model.losses(batch, torch.Generator())
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        curve.append(losses["loss"].item())
    assert np.mean(curve[-3:]) < 0.6 * np.mean(curve[:3])


def test_predictor_is_causal_and_sees_actions() -> None:
    model = small().double().eval()
    z, actions = torch.randn(2, 3, 12, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    with torch.no_grad():
        e_a = model.action_embed(actions)
        before = model.predictor(z, e_a)
        for t in range(3):
            for changed in ("z", "e_a"):
                other = {"z": z.clone(), "e_a": e_a.clone()}
                other[changed][:, t] += torch.randn(12)  # a norm would hide a constant
                moved = (model.predictor(other["z"], other["e_a"]) - before).abs().sum(-1) > 1e-9  # (B, T)
                assert moved.tolist() == [[k >= t for k in range(3)]] * 2
        newest = model.predictor(z, e_a, newest=True)
    torch.testing.assert_close(newest, before[:, -1:])


def test_predictor_starts_without_its_branches() -> None:
    torch.manual_seed(0)
    predictor = make(SMALL, frame_skip=3).predictor.eval()
    z = torch.randn(2, 3, 12)
    expected = predictor.projector(predictor.norm(z + predictor.positions))
    assert torch.equal(predictor(z, torch.randn(2, 3, 12)), expected)


def test_dropout_is_of_training_alone() -> None:
    model = small(replace(SMALL, dropout=0.5))
    z, e_a = torch.randn(2, 3, 12), torch.randn(2, 3, 12)
    assert not torch.equal(model.predictor(z, e_a), model.predictor(z, e_a))
    model.eval()
    assert torch.equal(model.predictor(z, e_a), model.predictor(z, e_a))


@pytest.mark.parametrize("past", [1, 2, 3, 5])
def test_rollout_sees_the_newest_frames_and_its_predictions(past: int) -> None:
    model = small().double().eval()
    states = torch.randn(2, past, 1, 12, dtype=torch.float64)
    actions = torch.randn(2, past - 1 + 4, 6, dtype=torch.float64)
    with torch.no_grad():
        rolled = model.rollout(states, actions[:, : past - 1], actions[:, past - 1 :])
        z, e_a = states[:, :, 0], model.action_embed(actions)
        for k in range(4):
            now = past + k
            first = max(0, now - 3)
            expected = model.predictor(z[:, first:now], e_a[:, first:now])[:, -1]
            torch.testing.assert_close(rolled[:, k, 0], expected)
            z = torch.cat([z, expected[:, None]], dim=1)
    assert rolled.shape == (2, 4, 1, 12)


def test_frames_are_normalised_by_imagenet() -> None:
    model = small().double().eval()
    seen = []
    model.encoder.patch.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    frames = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    assert model.encode(frames).shape == (2, 1, 12)
    expected = (frames.double() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], expected.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)


def test_actions_are_standardised_or_one_hot() -> None:
    model = small()
    model.standardise(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 0.0]))
    seen = []
    model.action_embed.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.action_embed(torch.tensor([5.0, 3.0]).repeat(3).view(1, 1, 6))
    assert seen[0].flatten().tolist() == [1.0, 1.0] * 3  # a constant entry is only shifted

    discrete = small(kind="discrete", size=4, frame_skip=2)
    discrete.action_embed.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert discrete.action_embed(torch.tensor([[[3, 0]]])).shape == (1, 1, 12)
    assert seen[1].flatten().tolist() == [0, 0, 0, 1, 1, 0, 0, 0]


def test_fresh_encoder_is_another_of_the_same_form() -> None:
    model = small().eval()
    frames = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    fresh = model.fresh_encoder()
    assert fresh(frames).shape == model.encode(frames).shape == (2, 1, 12)
    assert not torch.allclose(fresh(frames), model.encode(frames))


@pytest.mark.slow
@pytest.mark.parametrize("later", [False, True], ids=["transformers 4", "later transformers"])
def test_released_tensors_are_read(tmp_path: Path, later: bool) -> None:
    tensors = random_weights(later=later)
    released = read_released(write_folder(tmp_path / "released", tensors))
    assert released.settings == RELEASED
    assert released.action_inputs == 10
    model = make(released.settings)
    assert model.load_state_dict(released.weights, strict=False).missing_keys == [
        "action_embed.mean",
        "action_embed.std",
    ]
    values = {name: float(tensor.flatten()[0]) for name, tensor in tensors.items() if tensor.dtype.is_floating_point}
    block = model.encoder.blocks[3]
    at = "encoder.layers.3." if later else "encoder.encoder.layer.3."
    names = {
        "query": "attention.q_proj" if later else "attention.attention.query",
        "key": "attention.k_proj" if later else "attention.attention.key",
        "value": "attention.v_proj" if later else "attention.attention.value",
        "out": "attention.o_proj" if later else "attention.output.dense",
        "fc1": "mlp.fc1" if later else "intermediate.dense",
        "fc2": "mlp.fc2" if later else "output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    for ours, theirs in names.items():
        weight = getattr(block, ours).weight
        assert torch.equal(weight, torch.full_like(weight, values[f"{at}{theirs}.weight"])), ours
    norm = model.predictor.projector.norm
    assert isinstance(norm.running_var, Tensor)
    assert isinstance(norm.num_batches_tracked, Tensor)
    assert isinstance(model.action_embed.mix.bias, Tensor)
    assert norm.running_var[0].item() == pytest.approx(values["pred_proj.net.1.running_var"])
    assert model.action_embed.mix.bias[0].item() == pytest.approx(values["action_encoder.patch_embed.bias"])
    assert model.encoder.class_token[0, 0, 0].item() == pytest.approx(values["encoder.embeddings.cls_token"])
    assert norm.num_batches_tracked.dtype == torch.int64


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    settings = replace(RELEASED, image_size=28, projector_width=8, predictor_depth=1, history=2, dropout=0.2)
    torch.manual_seed(0)
    model = make(settings, frame_skip=3)
    write_released(tmp_path / "released", model)
    released = read_released(tmp_path / "released")
    assert (released.settings, released.action_inputs) == (settings, 6)
    assert released.weights.keys() == model.state_dict().keys() - {"action_embed.mean", "action_embed.std"}
    for name, tensor in released.weights.items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"^model\.width=12: the release has no name for this encoder; "):
        write_released(tmp_path / "small", small())


@pytest.mark.slow
def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    renamed = random_weights()
    renamed["encoder.layer_norm.weight"] = renamed.pop("encoder.layernorm.weight")
    mixed = random_weights()  # one name of the later form among those of the older
    mixed["encoder.layers.0.mlp.fc1.bias"] = mixed.pop("encoder.encoder.layer.0.intermediate.dense.bias")
    missing, extra, shape, infinite, negative, sparse = (random_weights() for _ in range(6))
    del missing["pred_proj.net.1.num_batches_tracked"]
    extra["decoder.weight"] = torch.zeros(3)
    shape["predictor.pos_embedding"] = torch.zeros(1, 4, 192)
    infinite["projector.net.3.bias"][7] = math.inf
    negative["projector.net.1.running_var"][7] = -1
    sparse["projector.net.3.bias"] = torch.zeros(192).to_sparse()
    cases = [
        (renamed, r"encoder\.layernorm\.weight is missing and encoder\.layer_norm\.weight is unknown \(302 of 303"),
        (mixed, r"encoder\.encoder\.layer\.0\.intermediate\.dense\.bias is missing and encoder\.layers\.0\.mlp"),
        (missing, r"pred_proj\.net\.1\.num_batches_tracked is missing \(302 of 303 tensors are there\); give"),
        (extra, r"decoder\.weight is not of the model"),
        (shape, r"predictor\.pos_embedding=\(1, 4, 192\): config\.json makes it \(1, 3, 192\); give"),
        (infinite, r"projector\.net\.3\.bias: has numbers that are not finite; "),
        (negative, r"projector\.net\.1\.running_var=-1: a variance must not be negative; "),
        (sparse, r"projector\.net\.3\.bias: is no plain tensor of real numbers; "),
        (random_weights(later=True) | {"encoder.layernorm.bias": 3}, "is no dictionary of tensors by name; "),
        ([torch.zeros(3)], "is no dictionary of tensors by name; "),
    ]
    for tensors, message in cases:
        refusal(write_folder(tmp_path / "released", tensors), rf"weights\.pt: {message}")


def refusal(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read_released(folder)
    assert len(str(refused.value)) <= 300
    assert "\n" not in str(refused.value)


class Call:
    """Unpickles by a call that leaves a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["tensor", "whole", "bare"])
def test_a_pickle_with_a_call_is_not_run(tmp_path: Path, form: str) -> None:
    trace = tmp_path / "executed"
    call = Call(trace)
    folder = write_folder(tmp_path / "released", random_weights() | {"encoder.layernorm.bias": call})
    if form == "whole":
        torch.save(call, folder / "weights.pt")
    elif form == "bare":
        (folder / "weights.pt").write_bytes(pickle.dumps(call))
    refusal(folder, "is no file of torch.save; " if form == "bare" else r"\(it names \w+\.mkdir\); nothing in it")
    assert not trace.exists()
    pickle.loads(pickle.dumps(call))  # would have
    assert trace.exists()


@pytest.mark.slow
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "released"
    refusal(folder, "no such folder; give one with config.json and weights.pt")
    folder.mkdir()
    refusal(folder, "has no config.json; ")
    write_folder(folder, random_weights())
    content = (folder / "weights.pt").read_bytes()
    (folder / "weights.pt").write_bytes(content[: len(content) // 2])
    refusal(folder, "is no file of torch.save; ")
    middle = bytearray(content)
    middle[content.index(b"data.pkl") + 200] ^= 0xFF
    (folder / "weights.pt").write_bytes(middle)
    refusal(folder, "weights.pt: ")
    (folder / "weights.pt").rename(folder / "weights_epoch_10.pt")
    (folder / "weights_epoch_10.pt").write_bytes(content)
    assert read_released(folder).action_inputs == 10  # the one .pt file, whatever its name
    (folder / "weights_epoch_9.pt").write_bytes(content)
    refusal(folder, "has no weights.pt; ")
    for text in ("[", "\x00", '{"a":' * 100_000):
        (folder / "config.json").write_text(text)
        (folder / "weights.pt").write_bytes(content)
        refusal(folder, r"config\.json: not JSON ")


def set_entry(config: dict[str, Any], name: str, value: Any) -> None:
    *parts, last = name.split(".")
    for part in parts:
        config = config[part]
    if value is None:
        del config[last]
    else:
        config[last] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("_target_", "os.system", r"_target_=os\.system: must be stable_worldmodel\.wm\.lewm\.LeWM; "),
        ("encoder._target_", "subprocess.run", r"encoder\._target_=subprocess\.run: must be "),
        ("projector.norm_fn._target_", "torch.nn.LayerNorm", r"projector\.norm_fn\._target_=torch\.nn\.LayerNorm: "),
        ("pred_proj", None, r"pred_proj\._target_ is missing: must be "),
        ("encoder.size", "giant", r"encoder\.size=giant: must be one of tiny, small, base, large; "),
        ("encoder.pretrained", True, r"encoder\.pretrained=True: must be false; "),
        ("encoder.use_mask_token", None, r"encoder\.use_mask_token is missing: must be false; "),
        ("encoder.image_size", 225, r"model\.image_size=225: must be divisible by the patch of 14; "),
        ("encoder.image_size", "224", r"encoder\.image_size=224: must be a whole number "),
        ("encoder.layers", 3, r"encoder\.layers=3: is no setting of it; "),
        ("predictor.depth", 10**9, r"predictor\.depth=1000000000: must be a whole number of 1 to 1,000,000; "),
        ("predictor.depth", 10**5, r"weights\.pt: has 303 tensors, and config\.json makes 100012 layers; "),
        ("predictor.depth", 7, r"predictor\.transformer\.layers\.6\.adaLN_modulation\.1\.weight is missing"),
        ("predictor.heads", True, r"predictor\.heads=True: must be a whole number"),
        ("predictor.hidden_dim", 128, r"predictor\.hidden_dim=128: must be 192; "),
        ("predictor.dropout", "much", r"predictor\.dropout=much: must be a number; "),
        ("pred_proj.hidden_dim", 1024, r"pred_proj\.hidden_dim=1024: must be 2048; "),
        ("action_encoder.input_dim", None, r"action_encoder\.input_dim is missing: must be a whole number"),
        ("action_encoder.mlp_scale", 2, r"action_encoder\.mlp_scale=2: must be 4; "),
        ("history_size", 4, r"history_size=4: must be 3; "),
    ],
)
def test_configurations_of_another_model_are_refused(
    released_folder: Path, name: str, value: Any, message: str
) -> None:
    config = to_released(RELEASED, 10)
    set_entry(config, name, value)
    (released_folder / "config.json").write_text(json.dumps(config))
    refusal(released_folder, message)


@pytest.fixture(scope="module")
def released_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("released"), random_weights())


def test_what_a_configuration_may_leave_out_or_say_besides() -> None:
    config = to_released(RELEASED, 10)
    for name in ("encoder.size", "encoder.image_size", "predictor.dim_head", "action_encoder.smoothed_dim"):
        set_entry(config, name, None)
    set_entry(config, "embed_dim", 192)
    set_entry(config, "history_size", 3)
    set_entry(config, "_target_", "jepa.JEPA")
    set_entry(config, "predictor._target_", "module.ARPredictor")
    assert from_released(config, "config.json") == (RELEASED, 10)


@torch.no_grad()
def test_the_newest_prediction_alone_is_that_of_all() -> None:
    settings = PublishedSettings(
        image_size=28, width=24, depth=1, num_heads=3, predictor_depth=2, predictor_heads=2, predictor_head_width=8
    )
    predictor = Predictor(settings).eval()
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # a block starts as the identity
    for frames in (1, 2, 3):
        z, e_a = torch.randn(4, frames, 24), torch.randn(4, frames, 24)
        torch.testing.assert_close(predictor(z, e_a, newest=True), predictor(z, e_a)[:, -1:])
