"""Train variants of the `tiny` recipe on the same Two-Room episodes and evaluate each: what was needed to learn.

    python benchmarks/recipe.py --out benchmarks/results/recipe.json

Variants already in the output file are not run again. The last line is one JSON object with one evaluation a variant.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

import torch

from lewm.config import Config, preset
from lewm.envs import collect
from lewm.evaluate import evaluate_run
from lewm.files import write_text
from lewm.train import train

Changes = dict[str, dict[str, Any]]

# what each variant changes in `tiny`
VARIANTS: dict[str, Changes] = {
    "tiny": {},
    "no slowness": {"loss": {"slowness": 0.0}},
    "inverse dynamics at 0.5": {"loss": {"inverse": 0.5}},
    "inverse dynamics at 0.5, no slowness": {"loss": {"inverse": 0.5, "slowness": 0.0}},
    "spectral regulariser on tokens at 0.1 (article)": {
        "loss": {"regulariser": "spectral", "weight": 0.1, "apply_to": "tokens", "centre": "batch"}
    },
    "no regulariser": {"loss": {"regulariser": "none"}},
    "trimmed contexts alone (article)": {"mask": {"full_context_prob": 0.0}},
    "EMA 0.996 to 1.0 (article)": {"train": {"ema_start": 0.996, "ema_end": 1.0}},
    "final LayerNorm with affine": {"model": {"final_norm": "layer"}},
    "frame-skip 5": {"data": {"frame_skip": 5}},
    "cost: distance of tokens": {"plan": {"cost": "tokens"}},
}


def changed(config: Config, changes: Changes) -> Config:
    """Return the configuration with the settings of a variant."""
    parts = {section: dataclasses.replace(getattr(config, section), **values) for section, values in changes.items()}
    return dataclasses.replace(config, **parts)


def main() -> None:
    """Train and evaluate every variant that is still missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--collect-episodes", type=int, default=400)
    parser.add_argument("--episodes", type=int, default=20, help="closed-loop episodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    settings = {"steps": arguments.steps, "collect_episodes": arguments.collect_episodes, "seed": arguments.seed}
    summary: dict[str, Any] = {"benchmark": "recipe", **settings, "runs": []}
    if arguments.out.is_file():
        old = json.loads(arguments.out.read_text(encoding="utf-8"))
        if {name: old[name] for name in settings} == settings:
            summary = old
    done = {run["variant"] for run in summary["runs"]}

    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary) / "store"
        collect("two-room", store, episodes=arguments.collect_episodes, seed=arguments.seed)
        short: Changes = {
            "train": {"steps": arguments.steps},
            "eval": {"episodes": arguments.episodes, "split_episodes": 1},
            "plan": {"execute": 5},
        }
        base = changed(preset("tiny"), short)
        base = dataclasses.replace(base, seed=arguments.seed)
        trained: dict[Config, Path] = {}  # variants of planning share one training
        for number, variant in enumerate(arguments.variants):
            config = changed(base, VARIANTS[variant])
            training = dataclasses.replace(config, plan=base.plan) if config.data == base.data else config
            if variant in done:
                continue
            start = time.perf_counter()
            if training not in trained:
                trained[training] = Path(temporary) / f"run-{number}"
                train(training, store, trained[training])
            seconds = round(time.perf_counter() - start, 1)
            evaluation = evaluate_run(trained[training], config=config)
            summary["runs"].append(
                {"variant": variant, "changes": VARIANTS[variant], "train_seconds": seconds, "eval": evaluation}
            )
            write_text(arguments.out, json.dumps(summary) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", str(torch.get_num_threads()))))
    main()
