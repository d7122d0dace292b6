"""What a training's metrics come down to."""

import json
import math
from pathlib import Path
from typing import Any

from lewm.research.summary import summarise


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "metrics.jsonl").write_text(text, encoding="utf-8")
    return path


def test_summary_of_a_training(tmp_path: Path) -> None:
    rows = [
        {"step": step, "loss": 1 / step, "loss_reg": 2.0, "grad_norm": float(step % 7), "learning_rate": 0.1}
        for step in range(1, 41)
    ]
    rows[19] |= {"effective_rank": 3.0, "condition_number": math.inf, "content_share": 0.5}
    rows[39] |= {"effective_rank": 4.0, "condition_number": 9.0, "content_share": 0.25}
    rows[5]["loss"] = math.nan
    found = summarise(write(tmp_path / "run", rows), diverged=True)
    assert found["steps"] == 40
    assert found["nonfinite_steps"] == 2  # one in the rows, and the one that ended it
    assert found["final"] == {"loss": (1 / 39 + 1 / 40) / 2, "loss_reg": 2.0}
    assert found["grad_norm"] == {"largest": 6.0, "median": 3.0, "first_largest": 4.0, "first_median": 2.5}
    assert found["curve"] == {
        "step": [20, 40],
        "effective_rank": [3.0, 4.0],
        "condition_number": [None, 9.0],
        "content_share": [0.5, 0.25],
    }
    json.dumps(found, allow_nan=False)


def test_training_that_diverged_at_once(tmp_path: Path) -> None:
    found = summarise(write(tmp_path / "run", []), diverged=True)
    assert (found["steps"], found["nonfinite_steps"], found["final"]) == (0, 1, {})
    assert set(found["grad_norm"].values()) == {None}
