"""Lines through codes, one for each channel, as convolutions of one place and one channel each."""

from dataclasses import dataclass
from math import prod

import numpy as np

from ..ir.graph import Graph
from ..ir.layers import Layer
from ..passes.fold_channels import LIMITS
from .evaluate import CODES, results_by_channel, signed
from .node import Node
from .value import Value, copy_layer

__all__ = ["channelwise"]

#: Weights and biases have at most this size, factors at least.
_WEIGHTS, _BIASES, _LEAST = 127, 1 << 30, 2.0 ** -100
#: So many zero points are tried.
_ZEROS = 4


def channelwise(value: Value, node: Node, graph: Graph) -> None:
    """The convolution whose results are those of `node` for all codes, but for a few that become the next code."""
    axis, rank = node.attributes["axis"], value.where.ndim
    value.match(node, node.zero_point(2, "the input's zero point")[1])
    zero, scale = node.zero_point(4, "the output's zero point")[0], node.scale(3, "the output's scale")
    numbers, results = results_by_channel(graph, node.operator, _line(node), rank, axis, value.where.shape[axis],
                                          value.unsigned)
    codes, unsigned = signed(results)
    with np.errstate(over="ignore"):
        lines = numbers.astype(np.float64) / scale + zero
    if not np.isfinite(lines).all():
        raise node.error("its numbers are not all finite")
    fit = _best(lines, codes.astype(np.int64), zero)
    if fit.most > 1:
        raise node.error(f"its factors are too large for its output's scale, {scale}")
    order = _order(value, node, axis)

    def layer(count: int, size: tuple[int, int]) -> Layer:
        weights = np.diag(fit.weights[order])[:, :, None, None]
        return copy_layer(node, count, size, op=node.label, weights=weights, bias=fit.biases[order],
                          scale=fit.factors[order], y_zero=fit.zero, clamp=(int(codes.min()), int(codes.max())))

    value.through(node, layer, unsigned)


def _line(node: Node) -> str:
    """The numbers before limits."""
    return next(op.outputs[0] for op in node.attributes["ops"][-2::-1] if op.kind not in LIMITS)


def _order(value: Value, node: Node, axis: int) -> np.ndarray:
    """Of each of the feature map's channels, which number it has along `axis`."""
    channels, size = value.form(node)
    where, shape = value.order, value.where.shape
    if where.size != channels * prod(size):
        raise node.error("takes a part of a feature map only")
    numbers = np.arange(shape[axis]).reshape([-1 if item == axis else 1 for item in range(len(shape))])
    found = np.empty(where.size, np.intp)
    found[where.reshape(-1)] = np.broadcast_to(numbers, shape).reshape(-1)
    order = found.reshape(channels, -1)
    if (order != order[:, :1]).any():
        raise node.error("its constants are not along the channels of its input's feature map")
    return order[:, 0]


@dataclass(frozen=True)
class _Fit:
    """A convolution's constants, one for each channel; and how many results are off, and by how much at most."""
    weights: np.ndarray
    biases: np.ndarray
    factors: np.ndarray
    zero: int
    wrong: int
    most: int


def _best(lines: np.ndarray, codes: np.ndarray, zero: int) -> _Fit:
    """Of several zero points, which are whole steps of the lines, the one with which most results are right."""
    found = None
    for own in range(zero, zero + _ZEROS) if zero <= 0 else range(zero, zero - _ZEROS, -1):
        fit = _fitted(lines - own, codes - own, own)
        if found is None or fit.wrong < found.wrong:
            found = fit
        if not fit.wrong:
            break
    assert found is not None
    return found


def _fitted(lines: np.ndarray, wanted: np.ndarray, zero: int) -> _Fit:
    """Weights, biases and factors with which as many as can be of `(weight * code + bias) * factor` are `wanted`.

    For a weight, the slope says what the factor is, and the offset to within half a factor what the bias is. That
    decides about results that are closer to a half; with another weight the biases lie elsewhere.

    Parameters
    ----------
    lines : float64 [256, channels], in steps of the result, for :data:`CODES`
    wanted : integers [256, channels]; the lowest and the highest stand for all beyond
    """
    x, first, last = CODES.astype(np.int64)[:, None], lines[128], lines[127]
    slope, offset = (last - first) / 255, (last * 128 + first * 127) / 255
    channels = lines.shape[1]
    weights, biases = np.zeros(channels, np.int8), np.zeros(channels, np.int32)
    factors, wrong, most = np.ones(channels, np.float32), np.full(channels, 256), np.full(channels, 255)
    for weight in range(_WEIGHTS, -1, -1):
        left = np.flatnonzero(wrong)
        own = weight * np.sign(slope[left]).astype(np.int64)
        # A line without a slope is its bias alone.
        factor = np.abs(slope[left]) / weight if weight else np.full(left.size, 2.0 ** -20)
        factor = np.maximum(factor, _LEAST).astype(np.float32)
        bias = np.rint(np.clip(offset[left] / factor, -_BIASES, _BIASES)).astype(np.int64)
        got = np.rint((own * x + bias).astype(np.float32) * factor).clip(wanted.min(), wanted.max())
        off = np.abs(got - wanted[:, left]).astype(np.int64)
        better = (off > 0).sum(0) + 256 * (off.max(0) > 1) < wrong[left] + 256 * (most[left] > 1)
        chosen = left[better]
        weights[chosen], biases[chosen], factors[chosen] = own[better], bias[better], factor[better]
        wrong[chosen], most[chosen] = (off > 0).sum(0)[better], off.max(0)[better]
    return _Fit(weights, biases, factors, zero, int(wrong.sum()), int(most[wrong > 0].max(initial=0)))
