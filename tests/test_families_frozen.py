"""A pretrained encoder from an ONNX file: what is taken of it, the cache of its tokens, and a run on it end to end."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm.config import Config
from lewm.data import Store
from lewm.evaluate import evaluate_run
from lewm.evaluate import probe as probe_module
from lewm.families.family import make_model
from lewm.families.frozen import feature_store
from lewm.families.frozen.feature_store import FeatureStore
from lewm.families.frozen.onnx_encoder import OnnxEncoder, sha256
from lewm.families.frozen.settings import FrozenSettings
from lewm.families.presets import preset
from lewm.train import load_run, resume, train
from lewm.train.checkpoint import METRICS
from tiny import IMAGE, TINY, moving_dot, override

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
D = 6


def encoder_file(path: Path, *, seed: int = 0, form: str = "planes", batch: Any = "B") -> Path:
    """Write an encoder of one convolution with patches of 8 pixels: (B, D, rows, columns), or (B, 1 + N, D) tokens."""
    rng = np.random.default_rng(seed)
    make, floats = onnx.helper.make_tensor, onnx.TensorProto.FLOAT
    weight = make("w", floats, (D, 3, 8, 8), rng.normal(size=D * 3 * 64) / 8)
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["planes"], kernel_shape=[8, 8], strides=[8, 8])]
    constants, shape = [weight], [batch, D, "rows", "columns"]
    if form == "tokens":
        constants += [
            make("flat", onnx.TensorProto.INT64, (3,), [0, D, -1]),
            make("class", floats, (1, 1, D), np.full(D, 100.0)),
        ]
        nodes += [
            onnx.helper.make_node("Reshape", ["planes", "flat"], ["columns"]),
            onnx.helper.make_node("Transpose", ["columns"], ["places"], perm=[0, 2, 1]),
            onnx.helper.make_node("Concat", ["class", "places"], ["tokens"], axis=1),
        ]
        shape = [batch, "N", D]
    graph = onnx.helper.make_graph(
        nodes,
        "encoder",
        [onnx.helper.make_tensor_value_info("x", floats, [batch, 3, "height", "width"])],
        [onnx.helper.make_tensor_value_info(form, floats, shape)],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def frozen(path: Path, **settings: Any) -> Config:
    model = {
        "encoder_file": str(path), "encoder_size": IMAGE, "image_size": IMAGE, "pool": 0, "predictor_width": 12,
        "predictor_depth": 1,
    }  # fmt: skip
    base = override(TINY, {"preset": "frozen", "model": FrozenSettings(**model | settings)})
    return override(base, {"train.steps": 6, "train.checkpoint_every": 3})


def pictures(count: int, size: int = IMAGE) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_tokens_are_those_of_the_file(tmp_path: Path) -> None:
    encoder = OnnxEncoder(frozen_settings(encoder_file(tmp_path / "e.onnx")))
    frame = pictures(3)
    planes = frame.numpy().transpose(0, 3, 1, 2) / 255.0
    planes = (planes - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[:, None, None]
    weight = np.random.default_rng(0).normal(size=D * 3 * 64).reshape(D, 3 * 64) / 8
    patches = planes.reshape(3, 3, 4, 8, 4, 8).transpose(0, 2, 4, 1, 3, 5).reshape(3, 16, 3 * 64)
    torch.testing.assert_close(encoder(frame), torch.from_numpy(patches @ weight.T).float(), rtol=1e-3, atol=1e-4)
    pooled = OnnxEncoder(frozen_settings(tmp_path / "e.onnx", pool=2))(frame)
    expected = encoder(frame).view(3, 2, 2, 2, 2, D).mean((2, 4)).view(3, 4, D)
    torch.testing.assert_close(pooled, expected)


def frozen_settings(path: Path, **settings: Any) -> FrozenSettings:
    model = frozen(path, **settings).model
    assert isinstance(model, FrozenSettings)
    return model


def test_a_class_token_is_left_out(tmp_path: Path) -> None:
    path = encoder_file(tmp_path / "tokens.onnx", form="tokens", batch=1)
    frame = pictures(2)
    with_class = OnnxEncoder(frozen_settings(path))(frame)
    assert with_class.shape == (2, 17, D)
    assert (with_class[:, 0] == 100).all()
    torch.testing.assert_close(OnnxEncoder(frozen_settings(path, skip_tokens=1))(frame), with_class[:, 1:])


def test_files_that_do_not_fit_are_refused_in_a_line(tmp_path: Path) -> None:
    path = encoder_file(tmp_path / "e.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    other = sha256(encoder_file(tmp_path / "other.onnx", seed=1))
    for settings, message in (
        ({"encoder_file": ""}, r"^model\.encoder_file=: no such file; give the ONNX file of an encoder"),
        ({"encoder_file": str(tmp_path / "none")}, r"none: no such file; give"),
        ({"encoder_file": str(tmp_path / "text.onnx")}, r"text\.onnx: is no ONNX model \(.*\); give another file$"),
        ({"encoder_sha256": other}, r": its SHA-256 is .*, and this run was trained with .*; give that file$"),
        ({"encoder_output": "pooled"}, r"^model\.encoder_output=pooled: is no output of it; use one of planes$"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            OnnxEncoder(frozen_settings(path, **settings))
        assert "\n" not in str(error.value)


def test_tokens_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = moving_dot(tmp_path / "store", episodes=3)
    calls: list[int] = []

    def encode(frames: torch.Tensor) -> torch.Tensor:
        calls.append(len(frames))
        return frames.float().mean((1, 2))[:, None]

    monkeypatch.setattr(feature_store, "FRAMES_AT_ONCE", 5)
    cached = FeatureStore(store, encode, name="mean")
    assert sum(calls) == store.num_frames + 1  # the first one tells the shape
    expected = store.frames.astype(np.float32).mean((1, 2))[:, None]
    np.testing.assert_allclose(cached.frames, expected, rtol=1e-3)
    assert np.array_equal(cached.actions, store.actions)
    assert cached.num_episodes == 3
    again = FeatureStore(Store(store.path), encode, name="mean")
    assert sum(calls) == store.num_frames + 1
    assert np.array_equal(again.frames, cached.frames)
    (store.path / "frames.npy").touch()  # the store has changed
    FeatureStore(Store(store.path), encode, name="mean")
    assert sum(calls) == 2 * (store.num_frames + 1)
    with pytest.raises(ValueError, match="is not a store"):
        Store(cached.path.with_name("store.features"))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"history": 2, "rollout_steps": 2, "pool": 2}])
def test_a_run_trains_resumes_and_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(probe_module, "MLP_STEPS", 5)
    path, store = encoder_file(tmp_path / "e.onnx"), moving_dot(tmp_path / "store")
    config = override(frozen(path, **settings), {"train.cost_steps": 4, "plan.cost": "steps_to_go"})
    monkeypatch.chdir(tmp_path)
    train(config, store.path, tmp_path / "run", progress=False)
    resume(tmp_path / "run", progress=False)
    rows = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert len(rows) == 6
    assert rows[-1]["loss"] < rows[0]["loss"] * 1.5
    loaded = load_run(tmp_path / "run")
    model = loaded.config.model
    assert isinstance(model, FrozenSettings)
    assert (model.tokens, model.width, model.encoder_sha256) == (4 if settings else 16, D, sha256(path))
    results = evaluate_run(tmp_path / "run", progress=False)
    assert results["prediction"]["error"]
    assert results["cost"]["name"] == "steps_to_go"
    encoder_file(path, seed=1)  # another encoder in its place
    with pytest.raises(ValueError, match="its SHA-256 is"):
        load_run(tmp_path / "run")


def test_loss_is_that_of_the_predicted_tokens(tmp_path: Path) -> None:
    from lewm.families.family import Batch

    path = encoder_file(tmp_path / "e.onnx")
    config = override(frozen(path, residual=False), {"model.tokens": 16, "model.width": D})
    torch.manual_seed(0)
    model = make_model(config)
    inputs = 10 * torch.randn(4, 2, 16, D) + 3
    actions = torch.randn(4, 1, 2)
    z = (inputs - inputs.mean(-1, keepdim=True)) / inputs.std(-1, correction=0, keepdim=True)
    s_hat = model.predictor([(z[:, 0], None)], model.action_embed(actions))
    expected = torch.nn.functional.smooth_l1_loss(s_hat, z[:, 1])
    losses = model.losses(Batch(inputs, actions, np.arange(4)), torch.Generator())
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-3, atol=1e-4)
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.predictor.parameters())


def test_the_preset_asks_for_its_file() -> None:
    with pytest.raises(ValueError, match=r"^model\.encoder_file=: no such file; give the ONNX file of an encoder"):
        make_model(preset("frozen"))
