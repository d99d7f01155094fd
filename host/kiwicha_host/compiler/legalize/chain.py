"""The chain of layers as far as it has been read, which each operator adds to."""

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from ..errors import CompileError
from ..ir.layers import Layer, LayerChain, Pool, Step
from .node import Node

__all__ = ["Chain", "LARGEST", "without_height"]

#: Elements of one image, for which a table is made.
LARGEST = 1 << 28


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
        shape = self.result.input_shape
        self.where = np.arange(int(np.prod(shape))).reshape(1, *shape)
        self.shapers = []

    def copy(self) -> "Chain":
        """A chain that can go on without this one."""
        old = self.result
        result = replace(old, layers=list(old.layers), before=list(old.before), shapers=list(old.shapers),
                         after=list(old.after))
        twin = replace(self, result=result)
        twin.where, twin.shapers = self.where, list(self.shapers)
        return twin

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
        """Channels and size of the tensor as [N, C, H, W], or [N, C, W], which has the height 1.

        What came since the last layer must move nothing.
        """
        if self.where.ndim not in (3, 4):
            raise node.error(f"takes [N, channels, height, width] or [N, channels, width], not {self.where.ndim} "
                             "dimensions")
        _, channels, *sizes = self.where.shape
        size = (sizes[0] if len(sizes) > 1 else 1), sizes[-1]
        self._stays(node, channels, size, self.where)
        return channels, size

    def rows(self, node: Node) -> tuple[int, int]:
        """Rows and features of the tensor, [N, ..., features]; its features must be the last layer's channels."""
        features = self.where.shape[-1]
        count = self.where.size // max(1, features)
        if self.result.layers:
            self._stays(node, features, self.result.layers[-1].out_size, self.where.reshape(count, features).T)
        else:
            self.shapers.append(lambda x: x.reshape(len(x), -1, features).transpose(0, 2, 1))
        return count, features

    def _stays(self, node: Node, channels: int, size: tuple[int, ...], where: np.ndarray) -> None:
        """Refuse a tensor of which `where` does not say that it is the last layer's result, as that has it."""
        if self.result.layers:
            before = self.result.layers[-1]
            if ((channels, *size) != (before.out_channels, *before.out_size)
                    or (where.reshape(-1) != np.arange(where.size)).any()):
                raise node.error("a reshape or transpose before it moves elements between channels and places, "
                                 "which is not supported between layers")

    def append(self, layer: Layer, unsigned: bool, shaper: Step | None = None) -> None:
        """The tensor is the result of a new `layer`, [N, C, H, W], or what `shaper` makes of that."""
        if not self.result.layers:
            self.result.before += self.shapers
        self.result.layers.append(layer)
        self._settle(shaper)
        self.unsigned = unsigned

    def clamp(self, node: Node, low: int, high: int) -> None:
        """The last layer's results are limited, by `node`, to codes from `low` to `high`."""
        first, last = (min(max(item, low), high) for item in self.result.layers[-1].clamp)
        self._join(node, clamp=(first, last))

    def pool(self, node: Node, pool: Pool) -> None:
        """The tensor is what `node` pools from the last layer's results."""
        flat = self.where.ndim == 3
        self._join(node, pool=pool)
        self._settle(without_height if flat else None)

    def _join(self, node: Node, **changes: Any) -> None:
        layer = self.result.layers[-1]
        self.result.layers[-1] = replace(layer, op=f"{layer.op}+{node.op}", **changes)

    def _settle(self, shaper: Step | None) -> None:
        """The last layer's result, or what `shaper` makes of it, is the tensor that the next node takes."""
        layer = self.result.layers[-1]
        shape = layer.out_channels, *layer.out_size
        most = max(prod(shape), prod(layer.conv_size), *layer.pads)
        if most > LARGEST:
            raise CompileError(f"layer {layer.name!r}: {most} elements, places or lines of padding are more than "
                               f"{LARGEST}")
        self.where, self.shapers = np.arange(int(np.prod(shape))).reshape(1, *shape), []
        if shaper is not None:
            self.where = shaper(self.where)
            self.shapers = [shaper]


def without_height(x: np.ndarray) -> np.ndarray:
    """[N, C, 1, W] as [N, C, W]."""
    return x.reshape(len(x), x.shape[1], -1)
