"""Convolutions."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..ir.layers import Layer, View
from .constants import bias_of, folded_bias, scales_of, ungrouped, weights_of
from .node import Node
from .value import Value, without_height

__all__ = ["qlinear_conv", "qlinear_conv_transpose"]


def qlinear_conv(value: Value, node: Node) -> None:
    node.only("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    channels, size = value.image(node)
    flat = value.where.ndim == 3
    weights = weights_of(node, value.where.ndim, 0)
    if flat:
        weights = weights[:, :, None]
    outputs, per_group, *kernel = weights.shape
    group = node.attributes.get("group", 1)
    if per_group * group != channels or outputs % group:
        raise node.error(f"weights {list(weights.shape)} in {group} groups do not fit {channels} channels")
    if node.pair("kernel_shape", tuple(kernel)) != tuple(kernel):
        raise node.error(f"kernel_shape must be that of the weights, {kernel}")
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    value.match(node, unsigned)
    y_zero, y_unsigned = node.zero_point(7, "the output's zero point")
    bias = bias_of(node, 8, outputs)
    strides, dilations = node.pair("strides"), node.pair("dilations")
    conv_size, pads = node.window(size, tuple(kernel), strides, dilations)
    scale = scales_of(node, outputs)
    real_macs = weights.size * conv_size[0] * conv_size[1]
    weights = ungrouped(weights, group)
    value.append(Layer(
        name=node.name, op=node.label, weights=weights, bias=folded_bias(bias, weights, x_zero), scale=scale,
        x_zero=x_zero, y_zero=y_zero, size=size, conv_size=conv_size, strides=strides, dilations=dilations,
        pads=pads, real_macs=real_macs), unsigned=y_unsigned, shaper=without_height if flat else None)


def qlinear_conv_transpose(value: Value, node: Node) -> None:
    """Each of the strides' phases is a convolution, of every so many taps, whose results are as far apart."""
    node.only("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "pads", "strides")
    channels, size = value.image(node)
    flat, group = value.where.ndim == 3, node.attributes.get("group", 1)
    weights = weights_of(node, value.where.ndim, 1)
    weights = weights[:, :, None] if flat else weights
    if len(weights) != channels or channels % group:
        raise node.error(f"weights {list(weights.shape)} in {group} groups do not fit {channels} channels")
    inner, per_group, *kernel = weights.shape
    outputs, strides = per_group * group, node.pair("strides")
    if node.pair("kernel_shape", tuple(kernel)) != tuple(kernel):
        raise node.error(f"kernel_shape must be that of the weights, {kernel}")
    first, result = node.transposed_window(size, (kernel[0], kernel[1]))
    dense = ungrouped(weights.reshape(group, inner // group, per_group, *kernel).swapaxes(1, 2).reshape(
        outputs, inner // group, *kernel), group)
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    value.match(node, unsigned)
    y_zero, y_unsigned = node.zero_point(7, "the output's zero point")
    bias, scale = bias_of(node, 8, outputs), scales_of(node, outputs)
    source, target = value.placed(channels, size), value.graph.new_map(outputs, (result[0], result[1]))
    layers: list[int] = []
    for y, x in product(*(_phases(size[i], kernel[i], strides[i], first[i], result[i]) for i in range(2))):
        # Of the phase's taps the last comes first, as a convolution's do.
        taps = dense[:, :, y.phase::strides[0], x.phase::strides[1]][:, :, ::-1, ::-1]
        taps = np.ascontiguousarray(taps) if taps.size else np.zeros((outputs, channels, 1, 1), dense.dtype)
        layers.append(value.graph.add(
            Layer(name=node.name, op=node.label, weights=taps, bias=folded_bias(bias, taps, x_zero), scale=scale,
                  x_zero=x_zero, y_zero=y_zero, size=(y.size, x.size), conv_size=(y.count, x.count),
                  pads=(y.pad, x.pad), real_macs=0 if layers else weights.size * size[0] * size[1]),
            View(0, channels, (y.size, x.size), origin=(y.skipped, x.skipped)).of(source),
            View(0, outputs, (y.count, x.count), origin=(y.start, x.start), step=strides).of(target)))
    value.is_at(target, y_unsigned, without_height if flat else None, tuple(layers))


@dataclass(frozen=True)
class _Phase:
    """Along one axis, the results `start`, `start` + stride ...: `count` places of a convolution.

    Its input are `size` places after the `skipped` first, with a padding of `pad` before them.
    """
    phase: int
    start: int
    count: int
    skipped: int
    size: int
    pad: int


def _phases(size: int, kernel: int, stride: int, first: int, result: int) -> Iterator[_Phase]:
    """Those of which there are results: `result` of them, after the `first`, which are cut off."""
    for phase in range(stride):
        taps = max(1, -(-(kernel - phase) // stride))
        # Result p * stride + phase - first, from place p, takes the inputs up to p.
        place = max(0, -(-(first - phase) // stride))
        start = place * stride + phase - first
        count, skipped = -(-(result - start) // stride), max(0, place - (taps - 1))
        if count > 0:
            yield _Phase(phase, start, count, skipped, size - skipped, max(0, taps - 1 - place))
