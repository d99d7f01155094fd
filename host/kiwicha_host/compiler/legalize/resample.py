"""What puts each place of an image to several, or several places into channels: copies with strides."""

from itertools import product

import numpy as np

from ..ir.layers import View
from .node import Node
from .value import Value, copy_layer, number_copy

__all__ = ["depth_to_space", "resize", "space_to_depth"]


def resize(value: Value, node: Node) -> None:
    """Resize to the nearest places, by whole factors."""
    node.only("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside",
              "extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode")
    if node.attributes.get("mode", "nearest") != "nearest":
        raise node.error("mode must be nearest")
    channels, size = value.image(node)
    if value.where.ndim != 4:
        raise node.error("takes [N, channels, height, width]")
    factors = _factors(node, (value.batch, channels, *size))
    if factors[:2] != [1, 1] or any(item != int(item) or item < 1 for item in factors):
        raise node.error(f"must enlarge height and width by whole factors, and nothing else, not {factors}")
    factors = factors[2:]
    height, width = int(factors[0]), int(factors[1])
    for count, factor in zip(size, (height, width), strict=True):
        if (_nearest(node, count, factor) != np.arange(count * factor) // factor).any():
            raise node.error("places are not repeated in equal numbers by coordinate_transformation_mode and "
                             "nearest_mode")
    source, copy = value.placed(channels, size), number_copy if value.element == "float32" else copy_layer
    target = value.graph.new_map(channels, (size[0] * height, size[1] * width), value.element)
    value.is_at(target, value.unsigned, layers=tuple(
        value.graph.add(copy(node, channels, size), source,
                        View(0, channels, size, origin=phase, step=(height, width)).of(target))
        for phase in product(range(height), range(width))))


def _factors(node: Node, shape: tuple[int, ...]) -> list[float]:
    """By which each of the four dimensions grows, of which the first is 0 for any number of images."""
    axes = [axis % 4 for axis in node.attributes.get("axes", range(4))]
    given = node.integers(3, "the sizes") if node.has(3) else [
        float(item) for item in node.constant(2, "the scales").reshape(-1)]
    if len(given) != len(axes):
        raise node.error(f"has {len(given)} sizes or scales for {len(axes)} axes")
    if node.has(3) and node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.error("keep_aspect_ratio_policy must be 'stretch'")
    factors = [1.0] * 4
    for axis, item in zip(axes, given, strict=True):
        if node.has(3) and not shape[axis]:
            raise node.error(f"its sizes say {item} images, where the model takes any number: give that dimension "
                             f"its size, for instance --dim N={item}")
        factors[axis] = item / shape[axis] if node.has(3) else item
    return factors


def _nearest(node: Node, count: int, factor: int) -> np.ndarray:
    """Which place each of the new ones comes from, by ONNX's definition of Resize."""
    places, size = np.arange(count * factor), count * factor
    mode = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        at = places / factor
    elif mode in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"):
        at = (places + 0.5) / factor - 0.5 if mode != "pytorch_half_pixel" or size > 1 else np.zeros(1)
    elif mode == "align_corners":
        at = places * (count - 1) / (size - 1) if size > 1 else np.zeros(1)
    else:
        raise node.error(f"coordinate_transformation_mode {mode!r} is not supported")
    rounded = {"round_prefer_floor": np.ceil(at - 0.5), "round_prefer_ceil": np.floor(at + 0.5),
               "floor": np.floor(at), "ceil": np.ceil(at)}
    rule = node.attributes.get("nearest_mode", "round_prefer_floor")
    if rule not in rounded:
        raise node.error(f"nearest_mode {rule!r} does not exist")
    return np.clip(rounded[rule], 0, count - 1)


def depth_to_space(value: Value, node: Node) -> None:
    """Channels to places."""
    node.only("blocksize", "mode")
    block, order = node.attributes.get("blocksize", 0), node.attributes.get("mode", "DCR")
    channels, size = value.image(node)
    if value.where.ndim != 4 or block < 1 or channels % block ** 2 or order not in ("DCR", "CRD"):
        raise node.error(f"blocksize {block} and mode {order!r} do not fit {channels} channels")
    outputs = channels // block ** 2
    numbers = np.arange(channels).reshape((block, block, outputs) if order == "DCR" else (outputs, block, block))
    if order == "CRD":
        numbers = numbers.transpose(1, 2, 0)
    source = value.placed(channels, size)
    target = value.graph.new_map(outputs, (size[0] * block, size[1] * block))
    layers = []
    for y, x in product(range(block), range(block)):
        layer = copy_layer(node, channels, size, numbers[y, x])
        layers.append(value.graph.add(layer, source, View(
            0, outputs, size, origin=(y, x), step=(block, block)).of(target)))
    value.is_at(target, value.unsigned, layers=tuple(layers))


def space_to_depth(value: Value, node: Node) -> None:
    """Places to channels."""
    node.only("blocksize")
    block = node.attributes.get("blocksize", 0)
    channels, size = value.image(node)
    if value.where.ndim != 4 or block < 1 or size[0] % block or size[1] % block:
        raise node.error(f"blocksize {block} does not fit {size[0]}x{size[1]} places")
    small = size[0] // block, size[1] // block
    source = value.placed(channels, size)
    target = value.graph.new_map(channels * block ** 2, small)
    layers = []
    for number, phase in enumerate(product(range(block), range(block))):
        layers.append(value.graph.add(
            copy_layer(node, channels, small),
            View(0, channels, small, origin=phase, step=(block, block)).of(source),
            View(0, channels, small, channel=number * channels).of(target)))
    value.is_at(target, value.unsigned, layers=tuple(layers))
