"""A network as layers, which are all that the chip's programs know, and the feature maps between them."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np

from kiwicha.isa import OperandUse, Reduce

from ... import arguments
from ..errors import CompileError

__all__ = ["FeatureMap", "Input", "Layer", "LayerCheck", "LayerGraph", "Output", "Pool", "RowLayer", "SHIFT",
           "HostFunction", "VectorLayer", "View"]

#: Codes are int8 on the chip; those of uint8 tensors are shifted by so much.
SHIFT = 128
#: What the host does to a batch; the first dimension is the batch.
HostFunction = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pool:
    """A max-pooling window, (y, x) each; padding counts as minus infinity."""
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]       # top, left
    size: tuple[int, int]       # of the result


@dataclass(frozen=True)
class Layer:
    """One convolution with its epilogue; all pairs are (y, x).

    Parameters
    ----------
    name, op : of the first ONNX node, and of all that were fused
    weights : int8 or int16 [out channels, channels, kernel y, kernel x]
    bias : int32 [out channels], with the input's zero point already in it
    scale : float32 [out channels], from accumulators to the output's steps
    x_zero, y_zero : zero points; x_zero is also the padding
    size : of the input
    conv_size : of the result before pooling
    clamp : lowest and highest output code, or number
    real_macs : multiply-accumulates per image that the model asks for
    element : of the result, by NumPy's name: "int8" codes; "int32", accumulators plus bias; or "float32", these
        times `scale`
    """
    name: str
    op: str
    weights: np.ndarray
    bias: np.ndarray
    scale: np.ndarray
    x_zero: int
    y_zero: int
    size: tuple[int, int]
    conv_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)      # top, left
    clamp: tuple[float, float] = (-128, 127)
    pool: Pool | None = None
    real_macs: int = 0
    element: str = "int8"

    @property
    def channels(self) -> int:
        return self.weights.shape[1]

    @property
    def out_channels(self) -> int:
        return self.weights.shape[0]

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weights.shape[2:]

    @property
    def out_size(self) -> tuple[int, int]:
        return self.pool.size if self.pool else self.conv_size


@dataclass(frozen=True)
class VectorLayer:
    """What the vector unit does to feature maps without a product: sums, factors, functions of codes, pooling.

    A result is (A over the window, reduced, plus B) times a factor, or times B; rounded, plus the zero point,
    clamped. A and B are what the tables have for the codes: word number `code & 255`. B is a second feature map of
    as many channels; along each axis it is as large as A or has one place that counts for all. It goes with layers
    without a window.

    Parameters
    ----------
    name, op : of the first ONNX node, and of all that were fused
    channels : of A, and of the result
    size : of A, (y, x)
    a_table : int32 [256]; [0] where codes have none
    b_table : [256] or None: int32 to add, float32 to multiply with
    pool : the window; places outside A do not take part, and so padding adds nothing
    reduce : of the window
    factor : float32 [places + 1]: the factor for a window of which so many places are in A; without a window, and
        with a maximum, its last element counts
    y_zero : zero point of the result
    clamp : lowest and highest output code
    """
    name: str
    op: str
    channels: int
    size: tuple[int, int]
    a_table: np.ndarray
    b_table: np.ndarray | None = None
    pool: Pool | None = None
    reduce: Reduce = Reduce.MAXIMUM
    factor: np.ndarray = field(default_factory=lambda: np.ones(1, np.float32))
    y_zero: int = 0
    clamp: tuple[float, float] = (-128, 127)

    real_macs = 0
    element = "int8"    # of the result

    @property
    def elements(self) -> tuple[str, str, str]:
        """Of A, of B and of the result, by NumPy's names."""
        return "int8", "int8", self.element

    @property
    def has_second(self) -> bool:
        """Whether there is an operand B."""
        return self.b_table is not None

    @property
    def b_use(self) -> OperandUse:
        if self.b_table is None:
            return OperandUse.NONE
        return OperandUse.ADD if self.b_table.dtype == np.int32 else OperandUse.MULTIPLY

    @property
    def out_channels(self) -> int:
        return self.channels

    @property
    def out_size(self) -> tuple[int, int]:
        return self.pool.size if self.pool else self.size


@dataclass(frozen=True)
class RowLayer(VectorLayer):
    """What is made of all channels of each place together; for a chip with `functions`."""


#: Raises :exc:`CompileError` for a layer that the chip is too small for.
LayerCheck = Callable[[Layer | VectorLayer], None]


@dataclass(frozen=True)
class View:
    """A box of a feature map: its channels from `channel` on, and places `step` apart from `origin` on.

    `size`, `origin` and `step` are (y, x).
    """
    map: int
    channels: int
    size: tuple[int, int]
    channel: int = 0
    origin: tuple[int, int] = (0, 0)
    step: tuple[int, int] = (1, 1)

    def of(self, outer: "View") -> "View":
        """This view of a map that is itself the box `outer` of another."""
        (y, x), (dy, dx) = outer.origin, outer.step
        return View(outer.map, self.channels, self.size, outer.channel + self.channel,
                    (y + self.origin[0] * dy, x + self.origin[1] * dx), (self.step[0] * dy, self.step[1] * dx))


@dataclass(frozen=True)
class FeatureMap:
    """[N, height, width, channels] of codes, int8, or of words, float32 or int32: `element` is NumPy's name of
    these. If it has a `place`, it is that box of another map."""
    channels: int
    size: tuple[int, int]
    place: View | None = None
    element: str = "int8"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.element)

    @property
    def elements(self) -> int:
        """Of one image."""
        return self.size[0] * self.size[1] * self.channels

    @property
    def image_bytes(self) -> int:
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True)
class Input:
    """A tensor of the model, and the feature map that the host makes of it.

    Parameters
    ----------
    name : the tensor's
    shape : of one image as the model has it, without the batch
    dtype : of its elements
    before : what the host does to it
    map : the number of the map
    """
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    before: tuple[HostFunction, ...]
    map: int

    def check(self, images: np.ndarray) -> None:
        """Raise :exc:`CompileError` if `images` has a wrong shape, type or value."""
        images = arguments.array("images", images)
        if images.ndim < 1 or images.shape[1:] != self.shape or len(images) < 1:
            raise CompileError(f"the model takes [N, {', '.join(map(str, self.shape))}], "
                               f"not {list(images.shape)}" + ("; N must be at least 1" if not images.size else ""))
        if images.dtype != self.dtype:
            raise CompileError(f"the model takes {self.dtype}, not {images.dtype}")
        if images.dtype.kind == "f" and np.isnan(images).any():
            raise CompileError("the input holds NaN")


@dataclass(frozen=True)
class Output:
    """A tensor of the model, and the codes, or words, that the host makes it of.

    Parameters
    ----------
    name : the tensor's
    view : where the codes are
    shapers : what moves the codes, [N, channels, height, width], to where the model has them
    after : what makes numbers of those codes
    unsigned : its codes are uint8
    decoded : the type of what `shapers` make, if these are no codes
    element : of the map
    """
    name: str
    view: View
    shapers: tuple[HostFunction, ...]
    after: tuple[HostFunction, ...]
    unsigned: bool
    decoded: np.dtype | None = None
    element: str = "int8"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32 if self.after else np.uint8 if self.unsigned else self.decoded or self.element)

    def codes(self, results: np.ndarray) -> np.ndarray:
        """The codes or words as the model has them, from the map's [N, H, W, C]."""
        results = results.transpose(0, 3, 1, 2)
        for shaper in self.shapers:
            results = shaper(results)
        results = np.ascontiguousarray(results)
        return results.view(np.uint8) ^ np.uint8(SHIFT) if self.unsigned else results

    def decode(self, results: np.ndarray) -> np.ndarray:
        """The tensor, from the map's [N, H, W, C]."""
        results = self.codes(results)
        for function in self.after:
            results = function(results)
        return np.ascontiguousarray(results)


@dataclass
class LayerGraph:
    """Layers in an order in which they can run, and the feature maps between them.

    Attributes
    ----------
    maps : list of FeatureMap
    layers : list of Layer or VectorLayer
    sources, targets : of each layer, the view that it reads and the one that it writes
    seconds : of each layer, the view of its operand B, or None
    inputs : list of Input
    outputs : list of Output
    """
    maps: list[FeatureMap] = field(default_factory=list)
    layers: list[Layer | VectorLayer] = field(default_factory=list)
    sources: list[View] = field(default_factory=list)
    targets: list[View] = field(default_factory=list)
    seconds: list[View | None] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    def new_map(self, channels: int, size: tuple[int, int], element: str = "int8") -> View:
        """A new feature map, whole."""
        self.maps.append(FeatureMap(channels, size, element=element))
        return self.whole(len(self.maps) - 1)

    def whole(self, number: int) -> View:
        """All of the map of that number."""
        return View(number, self.maps[number].channels, self.maps[number].size)

    def rooted(self, view: View) -> View:
        """`view` as a box of a map that is in no other."""
        while (place := self.maps[view.map].place) is not None:
            view = view.of(place)
        return view

    def add(self, layer: Layer | VectorLayer, source: View, target: View, second: View | None = None) -> int:
        """The number of a new layer."""
        assert self.maps[target.map].element == layer.element
        assert self.maps[source.map].element == (layer.elements[0] if isinstance(layer, VectorLayer) else "int8")
        self.layers.append(layer)
        self.sources.append(source)
        self.targets.append(target)
        self.seconds.append(second)
        return len(self.layers) - 1

    def encode(self, item: Input, images: np.ndarray) -> np.ndarray:
        """The codes of an input's feature map, int8 [N, H, W, C].

        Raises
        ------
        CompileError
            `images` has a wrong shape, type or value.
        """
        images = arguments.array("images", images)
        item.check(images)
        for function in item.before:
            images = function(images)
        there = self.maps[item.map]
        shape = (len(images), there.channels, *there.size)
        return np.ascontiguousarray(images.reshape(shape).transpose(0, 2, 3, 1))

    def copy(self) -> "LayerGraph":
        """One that can change without this one."""
        return LayerGraph(*(list(getattr(self, item.name)) for item in fields(self)))
