"""What is timed is the work that the page says."""

import runpy
from pathlib import Path

import pytest
import torch

from lewm.families.presets import preset

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "timing.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tokens", "masked"])
def test_operations(name: str) -> None:
    """The counts fit each other: a step of K candidates is K steps, and a cycle I K H + H steps and an encoding."""
    settings = {"model.image_size": 32, "train.batch_size": 2, "train.precision": "float32", "plan.cost": "tokens"}
    if name != "tiny":
        sizes = {"width": 96, "depth": 3, "num_heads": 3, "predictor_width": 64, "predictor_depth": 3}
        settings["model.full_context_prob"] = 0.0 if name == "masked" else 1.0
        settings |= {f"model.{size}": value for size, value in sizes.items()}
    config = preset("tiny" if name == "tiny" else "literal", settings)
    work = BENCHMARK["make_work"](config, torch.device("cpu"))
    count = {part: BENCHMARK["operations"](run) for part, run in work.items()}
    candidates, horizon, iterations = (BENCHMARK[key] for key in ("CANDIDATES", "HORIZON", "ITERATIONS"))
    assert min(count.values()) > 0
    assert count["steps"] == candidates * count["step"]
    assert count["cycle"] == count["encoder"] + (iterations * candidates + 1) * horizon * count["step"]
    # forward of both encoders and the predictor, then backward of one encoder and the predictor at twice the work
    whole = count["train_whole" if name == "masked" else "train"]
    assert whole > 2 * 4 * count["encoder"]
    assert ("train_whole" in count) == (name == "masked")
    assert name != "masked" or count["train"] < whole


def test_seconds() -> None:
    calls: list[None] = []
    assert BENCHMARK["seconds"](lambda: calls.append(None), torch.device("cpu"), 3) >= 0
    assert len(calls) == 4  # the first one does not count
