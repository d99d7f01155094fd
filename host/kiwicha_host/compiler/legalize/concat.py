"""Concatenations: each operand has its place in one feature map."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..ir.layers import SHIFT, LayerGraph, VectorLayer, View
from .evaluate import CODES
from .node import Node
from .numbers import then
from .value import Value, copy_layer, number_copy

__all__ = ["concat", "qlinear_concat"]


def concat(values: Sequence[Value], node: Node) -> Value:
    """Concat of codes that stand for the same numbers, or of numbers, some of which may be of codes."""
    node.only("axis")
    if any(value.element == "float32" for value in values):
        numbers = [value if value.element == "float32" else then(value.operand(), node) for value in values]
        return _joined(numbers, node)
    if any(value.dequantized for value in values):
        raise node.error("takes numbers that are no product's")
    if len({value.unsigned for value in values}) > 1:
        raise node.error("its operands must be all int8 or all uint8")
    return _joined(list(values), node)


def qlinear_concat(values: Sequence[Value], node: Node) -> Value:
    """ONNX Runtime's: each operand has a scale and a zero point, and the result its own."""
    node.only("axis")
    scale = node.scale(0, "the output's scale")
    zero, unsigned = node.zero_point(1, "the output's zero point")
    made = []
    for number, value in enumerate(values):
        x_scale = node.scale(3 * number + 3, "an input's scale")
        x_zero, x_unsigned = node.zero_point(3 * number + 4, "an input's zero point")
        value.match(node, x_unsigned)
        made.append(value)
        if (x_scale, x_zero, x_unsigned) != (scale, zero, unsigned):
            made[-1] = _requantized(value, node, (x_scale, x_zero), (scale, zero), unsigned)
    return _joined(made, node)


def _requantized(value: Value, node: Node, old: tuple[np.float32, int], new: tuple[np.float32, int], unsigned: bool
                 ) -> Value:
    """`value` in other steps: dequantized and divided, as by ONNX Runtime."""
    value, ((x_scale, x_zero), (y_scale, y_zero)) = value.copy(), (old, new)
    with np.errstate(over="ignore", under="ignore"):
        numbers = (CODES.astype(np.int32) - x_zero).astype(np.float32) * x_scale / y_scale
    table = np.clip(np.rint(numbers) + np.float32(y_zero), -SHIFT, SHIFT - 1).astype(np.int32)
    value.through(node, lambda channels, size: VectorLayer(node.name, "Copy", channels, size, table), unsigned)
    return value


def _joined(values: list[Value], node: Node) -> Value:
    """The operands in a feature map, one after the other along channels, height or width."""
    rank, axis = values[0].where.ndim, node.attributes.get("axis", 0)
    shapes = [list(value.where.shape) for value in values]
    if not -rank <= axis < rank or axis % rank == 0:
        raise node.error(f"axis {axis} must be one of {rank} dimensions, and not the batch")
    others = {tuple(size for each, size in enumerate(shape) if each != axis % rank) for shape in shapes}
    if len(others) > 1 or len({value.batch for value in values}) > 1:
        known = [[value.batch or "N", *shape[1:]] for value, shape in zip(values, shapes, strict=True)]
        raise node.error(f"operands of {', '.join(map(str, known))} do not fit each other along axis {axis}")
    graph = values[0].graph
    views: list[View] = []
    for value in values:
        views.append(_own(graph, value, node, {view.map for view in views}))
    boxes = [(view.channels, *view.size) for view in views]
    levels = [level for level in range(3) if len({box[:level] + box[level + 1:] for box in boxes}) == 1]
    if not levels:
        raise node.error("its operands' elements are in feature maps that do not fit each other")
    for level in (*levels, levels[0]):
        where = _where(values, boxes, level, axis)
        if _is_straight(where):
            break
    whole = list(boxes[0])
    whole[level] = sum(box[level] for box in boxes)
    target = graph.new_map(whole[0], (whole[1], whole[2]), values[0].element)
    _place(graph, views, target, level)
    shape, numbers = where.shape[1:], where.reshape(-1)
    result = values[0].copy()
    result.is_at(target, result.unsigned, lambda x: x.reshape(len(x), -1)[:, numbers].reshape(len(x), *shape))
    return result


def _own(graph: LayerGraph, value: Value, node: Node, taken: set[int]) -> View:
    """All of a feature map that has no other place yet, nor is one of `taken`; `value` becomes that."""
    moved, form = value.view is not None, value.form(node)
    view = value.placed(*form)
    if view != graph.whole(view.map) or graph.maps[view.map].place is not None or view.map in taken:
        copy = graph.new_map(*form, value.element)
        layer = number_copy(node, *form) if value.element == "float32" else copy_layer(node, *form)
        graph.add(layer, view, copy)
        view = copy
    if not moved:
        value.where = np.arange(value.where.size).reshape(value.where.shape)
    return view


def _where(values: Sequence[Value], boxes: Sequence[tuple[int, int, int]], level: int, axis: int) -> np.ndarray:
    """The result's elements in boxes one after the other along `level`."""
    whole = list(boxes[0])
    whole[level] = sum(box[level] for box in boxes)
    parts, start = [], 0
    for value, box in zip(values, boxes, strict=True):
        # Of a flat array: of another, large and with a last axis of one, NumPy 2.4 makes wrong places.
        places = list(np.unravel_index(value.where.reshape(-1), box))
        places[level] = places[level] + start
        parts.append(np.ravel_multi_index(tuple(places), tuple(whole)).reshape(value.where.shape))
        start += box[level]
    return np.concatenate(parts, axis=axis)


def _is_straight(where: np.ndarray) -> bool:
    """Whether a layer can take such a tensor: as an image, or as rows of features."""
    order = np.arange(where.size)
    return bool((where.reshape(-1) == order).all()) or bool(
        (where.reshape(-1, where.shape[-1]).T.reshape(-1) == order).all())


def _place(graph: LayerGraph, views: Sequence[View], target: View, level: int) -> None:
    start = 0
    for view in views:
        origin = [0, 0, 0]
        origin[level] = start
        graph.maps[view.map] = replace(graph.maps[view.map], place=View(
            target.map, view.channels, view.size, origin[0], (origin[1], origin[2])))
        start += (view.channels, *view.size)[level]
