"""Networks as ONNX Runtime's quantizer makes them, QuantizeLinear and DequantizeLinear in pairs, bit for bit."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from code_nets import Between
from code_nets import check as check_codes
from onnx import TensorProto, helper
from onnx_models import ModelBuilder
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.compiler import compile_onnx
from kiwicha_host.compiler.ir.graph import Graph, Op
from kiwicha_host.compiler.passes.fold_qdq import fold_qdq
from kiwicha_host.compiler.passes.integer_products import integer_products
from kiwicha_host.inference import infer

TINY = ChipConfig.preset("tiny")


class FloatNet(ModelBuilder):
    """A chain of operators in floating point on [N, *shape], with random weights."""

    def __init__(self, seed, shape):
        super().__init__(np.random.default_rng(seed), shape)

    def add(self, op, *constants, **attributes):
        self.append(op, *map(self.constant, constants), **attributes)
        return self

    def weights(self, *shape):
        return self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)

    def model(self):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(self.nodes, "net", [value("input", TensorProto.FLOAT, ["N", *self.shape])],
                                  [value(self.last, TensorProto.FLOAT, None)], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model


def lenet():
    net = FloatNet(1, (1, 12, 12))
    net.add("Conv", net.weights(6, 1, 3, 3), net.weights(6), pads=[1, 1, 1, 1]).add("Relu")
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    net.add("Conv", net.weights(8, 6, 3, 3), net.weights(8)).add("Relu")
    net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).add("Flatten")
    net.add("Gemm", net.weights(20, 32), net.weights(20), transB=1).add("Relu")
    return net.add("Gemm", net.weights(20, 10), net.weights(10))


def six():
    """ReLU6, groups and strides, no biases, MatMul."""
    net = FloatNet(2, (4, 9, 9))
    net.add("Conv", net.weights(8, 4, 3, 3), strides=[2, 2]).add("Clip", np.float32(0), np.float32(6))
    net.add("Conv", net.weights(8, 1, 3, 3), group=8, pads=[1, 1, 1, 1])
    net.add("Clip", np.float32(-0.2), np.float32(1.5))
    net.add("Reshape", np.array([0, -1]))
    return net.add("MatMul", net.weights(128, 7)).add("Relu").add("MatMul", net.weights(7, 3))


def random_net(seed):
    net = FloatNet(seed, (3, 3, 3))
    rng = net.rng
    channels = int(rng.integers(1, 9))
    net.shape = (channels, *map(int, rng.integers(4, 13, 2)))
    size = list(net.shape[1:])
    for _ in range(rng.integers(1, 4)):
        group = int(rng.choice([1, 1, channels]))
        outputs = group * int(rng.integers(1, 6))
        kernel = [int(rng.integers(1, min(3, side) + 1)) for side in size]
        strides = [int(item) for item in rng.integers(1, 3, 2)]
        pads = [int(rng.integers(0, kernel[i % 2])) for i in range(4)]
        biases = [net.weights(outputs)] if rng.random() < 0.7 else []
        net.add("Conv", net.weights(outputs, channels // group, *kernel), *biases, group=group, strides=strides,
                pads=pads)
        size = [(side + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, side in enumerate(size)]
        channels = outputs
        behind = rng.choice(["Relu", "Clip", "none"])
        if behind == "Clip":
            net.add("Clip", np.float32(rng.choice([0, -0.3])), np.float32(rng.uniform(0.2, 6)))
        elif behind == "Relu":
            net.add("Relu")
        if min(size) >= 3 and rng.random() < 0.4:
            net.add("MaxPool", kernel_shape=[2, 2], strides=[1, 2])
            size = [size[0] - 1, (size[1] - 2) // 2 + 1]
    features = channels * size[0] * size[1]
    if rng.random() < 0.6:
        net.add("Flatten")
        for outputs in rng.integers(1, 20, rng.integers(1, 3)):
            if rng.random() < 0.3:
                net.add("MatMul", net.weights(features, outputs))
            elif rng.random() < 0.5:
                net.add("Gemm", net.weights(outputs, features), net.weights(outputs), transB=1)
            else:
                net.add("Gemm", net.weights(features, outputs), net.weights(outputs))
            features = outputs
            if rng.random() < 0.5:
                net.add("Relu")
    return net


class Calibration(CalibrationDataReader):
    def __init__(self, batches):
        self._batches = iter(batches)

    def get_next(self):
        return next(self._batches, None)


def quantized(net, tmp_path, seed, weight_type=QuantType.QInt8, **options):
    """The network through ONNX Runtime's own tool."""
    source, target = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(net.model(), source)
    rng = np.random.default_rng(seed)
    data = Calibration([{"input": rng.normal(0, 1, (8, *net.shape)).astype(np.float32)} for _ in range(3)])
    quantize_static(source, target, data, weight_type=weight_type, **options)
    return target


def onnxruntime_says(path, inputs):
    """With its fusions, which make integer operators of the pairs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs})[0]


@pytest.mark.parametrize("activations", [QuantType.QInt8, QuantType.QUInt8], ids=lambda item: item.name)
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
# With symmetric activations QOperator leaves each Relu between numbers of two scales, which is the host's work.
@pytest.mark.parametrize("form, symmetric", [(QuantFormat.QDQ, False), (QuantFormat.QDQ, True),
                                             (QuantFormat.QOperator, False)])
@pytest.mark.parametrize("net", [lenet, six])
def test_quantized_networks(net, form, symmetric, per_channel, activations, tmp_path):
    check(net(), tmp_path, quant_format=form, activation_type=activations, per_channel=per_channel,
          extra_options={"ActivationSymmetric": symmetric})


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed, tmp_path):
    rng = np.random.default_rng(seed)
    check(random_net(seed), tmp_path, activation_type=rng.choice([QuantType.QInt8, QuantType.QUInt8]),
          per_channel=bool(rng.integers(2)), extra_options={"ActivationSymmetric": bool(rng.integers(2))})


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("net", [lenet, six])
def test_uint8_weights(net, per_channel, tmp_path):
    """With a zero point in the middle, which leaves them the range of int8."""
    check(net(), tmp_path, weight_type=QuantType.QUInt8, activation_type=QuantType.QUInt8, per_channel=per_channel,
          extra_options={"WeightSymmetric": True})


@pytest.mark.parametrize("net", [lenet, six])
def test_operators_of_onnxruntimes_own_domain(net, tmp_path):
    check(net(), tmp_path, activation_type=QuantType.QUInt8, per_channel=True,
          extra_options={"UseQDQContribOps": True})


def check(net, tmp_path, **options):
    """The golden machine's numbers are ONNX Runtime's."""
    path = quantized(net, tmp_path, 3, **options)
    inputs = np.random.default_rng(4).normal(0, 1.3, (5, *net.shape)).astype(np.float32)
    network = compile_onnx(TINY, path)
    with open_device("golden", config=TINY) as device:
        outputs, _ = infer(device, network, inputs)
    np.testing.assert_array_equal(outputs, onnxruntime_says(path, inputs))
    assert network.macs(1) > 0


@pytest.mark.parametrize("op, shape, axis, attributes", [
    ("MatMul", (5, 6), 0, {}), ("MatMul", (5, 6), -2, {"perm": [1, 0]}), ("Gemm", (5, 6), 0, {"perm": [1, 0]}),
    ("Conv", (3, 2, 6, 5), 3, {"perm": [3, 2, 0, 1]}), ("MatMul", (5, 6), None, {})])
def test_transposed_weights(op, shape, axis, attributes):
    """Scales go along with what they are for; two products may have the same weights."""
    net = Between(np.uint8, x=["N", 6, 4, 3] if op == "Conv" else ["N", 6])
    weights, scale = net.rng.integers(-128, 128, shape, np.int8), np.float32(0.01)
    if axis is not None:
        scale = net.rng.uniform(0.001, 0.01, shape[axis]).astype(np.float32)
    weights = net("DequantizeLinear", weights, scale, np.zeros_like(scale, np.int8), **(
        {} if axis is None else {"axis": axis}))
    outputs = [net.codes(net(op, net.numbers("x", scale), net("Transpose", weights, **attributes)))
               for scale in (0.05, 0.03)]
    shape = net.shapes["x"][1:]
    check_codes(net.model(*outputs), {"x": net.rng.integers(0, 256, (3, *shape)).astype(np.uint8)})


# The rules, on graphs that a person can read.

CONSTANTS = {"s": np.float32(0.5), "z": np.int8(3), "t": np.float32(0.25), "w": np.ones((2, 2), np.int8),
             "ws": np.array([1, 2], np.float32), "wz": np.zeros(2, np.int8), "b": np.array([7, 8], np.int32),
             "bs": np.array([0.5, 1], np.float32), "bz": np.zeros(2, np.int32)}


def codes(*ops, outputs=("y",), **constants):
    """From codes x to codes y; X is what x stands for, W and B are weights and bias, Y is what y is made of."""
    before = [Op("dx", "DequantizeLinear", ("x", "s", "z"), ("X",)),
              Op("dw", "DequantizeLinear", ("w", "ws", "wz"), ("W",), {"axis": 1}),
              Op("db", "DequantizeLinear", ("b", "bs", "bz"), ("B",))]
    graph = Graph(("x",), outputs, (*before, *ops), CONSTANTS | constants, {}, {"": 17})
    return fold_qdq(graph.verify()).verify()


def quantize(scale="t", zero="z", **attributes):
    return Op("q", "QuantizeLinear", ("Y", scale, zero), ("y",), attributes)


def kinds(graph):
    return [op.kind for op in graph.ops]


def test_what_is_folded():
    product = codes(Op("p", "MatMul", ("X", "W"), ("Y",)), quantize())
    assert product.dump() == """\
graph(x) -> (y)
  s: float32[] = 0.5
  z: int8[] = 3
  t: float32[] = 0.25
  w: int8[2, 2] = [[1, 1], [1, 1]]
  ws: float32[2] = [1.0, 2.0]
  wz: int8[2] = [0, 0]
  y = QLinearMatMul 'p' (x, s, z, w, ws, wz, t, z)
"""
    gemm = codes(Op("p", "Gemm", ("X", "W", "B"), ("P",), {"beta": 1.0}),
                 Op("r", "Relu", ("P",), ("Y",)), quantize())
    assert [(op.kind, op.inputs, op.outputs) for op in gemm.ops] == [
        ("com.microsoft.QGemm", ("x", "s", "z", "w", "ws", "wz", "b", "t", "z"), ("P_codes",)),
        ("Max", ("P_codes", "z"), ("y",))]
    assert gemm.opsets == {"": 17, "com.microsoft": 1}
    pool = codes(Op("p", "MaxPool", ("X",), ("P",), {"kernel_shape": [2, 2]}),
                 Op("c", "Clip", ("P", "", "six"), ("Y",)), quantize(scale="s"), six=np.float32(6))
    assert [(op.kind, op.inputs) for op in pool.ops] == [("MaxPool", ("x",)), ("Clip", ("P_codes", "", "Y_max"))]
    assert pool.constants["Y_max"] == np.int8(15) and pool.constants["Y_max"].dtype == np.int8
    assert kinds(codes(Op("r", "Relu", ("X",), ("Y",)), quantize(scale="s"))) == ["Identity", "Max"]
    square = codes(Op("p", "MatMul", ("X", "X"), ("Y",)), quantize())
    assert square.ops == (Op("p", "QLinearMatMul", ("x", "s", "z", "x", "s", "z", "t", "z"), ("y",)),)


@pytest.mark.parametrize("op, behind, constants", [
    (Op("p", "MaxPool", ("X",), ("Y",), {"kernel_shape": [2, 2]}), quantize(), {}),     # another scale
    (Op("p", "MaxPool", ("X",), ("Y",), {"kernel_shape": [2, 2]}), quantize("s", "other"), {"other": np.int8(4)}),
    (Op("p", "MaxPool", ("X",), ("Y",), {"kernel_shape": [2, 2]}), quantize("s", "other"), {"other": np.uint8(3)}),
    (Op("p", "MatMul", ("X", "W"), ("Y",)), quantize(output_dtype=3), {}),
    (Op("p", "MatMul", ("X", "W"), ("Y",)), quantize(scale="ws"), {}),
    (Op("p", "Gemm", ("X", "W", "B"), ("Y",)), quantize(), {"bs": np.ones(3, np.float32)}),
    (Op("p", "Gemm", ("X", "W", "f"), ("Y",)), quantize(), {"f": np.ones(2, np.float16)}),
    (Op("p", "Gemm", ("X", "W", "B"), ("Y",), {"alpha": 2.0}), quantize(), {}),
    (Op("p", "Gemm", ("X", "W", "B"), ("Y",), {"beta": 2.0}), quantize(), {}),
    (Op("p", "Gemm", ("X", "W"), ("Y",), {"transA": 1}), quantize(), {}),
    (Op("p", "Gemm", ("X", "W"), ("Y",), {"transB": 1}), quantize(), {}),               # scales along the sums
    (Op("p", "Conv", ("X", "W"), ("Y",)), quantize(), {}),                              # the same
    (Op("p", "MatMul", ("X", "X"), ("Y",)), quantize(), {"s": np.float32(np.nan)}),
    (Op("p", "MatMul", ("X", "W"), ("Y",)), quantize(), {"z": np.int16(3)}),
    (Op("p", "Sigmoid", ("X",), ("Y",)), quantize(), {}),
    *((Op("p", "Relu", ("X",), ("Y",)), quantize(scale="s"), {"s": scale}) for scale in (
        np.float32(-0.5), np.float32(0), np.float32(np.inf), np.int32(1), np.float16(0.5))),
    *((Op("p", "Relu", ("X",), ("Y",)), quantize(scale="s"), {"z": zero}) for zero in (
        np.float32(3), ml_dtypes.int4(3))),
    (Op("p", "MatMul", ("X", "W"), ("Y",)), quantize(), {"ws": np.ones((1, 2), np.float32)}),
    (Op("p", "MatMul", ("X", "W"), ("Y",)), quantize(), {"s": np.float32(-1)})])
def test_what_stays(op, behind, constants):
    graph = codes(op, behind, **constants)
    assert graph.ops[-2:] == (op, behind) and "DequantizeLinear" in kinds(graph)


@pytest.mark.parametrize("bound, code", [(0.9, 5), (1.25, 5), (1.75, 7), (-0.9, 1), (1e9, 127), (-np.inf, -128)])
def test_limits_are_rounded_as_numbers_are(bound, code):
    graph = codes(Op("c", "Clip", ("X", "bound"), ("Y",)), quantize("s"), bound=np.float32(bound))
    assert graph.constants["Y_min"] == code


@pytest.mark.parametrize("bound", [np.float32(np.nan), np.complex64(1), np.float16(1)])
def test_limits_that_are_none(bound):
    clip = Op("c", "Clip", ("X", "", "bound"), ("Y",))
    assert codes(clip, quantize(scale="s"), bound=bound).ops[-2:] == (clip, quantize(scale="s"))


@pytest.mark.parametrize("shape, axis, folded", [
    ((2, 2), 1, True), ((2, 2), -1, True), ((2, 2), 0, False), ((2, 2), 3, False), ((2, 2), -3, False),
    ((2, 2, 2), 2, True), ((2, 2, 2), -1, True), ((2, 2, 2), 0, False), ((2, 2, 2), 1, False), ((2,), 0, False),
    ((2,), -1, False)])
def test_the_axis_of_weights(shape, axis, folded):
    weights = Op("v", "DequantizeLinear", ("w", "ws", "wz"), ("V",), {"axis": axis})
    product = Op("p", "MatMul", ("X", "V"), ("Y",))
    graph = codes(weights, product, quantize(), w=np.ones(shape, np.int8))
    assert (kinds(graph) == ["QLinearMatMul"]) == folded
    numbers = integer_products(codes(weights, product, outputs=("Y",), w=np.ones(shape, np.int8)))
    assert (kinds(numbers)[0] == "MatMulInteger") == folded


@pytest.mark.parametrize("alpha", [0.37, 1.5, 3.0])
def test_factors_of_products(alpha):
    """They are rounded where ONNX Runtime rounds, also of more results than one scale."""
    for seed in range(5):
        net = Between(np.uint8, x=["N", 30])
        net.rng = np.random.default_rng(seed)
        scale = net.rng.uniform(0.001, 0.02, 6).astype(np.float32)
        codes = net.rng.integers(-127, 128, (30, 6), np.int8)
        weights = net("DequantizeLinear", codes, scale, np.zeros(6, np.int8))
        made = net("Gemm", net.numbers("x", net.rng.uniform(0.01, 0.1)), weights, alpha=alpha, beta=0.5)
        model = net.model(net.codes(made, net.rng.uniform(0.05, 0.2)))
        layers = check_codes(model, {"x": net.rng.integers(0, 256, (40, 30), np.uint8)})
        assert [layer.op for layer in layers.layers] == ["com.microsoft.QGemm"]


@pytest.mark.parametrize("shape", [(2,), (2, 2, 2)])
def test_sums_with_products_of_no_matrix(shape):
    """The chip has no bias for these."""
    made = codes(Op("v", "DequantizeLinear", ("w", "s", "z"), ("V",)), Op("p", "MatMul", ("X", "V"), ("P",)),
                 Op("a", "Add", ("P", "number"), ("Y",)), quantize(), w=np.ones(shape, np.int8),
                 number=np.float32(1))
    assert kinds(made)[-2:] == ["Add", "QuantizeLinear"]


def test_what_something_else_needs_stays():
    """A product is computed once; what chooses among codes may be done on both sides."""
    graph = codes(Op("p", "MatMul", ("X", "W"), ("Y",)), quantize(), outputs=("y", "Y"))
    assert kinds(graph) == ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]
    graph = codes(Op("p", "MaxPool", ("X",), ("Y",), {"kernel_shape": [2, 2]}), quantize("s"), outputs=("y", "Y"))
    assert kinds(graph) == ["DequantizeLinear", "MaxPool", "MaxPool"]
    assert len({op.name for op in graph.ops}) == 3
