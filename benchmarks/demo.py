"""Run `lewm demo` for several seeds, each from nothing, and sum up what the evaluations measured.

    python benchmarks/demo.py --seeds 0 1 2 --out benchmarks/results/demo.json

The last line is one JSON object: one evaluation a seed, and the seconds that each demo took, without installation.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run the demos one after another and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in arguments.seeds:
            out = (arguments.keep or Path(temporary)) / f"seed-{seed}"
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            command = [sys.executable, "-m", "lewm", "demo", "--seed", str(seed), "--out", str(out)]
            subprocess.run(command, check=True, stdout=sys.stderr)
            seconds = time.perf_counter() - start
            evaluation = json.loads(next(out.rglob("eval.json")).read_text(encoding="utf-8"))
            runs.append({"seed": seed, "seconds": round(seconds, 1), "eval": evaluation})
    summary = json.dumps({"benchmark": "demo", "runs": runs})
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(summary + "\n", encoding="utf-8")
    print(summary)


if __name__ == "__main__":
    main()
