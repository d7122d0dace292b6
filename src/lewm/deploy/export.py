"""Write a run as a folder that a robot's computer runs without PyTorch."""

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lewm.config import Config
from lewm.deploy.calibrate import calibrate, state_reader
from lewm.deploy.fold import folded
from lewm.deploy.graphs import Graph, graphs_of
from lewm.deploy.manifest import Manifest, Precision, SearchSpace, Sizes, StateGoals, Target, write_manifest
from lewm.deploy.onnx_files import OPSET, described, write_onnx
from lewm.deploy.parity import compare, refuse_unlike
from lewm.deploy.sessions import Session
from lewm.evaluate.evaluation import Evaluation, draw_starts, machine, open_run, require_actions, show_progress
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
BUILT_PRECISIONS: tuple[Precision, ...] = ("float32",)
BUILT_TARGETS: tuple[Target, ...] = ("onnx",)


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    precision: Precision = "float32",
    target: Target = "onnx",
    batch: int = 1,
    config: Config | None = None,
    progress: bool = True,
) -> Manifest:
    """Write an export folder of a run, after comparing it with the run.

    Args:
        run: Run folder.
        out: New folder.
        data: Store; None takes the one that the run was trained on.
        precision: Of the weights, and of int8 also of what is multiplied.
        target: What runs it.
        batch: Environments that are driven at once.
        config: Settings whose `plan`, `eval` and `seed` replace the run's; None keeps those.
        progress: Show progress on standard error.

    Returns:
        What `manifest.json` says.

    Raises:
        ValueError: If the run cannot be exported, the graphs are not the model, or the folder cannot be written.
    """
    of = open_run(run, data=data, device="cpu", config=config)
    return export_model(of, Path(out), precision=precision, target=target, batch=batch, progress=progress)


def export_pretrained(
    name: str,
    out: str | Path,
    *,
    data: str | Path | None = None,
    precision: Precision = "float32",
    target: Target = "onnx",
    batch: int = 1,
    config: Config | None = None,
    progress: bool = True,
) -> Manifest:
    """Write an export folder of a model that comes with the package; see `export_run`."""
    with open_pretrained(name, data=data, device="cpu", config=config, fit=True, progress=progress) as of:
        return export_model(of, Path(out), precision=precision, target=target, batch=batch, progress=progress)


def export_model(
    of: Evaluation, out: Path, *, precision: Precision, target: Target, batch: int, progress: bool
) -> Manifest:
    """Write an export folder of a model in memory; see `export_run`."""
    require_actions(of)
    for field, given, built in (("precision", precision, BUILT_PRECISIONS), ("target", target, BUILT_TARGETS)):
        if given not in built:
            raise ValueError(f"{field}={given}: is not built yet; use {' or '.join(built)}")
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
        small = graphs_of(folded(of.model), of.config, of.space, of.cost, **parts)
        manifest = manifest_of(
            of.config, of.space, own, goals=goals, surprise=surprise, precision=precision, target=target
        )
        with stage("graphs", len(small)) as tick:
            for name, graph in small.items():
                write_onnx(graph, folder / manifest.graphs[name].file)
                tick()
        with stage("parity", 1):
            sessions = {
                name: Session(folder / graph.file, graph, provider="cpu", threads=None)
                for name, graph in manifest.graphs.items()
            }
            found = compare(of, own, sessions, manifest)
            refuse_unlike(found, precision)
        operations = {name: graph.operations() for name, graph in small.items()}
        manifest.measured.update(parity=found, operations=operations, machine=machine(of.model.device))
        save_spec(folder, of.spec)
        if of.task is not None:
            write_text(folder / STARTS_NAME, _starts_text(of))
        write_text(folder / CONTROL, (Path(__file__).parent / "control_example.py").read_text(encoding="utf-8"))
        write_manifest(folder, manifest)
    return manifest


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
        graphs={name: described(graph, f"{name}.onnx") for name, graph in graphs.items()},
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
    for name in ("torch", "onnx", "onnxscript", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
