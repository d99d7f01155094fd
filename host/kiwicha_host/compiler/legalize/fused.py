"""What joins the layer before it: limits."""

from ..ir.layers import SHIFT
from .node import Node
from .numbers import limit
from .value import Value

__all__ = ["clip", "max_constant", "relu"]


def relu(value: Value, node: Node) -> None:
    if value.element == "float32":
        limit(value, node)
        return
    node.only()
    _clamp(value, node, 0, 255)


def clip(value: Value, node: Node) -> None:
    if value.element == "float32":
        limit(value, node)
        return
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


def _clamp(value: Value, node: Node, low: int, high: int) -> None:
    """Codes from `low` to `high`, in the model's own numbers."""
    low, high = (item - SHIFT * value.unsigned for item in (low, high))
    value.clamp(node, low, high)
