"""Constants of products, as layers have them."""

import numpy as np

from ...golden.numerics import requantize_scale
from .node import Node

__all__ = ["bias_of", "folded_bias", "scales_of", "ungrouped", "weights_of"]


def weights_of(node: Node, rank: int, axis: int) -> np.ndarray:
    """The weights less their zero points, of which there is one, or one for each output along `axis`.

    As int8, if they fit; else as int16, from -255 to 255: the chip takes them in two or three parts.
    """
    weights, zero = node.constant(3, "the weights"), node.constant(5, "the weights' zero point")
    if weights.dtype not in (np.int8, np.uint8) or zero.dtype != weights.dtype:
        raise node.error("the weights and their zero point must be int8 or uint8, both, "
                         f"not {weights.dtype} and {zero.dtype}")
    if weights.ndim != rank:
        raise node.error(f"the weights must have {rank} dimensions, not {weights.ndim}")
    if zero.size not in (1, weights.shape[axis]):
        raise node.error(f"the weights' zero point must be one number or {weights.shape[axis]}, not {zero.size}")
    shape = [1] * rank
    shape[axis] = zero.size
    if not weights.size:
        raise node.error(f"the weights are empty: {list(weights.shape)}")
    if weights.dtype == np.int8 and not zero.any():
        return weights
    centred = weights.astype(np.int16) - zero.reshape(shape)
    narrow = centred.min() >= -128 and centred.max() <= 127
    return centred.astype(np.int8) if narrow else centred


def scales_of(node: Node, outputs: int, output: int = 6) -> np.ndarray:
    """From accumulators to the output's steps, whose scale is input `output`, one for each of the outputs; times
    the attribute alpha, if there is one."""
    alpha = np.float32(node.attributes.get("alpha", 1))
    w_scale = node.constant(4, "the weights' scale")
    if w_scale.dtype != np.float32 or w_scale.size not in (1, outputs):
        raise node.error(f"the weights' scale must be float32, one or {outputs} numbers, "
                         f"not {w_scale.dtype} {list(w_scale.shape)}")
    with np.errstate(over="ignore"):
        scale = requantize_scale(alpha * node.scale(1, "the input's scale"), w_scale.reshape(-1),
                                 node.scale(output, "the output's scale"))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise node.error(f"{'alpha * ' * ('alpha' in node.attributes)}input scale * weight scale / output scale "
                         "must be positive and finite")
    return np.broadcast_to(scale, outputs).astype(np.float32)


def bias_of(node: Node, index: int, outputs: int) -> np.ndarray:
    """Input `index`, int32 [outputs]; zeros if it is left out."""
    bias = node.constant(index, "the bias") if node.has(index) else np.zeros(outputs, np.int32)
    if bias.dtype != np.int32 or bias.shape != (outputs,):
        raise node.error(f"the bias must be int32 [{outputs}], not {bias.dtype} {list(bias.shape)}")
    return bias


def folded_bias(bias: np.ndarray, weights: np.ndarray, x_zero: int) -> np.ndarray:
    """Bias minus the zero point's share, modulo 2^32 as the accumulators are."""
    total = bias.astype(np.int64) - x_zero * weights.sum((1, 2, 3), np.int64)
    return total.astype(np.int32)


def ungrouped(weights: np.ndarray, group: int) -> np.ndarray:
    """Dense weights with zeros between the groups."""
    if group == 1:
        return weights
    outputs, per_group, *kernel = weights.shape
    dense = np.zeros((outputs, per_group * group, *kernel), weights.dtype)
    for i in range(group):
        rows = slice(i * outputs // group, (i + 1) * outputs // group)
        dense[rows, i * per_group:(i + 1) * per_group] = weights[rows]
    return dense
