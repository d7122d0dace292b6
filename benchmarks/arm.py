"""The arm that is told where to be: how many goals the shipped recipe holds, beside rivals and parts of the recipe.

    python benchmarks/arm.py --jobs 2

collects the data, trains the recipe with each seed, or goes on with what is in `--runs`, and measures every run on the
same 200 goals of fresh episodes, by which nothing was chosen. A goal is held if the tip is within 3% of the arm's reach
of its place in the goal in each of the last ten of 50 steps. A command that was stopped goes on when it is given again.
The results are in `benchmarks/results/arm.json`.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import lewm
from lewm.evaluate import make_starts
from lewm.evaluate.closed_loop import ModelPolicy, random_policy, run_closed_loop, straight_policy
from lewm.evaluate.closed_loop import wilson_interval as interval
from lewm.evaluate.evaluation import Evaluation, machine, open_run
from lewm.evaluate.judge import reaches
from lewm.families.presets import with_settings
from lewm.train.checkpoint import REACHED

OUT = Path(__file__).parent / "results" / "arm.json"
EPISODES, STARTS, FRESH_SEED = 500, 200, 1_000_000
RECIPE = {"model.image_size": 96, "train.steps": 4000, "plan.horizon": 4, "plan.execute": 1}
"""What the arm changes of the preset `tiny`."""
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "predictions not corrected": {"plan.correction": 0.0},
    "searched between the joints' limits": {"plan.absolute": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how many goals the arm holds.")
    parser.add_argument("--runs", type=Path, default=Path("runs/arm"), help="folder of the data and the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, one thread each")
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--steps", type=int, default=RECIPE["train.steps"])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    data = args.runs / "data"
    lewm.collect("arm", data, episodes=args.episodes, workers=1)
    recipe = RECIPE | {"train.steps": args.steps}
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda seed: train(data, args.runs / f"seed-{seed}", recipe | {"seed": seed}), args.seeds))
    fresh = lewm.collect("arm", args.runs / "fresh", episodes=-(-args.starts // 4), seed=FRESH_SEED, workers=1)
    results = {
        "command": "python benchmarks/arm.py",
        "recipe": recipe,
        "preset": "tiny",
        "episodes": args.episodes,
        "starts": args.starts,
        "seeds": args.seeds,
        "runs": [measure(args.runs / f"seed-{seed}", fresh, args.starts) for seed in args.seeds],
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for row in results["runs"]:
        print(row["seed"], {name: f"{part['held']} of {args.starts}" for name, part in row["policies"].items()})


def train(data: Path, run: Path, settings: dict[str, Any]) -> None:
    """Train in a process of its own, or go on with what was begun."""
    if (run / REACHED).is_file():
        return
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    fresh = ["--data", str(data), "--preset", "tiny", "--out", str(run), *options]
    given = ["--resume", str(run)] if (run / "config.json").is_file() else fresh
    subprocess.run([sys.executable, "-m", "lewm", "train", *given], check=True)


def measure(run: Path, fresh: lewm.Store, count: int) -> dict[str, Any]:
    """Measure one run and its rivals on the same starts."""
    of = open_run(run, data=None, device=None, config=None)
    task, settings = of.task, of.config.eval
    assert task is not None
    every = np.arange(fresh.num_episodes)
    starts = make_starts(fresh, every, count=count, goal_offset=settings.goal_offset, seed=0)  # the same for all seeds
    success, policies = reaches(task, starts), {}

    def add(name: str, policy: Any, frame_skip: int) -> Any:
        loop = run_closed_loop(task, starts, policy, success, budget=settings.budget, frame_skip=frame_skip)
        apart = task.place(loop.states[:, -task.hold :]) - task.place(starts.goal_state)[:, None]  # pyright: ignore[reportOptionalSubscript,reportOptionalOperand]
        held = int(loop.success.sum())
        policies[name] = {
            "held": held,
            "rate": held / len(loop.states),
            "ci95": interval(held, len(loop.states)),
            "tip_px_median": float(np.median(np.linalg.norm(apart, axis=-1))),
        }
        return loop

    for name, changes in VARIANTS.items():
        config = with_settings(of.config, changes)
        policy = _Watched(replace(of, config=config), task, starts)
        loop = add(name, policy, config.data.frame_skip)
        if name == "recipe":
            said = policy.judged(loop.states, success)
    add("random", random_policy(task, seed=0, length=1), 1)
    add("moving straight", straight_policy(task, starts), 1)
    reached = json.loads((run / REACHED).read_text(encoding="utf-8"))
    return {
        "seed": of.config.seed,
        "machine": machine(of.model.device),
        "policies": policies,
        "reached": reached | {"in closed loop": said},
    }


class _Watched(ModelPolicy):
    """The model's policy, which notes at every look whether its controller takes the goal for reached."""

    def __init__(self, of: Evaluation, task: Any, starts: Any) -> None:
        super().__init__(of.model, of.config, task, starts, of.space, cost=of.learnt)
        self._said: list[np.ndarray] = []
        self._step = of.config.plan.execute * of.config.data.frame_skip

    def __call__(self, states: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        actions = super().__call__(states, episodes)
        self._said.append(self._controller.reached)
        return actions

    def judged(self, states: np.ndarray, success: Any) -> dict[str, float]:
        """Compare what was said with the true states (E, budget + 1, S) at the looks."""
        said = np.stack(self._said, axis=1)  # (E, looks)
        truth = success(states)[:, :: self._step][:, : said.shape[1]]
        return {
            "looks": int(said.size),
            "at_the_goal": int(truth.sum()),
            "missed": float((truth & ~said).sum() / max(truth.sum(), 1)),
            "false_positives": float((said & ~truth).sum() / max((~truth).sum(), 1)),
            "wrong_of_said": float((said & ~truth).sum() / max(said.sum(), 1)),
        }


if __name__ == "__main__":
    main()
