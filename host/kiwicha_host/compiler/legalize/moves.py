"""What only moves elements, or not even that."""

from collections.abc import Sequence
from math import prod

import numpy as np

from ..ir.layers import SHIFT, View
from .node import Node
from .value import Value, copy_layer, whole_channels, without_height

__all__ = ["flatten", "gather", "identity", "pad", "reshape", "slice_", "split", "squeeze", "transpose",
           "unsqueeze"]

#: An end beyond any batch, as exporters write it.
_ANY = (1 << 31) - 1


def flatten(value: Value, node: Node) -> None:
    node.only("axis")
    if node.attributes.get("axis", 1) not in (1, 1 - value.where.ndim):
        raise node.error(f"axis must be 1, not {node.attributes['axis']}")
    value.shape_with(node, lambda x: x.reshape(len(x), -1))


def reshape(value: Value, node: Node) -> None:
    node.only("allowzero")
    shape = node.integers(1, "the shape")
    if not shape or shape[0] not in (0, -1, value.batch or -1):
        raise node.error(f"must leave the batch, the first dimension, alone; its shape is {shape}")
    if 0 in shape[1:] and not node.attributes.get("allowzero", 0):
        old = value.where.shape
        shape = [old[i] if i and not item and i < len(old) else item for i, item in enumerate(shape)]
    rest = shape[1:]
    value.shape_with(node, lambda x: x.reshape(len(x), *rest))


def transpose(value: Value, node: Node) -> None:
    node.only("perm")
    perm = list(node.attributes.get("perm", range(value.where.ndim)[::-1]))
    if sorted(perm) != list(range(value.where.ndim)):
        raise node.error(f"perm must be a permutation of {value.where.ndim} axes, not {perm}")
    if value.where.shape[perm[0]] != 1 or (perm[0] and value.batch != 1):
        raise node.error(f"must leave the batch, the first dimension, alone; perm is {perm}")
    value.shape_with(node, lambda x: x.transpose(perm))


def squeeze(value: Value, node: Node) -> None:
    axes = _axes(value, node)
    value.shape_with(node, lambda x: x.squeeze(axes))


def unsqueeze(value: Value, node: Node) -> None:
    axes = _axes(value, node)
    value.shape_with(node, lambda x: np.expand_dims(x, axes))


def identity(value: Value, node: Node) -> None:
    """Nothing to do."""


def _axes(value: Value, node: Node) -> tuple[int, ...]:
    """Those given; that of the batch only where it is one image, and another axis of one takes its place."""
    node.only("axes")
    axes = node.attributes.get("axes", [])
    if node.has(1):
        axes = node.integers(1, "axes")
    if not axes or (0 in axes and value.batch != 1):
        raise node.error(f"axes must be given and leave the batch, axis 0, alone, not {list(axes)}")
    return tuple(int(item) for item in axes)


# What takes a part.

def slice_(value: Value, node: Node) -> None:
    """Slice; before version 10 its numbers are attributes."""
    node.only("axes", "ends", "starts")
    starts, ends, axes = (node.integers(index, name) if node.has(index) else list(node.attributes.get(name, []))
                          for index, name in ((1, "starts"), (2, "ends"), (3, "axes")))
    axes = axes or list(range(len(starts)))
    steps = node.integers(4, "the steps") if node.has(4) else [1] * len(starts)
    rank = value.where.ndim
    if not starts or not len(starts) == len(ends) == len(axes) == len(steps) or any(
            not -rank <= axis < rank for axis in axes) or 0 in steps:
        raise node.error(f"starts {starts}, ends {ends}, axes {axes}, steps {steps} do not fit {rank} dimensions")
    index = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis % rank] = slice(start, end, step)
    _take(value, node, index)


def gather(value: Value, node: Node) -> None:
    """One element along an axis; so a transformer takes its first token."""
    node.only("axis")
    rank, axis, index = value.where.ndim, node.attributes.get("axis", 0), node.constant(1, "the index")
    if index.size != 1 or index.ndim > 1 or not -rank <= axis < rank:
        raise node.error(f"takes one element along one of {rank} axes, not {list(index.shape)} of axis {axis}")
    size, number = value.where.shape[axis], int(index.reshape(()))
    if axis % rank == 0 or not -size <= number < size:
        raise node.error(f"must leave the batch alone, and its index {number} be one of {size}")
    box = [slice(None)] * rank
    box[axis % rank] = slice(number % size, number % size + 1)
    _take(value, node, box)
    if not index.ndim:
        value.shape_with(node, lambda x: x.squeeze(axis % rank))


def split(value: Value, node: Node) -> list[Value]:
    """The values of all outputs."""
    node.only("axis", "num_outputs", "split")
    rank, axis, count = value.where.ndim, node.attributes.get("axis", 0), len(node.outputs)
    if not -rank <= axis < rank:
        raise node.error(f"axis {axis} does not fit {rank} dimensions")
    size = value.where.shape[axis]
    sizes = node.integers(1, "the sizes") if node.has(1) else list(node.attributes.get("split", []))
    each = -(-size // node.attributes.get("num_outputs", count))
    sizes = sizes or [min(each, size - start) for start in range(0, size, each)]
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 1:
        raise node.error(f"{size} elements do not make parts of {sizes} for {count} outputs")
    parts, start = [], 0
    for part in sizes:
        index = [slice(None)] * rank
        index[axis % rank] = slice(start, start + part)
        parts.append(value.copy())
        _take(parts[-1], node, index)
        start += part
    return parts


def _take(value: Value, node: Node, index: Sequence[slice]) -> None:
    """The tensor is ``value[index]``."""
    start, end, step = index[0].start or 0, index[0].stop, index[0].step or 1
    if step != 1 or start != 0 or (end is not None and end < (value.batch or _ANY)):
        raise node.error("must leave the batch, the first dimension, alone")
    index = (slice(None), *index[1:])
    where = value.where[index]
    if not where.size:
        raise node.error(f"leaves nothing of {list(value.where.shape)}")
    if value.view is None or value.dequantized or value.decoded is not None:
        value.where = where
        value.shapers.append(lambda x: x[index])
        return
    view, numbers = _channels(value, node, where) or _box(value.view, node, where)
    shape = where.shape[1:]
    value.is_at(view, value.unsigned, lambda x: x.reshape(len(x), -1)[:, numbers].reshape(len(x), *shape))


def _channels(value: Value, node: Node, where: np.ndarray) -> tuple[View, np.ndarray] | None:
    """A copy of the channels that the elements `where` of the view are, if they are such and have others between
    them, as the halves of heads have; and which of its elements each of them is.
    """
    assert value.view is not None
    elements, size = np.sort(where.reshape(-1)), value.view.size
    taken = None if elements.size % prod(size) else whole_channels(elements.reshape(-1, prod(size)))
    if taken is None or (np.diff(taken) == 1).all():
        return None
    if value.element != "int8":
        raise node.error("takes channels of numbers that have others between them")
    target = value.graph.new_map(len(taken), size)
    value.graph.add(copy_layer(node, value.view.channels, size, taken), value.view, target)
    return target, np.searchsorted(elements, where.reshape(-1))


def _box(view: View, node: Node, where: np.ndarray) -> tuple[View, np.ndarray]:
    """The box that has the elements `where` of `view`, and which of its elements each of them is, in order."""
    wanted = where.reshape(-1)
    places = np.unravel_index(wanted, (view.channels, *view.size))
    firsts, counts, steps, numbers = [], [], [], np.zeros(wanted.size, np.intp)
    for axis in places:
        used, inverse = np.unique(axis, return_inverse=True)
        step = int(used[1] - used[0]) if len(used) > 1 else 1
        if (np.diff(used) != step).any():
            raise node.error("takes elements that are at no regular places")
        numbers = numbers * len(used) + inverse.reshape(-1)
        firsts.append(int(used[0]))
        counts.append(len(used))
        steps.append(step)
    if prod(counts) != wanted.size or steps[0] != 1:
        raise node.error("takes elements that are no box of channels and places")
    channels, *size = counts
    box = View(view.map, channels, (size[0], size[1]), firsts[0], (firsts[1], firsts[2]), (steps[1], steps[2]))
    return box.of(view), numbers


# What adds something.

def pad(value: Value, node: Node) -> None:
    """Places around an image, of one code, which a copy gets as its padding, or the host adds to an input.

    An image's channels may be the last axis, too.
    """
    node.only("mode", "pads")
    if node.attributes.get("mode", "constant") != "constant":
        raise node.error(f"mode must be constant, not {node.attributes['mode']!r}")
    pads, rank = node.integers(1, "the pads"), value.where.ndim
    axes = node.integers(3, "the axes") if node.has(3) else list(range(rank))
    if len(pads) != 2 * len(axes) or any(not -rank <= axis < rank for axis in axes):
        raise node.error(f"pads {pads} and axes {axes} do not fit {rank} dimensions")
    around = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads, pads[len(axes):], strict=False):
        around[axis % rank] = before, after
    code = (node.code(2, "its code") if node.has(2) else 0) - SHIFT * value.unsigned
    if any(around[0]) or min(map(min, around)) < 0:
        raise node.error(f"must add places around an image, and take none away: pads are {pads}")
    if value.view is None:
        value.shapers.append(lambda x: np.pad(x, around, constant_values=code))
        shape = [size + sum(more) for size, more in zip(value.where.shape, around, strict=True)]
        value.where = np.arange(prod(shape)).reshape(shape)
        return
    by_rows = rank in (3, 4) and any(around[1]) and not any(around[-1])
    if by_rows:
        value.shape_with(node, lambda x: np.moveaxis(x, -1, 1))
        around.insert(1, around.pop())
    channels, (height, width) = value.image(node)
    if any(around[1]):
        raise node.error(f"must add places around an image, and no channels: pads are {pads}")
    (top, bottom), (left, right) = ((0, 0), around[2]) if rank == 3 else around[2:]
    value.append(copy_layer(node, channels, (height, width), pads=(top, left), x_zero=code,
                            conv_size=(top + height + bottom, left + width + right)),
                 value.unsigned, without_height if rank == 3 else None)
    if by_rows:
        value.shape_with(node, lambda x: np.moveaxis(x, 1, -1))
