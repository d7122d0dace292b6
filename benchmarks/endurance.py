"""Memory of a robot's controller that runs for long.

    lewm export --pretrained two-room --out exports/two-room
    python benchmarks/endurance.py exports/two-room

The controller of an export, guarded and with a deadline, drives in its task, with one iteration of the planner a look
so that this takes minutes. Every 100 steps it gets a new goal, a picture and a state in turn. Now and then it sees a
picture that it must not trust: noise, or the one before again. The memory that the process holds is read every 5,000
steps, from Linux, and what is known so far is written then. Growth is counted from the third reading on, since rings
fill until then. No PyTorch is loaded. Results: benchmarks/results/endurance.json. The last line is one JSON object.
"""

import argparse
import gc
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lewm.deploy.bench import machine
from lewm.deploy.runtime import Controller
from lewm.envs import make_task
from lewm.files import write_text

OUT = Path(__file__).parent / "results" / "endurance.json"
GOAL_EVERY, NOISE_EVERY, REPEAT_EVERY = 100, 250, 70
READ_EVERY = 5_000


def resident() -> float:
    """Return the MiB that this process holds in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def endure(controller: Controller, *, steps: int, every: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Drive for so many steps; yields what was measured so far, every `every` steps."""
    task, rng = make_task(controller.spec.task, controller.manifest.sizes.image_size), np.random.default_rng(seed)
    task.reset(seed=seed)
    readings: list[tuple[int, float]] = []
    state, picture, by_state = task.state[None], None, False
    for step in range(steps + 1):
        if step % every == 0:
            gc.collect()
            readings.append((step, round(resident(), 3)))
            yield _measured(controller, readings)
        if step % GOAL_EVERY == 0:
            task.reset(seed=int(rng.integers(2**31)))
            goal, by_state = task.state, step // GOAL_EVERY % 2 == 1
            task.reset(seed=int(rng.integers(2**31)))
            state = task.state[None]
            named = dict(zip(controller.spec.state_names, goal.tolist(), strict=True))
            controller.set_goal(named if by_state else task.render_states(goal[None])[0])
        seen = task.render_states(state)[0]
        if step % NOISE_EVERY == NOISE_EVERY - 1:
            seen = rng.integers(0, 256, seen.shape, dtype=np.uint8)
        elif step % REPEAT_EVERY == REPEAT_EVERY - 1 and picture is not None:
            seen = picture
        actions, picture = controller.act(seen), seen
        assert np.isfinite(actions).all(), actions
        if by_state:
            _ = controller.reached
        state = task.simulate(state, actions[None])[:, -1]


def _measured(controller: Controller, readings: list[tuple[int, float]]) -> dict[str, Any]:
    (first, before), (last, after) = readings[min(2, len(readings) - 1)], readings[-1]
    return {
        "steps": last,
        "resident_mib": readings,
        "growth_mib": round(after - before, 3),
        "growth_from_step": first,
        "kept_events": len(controller.events.newest),
        "events": dict(controller.events.counts),
        "latency": controller.latency.summary(),
    }


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds of a look, done in a thread of its own")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    logging.getLogger("lewm.deploy").addHandler(logging.NullHandler())  # events are logged, and shown to nobody
    controller = Controller.load(args.export, threads=1, deadline=args.deadline)
    controller.manifest = replace(controller.manifest, plan=replace(controller.manifest.plan, iterations=1))
    began, found = time.perf_counter(), {}
    told = {"command": "python benchmarks/endurance.py", "task": controller.spec.task, "deadline": args.deadline}
    for found in endure(controller, steps=args.steps, every=min(READ_EVERY, max(args.steps // 4, 1))):
        found |= told | {"seconds": round(time.perf_counter() - began), "machine": machine(1)}
        write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: found[key] for key in ("steps", "growth_mib", "events", "latency", "seconds")}))


if __name__ == "__main__":
    main()
