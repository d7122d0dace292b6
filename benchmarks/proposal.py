"""What a proposal is worth: success and time of a look, beside the full search, with the shipped models.

    python benchmarks/proposal.py --tasks two-room push-t arm

For each task the data is collected as it was for training, `lewm distill` makes a proposal of its training episodes,
and every way to plan is measured from the same 100 starts of fresh episodes. Times are of one environment, in processor
seconds of one thread, and all ways take turns, so that work beside it falls on each alike. Two-Room's proposal is also
made of as many episodes in which every action is drawn anew from all there are. What is measured already is not
measured again; the results are in `benchmarks/results/proposal.json`.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lewm
from lewm.evaluate import make_starts
from lewm.evaluate.closed_loop import ModelPolicy, Policy, random_policy, run_closed_loop, straight_policy
from lewm.evaluate.closed_loop import wilson_interval as interval
from lewm.evaluate.evaluation import Evaluation, machine, open_run
from lewm.evaluate.judge import reaches
from lewm.families.presets import with_settings
from lewm.files import write_text
from lewm.plan import LatentController
from lewm.pretrained import pretrained_run
from lewm.train.checkpoint import PROPOSAL

OUT = Path(__file__).parent / "results" / "proposal.json"
EPISODES = {"two-room": 400, "push-t": 500, "arm": 500}
"""Episodes that each model was trained on, collected with seed 0."""
STARTS, FRESH_SEED, LOOKS = 100, 1_000_000, 15
FEW = {"plan.candidates": 16, "plan.elites": 4}
WAYS: dict[str, dict[str, Any]] = {
    "proposal alone": {"plan.planner": "proposal"},
    "16 x 1": FEW | {"plan.iterations": 1},
    "16 x 1, 1 proposed": FEW | {"plan.iterations": 1, "plan.proposals": 1},
    "16 x 1, 8 proposed": FEW | {"plan.iterations": 1, "plan.proposals": 8},
    "16 x 3": FEW | {"plan.iterations": 3},
    "16 x 3, 8 proposed": FEW | {"plan.iterations": 3, "plan.proposals": 8},
    "full search": {},
}
"""Candidates times refinements, as changes of the shipped planner, whose own is 64 x 3, of Push-T 64 x 9."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a proposal is worth.")
    parser.add_argument("--runs", type=Path, default=Path("runs/proposal"), help="folder of the data and the runs")
    parser.add_argument("--tasks", nargs="+", choices=list(EPISODES), default=list(EPISODES))
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    for name in args.tasks:
        done = results.setdefault(name, {"ways": {}})

        def keep() -> None:
            write_text(args.out, json.dumps(results, indent=1) + "\n")

        folder = args.runs / name
        of, fresh, done["distill"] = opened(name, folder, args.starts)
        measure(of, fresh, args.starts, done["ways"], WAYS, keep)
        if "looks_ms" not in done:
            done["looks_ms"] = looks(of, fresh)
        if name == "two-room":
            with lewm.make_task(name) as task:
                drawn = lewm.record(task, folder / "random", episodes=EPISODES[name], episode_length=100)
            other, told = prepare(name, folder / "run-random", drawn.path, folder / "store")
            random = done.setdefault("random_actions", {"ways": {}}) | {"distill": told}
            done["random_actions"] = random
            measure(other, fresh, args.starts, random["ways"], {"proposal alone": WAYS["proposal alone"]}, keep)
        done |= {"starts": args.starts, "horizon": of.config.plan.horizon, "machine": machine(of.model.device)}
        keep()


def opened(name: str, folder: Path, starts: int) -> tuple[Evaluation, lewm.Store, dict[str, Any]]:
    """Return a shipped model with its proposal, fresh episodes for so many starts, and what `lewm distill` told."""
    data = lewm.collect(name, folder / "store", episodes=EPISODES[name], seed=0, workers=1)
    of, told = prepare(name, folder / "run", data.path, data.path)
    return of, lewm.collect(name, folder / "fresh", episodes=-(-starts // 4), seed=FRESH_SEED, workers=1), told


def prepare(name: str, run: Path, source: Path, data: Path) -> tuple[Evaluation, dict[str, Any]]:
    """Return a shipped model with a proposal made of the store `source`, and what `lewm distill` told."""
    if not run.is_dir():
        shutil.copytree(pretrained_run(name), run)
    told = run / "distill.json"
    if not ((run / PROPOSAL).is_file() and told.is_file()):
        command = [sys.executable, "-m", "lewm", "distill", str(run), "--data", str(source), "--json"]
        write_text(told, subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return open_run(run, data=data, device="cpu", config=None), json.loads(told.read_text(encoding="utf-8"))


def measure(
    of: Evaluation,
    fresh: lewm.Store,
    count: int,
    done: dict[str, Any],
    ways: Mapping[str, dict[str, Any]],
    keep: Callable[[], None],
) -> None:
    """Measure success of every way from the same starts."""
    task, settings = of.task, of.config.eval
    assert task is not None
    every = np.arange(fresh.num_episodes)
    starts = make_starts(fresh, every, count=count, goal_offset=settings.goal_offset, seed=0)
    judge = reaches(task, starts)

    def add(name: str, policy: Policy, frame_skip: int) -> None:
        loop = run_closed_loop(task, starts, policy, judge, budget=settings.budget, frame_skip=frame_skip)
        reached = int(loop.success.sum())
        done[name] = {
            "success_rate": reached / len(starts.index),
            "ci95": list(interval(reached, len(starts.index))),
            "steps_median": float(np.median(loop.solved_at[loop.success])) if reached else None,
        }
        keep()

    if "random" not in done:
        add("random", random_policy(task, seed=0, length=1), 1)
        add("moving straight", straight_policy(task, starts), 1)
    for name, changes in ways.items():
        if name not in done:
            config = with_settings(of.config, changes)
            policy = ModelPolicy(of.model, config, task, starts, of.space, cost=of.learnt, proposal=of.proposal)
            add(name, policy, config.data.frame_skip)


def looks(of: Evaluation, fresh: lewm.Store) -> dict[str, float]:
    """Return the processor milliseconds of a look of one environment, encoding included, the median of several."""
    assert of.task is not None
    frames, seconds = np.asarray(fresh.frames[:2]), {name: [] for name in WAYS}
    drivers = {}
    for name, changes in WAYS.items():
        drivers[name] = LatentController(
            of.model,
            with_settings(of.config, changes),
            of.space,
            cost=of.learnt,
            proposal=of.proposal,
            batch=1,
            generator=torch.Generator().manual_seed(0),
        )
    command = np.zeros((1, of.config.action.size)) if of.space.relative else None
    for turn in range(LOOKS + 1):
        for name, driver in drivers.items():
            driver.reset(frames[:1], command=command)
            began = time.process_time()
            driver.act(frames[1:])
            if turn:  # the first ones load
                seconds[name].append(time.process_time() - began)
    return {name: 1e3 * statistics.median(each) for name, each in seconds.items()}


if __name__ == "__main__":
    main()
