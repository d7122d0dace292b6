"""How often a second a trained model looks, plans and acts, closed loop through the runtime, and how well.

    lewm distill runs/large
    python benchmarks/real_time.py --run runs/large --threads 2
    python benchmarks/real_time.py --run runs/large --threads 1

For each budget (candidates x horizon x refinements) and precision, the run's graphs are written as `lewm export` writes
them, and drive from the same held-out starts with the same noise. Times are those of whole looks by the clock, encoding
included, so the machine should have nothing else to do. Finished cells are kept, and a run that was stopped goes on
after them. The results are in `benchmarks/results/real_time.json`.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from budgets import controller_of
from lewm.deploy.processor import has_bfloat16
from lewm.deploy.sessions import session_class, share_threads
from lewm.deploy.trial import drive
from lewm.evaluate.closed_loop import wilson_interval as interval
from lewm.evaluate.evaluation import draw_starts, machine, open_run
from lewm.families.presets import with_settings
from lewm.files import write_text

OUT = Path(__file__).parent / "results" / "real_time.json"
FEW = {"plan.candidates": 16, "plan.elites": 4, "plan.iterations": 1}
BUDGETS: dict[str, dict[str, Any]] = {
    "64 x 8 x 3": {"plan.horizon": 8},
    "64 x 5 x 1": {"plan.horizon": 5, "plan.iterations": 1},
    "16 x 5 x 1": FEW | {"plan.horizon": 5},
    "16 x 5 x 1, 8 proposed": FEW | {"plan.horizon": 5, "plan.proposals": 8},
    "16 x 3 x 1, 8 proposed": FEW | {"plan.horizon": 3, "plan.proposals": 8},
    "proposal alone": {"plan.planner": "proposal"},
}
"""Candidates x horizon x refinements, as changes of the run's planner."""
WAYS = {
    "float32, ONNX Runtime": ("float32", "onnx"),
    "int8, ONNX Runtime": ("int8", "onnx"),
    "bfloat16, OpenVINO": ("bfloat16", "openvino"),
}


def main() -> None:
    """Measure the cells that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2, help="run it again with 1 for the times on one")
    parser.add_argument("--starts", type=int, default=200)
    parser.add_argument("--budgets", nargs="+", choices=list(BUDGETS), default=list(BUDGETS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    done: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    cells = done.setdefault("cells", {})
    for budget in args.budgets:
        for way in args.ways:
            if f"{args.threads} threads / {budget} / {way}" in cells or ("bfloat16" in way and not has_bfloat16()):
                continue
            # success does not depend on threads: another count is timed on a few starts
            known = any(
                "success_rate" in cell for cell in cells.values() if (cell["budget"], cell["way"]) == (budget, way)
            )
            found = in_a_process_of_its_own(args, budget, way, max(1, args.starts // 10) if known else args.starts)
            cell = found.pop("cell")
            if known:
                cell = {name: value for name, value in cell.items() if name not in ("success_rate", "ci95")}
            else:
                found |= {"starts": args.starts}
            cells[f"{args.threads} threads / {budget} / {way}"] = cell
            done |= found
            print(json.dumps(cell), file=sys.stderr, flush=True)
            write_text(args.out, json.dumps(done, indent=1) + "\n")
    print(json.dumps(done))


def in_a_process_of_its_own(args: argparse.Namespace, budget: str, way: str, starts: int) -> dict[str, Any]:
    """Measure a cell where nothing else has loaded a graph: threads are shared by all that a process loads."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, args.run, budget, way, starts, args.threads).result()


def measure(run: Path, budget: str, way: str, starts: int, threads: int) -> dict[str, Any]:
    """Export a run with a budget and drive with it."""
    torch.set_num_threads(1)
    of = open_run(run, data=None, device="cpu", config=None)
    settings, task = of.config.eval, of.task
    assert task is not None
    drawn = draw_starts(replace(of, config=replace(of.config, eval=replace(settings, episodes=starts))), task)
    ends = list(zip(drawn.state, drawn.goal_state, strict=True))
    precision, target = WAYS[way]
    with tempfile.TemporaryDirectory(prefix="lewm-") as scratch:
        controller = controller_of(
            of,
            with_settings(of.config, BUDGETS[budget]),
            precision,
            Path(scratch) / "graphs",
            session=session_class(target, precision),  # pyright: ignore[reportArgumentType]
            target=target,
            threads=threads,
            before_loading=lambda: share_threads(threads),
        )
        solved = drive(controller, task, ends, protocol=settings.protocol, budget=settings.budget)
    cell = {"threads": threads, "budget": budget, "way": way, "looks": controller.latency.summary()}
    cell |= {"success_rate": solved.mean().item(), "ci95": list(interval(int(solved.sum()), len(solved)))}
    told = {"preset": of.config.preset, "task": task.name, "protocol": settings.protocol}
    return told | {"machine": machine(of.model.device), "cell": cell}


if __name__ == "__main__":
    main()
