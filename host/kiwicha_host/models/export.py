"""An ``nn`` network as a float ONNX graph, as any training framework writes one.

The graph is NCHW, standard ONNX operators only, any batch size: Conv, Relu, MaxPool, Add, Flatten, MatMul.
"""

import onnx
from onnx import TensorProto, helper, numpy_helper

from . import nn
from .quantize import IR_VERSION, OPSET

__all__ = ["export"]


class _Graph:
    """Nodes and constants, named by their numbers."""

    def __init__(self):
        self.nodes = []
        self.initializers = []

    def add(self, op, *inputs, output=None, **attributes):
        output = output or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value):
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def append(self, layers, x, output=None):
        """The name of what ``layers`` make of the tensor ``x``; ``output``, if given."""
        for layer in layers:
            x = self._append(layer, x, output if layer is layers[-1] else None)
        return x

    def _append(self, layer, x, output):
        match layer:
            case nn.Conv():
                w, b = layer.params
                return self.add("Conv", x, self.constant(w.transpose(3, 2, 0, 1)), self.constant(b), output=output,
                                kernel_shape=[layer.kernel] * 2, pads=[layer.pad] * 4)
            case nn.Dense():
                return self.add("MatMul", x, self.constant(layer.params[0]), output=output)
            case nn.MaxPool():
                return self.add("MaxPool", x, output=output, kernel_shape=[2, 2], strides=[2, 2])
            case nn.Residual():
                return self.add("Add", self.append(layer.layers, x), self.append(layer.shortcut, x), output=output)
            case nn.Relu() | nn.Flatten():
                return self.add(type(layer).__name__, x, output=output)
        raise ValueError(f"layers must be those of nn, not {layer!r}")


def export(layers, *, name, shape, classes):
    """Write a network down in floating point.

    Parameters
    ----------
    layers : list of ``nn`` layers
    name : name of the graph
    shape : (H, W, C) of an image
    classes : how many logits there are

    Returns
    -------
    onnx.ModelProto, input ``image`` float32 [N, C, H, W], output ``logits`` float32 [N, classes]

    Raises
    ------
    ValueError : a layer is none of ``nn``'s
    """
    h, w, c = shape
    graph = _Graph()
    graph.append(layers, "image", output="logits")
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
