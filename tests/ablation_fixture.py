"""A table of two studies whose jobs take about a second each; `lewm ablate tests/ablation_fixture.py` runs it."""

import dataclasses
from typing import Any

from lewm.research import Study, Table, TaskData
from lewm.research.results import Line
from lewm.research.table import Job
from tiny import IMAGE, TINY

_PARTS = {group: dataclasses.asdict(getattr(TINY, group)) for group in ("model", "train", "plan")}
SMALL: dict[str, Any] = {f"{group}.{name}": value for group, part in _PARTS.items() for name, value in part.items()}
del SMALL["model.family"]
SMALL |= {
    "data.frame_skip": 2,
    "data.held_out": 0.34,
    "train.steps": 6,
    "train.checkpoint_every": 2,
    "train.cost_steps": 2,
    "plan.horizon": 2,
    "plan.candidates": 4,
    "plan.elites": 2,
    "plan.iterations": 1,
    "eval.episodes": 3,
    "eval.split_episodes": 2,
    "eval.goal_offset": 5,
    "eval.budget": 6,
    "eval.horizons": (1, 2),
    "eval.clips": 8,
    "eval.probe_frames": 40,
}
DATA = TaskData(task="two-room", episodes=6, episode_length=20, image_size=IMAGE, settings=SMALL)
VARIANTS = {"ours": {}, "slow": {"model": {"slowness": 2.0}}, "pooled": {"plan.cost": "pooled"}}


def table(**study: Any) -> Table:
    """Return the table with something else for its study `levers`."""
    levers = {"variants": VARIANTS, "tasks": ("rooms",), "seeds": (0, 1)}
    return Table(
        tasks={"rooms": DATA},
        studies={
            "levers": Study(**(levers | study)),
            "again": Study(variants={"the same": {}}, tasks=("rooms",), seeds=(0,)),
        },
    )


def line_for(job: Job, *, success: float = 0.5, episodes: int = 10, **more: Any) -> Line:
    """Return a line of results for a job, as if it had been measured."""
    interval = [0.0, 1.0]
    return {
        "study": job.study,
        "variant": job.variant,
        "task": job.task,
        "seed": job.seed,
        "key": job.key,
        "changes": dict(job.changes),
        "family": job.config.model.family,
        "training": job.training,
        "train": {
            "seconds": {"wall": 3.0},
            "step_ms": 20.0,
            "curve": {"step": [1, 2], "effective_rank": [2.0, 3.0 + job.seed]},
        },
        "parameters": 1234,
        "eval": {
            "spectrum": {"effective_rank": 4.0 + job.seed, "condition_number": 123.4, "content_share": 0.5},
            "prediction": {
                "horizon": [1, 2, 4, 8],
                "error_ratio": [0.1, 0.2, 0.4, 0.8],
                "centred_cosine": [0.9, 0.8, 0.7, 0.6],
                "copy_centred_cosine": [0.5, 0.4, 0.3, 0.2],
            },
            "probe": {"r2": 0.9, "random_r2": 0.7},
            "cost": {
                "rank_correlation_distance": 0.8,
                "split_episodes": 4,
                "planner_alone_success": 1.0,
                "cost_alone_success": 0.75,
                "model_success": 0.5,
            },
            "planning": {
                "episodes": episodes,
                "success_rate": success,
                "ci95": interval,
                "random_success_rate": 0.1,
                "random_ci95": interval,
            },
        },
    } | more


TABLE = table()
