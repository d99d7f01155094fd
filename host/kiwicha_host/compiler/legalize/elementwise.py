"""Functions of the codes of one tensor or two, element by element."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from ..ir.graph import Graph, Type
from ..ir.layers import SHIFT, VectorLayer, View
from ..passes.fold_elementwise import ELEMENTWISE
from .evaluate import CODES, all_results, signed
from .node import Node
from .tables import product_table, sum_tables
from .value import Value, copy_layer, whole_channels

__all__ = ["ELEMENTWISE_OPERATORS", "constant_like", "elementwise", "operands_in_order", "repeat",
           "second_operand"]

#: By kind, what takes both operands; codes, scale and zero point of each come first, the result's last.
_JOINS = {"com.microsoft.QLinearAdd": "Add", "com.microsoft.QLinearMul": "Mul"}
_ELSEWHERE = "its operands' elements are at other places of their feature maps than each other"
ELEMENTWISE_OPERATORS = (*_JOINS, "com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu", ELEMENTWISE)


def elementwise(values: Sequence[Value], node: Node, graph: Graph) -> Value:
    """What `node` makes of `values`, its computed operands in order; of two operands, the sum or the product."""
    places = [index for index, name in enumerate(node.inputs) if name and name not in graph.constants]
    if not set(places) <= {0, 3}:
        raise node.error("its scales and zero points must be constants")
    operands = {node.inputs[place]: (value, place) for place, value in zip(places, values, strict=True)}
    for place in (0, 3) if _join(node) else ():
        if place not in places and node.constant(place, "an operand").size != 1:
            constant = constant_like(node.constant(place, "an operand"), values[0], node)
            operands[node.inputs[place]] = constant, place
    for value, place in operands.values():
        value.match(node, node.zero_point(place + 2, "an operand's zero point")[1])
    if len(operands) > 1:
        return _binary(operands, node, graph)
    [(name, (value, _))] = operands.items()
    table, unsigned = signed(all_results(graph, node.operator, (name,), value.where.ndim, (value.unsigned,)))
    value.through(node, lambda channels, size: VectorLayer(
        node.name, node.label, channels, size, table.astype(np.int32)), unsigned)
    return value


def operands_in_order(values: Sequence[Value], node: Node) -> list[Value]:
    """Operand A, then B: the one with more elements is A; of two alike, one that is where it is, for the host
    arranges the other; then one whose channels are in order."""
    a, b = sorted(values, key=_rank)
    if a.where.ndim != b.where.ndim or a.batch != b.batch:
        raise node.error("its operands must have as many dimensions and images each")
    return [a, b]


def _binary(operands: dict[str, tuple[Value, int]], node: Node, graph: Graph) -> Value:
    a, b = operands_in_order([value for value, _ in operands.values()], node)
    names = [next(name for name, (value, _) in operands.items() if value is item) for item in (a, b)]
    a_place, b_place = (operands[name][1] for name in names)
    one_for_all = _is_one_for_all(a.where.shape, b.where.shape)
    second = second_operand(a, b, node)
    codes, unsigned = signed(all_results(graph, node.operator, (names[0], names[1]), a.where.ndim,
                                          (a.unsigned, b.unsigned), one_for_all))
    tables = _tables(node, codes, (a_place, b_place), unsigned)
    a.through(node, lambda channels, size: VectorLayer(
        node.name, node.label, channels, size, clamp=(int(codes.min()), int(codes.max())), **tables), unsigned,
        second)
    return a


def _rank(value: Value) -> tuple[int, bool, bool]:
    """The lowest is operand A."""
    steps = np.diff(value.where.reshape(-1, value.where.shape[-1])[0])
    return -value.where.size, value.view is None, len(np.unique(steps)) > 1


def _is_one_for_all(a: Sequence[int], b: Sequence[int]) -> bool:
    """Whether, along the innermost axis of `a`, one element of `b` goes with all."""
    inner = next((axis for axis in range(len(a))[::-1] if a[axis] > 1), 0)
    return a[inner] > b[inner]


def _tables(node: Node, codes: np.ndarray, places: Sequence[int], unsigned: bool) -> dict:
    """What a VectorLayer needs to make `codes` of all pairs, but for a few that become the next code."""
    scales = [node.scale(place + 1, "an operand's scale") for place in places]
    scale = node.scale(6, "the result's scale")
    found, wrong = dict[str, Any](), np.full(codes.shape, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        for tables in (_products if _join(node) == "Mul" else _sums)(node, codes, places, unsigned):
            off = np.abs(_results(tables, codes.min(), codes.max()) - codes)
            if np.count_nonzero(off) < np.count_nonzero(wrong):
                found, wrong = tables, off
            if not wrong.any():
                break
    if not (wrong <= 1).all():
        raise node.error(f"scales {scales[0]} and {scales[1]} are too large for the result's, {scale}")
    return found


def _steps(node: Node, place: int) -> tuple[np.ndarray, np.float32]:
    """All codes of the operand at `place`, less its zero point; and its scale."""
    zero, _ = node.zero_point(place + 2, "an operand's zero point")
    return CODES.astype(np.int32) - zero, node.scale(place + 1, "an operand's scale")


def _products(node: Node, codes: np.ndarray, places: Sequence[int], unsigned: bool) -> Iterator[dict[str, Any]]:
    (a, a_scale), (b, b_scale) = (_steps(node, place) for place in places)
    zero, _ = node.zero_point(7, "the result's zero point")
    factors = b.astype(np.float32) * (a_scale * b_scale / node.scale(6, "the result's scale"))
    if np.isfinite(factors).all():
        yield {"a_table": a, "b_table": product_table(codes.astype(np.int64) - zero, a, factors), "y_zero": zero}


def _sums(node: Node, codes: np.ndarray, places: Sequence[int], unsigned: bool) -> Iterator[dict[str, Any]]:
    """QLinearAdd rounds what has the zero point in it already, as the model has that. Of codes of two types ONNX
    Runtime makes numbers, whose zero point comes after."""
    (zero, _), scale = node.zero_point(7, "the result's zero point"), node.scale(6, "the result's scale")
    a, b = (step * np.float64(own / scale) * (-1 if _join(node) == "Sub" and place else 1)
            for place in places for step, own in (_steps(node, place),))
    for after in (-SHIFT * unsigned, zero) if np.isfinite([*a, *b]).all() else ():
        a_table, b_table, unit = sum_tables(codes.astype(np.int64) - after, a + (zero - after), b)
        yield {"a_table": a_table, "b_table": b_table, "factor": np.array([unit]), "y_zero": after}


def _results(tables: dict[str, Any], low: int, high: int) -> np.ndarray:
    """What a VectorLayer with such tables makes of all pairs."""
    a, b = tables["a_table"][:, None], tables["b_table"]
    numbers = (a + b).astype(np.float32) * tables["factor"] if "factor" in tables else a.astype(np.float32) * b
    return (np.rint(numbers) + tables["y_zero"]).clip(low, high)


def _join(node: Node) -> str:
    return _JOINS.get(node.op) or node.attributes.get("join", "")


def constant_like(codes: np.ndarray, other: Value, node: Node) -> Value:
    """An operand that is the same for all images: the host makes it of any input, as often as there are images."""
    shape = (*[1] * (other.where.ndim - codes.ndim), *codes.shape)
    if codes.dtype not in (np.int8, np.uint8) or shape[0] != 1 or len(shape) != other.where.ndim:
        raise node.error(f"its constant operand {Type.of(codes)} does not fit the other, of "
                         f"{[other.batch or 'N', *other.where.shape[1:]]}")
    value = other.copy()
    _is_constant(value, codes.reshape(shape))
    return value


def repeat(value: Value, node: Node) -> None:
    """The constant that is the node's second input, for each of the batch of its first."""
    codes = node.constant(1, "what is repeated")
    if codes.dtype not in (np.int8, np.uint8):
        raise node.error(f"needs int8 or uint8 codes, not {codes.dtype}")
    _is_constant(value, codes)


def _is_constant(value: Value, codes: np.ndarray) -> None:
    """The value is `codes`, [1, ...], for each image."""
    own, value.unsigned = signed(codes)
    value.view, value.layers, value.alone, value.quantized = None, (), False, True
    value.where = np.arange(codes.size).reshape(codes.shape)
    value.shapers = [lambda x: np.broadcast_to(own, (len(x), *codes.shape[1:]))]


def second_operand(a: Value, b: Value, node: Node) -> View:
    """Where the codes or numbers are that go with those of `a`; along each axis as many, or one for all."""
    channels, size = a.form(node)
    where, found = a.order, b.order
    if where.size != channels * prod(size):
        raise node.error("takes a part of a feature map only")
    try:
        partners = np.empty((channels, *size), np.intp)
        partners.reshape(-1)[where.reshape(-1)] = np.broadcast_to(found, where.shape).reshape(-1)
    except ValueError:
        raise node.error(_ELSEWHERE) from None
    # One for all is one place, but as many channels.
    form = (channels, 1, 1) if b.view is None else (b.view.channels, *b.view.size)
    for axis in range(3):
        one = partners.take([0], axis)
        if form[axis] == 1 and (partners == one).all():
            partners = one
    order = partners.reshape(-1)
    if b.view is None:
        # The host puts each element to where its partner is.
        if len(order) != b.where.size or (order != np.arange(len(order))).any():
            b.shapers.append(lambda x: x.reshape(len(x), -1)[:, order])
        b.where = order[None]
        view = b.placed(partners.shape[0], (partners.shape[1], partners.shape[2]))
    elif partners.shape == (b.view.channels, *b.view.size) and (order == np.arange(len(order))).all():
        view = b.view
    else:
        view = _ordered(b, partners, node)
    if view.channels != channels and b.element != "int8":
        raise node.error(_ELSEWHERE)
    return view if view.channels == channels else _repeated(a, view, channels, node)


def _ordered(value: Value, partners: np.ndarray, node: Node) -> View:
    """A copy of the view with the channels that are `partners`, if these are channels in another order."""
    view = value.view
    taken = whole_channels(partners.reshape(len(partners), -1))
    if view is None or taken is None or partners.shape[1:] != view.size or value.element != "int8":
        raise node.error(_ELSEWHERE)
    target = value.graph.new_map(len(taken), view.size)
    value.graph.add(copy_layer(node, view.channels, view.size, taken), view, target)
    return target


def _repeated(value: Value, view: View, channels: int, node: Node) -> View:
    """The one channel of `view` as often as there are channels."""
    target = value.graph.new_map(channels, view.size)
    value.graph.add(copy_layer(node, 1, view.size, np.zeros(channels, np.intp)), view, target)
    return target
