"""Layer normalization of codes."""

import numpy as np

from ..ir.row_layers import LayerNormLayer
from .heads import rows_of
from .node import Node
from .pooling import ends
from .value import Value, as_rows

__all__ = ["layer_norm"]

#: Sums of squares stay below it, and sums below 2^24, so that FP32 has them exactly.
_SUMS, _LARGEST_ROW = 1 << 31, (1 << 24) // 255
#: A shift beyond it is nothing but the bias: what it is added to is not seen beside it.
_LARGEST_SHIFT = np.float32(2.0 ** 60)


def layer_norm(value: Value, node: Node) -> None:
    """LayerNormalization along the last axis."""
    node.only("axis", "biased", "epsilon", "ops", "stash_type")
    node.one_of("stash_type", 1)
    features, shape = value.last_axis(node)
    x_scale, y_scale, _, y_zero = ends(value, node)
    shift, gain = _factors(node, features, y_scale)
    epsilon = float(node.attributes.get("epsilon", 1e-5)) / float(x_scale) ** 2
    if not epsilon > 0 or not features * (255 ** 2 + epsilon) + 1 < _SUMS or features > _LARGEST_ROW:
        raise node.error(f"squares of {features} codes do not fit in 32 bits, with an epsilon, which must be "
                         f"above zero, of {epsilon:g} squares of the input's scale, {x_scale}")
    size = rows_of(value, node)
    table = np.zeros(256, np.float32)
    table[np.arange(0, -256, -1) & 255] = np.arange(0, -256, -1)
    value.append(LayerNormLayer(node.name, node.label, features, size, table.view(np.int32), y_zero=y_zero,
                                epsilon=epsilon, shift=shift, gain=gain),
                 value.unsigned, as_rows(shape, features))


def _factors(node: Node, features: int, y_scale: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """What is added to the numbers, and what they are then multiplied with, for each channel."""
    given = [node.constant(5, "the scale"), node.constant(6, "the bias") if node.attributes["biased"] else
             np.zeros(1, np.float32)]
    try:
        gain, bias = (np.broadcast_to(item.astype(np.float32), features) for item in given)
    except ValueError:
        shapes = [list(item.shape) for item in given]
        raise node.error(f"scale and bias must be [{features}], not {shapes}") from None
    with np.errstate(all="ignore"):
        hides = np.abs(bias) >= np.abs(gain) * _LARGEST_SHIFT
        gain = np.where(hides, bias / _LARGEST_SHIFT, gain).astype(np.float32)
        shift, gain = np.where(bias == 0, np.float32(0), bias / gain).astype(np.float32), gain / y_scale
    if not (np.isfinite(shift).all() and np.isfinite(gain).all()):
        raise node.error(f"scale or bias is too large for the result's scale, {y_scale}")
    return shift, gain
