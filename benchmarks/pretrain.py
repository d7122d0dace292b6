"""Put a trained and evaluated run into the package, for `lewm plan --pretrained NAME`.

    python benchmarks/demo.py --seeds 0 --keep runs/pretrain
    python benchmarks/pretrain.py runs/pretrain/seed-0 two-room
    python benchmarks/push_t.py --keep runs/pretrain-push-t
    python benchmarks/pretrain.py runs/pretrain-push-t/run push-t
    python benchmarks/arm.py --seeds 0
    lewm eval runs/arm/seed-0
    python benchmarks/pretrain.py runs/arm/seed-0 arm
    python benchmarks/pretrain.py RUN two-room --light models/large-two-room

The folder gets the run's weights and its learnt cost, its `spec.json`, its settings without the path of its data and
with the planning that was measured, and `eval.json` as `metrics.json`.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from lewm.config import PlanConfig
from lewm.envs import TASKS
from lewm.files import write_text
from lewm.pretrained import FOLDER
from lewm.run_spec import save_spec
from lewm.train.checkpoint import COST, WEIGHTS, load_run, save_config, save_cost, save_light, save_weights

LARGEST = 8_000_000  # bytes of weights: the package stays small


def main() -> None:
    """Copy what inference needs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder with eval.json")
    parser.add_argument("name", choices=sorted(TASKS), help="its task")
    parser.add_argument("--light", type=Path, help="new folder outside of the package, in float16, for larger models")
    arguments = parser.parse_args()
    loaded = load_run(arguments.run, "cpu")
    metrics = json.loads((arguments.run / "eval.json").read_text(encoding="utf-8"))
    if metrics["data"]["task"] != arguments.name:
        parser.error(f"name={arguments.name}: the run was trained on {metrics['data']['task']}; give that name")
    if not loaded.config.model.plans:
        parser.error(f"run={arguments.run}: is a policy, which makes no plans; give a world model")
    parts = [loaded.model] if loaded.cost is None else [loaded.model, loaded.cost]
    size = sum(tensor.nbytes for part in parts for tensor in part.state_dict().values())
    if size > LARGEST and arguments.light is None:
        parser.error(f"run={arguments.run}: its weights have {size} bytes; at most {LARGEST} are shipped")
    measured = {field.name: metrics["planning"][field.name] for field in dataclasses.fields(PlanConfig)}
    config = dataclasses.replace(
        loaded.config,
        plan=PlanConfig(**measured),
        data=dataclasses.replace(loaded.config.data, path=""),
        train=dataclasses.replace(loaded.config.train, encoder_from=""),
    )
    folder = arguments.light or FOLDER / arguments.name
    folder.mkdir(exist_ok=True, parents=True)
    save_config(folder, config)
    save_spec(folder, loaded.spec)
    if arguments.light is not None:
        save_light(folder, loaded.model, loaded.cost)
    else:
        save_weights(folder, loaded.model)
        if loaded.cost is not None:
            save_cost(folder, loaded.cost)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    written = sum((folder / name).stat().st_size for name in (WEIGHTS, COST) if (folder / name).is_file())
    print(json.dumps({"benchmark": "pretrain", "folder": arguments.name, "bytes": written}))


if __name__ == "__main__":
    main()
