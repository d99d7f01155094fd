"""What joins the layer before it: limits and pooling."""

import numpy as np

from ..ir.layers import SHIFT, Layer, Pool
from .chain import Chain, without_height
from .node import Node

__all__ = ["clip", "max_constant", "max_pool", "relu"]


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
