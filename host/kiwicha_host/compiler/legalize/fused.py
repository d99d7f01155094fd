"""What joins the layer before it: limits and pooling."""

import numpy as np

from ..ir.layers import SHIFT, Pool
from .node import Node
from .value import Value

__all__ = ["clip", "max_constant", "max_pool", "relu"]


def relu(value: Value, node: Node) -> None:
    node.only()
    _clamp(value, node, 0, 255)


def clip(value: Value, node: Node) -> None:
    node.only()
    low, high = (node.code(i, what) if node.has(i) else default
                 for i, what, default in ((1, "min", -128), (2, "max", 255)))
    _clamp(value, node, min(low, high), high)


def max_constant(value: Value, node: Node) -> None:
    """Max of the codes and a constant."""
    if len(node.inputs) != 2:
        raise node.error(f"takes two inputs here, not {len(node.inputs)}")
    if node.constant(1, "the constant").ndim > value.where.ndim:
        raise node.error("its constant must not have more dimensions than its input, or it would add some")
    _clamp(value, node, node.code(1, "the constant"), 255)


def max_pool(value: Value, node: Node) -> None:
    node.only("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides")
    _, size = value.image(node)
    kernel, strides, dilations = (node.pair(item) for item in ("kernel_shape", "strides", "dilations"))
    out, pads = node.window(size, kernel, strides, dilations, ceil=bool(node.attributes.get("ceil_mode", 0)))
    for axis in range(2):
        starts = np.arange(out[axis]) * strides[axis] - pads[axis]
        taps = starts[:, None] + np.arange(kernel[axis]) * dilations[axis]
        if not ((taps >= 0) & (taps < size[axis])).any(1).all():
            raise node.error("a window lies in the padding alone; pads must be smaller")
    value.pool(node, Pool(kernel, strides, dilations, pads, out))


def _clamp(value: Value, node: Node, low: int, high: int) -> None:
    """Codes from `low` to `high`, in the model's own numbers."""
    low, high = (item - SHIFT * value.unsigned for item in (low, high))
    value.clamp(node, low, high)
