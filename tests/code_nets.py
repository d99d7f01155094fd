"""Nets of operators between codes, and what ONNX Runtime says that they are."""

import numpy as np
import onnx
import onnxruntime
import pytest
from layer_reference import run_layers
from onnx import helper

from bench.float_nets import Net
from kiwicha_host import load_model
from kiwicha_host.compiler.ir.layers import LayerGraph
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.devices import Device

DTYPES = pytest.mark.parametrize("dtype", [np.int8, np.uint8])


def onnxruntime_says(model, inputs):
    """The outputs of a model, of its bytes or of a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    data = data if isinstance(data, bytes) else str(data)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, inputs)


def check(model, inputs) -> LayerGraph:
    """The layers of `model`, which are those of ONNX Runtime to the bit."""
    layers = to_layers(optimize(model))
    for (name, got), expected in zip(run_layers(layers, inputs).items(), onnxruntime_says(model, inputs),
                                     strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected, err_msg=name)
    return layers


def check_on(where, model, x):
    """A chip's name or configuration, on the golden machine, or a device, makes of `x` what the layers say."""
    chosen = {"device": where} if isinstance(where, Device) else {"config": where, "device": "golden"}
    [expected] = run_layers(to_layers(optimize(model)), {"x": x}).values()
    with load_model(model, **chosen, strict=True) as loaded:
        [got] = loaded.run({"x": x}).values()
    np.testing.assert_array_equal(got, expected, err_msg=f"{model.graph.node[1].op_type} of {list(x.shape)}")


class Between(Net):
    """Numbers that come from codes and become codes."""

    def __init__(self, dtype, **shapes):
        super().__init__(0, **shapes)
        self.dtype = dtype

    def numbers(self, name, scale=0.05, zero=3):
        return self("DequantizeLinear", name, np.float32(scale), self.dtype(zero))

    def codes(self, name, scale=0.04, zero=5):
        return self("QuantizeLinear", name, np.float32(scale), self.dtype(zero))

    def model(self, *outputs, opset=20):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        value = helper.make_tensor_value_info
        inputs = [value(name, kind, shape) for name, shape in self.shapes.items()]
        graph = helper.make_graph(self._nodes, "net", inputs, [value(name, kind, None) for name in outputs],
                                  self._constants)
        return helper.make_model(graph, ir_version=9, opset_imports=[
            helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])
