"""Layer normalization of codes."""

import numpy as np

from ..ir.layers import LayerNormLayer
from .evaluate import CODES
from .node import Node
from .pooling import ends
from .value import Value, as_rows

__all__ = ["layer_norm"]

#: Sums of squares stay below it.
_SUMS = 1 << 31
#: Gains below it become this one: what they multiply does not show beside the shift then.
_LEAST_GAIN = np.float32(2.0 ** -60)


def layer_norm(value: Value, node: Node) -> None:
    """LayerNormalization along the last axis."""
    node.only("axis", "biased", "epsilon", "ops", "stash_type")
    node.one_of("stash_type", 1)
    rank, axis = value.where.ndim, node.attributes["axis"]
    if rank < 2 or axis % rank != rank - 1:
        raise node.error(f"takes the last of several axes, not {axis} of {rank}")
    x_scale, y_scale, x_zero, y_zero = ends(value, node)
    features, shape = value.where.shape[-1], value.where.shape[1:-1]
    factors = [node.constant(5, "the scale"), node.constant(6, "the bias") if node.attributes["biased"] else
               np.zeros(1, np.float32)]
    try:
        gain, bias = (np.broadcast_to(item.astype(np.float32), features) for item in factors)
    except ValueError:
        raise node.error(f"scale and bias must be [{features}], not {[list(item.shape) for item in factors]}"
                         ) from None
    centred = CODES.astype(np.int64) - x_zero
    epsilon = float(node.attributes.get("epsilon", 1e-5)) / float(x_scale) ** 2
    if not (epsilon + float(np.square(centred).max())) * features + 1 < _SUMS:
        raise node.error(f"squares of {features} codes, and epsilon in steps of {x_scale}, do not fit in 32 bits")
    gain = np.where(np.abs(gain) < _LEAST_GAIN, _LEAST_GAIN, gain)
    with np.errstate(over="ignore"):
        shift, gain = (bias / gain).astype(np.float32), (gain / y_scale).astype(np.float32)
    if not (np.isfinite(shift).all() and np.isfinite(gain).all()):
        raise node.error(f"scale or bias is too large for the result's scale, {y_scale}")
    size, _ = value.rows(node)
    value.append(LayerNormLayer(node.name, node.label, features, size, centred.astype(np.float32).view(np.int32),
                                y_zero=y_zero, x_zero=x_zero, epsilon=epsilon, shift=shift, gain=gain),
                 value.unsigned, as_rows(shape, features))
