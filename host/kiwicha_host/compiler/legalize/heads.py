"""Rows that are parts of a feature map's channels: the features of heads."""

import numpy as np

from ..ir.layers import View
from .node import Node
from .value import Value, as_rows, copy_layer

__all__ = ["rows_of"]


def rows_of(value: Value, node: Node) -> tuple[int, int]:
    """As :meth:`.Value.rows`: the places of a tensor [N, ..., features], each of which is a row.

    Where the channels are those of several heads, copies put each head's to places of its own: place after place,
    or head after head, as the tensor has them.
    """
    view, features = value.view, value.where.shape[-1]
    heads = 0 if view is None or view.channels % features else view.channels // features
    if view is None or heads < 2 or value.where.size != view.channels * view.size[0] * view.size[1]:
        return value.rows(node)[0]
    height, width = view.size
    order = np.arange(value.where.size).reshape(heads, features, height * width)
    rows = value.where.reshape(-1, features)
    if (rows == order.transpose(2, 0, 1).reshape(rows.shape)).all():
        size, step, origins = (height, width * heads), (1, heads), [(0, head) for head in range(heads)]
    elif (rows == order.transpose(0, 2, 1).reshape(rows.shape)).all():
        size, step, origins = (height * heads, width), (1, 1), [(head * height, 0) for head in range(heads)]
    else:
        return value.rows(node)[0]
    target, shape = value.graph.new_map(features, size), value.where.shape[1:-1]
    layers = tuple(value.graph.add(
        copy_layer(node, features, view.size),
        View(0, features, view.size, channel=head * features).of(view),
        View(0, features, view.size, origin=origin, step=step).of(target)) for head, origin in enumerate(origins))
    value.is_at(target, value.unsigned, as_rows(shape, features), layers)
    return value.rows(node)[0]
