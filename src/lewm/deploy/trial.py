"""Closed loop of an export in a simulated task, through the runtime alone; no torch.

    python -m lewm.deploy.trial DIR --episodes 100

`lewm plan` measures the same starts with PyTorch.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from lewm.config.common import EvalProtocol
from lewm.deploy import sessions
from lewm.deploy.runtime import Controller
from lewm.envs import Task, make_task

STARTS = "starts.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """What closed-loop episodes came to.

    Args:
        solved: (E,) whether each reached its goal.
        protocol: What success was.
        latency: Times of the looks, in milliseconds.
        events: How many of each kind there were.
    """

    solved: NDArray[np.bool_]
    protocol: str
    latency: dict[str, float]
    events: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """Return the success rate, its 95% interval by Wilson's score, and the rest."""
        trials, z = len(self.solved), 1.959964
        rate = float(self.solved.mean())
        centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
        half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
        interval = [max(0.0, centre - half), min(1.0, centre + half)]
        rest = {"protocol": self.protocol, "latency": self.latency, "events": self.events}
        return {"episodes": trials, "success_rate": rate, "ci95": interval, **rest}


def run_trial(controller: Controller, folder: str | Path, *, episodes: int | None = None, budget: int = 50) -> Trial:
    """Drive from the starts of an export folder to their goals.

    Args:
        controller: Of the export, for one robot.
        folder: The export folder, which has `starts.json` where the run is of a task of this package.
        episodes: The first so many starts; None takes all.
        budget: Environment steps of an episode.

    Raises:
        ValueError: If the folder has no starts, or the controller drives several robots.
    """
    path = Path(folder) / STARTS
    if controller.manifest.sizes.batch != 1:
        raise ValueError(f"batch={controller.manifest.sizes.batch}: a trial drives one robot; export with --batch 1")
    if not path.is_file():
        raise ValueError(f"export={folder}: has no {STARTS}, since it is of no task of this package; drive it yourself")
    listed = json.loads(path.read_text(encoding="utf-8"))
    starts = listed["starts"][:episodes]
    task = make_task(controller.spec.task, controller.manifest.sizes.image_size)
    ends = [tuple(np.array(start[name], np.float32) for name in ("state", "goal_state")) for start in starts]
    return Trial(
        drive(controller, task, ends, protocol=listed["protocol"], budget=budget),
        listed["protocol"],
        controller.latency.summary(),
        {str(kind): count for kind, count in controller.events.counts.items()},
    )


def drive(
    controller: Controller,
    task: Task,
    ends: Iterable[Sequence[NDArray[np.float32]]],
    *,
    protocol: EvalProtocol,
    budget: int,
    tick: Callable[[], None] = lambda: None,
) -> NDArray[np.bool_]:
    """Drive from every start (S,) to its goal (S,), and say which were reached, (E,).

    The noise of an episode is of its number: it is the same for every export that drives it.
    """
    solved = []
    for number, (state, goal) in enumerate(ends):
        controller.draw_anew(number)
        solved.append(_episode(controller, task, state, goal, protocol=protocol, budget=budget))
        tick()
    return np.array(solved, dtype=bool)


def _episode(
    controller: Controller,
    task: Task,
    state: NDArray[np.float32],
    goal: NDArray[np.float32],
    *,
    protocol: EvalProtocol,
    budget: int,
) -> bool:
    """Drive one episode and say whether it succeeded."""
    rule = task.rule(protocol)
    command = task.command(state[None]) if controller.needs_command else None
    controller.set_goal(task.render_states(goal[None])[0], command=command)
    frame_skip = controller.manifest.space.frame_skip
    history, execute = controller.manifest.sizes.history, controller.manifest.plan.execute
    seen, done, inside_for, legal = state[None], 0, 0, True
    while done < budget:
        pictures = task.render_states(seen)
        actions = controller.act(pictures[None] if len(pictures) > 1 else pictures[0])[: budget - done]
        way = task.simulate(state[None], actions[None])[0]  # (L, S)
        before = np.concatenate((state[None], way[:-1]))
        allowed = np.ones(len(way), bool) if rule.legal is None else rule.legal(before, way)
        for inside, fine in zip(rule.inside(way, np.repeat(goal[None], len(way), axis=0)), allowed, strict=True):
            legal = legal and bool(fine)
            inside_for = inside_for + 1 if inside and legal else 0
            if inside_for >= rule.steps and not rule.at_end:
                return True
        done, state = done + len(way), way[-1]
        seen = way[frame_skip - 1 :: frame_skip][-min(execute, history) :]
    return inside_for >= rule.steps


@dataclass(frozen=True, kw_only=True)
class _Options:
    export: Positional[Path]
    """Export folder."""
    episodes: int | None = None
    """The first so many starts; all by default."""
    budget: int = 50
    """Environment steps of an episode."""
    deadline: float | None = None
    """Seconds that a look may take."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Threads of the graphs."""


def main() -> None:
    """Run a trial and print what came of it as a line of JSON."""
    args = tyro.cli(_Options, description=__doc__)
    sessions.share_threads(args.threads)
    controller = Controller.load(args.export, deadline=args.deadline, threads=args.threads)
    trial = run_trial(controller, args.export, episodes=args.episodes, budget=args.budget)
    sys.stdout.write(json.dumps(trial.summary()) + "\n")


if __name__ == "__main__":
    main()
