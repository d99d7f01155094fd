"""A network as a chain of convolutions, which is all that the chip's programs know."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ... import arguments
from ..errors import CompileError

__all__ = ["LayerChain", "Layer", "Pool", "SHIFT", "Step"]

#: Codes are int8 on the chip; those of uint8 tensors are shifted by so much.
SHIFT = 128
#: What the host does to a batch; the first dimension is the batch.
Step = Callable[[np.ndarray], np.ndarray]


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
    clamp : lowest and highest output code
    real_macs : multiply-accumulates per image that the model asks for
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
    clamp: tuple[int, int] = (-128, 127)
    pool: Pool | None = None
    real_macs: int = 0

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


@dataclass
class LayerChain:
    """The layers in order, and what the host does before and after them.

    Attributes
    ----------
    layers : list of Layer
    input_shape : shape of one image as the model takes it, without the batch
    input_dtype : of the model's input
    before : steps from the model's input to the first layer's codes
    shapers : steps that move the last layer's codes to where the model has them
    after : steps from those codes to the model's output
    unsigned : its codes are uint8
    """
    layers: list[Layer] = field(default_factory=list)
    input_shape: tuple[int, ...] = ()
    input_dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    before: list[Step] = field(default_factory=list)
    shapers: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    unsigned: bool = False

    @property
    def output_dtype(self) -> np.dtype:
        """Of the model's output."""
        return np.dtype(np.float32 if self.after else np.uint8 if self.unsigned else np.int8)

    def check(self, images: np.ndarray) -> None:
        """Raise :exc:`CompileError` if `images` has a wrong shape, type or value."""
        images = arguments.array("images", images)
        if images.ndim < 1 or images.shape[1:] != self.input_shape or len(images) < 1:
            raise CompileError(f"the model takes [N, {', '.join(map(str, self.input_shape))}], "
                               f"not {list(images.shape)}")
        if images.dtype != self.input_dtype:
            raise CompileError(f"the model takes {self.input_dtype}, not {images.dtype}")
        if images.dtype.kind == "f" and np.isnan(images).any():
            raise CompileError("the input holds NaN")

    def encode(self, images: np.ndarray) -> np.ndarray:
        """The first layer's input codes, int8 [N, H, W, C].

        Raises
        ------
        CompileError
            `images` has a wrong shape, type or value.
        """
        images = arguments.array("images", images)
        self.check(images)
        for step in self.before:
            images = step(images)
        first = self.layers[0]
        shape = (len(images), first.channels, *first.size)
        return np.ascontiguousarray(images.reshape(shape).transpose(0, 2, 3, 1))

    def codes(self, results: np.ndarray) -> np.ndarray:
        """The last layer's codes as the model has them, from int8 [N, H, W, C]."""
        results = results.transpose(0, 3, 1, 2)
        for step in self.shapers:
            results = step(results)
        results = np.ascontiguousarray(results)
        return _to_unsigned(results) if self.unsigned else results

    def decode(self, results: np.ndarray) -> np.ndarray:
        """The model's output, from int8 [N, H, W, C]."""
        results = self.codes(results)
        for step in self.after:
            results = step(results)
        return np.ascontiguousarray(results)


def _to_unsigned(codes: np.ndarray) -> np.ndarray:
    return codes.view(np.uint8) ^ np.uint8(SHIFT)
