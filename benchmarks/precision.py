"""Measure what exports of each precision keep of the shipped models, and what they save.

    nice -n 10 python benchmarks/precision.py --out benchmarks/results/precision.json

A model is exported in float32, float16, bfloat16 and int8; int8 in three ways: with scales of each run in every graph,
which `lewm export` writes for ONNX Runtime, and with scales from 128 held-out frames in the encoder alone, which it
writes for OpenVINO and, symmetric ones, for TensorRT. ONNX Runtime runs them all but bfloat16, OpenVINO's. Each
drives from the same starts with the same noise as PyTorch. Times are those of one thread, taken in turn, and told as
shares of float32's. `large` is timed with random weights, and has no success to measure. Finished cells are kept in the
file, and a run that was stopped goes on after them. The last line is one JSON object.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.data import Store
from lewm.deploy.calibrate import state_reader
from lewm.deploy.export import manifest_of
from lewm.deploy.fold import folded
from lewm.deploy.gate import InTorch, drive_from, driven
from lewm.deploy.graphs import graphs_of
from lewm.deploy.manifest import Manifest, Smaller, StateGoals
from lewm.deploy.onnx_files import write_onnx
from lewm.deploy.parity import compare
from lewm.deploy.precision import lower
from lewm.deploy.processor import sums_overflow
from lewm.deploy.sessions import Session, example, session_class
from lewm.envs import collect
from lewm.evaluate.frames import draw_frames
from lewm.evaluate.pretrained import open_pretrained
from lewm.families.family import make_model
from lewm.families.presets import preset
from lewm.files import write_text
from lewm.plan import action_space, planning_cost
from lewm.plan.steps_to_go import StepsToGo
from lewm.pretrained import pretrained_names

VARIANTS = {
    "float32": ("float32", "onnx"),
    "float16": ("float16", "onnx"),
    "bfloat16": ("bfloat16", "openvino"),
    "int8": ("int8", "onnx"),
    "int8 openvino": ("int8", "openvino"),
    "int8 tensorrt": ("int8", "tensorrt"),
}
PARTS = ("encode", "improve")


def variants(
    folder: Path, manifest: Manifest, model: Any, frames: Any
) -> dict[str, tuple[Manifest, dict[str, Session]]]:
    """Write every variant of the graphs in a folder, and load it."""
    found = {}
    for name, (precision, target) in VARIANTS.items():
        own = folder.with_name(name)
        shutil.copytree(folder, own)
        told = replace(manifest, precision=precision, target=target)  # pyright: ignore[reportArgumentType]
        told = replace(told, smaller=Smaller() if precision == "float32" else lower(own, told, model, frames))
        session = session_class("openvino", precision) if precision == "bfloat16" else Session
        sessions = {
            part: session(own / graph.file, graph, provider="cpu", threads=1) for part, graph in manifest.graphs.items()
        }
        found[name] = (told, sessions)
    return found


def ratios(loaded: Mapping[str, tuple[Manifest, dict[str, Session]]], runs: int) -> dict[str, dict[str, float]]:
    """Return the time of each part as a share of float32's, the medians of runs taken in turn."""
    shares: dict[str, dict[str, float]] = {name: {} for name in loaded}
    for part in PARTS:
        times: dict[str, list[float]] = {name: [] for name in loaded}
        given = example(loaded["float32"][0].graphs[part])
        for _ in range(runs):
            for name, (_, sessions) in loaded.items():
                began = time.process_time()  # one thread does the work, and OpenVINO's is not this one
                sessions[part](given)
                times[name].append(time.process_time() - began)
        base = float(np.median(times["float32"]))
        for name, spent in times.items():
            shares[name][part] = round(float(np.median(spent)) / base, 2)
    return shares


def sizes(folder: Path, manifest: Manifest) -> dict[str, float]:
    """Return the size of the timed parts, and of all graphs of the model together, in MB."""
    of = {name: (folder / graph.file).stat().st_size / 1e6 for name, graph in manifest.graphs.items()}
    return {part: round(of[part], 2) for part in PARTS} | {"all": round(sum(of.values()), 2)}


def cells_of(
    folder: Path, manifest: Manifest, model: Any, frames: Any, runs: int
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[Manifest, dict[str, Session]]]]:
    """Return what can be measured without data of the run, and the loaded variants."""
    loaded = variants(folder, manifest, model, frames)
    shares = ratios(loaded, runs)
    found = {}
    for name, (told, _) in loaded.items():
        smaller = {key: getattr(told.smaller, key) for key in ("how", "operators", "seven_bits", "frames")}
        found[name] = {"smaller": smaller, "mb": sizes(folder.with_name(name), told), "time": shares[name]}
    return found, loaded


def shipped(name: str, starts: int, runs: int, scratch: Path, keep: Callable[[str, Any], None], known: Any) -> None:
    """Measure a model that comes with the package; each finished cell is kept."""
    with open_pretrained(name, data=None, device="cpu", config=None, fit=True, progress=False) as of:
        reader, goals = state_reader(of)
        own = graphs_of(of.model, of.config, of.space, of.cost, reader=reader)
        model = folded(of.model)
        manifest = manifest_of(of.config, of.space, own, goals=goals, surprise={})
        (scratch / "plain").mkdir()
        for part, graph in graphs_of(model, of.config, of.space, of.cost, reader=reader).items():
            write_onnx(graph, scratch / "plain" / manifest.graphs[part].file)
        index = draw_frames(of.store, of.held_out, 128, seed=of.config.seed + 1)
        found, loaded = cells_of(scratch / "plain", manifest, model, of.store.frames[index][:, None], runs)
        reference = known.get("pytorch")
        if reference is None:
            in_torch = {part: InTorch(graph) for part, graph in own.items()}
            reference = "".join(str(int(solved)) for solved in drive_from(of, manifest, in_torch, starts=starts))
            keep("pytorch", reference)
        for variant, (told, sessions) in loaded.items():
            if variant not in known:
                cell = {"agreement": compare(of, own, sessions, told)}
                solved = drive_from(of, told, sessions, starts=starts)
                keep(variant, found[variant] | cell | {"driven": driven(np.array(list(reference)) == "1", solved)})


def large(runs: int, scratch: Path, keep: Callable[[str, Any], None]) -> None:
    """Time `large` with random weights."""
    torch.manual_seed(0)
    config = preset("large")
    store: Store = collect("push-t", scratch / "store", episodes=3, image_size=config.model.image_size,
                           episode_length=50, seed=0, workers=1, progress=False)  # fmt: skip
    config = replace(config, action=replace(config.action, kind="continuous", size=store.meta.action_size))
    model = folded(make_model(config).eval())
    cost = planning_cost(config.plan, StepsToGo(config.model.num_tokens, config.model.token_width).eval())
    space = action_space(config, device="cpu")
    graphs = {part: graph for part, graph in graphs_of(model, config, space, cost).items() if part in PARTS}
    manifest = manifest_of(config, space, graphs, goals=StateGoals(), surprise={})
    (scratch / "plain").mkdir()
    for part, graph in graphs.items():
        write_onnx(graph, scratch / "plain" / manifest.graphs[part].file)
    frames = np.ascontiguousarray(store.frames[:128])[:, None]
    for variant, cell in cells_of(scratch / "plain", manifest, model, frames, runs)[0].items():
        keep(variant, cell)


def main() -> None:
    """Measure the cells that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*pretrained_names(), "large"])
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--runs", type=int, default=40, help="of each graph, for the times")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    done: dict[str, Any] = json.loads(args.out.read_text("utf-8")) if args.out and args.out.is_file() else {}
    models = done.setdefault("models", {})
    done |= {"machine": platform.machine(), "vnni": not sums_overflow(), "python": platform.python_version()}
    done |= {"cpu_count": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2)}
    torch.set_num_threads(1)
    for name in args.models:
        known = models.setdefault(name, {})
        if set(VARIANTS) <= known.keys():
            continue

        def keep(variant: str, cell: Any, known: Any = known, name: str = name) -> None:
            known[variant] = cell
            print(name, variant, json.dumps(cell)[:400], file=sys.stderr, flush=True)
            if args.out:
                write_text(args.out, json.dumps(done, indent=1) + "\n")

        with tempfile.TemporaryDirectory(prefix="lewm-") as scratch:
            if name == "large":
                large(args.runs, Path(scratch), keep)
            else:
                shipped(name, args.starts, args.runs, Path(scratch), keep, known)
    print(json.dumps({name: {v: c for v, c in cells.items() if v != "pytorch"} for name, cells in models.items()}))


if __name__ == "__main__":
    main()
