"""The article's system at its own size: frames of 128 pixels, 64 tokens of 384 numbers, 13.5 million weights.

    python benchmarks/own_size.py --study literal --tasks two-room
    python benchmarks/own_size.py --list

This is `lewm ablate benchmarks/own_size.py --out benchmarks/results/own_size.jsonl --keep` with the options given. A
training takes hours on a CPU. A command that was stopped goes on when it is given again with the same `--work`.
"""

import sys
from pathlib import Path

from lewm.cli import main
from lewm.research import ModelOf, Study, Table, TaskData

OUT = Path(__file__).parent / "results" / "own_size.jsonl"
SIZE = 128

# Batches of 32, and about as many steps as one CPU core does in 160 minutes; every schedule is a share of the steps.
# All else about training is the article's. A look compares 64 sequences of five model steps, each five actions long.
LITERAL = {
    "data.frame_skip": 5,
    "train.steps": 5000,
    "train.batch_size": 32,
    "train.precision": "float32",
    "train.checkpoint_every": 100,
    "train.cost_steps": 0,
    "plan.cost": "tokens",
    "plan.over": "last",
    "plan.horizon": 5,
    "plan.iterations": 1,
    "plan.execute": 1,
    "plan.hold": False,
    "eval.episodes": 100,
    "eval.split_episodes": 0,
}

# The package's own recipe, planned as `tiny` is. bfloat16 halves the time of a step on a CPU that has it.
LARGE = {
    "data.frame_skip": 3,
    "train.steps": 2000,
    "train.batch_size": 32,
    "train.learning_rate": 1e-3,
    "train.warmup": 0.1,
    "train.precision": "bfloat16",
    "train.checkpoint_every": 100,
    "train.cost_steps": 2000,
    "plan.cost": "steps_to_go",
    "plan.over": "sum",
    "plan.hold": None,
    "eval.episodes": 200,
    "eval.split_episodes": 0,
}

TABLE = Table(
    preset="literal",
    tasks={
        "two-room": TaskData(
            task="two-room", episodes=400, image_size=SIZE, settings={"plan.horizon": 5, "plan.execute": 2}
        ),
        "push-t": TaskData(task="push-t", episodes=500, image_size=SIZE, settings={"plan.horizon": 5}),
        "arm": TaskData(task="arm", episodes=400, image_size=SIZE, settings={"plan.horizon": 4, "plan.execute": 1}),
    },
    studies={
        "literal": Study(
            variants={"literal": ModelOf("literal")}, tasks=("two-room", "push-t"), seeds=(0,), settings=LITERAL
        ),
        "large": Study(variants={"large": ModelOf("large")}, tasks=("two-room", "arm"), settings=LARGE),
    },
)

if __name__ == "__main__":
    sys.exit(main(["ablate", __file__, "--out", str(OUT), "--keep", *sys.argv[1:]]))
