"""A tensor as the operators that take it see it: where its elements are, and what they stand for."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import prod
from typing import Any

import numpy as np

from ..errors import CompileError
from ..ir.layers import (
    HostFunction,
    Input,
    Layer,
    LayerGraph,
    Pool,
    RowLayer,
    VectorLayer,
    View,
)
from ..ir.number_layers import NO_TABLE, NumberLayer
from .node import Node

__all__ = ["LARGEST", "Value", "as_rows", "copy_layer", "number_copy", "whole_channels", "without_height"]

#: Elements of one image, for which a table is made.
LARGEST = 1 << 28
#: Each code as it is.
_COPY = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int32)


@dataclass
class Value:
    """A tensor of a model whose layers are being found.

    Attributes
    ----------
    graph : the layers so far
    source : the input that it comes from, with what the host did to that before it became codes of a layer
    batch : number of images, 0 if any
    quantized : the tensor is of codes, or was before a DequantizeLinear
    unsigned : its codes are uint8 in the model
    dequantized : a DequantizeLinear came before
    view : where the codes of a layer are; None while the tensor is made of the input by the host alone
    layers : the numbers of the layers that made exactly these codes; none if others did too
    alone : nothing else takes them
    where : [1, ...], which element of the view, as [channels, height, width], or of the input each element is, for
        one image
    shapers : what the model does since the layer, or since the input
    moves : those of `shapers` that came before a DequantizeLinear
    decoded : the type of what the host makes of the view, if no layer can take that
    element : of the view: "int8" for codes, "float32" for numbers, "int32" for a product's sums
    table : what its codes stand for since a DequantizeLinear, float32 by `code & 255`
    """
    graph: LayerGraph
    source: Input
    batch: int
    quantized: bool
    unsigned: bool
    dequantized: bool = False
    view: View | None = None
    layers: tuple[int, ...] = ()
    alone: bool = False
    where: np.ndarray = field(init=False)
    shapers: list[HostFunction] = field(default_factory=list)
    moves: tuple[HostFunction, ...] = ()
    decoded: np.dtype | None = None
    element: str = "int8"
    table: np.ndarray = field(default_factory=lambda: NO_TABLE)

    def __post_init__(self) -> None:
        shape = self.source.shape
        self.where = np.arange(int(np.prod(shape))).reshape(1, *shape)

    def copy(self) -> "Value":
        """A value that can go on without this one."""
        twin = replace(self, shapers=list(self.shapers))
        twin.where = self.where
        return twin

    def match(self, node: Node, unsigned: bool) -> None:
        """Refuse a zero point of another type than the tensor's."""
        if unsigned != self.unsigned:
            names = ("int8", "uint8")
            raise node.error(f"its input is {names[self.unsigned]}, its zero point {names[unsigned]}")

    def shape_with(self, node: Node, shaper: HostFunction) -> None:
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

        What came since the layer must move nothing, but may change the order of channels: a copy does.
        """
        if self.where.ndim not in (3, 4):
            raise node.error(f"takes [N, channels, height, width] or [N, channels, width], not {self.where.ndim} "
                             "dimensions")
        _, channels, *sizes = self.where.shape
        size = (sizes[0] if len(sizes) > 1 else 1), sizes[-1]
        self._order_channels(node, channels, size)
        self._stays(node, channels, size, self.where)
        return channels, size

    def _order_channels(self, node: Node, channels: int, size: tuple[int, int]) -> None:
        """If channels are all that has changed places, the tensor is a copy of the layer's result, if of codes."""
        if self.view is None or self.element != "int8" or (channels, size) != (self.view.channels, self.view.size):
            return
        taken = whole_channels(self.where.reshape(channels, -1))
        if taken is None or (taken == np.arange(channels)).all():
            return
        target, shape = self.graph.new_map(channels, size), self.where.shape[1:]
        number = self.graph.add(copy_layer(node, channels, size, taken), self.view, target)
        self.is_at(target, self.unsigned, lambda x: x.reshape(len(x), *shape), (number,))

    def last_axis(self, node: Node) -> tuple[int, tuple[int, ...]]:
        """Features of the tensor, [N, ..., features], and what is between; `axis` must be the last."""
        rank, axis = self.where.ndim, node.attributes["axis"]
        if rank < 2 or axis not in (-1, rank - 1):
            raise node.error(f"takes the last of several axes, not {axis} of {rank}")
        return self.where.shape[-1], self.where.shape[1:-1]

    def rows(self, node: Node) -> tuple[tuple[int, int], int]:
        """Places and features of the tensor, [N, ..., features]; its features must be the view's channels."""
        features = self.where.shape[-1]
        count = self.where.size // max(1, features)
        if self.view is not None:
            self._stays(node, features, self.view.size, self.where.reshape(count, features).T)
            return self.view.size, features
        self.shapers.append(_features_first(features))
        return (count, 1), features

    def by_rows(self, node: Node) -> None:
        """Arrange a tensor that the host makes, [N, ..., features], so that each row is a place."""
        if self.view is None and self.where.ndim > 2:
            shape, unsigned = self.where.shape[1:-1], self.unsigned
            size, features = self.rows(node)
            self.is_at(self.placed(features, size), unsigned, as_rows(shape, features))

    def _stays(self, node: Node, channels: int, size: tuple[int, ...], where: np.ndarray) -> None:
        """Refuse a tensor of which `where` does not say that it is the layer's result, as that has it."""
        if self.view is not None and ((channels, *size) != (self.view.channels, *self.view.size)
                                      or (where.reshape(-1) != np.arange(where.size)).any()):
            raise node.error("a reshape or transpose before it moves elements between channels and places, "
                             "which is not supported between layers")

    def placed(self, channels: int, size: tuple[int, int]) -> View:
        """Where the codes are; those of an input become a feature map of that form now."""
        if self.view is not None:
            return self.view
        before = (*self.source.before, *self.shapers)
        for known in self.graph.inputs:
            there = self.graph.maps[known.map]
            if (known.name, known.before) == (self.source.name, before) and (
                    there.channels, there.size) == (channels, size):
                return self.graph.whole(known.map)
        view = self.graph.new_map(channels, size)
        self.graph.inputs.append(replace(self.source, before=before, map=view.map))
        return view

    def append(self, layer: Layer | VectorLayer, unsigned: bool, shaper: HostFunction | None = None,
               second: View | None = None) -> None:
        """The tensor is the result of a new `layer`, [N, C, H, W], or what `shaper` makes of that."""
        source = self.placed(layer.channels, layer.size)
        self.view = self.graph.new_map(layer.out_channels, layer.out_size, layer.element)
        self.element, self.quantized = layer.element, layer.element == "int8"
        self.layers, self.alone = (self.graph.add(layer, source, self.view, second),), True
        self._settle(shaper)
        self.unsigned = unsigned

    @property
    def order(self) -> np.ndarray:
        """`where`, once a tensor that the host makes is in memory, where it is in order."""
        return self.where if self.view is not None else np.arange(self.where.size).reshape(self.where.shape)

    def form(self, node: Node) -> tuple[int, tuple[int, int]]:
        """Channels and size of the feature map that has its elements."""
        if self.view is not None:
            return self.view.channels, self.view.size
        return (self.where.shape[1], (1, 1)) if self.where.ndim == 2 else self.image(node)

    def through(self, node: Node, layer: Callable[[int, tuple[int, int]], Layer | VectorLayer], unsigned: bool,
                second: View | None = None) -> None:
        """The tensor is what a new layer makes of each of its elements, where that is.

        `layer` takes channels and size of the feature map.
        """
        where, shapers, shape = self.order, self.shapers, self.where.shape[1:]
        if self.view is None:
            shapers = [lambda x: x.reshape(len(x), *shape)]
        self.append(layer(*self.form(node)), unsigned, second=second)
        self.where, self.shapers = where, shapers

    def is_at(self, view: View, unsigned: bool, shaper: HostFunction | None = None,
              layers: tuple[int, ...] = ()) -> None:
        """The tensor is what is in `view`, or what `shaper` makes of that; `layers` made all of it, or none."""
        self.view, self.layers, self.alone = view, layers, bool(layers)
        self.unsigned, self.element = unsigned, self.graph.maps[view.map].element
        self.quantized = self.element == "int8"
        self.where = np.arange(view.channels * prod(view.size)).reshape(1, view.channels, *view.size)
        self.shapers = [] if shaper is None else [shaper]
        self.where = self.where if shaper is None else shaper(self.where)

    def clamp(self, node: Node, low: float, high: float) -> None:
        """Codes or numbers from `low` to `high`."""
        if not self.joinable:
            self.duplicate(node)
        first, last = (min(max(item, low), high) for item in self.graph.layers[self.layers[0]].clamp)
        self._join(node, clamp=(first, last))

    def pool(self, node: Node, pool: Pool, shaper: HostFunction | None) -> None:
        """The tensor is what `node` pools from it, [N, C, H, W], or what `shaper` makes of that."""
        if not self.joinable or len(self.layers) > 1 or not _may_pool(self.graph.layers[self.layers[0]]):
            self.duplicate(node)
        self._join(node, pool=pool)
        self._settle(shaper)

    @property
    def joinable(self) -> bool:
        """Whether an operator may become part of the layers that made these codes."""
        return self.alone and bool(self.layers)

    def becomes(self, element: str, **changes: Any) -> None:
        """The results of the layers that made it are of that element, if `changes` say no more without limits."""
        assert self.view is not None
        for number in self.layers:
            self.graph.layers[number] = replace(self.graph.layers[number], **{
                "element": element, "clamp": (-np.inf, np.inf)} | changes)
        number = self.view.map
        self.graph.maps[number] = replace(self.graph.maps[number], element=element)
        self.element, self.quantized, self.unsigned = element, element == "int8", False

    def operand(self) -> "Value":
        """What a layer takes for it: the codes whose numbers it is, or itself."""
        twin = self.copy()
        if self.dequantized:
            twin.shapers, twin.dequantized = [*self.moves, *self.shapers[1:]], False
        return twin

    def duplicate(self, node: Node) -> None:
        """A layer that copies, for an operator that has none to join."""
        if self.element == "float32":
            self.through(node, partial(number_copy, node), False)
            return
        self.through(node, lambda channels, size: VectorLayer(node.name, "Copy", channels, size, _COPY),
                     self.unsigned)

    def _join(self, node: Node, **changes: Any) -> None:
        for number in self.layers:
            layer = self.graph.layers[number]
            self.graph.layers[number] = replace(layer, op=f"{layer.op}+{node.op}", **changes)

    def _settle(self, shaper: HostFunction | None) -> None:
        """The layer's result, or what `shaper` makes of it, is the tensor that the next node takes."""
        assert self.view is not None
        [own] = self.layers
        layer = self.graph.layers[own]
        sizes = [layer.out_channels * prod(layer.out_size)]
        if isinstance(layer, Layer):
            sizes += [prod(layer.conv_size), *layer.pads]
        most = max(sizes)
        if most > LARGEST:
            raise CompileError(f"layer {layer.name!r}: {most} elements, places or lines of padding are more than "
                               f"{LARGEST}")
        number = self.view.map
        self.graph.maps[number] = replace(self.graph.maps[number], size=layer.out_size)
        self.view = self.graph.targets[own] = self.graph.whole(number)
        self.where = np.arange(self.graph.maps[number].elements).reshape(1, layer.out_channels, *layer.out_size)
        self.shapers = []
        if shaper is not None:
            self.where = shaper(self.where)
            self.shapers = [shaper]


def _may_pool(layer: Layer | VectorLayer) -> bool:
    """Whether a window may become part of it."""
    return layer.pool is None and not isinstance(layer, RowLayer) and not (
        isinstance(layer, VectorLayer) and layer.has_second)


def whole_channels(where: np.ndarray) -> np.ndarray | None:
    """Which channels of a feature map the rows of `where` are, if each is all places of one, in order."""
    taken, rest = np.divmod(where, where.shape[1])
    whole = (taken == taken[:, :1]).all() and (rest == np.arange(where.shape[1])).all()
    return taken[:, 0] if whole else None


def as_rows(shape: tuple[int, ...], outputs: int) -> HostFunction:
    """[N, outputs, H, W] as [N, *shape, outputs]."""
    return lambda x: x.reshape(len(x), outputs, -1).transpose(0, 2, 1).reshape(len(x), *shape, outputs)


@cache
def _features_first(features: int) -> HostFunction:
    """The same function for the same number: what is moved in the same way is the same."""
    return lambda x: x.reshape(len(x), -1, features).transpose(0, 2, 1)


def copy_layer(node: Node, channels: int, size: tuple[int, int], taken: np.ndarray | None = None, **changes: Any
               ) -> Layer:
    """A layer that multiplies by one, with `changes`; of the channels `taken`, in that order, or of all."""
    eye = np.eye(channels, dtype=np.int8)[slice(None) if taken is None else taken][:, :, None, None]
    layer = Layer(name=node.name, op="Copy", weights=eye, bias=np.zeros(len(eye), np.int32),
                  scale=np.ones(len(eye), np.float32), x_zero=0, y_zero=0, size=size, conv_size=size)
    return replace(layer, **changes)


def number_copy(node: Node, channels: int, size: tuple[int, int]) -> NumberLayer:
    """A layer that leaves numbers as they are."""
    return NumberLayer(node.name, "Copy", channels, size, NO_TABLE, clamp=(-np.inf, np.inf), element="float32")


def without_height(x: np.ndarray) -> np.ndarray:
    """[N, C, 1, W] as [N, C, W]."""
    return x.reshape(len(x), x.shape[1], -1)
