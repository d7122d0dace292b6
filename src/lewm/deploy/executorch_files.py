"""Write a graph for ExecuTorch, and run what was written. Its Python runtime needs torch, unlike the one in C++."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lewm.deploy.graphs import Graph
from lewm.deploy.manifest import GraphFile
from lewm.files import shorten

NEEDS = 'target=executorch: needs the package executorch; pip install "lewm[executorch]"'
DELEGATE = "executorch_call_delegate"
MULTIPLIES = ("aten.mm.", "aten.addmm.", "aten.bmm.", "aten.linear.", "aten.convolution.", "aten._scaled_dot_product")


def write_pte(graph: Graph, path: Path, *, partitioners: Sequence[Any] | None = None) -> int:
    """Write a graph as a program whose products XNNPACK does.

    Args:
        graph: The graph.
        path: The new file.
        partitioners: Who gets what of the graph; None gives XNNPACK what it can do. Without it the program would be
            right, and tens of times slower.

    Returns:
        How many parts of the graph were given away.

    Raises:
        ValueError: If the package `executorch` is missing, or products are left to the slow operators.
    """
    told, level = io.StringIO(), logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            warnings.simplefilter("ignore")
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # pyright: ignore[reportMissingImports]
                XnnpackPartitioner,
            )
            from executorch.exir import to_edge_transform_and_lower  # pyright: ignore[reportMissingImports]

            program = torch.export.export(graph.module.eval(), tuple(graph.inputs.values()))
            takers = [XnnpackPartitioner()] if partitioners is None else list(partitioners)
            edge = to_edge_transform_and_lower(program, partitioner=takers)
            data = edge.to_executorch().buffer
    except ImportError:
        raise ValueError(NEEDS) from None
    finally:
        logging.root.setLevel(level)
    called = [str(node.target) for node in edge.exported_program().graph.nodes if node.op == "call_function"]
    left = sorted({name for name in called for slow in MULTIPLIES if slow in name})
    if left:
        text = f"target=executorch: {path.name}: XNNPACK takes none of {', '.join(left)}, which would be slow; use onnx"
        raise ValueError(shorten(text))
    path.write_bytes(data)
    return sum(DELEGATE in name for name in called)


class ExecuTorchSession:
    """One program, loaded by ExecuTorch; used as a `Session`."""

    def __init__(self, path: Path, graph: GraphFile, *, provider: str, threads: int | None) -> None:
        """Load a program; see `Session`. Of threads, the runtime takes as many as it likes."""
        if provider != "cpu":
            raise ValueError(f"provider={provider}: an export of --target executorch runs on cpu; leave it out")
        try:
            from executorch.runtime import Runtime  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ValueError(NEEDS) from None
        try:
            self._program = Runtime.get().load_program(path)
            self._method: Any = self._program.load_method("forward")
        except RuntimeError as error:
            text = f"{path}: is no program that this ExecuTorch loads ({shorten(error, 100)}); export the run again"
            raise ValueError(shorten(text)) from None
        self.inputs, self.outputs = graph.inputs.names, graph.outputs.names

    def __call__(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the program; of what is given it takes its own inputs."""
        out = self._method.execute([torch.from_numpy(np.array(given[name])) for name in self.inputs])
        return {name: value.clone().numpy() for name, value in zip(self.outputs, out, strict=True)}
