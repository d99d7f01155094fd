"""Numbers between codes: products without a QuantizeLinear behind, their sums with other numbers, and what makes
codes of these."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from kiwicha.isa import OperandUse

from ..ir.graph import Op, Type
from ..ir.layers import Layer, View
from ..ir.number_layers import NO_TABLE, NumberLayer
from .convolution import qlinear_conv, qlinear_conv_transpose
from .elementwise import operands_in_order, second_operand
from .matmul import qlinear_matmul
from .node import Node
from .value import Value

__all__ = ["JOINS", "all_numbers", "integer_product", "join", "limit", "of_sums", "quantize", "then", "together"]

#: By kind, what an operator does with its second operand.
JOINS = {"Add": OperandUse.ADD, "Sub": OperandUse.ADD, "Mul": OperandUse.MULTIPLY, "Div": OperandUse.MULTIPLY}
_PRODUCTS = {"ConvInteger": qlinear_conv, "kiwicha.ConvTransposeInteger": qlinear_conv_transpose,
             "MatMulInteger": qlinear_matmul}
_ANY = (-np.inf, np.inf)


def all_numbers(zero: int, scale: np.float32) -> np.ndarray:
    """What codes stand for, float32 [256], by `code & 255`."""
    codes = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int32)
    with np.errstate(over="ignore"):
        return (codes - np.int32(zero)).astype(np.float32) * scale


# Products.

def integer_product(value: Value, node: Node, constants: Mapping[str, np.ndarray]) -> None:
    """ConvInteger, MatMulInteger or ConvTransposeInteger, with constant weights and zero points: int32 sums."""
    x, w, *zeros = node.inputs
    weights = node.constant(1, "the weights")
    known = {**constants, ":one": np.ones((), np.float32), ":zero": np.zeros((), np.int8)}
    names = []
    for name, dtype in zip((*zeros, "", "")[:2], (np.uint8 if value.unsigned else np.int8, weights.dtype),
                           strict=True):
        if name and name not in constants:
            raise node.error(f"its zero point {name!r} is computed")
        names.append(name or f":{dtype}")
        known.setdefault(names[-1], np.zeros((), dtype))
    inputs = (x, ":one", names[0], w, ":one", names[1], ":one", ":zero")
    attributes = {name: item for name, item in node.attributes.items() if name != "ops"}
    _PRODUCTS[node.op](value, Node(Op(node.name, node.op, inputs, ("",), attributes), known))
    value.becomes("int32", op=node.label)


def of_sums(value: Value, node: Node) -> list[Value]:
    """Numbers of a product's sums: `ops` are the Add of an int32 bias, Cast, Mul by scales, Add of a bias of
    numbers; the first and the last may be missing."""
    if value.element != "int32" or not value.joinable:
        raise node.error("takes sums that something else needs, too")
    operands = {"Add": np.zeros(1, np.int32)}
    for index, op in enumerate(op for op in node.attributes["ops"] if op.kind != "Cast"):
        kind = "numbers" if op.kind in operands and "Mul" in operands else op.kind
        operands[kind] = node.constant(index + 1, "a bias or scale")
    for number in value.layers:
        layer = value.graph.layers[number]
        assert isinstance(layer, Layer)
        scale = np.broadcast_to(operands["Mul"].reshape(-1), layer.out_channels).astype(np.float32)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise node.error("its scales must be positive and finite")
        bias = layer.bias.astype(np.int64) + operands["Add"].reshape(-1)
        value.graph.layers[number] = replace(layer, bias=bias.astype(np.int32), scale=scale)
    value.becomes("float32")
    if "numbers" not in operands:
        return [value]
    return [then(value, node, use=OperandUse.ADD, constant=_per_channel(value, operands["numbers"], node))]


# Numbers of numbers.

def join(values: Sequence[Value], node: Node) -> Value:
    """The sum, difference, product or quotient of two tensors of numbers, some of which may be of codes, or
    constant."""
    node.only()
    if len(values) == 1:
        return _with_constant(values[0].operand(), node)
    first, last = (value.operand() for value in values)
    if node.op == "Div":
        raise node.error("what it divides by must be constant")
    if node.op == "Sub" and last.element == "float32":
        last = then(last, node, factor=np.array([-1], np.float32))
    elif node.op == "Sub":
        last.table = -last.table
    return together(first, last, node, JOINS[node.op])


def together(first: Value, last: Value, node: Node, use: OperandUse) -> Value:
    """The sum or product of two tensors."""
    a, b = operands_in_order([first.copy(), last.copy()], node)
    if b.element == "float32" and a.element == "int8" and a.where.size == b.where.size:
        a, b = b, a     # words come as fast as they are needed as A; as B, beside codes, they do not
    b_table, second = b.table, second_operand(a, b, node)
    return then(a, node, second=second, use=use, b_table=b_table)


def then(value: Value, node: Node, *, second: View | None = None, **fields: Any) -> Value:
    """What a new layer makes of each element."""
    made, table = value.copy(), value.table
    fields = {"clamp": _ANY, "element": "float32"} | fields
    made.through(node, lambda channels, size: NumberLayer(node.name, node.label, channels, size, table, **fields),
                 False, second)
    made.table = NO_TABLE
    if "function" in fields:
        made.layers = ()    # nothing may come before it
    return made


def _with_constant(value: Value, node: Node) -> Value:
    place = 1 if node.inputs[1] in node.constants else 0
    numbers = node.constant(place, "an operand")
    if node.op == "Div" and (not place or not (np.abs(numbers) > np.finfo(np.float32).tiny).all()):
        raise node.error("what it divides by must be constant, and not zero")
    numbers = {"Sub": -numbers, "Div": 1 / numbers}.get(node.op, numbers)
    factor = np.full(1, -1 if node.op == "Sub" and not place else 1, np.float32)
    return then(value, node, use=JOINS[node.op], constant=_per_channel(value, numbers, node), factor=factor)


def _per_channel(value: Value, numbers: np.ndarray, node: Node) -> np.ndarray:
    """Constant numbers that go with a tensor, of which each channel's are equal; float32 [channels]."""
    (channels, size), where = value.form(node), value.order
    elements = np.empty(channels * prod(size), np.float32)
    try:
        elements[where.reshape(-1)] = np.broadcast_to(numbers, where.shape).reshape(-1)
    except ValueError:
        raise node.error(f"its constant {Type.of(numbers)} does not fit the other operand") from None
    each = elements.reshape(channels, -1)
    if numbers.dtype != np.float32 or where.size != elements.size or (each != each[:, :1]).any():
        raise node.error(f"its constant {Type.of(numbers)} must be one float32 number, or one for each channel")
    return np.ascontiguousarray(each[:, 0])


def limit(value: Value, node: Node) -> None:
    """Relu or Clip of numbers."""
    node.only("min", "max")
    bounds = [0.0 if node.op == "Relu" else -np.inf, np.inf]
    for index, name in enumerate(("min", "max")):
        given = node.scalar(index + 1, name) if node.has(index + 1) else node.attributes.get(name, bounds[index])
        if np.isnan(given):
            raise node.error(f"{name} must be a number, not {given}")
        bounds[index] = float(given)
    value.clamp(node, min(bounds), bounds[1])


def quantize(value: Value, node: Node) -> None:
    """Codes of numbers: times 1 / scale, rounded, plus the zero point."""
    scale = node.scale(1, "the scale")
    zero, unsigned = node.zero_point(2, "the zero point", "output_dtype")
    with np.errstate(over="ignore"):
        factor = np.float32(1) / scale
    if not np.isfinite(factor):
        raise node.error(f"the scale {scale} is too small")
    layer = value.graph.layers[value.layers[0]] if value.joinable else None
    if isinstance(layer, NumberLayer) and layer.factor[-1] == 1:
        # Limits of numbers are limits of codes: rounding leaves their order.
        with np.errstate(over="ignore"):
            low, high = (int(np.clip(np.rint(np.float32(item) * factor) + np.float32(zero), -128, 127))
                         for item in layer.clamp)
        value.becomes("int8", factor=np.array([factor]), y_zero=zero, clamp=(low, high))
    else:
        value.through(node, lambda channels, size: NumberLayer(
            node.name, node.label, channels, size, NO_TABLE, factor=np.array([factor]), y_zero=zero), False)
    value.unsigned = unsigned
