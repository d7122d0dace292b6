"""The graphs of an export in ONNX Runtime; no torch."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lewm.deploy.manifest import GraphFile, Manifest
from lewm.files import shorten

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Where graphs run, by the name that a user gives."""


MATRIX = "matrix"
"""A graph of every export that no controller needs: a product of two matrices, which tells what a machine can do."""


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

        if provider not in PROVIDERS:
            raise ValueError(f"provider={provider}: must be one of {', '.join(PROVIDERS)}; use cpu")
        if PROVIDERS[provider] not in onnxruntime.get_available_providers():
            there = [name for name, full in PROVIDERS.items() if full in onnxruntime.get_available_providers()]
            raise ValueError(
                f"provider={provider}: this ONNX Runtime has {', '.join(there)}; use one of them, or install the ONNX "
                f"Runtime that has {provider}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=[PROVIDERS[provider]])
        except Exception as error:  # ONNX Runtime's own classes derive from Exception alone
            text = f"{path}: is no graph that this ONNX Runtime loads ({shorten(error, 100)}); export the run again"
            raise ValueError(shorten(text)) from None
        for part, found, said in (
            ("inputs", self._session.get_inputs(), graph.inputs),
            ("outputs", self._session.get_outputs(), graph.outputs),
        ):
            names = tuple(value.name for value in found)
            shapes = tuple(tuple(value.shape) for value in found)
            if names != said.names or shapes != said.shapes:
                raise ValueError(f"{path}: has other {part} than the manifest says; export the run again")
        self.inputs, self.outputs = graph.inputs.names, graph.outputs.names

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph; of what is given it takes its own inputs."""
        out: Any = self._session.run(None, {name: given[name] for name in self.inputs})
        return dict(zip(self.outputs, out, strict=True))


def example(graph: GraphFile) -> dict[str, NDArray[Any]]:
    """Return zeros for every input of a graph."""
    inputs = graph.inputs
    return {
        name: np.zeros(shape, dtype)
        for name, shape, dtype in zip(inputs.names, inputs.shapes, inputs.dtypes, strict=True)
    }


def load_sessions(
    folder: Path, manifest: Manifest, *, provider: str, threads: int | None, cores: frozenset[int] | None
) -> dict[str, Session]:
    """Load all graphs of an export, and run each once."""
    if manifest.target != "onnx":
        raise ValueError(f"export={folder}: is for {manifest.target}; give an export of --target onnx")
    with _pinned(cores):
        sessions = {
            name: Session(folder / graph.file, graph, provider=provider, threads=threads)
            for name, graph in manifest.graphs.items()
            if name != MATRIX
        }
    for name, session in sessions.items():
        session(example(manifest.graphs[name]))
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
