"""Exports in half precision and in 8-bit numbers: what becomes smaller, what stays, and when they are refused."""

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lewm.deploy import processor
from lewm.deploy.gate import driven
from lewm.deploy.graphs import Graph
from lewm.deploy.manifest import read_manifest
from lewm.deploy.parity import refuse_unlike
from lewm.deploy.runtime import Controller
from lewm.evaluate.closed_loop import paired_interval, wilson_interval
from tiny import moving_dot, override, tiny, untrained_run

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
export = pytest.importorskip("lewm.deploy.export")
precision = pytest.importorskip("lewm.deploy.precision")
files = pytest.importorskip("lewm.deploy.onnx_files")

SMALL = {"plan.horizon": 3, "plan.candidates": 8, "plan.elites": 2, "plan.iterations": 2}


class Net(nn.Module):
    """A convolution, products of two dimensions and of three, and a product that is not the model's."""

    def __init__(self, model: nn.Module, cost: torch.Tensor) -> None:
        super().__init__()
        self.model, self.cost = model, nn.Parameter(cost)

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        seen = self.model["seen"](frame).flatten(1)  # pyright: ignore[reportIndexIssue]
        wide = self.model["wide"](seen)  # pyright: ignore[reportIndexIssue]
        return torch.tanh(self.model["deep"](wide[:, None].expand(-1, 2, -1))) @ self.cost  # pyright: ignore[reportIndexIssue]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A graph of such a net, and the part of it that is the model."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"seen": nn.Conv2d(3, 16, 3, stride=2), "wide": nn.Linear(16 * 9, 40), "deep": nn.Linear(40, 24)}
    )
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    net = Net(model, torch.randn(24, 16)).requires_grad_(False)
    files.write_onnx(Graph(net, {"frame": torch.zeros(1, 3, 8, 8)}, ("out",)), path)
    return path, model


def run(path: Path, frames: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"frame": frame[None]})[0] for frame in frames])


def kinds(path: Path) -> dict[str, int]:
    """Count constants by their type, of 256 numbers or more."""
    found: dict[str, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        if np.prod(tensor.dims) >= 256:
            name = onnx.TensorProto.DataType.Name(tensor.data_type)
            found[name] = found.get(name, 0) + 1
    return found


FRAMES = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)


@pytest.mark.slow
def test_equal_constants_are_kept_once(tmp_path: Path) -> None:
    weight = torch.randn(64, 64)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Parameter(weight.clone(), requires_grad=False) for _ in range(2))

        def forward(self, frame: torch.Tensor) -> torch.Tensor:
            return torch.tanh(frame @ self.a) @ self.b

    net = Twice()
    files.write_onnx(Graph(net, {"frame": torch.zeros(1, 64)}, ("out",)), tmp_path / "net.onnx")
    assert kinds(tmp_path / "net.onnx") == {"FLOAT": 1}
    frames = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "net.onnx", frames), net(torch.from_numpy(frames)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lower", "count", "kept", "within"),
    [
        (precision.to_float16, 3, {"FLOAT16": 3, "FLOAT": 1}, 2e-3),
        (partial(precision.to_int8, kind="dynamic", seven_bits=False), 2, {"INT8": 2, "FLOAT": 2}, 0.1),
        (partial(precision.to_int8, kind="dynamic", seven_bits=True), 2, {"INT8": 2, "FLOAT": 2}, 0.15),
        (
            partial(precision.to_int8, kind="static", seven_bits=False, examples=[{"frame": f[None]} for f in FRAMES]),
            3,
            {"INT8": 3, "FLOAT": 1},
            0.15,
        ),
    ],
    ids=["float16", "dynamic", "dynamic, 7 bits", "static"],
)
def test_the_model_becomes_smaller_and_the_rest_stays(
    written: tuple[Path, nn.Module], tmp_path: Path, lower: Any, count: int, kept: dict[str, int], within: float
) -> None:
    source, model = written
    path = tmp_path / "net.onnx"
    path.write_bytes(source.read_bytes())
    assert lower(path, precision.weights_of(model)) == count
    assert kinds(path) == kept  # the cost stays float32
    ours, theirs = run(source, FRAMES), run(path, FRAMES)
    assert 0 < np.abs(ours - theirs).max() < within * np.abs(ours).max()


@pytest.mark.slow
def test_seven_bits_are_seven(written: tuple[Path, nn.Module], tmp_path: Path) -> None:
    source, model = written
    largest = []
    for seven_bits in (False, True):
        path = tmp_path / f"{seven_bits}.onnx"
        path.write_bytes(source.read_bytes())
        precision.to_int8(path, precision.weights_of(model), kind="dynamic", seven_bits=seven_bits)
        tensors = onnx.load(path).graph.initializer
        weights = [onnx.numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8]
        largest.append(max(int(np.abs(w.astype(int)).max()) for w in weights if w.size >= 256))
    assert largest[0] > 64 >= largest[1]


@pytest.mark.slow
def test_a_weight_beyond_half_precision_stays(tmp_path: Path) -> None:
    linear = nn.Linear(32, 32).requires_grad_(False)
    linear.weight[0, 0] = 1e5
    path = tmp_path / "net.onnx"
    files.write_onnx(Graph(linear, {"frame": torch.zeros(1, 32)}, ("out",)), path)
    before = path.read_bytes()
    assert precision.to_float16(path, precision.weights_of(linear)) == 0
    assert kinds(path) == {"FLOAT": 1}
    assert len(before) > 4096


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "overflow", "bfloat16"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vnni avx512_bf16\n", False, True),
        ("x86_64", "model name: x\nflags\t\t: avx2 avx_vnni fma\n", False, False),
        ("x86_64", "flags\t\t: fpu avx2 avx512bw\n", True, False),
        ("x86_64", "flags\t\t: fpu not_avx512_vnni_at_all amx_bf16\n", True, True),
        ("AMD64", None, True, False),
        ("aarch64", None, False, False),
        ("aarch64", "processor: 0\nFeatures\t: fp asimd i8mm bf16\n", False, True),
    ],
)
def test_what_the_processor_can_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, cpuinfo: str | None, overflow: bool, bfloat16: bool
) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor.sums_overflow() is overflow
    assert processor.has_bfloat16() is bfloat16


# The interval.


def test_two_that_succeed_together_differ_by_little() -> None:
    low, high = paired_interval(200, 0, 0, 0)
    assert low == pytest.approx(wilson_interval(200, 200)[0] - 1)
    assert (low, high) == (pytest.approx(-0.0188, abs=1e-4), pytest.approx(0.0188, abs=1e-4))
    low, high = paired_interval(100, 0, 0, 100)  # as often right as wrong, and always together
    assert -0.01 < low < 0 < high < 0.01
    assert paired_interval(0, 0, 0, 72)[0] < -0.05 < paired_interval(0, 0, 0, 73)[0]
    ours, theirs = paired_interval(120, 15, 5, 60), paired_interval(120, 5, 15, 60)
    assert ours == pytest.approx((-theirs[1], -theirs[0]))


def test_the_paired_interval_holds_the_true_difference() -> None:
    """Of starts that are easy or hard for both: 95% of the intervals, and far narrower than of independent ones."""
    rng = np.random.default_rng(0)
    share, held, width = np.array([0.55, 0.07, 0.03, 0.35]), 0, 0.0
    for counts in rng.multinomial(200, share, size=2000).tolist():
        low, high = paired_interval(*counts)
        held, width = held + (low <= 0.04 <= high), width + (high - low) / 2000
    assert 0.94 < held / 2000 < 0.97
    assert width < 0.1


def test_what_loses_too_much_is_refused() -> None:
    torch_solved = np.arange(200) < 150
    for lost, refused in ((0, False), (4, False), (12, True)):
        found = driven(torch_solved, torch_solved & (np.arange(200) >= lost))
        assert found["lost"] == lost
        assert found["difference"] == pytest.approx(-lost / 200)
        told = r"69\.0% of 200 starts are solved, in PyTorch 75\.0%, a difference of -"
        with pytest.raises(ValueError, match=told) if refused else contextlib.nullcontext():
            refuse_unlike({"cosine": 0.999, "driven": found}, "int8")
    few = driven(np.ones(20, bool), np.ones(20, bool))  # too few to tell
    with pytest.raises(ValueError, match=r"100\.0% of 20 starts are solved"):
        refuse_unlike({"cosine": 0.999, "driven": few}, "float16")
    with pytest.raises(ValueError, match=r"79\.0% of looks end in an action as near as by other noise"):
        refuse_unlike({"cosine": 0.999, "agreeing": 0.79}, "int8")


# The whole folder.


@pytest.mark.slow
def test_exports_of_lower_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = moving_dot(tmp_path / "store")
    config = override(tiny(data__path=str(store.path), model__width=32), SMALL)
    run = untrained_run(tmp_path / "run", config)
    monkeypatch.setattr("lewm.deploy.parity.LOOKS", 20)
    monkeypatch.setattr("lewm.deploy.parity.AGREEING", 0.0)  # of random weights
    for name, how in (("float16", "float16"), ("int8", "dynamic")):
        manifest = export.export_run(run, tmp_path / name, precision=name, progress=False)
        assert (manifest.smaller.how, "encode" in manifest.smaller.graphs) == (how, True)
        assert read_manifest(tmp_path / name)[0].smaller == manifest.smaller
        assert "judge" not in manifest.smaller.graphs
        parity = manifest.measured["parity"]
        assert 0.995 <= parity["cosine"] < 1.0
        assert 0 <= parity["agreeing"] <= 1
        assert manifest.measured["target"] == "run"
        controller = Controller.load(tmp_path / name)
        controller.set_goal(np.zeros((32, 32, 3), np.uint8))
        assert np.isfinite(controller.act(np.full((32, 32, 3), 9, np.uint8))).all()
    monkeypatch.setattr("lewm.deploy.sessions.sums_overflow", lambda: True)
    if not manifest.smaller.seven_bits:
        with pytest.raises(ValueError, match="would overflow on this processor, which has no VNNI; export it on a"):
            Controller.load(tmp_path / "int8")
    Controller.load(tmp_path / "float16")
