"""Convolutions."""

import numpy as np

from ..ir.layers import Layer
from .chain import Chain, without_height
from .constants import bias_of, folded_bias, scales_of, ungrouped, weights_of
from .node import Node

__all__ = ["qlinear_conv", "qlinear_conv_transpose"]


def qlinear_conv(chain: Chain, node: Node) -> None:
    node.only("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    channels, size = chain.image(node)
    flat = chain.where.ndim == 3
    weights = weights_of(node, chain.where.ndim, 0)
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
    bias = bias_of(node, 8, outputs)
    strides, dilations = node.pair("strides"), node.pair("dilations")
    conv_size, pads = node.window(size, tuple(kernel), strides, dilations)
    scale = scales_of(node, outputs)
    real_macs = weights.size * conv_size[0] * conv_size[1]
    weights = ungrouped(weights, group)
    chain.append(Layer(
        name=node.name, op=node.op, weights=weights, bias=folded_bias(bias, weights, x_zero), scale=scale,
        x_zero=x_zero, y_zero=y_zero, size=size, conv_size=conv_size, strides=strides, dilations=dilations,
        pads=pads, real_macs=real_macs), unsigned=y_unsigned, shaper=without_height if flat else None)


def qlinear_conv_transpose(chain: Chain, node: Node) -> None:
    """Each of the strides' phases is a convolution, of every so many taps; all of them are one, with an output
    channel for each channel and phase, whose results the host interleaves."""
    node.only("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "pads", "strides")
    channels, size = chain.image(node)
    flat, group = chain.where.ndim == 3, node.attributes.get("group", 1)
    weights = weights_of(node, chain.where.ndim, 1)
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
    spread[:, :, :kernel[0], :kernel[1]] = ungrouped(
        weights.reshape(group, inner // group, per_group, *kernel).swapaxes(1, 2).reshape(
            outputs, inner // group, *kernel), group).swapaxes(0, 1)
    phases = spread.reshape(channels, outputs, taps[0], strides[0], taps[1], strides[1])[:, :, ::-1, :, ::-1]
    count = strides[0] * strides[1]
    kernels = np.ascontiguousarray(phases.transpose(3, 5, 1, 0, 2, 4)).reshape(count * outputs, channels, *taps)
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    chain.match(node, unsigned)
    y_zero, y_unsigned = node.zero_point(7, "the output's zero point")
    bias = bias_of(node, 8, outputs)

    def interleave(x: np.ndarray) -> np.ndarray:
        x = x.reshape(len(x), *strides, outputs, *places).transpose(0, 3, 4, 1, 5, 2)
        x = x.reshape(len(x), outputs, places[0] * strides[0], places[1] * strides[1])
        x = x[:, :, first[0]:first[0] + result[0], first[1]:first[1] + result[1]]
        return without_height(x) if flat else x

    chain.append(Layer(
        name=node.name, op=node.op, weights=kernels, bias=folded_bias(np.tile(bias, count), kernels, x_zero),
        scale=np.tile(scales_of(node, outputs), count), x_zero=x_zero, y_zero=y_zero, size=size,
        conv_size=(places[0], places[1]), pads=(taps[0] - 1, taps[1] - 1),
        real_macs=weights.size * size[0] * size[1]), unsigned=y_unsigned, shaper=interleave)
