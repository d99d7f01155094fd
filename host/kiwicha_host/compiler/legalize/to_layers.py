"""Graphs to layers: what each operator takes, and what becomes of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx

from ..errors import CompileError
from ..ir.graph import Graph, Op, Type
from ..ir.layers import SHIFT, Input, Layer, LayerCheck, LayerGraph, Output, VectorLayer
from ..ir.number_layers import NumberLayer
from ..passes.fold_averages import SOFTMAX
from ..passes.fold_channels import CHANNELWISE
from ..passes.fold_qdq import BIASED
from ..passes.integer_products import BETWEEN, IN_PLACE, OF_SUMS, TRANSPOSED
from ..passes.repeats import REPEAT
from . import fused, moves, pooling, resample, top
from .channels import channelwise
from .concat import concat, qlinear_concat
from .convolution import qlinear_conv, qlinear_conv_transpose
from .elementwise import ELEMENTWISE_OPERATORS, constant_like, elementwise, repeat
from .layer_norm import layer_norm
from .matmul import qgemm, qlinear_matmul
from .node import Node
from .number_functions import NUMBER_FUNCTIONS, mean
from .numbers import JOINS, all_numbers, integer_product, join, of_sums, quantize
from .rms_norm import rms_norm
from .rotary import rotary
from .softmax import qlinear_softmax
from .value import LARGEST, Value

__all__ = ["NUMBERS", "OF_NUMBERS", "SUPPORTED", "LayerBuilder", "TooSmall", "to_layers"]

#: How the complaint about tensors begins that are no codes.
NUMBERS = "takes numbers"


class TooSmall(CompileError):
    """The chip is too small for a layer, or lacks what that needs."""


def to_layers(graph: Graph) -> LayerGraph:
    """The layers that compute `graph`.

    A matrix product is a convolution whose kernel is as large as its input; Relu, Clip and MaxPool become
    part of the layer before them (all of these are monotone, so they may come before the rounding); where there is
    no layer that they can join they get one that multiplies by one. Zero points of inputs go into the biases.
    Reshapes that move nothing on the chip, slices and concatenations cost nothing; other moves are the host's,
    before the first layers and after the last.

    Raises
    ------
    CompileError
        The graph has something the chip cannot do: the message names the operator and what is wrong with it.
    """
    builder = LayerBuilder(graph)
    _refuse_floating_point(graph)
    for op in graph.ops:
        builder.add(op)
    if not builder.layers.layers:
        raise CompileError("the model has no layer for the chip: no convolution, product or MaxPool of codes")
    for name in graph.outputs:
        if name not in builder.values or builder.values[name].view is None:
            raise CompileError(f"output {name!r} is no result of a layer")
    return builder.finished(graph.outputs)


def _refuse_floating_point(graph: Graph) -> None:
    """Say so at once, and how to go on, if the model has no quantized operator."""
    codes = any(type_ is not None and type_.element in ("int8", "uint8")
                for type_ in map(graph.types.get, graph.inputs))
    if not codes and not any(op.kind in _CODES or op.kind.startswith("QLinear") for op in graph.ops):
        raise CompileError("the model computes in floating point; quantize it first, for instance by "
                           "onnxruntime.quantization.quantize_static")


class LayerBuilder:
    """Operators of `graph`, one after the other, to layers, of each of which `check` is asked.

    Attributes
    ----------
    layers : LayerGraph
        So far, without outputs.
    values : {name: Value}
        The tensors that have been made, and the inputs that were taken.
    """

    def __init__(self, graph: Graph, check: LayerCheck = lambda layer: None):
        self._graph, self._check = graph, check
        self.layers = LayerGraph()
        self.values: dict[str, Value] = {}
        self._made = {name for op in graph.ops for name in op.outputs}
        self._reads = Counter([*graph.outputs, *(name for op in graph.ops for name in op.reads)])
        self._rows = _taken_by_rows(graph)

    def add(self, op: Op) -> None:
        """Add one operator, whose inputs are known.

        Raises
        ------
        CompileError
            The chip cannot do it there; all is as it was before.
        """
        node = Node(op, self._graph.constants)
        if op.kind not in SUPPORTED:
            known = [kind for kind in SUPPORTED if not kind.startswith("kiwicha.")]
            raise node.error(f"not supported; the chip runs {', '.join(known)}")
        names = [name for name in node.inputs if name and name not in self._graph.constants]
        if not names:
            takes = next((item for item in self._graph.ops if set(item.inputs) & set(op.outputs)), op)
            raise Node(takes, self._graph.constants).error(f"no rule makes it an operator on codes; {_RULES}")
        values = [self._taken(name, node) for name in names]
        try:
            results = self._tried(op, names, [value.copy() for value in values])
        except CompileError:
            if not any(value.alone for value in values):
                raise
            # What makes a layer too large that it joins may have one of its own.
            for value in values:
                value.alone = False
            results = self._tried(op, names, values)
        self.values |= dict(zip(node.outputs, results, strict=True))

    def _tried(self, op: Op, names: Sequence[str], values: list[Value]) -> list[Value]:
        """What becomes of `values`; if that cannot be, all is as it was before."""
        before, target = self.layers.copy(), self.layers
        known = {id(layer) for layer in before.layers}
        try:
            results = self._results(Node(op, self._graph.constants), names, values)
            for layer in target.layers:
                if id(layer) not in known:
                    self._checked(layer)
        except CompileError:
            for name, kept in vars(before).items():
                setattr(target, name, kept)
            raise
        return results

    def _checked(self, layer: Layer | VectorLayer) -> None:
        try:
            self._check(layer)
        except CompileError as error:
            raise TooSmall(str(error)) from None

    def _taken(self, name: str, node: Node) -> Value:
        """The tensor `name` for `node` alone to change."""
        value = self.values.get(name)
        if value is None:
            value = self.start(name)
        value = value.copy()
        value.alone = value.alone and self._reads[name] == 1
        if node.op not in _SHAPERS:
            if value.decoded is not None and node.op != "DequantizeLinear":
                raise node.error("takes what the host makes of the chip's result")
            if value.element == "int32" and node.op != OF_SUMS:
                raise node.error("takes a product's sums")
            if value.element == "float32" and node.op not in _TAKE_NUMBERS:
                raise node.error(f"{NUMBERS}, not codes; {_RULES}")
            if value.dequantized and node.op not in (*JOINS, "Concat"):
                raise node.error(f"{NUMBERS}, not codes; {_RULES}")
            if not value.quantized and value.element == "int8" and node.op != "QuantizeLinear":
                raise node.error("needs int8 or uint8 codes; put a QuantizeLinear before it")
            if node.op in OF_NUMBERS and value.element == "int8" and not value.dequantized:
                raise node.error(f"computes with numbers of a product's, not with codes; {_RULES}")
        elif value.element != "int8" and node.op not in (*IN_PLACE, *BETWEEN):
            raise node.error(f"{NUMBERS}, not codes; {_RULES}")
        return value

    def _results(self, node: Node, names: Sequence[str], values: list[Value]) -> list[Value]:
        if node.op in _CONCATS:
            operands = self._operands(node, values)
            self._arrange(node, operands)
            return [_CONCATS[node.op](operands, node)]
        if node.op in ELEMENTWISE_OPERATORS:
            self._arrange(node, values)
            return [elementwise(values, node, self._graph)]
        if node.op in JOINS:
            return [join(values, node)]
        if node.op in NUMBER_FUNCTIONS:
            made, attributes = NUMBER_FUNCTIONS[node.op]
            node.only(*attributes)
            return [made(values[0], node)]
        if node.op == CHANNELWISE:
            self._arrange(node, values)
            channelwise(values[0], node, self._graph)
            return values
        if len(names) > 1:
            raise node.error(f"must take one tensor that is computed, not {', '.join(names)!r}")
        if node.op == "Max" and node.inputs[0] != names[0]:
            node.inputs.reverse()
        if node.inputs[0] != names[0]:
            raise node.error(f"its first input must be {names[0]!r}")
        if node.op in _SEVERAL:
            return _SEVERAL[node.op](values[0], node)
        if node.op in _INTEGER_PRODUCTS:
            integer_product(values[0], node, self._graph.constants)
            return values
        if len(node.outputs) != 1:
            raise node.error("only the first output is supported")
        _OPERATORS[node.op](values[0], node)
        return values

    def _operands(self, node: Node, values: list[Value]) -> list[Value]:
        """Those of a Concat in their order, computed ones and constants."""
        computed, names = iter(values), node.inputs[2::3] if node.op != "Concat" else node.inputs
        if len(names) > len(values) and values[0].batch != 1:
            raise node.error("takes constants beside a batch of one only")
        return [constant_like(self._graph.constants[name], values[0], node) if name in self._graph.constants else
                next(computed) for name in names]

    def _arrange(self, node: Node, values: Sequence[Value]) -> None:
        """Operands from the host, by rows if their result is wanted so."""
        if node.outputs[0] in self._rows:
            for value in values:
                value.by_rows(node)

    def is_of_numbers(self, value: Value) -> bool:
        """Whether its layer takes nothing but numbers and codes, and multiplies no weights."""
        return all(isinstance(self.layers.layers[number], NumberLayer) for number in value.layers)

    def start(self, name: str) -> Value:
        """A tensor that comes from elsewhere; :exc:`CompileError` if no layer can take it."""
        known = self._graph.types.get(name)
        if name in self._made and known is not None and known.element == "float32":
            raise CompileError(f"{NUMBERS}, {name!r}, that the host computes")
        return _start(self.layers, name, known)

    def finished(self, names: Sequence[str]) -> LayerGraph:
        """The layers that make the tensors `names`, each of which comes from a layer."""
        outputs = []
        for name in names:
            value = self.values[name]
            assert value.view is not None
            before, after = (value.moves, value.shapers) if value.dequantized else (value.shapers, [])
            outputs.append(Output(name, value.view, tuple(before), tuple(after), value.unsigned, value.decoded,
                                  value.element))
        return replace(self.layers, outputs=outputs)


def _taken_by_rows(graph: Graph) -> set[str]:
    """Tensors whose rows something takes, after functions of elements, sums and concatenations if need be."""
    taken: set[str] = set()
    for op in reversed(graph.ops):
        if op.kind in _ROW_TAKERS and op.attributes.get("axis", -1) in (-1, _rank(graph, op.inputs[0]) - 1):
            taken.add(op.inputs[0])
        elif op.kind in (*ELEMENTWISE_OPERATORS, CHANNELWISE, *_CONCATS) and taken & {*op.outputs}:
            taken |= {name for name in op.reads if name not in graph.constants}
    return taken


def _rank(graph: Graph, name: str) -> int:
    type_ = graph.type_of(name)
    return 0 if type_ is None or type_.shape is None else len(type_.shape)


def _start(layers: LayerGraph, name: str, known: Type | None) -> Value:
    """The input `name`.

    Raises
    ------
    CompileError
        It is not of a type and shape that a layer can take.
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
    unsigned = dtype == np.uint8
    before = (_signed,) if unsigned else ()
    return Value(layers, Input(name, tuple(sizes), dtype, before, -1), batch if isinstance(batch, int) else 0,
                 quantized=dtype != np.float32, unsigned=unsigned)


def _signed(codes: np.ndarray) -> np.ndarray:
    return (codes ^ np.uint8(SHIFT)).view(np.int8)


# Codes in and out.

def _quantize_linear(value: Value, node: Node) -> None:
    # One scale for all has no axis, and int8 always saturates.
    node.only("axis", "saturate", "block_size", "output_dtype", "precision")
    node.one_of("block_size", 0)
    node.one_of("precision", 0, onnx.TensorProto.FLOAT)
    if value.quantized:
        raise node.error("its input is quantized already")
    if value.element == "float32":
        quantize(value, node)
        return
    scale = node.scale(1, "the scale")
    zero, value.unsigned = node.zero_point(2, "the zero point", "output_dtype")
    # Saturation at int8 of shifted codes is that of uint8.
    value.shapers.append(lambda x: np.clip(np.rint(x / scale) + np.float32(zero), -128, 127).astype(np.int8))
    value.quantized = True


def _dequantize_linear(value: Value, node: Node) -> None:
    node.only("axis", "block_size", "output_dtype")
    node.one_of("block_size", 0)
    node.one_of("output_dtype", 0, onnx.TensorProto.FLOAT)
    scale = node.scale(1, "the scale")
    zero, unsigned = -SHIFT * value.unsigned, value.unsigned
    if node.has(2):
        zero, unsigned = node.zero_point(2, "the zero point")
    value.match(node, unsigned)
    value.table = all_numbers(zero, scale)
    zero += SHIFT * unsigned
    value.moves = tuple(value.shapers)
    value.shapers = [lambda q: (q.astype(np.int32) - np.int32(zero)).astype(np.float32) * scale]
    value.dequantized = True


_OPERATORS: dict[str, Callable[[Value, Node], None]] = {
    "QuantizeLinear": _quantize_linear,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
    BIASED: qlinear_matmul,
    "kiwicha.QLinearConvTranspose": qlinear_conv_transpose,
    "com.microsoft.QGemm": qgemm,
    "kiwicha.QGemm": qgemm,
    "Relu": fused.relu,
    "Clip": fused.clip,
    "Max": fused.max_constant,
    "MaxPool": pooling.max_pool,
    "ReduceMax": pooling.maximum,
    "GlobalAveragePool": mean,
    "ReduceMean": mean,
    "com.microsoft.QLinearAveragePool": pooling.average_pool,
    "com.microsoft.QLinearGlobalAveragePool": pooling.global_average_pool,
    "kiwicha.QLinearReduceMean": pooling.mean,
    "kiwicha.QLinearLayerNormalization": layer_norm,
    "kiwicha.QLinearRMSNormalization": rms_norm,
    "kiwicha.QLinearRotaryEmbedding": rotary,
    "com.microsoft.QLinearSoftmax": qlinear_softmax,
    SOFTMAX: qlinear_softmax,
    "Flatten": moves.flatten,
    "Reshape": moves.reshape,
    "Transpose": moves.transpose,
    "Squeeze": moves.squeeze,
    "Unsqueeze": moves.unsqueeze,
    "Identity": moves.identity,
    "DequantizeLinear": _dequantize_linear,
    "Gather": moves.gather,
    "Slice": moves.slice_,
    "Pad": moves.pad,
    "Resize": resample.resize,
    "DepthToSpace": resample.depth_to_space,
    "SpaceToDepth": resample.space_to_depth,
    REPEAT: repeat,
}
#: Those that may make several tensors.
_SEVERAL: dict[str, Callable[[Value, Node], list[Value]]] = {
    "ArgMax": top.arg, "ArgMin": top.arg, "Split": moves.split, "TopK": top.top_k, OF_SUMS: of_sums}
#: Those that take several tensors.
_CONCATS: dict[str, Callable[[Sequence[Value], Node], Value]] = {
    "Concat": concat,
    "com.microsoft.QLinearConcat": qlinear_concat,
}
#: Those that take a tensor's rows, each as a place.
_ROW_TAKERS = ("QLinearMatMul", BIASED, "kiwicha.QLinearLayerNormalization", "kiwicha.QLinearRMSNormalization",
               "com.microsoft.QLinearSoftmax", SOFTMAX)
_CODES = ("QuantizeLinear", "DequantizeLinear")
#: Those that take nothing but numbers.
OF_NUMBERS = (*JOINS, *NUMBER_FUNCTIONS, "GlobalAveragePool", "ReduceMean")
#: Their results are sums.
_INTEGER_PRODUCTS = ("ConvInteger", "MatMulInteger", TRANSPOSED)
#: Those that take numbers of the chip's.
_TAKE_NUMBERS = (*BETWEEN, "QuantizeLinear")
_RULES = ("between DequantizeLinear and QuantizeLinear the chip runs Conv, Gemm and MatMul with quantized "
          "constants, MaxPool, averages, softmax, layer and RMS normalization, functions of one tensor or of its "
          "channels, sums and products of two, what moves elements, and what finds the largest")
#: What a model may consist of.
SUPPORTED = tuple(dict.fromkeys((*_OPERATORS, *_SEVERAL, *_CONCATS, *ELEMENTWISE_OPERATORS, CHANNELWISE,
                                 *OF_NUMBERS, *_INTEGER_PRODUCTS)))
#: Those that take numbers as well as codes.
_SHAPERS = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Gather", "Slice", "Split",
            REPEAT)
