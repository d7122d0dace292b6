"""What a run folder tells a report: looked up without trust in any file's presence or form."""

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.run_spec import RunSpec, load_spec


def _finite(value: Any) -> float | None:
    """Return a finite number as it is, and anything else as None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object, empty if the file is missing or holds no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_spec(run: Path) -> RunSpec | None:
    try:
        return load_spec(run)
    except (OSError, ValueError):
        return None


def _read_metrics(path: Path) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return steps and finite values of every metric; of a step that was written twice, the later line counts."""
    rows: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the last line of a run that was killed while writing
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows[row["step"]] = row
    points: dict[str, list[tuple[int, float]]] = {}
    for step in sorted(rows):
        for name, value in rows[step].items():
            if isinstance(value, int | float) and math.isfinite(value):
                points.setdefault(name, []).append((step, float(value)))
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in points.items()}


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a .npz file, none if it is missing or not one. Pickled objects are never loaded."""
    if not zipfile.is_zipfile(path):  # NumPy would take other formats for what they are not
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return {}


class RunFiles:
    """The contents of config.json, spec.json, metrics.jsonl, eval.json and eval.npz, as far as they make sense."""

    def __init__(self, run: Path) -> None:
        """Read a run folder."""
        self.path = run
        self.name = run.resolve().name
        self.config = _read_object(run / "config.json")
        self.spec = _read_spec(run)
        """What the run says of its robot, or None."""
        self.metrics = _read_metrics(run / "metrics.jsonl")
        """Steps and values of each metric."""
        self._evaluation = _read_object(run / "eval.json")
        self._arrays = _read_arrays(run / "eval.npz")

    @property
    def evaluated(self) -> bool:
        """Whether eval.json holds anything."""
        return bool(self._evaluation)

    def entry(self, *keys: str) -> Any:
        """Return what stands in eval.json under nested keys, or None."""
        value: Any = self._evaluation
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def value(self, *keys: str) -> float | None:
        """Return a finite number of eval.json, or None."""
        return _finite(self.entry(*keys))

    def numbers(self, *keys: str) -> list[float | None]:
        """Return a list of eval.json, None in it for what is no finite number; empty if there is no such list."""
        value = self.entry(*keys)
        return [_finite(item) for item in value] if isinstance(value, list) else []

    def interval(self, *keys: str) -> tuple[float, float] | None:
        """Return an interval of eval.json, or None."""
        ends = [end for end in self.numbers(*keys) if end is not None]
        return (ends[0], ends[1]) if len(ends) == 2 else None

    def array(self, name: str, dimensions: int) -> NDArray[np.float64] | None:
        """Return an array of finite numbers of eval.npz, None if it is missing, empty or something else."""
        array = self._arrays.get(name)
        if array is None or array.ndim != dimensions or array.size == 0 or array.dtype.kind not in "biuf":
            return None
        return array.astype(np.float64) if np.isfinite(array).all() else None

    def frames(self, name: str, dimensions: int) -> NDArray[np.uint8] | None:
        """Return frames (..., height, width, 3) of eval.npz, None if they are missing or something else."""
        array = self._arrays.get(name)
        if array is None or array.ndim != dimensions or array.size == 0:
            return None
        return array if array.dtype == np.uint8 and array.shape[-1] == 3 else None

    def texts(self, name: str) -> list[str]:
        """Return a list of texts of eval.npz, empty if it is missing or something else."""
        array = self._arrays.get(name)
        return array.tolist() if array is not None and array.ndim == 1 and array.dtype.kind == "U" else []
