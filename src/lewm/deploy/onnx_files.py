"""Write a graph as ONNX, and run what was written."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lewm.deploy.graphs import Graph
from lewm.deploy.manifest import GraphFile, Tensors

OPSET = 20
CONTROL_FLOW = {"Loop", "If", "Scan"}
"""What no graph may have: a robot's runtime would plan memory anew in every look, or not take it at all."""


def write_onnx(graph: Graph, path: Path) -> None:
    """Write a graph with its weights into one file.

    Raises:
        ValueError: If the packages `onnx` and `onnxscript` are missing, or the graph has control flow.
    """
    try:
        import onnx
        import onnxscript.optimizer
    except ImportError:
        raise ValueError('export: needs the packages onnx and onnxscript; pip install "lewm[export]"') from None
    told = io.StringIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # of operators of packages that we do not use
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph.module.eval(),
                tuple(graph.inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
                optimize=False,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
            )
            assert program is not None
            # Not the whole optimiser: its rewriting takes minutes for a large graph and makes none that runs faster.
            onnxscript.optimizer.fold_constants(program.model)
            onnxscript.optimizer.remove_unused_nodes(program.model)
            program.save(path, external_data=False)
    finally:
        logger.setLevel(level)
    model = onnx.load(path)
    _tidy(model)
    onnx.save(model, path)
    onnx.checker.check_model(model)
    if found := CONTROL_FLOW & {node.op_type for node in model.graph.node}:
        raise ValueError(f"{path.name}: has {', '.join(sorted(found))}, which no graph may have; report it")
    names = [value.name for value in model.graph.input]
    if names != list(graph.inputs):
        missing = set(graph.inputs) - set(names)
        raise ValueError(f"{path.name}: takes {names} and not {', '.join(sorted(missing))}; report it")


def _tidy(model: Any) -> None:
    """Keep each constant once, and leave out where in the source every node is from."""
    first: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    kept = []
    for tensor in model.graph.initializer:
        content = (tensor.data_type, tuple(tensor.dims), tensor.raw_data) if tensor.raw_data else tensor.name
        same[tensor.name] = first.setdefault((content,), tensor.name)
        if same[tensor.name] == tensor.name:
            kept.append(tensor)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")


def described(graph: Graph, file: str) -> GraphFile:
    """Return what the manifest says of a graph."""
    out = graph(graph.inputs)

    def tensors(values: Mapping[str, torch.Tensor]) -> Tensors:
        return Tensors(
            names=tuple(values),
            shapes=tuple(tuple(value.shape) for value in values.values()),
            dtypes=tuple(np.dtype(str(value.dtype).removeprefix("torch.")).name for value in values.values()),
        )

    return GraphFile(file=file, inputs=tensors(graph.inputs), outputs=tensors(out))
