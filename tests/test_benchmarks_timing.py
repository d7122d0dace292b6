"""What is timed is the work that the page says."""

import runpy
import time
from pathlib import Path

import pytest
import torch

from lewm.config import Config
from lewm.families.presets import preset

BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "timing.py"))


def linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def blocks(rows: int, width: int, depth: int) -> int:
    """Operations of transformer blocks: queries, keys, values, attention and its output, an MLP four times as wide."""
    products = linear(rows, width, 3 * width) + linear(rows, width, width) + 2 * linear(rows, width, 4 * width)
    return depth * (products + 4 * rows * rows * width)


def last_block(rows: int, read: int, width: int) -> int:
    """Return the operations of a predictor's last block, which gives no token that nobody reads."""
    products = linear(rows, width, 2 * width) + 2 * linear(read, width, width) + 2 * linear(read, width, 4 * width)
    return products + 4 * rows * read * width


def predicted(rows: int, read: int) -> int:
    """Return the operations of the predictor's three blocks."""
    return blocks(rows, 64, 2) + last_block(rows, read, 64)


def by_hand(config: Config) -> tuple[int, int, int]:
    """Return the operations of the first convolution, of the encoder and of a prediction, of the settings below."""
    first, second = (16, 32) if config.preset == "tiny" else (64, 128)
    stem = linear(16 * 16, 3 * 9, first)
    patches = linear(8 * 8, first * 9, second) + linear(4, second * 16, 96)
    # one vector a frame: four tokens, each narrowed, are joined and projected by an MLP
    project = linear(4, 96, 96) + linear(1, 4 * 96, 4 * 96) + linear(1, 4 * 96, 96) if config.preset == "tiny" else 0
    encoder = stem + patches + blocks(4, 96, 3) + project
    seen, all_tokens = (1, 1) if config.preset == "tiny" else (4, 8)  # tokens, and mask tokens beside them
    action = linear(1, 2 * config.data.frame_skip, 64) + linear(1, 64, 64)
    step = action + linear(seen, 96, 64) + predicted(all_tokens, seen) + linear(seen, 64, 96)
    return stem, encoder, step


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tokens", "masked"])
def test_operations(name: str) -> None:
    """A step of K candidates is K steps, and a cycle I K H + H steps and an encoding; all are those counted by hand."""
    settings = {"model.image_size": 32, "train.batch_size": 2, "train.precision": "float32", "plan.cost": "tokens"}
    if name != "tiny":
        sizes = {"width": 96, "depth": 3, "num_heads": 3, "predictor_width": 64, "predictor_depth": 3}
        settings["model.full_context_prob"] = 0.0 if name == "masked" else 1.0
        settings |= {f"model.{size}": value for size, value in sizes.items()}
    config = preset("tiny" if name == "tiny" else "literal", settings)
    work = BENCHMARK["make_work"](config, torch.device("cpu"))
    count = {part: BENCHMARK["operations"](run) for part, run in work.items()}
    candidates, horizon, iterations = (BENCHMARK[key] for key in ("CANDIDATES", "HORIZON", "ITERATIONS"))
    stem, encoder, step = by_hand(config)
    assert (count["encoder"], count["step"]) == (encoder, step)
    assert count["steps"] == candidates * count["step"]
    assert count["cycle"] == count["encoder"] + (iterations * candidates + 1) * horizon * count["step"]
    # Of two clips: forward of both encoders and the predictor, then backward of one encoder and the predictor at twice
    # the work, but for the gradient of the pixels. What else is in the loss takes a few hundredths.
    whole = count["train_whole" if name == "masked" else "train"]
    assert whole == pytest.approx(1.01 * 2 * (4 * encoder - stem + 3 * step), rel=0.01)
    assert ("train_whole" in count) == (name == "masked")
    if name == "masked":  # one of four tokens enters the encoder's blocks: of one clip, forward and twice as much back
        saved = blocks(4, 96, 3) - blocks(1, 96, 3) + linear(3, 96, 64) + predicted(8, 4) - predicted(5, 4)
        assert whole - count["train"] == pytest.approx(2 * 3 * saved, rel=0.03)


def test_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    calls = iter([50.0, 3.0, 1.0, 7.0])  # the first one does not count
    assert BENCHMARK["seconds"](lambda: clock.append(clock.pop() + next(calls)), torch.device("cpu"), 3) == 3.0
    assert list(calls) == []
