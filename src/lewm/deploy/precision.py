"""Make written graphs smaller: weights in half precision, or products of 8-bit numbers.

Only what is multiplied with weights of the world model changes. The cost, the reader of states, LayerNorm, the softmax
of attention and the planner's own arithmetic stay in float32.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lewm.deploy.manifest import Manifest, Smaller
from lewm.deploy.processor import sums_overflow

FRAMES = 128
"""Held-out frames that static scales are taken from."""
LEAST = 256
"""Numbers of a weight that is worth a smaller type."""
Kind = Literal["dynamic", "static"]


def weights_of(model: nn.Module) -> set[bytes]:
    """Return the content of every weight and of its transpose: by it a graph's constants are known as the model's."""
    found: set[bytes] = set()
    for value in model.parameters():
        array = value.detach().cpu().numpy()
        if array.ndim >= 2 and array.size >= LEAST:
            found |= {array.tobytes(), np.swapaxes(array, -1, -2).tobytes()}
    return found


def lower(folder: Path, manifest: Manifest, model: nn.Module, frames: NDArray[np.uint8]) -> Smaller:
    """Make the graphs of a folder as small as the manifest's precision says.

    ONNX Runtime gets dynamic scales, in every graph of the model. OpenVINO and TensorRT want static ones. These are of
    `encode` alone: they do not pay in the planner's small products.

    Args:
        folder: Where the graphs are.
        manifest: What will be written about them.
        model: The world model whose weights they have.
        frames: Held-out frames (n, B, height, width, 3).

    Returns:
        What was done.
    """
    if manifest.precision == "float32":
        return Smaller()
    if manifest.precision == "bfloat16":  # what runs the graphs does it
        return Smaller(how="bfloat16", graphs=tuple(manifest.graphs))
    weights, done = weights_of(model), {}
    how: Kind = "dynamic" if manifest.target == "onnx" else "static"
    seven_bits = manifest.target != "tensorrt" and sums_overflow()
    for name, graph in manifest.graphs.items():
        path = folder / graph.file
        if manifest.precision == "float16":
            done[name] = to_float16(path, weights)
        elif how == "dynamic":
            done[name] = to_int8(path, weights, kind=how, seven_bits=seven_bits)
        elif name == "encode":
            examples = [{"frame": part} for part in frames]
            symmetric = manifest.target == "tensorrt"
            done[name] = to_int8(path, weights, kind=how, seven_bits=seven_bits, symmetric=symmetric, examples=examples)
    graphs, operators = tuple(name for name, count in done.items() if count), sum(done.values())
    if manifest.precision == "float16":
        return Smaller(how="float16", graphs=graphs, operators=operators)
    count = 0 if how == "dynamic" else frames.shape[0] * frames.shape[1]
    return Smaller(how=how, graphs=graphs, operators=operators, seven_bits=seven_bits, frames=count)


def to_float16(path: Path, weights: set[bytes]) -> int:
    """Store a graph's weights in half precision.

    A cast to float32 follows each. ONNX Runtime does it once, when it loads the graph, and computes in float32;
    compilers of other targets may leave it out.

    Args:
        path: The ONNX file, which is written anew.
        weights: What `weights_of` says of the model.

    Returns:
        How many weights there are.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        # beyond float16's range there would be infinity
        if (
            array.dtype != np.float32
            or array.tobytes() not in weights
            or np.abs(array).max() > np.finfo(np.float16).max
        ):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}_float16"))
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT)
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return len(casts)


def to_int8(
    path: Path,
    weights: set[bytes],
    *,
    kind: Kind,
    seven_bits: bool,
    symmetric: bool = False,
    examples: Sequence[Mapping[str, NDArray[Any]]] = (),
) -> int:
    """Multiply a graph's weights as 8-bit numbers, with a scale for each output channel.

    Args:
        path: The ONNX file, which is written anew.
        weights: What `weights_of` says of the model.
        kind: `dynamic` scales what comes in anew in each run, and leaves convolutions as they are; `static` has scales
            that `examples` are the source of.
        seven_bits: Use 7 bits of weights, and with `static` of what comes in as well; see `processor.sums_overflow`.
        symmetric: Let zero be the middle of the range of what comes in, as TensorRT wants it; of `static` alone.
        examples: Inputs that scales are taken from.

    Returns:
        How many operators there are; with none, the file stays as it was.
    """
    import onnx
    from onnxruntime import quantization

    with TemporaryDirectory(prefix="lewm-") as scratch, _quiet():
        plain = Path(scratch) / path.name
        _simplify(path, plain)
        model = onnx.load(plain)
        names = _multiplied(model, weights, convolutions=kind == "static")
        if not names:
            return 0
        given: dict[str, Any] = {
            "per_channel": True,
            "reduce_range": seven_bits,
            "weight_type": quantization.QuantType.QInt8,
            "nodes_to_quantize": names,
            "op_types_to_quantize": ["MatMul", "Conv"] if kind == "static" else ["MatMul"],
        }
        if kind == "dynamic":
            quantization.quantize_dynamic(plain, path, **given)
        else:
            incoming = quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8
            quantization.quantize_static(
                plain,
                path,
                _Reader(examples),  # pyright: ignore[reportArgumentType]
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=incoming,
                extra_options={"ActivationSymmetric": symmetric},
                **given,
            )
    onnx.checker.check_model(onnx.load(path))
    return len(names)


class _Reader:
    """Examples, one at a time, as ONNX Runtime asks for them."""

    def __init__(self, examples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._left = iter(examples)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        example = next(self._left, None)
        return None if example is None else dict(example)


def _simplify(path: Path, out: Path) -> None:
    """Fold constants, so that every weight is one, and write `Gemm` as a product and a sum."""
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # it would make a Gemm of a product and a sum, which is not multiplied in 8 bits
    onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )
    model = onnx.load(out)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        settings = {value.name: onnx.helper.get_attribute_value(value) for value in node.attribute}
        scaled = settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0 or settings.get("transA", 0)
        if node.op_type != "Gemm" or scaled or node.input[1] not in constants:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        name, product = f"{node.name}_weight", node.output[0] if len(node.input) < 3 else f"{node.name}_product"
        weight = np.ascontiguousarray(weight.T if settings.get("transB", 0) else weight)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], name], [product], name=node.name))
        if len(node.input) == 3:
            nodes.append(
                onnx.helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_add")
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, out)


def _multiplied(model: Any, weights: set[bytes], *, convolutions: bool) -> list[str]:
    """Return the names of the operators that multiply with a weight of the world model."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kinds = ("MatMul", "Conv") if convolutions else ("MatMul",)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in kinds and node.input[1] in arrays and arrays[node.input[1]].tobytes() in weights
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what ONNX Runtime's quantiser advises through the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
