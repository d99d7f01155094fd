"""Windows: maxima and averages."""

from collections.abc import Sequence
from fractions import Fraction
from math import prod

import numpy as np

from kiwicha.isa import Reduce

from ..ir.layers import SHIFT, HostFunction, Pool, VectorLayer
from .evaluate import CODES
from .node import Node
from .tables import neighbours
from .value import Value, as_rows, without_height

__all__ = ["average_pool", "ends", "global_average_pool", "max_pool", "maximum", "mean"]

#: Sums stay below it.
_SUMS = 1 << 31
#: From such quotients of scales on, and such scales, ONNX Runtime's numbers and their conversion may overflow.
_QUOTIENTS, _SCALES = 1 << 23, 2.0 ** 90
#: The largest numerator and denominator of a quotient of scales that puts many averages at halves.
_TIES = 255


def max_pool(value: Value, node: Node) -> None:
    node.only("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides")
    value.pool(node, _window(value, node)[0], without_height if value.where.ndim == 3 else None)


def _window(value: Value, node: Node) -> tuple[Pool, tuple[np.ndarray, np.ndarray]]:
    """The window, and how many of its places are in the image, at each place of either axis."""
    _, size = value.image(node)
    kernel, strides, dilations = (node.pair(item) for item in ("kernel_shape", "strides", "dilations"))
    out, pads = node.window(size, kernel, strides, dilations, ceil=bool(node.attributes.get("ceil_mode", 0)))
    inside = []
    for axis in range(2):
        starts = np.arange(out[axis]) * strides[axis] - pads[axis]
        if node.attributes.get("auto_pad", "").startswith("SAME") and starts[-1] + (
                kernel[axis] - 1) * dilations[axis] + 2 < size[axis]:
            raise node.error("auto_pad leaves out places at both ends, as strides are larger than the window")
        taps = starts[:, None] + np.arange(kernel[axis]) * dilations[axis]
        inside.append(((taps >= 0) & (taps < size[axis])).sum(1))
        if not inside[axis].all():
            raise node.error("a window lies in the padding alone; pads must be smaller")
    return Pool(kernel, strides, dilations, pads, out), (inside[0], inside[1])


def maximum(value: Value, node: Node) -> None:
    """ReduceMax over all places, of an image or of rows."""
    node.only("axes", "keepdims", "noop_with_empty_axes")
    axes = node.integers(1, "the axes") if node.has(1) else list(node.attributes.get("axes", ()))
    _, size, shaper = _all_places(value, node, axes)
    value.pool(node, _everything(size), shaper)
    if not node.attributes.get("keepdims", 1):
        value.shape_with(node, _flat)


def average_pool(value: Value, node: Node) -> None:
    """ONNX Runtime's QLinearAveragePool."""
    node.only("auto_pad", "ceil_mode", "channels_last", "count_include_pad", "kernel_shape", "pads", "strides")
    node.one_of("channels_last", 0)
    pool, inside = _window(value, node)
    places, counts = prod(pool.kernel), np.unique(np.outer(*inside))
    all_count = bool(node.attributes.get("count_include_pad", 0))
    ratio, x_zero, y_zero = _steps(value, node)
    # With such a quotient many averages are at halves, and ONNX Runtime rounds those with the zero point in them.
    quotient = Fraction(float(ratio)).limit_denominator(_TIES)
    tied = quotient.numerator <= _TIES and np.float32(quotient) == ratio and not (all_count and counts[0] < places)
    step, inner, unit = 1, 0, ratio
    if tied:
        step, inner = quotient.numerator, y_zero % 2 * quotient.denominator
        unit = np.float32(1) / np.float32(quotient.denominator)
    factor = np.zeros(places + 1, np.float32)
    for count in counts:
        sums = np.arange(255 * count + 1) - (SHIFT + x_zero) * count
        parts, zero = np.float32(places if all_count else count), np.float32(y_zero + SHIFT * value.unsigned)
        wanted = np.rint(sums.astype(np.float32) / parts * ratio + zero) - zero + y_zero % 2 * tied
        factor[count] = _factor(sums * step + inner * count, unit / parts, wanted)
    table = (CODES.astype(np.int64) - x_zero) * step + inner
    layer = _layer(node, *value.image(node), pool, table, factor, y_zero - y_zero % 2 * tied)
    value.append(layer, value.unsigned, without_height if value.where.ndim == 3 else None)


def _factor(sums: np.ndarray, factor: np.floating, wanted: np.ndarray) -> np.float32:
    """A number near `factor` with which as many products as can be round to `wanted`."""
    numbers, first = sums.astype(np.float32), np.array(factor, np.float32)
    candidates = np.array([first, *neighbours(first)])
    right = [(np.rint(numbers * candidates[0]) == wanted).sum()]
    if right[0] < len(wanted):
        right += [(np.rint(numbers * candidate) == wanted).sum() for candidate in candidates[1:]]
    return candidates[np.argmax(right)]


def global_average_pool(value: Value, node: Node) -> None:
    """ONNX Runtime's QLinearGlobalAveragePool."""
    node.only("channels_last")
    node.one_of("channels_last", 0)
    _average_of_all(value, node, *value.image(node), without_height if value.where.ndim == 3 else None)


def mean(value: Value, node: Node) -> None:
    """ReduceMean over all places, of an image or of rows."""
    _average_of_all(value, node, *_all_places(value, node, node.attributes["axes"]))
    if not node.attributes["keepdims"]:
        value.shape_with(node, _flat)


def _all_places(value: Value, node: Node, axes: Sequence[int]
                ) -> tuple[int, tuple[int, int], HostFunction | None]:
    """Channels and size of the feature map all of whose places are along `axes`, and what its one place becomes.

    [N, channels, height, width] or [N, channels, width] is an image, [N, ..., features] are rows.
    """
    rank, axes = value.where.ndim, list(axes)
    along = sorted(axis % rank for axis in axes)
    if rank > 2 and along == list(range(1, rank - 1)):
        value.by_rows(node)
        size, features = value.rows(node)
        return features, size, as_rows((1,) * (rank - 2), features)
    if rank not in (3, 4) or along != list(range(2, rank)):
        raise node.error(f"its axes must be those of height and width, or of all rows, not {axes} of {rank}")
    return *value.image(node), without_height if rank == 3 else None


def _everything(size: tuple[int, int]) -> Pool:
    """A window over all places."""
    return Pool(size, (1, 1), (1, 1), (0, 0), (1, 1))


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _average_of_all(value: Value, node: Node, channels: int, size: tuple[int, int], shaper: HostFunction | None
                    ) -> None:
    places = prod(size)
    ratio, x_zero, y_zero = _steps(value, node, places)
    factor = np.zeros(places + 1, np.float32)
    factor[-1] = ratio
    layer = _layer(node, channels, size, _everything(size), CODES.astype(np.int64) - x_zero, factor, y_zero)
    value.append(layer, value.unsigned, shaper)


def ends(value: Value, node: Node, *, mixed: bool = False) -> tuple[np.float32, np.float32, int, int]:
    """Scales of the operand and of the result; both zero points, of one type, or, if `mixed`, of two."""
    x_scale, y_scale = node.scale(1, "the input's scale"), node.scale(3, "the output's scale")
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    y_zero, y_unsigned = node.zero_point(4, "the output's zero point")
    value.match(node, unsigned)
    if unsigned != y_unsigned and not mixed:
        raise node.error("its input and output must be both int8 or both uint8")
    return x_scale, y_scale, x_zero, y_zero


def _steps(value: Value, node: Node, places: int = 1) -> tuple[np.float32, int, int]:
    """From the operand's steps to `places` of the result's; both zero points."""
    x_scale, y_scale, x_zero, y_zero = ends(value, node)
    with np.errstate(over="ignore"):
        ratio = x_scale / (y_scale * np.float32(places))
        quotient = x_scale / y_scale
    if quotient >= _QUOTIENTS or x_scale >= _SCALES:
        raise node.error(f"its input's scale, {x_scale}, is too large for its output's, {y_scale}")
    return ratio, x_zero, y_zero


def _layer(node: Node, channels: int, size: tuple[int, int], pool: Pool, table: np.ndarray, factor: np.ndarray,
           y_zero: int) -> VectorLayer:
    most = int(np.abs(table).max()) * prod(pool.kernel)
    if most >= _SUMS:
        raise node.error(f"sums up to {most} over its window do not fit in 32 bits")
    return VectorLayer(node.name, node.label, channels, size, table.astype(np.int32), pool=pool, reduce=Reduce.SUM,
                       factor=factor, y_zero=y_zero)
