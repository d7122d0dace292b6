"""Write a run as a folder that a robot's computer runs without PyTorch."""

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.config import Config
from lewm.deploy.calibrate import calibrate, state_reader
from lewm.deploy.executorch_files import write_pte
from lewm.deploy.fold import folded
from lewm.deploy.gate import STARTS, compare_driving
from lewm.deploy.graphs import Graph, graphs_of
from lewm.deploy.manifest import Manifest, Precision, SearchSpace, Sizes, StateGoals, Target, write_manifest
from lewm.deploy.onnx_files import OPSET, described, write_onnx
from lewm.deploy.parity import compare, refuse_unlike
from lewm.deploy.precision import FRAMES as CALIBRATION
from lewm.deploy.precision import lower
from lewm.deploy.sessions import session_class
from lewm.deploy.targets import require_target, write_target
from lewm.evaluate.evaluation import Evaluation, draw_starts, machine, open_run, require_actions, show_progress
from lewm.evaluate.frames import draw_frames
from lewm.evaluate.pretrained import open_pretrained
from lewm.evaluate.starts import NAME as STARTS_NAME
from lewm.evaluate.starts import starts_text
from lewm.files import check_folder, write_text
from lewm.plan import ActionSpace
from lewm.plan.controller import correction_gain
from lewm.plan.proposal import required_proposal
from lewm.run_spec import save_spec
from lewm.version import __version__

CONTROL = "control.py"


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    precision: Precision = "float32",
    target: Target = "onnx",
    batch: int = 1,
    starts: int = STARTS,
    config: Config | None = None,
    progress: bool = True,
) -> Manifest:
    """Write an export folder of a run, after comparing it with the run.

    Args:
        run: Run folder.
        out: New folder.
        data: Store; None takes the one that the run was trained on.
        precision: Of the weights, and of bfloat16 and int8 also of what is multiplied.
        target: What runs it.
        batch: Environments that are driven at once.
        starts: Closed-loop episodes that an export of lower precision is compared with PyTorch on, in a task of this
            package.
        config: Settings whose `plan`, `eval` and `seed` replace the run's; None keeps those.
        progress: Show progress on standard error.

    Returns:
        What `manifest.json` says.

    Raises:
        ValueError: If the run cannot be exported, the graphs are not the model, or the folder cannot be written.
    """
    of = open_run(run, data=data, device="cpu", config=config)
    return export_model(
        of, Path(out), precision=precision, target=target, batch=batch, starts=starts, progress=progress
    )


def export_pretrained(
    name: str,
    out: str | Path,
    *,
    data: str | Path | None = None,
    precision: Precision = "float32",
    target: Target = "onnx",
    batch: int = 1,
    starts: int = STARTS,
    config: Config | None = None,
    progress: bool = True,
) -> Manifest:
    """Write an export folder of a model that comes with the package; see `export_run`."""
    with open_pretrained(name, data=data, device="cpu", config=config, fit=True, progress=progress) as of:
        return export_model(
            of, Path(out), precision=precision, target=target, batch=batch, starts=starts, progress=progress
        )


def export_model(
    of: Evaluation,
    out: Path,
    *,
    precision: Precision,
    target: Target,
    batch: int,
    starts: int = STARTS,
    progress: bool,
) -> Manifest:
    """Write an export folder of a model in memory; see `export_run`."""
    require_actions(of)
    require_target(target, precision)
    if starts < 1:
        raise ValueError(f"starts={starts}: must be at least 1; use {STARTS}")
    if batch < 1:
        raise ValueError(f"batch={batch}: must be at least 1; use 1 for a robot")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out}: is there already; give a new folder")
    check_folder(out, "out")
    with show_progress(progress) as stage, _new_folder(out) as folder:
        with stage("limits", 1):
            surprise = calibrate(of)
            reader, goals = state_reader(of)
        parts: Any = {"reader": reader, "proposal": required_proposal(of.config.plan, of.proposal), "batch": batch}
        own = graphs_of(of.model, of.config, of.space, of.cost, **parts)
        model = folded(of.model)
        small = graphs_of(model, of.config, of.space, of.cost, **parts)
        manifest = manifest_of(
            of.config, of.space, own, goals=goals, surprise=surprise, precision=precision, target=target
        )
        write = write_pte if target == "executorch" else write_onnx
        with stage("graphs", len(small)) as tick:
            for name, graph in small.items():
                write(graph, folder / manifest.graphs[name].file)
                tick()
        frames = _calibration(of, batch)
        manifest = replace(manifest, smaller=lower(folder, manifest, model, frames))
        # one thread: more would wait for each other wherever the machine has other work
        sessions = {
            name: session_class(target, precision)(folder / graph.file, graph, provider="cpu", threads=1)
            for name, graph in manifest.graphs.items()
        }
        with stage("parity", 1):
            found = compare(of, own, sessions, manifest)
            refuse_unlike({**found, "agreeing": 1.0} if _drives(of, manifest) else found, precision)
        if _drives(of, manifest):
            with stage("driving", 2 * starts) as tick:
                found["driven"] = compare_driving(of, own, sessions, manifest, starts=starts, tick=tick)
            refuse_unlike(found, precision)
        manifest.measured["target"] = write_target(folder, manifest, frames)
        operations = {name: graph.operations() for name, graph in small.items()}
        manifest.measured.update(parity=found, operations=operations, machine=machine(of.model.device))
        save_spec(folder, of.spec)
        if of.task is not None:
            write_text(folder / STARTS_NAME, _starts_text(of))
        write_text(folder / CONTROL, (Path(__file__).parent / "control_example.py").read_text(encoding="utf-8"))
        write_manifest(folder, manifest)
    return manifest


def _drives(of: Evaluation, manifest: Manifest) -> bool:
    """Say whether an export of lower precision is compared in closed loop."""
    return manifest.precision != "float32" and of.task is not None and manifest.sizes.batch == 1


def _calibration(of: Evaluation, batch: int) -> NDArray[np.uint8]:
    """Return held-out frames (n, B, height, width, 3) that scales are taken from."""
    index = draw_frames(of.store, of.held_out, CALIBRATION, seed=of.config.seed + 1)
    index = np.resize(index, -(-len(index) // batch) * batch)
    return np.ascontiguousarray(of.store.frames[index]).reshape(-1, batch, *of.store.frames.shape[1:])


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes `out` if all goes well, and is gone if not."""
    folder = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        with contextlib.suppress(FileNotFoundError):
            out.rmdir()  # an empty one
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def manifest_of(
    config: Config,
    space: ActionSpace,
    graphs: Mapping[str, Graph],
    *,
    goals: StateGoals,
    surprise: dict[str, float],
    precision: Precision = "float32",
    target: Target = "onnx",
) -> Manifest:
    """Return what the manifest says of a run and its graphs, before they are written."""
    model, batch = config.model, len(graphs["encode"].inputs["frame"])
    suffix = ".pte" if target == "executorch" else ".onnx"
    low, high = ((), ()) if space.kind == "discrete" else (bound.tolist() for bound in space.env_bounds)
    return Manifest(
        target=target,
        precision=precision,
        sizes=Sizes(
            batch=batch,
            image_size=model.image_size,
            history=model.history,
            tokens=model.num_tokens,
            width=model.token_width,
            model_action=space.model_action_size,
        ),
        space=SearchSpace(
            kind=space.kind,
            size=space.size,
            low=tuple(space.low.tolist()),
            high=tuple(space.high.tolist()),
            env_low=tuple(low),
            env_high=tuple(high),
            num_actions=space.num_actions,
            frame_skip=space.frame_skip,
            relative=space.relative,
        ),
        plan=config.plan,
        correction=correction_gain(config.plan, space),
        state_goals=goals,
        graphs={name: described(graph, f"{name}{suffix}") for name, graph in graphs.items()},
        surprise=surprise,
        measured={},
        versions=_versions(),
        files={},
    )


def _starts_text(of: Evaluation) -> str:
    """Return the starts that a trial of the export is judged on, as `lewm eval` draws them."""
    assert of.task is not None
    starts = draw_starts(of, of.task)
    return starts_text(starts, of.store, protocol=of.config.eval.protocol, seed=of.config.seed)


def _versions() -> dict[str, str]:
    found: dict[str, Any] = {"lewm": __version__, "python": platform.python_version(), "opset": str(OPSET)}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "executorch"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
