"""How much of Push-T the search alone can reach: planner alone and cost alone, over the planner's budget.

    python benchmarks/ceiling.py

Nothing is learnt in planner alone: the true dynamics, and a distance of the true states as the cost. Cost alone has the
true dynamics too, and judges the frames that come, by their pixels or by the shipped model's representation. Starts are
of fresh episodes of the scripted behaviour, the same for every cell of a protocol; they are worked through in parts, of
every cell the first part before the second. What is in the file of results is not measured again, so a run can be
stopped and gone on with at any time. Seconds are processor time of one thread. Results:
benchmarks/results/ceiling.json.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

import lewm
from lewm.config import PlanConfig
from lewm.envs import PushT
from lewm.evaluate import make_starts
from lewm.evaluate.closed_loop import cost_alone, planner_alone, run_closed_loop, straight_policy, wilson_interval
from lewm.evaluate.evaluation import machine
from lewm.evaluate.judge import reaches
from lewm.evaluate.starts import Starts
from lewm.files import write_text
from lewm.plan import action_space
from lewm.plan.cost import tokens_cost
from lewm.pretrained import pretrained_run
from lewm.train.checkpoint import load_run

OUT = Path(__file__).parent / "results" / "ceiling.json"
STARTS, PART, FRESH_SEED = 200, 100, 1_000_000
BUDGET, GOAL_OFFSET, FRAME_SKIP = 50, 25, 5

Protocol = Literal["standard", "strict"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to plan.

    Args:
        protocol: What success is, and where episodes start.
        candidates: Of CEM; an eighth of them are elites.
        iterations: Refinements of a plan.
        horizon: Model steps that a plan looks ahead.
        hold: Whether an action is held for a model step of five environment steps.
        over: Which of the steps of a plan count: the last, their sum, or the best.
        cost: The task's own distance, or the sum of its parts, each in the step that success allows; the block's alone,
            as the strict protocol measures it; or, of frames, the distance of pixels or of representations.
    """

    protocol: Protocol = "standard"
    candidates: int = 64
    iterations: int = 3
    horizon: int = 5
    hold: bool = True
    over: Literal["last", "sum", "min"] = "sum"
    cost: Literal["distance", "parts", "block", "pixels", "representation"] = "distance"


CELLS = {
    "64 x 3": Cell(),
    "64 x 9": Cell(iterations=9),
    "256 x 3": Cell(candidates=256),
    "64 x 3, last step": Cell(over="last"),
    "64 x 3, best step": Cell(over="min"),
    "64 x 9, best step": Cell(over="min", iterations=9),
    "256 x 3, best step": Cell(over="min", candidates=256),
    "64 x 3, parts of the pose": Cell(cost="parts"),
    "64 x 3, best step, parts of the pose": Cell(over="min", cost="parts"),
    "64 x 3, every action free": Cell(hold=False),
    "64 x 3, horizon 8": Cell(horizon=8),
    "64 x 3, last step, representation": Cell(over="last", cost="representation"),
    "64 x 3, last step, pixels": Cell(over="last", cost="pixels"),
    "strict, 64 x 3": Cell(protocol="strict"),
    "strict, 64 x 3, block alone": Cell(protocol="strict", cost="block"),
    "256 x 9": Cell(candidates=256, iterations=9),
    "strict, 64 x 9, block alone": Cell(protocol="strict", cost="block", iterations=9),
    "1024 x 3": Cell(candidates=1024),
    "1024 x 9, best step": Cell(over="min", candidates=1024, iterations=9),
}
"""Candidates x iterations; with a horizon of 5, actions held, and the task's distance summed where nothing is named."""


class Judged(PushT):
    """Push-T with the distance of a cell as the planner's cost."""

    def __init__(self, cell: Cell) -> None:
        super().__init__(64)
        self._cell = cell

    def distance(self, state: ArrayLike, goal: ArrayLike) -> NDArray[np.float64]:
        """Return the costs of the steps (..., H); of the best step alone where that is what counts."""
        if self._cell.cost in ("parts", "block"):
            offset = np.asarray(state, dtype=np.float64) - np.asarray(goal, dtype=np.float64)
            disc, block = np.linalg.norm(offset[..., :2], axis=-1), np.linalg.norm(offset[..., 2:4], axis=-1)
            turn = np.abs((offset[..., 4] + np.pi) % (2.0 * np.pi) - np.pi)
            costs = (disc + block) / 20.0 + turn / np.radians(20.0)
            if self._cell.cost == "block":
                costs = np.maximum(block / 10.0, turn / np.radians(10.0))
        else:
            costs = super().distance(state, goal)
        if self._cell.over == "min":  # what is added up then
            costs[..., 0], costs[..., 1:] = costs.min(axis=-1), 0.0
        return costs


class Pixels:
    """A model whose representation of a frame is the frame."""

    device = torch.device("cpu")

    def encode(self, frames: Tensor) -> Tensor:
        """Return frames (B, height, width, 3) as one token each, (B, 1, D)."""
        return frames.flatten(1)[:, None].float() / 255.0


def main() -> None:
    """Measure, and write the results after every part of a cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--data", type=Path, default=Path("runs/ceiling"))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    fresh = lewm.collect("push-t", args.data, episodes=STARTS // 4, seed=FRESH_SEED, workers=1)
    task, every = PushT(64), np.arange(fresh.num_episodes)
    starts: dict[Protocol, Starts] = {}
    protocols: tuple[Protocol, ...] = ("standard", "strict")
    for protocol in protocols:
        rule = task.rule(protocol)
        starts[protocol] = make_starts(
            fresh, every, count=STARTS, goal_offset=GOAL_OFFSET, seed=0, protocol=protocol, rule=rule
        )
    results: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {"cells": {}}
    results |= {"command": "python benchmarks/ceiling.py", "machine": machine(torch.device("cpu"))}
    if "straight" not in results:
        results["straight"] = {name: straight(task, given, name) for name, given in starts.items()}
    for upto in range(PART, args.starts + PART, PART):
        for name in args.cells:
            found = results["cells"].setdefault(name, {"solved_at": [], "seconds": 0.0})
            given, begin = starts[CELLS[name].protocol], len(found["solved_at"])
            stop = min(upto, args.starts, len(given.index))
            if begin >= stop:
                continue
            began = time.process_time()
            found["solved_at"] += measure(CELLS[name], some(given, begin, stop), seed=begin)
            found["seconds"] += time.process_time() - began
            solved = np.array(found["solved_at"]) >= 0
            found["success_rate"], found["ci95"] = summed(solved)
            hard = solved[~np.array(results["straight"][CELLS[name].protocol]["solved"])[: len(solved)]]
            found["hard_count"], (found["hard_success_rate"], found["hard_ci95"]) = len(hard), summed(hard)
            write_text(args.out, json.dumps(results) + "\n")
            told = f"{found['success_rate']:.2f} of {len(solved)}, hard {found['hard_success_rate']:.2f} of {len(hard)}"
            print(f"{name}: {told}, {found['seconds']:.0f} s", flush=True)


def some(starts: Starts, begin: int, stop: int) -> Starts:
    """Return one part of the starts."""
    part = slice(begin, stop)
    names = ("index", "state", "goal_state", "goal_frame")
    return replace(starts, goal_index=None, **{name: getattr(starts, name)[part] for name in names})


def straight(task: PushT, starts: Starts, protocol: Protocol) -> dict[str, Any]:
    """Tell from which starts moving straight, or nothing, solves it."""
    judge = reaches(task, starts, protocol)
    loop = run_closed_loop(task, starts, straight_policy(task, starts), judge, budget=BUDGET, frame_skip=1)
    solved = loop.success | judge(starts.state[:, None])[:, 0]
    return {"solved": solved.tolist(), "success_rate": float(solved.mean())}


def measure(cell: Cell, starts: Starts, *, seed: int) -> list[int]:
    """Return for every start the environment step of success, or -1."""
    loaded = load_run(pretrained_run("push-t"), device="cpu", proposal=False)
    plan = PlanConfig(
        candidates=cell.candidates,
        elites=cell.candidates // 8,
        iterations=cell.iterations,
        horizon=cell.horizon,
        execute=1,
        hold=cell.hold,
        over="last" if cell.over == "last" else "sum",
    )
    config = replace(loaded.config, plan=plan)
    space, task = action_space(config, device=torch.device("cpu")), Judged(cell)
    if cell.cost in ("pixels", "representation"):
        model: Any = Pixels() if cell.cost == "pixels" else loaded.model
        policy = cost_alone(model, tokens_cost, task, starts, space, plan, seed=seed)
    else:
        policy = planner_alone(task, starts, space, plan, seed=seed)
    judge = reaches(task, starts, cell.protocol)
    return run_closed_loop(task, starts, policy, judge, budget=BUDGET, frame_skip=FRAME_SKIP).solved_at.tolist()


def summed(solved: NDArray[np.bool_]) -> tuple[float, list[float]]:
    """Return a success rate and its interval."""
    return float(solved.mean()), list(wilson_interval(int(solved.sum()), len(solved)))


if __name__ == "__main__":
    main()
