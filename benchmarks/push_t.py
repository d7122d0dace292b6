"""Collect Push-T, train the `tiny` preset on it, and evaluate prediction and planning.

    python benchmarks/push_t.py --out benchmarks/results/push_t.json

The last line is one JSON object with the evaluation, the seconds of training and evaluation, and the settings.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lewm.files import write_text


def lewm(*words: object) -> float:
    """Run one `lewm` command and return the seconds that it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lewm", *map(str, words)], check=True, stdout=sys.stderr)
    return round(time.perf_counter() - start, 1)


def main() -> None:
    """Run the stages one after another and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collect-episodes", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--episodes", type=int, default=200, help="closed-loop episodes")
    parser.add_argument("--split-episodes", type=int, default=5, help="of these, with the true dynamics")
    parser.add_argument("--slowness", type=float, default=0.1)
    parser.add_argument("--inverse", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="keep the store and the run here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        store, run, times = folder / "store", folder / "run", folder / "seconds.json"
        lewm("collect", "push-t", "--episodes", arguments.collect_episodes, "--out", store)
        if not times.is_file():  # else the run that was kept is evaluated anew
            seconds = lewm(
                *("train", "--data", store, "--preset", "tiny", "--out", run),
                *("--train.steps", arguments.steps, "--train.learning-rate", 1e-3, "--seed", arguments.seed),
                *("--data.frame-skip", 5, "--model.residual"),
                *("--model.slowness", arguments.slowness, "--model.inverse", arguments.inverse),
            )
            write_text(times, json.dumps({"train": seconds}))
        seconds = json.loads(times.read_text(encoding="utf-8"))
        seconds["eval"] = lewm(
            *("eval", run, "--eval.episodes", arguments.episodes, "--eval.split-episodes", arguments.split_episodes),
            *("--plan.execute", 1, "--plan.cost", "tokens", "--plan.iterations", 9),
        )
        evaluation = json.loads((run / "eval.json").read_text(encoding="utf-8"))
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        del config["data"]["path"]
    runs = [{"seed": arguments.seed, "seconds": seconds, "config": config, "eval": evaluation}]
    summary = json.dumps({"benchmark": "push_t", "runs": runs})
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(arguments.out, summary + "\n")
    print(summary)


if __name__ == "__main__":
    main()
