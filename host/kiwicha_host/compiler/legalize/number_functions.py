"""Functions of numbers, as one operation of FP32 after another, each a layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kiwicha.isa import OperandUse, ResultFunction

from ..ir.layers import View
from ..ir.number_layers import NO_TABLE, NumberLayer
from .node import Node
from .numbers import then, together
from .value import Value

__all__ = ["NUMBER_FUNCTIONS", "mean"]

_LOG2_E = math.log2(math.e)


def _times(factor: float) -> dict[str, Any]:
    return {"factor": np.array([factor], np.float32)}


def _plus(value: Value, node: Node, number: float, **fields: Any) -> Value:
    channels, _ = value.form(node)
    return then(value, node, use=OperandUse.ADD, constant=np.full(channels, number, np.float32), **fields)


def _sigmoid(value: Value, node: Node, slope: float = 1.0) -> Value:
    """1 / (1 + 2^(-slope * log2(e) * x))."""
    power = then(value, node, **_times(-slope * _LOG2_E), function=ResultFunction.EXP2)
    return _plus(power, node, 1, function=ResultFunction.RECIPROCAL)


def _tanh(value: Value, node: Node) -> Value:
    """2 * (sigmoid(2 x) - 1/2)."""
    return _plus(_sigmoid(value, node, 2), node, -0.5, **_times(2))


def _swish(value: Value, node: Node) -> Value:
    """x * sigmoid(alpha * x)."""
    default = 1.702 if node.op.endswith("QuickGelu") else 1.0
    return together(value, _sigmoid(value, node, node.attributes.get("alpha", default)), node, OperandUse.MULTIPLY)


def _hard_sigmoid(value: Value, node: Node, alpha: float | None = None) -> Value:
    """alpha * x + beta, from 0 to 1."""
    slope = node.attributes.get("alpha", 0.2) if alpha is None else alpha
    return _plus(then(value, node, **_times(slope)), node, node.attributes.get("beta", 0.5), clamp=(0.0, 1.0))


def _hard_swish(value: Value, node: Node) -> Value:
    return together(value, _hard_sigmoid(value, node, 1 / 6), node, OperandUse.MULTIPLY)


def _leaky_relu(value: Value, node: Node) -> Value:
    """What is positive of x, and what is negative of alpha * x."""
    alpha = node.attributes.get("alpha", 0.01)
    if alpha < 0:
        raise node.error(f"alpha must not be negative, but is {alpha}")
    negative = then(value, node, **_times(alpha), clamp=(-np.inf, 0.0))
    return together(then(value, node, clamp=(0.0, np.inf)), negative, node, OperandUse.ADD)


#: By kind; and what attributes each may have.
NUMBER_FUNCTIONS: dict[str, tuple[Callable[[Value, Node], Value], Sequence[str]]] = {
    "Sigmoid": (_sigmoid, ()), "Tanh": (_tanh, ()), "Swish": (_swish, ("alpha",)),
    "com.microsoft.QuickGelu": (_swish, ("alpha",)), "HardSigmoid": (_hard_sigmoid, ("alpha", "beta")),
    "HardSwish": (_hard_swish, ()), "LeakyRelu": (_leaky_relu, ("alpha",)),
    "Neg": (lambda value, node: then(value, node, **_times(-1)), ()),
    "Exp": (lambda value, node: then(value, node, **_times(_LOG2_E), function=ResultFunction.EXP2), ()),
    "Reciprocal": (lambda value, node: then(value, node, function=ResultFunction.RECIPROCAL), ())}


def mean(value: Value, node: Node) -> None:
    """GlobalAveragePool, or ReduceMean over height and width: halves of the places are added up until there is
    one; then those that were left over."""
    node.only("axes", "keepdims", "noop_with_empty_axes")
    channels, size = value.image(node)
    rank = value.where.ndim
    if node.op == "ReduceMean":
        axes = node.integers(1, "axes") if node.has(1) else list(node.attributes.get("axes", ()))
        if sorted(axis % rank for axis in axes) != list(range(2, rank)):
            raise node.error(f"its axes must be those of height and width, not {axes} of {rank}")
    graph, rest, left, number = value.graph, value.view, list[View](), -1
    assert rest is not None

    def add(a: View, b: View) -> View:
        nonlocal number
        target = graph.new_map(channels, a.size, "float32")
        layer = NumberLayer(node.name, node.label, channels, a.size, NO_TABLE, clamp=(-np.inf, np.inf),
                            use=OperandUse.ADD, element="float32")
        number = graph.add(layer, a, target, b)
        return target

    for axis in range(2):
        while (count := rest.size[axis]) > 1:
            first, second, odd = (_part(rest, axis, start, end) for start, end in (
                (0, count // 2), (count // 2, count // 2 * 2), (count // 2 * 2, count)))
            left += [odd] if count % 2 else []
            rest = add(first, second)
        while left:
            rest = add(rest, left.pop())
    shape = (channels, *[1] * (rank - 2 if node.attributes.get("keepdims", 1) else 0))
    if number < 0:
        value.shape_with(node, lambda x: x.reshape(len(x), *shape))
        return
    graph.layers[number] = replace(graph.layers[number], **_times(1 / (size[0] * size[1])))
    value.is_at(rest, False, lambda x: x.reshape(len(x), *shape), (number,))


def _part(view: View, axis: int, start: int, end: int) -> View:
    """Places `start` to `end` along an axis."""
    size, origin = list(view.size), [0, 0]
    size[axis], origin[axis] = end - start, start
    return View(0, view.channels, (size[0], size[1]), origin=(origin[0], origin[1])).of(view)
