"""The chain of layers as far as it has been read, which each operator adds to."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...ir.layers import Layer, LayerChain, Pool, Step
from .node import Node

__all__ = ["Chain"]


@dataclass
class Chain:
    """The layers so far, and the tensor that the next node takes.

    Attributes
    ----------
    result : the layers so far, with the input's shape and type
    last : name of the tensor
    batch : number of images, 0 if any
    quantized : the tensor is of codes, or was before a DequantizeLinear
    unsigned : its codes are uint8 in the model
    dequantized : a DequantizeLinear came before
    where : [1, ...], which element of the last layer's result (or of the input) each element is, for one image
    shapers : what the model does since the last layer
    """
    result: LayerChain
    last: str
    batch: int
    quantized: bool
    unsigned: bool
    dequantized: bool = False
    where: np.ndarray = field(init=False)
    shapers: list[Step] = field(init=False)

    def __post_init__(self) -> None:
        self._restart(self.result.input_shape)

    def _restart(self, shape: tuple[int, ...]) -> None:
        self.where = np.arange(int(np.prod(shape))).reshape(1, *shape)
        self.shapers = []

    def match(self, node: Node, unsigned: bool) -> None:
        """Refuse a zero point of another type than the tensor's."""
        if unsigned != self.unsigned:
            names = ("int8", "uint8")
            raise node.error(f"its input is {names[self.unsigned]}, its zero point {names[unsigned]}")

    def shape_with(self, node: Node, shaper: Step) -> None:
        """The tensor is what `shaper` makes of it."""
        try:
            self.where = shaper(self.where)
        except ValueError:
            raise node.error(f"does not fit a tensor of shape {[self.batch or 'N', *self.where.shape[1:]]}"
                             ) from None
        if len(self.where) != 1:
            raise node.error("must leave the batch, the first dimension, alone")
        self.shapers.append(shaper)

    def image(self, node: Node) -> tuple[int, tuple[int, int]]:
        """Channels and size of the tensor as [N, C, H, W]; what came since the last layer must move nothing."""
        if self.where.ndim != 4:
            raise node.error(f"takes [N, channels, height, width], not {self.where.ndim} dimensions")
        _, channels, *size = self.where.shape
        if self.result.layers:
            before = self.result.layers[-1]
            if ((channels, *size) != (before.out_channels, *before.out_size)
                    or (self.where.reshape(-1) != np.arange(self.where.size)).any()):
                raise node.error("a reshape or transpose before it moves elements between channels and places, "
                                 "which is not supported between layers")
        return channels, (size[0], size[1])

    def append(self, layer: Layer, flat: bool, unsigned: bool) -> None:
        """The tensor is the result of a new `layer`; if `flat`, without height and width."""
        if not self.result.layers:
            self.result.before += self.shapers
        self.result.layers.append(layer)
        self._settle(flat)
        self.unsigned = unsigned

    def clamp(self, node: Node, low: int, high: int) -> None:
        """The last layer's results are limited, by `node`, to codes from `low` to `high`."""
        first, last = (min(max(item, low), high) for item in self.result.layers[-1].clamp)
        self._join(node, clamp=(first, last))

    def pool(self, node: Node, pool: Pool) -> None:
        """The tensor is what `node` pools from the last layer's results."""
        self._join(node, pool=pool)
        self._settle(flat=False)

    def _join(self, node: Node, **changes: Any) -> None:
        layer = self.result.layers[-1]
        self.result.layers[-1] = replace(layer, op=f"{layer.op}+{node.op}", **changes)

    def _settle(self, flat: bool) -> None:
        """The last layer's result is the tensor that the next node takes."""
        layer = self.result.layers[-1]
        self._restart((layer.out_channels,) if flat else (layer.out_channels, *layer.out_size))
        self.result.flat = flat
