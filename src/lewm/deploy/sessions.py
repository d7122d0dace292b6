"""The graphs of an export in ONNX Runtime or OpenVINO; no torch."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lewm.config.checks import shown
from lewm.deploy.manifest import GraphFile, Manifest, Precision, Target, Tensors
from lewm.deploy.processor import has_bfloat16, sums_overflow
from lewm.files import shorten

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Where graphs run, by the name that a user gives."""


MOST_THREADS = 256
MATRIX = "matrix"
"""A graph of every export that no controller needs: a product of two matrices, which tells what a machine can do."""


_shared: int | None = None  # threads of the pool that all sessions of this process have in common


def share_threads(threads: int | None) -> None:
    """Let all graphs that this process loads from now on compute on the same threads; for a program that only controls.

    Graphs of a look run one after another. By itself ONNX Runtime gives each of them its own threads, which wait for
    more work by spinning, and take the time of those of the next graph. It can share one pool, but then every session
    of the process has to, those of other code too; so nobody but a whole program can decide it.

    Args:
        threads: How many; None takes one a physical core. 1 needs no pool.

    Raises:
        ValueError: If this process shares another number already.
    """
    global _shared
    import onnxruntime

    wanted = 0 if threads is None else threads
    if wanted == 1 or not hasattr(onnxruntime, "set_global_thread_pool_sizes"):
        return
    if _shared is None:
        onnxruntime.set_global_thread_pool_sizes(wanted, 1)
        _shared = wanted
    elif _shared != wanted:
        raise ValueError(f"threads={threads}: this process shares {_shared} already; use {_shared or 'None'}")


def _options(threads: int | None) -> Any:
    """Return options of a session that computes on the shared threads, or on as many of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if _shared is not None:
        options.use_per_session_threads = False
        return options
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between graphs, whose threads would compete
    return options


class Session:
    """One graph, ready to run."""

    def __init__(self, path: Path, graph: GraphFile, *, provider: str, threads: int | None) -> None:
        """Load a graph and check that it takes and gives what the manifest says.

        Args:
            path: The ONNX file.
            graph: What the manifest says of it.
            provider: A key of `PROVIDERS`.
            threads: Threads of one run; None takes one a physical core.

        Raises:
            ValueError: If the provider is not there, or the file is no such graph.
        """
        import onnxruntime

        if provider not in tuple(PROVIDERS):  # also if it is of another type
            raise ValueError(f"provider={provider}: must be one of {', '.join(PROVIDERS)}; use cpu")
        if PROVIDERS[provider] not in onnxruntime.get_available_providers():
            there = [name for name, full in PROVIDERS.items() if full in onnxruntime.get_available_providers()]
            raise ValueError(
                f"provider={provider}: this ONNX Runtime has {', '.join(there)}; use one of them, or install the ONNX "
                f"Runtime that has {provider}"
            )
        try:
            self._session = onnxruntime.InferenceSession(path, _options(threads), providers=[PROVIDERS[provider]])
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            text = f"{path}: is no graph that this ONNX Runtime loads ({shorten(error, 100)}); export the run again"
            raise ValueError(shorten(text)) from None
        for part, found, said in (
            ("inputs", self._session.get_inputs(), graph.inputs),
            ("outputs", self._session.get_outputs(), graph.outputs),
        ):
            _require_same(path, part, {value.name: tuple(value.shape) for value in found}, said)
        self.inputs, self.outputs = graph.inputs.names, graph.outputs.names

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph; of what is given it takes its own inputs."""
        out: Any = self._session.run(None, {name: given[name] for name in self.inputs})
        return dict(zip(self.outputs, out, strict=True))


class OpenVINOSession:
    """One graph, compiled by OpenVINO for this processor; used as a `Session`."""

    precision: ClassVar[Literal["f32", "bf16"]] = "f32"
    """What products are computed in. It is always said: OpenVINO would take bfloat16 where the processor has it."""

    def __init__(self, path: Path, graph: GraphFile, *, provider: str, threads: int | None) -> None:
        """Compile a graph and check that it takes and gives what the manifest says; see `Session`."""
        try:
            import openvino  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError('export: needs the package openvino; pip install "lewm[openvino]"') from None
        if provider != "cpu":
            raise ValueError(f"provider={provider}: an export of --target openvino runs on cpu; leave it out")
        hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            hints["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.Core().compile_model(path, "CPU", hints)
        except RuntimeError as error:
            text = f"{path}: is no graph that this OpenVINO loads ({shorten(error, 100)}); export the run again"
            raise ValueError(shorten(text)) from None
        for part, found, said in (
            ("inputs", compiled.inputs, graph.inputs),
            ("outputs", compiled.outputs, graph.outputs),
        ):
            shapes = {name: tuple(value.shape) for value in found for name in value.names}  # a value may have several
            _require_same(path, part, {name: shapes.get(name, ()) for name in said.names}, said)
        self._request = compiled.create_infer_request()
        self.inputs, self.outputs = graph.inputs.names, graph.outputs.names

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph; of what is given it takes its own inputs."""
        self._request.infer({name: given[name] for name in self.inputs})
        return {name: self._request.get_tensor(name).data.copy() for name in self.outputs}


class BFloat16Session(OpenVINOSession):
    """One graph, whose products OpenVINO computes in bfloat16."""

    precision = "bf16"


def _require_same(path: Path, part: str, found: Mapping[str, tuple[int, ...]], said: Tensors) -> None:
    if found != dict(zip(said.names, said.shapes, strict=True)) or tuple(found) != said.names:
        raise ValueError(f"{path}: has other {part} than the manifest says; export the run again")


def session_class(target: Target, precision: Precision) -> Any:
    """Return what runs the graphs of a target. Those of TensorRT are ONNX, which its engines are built from."""
    if target == "executorch":
        if importlib.util.find_spec("executorch") is None or importlib.util.find_spec("torch") is None:
            raise ValueError('target=executorch: its Python runtime needs torch; pip install "lewm[train,executorch]"')
        from lewm.deploy.executorch_session import ExecuTorchSession

        return ExecuTorchSession
    if target == "openvino":
        return BFloat16Session if precision == "bfloat16" else OpenVINOSession
    return Session


def example(graph: GraphFile) -> dict[str, NDArray[Any]]:
    """Return zeros for every input of a graph."""
    inputs = graph.inputs
    return {
        name: np.zeros(shape, dtype)
        for name, shape, dtype in zip(inputs.names, inputs.shapes, inputs.dtypes, strict=True)
    }


def load_sessions(
    folder: Path, manifest: Manifest, *, provider: str, threads: int | None, cores: frozenset[int] | None
) -> dict[str, Any]:
    """Load all graphs of an export, and run each once."""
    if threads is not None and not (type(threads) is int and 1 <= threads <= MOST_THREADS):
        raise ValueError(
            f"threads={shown(threads)}: must be a whole number of 1 to {MOST_THREADS}; leave it out for one a core"
        )
    if manifest.smaller.how in ("dynamic", "static") and not manifest.smaller.seven_bits and sums_overflow():
        raise ValueError(
            f"export={folder}: sums of its 8-bit products would overflow on this processor, which has no VNNI; export "
            "it on a processor without VNNI, or with --precision float32"
        )
    if manifest.smaller.how == "bfloat16" and manifest.target == "openvino" and not has_bfloat16():
        raise ValueError(
            f"export={folder}: this processor has no bfloat16 products, which it was exported for; export it with "
            "--precision int8"
        )
    make = session_class(manifest.target, manifest.precision)
    with _pinned(cores):
        sessions = {
            name: make(folder / graph.file, graph, provider=provider, threads=threads)
            for name, graph in manifest.graphs.items()
            if name != MATRIX
        }
    for name, session in sessions.items():
        try:
            session(example(manifest.graphs[name]))
        except Exception as error:  # runtimes' own classes derive from Exception alone
            text = f"{folder / manifest.graphs[name].file}: does not run ({shorten(error, 100)}); export the run again"
            raise ValueError(shorten(text)) from None
    return sessions


@contextlib.contextmanager
def _pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """Let the threads that are started inside run on these cores alone, where the system has such a setting."""
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"cores={sorted(cores)}: this system pins no threads; leave it out")
    before = os.sched_getaffinity(0)
    if not cores or not cores <= before:
        raise ValueError(f"cores={sorted(cores)}: must be some of {sorted(before)}; leave it out for all")
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
