"""What the metrics of a training say of it in a few numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from lewm.report.run_files import RunFiles

SPECTRUM = ("effective_rank", "condition_number", "content_share")
LAST = 0.05  # share of the steps over which final losses are averaged
FIRST = 0.1  # share of the steps that are the beginning


def summarise(run: Path, *, diverged: bool) -> dict[str, Any]:
    """Sum up `metrics.jsonl` of a run folder.

    Args:
        run: Run folder.
        diverged: Whether training ended at a step that was not finite, which is not among the metrics.

    Returns:
        `steps`; `final`, each loss averaged over the last steps; `nonfinite_steps`; `grad_norm`, the `largest` and the
        `median` before clipping, over all steps and, as `first_largest` and `first_median`, over the first tenth;
        `curve`, the spectrum on held-out frames over `step`. A number that is not there is None.
    """
    metrics = RunFiles(run).metrics
    nothing = np.empty(0), np.empty(0)
    every, _ = metrics.get("learning_rate", nothing)  # is finite at every step
    finite = np.intersect1d(metrics.get("loss", nothing)[0], metrics.get("grad_norm", nothing)[0])
    steps, norms = metrics.get("grad_norm", nothing)
    total = int(every.max(initial=0))
    first = norms[steps <= max(1, FIRST * total)]
    final = {}
    for name, (at, values) in metrics.items():
        if name.startswith("loss"):
            final[name] = _number(np.mean, values[at > (1 - LAST) * total])
    at, _ = metrics.get(SPECTRUM[0], nothing)
    curve: dict[str, list[float | None]] = {"step": [int(step) for step in at]}
    for name in SPECTRUM:
        known = dict(zip(*(part.tolist() for part in metrics.get(name, nothing)), strict=True))
        curve[name] = [known.get(step) for step in at.tolist()]
    return {
        "steps": total,
        "final": final,
        "nonfinite_steps": len(every) - len(finite) + diverged,
        "grad_norm": {
            "largest": _number(np.max, norms),
            "median": _number(np.median, norms),
            "first_largest": _number(np.max, first),
            "first_median": _number(np.median, first),
        },
        "curve": curve,
    }


def _number(reduce: Any, values: np.ndarray) -> float | None:
    return float(reduce(values)) if len(values) else None
