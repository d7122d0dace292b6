"""Write a graph for ExecuTorch."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lewm.deploy.executorch_session import NEEDS
from lewm.deploy.graphs import Graph
from lewm.files import shorten

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
