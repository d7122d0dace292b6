"""The control cycle by every way to run it: PyTorch eager, folded, compiled, ahead of time, and exports' runtimes.

    python benchmarks/planning.py --presets large literal --threads 2

The models have random weights, which cost the same as trained ones. One training step makes their run folders, on a few
episodes of Two-Room at 128 pixels; each is exported with the planner's budget of its preset. All ways are driven by the
same controller of `lewm.deploy.runtime`, take turns in one process, and get the same pictures; so the ratios hold on a
busy machine too, and the absolute times are those of this machine as it was. Results: benchmarks/results/planning.json.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lewm.deploy.bench import matrix_rate
from lewm.deploy.calibrate import state_reader
from lewm.deploy.fold import folded
from lewm.deploy.graphs import Graph, graphs_of
from lewm.deploy.manifest import Manifest, read_manifest
from lewm.deploy.precision import lower
from lewm.deploy.runtime import Controller
from lewm.deploy.sessions import load_sessions, session_class
from lewm.evaluate.evaluation import machine, open_run

OUT = Path(__file__).parent / "results" / "planning.json"
SIZE = 128
WARM_UP, LEAST = 3, 10
LOWER = {
    "onnxruntime int8": ("int8", "onnx"),
    "openvino": ("float32", "openvino"),
    "openvino bfloat16": ("bfloat16", "openvino"),
}
"""Ways that run the exported graphs by another runtime, or smaller: precision and target."""


class InTorch:
    """A graph of PyTorch with the interface of a session."""

    def __init__(self, graph: Graph, call: Callable[..., Any] | None = None) -> None:
        self._names, self._outputs = tuple(graph.inputs), graph.outputs
        self._call = graph.module if call is None else call

    @torch.inference_mode()
    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run it on arrays."""
        out = self._call(*(torch.from_numpy(np.ascontiguousarray(given[name])) for name in self._names))
        values = (out,) if isinstance(out, torch.Tensor) else out
        return {name: value.numpy() for name, value in zip(self._outputs, values, strict=True)}


def ahead_of_time(graph: Graph, folder: Path, name: str) -> InTorch:
    """Compile a graph by AOTInductor."""
    with torch.no_grad():
        program = torch.export.export(graph.module, tuple(graph.inputs.values()))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / f"{name}.pt2"))
    return InTorch(graph, torch._inductor.aoti_load_package(package))


def make_run(preset: str, work: Path) -> tuple[Path, Path]:
    """Make a run folder with random weights, and export it; what is there already is taken."""
    store, run, out = work / "store", work / preset, work / f"{preset}-export"

    def lewm(*words: object) -> None:
        subprocess.run([sys.executable, "-m", "lewm", *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    if not store.is_dir():
        lewm("collect", "two-room", "--out", store, "--episodes", 12, "--episode-length", 40, "--image-size", SIZE)
    if not (run / "weights.safetensors").is_file():
        steps = ["--train.steps", 1, "--train.batch-size", 2, "--train.precision", "float32"]
        if preset == "large":
            steps += ["--train.cost-steps", 1]
        lewm("train", "--preset", preset, "--data", store, "--out", run, *steps)
    if not out.is_dir():
        lewm("export", run, "--out", out, "--eval.probe-frames", 100)
    return run, out


def ways_of(run: Path, out: Path, ways: list[str], threads: int) -> tuple[Manifest, dict[str, Controller]]:
    """Return a controller for every way."""
    manifest, spec = read_manifest(out)
    of = open_run(run, data=None, device="cpu", config=None)
    of = replace(of, config=replace(of.config, plan=manifest.plan, eval=replace(of.config.eval, probe_frames=100)))
    reader = state_reader(of)[0]
    plain = graphs_of(of.model, of.config, of.space, of.cost, reader=reader)
    small = graphs_of(folded(of.model), of.config, of.space, of.cost, reader=reader)
    needed = ("encode", "improve", "finish")
    found = {}
    for way in ways:
        print(f"preparing {way}", file=sys.stderr)
        if way == "onnxruntime":
            sessions: dict[str, Any] = dict(load_sessions(out, manifest, provider="cpu", threads=threads, cores=None))
        elif way in LOWER:
            precision, target = LOWER[way]
            told = replace(manifest, precision=precision, target=target)  # pyright: ignore[reportArgumentType]
            folder = out.with_name(f"{out.name}-{way}")
            shutil.copytree(out, folder, dirs_exist_ok=True)
            lower(folder, told, folded(of.model), np.empty(0, np.uint8))  # dynamic scales need no frames
            make = session_class(target, precision)  # pyright: ignore[reportArgumentType]
            graphs = {name: manifest.graphs[name] for name in needed}
            sessions = {
                name: make(folder / graph.file, graph, provider="cpu", threads=threads)
                for name, graph in graphs.items()
            }
        elif way == "eager":
            sessions = {name: InTorch(plain[name]) for name in needed}
        elif way == "eager, folded":
            sessions = {name: InTorch(small[name]) for name in needed}
        elif way == "compiled":
            sessions = {name: InTorch(small[name], torch.compile(small[name].module)) for name in needed}
        else:
            sessions = {name: ahead_of_time(small[name], out.parent, f"{out.name}-{name}") for name in needed}
        found[way] = Controller(manifest, spec, sessions, guarded=False)
    return manifest, found


def measure(manifest: Manifest, controllers: dict[str, Controller], seconds: float) -> dict[str, Any]:
    """Time the looks of all ways in turn."""
    rng = np.random.default_rng(0)
    size = manifest.sizes.image_size
    pictures = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {way: [] for way in controllers}
    first: dict[str, float] = {}
    for way, controller in controllers.items():
        controller.set_goal(pictures[0])
        began = time.perf_counter()
        controller.act(pictures[1])
        first[way] = time.perf_counter() - began
        for k in range(WARM_UP):
            controller.act(pictures[k])
    ends, look = time.perf_counter() + seconds * len(controllers), 0
    while time.perf_counter() < ends or look < LEAST:
        look += 1
        for way, controller in controllers.items():
            began = time.perf_counter()
            controller.act(pictures[look % 8])
            times[way].append(time.perf_counter() - began)
    found = {}
    for way, taken in times.items():
        p50, p95, p99 = 1e3 * np.percentile(taken, (50, 95, 99))
        found[way] = {
            "p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "p99_ms": round(p99, 3), "looks": look,
            "first_look_s": round(first[way], 3),
        }  # fmt: skip
    return found


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["large", "literal"])
    ways = ["eager", "eager, folded", "compiled", "ahead of time", "onnxruntime", *LOWER]
    parser.add_argument("--ways", nargs="+", default=ways, choices=ways)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each way")
    parser.add_argument("--work", type=Path, default=Path("runs/planning"))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    results: dict[str, Any] = {"command": "python benchmarks/planning.py", "threads": args.threads, "presets": {}}
    for preset in args.presets:
        run, out = make_run(preset, args.work)
        manifest, controllers = ways_of(run, out, args.ways, args.threads)
        rate = matrix_rate(out, manifest, threads=args.threads)
        operations = manifest.measured["operations"]
        plan = manifest.plan
        cycle = operations["encode"] + plan.iterations * operations["improve"] + operations["finish"]
        budget = {name: getattr(plan, name) for name in ("candidates", "horizon", "iterations")}
        rows = measure(manifest, controllers, args.seconds)
        for row in rows.values():
            row["share_of_matrix_rate"] = round(cycle / (row["p50_ms"] / 1e3) / rate, 3)
        results["presets"][preset] = {
            "budget": budget, "gflop": round(cycle / 1e9, 3), "matrix_gflop_per_s": round(rate / 1e9, 1), "ways": rows,
        }  # fmt: skip
        print(json.dumps(results["presets"][preset]))
    with contextlib.suppress(RuntimeError):
        results["machine"] = machine(torch.device("cpu"))
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
