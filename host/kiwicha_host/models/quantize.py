"""Post-training quantization of an ``nn`` network to an int8 ONNX graph.

Weights are int8, symmetric, one scale per output channel. Activations are int8, one scale per
tensor, all with the same zero point: 0, where each Relu stays a node of its own and half of the
codes go unused, or -128, where the saturation of the layer before is the Relu. Logits always
have zero point 0. Biases are int32 with scale x_scale * w_scale.

The graph is NCHW, standard ONNX operators only, any batch size:
QuantizeLinear, QLinearConv, QLinearMatMul, Relu, MaxPool, Flatten, DequantizeLinear.

Everything is int8 because ONNX Runtime multiplies int8 by int8 exactly on any machine, whereas
uint8 by int8 saturates at 16 bits on an x86 that has AVX2 but not VNNI.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from . import nn

__all__ = ["quantize"]

OPSET = 17
IR_VERSION = 8


def _symmetric(weights):
    """int8 codes and float32 scales of ``weights``, one scale per last index."""
    amax = np.abs(weights).max(axis=tuple(range(weights.ndim - 1)))
    scale = (amax / 127).astype(np.float32)
    return np.rint(weights / scale).astype(np.int8), scale


class _Graph:
    """Nodes in a chain: each appended node reads the output of the one before.

    ``x`` holds the names of the scale and the zero point of the latest codes, ``x_scale`` the
    scale itself.
    """

    def __init__(self, input_name, x_scale, x_zero):
        self.nodes = []
        self.initializers = []
        self._last = input_name
        self.set_codes(input_name, x_scale, x_zero)

    def set_codes(self, name, scale, zero_point):
        self.x_scale = np.float32(scale)
        self.x = (self.constant(f"{name}_scale", self.x_scale),
                  self.constant(f"{name}_zero_point", np.int8(zero_point)))

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def append(self, op, name, *constants, **attributes):
        self.nodes.append(helper.make_node(op, [self._last, *constants], [name], name=name, **attributes))
        self._last = name

    def append_weighted(self, layer, name, y_scale, y_zero):
        """A QLinearConv or QLinearMatMul with the weights of ``layer``."""
        w, w_scale = _symmetric(layer.params[0])
        x = self.x
        x_scale = self.x_scale
        self.set_codes(name, y_scale, y_zero)
        is_conv = isinstance(layer, nn.Conv)
        operands = [*x,
                    self.constant(f"{name}_w", w.transpose(3, 2, 0, 1) if is_conv else w),
                    self.constant(f"{name}_w_scale", w_scale),
                    self.constant(f"{name}_w_zero_point", np.zeros(len(w_scale), np.int8)),
                    *self.x]
        if is_conv:
            bias = np.rint(layer.params[1] / (x_scale * w_scale)).astype(np.int32)
            self.append("QLinearConv", name, *operands, self.constant(f"{name}_bias", bias),
                        kernel_shape=[layer.kernel] * 2, pads=[layer.pad] * 4)
        else:
            self.append("QLinearMatMul", name, *operands)


def _activation_scales(layers, images, zero_point):
    """Scale of the output of every layer with weights, from its range over ``images``."""
    scales = {}
    x = images
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        x = layer.forward(x)
        if layer.params:
            rectified = isinstance(following, nn.Relu)
            amax = x.max() if rectified else np.abs(x).max()
            scales[layer] = amax / (127 - zero_point if rectified else 127)
    return scales


def quantize(layers, images, *, name, input_scale, zero_point):
    """Quantize a trained network.

    Parameters
    ----------
    layers : list of ``nn`` layers; every layer with weights but the last is followed by a Relu
    images : float32 [N, H, W, C], the calibration set
    name : name of the graph
    input_scale : scale of the graph's quantized input
    zero_point : 0 or -128, of the input and of every activation but the logits

    Returns
    -------
    onnx.ModelProto, input ``image`` float32 [N, C, H, W], output ``logits`` float32 [N, classes]

    Raises
    ------
    ValueError : ``zero_point`` is neither 0 nor -128
    """
    if zero_point not in (0, -128):
        raise ValueError(f"zero_point must be 0 or -128, not {zero_point!r}")
    scales = _activation_scales(layers, images, zero_point)
    classifier = list(scales)[-1]
    graph = _Graph("image", input_scale, zero_point)
    graph.append("QuantizeLinear", "image_q", *graph.x)
    for i, layer in enumerate(layers):
        node = f"{type(layer).__name__.lower()}{i}"
        match layer:
            case nn.Conv() | nn.Dense():
                graph.append_weighted(layer, node, scales[layer], 0 if layer is classifier else zero_point)
            case nn.Relu():
                if zero_point == 0:
                    graph.append("Relu", node)
            case nn.MaxPool():
                graph.append("MaxPool", node, kernel_shape=[2, 2], strides=[2, 2])
            case nn.Flatten():
                graph.append("Flatten", node)
    graph.append("DequantizeLinear", "logits", *graph.x)

    _, h, w, c = images.shape
    classes = classifier.params[0].shape[-1]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, name,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", c, h, w])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
            graph.initializers),
        producer_name="kiwicha", opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model
