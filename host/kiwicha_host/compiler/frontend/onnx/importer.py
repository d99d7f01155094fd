"""ONNX models to graphs: the order of their nodes, and those that only move elements."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ....extras import extra

with extra("onnx"):
    import onnx
    from onnx import helper, numpy_helper

from ...ir.graph import SHIFT, Graph
from ...program.builder import CompileError
from . import ops
from .chain import Chain
from .fold import fold
from .model_file import read_model
from .node import Node

__all__ = ["SUPPORTED", "load_graph"]


def load_graph(model: Any) -> Graph:
    """The graph of an ONNX file, of its bytes, or of an ``onnx.ModelProto``.

    A matrix product is a convolution whose kernel is as large as its input; Relu, Clip and MaxPool become
    part of the layer before them (all of these are monotone, so they may come before the rounding); a pooling
    with no layer before it gets one that multiplies by one. Zero points of inputs go into the biases. Reshapes
    that move nothing on the chip cost nothing; others are the host's, before the first layer and after the
    last.

    Raises
    ------
    TypeError
        `model` is none of these.
    CompileError
        The file is unreadable or no ONNX model, or the model has something the chip cannot do: the message
        names the node and what is wrong with it.
    """
    model = read_model(model)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise CompileError("the model must have one input and one output, not "
                           f"{len(inputs)} and {len(model.graph.output)}")
    chain = _start(inputs[0])
    _refuse_floating_point(model.graph.node, chain)
    for number, proto in enumerate(model.graph.node):
        _read(chain, proto, number, constants, model.opset_import)
    _finish(chain, model.graph.output[0].name)
    return chain.graph


def _start(value: onnx.ValueInfoProto) -> Chain:
    """A chain of nothing but the model's input."""
    tensor = value.type.tensor_type
    dims = [item.dim_value if item.HasField("dim_value") else 0 for item in tensor.shape.dim]
    shown = [item.dim_value or item.dim_param or "?" for item in tensor.shape.dim]
    if len(dims) < 2:
        raise CompileError(f"input {value.name!r}: must have a batch and at least one more dimension, not {shown}")
    if any(item < 1 for item in dims[1:]):
        raise CompileError(f"input {value.name!r}: all dimensions but the first must be fixed, not {shown}")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if dtype not in (np.float32, np.int8, np.uint8):
        raise CompileError(f"input {value.name!r} must be float32, int8 or uint8, not {dtype}")
    graph = Graph(input_shape=tuple(dims[1:]), input_dtype=dtype)
    unsigned = dtype == np.uint8
    if unsigned:
        graph.before.append(lambda x: (x ^ np.uint8(SHIFT)).view(np.int8))
    return Chain(graph, last=value.name, batch=dims[0], quantized=dtype != np.float32, unsigned=unsigned)


def _refuse_floating_point(nodes: Iterable[onnx.NodeProto], chain: Chain) -> None:
    """Say so at once, and how to go on, if the model has no quantized operator."""
    quantized = any(node.op_type in _CODES or node.op_type.startswith("QLinear") for node in nodes)
    if not chain.quantized and not quantized:
        raise CompileError("the model computes in floating point; quantize it first, for instance by "
                           "onnxruntime.quantization.quantize_static with quant_format=QuantFormat.QOperator")


def _read(chain: Chain, proto: onnx.NodeProto, number: int, constants: dict[str, np.ndarray],
          opsets: Sequence[onnx.OperatorSetIdProto]) -> None:
    """Add one node, which must take the result of the one before, or constants alone."""
    node = Node(proto, number, constants)
    if proto.domain not in ("", "ai.onnx"):
        raise node.error(f"operators of domain {proto.domain!r} are not supported")
    dynamic = [item for item in node.inputs if item and item not in constants]
    if not dynamic and node.op != "DequantizeLinear":
        constants |= fold(proto, node, constants, opsets)
        return
    if node.op not in SUPPORTED:
        raise node.error(f"not supported; the chip runs {', '.join(SUPPORTED)}")
    if not dynamic:
        raise node.error(f"dequantizes a constant; {_QOPERATOR}")
    if dynamic != [chain.last]:
        raise node.error(f"must take {chain.last!r} alone, the result before it, not {', '.join(dynamic)!r}: "
                         "only chains of layers are supported")
    if node.op == "Max" and node.inputs[0] != chain.last:
        node.inputs.reverse()
    if node.inputs[0] != chain.last:
        raise node.error(f"its first input must be {chain.last!r}")
    if len(node.outputs) != 1:
        raise node.error("only the first output is supported")
    if node.op not in _SHAPERS:
        if chain.dequantized:
            raise node.error(f"comes after DequantizeLinear; {_QOPERATOR}")
        if not chain.quantized and node.op != "QuantizeLinear":
            raise node.error("needs int8 or uint8 codes; put a QuantizeLinear before it")
    _OPERATORS[node.op](chain, node)
    chain.last = node.outputs[0]


def _finish(chain: Chain, output: str) -> None:
    if output != chain.last:
        raise CompileError(f"output {output!r} must be the last result, {chain.last!r}")
    if not chain.graph.layers:
        raise CompileError("the model has no layer for the chip: no QLinearConv, QLinearMatMul or MaxPool")
    if chain.dequantized:
        chain.graph.after += chain.shapers
    else:
        chain.graph.shapers += chain.shapers
        chain.graph.unsigned = chain.unsigned


# Codes in and out.

def _quantize_linear(chain: Chain, node: Node) -> None:
    # One scale for all has no axis, and int8 always saturates.
    node.only("axis", "saturate", "block_size", "output_dtype", "precision")
    node.one_of("block_size", 0)
    node.one_of("precision", 0, onnx.TensorProto.FLOAT)
    if chain.quantized:
        raise node.error("its input is quantized already")
    scale = node.scale(1, "the scale")
    zero, chain.unsigned = node.zero_point(2, "the zero point", "output_dtype")
    # Saturation at int8 of shifted codes is that of uint8.
    chain.shapers.append(lambda x: np.clip(np.rint(x / scale) + np.float32(zero), -128, 127).astype(np.int8))
    chain.quantized = True


def _dequantize_linear(chain: Chain, node: Node) -> None:
    node.only("axis", "block_size", "output_dtype")
    node.one_of("block_size", 0)
    node.one_of("output_dtype", 0, onnx.TensorProto.FLOAT)
    scale = node.scale(1, "the scale")
    zero, unsigned = -SHIFT * chain.unsigned, chain.unsigned
    if node.has(2):
        zero, unsigned = node.zero_point(2, "the zero point")
    chain.match(node, unsigned)
    zero += SHIFT * unsigned
    chain.graph.unsigned = unsigned
    chain.graph.shapers += chain.shapers
    chain.shapers = [lambda q: (q.astype(np.int32) - np.int32(zero)).astype(np.float32) * scale]
    chain.dequantized = True


# What only moves elements, or not even that.

def _flatten(chain: Chain, node: Node) -> None:
    node.only("axis")
    if node.attributes.get("axis", 1) not in (1, 1 - chain.where.ndim):
        raise node.error(f"axis must be 1, not {node.attributes['axis']}")
    chain.shape_with(node, lambda x: x.reshape(len(x), -1))


def _reshape(chain: Chain, node: Node) -> None:
    node.only("allowzero")
    shape = [int(item) for item in node.constant(1, "the shape").reshape(-1)]
    if not shape or shape[0] not in (0, -1, chain.batch or -1):
        raise node.error(f"must leave the batch, the first dimension, alone; its shape is {shape}")
    if 0 in shape[1:] and not node.attributes.get("allowzero", 0):
        old = chain.where.shape
        shape = [old[i] if i and not item and i < len(old) else item for i, item in enumerate(shape)]
    rest = shape[1:]
    chain.shape_with(node, lambda x: x.reshape(len(x), *rest))


def _transpose(chain: Chain, node: Node) -> None:
    node.only("perm")
    perm = list(node.attributes.get("perm", range(chain.where.ndim)[::-1]))
    if perm[0] != 0:
        raise node.error(f"must leave the batch, the first dimension, alone; perm is {perm}")
    chain.shape_with(node, lambda x: x.transpose(perm))


def _squeeze(chain: Chain, node: Node) -> None:
    axes = _axes(node)
    chain.shape_with(node, lambda x: x.squeeze(axes))


def _unsqueeze(chain: Chain, node: Node) -> None:
    axes = _axes(node)
    chain.shape_with(node, lambda x: np.expand_dims(x, axes))


def _identity(chain: Chain, node: Node) -> None:
    """Nothing to do."""


def _axes(node: Node) -> tuple[int, ...]:
    node.only("axes")
    axes = node.attributes.get("axes", [])
    if node.has(1):
        axes = node.constant(1, "axes").reshape(-1).tolist()
    if not axes or 0 in axes:
        raise node.error(f"axes must be given and leave the batch, axis 0, alone, not {list(axes)}")
    return tuple(int(item) for item in axes)


_OPERATORS: dict[str, Callable[[Chain, Node], None]] = {
    "QuantizeLinear": _quantize_linear,
    "QLinearConv": ops.qlinear_conv,
    "QLinearMatMul": ops.qlinear_matmul,
    "Relu": ops.relu,
    "Clip": ops.clip,
    "Max": ops.max_constant,
    "MaxPool": ops.max_pool,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Identity": _identity,
    "DequantizeLinear": _dequantize_linear,
}
_CODES = ("QuantizeLinear", "DequantizeLinear")
_QOPERATOR = ("models must be of quantized operators (QLinearConv, QLinearMatMul; QuantFormat.QOperator), not of "
              "pairs of QuantizeLinear and DequantizeLinear")
#: What a model may consist of.
SUPPORTED = tuple(_OPERATORS)
#: Those that take numbers as well as codes.
_SHAPERS = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
