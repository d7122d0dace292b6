"""What a budget of planning costs and what it reaches: the shipped models through the runtime, as a robot runs them.

    python benchmarks/proposal.py       # makes the proposals, in runs/proposal
    python benchmarks/budgets.py

Every cell is an export of another budget (candidates, refinements, horizon, precision, proposals), driven by the
runtime from the same 100 starts of fresh episodes, with the same noise. Times are processor milliseconds of a look on
one thread, encoding included; all cells of a task take turns. Finished cells are kept, and a run that was stopped goes
on after them. The results are in `benchmarks/results/budgets.json`.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.config import Config
from lewm.deploy.export import manifest_of
from lewm.deploy.fold import folded
from lewm.deploy.graphs import graphs_of
from lewm.deploy.manifest import Manifest, StateGoals
from lewm.deploy.onnx_files import write_onnx
from lewm.deploy.precision import lower
from lewm.deploy.runtime import Controller
from lewm.deploy.sessions import Session
from lewm.deploy.trial import drive
from lewm.evaluate import make_starts
from lewm.evaluate.closed_loop import wilson_interval as interval
from lewm.evaluate.evaluation import Evaluation, machine
from lewm.evaluate.frames import draw_frames
from lewm.families.presets import with_settings
from lewm.files import write_text
from proposal import EPISODES, STARTS, opened

OUT = Path(__file__).parent / "results" / "budgets.json"
NEEDED = ("encode", "propose", "improve", "finish")
LOOKS = 30
FEW = {"plan.candidates": 16, "plan.elites": 4}
BUDGETS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("float32", {}),
    "full, int8": ("int8", {}),
    "64 x 1": ("float32", {"plan.iterations": 1}),
    "16 x 3": ("float32", FEW),
    "16 x 1": ("float32", FEW | {"plan.iterations": 1}),
    "16 x 1, 8 proposed": ("float32", FEW | {"plan.iterations": 1, "plan.proposals": 8}),
    "16 x 1, 8 proposed, int8": ("int8", FEW | {"plan.iterations": 1, "plan.proposals": 8}),
    "16 x 1, 8 proposed, horizon 3": ("float32", FEW | {"plan.iterations": 1, "plan.proposals": 8, "plan.horizon": 3}),
    "proposal alone": ("float32", {"plan.planner": "proposal"}),
}
"""Precision, and changes of the shipped planner: candidates x refinements. Its own are 64 x 3, of Push-T 64 x 9."""


def controller_of(
    of: Evaluation,
    config: Config,
    precision: str,
    folder: Path,
    *,
    session: Any = Session,
    target: str = "onnx",
    threads: int = 1,
    before_loading: Callable[[], None] = lambda: None,
) -> Controller:
    """Write the graphs of a budget and load them as `lewm export` and `Controller.load` do."""
    with_proposal = config.plan.proposals > 0 or config.plan.planner == "proposal"
    model = folded(of.model)
    proposal = of.proposal if with_proposal else None
    graphs = {
        name: graph
        for name, graph in graphs_of(model, config, of.space, of.cost, proposal=proposal).items()
        if name in NEEDED
    }
    manifest: Manifest = manifest_of(config, of.space, graphs, goals=StateGoals(), surprise={})
    manifest = replace(manifest, precision=precision, target=target)  # pyright: ignore[reportArgumentType]
    folder.mkdir()
    for name, graph in graphs.items():
        write_onnx(graph, folder / manifest.graphs[name].file)
    index = draw_frames(of.store, of.held_out, 128, seed=of.config.seed + 1)
    lower(folder, manifest, model, np.asarray(of.store.frames[index])[:, None])
    before_loading()
    sessions: Any = {
        name: session(folder / graph.file, graph, provider="cpu", threads=threads)
        for name, graph in manifest.graphs.items()
    }
    return Controller(manifest, of.spec, sessions, guarded=False)


def look_times(controllers: dict[str, Controller], pictures: np.ndarray) -> dict[str, float]:
    """Return the processor milliseconds of a look, the median of some, all taking turns."""
    spent: dict[str, list[float]] = {name: [] for name in controllers}
    for turn in range(LOOKS):
        for name, controller in controllers.items():
            if turn == 0:
                command = np.zeros((1, controller.manifest.space.size)) if controller.manifest.space.relative else None
                controller.set_goal(pictures[0], command=command)
            began = time.process_time()
            controller.act(pictures[1 + turn % 2])
            spent[name].append(time.process_time() - began)
    return {name: round(1e3 * statistics.median(each[1:]), 3) for name, each in spent.items()}


def measure(name: str, runs: Path, count: int, done: dict[str, Any], keep: Any) -> None:
    """Measure the cells of a task that are not there yet, and the times of all."""
    of, fresh, _ = opened(name, runs / name, count)
    task, settings = of.task, of.config.eval
    assert task is not None
    every = np.arange(fresh.num_episodes)
    starts = make_starts(fresh, every, count=count, goal_offset=settings.goal_offset, seed=0)
    ends = list(zip(starts.state, starts.goal_state, strict=True))
    cells, controllers = done.setdefault("cells", {}), {}
    with tempfile.TemporaryDirectory(prefix="lewm-") as scratch:
        for number, (budget, (precision, changes)) in enumerate(BUDGETS.items()):
            config = with_settings(of.config, changes)
            controllers[budget] = controller_of(of, config, precision, Path(scratch) / str(number))
            if budget not in cells:
                solved = drive(controllers[budget], task, ends, protocol=settings.protocol, budget=settings.budget)
                reached = int(solved.sum())
                cells[budget] = {"success_rate": reached / count, "ci95": list(interval(reached, count))}
                print(name, budget, cells[budget], file=sys.stderr, flush=True)
                keep()
        for budget, ms in look_times(controllers, np.asarray(fresh.frames[:3])).items():
            cells[budget]["ms"] = ms
    done |= {"starts": count, "horizon": of.config.plan.horizon, "protocol": settings.protocol}
    done |= {"refinements": of.config.plan.iterations, "machine": machine(of.model.device)}
    keep()


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/proposal"), help="folder of the data and the runs")
    parser.add_argument("--tasks", nargs="+", choices=list(EPISODES), default=list(EPISODES))
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}

    def keep() -> None:
        write_text(args.out, json.dumps(results, indent=1) + "\n")

    for name in args.tasks:
        measure(name, args.runs, args.starts, results.setdefault(name, {}), keep)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
