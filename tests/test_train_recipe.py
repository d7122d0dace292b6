"""The shipped recipe, `tiny`, step by step: its losses are those that were recorded.

Run as a script, this file records them anew: `python tests/test_train_recipe.py`. With `--compare`, its exit status
says whether they are bit for bit those recorded.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

import lewm
from lewm.train.checkpoint import METRICS

GOLDEN = Path(__file__).parent / "golden" / "recipe_curve.json"
STEPS = 6


def curve(folder: Path) -> dict[str, list[float]]:
    """Train the recipe for a few steps on little data, and return its losses."""
    store = lewm.collect("two-room", folder / "store", episodes=8, episode_length=30, workers=1, seed=0, progress=False)
    config = lewm.preset("tiny", {"train.steps": STEPS, "train.cost_steps": 1, "train.checkpoint_every": STEPS})
    lewm.train_run(config, store.path, folder / "run", progress=False)
    rows = [json.loads(line) for line in (folder / "run" / METRICS).read_text(encoding="utf-8").splitlines()]
    return {name: [row[name] for row in rows] for name in rows[0] if name.startswith("loss") or name == "grad_norm"}


def test_losses_are_those_recorded(tmp_path: Path) -> None:
    """Other processors round otherwise, and a few steps let that grow a little."""
    expected, got = json.loads(GOLDEN.read_text(encoding="utf-8")), curve(tmp_path)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name] == pytest.approx(values, rel=2e-3), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        now = curve(Path(temporary))
    if sys.argv[1:] == ["--compare"]:
        sys.exit(now != json.loads(GOLDEN.read_text(encoding="utf-8")))
    GOLDEN.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
