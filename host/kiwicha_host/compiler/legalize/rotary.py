"""Rotary positions of codes."""

import numpy as np

from ..ir.row_layers import RotaryLayer
from .evaluate import CODES
from .node import Node
from .pooling import ends
from .value import Value, copy_layer, whole_channels

__all__ = ["rotary"]


def rotary(value: Value, node: Node) -> None:
    """RotaryEmbedding of [N, heads, tokens, width], or [N, tokens, heads * width], with constant tables."""
    node.only("heads", "interleaved", "ops", "width")
    x_scale, y_scale, x_zero, y_zero = ends(value, node)
    tables = [node.constant(index, "the table") for index in (5, 6)]
    where = _heads(value, node)
    cos, sin, partners = _factors(node, where.shape, *tables)
    if value.view is None:
        value.by_rows(node)
        where = _heads(value, node)
    assert value.view is not None
    channels, size = value.view.channels, value.view.size
    elements = np.zeros(channels * size[0] * size[1], np.intp)
    if where.size != elements.size:
        raise node.error("takes a part of a feature map only")
    elements[where.reshape(-1)] = where[..., partners].reshape(-1)
    taken = whole_channels(elements.reshape(channels, -1))
    if taken is None:
        raise node.error("the numbers that turn together are at different places")
    factors = []
    with np.errstate(over="ignore"):
        for table in (cos, sin):
            numbers = np.zeros(elements.size, np.float32)
            numbers[where.reshape(-1)] = (np.broadcast_to(table, where.shape) * (
                np.float64(x_scale) / np.float64(y_scale))).astype(np.float32).reshape(-1)
            factors.append(numbers.reshape(channels, -1).T)
    if not np.isfinite(factors).all():
        raise node.error(f"its input's scale, {x_scale}, is too large for its output's, {y_scale}")
    turned = value.graph.new_map(channels, size)
    value.graph.add(copy_layer(node, channels, size, taken), value.view, turned)
    codes = np.zeros(256, np.float32)
    codes[CODES.view(np.uint8)] = CODES.astype(np.float32) - x_zero
    value.through(node, lambda channels, size: RotaryLayer(
        node.name, node.label, channels, size, codes.view(np.int32), y_zero=y_zero, cos=factors[0],
        sin=factors[1]), value.unsigned, turned)


def _heads(value: Value, node: Node) -> np.ndarray:
    """Which element of its feature map each of [heads, tokens, width] is."""
    rank, heads = value.where.ndim, node.attributes["heads"]
    if rank == 4:
        return value.where[0]
    features = value.where.shape[-1]
    if rank != 3 or not heads or features % heads:
        raise node.error(f"takes [N, heads, tokens, width], or [N, tokens, features] of {heads} heads, not "
                         f"{[value.batch or 'N', *value.where.shape[1:]]}")
    return value.where[0].reshape(-1, heads, features // heads).transpose(1, 0, 2)


def _factors(node: Node, shape: tuple[int, ...], cos: np.ndarray, sin: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each number of [tokens, width] is multiplied with, and its partner; and which that is."""
    _, tokens, width = shape
    turning = node.attributes["width"] or width
    half, fits = turning // 2, turning % 2 == 0 and turning <= width
    if not fits or cos.shape != (tokens, half) or sin.shape != cos.shape:
        raise node.error(f"tables {list(cos.shape)} and {list(sin.shape)} do not fit {tokens} tokens of {width}, "
                         f"of which {turning} turn")
    numbers = np.arange(turning)
    if node.attributes["interleaved"]:
        angle, is_first, partner = numbers // 2, numbers % 2 == 0, numbers ^ 1
    else:
        angle, is_first, partner = numbers % half, numbers < half, (numbers + half) % turning
    rest, signs = ((0, 0), (0, width - turning)), np.where(is_first, -1, 1)
    return (np.pad(cos[:, angle], rest, constant_values=1), np.pad(sin[:, angle] * signs, rest),
            np.concatenate([partner, np.arange(turning, width)]))
