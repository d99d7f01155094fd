"""ONNX models to a chain of convolutions, which is all that the chip's programs know.

A matrix product is a convolution whose kernel is as large as its input; Relu, Clip and MaxPool become part of
the layer before them (all of these are monotone, so they may come before the rounding); a pooling with no
layer before it gets one that multiplies by one. Zero points of inputs go into the biases. Reshapes that move
nothing on the chip cost nothing; others are the host's, before the first layer and after the last.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..models.reference import requantize_scale
from .builder import CompileError

__all__ = ["Graph", "Layer", "Pool", "SUPPORTED", "load_graph"]

#: What a model may consist of.
SUPPORTED = ("QuantizeLinear", "QLinearConv", "QLinearMatMul", "Relu", "Clip", "Max", "MaxPool", "Flatten",
             "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "DequantizeLinear")
#: Codes are int8 on the chip; those of uint8 tensors are shifted by so much.
_SHIFT = 128


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
    weights : int8 [out channels, channels, kernel y, kernel x]
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
class Graph:
    """The layers in order, and what the host does before and after them.

    Attributes
    ----------
    layers : list of Layer
    input_shape : shape of one image as the model takes it, without the batch
    input_dtype : of the model's input
    """
    layers: list[Layer] = field(default_factory=list)
    input_shape: tuple[int, ...] = ()
    input_dtype: np.dtype = field(default_factory=lambda: np.dtype(np.float32))
    _before: list[Callable[[np.ndarray], np.ndarray]] = field(default_factory=list)
    _shape: list[Callable[[np.ndarray], np.ndarray]] = field(default_factory=list)
    _after: list[Callable[[np.ndarray], np.ndarray]] = field(default_factory=list)
    _flat: bool = False         # the last layer's result has no height and width in the model
    _unsigned: bool = False     # its codes are uint8

    def check(self, images: np.ndarray) -> None:
        """Raise :exc:`CompileError` if `images` has a wrong shape, type or value."""
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
        images = np.asarray(images)
        self.check(images)
        for step in self._before:
            images = step(images)
        first = self.layers[0]
        shape = (len(images), first.channels, *first.size)
        return np.ascontiguousarray(images.reshape(shape).transpose(0, 2, 3, 1))

    def codes(self, results: np.ndarray) -> np.ndarray:
        """The last layer's codes as the model has them, from int8 [N, H, W, C]."""
        results = results.transpose(0, 3, 1, 2)
        if self._flat:
            results = results.reshape(len(results), -1)
        for step in self._shape:
            results = step(results)
        results = np.ascontiguousarray(results)
        return _to_unsigned(results) if self._unsigned else results

    def decode(self, results: np.ndarray) -> np.ndarray:
        """The model's output, from int8 [N, H, W, C]."""
        results = self.codes(results)
        for step in self._after:
            results = step(results)
        return np.ascontiguousarray(results)


def _to_unsigned(codes: np.ndarray) -> np.ndarray:
    return codes.view(np.uint8) ^ np.uint8(_SHIFT)


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def load_graph(model: Any) -> Graph:
    """The graph of an ONNX file, or of an ``onnx.ModelProto``.

    Raises
    ------
    CompileError
        The file is unreadable or no ONNX model, or the model has something the chip cannot do: the message
        names the node and what is wrong with it.
    """
    where = "the model"
    if not isinstance(model, onnx.ModelProto):
        where = str(model)
        try:
            model = onnx.load_model_from_string(Path(model).read_bytes())
        except OSError as error:
            raise CompileError(f"cannot read {where}: {error.strerror or error}") from None
        except Exception:       # protobuf's own exceptions, whichever implementation it uses
            raise CompileError(f"{where} is not an ONNX model") from None
    if not model.graph.node:
        raise CompileError(f"{where} is not an ONNX model, or has no nodes")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and what onnx raises for external data
        raise CompileError(f"{where} is not a valid ONNX model: {_one_line(error)}") from None
    return _Reader(model).graph


class _Node:
    """One ONNX node with its constants; every complaint names it."""

    def __init__(self, proto: onnx.NodeProto, number: int, constants: dict[str, np.ndarray]):
        self.op = proto.op_type
        self.name = proto.name or proto.output[0] or f"number {number}"
        self.inputs = list(proto.input)
        self.outputs = [item for item in proto.output if item]
        self.attributes = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
        self._constants = constants

    def error(self, text: str) -> CompileError:
        return CompileError(f"{self.op} {self.name!r}: {text}")

    def only(self, *known: str) -> None:
        for name in self.attributes:
            if name not in known:
                raise self.error(f"attribute {name!r} is not supported")

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and bool(self.inputs[index])

    def constant(self, index: int, what: str) -> np.ndarray:
        if not self.has(index):
            raise self.error(f"{what} is missing")
        try:
            return self._constants[self.inputs[index]]
        except KeyError:
            raise self.error(f"{what} must be a constant, not the tensor {self.inputs[index]!r}") from None

    def scalar(self, index: int, what: str) -> np.ndarray:
        value = self.constant(index, what)
        if value.size != 1:
            raise self.error(f"{what} must be a single number, not {list(value.shape)}")
        return value.reshape(())

    def scale(self, index: int, what: str) -> np.float32:
        value = self.scalar(index, what)
        if value.dtype != np.float32 or not (np.isfinite(value) and value > 0):
            raise self.error(f"{what} must be a positive float32, not {value}")
        return np.float32(value)

    def zero_point(self, index: int, what: str) -> tuple[int, bool]:
        """The zero point of the codes as int8, and whether the model has them as uint8."""
        value = self.scalar(index, what) if self.has(index) else np.uint8(0)
        if value.dtype not in (np.int8, np.uint8):
            raise self.error(f"{what} must be int8 or uint8, not {value.dtype}")
        unsigned = value.dtype == np.uint8
        return int(value) - _SHIFT * unsigned, unsigned

    def pair(self, name: str, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
        value = tuple(self.attributes.get(name, default))
        if len(value) != 2 or min(value) < 1:
            raise self.error(f"{name} must be two positive numbers, not {list(value)}")
        return value


class _Reader:
    """Walks the nodes in order; each must take the result of the one before."""

    def __init__(self, model: onnx.ModelProto):
        self.graph = Graph()
        self._opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")),
                          default=1)
        self._constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        inputs = [item for item in model.graph.input if item.name not in self._constants]
        if len(inputs) != 1 or len(model.graph.output) != 1:
            raise CompileError("the model must have one input and one output, not "
                               f"{len(inputs)} and {len(model.graph.output)}")
        self._last = inputs[0].name
        self._read_input(inputs[0])
        #: Which element of the last layer's result (or of the input) each element is, for one image.
        self._where = np.arange(int(np.prod(self.graph.input_shape))).reshape(1, *self.graph.input_shape)
        self._shapers: list[Callable[[np.ndarray], np.ndarray]] = []    # since the last layer
        self._fusable = False       # the last layer's result is used by nobody else, and still codes
        self._dequantized = False
        for number, proto in enumerate(model.graph.node):
            self._read(proto, number)
        self._finish(model)

    def _read_input(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        dims = [item.dim_value if item.HasField("dim_value") else 0 for item in tensor.shape.dim]
        if len(dims) < 2 or any(item < 1 for item in dims[1:]):
            shown = [item.dim_value or item.dim_param or "?" for item in tensor.shape.dim]
            raise CompileError(f"input {value.name!r}: all dimensions but the first must be fixed, not {shown}")
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if dtype not in (np.float32, np.int8, np.uint8):
            raise CompileError(f"input {value.name!r} must be float32, int8 or uint8, not {dtype}")
        self.graph.input_shape, self.graph.input_dtype = tuple(dims[1:]), dtype
        self._batch = dims[0]
        self._unsigned = dtype == np.uint8
        self._quantized = dtype != np.float32
        if self._unsigned:
            self.graph._before.append(lambda x: (x ^ np.uint8(_SHIFT)).view(np.int8))

    def _read(self, proto: onnx.NodeProto, number: int) -> None:
        node = _Node(proto, number, self._constants)
        if proto.domain not in ("", "ai.onnx"):
            raise node.error(f"operators of domain {proto.domain!r} are not supported")
        if node.op == "Constant":
            self._constants[proto.output[0]] = _constant(node)
            return
        if node.op not in SUPPORTED:
            raise node.error(f"not supported; the chip runs {', '.join(SUPPORTED)}")
        dynamic = [item for item in node.inputs if item and item not in self._constants]
        if dynamic != [self._last]:
            raise node.error(f"must take {self._last!r} alone, the result before it, not {', '.join(dynamic)!r}: "
                             "only chains of layers are supported")
        if node.op == "Max" and node.inputs[0] != self._last:
            node.inputs.reverse()
        if node.inputs[0] != self._last:
            raise node.error(f"its first input must be {self._last!r}")
        if len(node.outputs) != 1:
            raise node.error("only the first output is supported")
        if node.op not in _SHAPERS:
            if self._dequantized:
                raise node.error("comes after DequantizeLinear; models must be of quantised operators "
                                 "(QLinearConv, QLinearMatMul), not pairs of QuantizeLinear and DequantizeLinear")
            if not self._quantized and node.op != "QuantizeLinear":
                raise node.error("needs int8 or uint8 codes; put a QuantizeLinear before it")
        getattr(self, f"_{node.op.lower()}")(node)
        self._last = node.outputs[0]

    def _finish(self, model: onnx.ModelProto) -> None:
        if model.graph.output[0].name != self._last:
            raise CompileError(f"output {model.graph.output[0].name!r} must be the last result, {self._last!r}")
        if not self.graph.layers:
            raise CompileError("the model has no layer for the chip: no QLinearConv, QLinearMatMul or MaxPool")
        if self._dequantized:
            self.graph._after += self._shapers
        else:
            self.graph._shape += self._shapers
            self.graph._unsigned = self._unsigned

    # Codes in and out.

    def _quantizelinear(self, node: _Node) -> None:
        node.only("axis", "saturate", "block_size", "output_dtype", "precision")
        if self._quantized:
            raise node.error("its input is quantised already")
        scale = node.scale(1, "the scale")
        zero, self._unsigned = node.zero_point(2, "the zero point")
        # Saturation at int8 of shifted codes is that of uint8.
        self._shapers.append(lambda x: np.clip(np.rint(x / scale) + np.float32(zero), -128, 127).astype(np.int8))
        self._quantized = True

    def _dequantizelinear(self, node: _Node) -> None:
        node.only("axis", "block_size", "output_dtype")
        scale = node.scale(1, "the scale")
        zero, unsigned = node.zero_point(2, "the zero point")
        self._match(node, unsigned)
        zero += _SHIFT * unsigned
        self.graph._unsigned = unsigned
        self.graph._shape += self._shapers
        self._shapers = []
        self._shapers.append(lambda q: (q.astype(np.int32) - np.int32(zero)).astype(np.float32) * scale)
        self._dequantized = True

    def _match(self, node: _Node, unsigned: bool) -> None:
        if unsigned != self._unsigned:
            names = ("int8", "uint8")
            raise node.error(f"its input is {names[self._unsigned]}, its zero point {names[unsigned]}")

    # What only moves elements, or not even that.

    def _shape_with(self, node: _Node, shaper: Callable[[np.ndarray], np.ndarray]) -> None:
        try:
            self._where = shaper(self._where)
        except ValueError:
            raise node.error(f"does not fit a tensor of shape {[self._batch or 'N', *self._where.shape[1:]]}"
                             ) from None
        if len(self._where) != 1:
            raise node.error("must leave the batch, the first dimension, alone")
        self._shapers.append(shaper)

    def _flatten(self, node: _Node) -> None:
        node.only("axis")
        if node.attributes.get("axis", 1) not in (1, 1 - self._where.ndim):
            raise node.error(f"axis must be 1, not {node.attributes['axis']}")
        self._shape_with(node, lambda x: x.reshape(len(x), -1))

    def _reshape(self, node: _Node) -> None:
        node.only("allowzero")
        shape = [int(item) for item in node.constant(1, "the shape").reshape(-1)]
        if not shape or shape[0] not in (0, -1, self._batch or -1):
            raise node.error(f"must leave the batch, the first dimension, alone; its shape is {shape}")
        if 0 in shape[1:] and not node.attributes.get("allowzero", 0):
            old = self._where.shape
            shape = [old[i] if i and not item and i < len(old) else item for i, item in enumerate(shape)]
        rest = shape[1:]
        self._shape_with(node, lambda x: x.reshape(len(x), *rest))

    def _transpose(self, node: _Node) -> None:
        node.only("perm")
        perm = list(node.attributes.get("perm", range(self._where.ndim)[::-1]))
        if perm[0] != 0:
            raise node.error(f"must leave the batch, the first dimension, alone; perm is {perm}")
        self._shape_with(node, lambda x: x.transpose(perm))

    def _axes(self, node: _Node) -> list[int]:
        node.only("axes")
        axes = node.attributes.get("axes", [])
        if node.has(1):
            axes = node.constant(1, "axes").reshape(-1).tolist()
        if not axes or 0 in axes:
            raise node.error(f"axes must be given and leave the batch, axis 0, alone, not {list(axes)}")
        return [int(item) for item in axes]

    def _squeeze(self, node: _Node) -> None:
        axes = tuple(self._axes(node))
        self._shape_with(node, lambda x: x.squeeze(axes))

    def _unsqueeze(self, node: _Node) -> None:
        axes = tuple(self._axes(node))
        self._shape_with(node, lambda x: np.expand_dims(x, axes))

    def _identity(self, node: _Node) -> None:
        """Nothing to do."""

    # Layers.

    def _input_size(self, node: _Node) -> tuple[int, tuple[int, int]]:
        """Channels and size of the tensor as [N, C, H, W]; what came since the last layer must move nothing."""
        if self._where.ndim != 4:
            raise node.error(f"takes [N, channels, height, width], not {self._where.ndim} dimensions")
        _, channels, *size = self._where.shape
        if self.graph.layers:
            before = self.graph.layers[-1]
            if ((channels, *size) != (before.out_channels, *before.out_size)
                    or (self._where.reshape(-1) != np.arange(self._where.size)).any()):
                raise node.error("a reshape or transpose before it moves elements between channels and places, "
                                 "which is not supported between layers")
        return channels, (size[0], size[1])

    def _append(self, layer: Layer, flat: bool, unsigned: bool) -> None:
        if not self.graph.layers:
            self.graph._before += self._shapers
        self.graph.layers.append(layer)
        self._settle(flat)
        self._unsigned = unsigned

    def _settle(self, flat: bool) -> None:
        """The last layer's result is the tensor that the next node takes."""
        layer = self.graph.layers[-1]
        shape = (layer.out_channels,) if flat else (layer.out_channels, *layer.out_size)
        self._where = np.arange(int(np.prod(shape))).reshape(1, *shape)
        self._shapers = []
        self.graph._flat = flat

    def _scales(self, node: _Node, w_scale: np.ndarray, x_index: int, y_index: int, outputs: int) -> np.ndarray:
        if w_scale.dtype != np.float32 or w_scale.size not in (1, outputs):
            raise node.error(f"the weights' scale must be float32, one or {outputs} numbers, "
                             f"not {w_scale.dtype} {list(w_scale.shape)}")
        with np.errstate(over="ignore"):
            scale = requantize_scale(node.scale(x_index, "the input's scale"), w_scale.reshape(-1),
                                     node.scale(y_index, "the output's scale"))
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise node.error("input scale * weight scale / output scale must be positive and finite")
        return np.broadcast_to(scale, outputs).astype(np.float32)

    def _weights(self, node: _Node, index: int, rank: int) -> np.ndarray:
        weights, zero = node.constant(index, "the weights"), node.constant(index + 2, "the weights' zero point")
        if weights.dtype != np.int8:
            raise node.error(f"the weights must be int8, not {weights.dtype}")
        if weights.ndim != rank:
            raise node.error(f"the weights must have {rank} dimensions, not {weights.ndim}")
        if zero.any():
            raise node.error("the weights' zero point must be 0")
        return weights

    def _qlinearconv(self, node: _Node) -> None:
        node.only("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
        channels, size = self._input_size(node)
        weights = self._weights(node, 3, 4)
        outputs, per_group, *kernel = weights.shape
        group = node.attributes.get("group", 1)
        if per_group * group != channels or outputs % group:
            raise node.error(f"weights {list(weights.shape)} in {group} groups do not fit {channels} channels")
        if node.pair("kernel_shape", tuple(kernel)) != tuple(kernel):
            raise node.error(f"kernel_shape must be that of the weights, {kernel}")
        x_zero, unsigned = node.zero_point(2, "the input's zero point")
        self._match(node, unsigned)
        y_zero, y_unsigned = node.zero_point(7, "the output's zero point")
        bias = node.constant(8, "the bias") if node.has(8) else np.zeros(outputs, np.int32)
        if bias.dtype != np.int32 or bias.shape != (outputs,):
            raise node.error(f"the bias must be int32 [{outputs}], not {bias.dtype} {list(bias.shape)}")
        strides, dilations = node.pair("strides"), node.pair("dilations")
        conv_size, pads = _window(node, size, tuple(kernel), strides, dilations)
        scale = self._scales(node, node.constant(4, "the weights' scale"), 1, 6, outputs)
        real_macs = weights.size * conv_size[0] * conv_size[1]
        weights = _ungroup(weights, group)
        self._append(Layer(
            name=node.name, op=node.op, weights=weights, bias=_fold(bias, weights, x_zero), scale=scale,
            x_zero=x_zero, y_zero=y_zero, size=size, conv_size=conv_size, strides=strides, dilations=dilations,
            pads=pads, real_macs=real_macs), flat=False, unsigned=y_unsigned)

    def _qlinearmatmul(self, node: _Node) -> None:
        node.only()
        weights = self._weights(node, 3, 2)
        if self._where.ndim != 2:
            raise node.error(f"takes [N, features], not {self._where.ndim} dimensions; flatten before it")
        features = self._where.shape[1]
        if len(weights) != features:
            raise node.error(f"weights {list(weights.shape)} do not fit {features} features")
        outputs = weights.shape[1]
        x_zero, unsigned = node.zero_point(2, "the input's zero point")
        self._match(node, unsigned)
        y_zero, y_unsigned = node.zero_point(7, "the output's zero point")
        scale = self._scales(node, node.constant(4, "the weights' scale"), 1, 6, outputs)
        # Row i of the weights belongs to element where[i] of the last layer's [C, H, W].
        channels, size = features, (1, 1)
        if self.graph.layers:
            channels, size = self.graph.layers[-1].out_channels, self.graph.layers[-1].out_size
            weights = weights[np.argsort(self._where[0])]
        kernels = np.ascontiguousarray(weights.T).reshape(outputs, channels, *size)
        bias = _fold(np.zeros(outputs, np.int32), kernels, x_zero)
        self._append(Layer(name=node.name, op=node.op, weights=kernels, bias=bias, scale=scale, x_zero=x_zero,
                           y_zero=y_zero, size=size, conv_size=(1, 1), real_macs=weights.size),
                     flat=True, unsigned=y_unsigned)

    # What joins the layer before.

    def _copy(self, node: _Node, channels: int, size: tuple[int, int]) -> None:
        """A layer that multiplies by one, for an operator that has no layer to join."""
        eye = np.eye(channels, dtype=np.int8)[:, :, None, None]
        self._append(Layer(name=node.name, op="Copy", weights=eye, bias=np.zeros(channels, np.int32),
                           scale=np.ones(channels, np.float32), x_zero=0, y_zero=0, size=size, conv_size=size),
                     flat=False, unsigned=self._unsigned)

    def _clamp(self, node: _Node, low: int, high: int) -> None:
        """Codes from `low` to `high`, in the model's own numbers."""
        low, high = (item - _SHIFT * self._unsigned for item in (low, high))
        if not self.graph.layers:
            self._copy(node, *self._input_size(node))
        layer = self.graph.layers[-1]
        first, last = (min(max(item, low), high) for item in layer.clamp)
        self.graph.layers[-1] = replace(layer, op=f"{layer.op}+{node.op}", clamp=(first, last))

    def _relu(self, node: _Node) -> None:
        node.only()
        self._clamp(node, 0, 255)

    def _clip(self, node: _Node) -> None:
        node.only()
        low, high = (int(node.scalar(i, what)) if node.has(i) else default
                     for i, what, default in ((1, "min", -128), (2, "max", 255)))
        self._clamp(node, min(low, high), high)

    def _max(self, node: _Node) -> None:
        if len(node.inputs) != 2:
            raise node.error(f"takes two inputs here, not {len(node.inputs)}")
        self._clamp(node, int(node.scalar(1, "the constant")), 255)

    def _maxpool(self, node: _Node) -> None:
        node.only("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides")
        channels, size = self._input_size(node)
        kernel, strides, dilations = (node.pair(item) for item in ("kernel_shape", "strides", "dilations"))
        out, pads = _window(node, size, kernel, strides, dilations, ceil=bool(node.attributes.get("ceil_mode", 0)))
        for axis in range(2):
            starts = np.arange(out[axis]) * strides[axis] - pads[axis]
            taps = starts[:, None] + np.arange(kernel[axis]) * dilations[axis]
            if not ((taps >= 0) & (taps < size[axis])).any(1).all():
                raise node.error("a window lies in the padding alone; pads must be smaller")
        if not self.graph.layers or self.graph.layers[-1].pool is not None:
            self._copy(node, channels, size)
        layer = self.graph.layers[-1]
        self.graph.layers[-1] = replace(layer, op=f"{layer.op}+{node.op}",
                                        pool=Pool(kernel, strides, dilations, pads, out))
        self._settle(flat=False)


_SHAPERS = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")


def _constant(node: _Node) -> np.ndarray:
    if "value" in node.attributes:
        return numpy_helper.to_array(node.attributes["value"])
    (name, value), = node.attributes.items() or [("", None)]
    if name not in ("value_int", "value_ints", "value_float", "value_floats"):
        raise node.error(f"attribute {name!r} is not supported")
    return np.asarray(value, np.float32 if "float" in name else np.int64)


def _fold(bias: np.ndarray, weights: np.ndarray, x_zero: int) -> np.ndarray:
    """Bias minus the zero point's share, modulo 2^32 as the accumulators are."""
    total = bias.astype(np.int64) - x_zero * weights.astype(np.int64).sum((1, 2, 3))
    return total.astype(np.int32)


def _ungroup(weights: np.ndarray, group: int) -> np.ndarray:
    """Dense weights with zeros between the groups."""
    if group == 1:
        return weights
    outputs, per_group, *kernel = weights.shape
    dense = np.zeros((outputs, per_group * group, *kernel), np.int8)
    for i in range(group):
        rows = slice(i * outputs // group, (i + 1) * outputs // group)
        dense[rows, i * per_group:(i + 1) * per_group] = weights[rows]
    return dense


def _window(node: _Node, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int],
            dilations: tuple[int, int], ceil: bool = False) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of the result, and padding at top and left, of a sliding window."""
    auto = node.attributes.get("auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    pads = list(node.attributes.get("pads", (0, 0, 0, 0)))
    if len(pads) != 4 or min(pads) < 0:
        raise node.error(f"pads must be four numbers from 0, not {pads}")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    result, first = [], []
    for i in range(2):
        before, after = pads[i], pads[i + 2]
        if auto == "VALID":
            before = after = 0
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, (-(-size[i] // strides[i]) - 1) * strides[i] + reach[i] - size[i])
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after = total - before
        elif auto != "NOTSET":
            raise node.error(f"auto_pad {auto!r} does not exist")
        span = size[i] + before + after - reach[i]
        if span < 0:
            raise node.error(f"its window of {reach[0]}x{reach[1]} is larger than the padded input")
        count = (-(-span // strides[i]) if ceil else span // strides[i]) + 1
        if ceil and (count - 1) * strides[i] >= size[i] + before:
            count -= 1      # a window that would start in the padding behind
        result.append(count)
        first.append(before)
    return (result[0], result[1]), (first[0], first[1])
