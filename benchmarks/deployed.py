"""Success of the shipped models through the runtime, beside PyTorch's planner on the same starts.

    python benchmarks/deployed.py

Each model is exported, with fresh episodes that training never saw. The runtime drives from the export's own list of
starts; PyTorch's planner has the same list, as the digests show. Rivals stand beside them. Results:
benchmarks/results/deployed.json.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lewm.deploy.export import export_model
from lewm.deploy.manifest import sha256
from lewm.deploy.runtime import Controller
from lewm.deploy.trial import STARTS, run_trial
from lewm.evaluate.closed_loop import newcombe_interval
from lewm.evaluate.evaluation import plan_model
from lewm.evaluate.pretrained import open_pretrained
from lewm.pretrained import pretrained_run
from lewm.train.checkpoint import load_config

OUT = Path(__file__).parent / "results" / "deployed.json"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["two-room", "push-t", "arm"])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in args.models:
        config = load_config(pretrained_run(name))
        config = replace(config, eval=replace(config.eval, episodes=args.episodes))
        opened = open_pretrained(name, data=None, device="cpu", config=config, fit=True, progress=True)
        with tempfile.TemporaryDirectory(prefix="lewm-") as folder, opened as of:
            export = Path(folder) / "export"
            manifest = export_model(of, export, precision="float32", target="onnx", batch=1, progress=True)
            found = run_trial(Controller.load(export, threads=1), export, budget=config.eval.budget).summary()
            planned, starts = plan_model(of, goal=None, video=None, progress=True), sha256(export / STARTS)
        solved = round(found["success_rate"] * args.episodes), round(planned["success_rate"] * args.episodes)
        rows.append(
            {
                "model": name,
                "runtime": found,
                "pytorch": {key: planned[key] for key in ("success_rate", "ci95", "episodes", "starts_sha256")},
                "random": {key: planned[f"random_{key}"] for key in ("success_rate", "ci95")},
                "moving_straight": {key: planned[f"straight_{key}"] for key in ("success_rate", "ci95")},
                "difference_ci95": newcombe_interval(solved[0], args.episodes, solved[1], args.episodes),
                "same_starts": starts == planned["starts_sha256"],
                "false_alarms": manifest.surprise["false_alarms"],
                "parity": manifest.measured["parity"],
            }
        )
        print(json.dumps({key: rows[-1][key] for key in ("model", "same_starts", "difference_ci95")}))
    args.out.write_text(json.dumps({"command": "python benchmarks/deployed.py", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
