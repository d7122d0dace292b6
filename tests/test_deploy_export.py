"""An export folder: graphs that are the run, a manifest that is believed only when every file is as it was."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lewm.cli import main
from lewm.deploy.bench import bench, ratios
from lewm.deploy.fold import folded
from lewm.deploy.graphs import graphs_of
from lewm.deploy.manifest import MANIFEST, read_manifest
from lewm.deploy.parity import refuse_unlike
from lewm.deploy.runtime import Controller
from lewm.envs import collect
from lewm.evaluate.evaluation import open_run
from lewm.families.family import make_model
from lewm.families.presets import preset
from lewm.plan import action_space, planning_cost
from lewm.train.checkpoint import load_run
from lewm.train.distill import distill_run
from tiny import moving_dot, override, plain_spec, tiny, untrained_run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
export = pytest.importorskip("lewm.deploy.export")

SMALL = {"plan.horizon": 3, "plan.candidates": 8, "plan.elites": 2, "plan.iterations": 2}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a run with random weights and its data."""
    path = tmp_path_factory.mktemp("export")
    store = moving_dot(path / "store")
    config = override(tiny(data__path=str(store.path)), SMALL)
    run = untrained_run(path / "run", config)
    export.export_run(run, path / "out", progress=False)
    return path / "out"


@pytest.mark.slow
def test_what_is_written(exported: Path) -> None:
    manifest, spec = read_manifest(exported)
    assert spec.task == "dot"
    graphs = (
        "encode", "improve", "finish", "improve_state", "finish_state", "imagine", "matrix", "judge", "judge_state",
        "read",
    )  # fmt: skip
    assert tuple(manifest.graphs) == graphs
    assert set(manifest.files) == {*(f"{name}.onnx" for name in graphs), "spec.json", "control.py"}
    parity = manifest.measured["parity"]
    assert parity["encode"] < 1e-5
    assert parity["improve"] < 1e-5
    assert parity["same_action"] == 1.0
    assert manifest.state_goals.labels == ("x", "y")
    for name in graphs:
        nodes = {node.op_type for node in onnx.load(exported / f"{name}.onnx").graph.node}
        assert not nodes & {"Loop", "If", "Scan", "BatchNormalization"}, name
        assert b"site-packages" not in (exported / f"{name}.onnx").read_bytes(), name  # no places of this machine
    compile((exported / "control.py").read_text(encoding="utf-8"), "control.py", "exec")


def damaged(exported: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(exported, folder)
    text = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(text | changes), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"export_version": 2}, r"export_version=2: must be 1; export the run again"),
        ({"graphs": {}}, r"graphs={}: must name the graphs; "),
        ({"precision": "float8"}, r"precision='float8': must be one of"),
        ({"plan": {}}, r"plan.planner: is missing; "),
        ({"files": {"../../x": "0"}}, r"files='../../x': must be a name in the folder; "),
        ({"files": {}}, r"files: has no digest of spec.json; "),
        ({"more": 1}, r"more: is not known; export the run again"),
        ({"correction": "a"}, r"correction='a': must be float; "),
    ],
)
def test_a_manifest_that_is_none_is_refused(exported: Path, tmp_path: Path, changes: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        Controller.load(damaged(exported, tmp_path / "x", **changes))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encode.onnx", "spec.json", "control.py"])
def test_a_changed_byte_is_refused_before_anything_is_loaded(exported: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(exported, tmp_path / "x")
    data = bytearray((tmp_path / "x" / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x" / name).write_bytes(bytes(data))
    with pytest.raises(ValueError, match=rf"{name}: is not the file that was exported, its SHA-256 differs; export"):
        Controller.load(tmp_path / "x")
    (tmp_path / "x" / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: is missing; export the run again"):
        Controller.load(tmp_path / "x")


@pytest.mark.slow
def test_a_graph_of_another_shape_is_refused(exported: Path, tmp_path: Path) -> None:
    manifest, _ = read_manifest(exported)
    folder = damaged(exported, tmp_path / "x", files=manifest.files | {"judge.onnx": manifest.files["encode.onnx"]})
    shutil.copy(folder / "encode.onnx", folder / "judge.onnx")
    with pytest.raises(ValueError, match=r"judge.onnx: has other inputs than the manifest says; export the run again"):
        Controller.load(folder)


CODE = """
import sys
sys.modules["torch"] = None  # as where it is not installed
import numpy as np
from lewm.deploy.runtime import Controller
controller = Controller.load(sys.argv[1])
controller.set_goal({"x": 3.0})
frame = np.zeros((32, 32, 3), np.uint8)
for _ in range(3):
    action = controller.act(frame)
    assert action.shape == (1, 2) and np.isfinite(action).all()
print(sorted(name for name in sys.modules if name.split(".")[0] in ("onnx", "pyarrow", "gymnasium", "av")))
"""


@pytest.mark.slow
def test_it_runs_where_there_is_no_torch(exported: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, str(exported)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


TRIAL = """
import json, sys
for name in ("torch", "pyarrow", "av", "onnx"):
    sys.modules[name] = None
from lewm.deploy.runtime import Controller
from lewm.deploy.trial import run_trial
trial = run_trial(Controller.load(sys.argv[1]), sys.argv[1], episodes=4, budget=6)
print(json.dumps(trial.summary()))
"""


@pytest.mark.slow
def test_a_trial_needs_the_base_install_and_the_tasks_alone(tmp_path: Path) -> None:
    store = collect("two-room", tmp_path / "store", episodes=6, episode_length=20, image_size=32, workers=1,
                    progress=False)  # fmt: skip
    config = override(tiny(data__path=str(store.path)), SMALL | {"eval.goal_offset": 5, "eval.episodes": 4})
    run = untrained_run(tmp_path / "run", config, plain_spec(config, task="two-room", state_names=("x", "y")))
    export.export_run(run, tmp_path / "out", progress=False)
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["episodes"], found["protocol"]) == (4, "standard")
    assert found["latency"]["looks"] >= 4
    assert found["ci95"][0] <= found["success_rate"] <= found["ci95"][1]


@pytest.mark.slow
def test_bad_pictures_and_goals_are_refused_before_any_action(exported: Path) -> None:
    controller = Controller.load(exported)
    frame = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match=r"goal=None: there is no goal; call set_goal\(goal\) first"):
        controller.act(frame)
    for goal, told in (
        (np.zeros((20, 32, 3), np.uint8), "goal: got pictures of 32x20, and the model takes 32x32; "),
        ({"z": 1.0}, "goal=z: is no variable that can be read; "),
        ({"x": (2.0, 1.0)}, "goal=x: has no value between 2.0 and 1.0; "),
        ({}, r"goal={}: names no variable; give some of "),
    ):
        with pytest.raises(ValueError, match=told):
            controller.set_goal(goal)
    controller.set_goal(frame)
    for frames, told in (
        (np.full((32, 32, 3), np.nan), "frames: got float64 of nan to nan, and pictures are"),
        (np.zeros((32, 32), np.uint8), r"frames: got uint8\(32, 32\), must be pictures"),
        (np.zeros((2, 32, 32, 3), np.uint8), "frames: got uint8.2, 32, 32, 3., must be pictures of 1 environments"),
        ("a", "frames: got str, must be pictures"),
    ):
        with pytest.raises(ValueError, match=told):
            controller.act(frames)
    assert controller.latency.summary() == {"looks": 0}


def test_folded_models_give_the_same() -> None:
    """Of the families whose parts differ: BatchNorm in a stem and a projector, attention over one token or many."""
    for name, settings in (
        ("tiny", {}),
        ("literal", {"model.depth": 1, "model.width": 48, "model.num_heads": 2}),
        ("published-small", {"model.depth": 1}),
    ):
        config = override(preset(name), settings)
        model = make_model(config)
        frames = torch.randint(0, 256, (3, config.model.image_size, config.model.image_size, 3), dtype=torch.uint8)
        with torch.no_grad():
            model.train()
            for _ in range(3):
                model.represent(frames)  # moments that are not those of the start
            model.eval()
            small = folded(model)
            close = partial(torch.testing.assert_close, rtol=1e-4, atol=2e-5)
            close(small.represent(frames), model.represent(frames))
            states, actions = model.represent(frames)[:, None], torch.randn(3, 2, config.model_action_size)
            ours, theirs = (m.rollout(states, actions[:, :0], actions) for m in (model, small))
            close(theirs, ours)
        norms = [type(m).__name__ for m in small.modules() if "BatchNorm" in type(m).__name__]
        assert not norms
        assert any("BatchNorm" in type(m).__name__ for m in model.modules())


@pytest.mark.parametrize(
    ("found", "precision", "told"),
    [
        ({"encode": 2e-4, "improve": 0.0, "same_action": 1.0}, "float32", "encode differs by 2.0e-04"),
        ({"encode": 0.0, "improve": float("nan"), "same_action": 1.0}, "float32", "improve differs by nan"),
        ({"encode": 0.0, "improve": 0.0, "same_action": 0.98}, "float32", "98.0% of looks give the same action"),
        ({"cosine": 0.99, "agreeing": 1.0}, "int8", "the cosine of a frame's tokens falls to 0.9900"),
    ],
)
def test_what_is_not_the_model_is_refused(found: dict[str, float], precision: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^export: the graphs are not the model \({told}\), and nothing was written"):
        refuse_unlike(found, precision)


def test_a_folder_that_is_there_and_runs_that_make_no_plans_are_refused(tmp_path: Path) -> None:
    store = moving_dot(tmp_path / "store")
    run = untrained_run(tmp_path / "run", tiny(data__path=str(store.path)))
    with pytest.raises(ValueError, match=r"out=.*store: is there already; give a new folder"):
        export.export_run(run, store.path, progress=False)
    with pytest.raises(ValueError, match=r"batch=0: must be at least 1; use 1 for a robot"):
        export.export_run(run, tmp_path / "out", batch=0, progress=False)
    with pytest.raises(ValueError, match=r"starts=0: must be at least 1; use 200"):
        export.export_run(run, tmp_path / "out", starts=0, progress=False)
    of = open_run(run, data=None, device="cpu", config=None)
    policy = replace(of, config=override(preset("gcbc"), {"model.image_size": 32}))
    with pytest.raises(ValueError, match="is a policy of the family gcbc, which makes no plans"):
        export.export_model(policy, tmp_path / "out", precision="float32", target="onnx", batch=1, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_times_stand_beside_what_the_machine_can_do(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = bench([exported, exported], seconds=0.05, threads=1)
    assert first["budget"] == {"candidates": 8, "horizon": 3, "iterations": 2}
    for part in ("encode", "improve", "finish", "cycle"):
        row = first[part]
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["runs"] == second[part]["runs"] >= 10
        rate = row["gflop"] / row["p50_ms"] * 1e3
        assert row["gflop_per_s"] == pytest.approx(rate, rel=0.02, abs=0.01)
        assert row["share_of_matrix_rate"] == pytest.approx(rate / first["matrix_gflop_per_s"], rel=0.03, abs=1e-3)
    assert first["matrix"]["gflop"] == pytest.approx(2 * 1024**3 / 1e9)
    whole = first["encode"]["gflop"] + 2 * first["improve"]["gflop"] + first["finish"]["gflop"]
    assert first["cycle"]["gflop"] == pytest.approx(whole, abs=2e-6)
    assert ratios(first, second)["cycle"] == pytest.approx(
        first["cycle"]["p50_ms"] / second["cycle"]["p50_ms"], abs=1e-3
    )
    assert main(["bench", str(exported), "--seconds", "0.05", "--threads", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["export"] == "out"
    assert main(["bench", str(exported), "--compare", str(exported), "--seconds", "0.02"]) == 0
    assert "times of the first over the second" in capsys.readouterr().out
    assert main(["bench", str(exported / "x")]) == 1
    assert "no such folder; give the --out folder of `lewm export`" in capsys.readouterr().err


def test_operations_are_those_counted_by_hand() -> None:
    """Of a predictor of one token: K H steps of an action embedding and blocks whose attention is one product."""
    config = override(tiny(), SMALL)
    model = folded(make_model(config).eval())
    space = action_space(config, device="cpu")
    graphs = graphs_of(model, config, space, planning_cost(config.plan, None))
    wide, narrow, ratio = 16, 12, 2
    action = 2 * (2 * narrow + narrow * narrow)
    block = 2 * (narrow * narrow + 2 * ratio * narrow * narrow)
    step = action + 2 * wide * narrow + block + 2 * narrow * wide
    assert graphs["improve"].operations() == 8 * 3 * step
    assert graphs["imagine"].operations() == 3 * step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "discrete"),
    [
        ({"proposals": 3}, True),
        ({"proposals": 3}, False),
        ({"proposals": 3, "horizon": 2}, False),  # shorter than what was learnt
        ({"planner": "proposal", "horizon": 2}, False),
        ({"planner": "proposal"}, False),
    ],
)
def test_a_proposal_is_a_graph_of_its_own(tmp_path: Path, plan: dict[str, Any], discrete: bool) -> None:
    store = moving_dot(tmp_path / "store", discrete=discrete)
    settings = {"action.kind": "discrete", "action.size": 4} if discrete else {}
    config = override(tiny(data__path=str(store.path)), SMALL | settings)
    run = untrained_run(tmp_path / "run", config)
    wanted = override(config, {f"plan.{name}": value for name, value in plan.items()})
    with pytest.raises(ValueError, match="the run has no proposal; make one by `lewm distill"):
        export.export_run(run, tmp_path / "out", config=wanted, progress=False)
    distill_run(run, steps=2, progress=False)
    manifest = export.export_run(run, tmp_path / "out", config=wanted, progress=False)
    searches = wanted.plan.planner != "proposal"
    assert ("propose" in manifest.graphs, "improve" in manifest.graphs) == (True, searches)
    assert manifest.measured["parity"]["improve"] < 1e-5
    assert manifest.measured["parity"]["same_action"] == 1.0
    controller, loaded = Controller.load(tmp_path / "out", guarded=False), load_run(run)
    row = bench([tmp_path / "out"], seconds=0.01, threads=1)[0]
    assert ("improve" in row, row["budget"]["iterations"]) == (searches, 2 if searches else 0)
    assert row["propose"]["gflop"] > 0
    controller.set_goal(store.frames[15])
    action = controller.act(store.frames[3])
    assert not controller.events.counts
    assert controller.last_look is not None
    assert controller.last_look.iterations == (2 if searches else 0)
    if not searches:
        assert loaded.proposal is not None
        now, goal = loaded.model.encode(store.frames[[3, 15]])[:, None]
        space = open_run(run, data=None, device="cpu", config=wanted).space
        said = loaded.proposal(now, goal, space, horizon=wanted.plan.horizon)
        np.testing.assert_allclose(action, said[0, :1].detach(), atol=1e-5)
        with pytest.raises(
            ValueError, match=r"plan\.planner=proposal: proposes ways to goals that are pictures; give a"
        ):
            controller.set_goal({"x": 3.0})
