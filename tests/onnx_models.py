"""Random quantized ONNX models, and what ONNX Runtime makes of them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


class ModelBuilder:
    """A chain of quantized operators on [N, *shape]; `dtype` is that of the codes."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], dtype=np.int8, quantize: bool = False):
        self.rng, self.shape, self.dtype, self.quantize = rng, shape, np.dtype(dtype), quantize
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.input_shape, self.last = shape, "input"
        self.scale, self.zero = self.random_scale(), self.random_zero()
        if quantize:
            self.append("QuantizeLinear", self.constant(self.scale), self.constant(self.zero))

    def random_scale(self):
        return np.float32(self.rng.uniform(0.005, 0.1))

    def random_zero(self):
        low, high = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        return self.dtype.type(self.rng.choice([low, 0, high, self.rng.integers(low, high)]))

    def constant(self, value):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def append(self, op, *inputs, **attributes):
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *inputs], [name], name=name, **attributes))
        self.last = name

    def weighted(self, op, weights, outputs, reduction, *, bias=None, **attributes):
        """A QLinearConv or QLinearMatMul whose results use the whole range of codes, and more."""
        w_scale = self.rng.uniform(0.001, 0.01, outputs if self.rng.random() < 0.7 else ()).astype(np.float32)
        x = self.constant(self.scale), self.constant(self.zero)
        spread = 74 * 74 * float(self.scale) * float(np.max(w_scale)) * np.sqrt(reduction)
        self.scale, self.zero = np.float32(spread / self.rng.uniform(30, 150)), self.random_zero()
        if op == "QLinearMatMul" and w_scale.ndim == 0:
            w_zero = np.int8(0)
        else:
            w_zero = np.zeros(w_scale.shape, np.int8)
        extra = [] if bias is None else [self.constant(bias)]
        self.append(op, *x, self.constant(weights), self.constant(w_scale), self.constant(w_zero),
                    self.constant(self.scale), self.constant(self.zero), *extra, **attributes)

    def conv(self, outputs, kernel, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1):
        channels, *size = self.shape
        weights = self.rng.integers(-128, 128, (outputs, channels // group, *kernel), np.int8)
        bias = self.rng.integers(-20000, 20000, outputs, np.int32) if self.rng.random() < 0.7 else None
        self.weighted("QLinearConv", weights, outputs, weights[0].size, bias=bias, strides=strides, pads=pads,
                      dilations=dilations, group=group, kernel_shape=kernel)
        self.shape = outputs, *self.windowed(size, kernel, strides, pads, dilations)

    def matmul(self, outputs):
        weights = self.rng.integers(-128, 128, (self.shape[0], outputs), np.int8)
        self.weighted("QLinearMatMul", weights, outputs, len(weights))
        self.shape = (outputs,)

    def pool(self, kernel, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), ceil_mode=0):
        self.append("MaxPool", kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations,
                    ceil_mode=ceil_mode)
        channels, *size = self.shape
        self.shape = channels, *self.windowed(size, kernel, strides, pads, dilations, ceil_mode)

    @staticmethod
    def windowed(size, kernel, strides, pads, dilations, ceil_mode=0):
        result = []
        for i in range(2):
            span = size[i] + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1
            count = (-(-span // strides[i]) if ceil_mode else span // strides[i]) + 1
            if ceil_mode and (count - 1) * strides[i] >= size[i] + pads[i]:
                count -= 1
            result.append(count)
        return result

    def flatten(self):
        self.append("Flatten")
        self.shape = (int(np.prod(self.shape)),)

    def build(self, dequantize: bool = False):
        if dequantize:
            self.append("DequantizeLinear", self.constant(self.scale), self.constant(self.zero))
        codes = TensorProto.INT8 if self.dtype == np.int8 else TensorProto.UINT8
        graph = helper.make_graph(
            self.nodes, "random",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT if self.quantize else codes,
                                           ["N", *self.input_shape])],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT if dequantize else codes,
                                           ["N", *self.shape])],
            self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model

    def inputs(self, count):
        if self.quantize:
            return self.rng.normal(0, 3, (count, *self.input_shape)).astype(np.float32)
        info = np.iinfo(self.dtype)
        return self.rng.integers(info.min, info.max + 1, (count, *self.input_shape), self.dtype)


def run_onnxruntime(model, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs})[0]
