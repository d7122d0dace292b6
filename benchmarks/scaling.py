"""What a size costs: operations, time and memory of `large` and of models that differ from it in one size.

    python benchmarks/scaling.py

Operations of a look are those of the article's budget: 64 candidates, 8 steps, 3 refinements. Times are processor time
of one thread in float32. Memory is the peak of a process that takes training steps of 32 clips, less what it had before
it made the model. Every size has a process of its own. The results are in `benchmarks/results/scaling.json`.
"""

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lewm.config import ActionConfig, Config
from lewm.evaluate.evaluation import machine
from lewm.families.family import make_model
from lewm.families.presets import preset
from lewm.files import write_text
from timing import MATRIX, make_work, operations, seconds

OUT = Path(__file__).parent / "results" / "scaling.json"
BATCH = 32
SIZES: dict[str, dict[str, Any]] = {
    "large": {},
    "width 192": {"model.width": 192, "model.num_heads": 3, "model.predictor_width": 96, "model.predictor_heads": 2},
    "width 768": {"model.width": 768, "model.num_heads": 12, "model.predictor_width": 384, "model.predictor_heads": 8},
    "depth 3": {"model.depth": 3},
    "depth 12": {"model.depth": 12},
    "64 pixels": {"model.image_size": 64},
    "224 pixels": {"model.image_size": 224},
    "tiny": {},
}
"""What each changes of `large`; `tiny` is the preset of that name."""
PARTS = ("encoder", "cycle", "train")


def config_of(name: str) -> Config:
    """Return the settings of a size."""
    config = preset("tiny" if name == "tiny" else "large", SIZES[name] | {"train.precision": "float32"})
    action = ActionConfig(kind="continuous", size=2, low=(-1.0, -1.0), high=(1.0, 1.0))
    return replace(config, action=action, train=replace(config.train, batch_size=BATCH))


def megabytes() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure(name: str, part: str, repeats: int) -> dict[str, Any]:
    """Measure a part of a size, in this process."""
    torch.set_num_threads(1)
    before, device, config = megabytes(), torch.device("cpu"), config_of(name)
    work = make_work(config, device)[part]
    taken = seconds(work, device, repeats)
    peak = megabytes() - before
    a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    rate = 2 * MATRIX**3 / seconds(lambda: a @ b, device, repeats)
    count = operations(work)
    model = make_model(config)
    return {
        "ms": 1e3 * taken,
        "gflop": count / 1e9,
        "share_of_matrix_rate": count / taken / rate,
        "peak_mb": peak,
        "parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "machine": machine(device),
    }


def main() -> None:
    """Measure every part of every size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "PART"), help="measure this here, and print it")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], args.one[1], args.repeats)))
        return
    found: dict[str, Any] = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    for name in args.sizes:
        for part in PARTS:
            command = [sys.executable, __file__, "--one", name, part, "--repeats", str(args.repeats)]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            cell = json.loads(told.splitlines()[-1])
            found["machine"] = cell.pop("machine")
            found.setdefault("sizes", {}).setdefault(name, {})[part] = cell
            print(name, part, json.dumps(cell), file=sys.stderr, flush=True)
            write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
