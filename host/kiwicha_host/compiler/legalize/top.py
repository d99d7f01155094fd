"""The largest or smallest codes along an axis, and where they are."""

import numpy as np

from kiwicha.isa import TOP_MOST

from ..ir.layers import HostFunction
from ..ir.row_layers import TopLayer
from .heads import rows_of
from .node import Node
from .value import Value

__all__ = ["arg", "top_k"]


def arg(value: Value, node: Node) -> list[Value]:
    """ArgMax or ArgMin: of equal codes, the first."""
    node.only("axis", "keepdims", "select_last_index")
    node.one_of("select_last_index", 0)
    axis = node.attributes.get("axis", 0)
    _, places = _largest(value, node, axis, 1, 1 if node.op == "ArgMax" else -1)
    if not node.attributes.get("keepdims", 1):
        places.shape_with(node, lambda x: x.squeeze(axis))
    return [places]


def top_k(value: Value, node: Node) -> list[Value]:
    """The values of those outputs that have names: largest or smallest first, of equal codes the first."""
    node.only("axis", "largest", "sorted")
    node.one_of("sorted", 1)
    [count, *others], most = node.integers(1, "k"), node.attributes.get("largest", 1)
    if others:
        raise node.error(f"k must be one number, not {[count, *others]}")
    found = _largest(value, node, node.attributes.get("axis", -1), count, 1 if most else -1)
    return [made for made, name in zip(found, node.operator.outputs, strict=False) if name]


def _largest(value: Value, node: Node, axis: int, count: int, factor: int) -> tuple[Value, Value]:
    """The `count` largest codes times `factor` along an axis, and their places."""
    rank, axes = value.where.ndim, list(value.where.shape[1:])
    if rank < 2 or not -rank <= axis < rank or axis % rank not in (1, rank - 1):
        raise node.error(f"takes the last of several axes, or that of channels, not {axis} of {rank}")
    length = axes.pop(axis % rank - 1)
    if not 1 <= count <= min(TOP_MOST, length):
        raise node.error(f"finds 1 to {TOP_MOST} of at least as many, not {count} of {length}")
    size = rows_of(value, node) if axis % rank == rank - 1 else value.image(node)[1]
    value.append(TopLayer(node.name, node.label, length, size, np.zeros(0, np.int32), count=count,
                          factor=np.array([factor], np.float32)), value.unsigned)

    def words(kind: str, part: slice) -> HostFunction:
        """Of [N, bytes, height, width], the words that are a part of each place's."""
        def moved(x: np.ndarray) -> np.ndarray:
            found = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).view(kind)[..., part]
            return np.moveaxis(found.reshape(len(x), *axes, count), -1, axis)
        return moved

    places, shape = value.copy(), (1, *axes, count)
    for made, dtype in ((value, np.int8), (places, np.int64)):
        made.decoded = np.dtype(dtype)
        made.where = np.moveaxis(np.arange(np.prod(shape)).reshape(shape), -1, axis)
    numbers, numbers_of = words("<f4", slice(count)), words("<u4", slice(count, None))
    value.shapers = [lambda x: (numbers(x) * np.float32(factor)).astype(np.int8)]
    places.shapers, places.unsigned = [lambda x: numbers_of(x).astype(np.int64)], False
    return value, places
