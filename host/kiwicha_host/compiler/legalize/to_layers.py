"""Graphs to layers: the order of the operators, and those that only move elements."""

from collections.abc import Callable
from math import prod

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx

from ..errors import CompileError
from ..ir.graph import Graph, Op, Type
from ..ir.layers import SHIFT, LayerChain
from . import fused
from .chain import LARGEST, Chain
from .convolution import qlinear_conv, qlinear_conv_transpose
from .matmul import qgemm, qlinear_matmul
from .node import Node

__all__ = ["SUPPORTED", "extend", "finished", "start", "to_layers"]


def to_layers(graph: Graph) -> LayerChain:
    """The layers that compute `graph`.

    A matrix product is a convolution whose kernel is as large as its input; Relu, Clip and MaxPool become
    part of the layer before them (all of these are monotone, so they may come before the rounding); a pooling
    with no layer before it gets one that multiplies by one. Zero points of inputs go into the biases. Reshapes
    that move nothing on the chip cost nothing; others are the host's, before the first layer and after the
    last.

    Raises
    ------
    CompileError
        The graph has something the chip cannot do: the message names the operator and what is wrong with it.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise CompileError("the model must have one input and one output, not "
                           f"{len(graph.inputs)} and {len(graph.outputs)}")
    chain = start(graph.inputs[0], graph.types.get(graph.inputs[0]))
    _refuse_floating_point(graph, chain)
    for op in graph.ops:
        extend(chain, op, graph)
    if graph.outputs[0] != chain.last:
        raise CompileError(f"output {graph.outputs[0]!r} must be the last result, {chain.last!r}")
    if not chain.result.layers:
        raise CompileError("the model has no layer for the chip: no convolution, product or MaxPool of codes")
    return finished(chain)


def start(name: str, known: Type | None) -> Chain:
    """A chain of nothing but the tensor `name`.

    Raises
    ------
    CompileError
        It is not of a type and shape that a chain can start with.
    """
    if known is None or known.shape is None:
        raise CompileError(f"input {name!r}: its element type and shape must be in the model")
    batch, *dims = known.shape or ("?",)
    if not dims:
        raise CompileError(f"input {name!r}: must have a batch and at least one more dimension, not {[batch]}")
    sizes = [item for item in dims if isinstance(item, int)]
    if len(sizes) != len(dims):
        raise CompileError(f"input {name!r}: all dimensions but the first must be fixed, not {[batch, *dims]}")
    if known.element not in ("float32", "int8", "uint8"):
        raise CompileError(f"input {name!r} must be float32, int8 or uint8, not {known.element}")
    if not 1 <= prod(sizes) <= LARGEST:
        raise CompileError(f"input {name!r} has {prod(sizes)} elements, not 1 to {LARGEST}")
    dtype = np.dtype(known.element)
    result = LayerChain(input_shape=tuple(sizes), input_dtype=dtype)
    unsigned = dtype == np.uint8
    if unsigned:
        result.before.append(lambda x: (x ^ np.uint8(SHIFT)).view(np.int8))
    return Chain(result, last=name, batch=batch if isinstance(batch, int) else 0, quantized=dtype != np.float32,
                 unsigned=unsigned)


def _refuse_floating_point(graph: Graph, chain: Chain) -> None:
    """Say so at once, and how to go on, if the model has no quantized operator."""
    quantized = any(op.kind in _CODES or op.kind.startswith("QLinear") for op in graph.ops)
    if not chain.quantized and not quantized:
        raise CompileError("the model computes in floating point; quantize it first, for instance by "
                           "onnxruntime.quantization.quantize_static")


def extend(chain: Chain, op: Op, graph: Graph) -> None:
    """Add one operator, which must take the result of the one before.

    Raises
    ------
    CompileError
        The chip cannot do it there; `chain` is of no use then.
    """
    constants = graph.constants
    node = Node(op, constants)
    if op.kind not in SUPPORTED:
        raise node.error(f"not supported; the chip runs {', '.join(SUPPORTED)}")
    dynamic = [item for item in node.inputs if item and item not in constants]
    if not dynamic:
        takes = next((item for item in graph.ops if set(item.inputs) & set(op.outputs)), op)
        raise Node(takes, constants).error(f"no rule makes it an operator on codes; {_RULES}")
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
            raise node.error(f"takes numbers, not codes; {_RULES}")
        if not chain.quantized and node.op != "QuantizeLinear":
            raise node.error("needs int8 or uint8 codes; put a QuantizeLinear before it")
    _OPERATORS[node.op](chain, node)
    chain.last = node.outputs[0]


def finished(chain: Chain) -> LayerChain:
    """The layers of `chain`, with what comes after the last of them; `chain` can go on."""
    result = chain.copy().result
    if chain.dequantized:
        result.after += chain.shapers
    else:
        result.shapers += chain.shapers
        result.unsigned = chain.unsigned
    return result


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
    chain.result.unsigned = unsigned
    chain.result.shapers += chain.shapers
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
    shape = node.integers(1, "the shape")
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
    if sorted(perm) != list(range(chain.where.ndim)):
        raise node.error(f"perm must be a permutation of {chain.where.ndim} axes, not {perm}")
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
        axes = node.integers(1, "axes")
    if not axes or 0 in axes:
        raise node.error(f"axes must be given and leave the batch, axis 0, alone, not {list(axes)}")
    return tuple(int(item) for item in axes)


_OPERATORS: dict[str, Callable[[Chain, Node], None]] = {
    "QuantizeLinear": _quantize_linear,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    "kiwicha.QLinearConvTranspose": qlinear_conv_transpose,
    "com.microsoft.QGemm": qgemm,
    "Relu": fused.relu,
    "Clip": fused.clip,
    "Max": fused.max_constant,
    "MaxPool": fused.max_pool,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Identity": _identity,
    "DequantizeLinear": _dequantize_linear,
}
_CODES = ("QuantizeLinear", "DequantizeLinear")
_RULES = ("between DequantizeLinear and QuantizeLinear the chip runs Conv, Gemm and MatMul with quantized "
          "constants, MaxPool, Relu, Clip, and what moves elements")
#: What a model may consist of.
SUPPORTED = tuple(_OPERATORS)
#: Those that take numbers as well as codes.
_SHAPERS = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
