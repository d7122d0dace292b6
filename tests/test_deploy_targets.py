"""What an export has for each target: OpenVINO and ExecuTorch give the same numbers, TensorRT gets its command."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lewm.deploy.graphs import Graph
from lewm.deploy.manifest import Manifest
from lewm.deploy.processor import has_bfloat16
from lewm.deploy.targets import require_target, write_target
from test_deploy_runtime import CASES, World

onnx = pytest.importorskip("onnx")
files = pytest.importorskip("lewm.deploy.onnx_files")


@pytest.fixture
def manifest() -> Manifest:
    return World(CASES["continuous"]).manifest


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c = self.linear(a) + b
        return c, c.argmax(-1)


def graph_of() -> tuple[Graph, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    graph = Graph(Both(), {"a": torch.zeros(2, 8), "b": torch.zeros(2, 8)}, ("c", "d"))
    rng = np.random.default_rng(0)
    row = np.broadcast_to(rng.standard_normal(8).astype(np.float32), (2, 8))  # has no memory of its own for each row
    return graph, {"b": row, "a": rng.standard_normal((2, 8)).astype(np.float32)}


def check(session, graph: Graph, given: dict[str, np.ndarray]) -> None:
    expected = graph({name: torch.from_numpy(value.copy()) for name, value in given.items()})
    found = session(given)
    assert tuple(found) == ("c", "d")
    np.testing.assert_allclose(found["c"], expected["c"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["d"], expected["d"])
    session({name: value + 1 for name, value in given.items()})
    np.testing.assert_allclose(found["c"], expected["c"], rtol=1e-5, atol=1e-5)  # is not overwritten by a later run


@pytest.mark.slow
def test_graphs_of_a_process_share_threads(tmp_path: Path) -> None:
    graph, given = graph_of()
    files.write_onnx(graph, tmp_path / "both.onnx")
    said = files.described(graph, "both.onnx")
    np.savez(tmp_path / "given.npz", a=given["a"], b=given["b"])
    # in a process of its own: it cannot be undone
    code = f"""
import os
from pathlib import Path
import numpy as np
from lewm.deploy.manifest import GraphFile, Tensors
from lewm.deploy.sessions import Session, share_threads

given, said = dict(np.load({str(tmp_path / "given.npz")!r})), {said!r}
count = lambda: len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
share_threads(1)
share_threads(3)
before = count()
sessions = [Session(Path({str(tmp_path / "both.onnx")!r}), said, provider="cpu", threads=3) for _ in range(4)]
assert count() == before, (before, count())
assert all(np.isfinite(session(given)["c"]).all() for session in sessions)
share_threads(3)
try:
    share_threads(2)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "threads=2: this process shares 3 already; use 3\n"
    assert not done.stderr  # nor does ONNX Runtime complain


@pytest.mark.slow
@pytest.mark.skipif(not has_bfloat16(), reason="this processor multiplies no bfloat16 numbers")
def test_openvino_computes_in_bfloat16_where_it_is_asked_to(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from lewm.deploy.sessions import session_class

    graph, given = graph_of()
    files.write_onnx(graph, tmp_path / "both.onnx")
    exact, rough = (
        session_class("openvino", name)(
            tmp_path / "both.onnx", files.described(graph, "both.onnx"), provider="cpu", threads=1
        )(given)["c"]
        for name in ("float32", "bfloat16")
    )
    assert 1e-4 < np.abs(exact - rough).max() < 0.05


@pytest.mark.slow
def test_openvino_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from lewm.deploy.sessions import OpenVINOSession

    graph, given = graph_of()
    files.write_onnx(graph, tmp_path / "both.onnx")
    said = files.described(graph, "both.onnx")
    check(OpenVINOSession(tmp_path / "both.onnx", said, provider="cpu", threads=1), graph, given)
    with pytest.raises(ValueError, match="provider=cuda: an export of --target openvino runs on cpu; leave it out"):
        OpenVINOSession(tmp_path / "both.onnx", said, provider="cuda", threads=1)
    other = replace(said, inputs=replace(said.inputs, shapes=((2, 8), (2, 9))))
    with pytest.raises(ValueError, match=r"both.onnx: has other inputs than the manifest says; export the run again"):
        OpenVINOSession(tmp_path / "both.onnx", other, provider="cpu", threads=1)
    (tmp_path / "both.onnx").write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match=r"both.onnx: is no graph that this OpenVINO loads"):
        OpenVINOSession(tmp_path / "both.onnx", said, provider="cpu", threads=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_executorch_gives_the_same_and_leaves_no_product_to_slow_operators(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    from lewm.deploy import executorch_files, executorch_session

    graph, given = graph_of()
    path = tmp_path / "both.pte"
    assert executorch_files.write_pte(graph, path) > 0
    said = files.described(graph, "both.pte")
    check(executorch_session.ExecuTorchSession(path, said, provider="cpu", threads=None), graph, given)
    path.unlink()
    with pytest.raises(ValueError, match=r"both.pte: XNNPACK takes none of .*aten.(linear|addmm|mm)"):
        executorch_files.write_pte(graph, path, partitioners=())
    assert not path.exists()


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("float32", "--noTF32"), ("bfloat16", "--bf16"), ("float16", "--fp16"), ("int8", "--int8 --fp16")],
)
def test_tensorrt_gets_its_command_and_is_marked_as_not_run(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, flags: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    told = replace(manifest, target="tensorrt", precision=precision)  # pyright: ignore[reportArgumentType]
    frames = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 1, 3, 3, 3)
    assert write_target(tmp_path, told, frames) == "not run"
    lines = (tmp_path / "build.sh").read_text("utf-8").splitlines()
    assert lines[3] == f"trtexec --onnx=encode.onnx --saveEngine=encode.engine {flags} --skipInference"
    assert len(lines) == 3 + len(manifest.graphs)
    assert "Shapes" not in "".join(lines)  # they are static
    np.testing.assert_array_equal(np.load(tmp_path / "calibration.npy"), frames)


def test_tensorrt_builds_where_it_is(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "trtexec"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$1" >> built; [ "$1" != --onnx=judge.onnx ] || { echo no memory >&2; exit 3; }\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    graphs = {name: graph for name, graph in manifest.graphs.items() if name in ("encode", "improve")}
    told = replace(manifest, target="tensorrt", graphs=graphs)
    frames = np.zeros((1, 1, 3, 3, 3), np.uint8)
    assert write_target(tmp_path, told, frames) == "built"
    assert (tmp_path / "built").read_text() == "--onnx=encode.onnx\n--onnx=improve.onnx\n"
    subprocess.run(
        ["sh", "-e", tmp_path / "build.sh"], check=True
    )  # the command that is written is the one that is run
    assert (tmp_path / "built").read_text().count("\n") == 4
    with pytest.raises(ValueError, match=r"target=tensorrt: trtexec --onnx=judge.onnx: no memory; report it"):
        write_target(tmp_path, replace(told, graphs={"judge": manifest.graphs["judge"]}), frames)


def test_targets_that_cannot_be_written_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="precision=int8: a program for ExecuTorch has float32; use --target onnx for"):
        require_target("executorch", "int8")
    with pytest.raises(
        ValueError, match="precision=bfloat16: ONNX Runtime has no such products on a CPU; use --target"
    ):
        require_target("onnx", "bfloat16")
    monkeypatch.setattr("lewm.deploy.targets.has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match="precision=bfloat16: this processor multiplies no such numbers"):
        require_target("openvino", "bfloat16")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for target in ("openvino", "executorch"):
        with pytest.raises(
            ValueError, match=rf'target={target}: needs the package {target}; pip install "lewm\[{target}\]"'
        ):
            require_target(target, "float32")
    require_target("tensorrt", "int8")
