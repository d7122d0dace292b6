"""How fast an export is on this machine, and how near that is to what the machine can do; no torch."""

import contextlib
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.deploy.manifest import Manifest
from lewm.deploy.runtime import Controller
from lewm.deploy.sessions import MATRIX, PROVIDERS, Session, example

_ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
_WARM_UP = 5

PARTS = ("encode", "propose", "improve", "finish", "cycle")
"""Of a look, with `cycle` for all of it."""


def bench(
    folders: Sequence[str | Path],
    *,
    seconds: float = 5.0,
    provider: str = "cpu",
    threads: int | None = None,
    cores: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Time exports, taking turns, so that a busy machine is equally unfair to all of them.

    Args:
        folders: Export folders.
        seconds: Time that each part is measured for.
        provider: Where graphs run.
        threads: Threads of the graphs; None takes one a physical core.
        cores: Cores that these threads run on; None for all.

    Returns:
        For each folder: `load_s`, until a first goal can be given; of those `PARTS` that it has, `cycle` being the
        whole look, the times in milliseconds, the operations, their rate and its share of the machine's matrix rate;
        `peak_memory_mb`; and the machine.
    """
    opened = [_Opened(folder, provider=provider, threads=threads, cores=cores) for folder in folders]
    for part in (MATRIX, *PARTS):
        having = [one for one in opened if one.has(part)]
        calls = [one.call(part) for one in having]
        for call in calls:
            for _ in range(_WARM_UP):
                call()
        ends = time.perf_counter() + seconds * len(having)
        while having and (time.perf_counter() < ends or len(having[0].times[part]) < 10):
            for one, call in zip(having, calls, strict=True):
                with one.measured(part):
                    call()
    return [one.report(threads) for one in opened]


class _Opened:
    def __init__(self, folder: str | Path, *, provider: str, threads: int | None, cores: Sequence[int] | None) -> None:
        began = time.perf_counter()
        self.folder, self.provider = Path(folder), provider
        self.controller = Controller.load(folder, provider=provider, threads=threads, cores=cores, guarded=False)
        self.load_seconds = time.perf_counter() - began
        self.manifest: Manifest = self.controller.manifest
        graph = self.manifest.graphs[MATRIX]
        self.matrix = Session(self.folder / graph.file, graph, provider=provider, threads=threads)
        self.times: dict[str, list[float]] = {}
        self.energy: dict[str, float] = {}

    @contextlib.contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Note the time and, where the platform tells it, the energy of what is done inside."""
        before, began = _joules(), time.perf_counter()
        yield
        self.times.setdefault(part, []).append(time.perf_counter() - began)
        after = _joules()
        if before is not None and after is not None and after >= before:
            self.energy[part] = self.energy.get(part, 0.0) + after - before

    def has(self, part: str) -> bool:
        """Say whether there is such a part: not every planner searches, or starts from a proposal."""
        return part == "cycle" or part in self.manifest.graphs or f"{part}_1" in self.manifest.graphs

    def call(self, part: str) -> Callable[[], Any]:
        """Return what is timed."""
        self.times[part] = []
        rng = np.random.default_rng(0)
        if part == "cycle":
            return self._cycle(rng)
        number = "_1" if self.manifest.sizes.history > 1 and part not in ("encode", "propose", MATRIX) else ""
        graph = self.manifest.graphs[f"{part}{number}"]
        given = example(graph)
        for name, value in given.items():
            if value.dtype == np.float32:
                given[name] = rng.standard_normal(value.shape, np.float32)
            elif value.dtype == np.uint8:
                given[name] = rng.integers(0, 256, value.shape, dtype=np.uint8)
        session = self.matrix if part == MATRIX else self.controller.graph(f"{part}{number}")
        return lambda: session(given)

    def _cycle(self, rng: np.random.Generator) -> Callable[[], Any]:
        sizes, space = self.manifest.sizes, self.manifest.space
        shape = (sizes.batch, sizes.image_size, sizes.image_size, 3)
        pictures: list[NDArray[np.uint8]] = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(8)]
        command = None
        if self.controller.needs_command:
            command = np.tile(np.add(space.env_low, space.env_high) / 2, (sizes.batch, 1))
        many = min(self.manifest.plan.execute, sizes.history)

        def cycle(state: list[int] = [0]) -> None:  # noqa: B006  counts its calls
            k = state[0] % 1000
            if k == 0:
                self.controller.set_goal(pictures[0], command=command)
            state[0] += 1
            picture = pictures[k % 8]
            self.controller.act(picture if k == 0 or many == 1 else np.stack([picture] * many, axis=1))

        return cycle

    def report(self, threads: int | None) -> dict[str, Any]:
        """Return what was measured."""
        operations: dict[str, float] = dict(self.manifest.measured.get("operations", {}))
        plan = self.manifest.plan
        repeated = dict.fromkeys(PARTS, 1) | {"improve": plan.refinements}
        operations["cycle"] = sum(times * operations.get(part, 0) for part, times in repeated.items())
        peak = operations[MATRIX] / float(np.median(self.times[MATRIX]))
        found: dict[str, Any] = {
            "export": self.folder.name,
            "precision": self.manifest.precision,
            "target": self.manifest.target,
            "provider": self.provider,
            "budget": {
                "candidates": plan.candidates,
                "horizon": plan.horizon,
                "iterations": plan.refinements,
            },
            "batch": self.manifest.sizes.batch,
            "load_s": round(self.load_seconds, 3),
            "matrix_gflop_per_s": round(peak / 1e9, 1),
            "peak_memory_mb": round(_peak_memory() / 1e6, 1),
            "machine": machine(threads),
        }
        for part in self.times:
            times = np.array(self.times[part])
            p50, p95, p99 = np.percentile(times, (50, 95, 99))
            rate = operations.get(part, 0) / p50
            found[part] = {
                "p50_ms": round(1e3 * p50, 4),
                "p95_ms": round(1e3 * p95, 4),
                "p99_ms": round(1e3 * p99, 4),
                "runs": len(times),
                "gflop": round(operations.get(part, 0) / 1e9, 6),
                "gflop_per_s": round(rate / 1e9, 2),
                "share_of_matrix_rate": round(rate / peak, 4),
            }
            if part in self.energy:
                found[part]["joules"] = round(self.energy[part] / len(times), 6)
        return found


def matrix_rate(folder: Path, manifest: Manifest, *, threads: int | None, runs: int = 20) -> float:
    """Return the operations a second of a product of two matrices on this machine, in the median of some runs."""
    graph = manifest.graphs[MATRIX]
    session, given = Session(folder / graph.file, graph, provider="cpu", threads=threads), example(graph)
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        session(given)
        times.append(time.perf_counter() - began)
    return manifest.measured["operations"][MATRIX] / float(np.median(times))


def ratios(first: dict[str, Any], second: dict[str, Any]) -> dict[str, float]:
    """Return how many times as long the first export takes as the second, part by part."""
    both = [part for part in PARTS if part in first and part in second]
    return {part: round(first[part]["p50_ms"] / second[part]["p50_ms"], 3) for part in both}


def _joules() -> float | None:
    try:
        return int(_ENERGY.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def _peak_memory() -> float:
    """Return the most bytes that this process had in memory."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)


def machine(threads: int | None) -> dict[str, Any]:
    """Describe the machine that numbers were measured on."""
    import onnxruntime

    return {
        "processor": platform.processor() or platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": threads,
        "onnxruntime": onnxruntime.__version__,
        "providers": [name for name, full in PROVIDERS.items() if full in onnxruntime.get_available_providers()],
    }
