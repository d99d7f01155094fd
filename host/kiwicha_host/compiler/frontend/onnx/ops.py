"""The operators that become layers, convolutions and matrix products, and those that join the layer before."""

import numpy as np

from ....golden.numerics import requantize_scale
from ...ir.layers import SHIFT, Layer, Pool
from .chain import Chain, without_height
from .node import Node

__all__ = ["clip", "max_constant", "max_pool", "qgemm", "qlinear_conv", "qlinear_conv_transpose", "qlinear_matmul",
           "relu"]


# Layers.

def qlinear_conv(chain: Chain, node: Node) -> None:
    node.only("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    channels, size = chain.image(node)
    flat = chain.where.ndim == 3
    weights = _weights(node, chain.where.ndim, 0)
    if flat:
        weights = weights[:, :, None]
    outputs, per_group, *kernel = weights.shape
    group = node.attributes.get("group", 1)
    if per_group * group != channels or outputs % group:
        raise node.error(f"weights {list(weights.shape)} in {group} groups do not fit {channels} channels")
    if node.pair("kernel_shape", tuple(kernel)) != tuple(kernel):
        raise node.error(f"kernel_shape must be that of the weights, {kernel}")
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    chain.match(node, unsigned)
    y_zero, y_unsigned = node.zero_point(7, "the output's zero point")
    bias = node.constant(8, "the bias") if node.has(8) else np.zeros(outputs, np.int32)
    if bias.dtype != np.int32 or bias.shape != (outputs,):
        raise node.error(f"the bias must be int32 [{outputs}], not {bias.dtype} {list(bias.shape)}")
    strides, dilations = node.pair("strides"), node.pair("dilations")
    conv_size, pads = node.window(size, tuple(kernel), strides, dilations)
    scale = _scales(node, outputs)
    real_macs = weights.size * conv_size[0] * conv_size[1]
    weights = _ungroup(weights, group)
    chain.append(Layer(
        name=node.name, op=node.op, weights=weights, bias=_fold(bias, weights, x_zero), scale=scale,
        x_zero=x_zero, y_zero=y_zero, size=size, conv_size=conv_size, strides=strides, dilations=dilations,
        pads=pads, real_macs=real_macs), unsigned=y_unsigned, shaper=without_height if flat else None)


def qlinear_conv_transpose(chain: Chain, node: Node) -> None:
    """Each of the strides' phases is a convolution, of every so many taps; all of them are one, with an output
    channel for each channel and phase, whose results the host interleaves."""
    channels, size = chain.image(node)
    flat, group = chain.where.ndim == 3, node.attributes.get("group", 1)
    weights = _weights(node, chain.where.ndim, 1)
    weights = weights[:, :, None] if flat else weights
    if len(weights) != channels or channels % group:
        raise node.error(f"weights {list(weights.shape)} in {group} groups do not fit {channels} channels")
    inner, per_group, *kernel = weights.shape
    outputs, strides = per_group * group, node.pair("strides")
    if node.pair("kernel_shape", tuple(kernel)) != tuple(kernel):
        raise node.error(f"kernel_shape must be that of the weights, {kernel}")
    first, result = node.transposed_window(size, (kernel[0], kernel[1]))
    # Of each phase as many places, so that the last may go beyond the result.
    taps = [-(-kernel[i] // strides[i]) for i in range(2)]
    places = [-(-(first[i] + result[i]) // strides[i]) for i in range(2)]
    spread = np.zeros((channels, outputs, taps[0] * strides[0], taps[1] * strides[1]), weights.dtype)
    spread[:, :, :kernel[0], :kernel[1]] = _ungroup(
        weights.reshape(group, inner // group, per_group, *kernel).swapaxes(1, 2).reshape(
            outputs, inner // group, *kernel), group).swapaxes(0, 1)
    phases = spread.reshape(channels, outputs, taps[0], strides[0], taps[1], strides[1])[:, :, ::-1, :, ::-1]
    count = strides[0] * strides[1]
    kernels = np.ascontiguousarray(phases.transpose(3, 5, 1, 0, 2, 4)).reshape(count * outputs, channels, *taps)
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    chain.match(node, unsigned)
    y_zero, y_unsigned = node.zero_point(7, "the output's zero point")
    bias = node.constant(8, "the bias") if node.has(8) else np.zeros(outputs, np.int32)
    if bias.dtype != np.int32 or bias.shape != (outputs,):
        raise node.error(f"the bias must be int32 [{outputs}], not {bias.dtype} {list(bias.shape)}")

    def interleave(x: np.ndarray) -> np.ndarray:
        x = x.reshape(len(x), *strides, outputs, *places).transpose(0, 3, 4, 1, 5, 2)
        x = x.reshape(len(x), outputs, places[0] * strides[0], places[1] * strides[1])
        x = x[:, :, first[0]:first[0] + result[0], first[1]:first[1] + result[1]]
        return without_height(x) if flat else x

    chain.append(Layer(
        name=node.name, op=node.op, weights=kernels, bias=_fold(np.tile(bias, count), kernels, x_zero),
        scale=np.tile(_scales(node, outputs), count), x_zero=x_zero, y_zero=y_zero, size=size,
        conv_size=(places[0], places[1]), pads=(taps[0] - 1, taps[1] - 1),
        real_macs=weights.size * size[0] * size[1]), unsigned=y_unsigned, shaper=interleave)


def qlinear_matmul(chain: Chain, node: Node) -> None:
    node.only()
    weights = _weights(node, 2, 1)
    _matmul(chain, node, weights, np.zeros(weights.shape[1], np.int32), output=6)


def qgemm(chain: Chain, node: Node) -> None:
    """ONNX Runtime's matrix product of codes with a bias, in steps of input scale times weight scale."""
    node.only("alpha", "transA", "transB")
    node.one_of("alpha", 1)
    node.one_of("transA", 0)
    transposed = bool(node.attributes.get("transB", 0))
    weights = _weights(node, 2, 1 - transposed)
    if transposed:
        weights = weights.T
    if chain.where.ndim != 2:
        raise node.error(f"takes [N, features], not {chain.where.ndim} dimensions; flatten before it")
    bias = node.constant(6, "the bias") if node.has(6) else np.zeros((), np.int32)
    try:
        bias = np.broadcast_to(bias, (1, weights.shape[1]))[0]
    except ValueError:
        raise node.error(f"the bias must be int32 [{weights.shape[1]}], not {list(bias.shape)}") from None
    if bias.dtype != np.int32:
        raise node.error(f"the bias must be int32, not {bias.dtype}")
    _matmul(chain, node, weights, bias, output=7)


def _matmul(chain: Chain, node: Node, weights: np.ndarray, bias: np.ndarray, output: int) -> None:
    """The product with `weights`, [features, outputs]; input `output` of the node is the result's scale."""
    if chain.where.ndim < 2:
        raise node.error("takes [N, ..., features], not a single dimension")
    features = chain.where.shape[-1]
    if len(weights) != features:
        raise node.error(f"weights {list(weights.shape)} do not fit {features} features")
    outputs = weights.shape[1]
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    chain.match(node, unsigned)
    y_zero, y_unsigned = node.zero_point(output + 1, "the output's zero point")
    scale = _scales(node, outputs, output)
    channels, size, conv_size = features, (1, 1), (1, 1)
    if chain.where.ndim > 2:
        # Each row is a place of its own.
        rows, _ = chain.rows(node)
        size = conv_size = chain.result.layers[-1].out_size if chain.result.layers else (rows, 1)
        kernels = weights.T[:, :, None, None]
    else:
        # Row i of the weights belongs to element where[i] of the last layer's [C, H, W].
        if chain.result.layers:
            channels, size = chain.result.layers[-1].out_channels, chain.result.layers[-1].out_size
            order = np.argsort(chain.where[0])
            if (np.diff(order) != 1).any():
                weights = weights[order]
        kernels = weights.T.reshape(outputs, channels, *size)
    shape = chain.where.shape[1:-1]

    def as_rows(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), outputs, -1).transpose(0, 2, 1).reshape(len(x), *shape, outputs)

    chain.append(Layer(name=node.name, op=node.op, weights=kernels, bias=_fold(bias, kernels, x_zero), scale=scale,
                       x_zero=x_zero, y_zero=y_zero, size=size, conv_size=conv_size,
                       real_macs=weights.size * conv_size[0] * conv_size[1]),
                 unsigned=y_unsigned, shaper=as_rows)


def _weights(node: Node, rank: int, axis: int) -> np.ndarray:
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


def _scales(node: Node, outputs: int, output: int = 6) -> np.ndarray:
    """From accumulators to the output's steps, whose scale is input `output`, one for each of the outputs."""
    w_scale = node.constant(4, "the weights' scale")
    if w_scale.dtype != np.float32 or w_scale.size not in (1, outputs):
        raise node.error(f"the weights' scale must be float32, one or {outputs} numbers, "
                         f"not {w_scale.dtype} {list(w_scale.shape)}")
    with np.errstate(over="ignore"):
        scale = requantize_scale(node.scale(1, "the input's scale"), w_scale.reshape(-1),
                                 node.scale(output, "the output's scale"))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise node.error("input scale * weight scale / output scale must be positive and finite")
    return np.broadcast_to(scale, outputs).astype(np.float32)


def _fold(bias: np.ndarray, weights: np.ndarray, x_zero: int) -> np.ndarray:
    """Bias minus the zero point's share, modulo 2^32 as the accumulators are."""
    total = bias.astype(np.int64) - x_zero * weights.sum((1, 2, 3), np.int64)
    return total.astype(np.int32)


def _ungroup(weights: np.ndarray, group: int) -> np.ndarray:
    """Dense weights with zeros between the groups."""
    if group == 1:
        return weights
    outputs, per_group, *kernel = weights.shape
    dense = np.zeros((outputs, per_group * group, *kernel), weights.dtype)
    for i in range(group):
        rows = slice(i * outputs // group, (i + 1) * outputs // group)
        dense[rows, i * per_group:(i + 1) * per_group] = weights[rows]
    return dense


# What joins the layer before.

def relu(chain: Chain, node: Node) -> None:
    node.only()
    _clamp(chain, node, 0, 255)


def clip(chain: Chain, node: Node) -> None:
    node.only()
    low, high = (node.code(i, what) if node.has(i) else default
                 for i, what, default in ((1, "min", -128), (2, "max", 255)))
    _clamp(chain, node, min(low, high), high)


def max_constant(chain: Chain, node: Node) -> None:
    """Max of the codes and a constant."""
    if len(node.inputs) != 2:
        raise node.error(f"takes two inputs here, not {len(node.inputs)}")
    if node.constant(1, "the constant").ndim > chain.where.ndim:
        raise node.error("its constant must not have more dimensions than its input, or it would add some")
    _clamp(chain, node, node.code(1, "the constant"), 255)


def max_pool(chain: Chain, node: Node) -> None:
    node.only("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides")
    channels, size = chain.image(node)
    kernel, strides, dilations = (node.pair(item) for item in ("kernel_shape", "strides", "dilations"))
    out, pads = node.window(size, kernel, strides, dilations, ceil=bool(node.attributes.get("ceil_mode", 0)))
    for axis in range(2):
        starts = np.arange(out[axis]) * strides[axis] - pads[axis]
        taps = starts[:, None] + np.arange(kernel[axis]) * dilations[axis]
        if not ((taps >= 0) & (taps < size[axis])).any(1).all():
            raise node.error("a window lies in the padding alone; pads must be smaller")
    if not chain.result.layers or chain.result.layers[-1].pool is not None:
        _copy(chain, node, channels, size)
    chain.pool(node, Pool(kernel, strides, dilations, pads, out))


def _clamp(chain: Chain, node: Node, low: int, high: int) -> None:
    """Codes from `low` to `high`, in the model's own numbers."""
    low, high = (item - SHIFT * chain.unsigned for item in (low, high))
    if not chain.result.layers:
        _copy(chain, node, *chain.image(node))
    chain.clamp(node, low, high)


def _copy(chain: Chain, node: Node, channels: int, size: tuple[int, int]) -> None:
    """A layer that multiplies by one, for an operator that has no layer to join."""
    eye = np.eye(channels, dtype=np.int8)[:, :, None, None]
    chain.append(Layer(name=node.name, op="Copy", weights=eye, bias=np.zeros(channels, np.int32),
                       scale=np.ones(channels, np.float32), x_zero=0, y_zero=0, size=size, conv_size=size),
                 unsigned=chain.unsigned, shaper=without_height if chain.where.ndim == 3 else None)
