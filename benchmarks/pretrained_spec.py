"""Write `spec.json` for the models that come with the package, from their settings and their tasks.

    python benchmarks/pretrained_spec.py

A model that `benchmarks/pretrain.py` puts into the package brings its own; these were trained before runs had one.
"""

import json

from lewm.envs import TASKS
from lewm.envs.collector import task_meta
from lewm.pretrained import FOLDER, pretrained_names
from lewm.run_spec import save_spec
from lewm.train.checkpoint import load_config
from lewm.train.describe import spec_of_meta


def main() -> None:
    """Describe every model as a run on collected episodes of its task."""
    for name in pretrained_names():
        config = load_config(FOLDER / name)
        save_spec(FOLDER / name, spec_of_meta(task_meta(TASKS[name], image_size=config.model.image_size), config))
    print(json.dumps({"benchmark": "pretrained_spec", "models": pretrained_names()}))


if __name__ == "__main__":
    main()
