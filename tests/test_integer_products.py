"""Products of codes that stay numbers: sums on the chip, their scales and biases on the host."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from onnx import TensorProto, helper

from kiwicha import ChipConfig
from kiwicha_host import load_model

TINY = ChipConfig.preset("tiny")
#: Half a unit in the last place of float32, relative to a number.
HALF = 2.0 ** -24


class Numbers(Between):
    """Of random codes and scales; weights are int8."""

    def decoded(self, *shape, axis=0, per_channel=True):
        scale = np.float32(self.rng.uniform(0.001, 0.02, shape[axis] if per_channel else ()))
        zero = np.zeros(scale.shape, np.int8)
        return self("DequantizeLinear", self.rng.integers(-127, 128, shape, np.int8), scale, zero, axis=axis)

    def floats(self, *outputs):
        model = self.model(*outputs)
        for item in model.graph.output:
            item.CopyFrom(helper.make_tensor_value_info(item.name, TensorProto.FLOAT, None))
        return model

    def inputs(self, count=3):
        return {name: self.rng.integers(0, 256, (count, *shape[1:])).astype(np.uint8).view(self.dtype)
                for name, shape in self.shapes.items()}


def check(net, *outputs, products, exactly=False):
    """Near ONNX Runtime's numbers, with all products, so many, on the chip."""
    model, inputs = net.floats(*outputs), net.inputs()
    with load_model(model, TINY, "golden") as loaded:
        results, run = loaded.run(inputs), loaded.last_run
        for (name, got), expected in zip(results.items(), onnxruntime_says(model, inputs), strict=True):
            if exactly:
                np.testing.assert_array_equal(got, expected, err_msg=name)
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        assert run.host_macs == 0 and sum(row.macs > 0 for row in loaded.placement) == products
        return loaded, results


@DTYPES
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bias", [None, "float", "int32", "int8"])
def test_convolutions(dtype, per_channel, bias):
    net = Numbers(dtype, x=["N", 4, 6, 5], y=["N", 4, 9])
    results = []
    for name, kernel in (("x", (3, 2)), ("y", (3,))):
        weights = net.decoded(6, 4, *kernel, per_channel=per_channel)
        more = {"float": [net.weights(6)], "int32": [net("DequantizeLinear", net.rng.integers(
            -3000, 3000, 6, np.int32), np.float32(0.001))], "int8": [net(
                "DequantizeLinear", net.rng.integers(-99, 99, 6, np.int8), np.float32(0.1), np.int8(1))]}
        results.append(net("Conv", net.numbers(name, 0.03), weights, *more.get(bias, []),
                           strides=[2] * len(kernel)))
    check(net, *results, products=2)


@DTYPES
@pytest.mark.parametrize("channels, outputs, group", [(6, 6, 6), (6, 12, 6), (6, 4, 2), (6, 8, 2), (6, 10, 2)])
def test_convolutions_in_groups(dtype, channels, outputs, group):
    """Fewer, as many and more results in a group than the array has columns; the zeros beside them are no work."""
    net = Numbers(dtype, x=["N", channels, 5, 4])
    made = net("Conv", net.numbers("x", 0.03), net.decoded(outputs, channels // group, 3, 2), net.weights(outputs),
               group=group, strides=[2, 1])
    loaded, _ = check(net, made, products=1)
    assert loaded.last_run.work.macs == 3 * outputs * (2 * 3) * (channels // group * 3 * 2)


@DTYPES
@pytest.mark.parametrize("kernel, group, attributes", [
    ((3, 3), 1, {}), ((2, 2), 1, {"strides": [3, 3], "output_padding": [2, 2]}),
    ((3, 2), 2, {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]}),
    ((4, 4), 6, {"strides": [2, 2], "pads": [1] * 4}),
    ((5,), 3, {"strides": [2], "pads": [2, 1], "output_padding": [1]})])
def test_transposed_convolutions(dtype, kernel, group, attributes):
    """Where results overlap, where none falls on some, and where a part is cut off; a scale for each result."""
    net = Numbers(dtype, x=["N", 6, *(5, 4)[:len(kernel)]])
    weights = net.decoded(6, 12 // group, *kernel, axis=1)
    made = net("ConvTranspose", net.numbers("x", 0.03), weights, net.weights(12), group=group, **attributes)
    loaded, _ = check(net, made, products=1)
    assert [row.op for row in loaded.placement if row.macs] == ["ConvTranspose+Cast"]
    again = net("ConvTranspose", net.numbers("x", 0.03), net.decoded(6, 2, *kernel, per_channel=False))
    check(net, again, products=1)


@pytest.mark.parametrize("kind, shape, groups", [("Conv", (1, 1, 1), 4), ("ConvTranspose", (1, 2, 1), 2)])
def test_groups_that_fill_the_columns_together(kind, shape, groups):
    """They take hardly longer than one, if they fill no more rows than there are."""
    cycles = []
    for group in (1, groups):
        net = Numbers(np.uint8, x=["N", group, 12, 9])
        made = net(kind, net.numbers("x", 0.03), net.decoded(group, *shape, per_channel=False), group=group)
        loaded, _ = check(net, made, products=1)
        cycles.append(loaded.last_run.result.cycles)
    assert cycles[0] <= cycles[1] < 1.5 * cycles[0]


@DTYPES
@pytest.mark.parametrize("per_channel", [False, True])
def test_matrices(dtype, per_channel):
    """ONNX Runtime adds up integers here, too."""
    net = Numbers(dtype, x=["N", 20], y=["N", 3, 20])
    x, y = net.numbers("x", 0.03), net.numbers("y", 0.02)
    weights = net.decoded(6, 20, axis=0, per_channel=per_channel)
    check(net, net("MatMul", y, net.decoded(20, 6, axis=1, per_channel=per_channel)),
          net("Gemm", x, weights, transB=1), net("Gemm", x, weights, net.weights(6), transB=1, alpha=0.5),
          net("Gemm", x, weights, net.weights(1, 6), transB=1), products=4)


@DTYPES
def test_exact_biases(dtype):
    """int32, in steps of the sums: one rounding less, and ONNX Runtime's numbers to the bit."""
    net = Numbers(dtype, x=["N", 20])
    scale = np.float32(net.rng.uniform(0.001, 0.02, 6))
    weights = net("DequantizeLinear", net.rng.integers(-127, 128, (20, 6), np.int8), scale, np.zeros(6, np.int8),
                  axis=1)
    bias = net("DequantizeLinear", net.rng.integers(-3000, 3000, 6, np.int32), np.float32(0.03) * scale, axis=0)
    loaded, _ = check(net, net("Gemm", net.numbers("x", 0.03), weights, bias), products=1, exactly=True)
    assert [row.op for row in loaded.placement] == ["MatMulInteger", "Add+Cast+Mul"]


@DTYPES
def test_computed_operands(dtype):
    """Also where what follows needs numbers, as softmax without QuantizeLinear does."""
    net = Numbers(dtype, x=["N", 2, 5, 8], y=["N", 2, 8, 5])
    check(net, net("Softmax", net("MatMul", net.numbers("x", 0.02), net.numbers("y", 0.01)), axis=-1), products=1)


@pytest.mark.parametrize("seed", range(8))
def test_how_exact(seed):
    """Within three halves of a unit in the last place of scale times sum, and one of the result."""
    rng = np.random.default_rng(seed)
    x_scale, scale = np.float32(rng.uniform(0.01, 0.1)), np.float32(rng.uniform(0.001, 0.02, 7))
    net = Numbers(np.uint8, x=["N", 40])
    weights, bias = rng.integers(-127, 128, (40, 7), np.int8), np.float32(rng.normal(0, 20, 7))
    made = net("Gemm", net.numbers("x", x_scale, 3), net("DequantizeLinear", weights, scale, np.zeros(7, np.int8),
                                                         axis=1), bias)
    inputs = net.inputs(50)
    with load_model(net.floats(made), TINY, "golden") as loaded:
        got = loaded.run(inputs)[made].astype(np.float64)
    products = ((inputs["x"].astype(np.int64) - 3) @ weights.astype(np.int64)) * (np.float64(x_scale) * scale)
    assert (np.abs(got - products - bias) <= 3 * HALF * np.abs(products) + HALF * np.abs(got)).all()


@DTYPES
def test_a_residual_without_codes(dtype):
    """Conv, Add, Relu and one QuantizeLinear: the host adds, or a chip with functions."""
    net = Numbers(dtype, x=["N", 4, 6, 6])
    x = net.numbers("x", 0.03)
    sums = net("Relu", net("Add", net("Conv", x, net.decoded(4, 4, 3, 3), net.weights(4), pads=[1] * 4), x))
    after = net.codes(net("Conv", net.numbers(net.codes(sums, 0.1), 0.1, 5), net.decoded(4, 4, 3, 3)), 0.5)
    model, inputs = net.model(after), net.inputs()
    with load_model(model, TINY, "golden") as loaded:
        [got], [expected] = loaded.run(inputs).values(), onnxruntime_says(model, inputs)
        assert (np.abs(got.astype(int) - expected.astype(int)) <= 1).all() and (got == expected).mean() > 0.99
        assert loaded.last_run.host_macs == 0 < loaded.last_run.work.macs
        assert [row.op for row in loaded.placement if row.place == "host"] == [
            "DequantizeLinear", "Add", "Relu", "QuantizeLinear"]
    with load_model(model, "wide", "golden", strict=True) as loaded:
        [got] = loaded.run(inputs).values()
    assert (np.abs(got.astype(int) - expected.astype(int)) <= 1).all() and (got == expected).mean() > 0.99


@pytest.mark.parametrize("made", ["transA", "beta", "scales", "zeros", "int16"])
def test_what_stays(made):
    """The host multiplies numbers, as ONNX Runtime does."""
    net = Numbers(np.uint8, y=["N", 4])
    y = net.numbers("y", 0.03)
    weights, square, scale = net.decoded(4, 4), net.rng.integers(-9, 9, (4, 4), np.int8), np.float32([1, 2, 3, 4])
    axis0 = net("DequantizeLinear", square, scale, np.zeros(4, np.int8), axis=0)
    zeros = net("DequantizeLinear", square, scale, np.arange(4, dtype=np.int8), axis=1)
    result = {"transA": lambda: net("Gemm", y, net.decoded(3, 5), transA=1),
              "beta": lambda: net("Gemm", y, weights, net.weights(4), beta=0.5),
              "scales": lambda: net("MatMul", y, axis0), "zeros": lambda: net("MatMul", y, zeros),
              "int16": lambda: net("MatMul", y, net("DequantizeLinear", square.astype(np.int16), np.float32(1),
                                                    np.int16(0)))}[made]()
    model, inputs = net.floats(result), net.inputs()
    model.opset_import[0].version = 21
    with load_model(model, TINY, "golden") as loaded:
        np.testing.assert_array_equal(loaded.run(inputs)[result], onnxruntime_says(model, inputs)[0])
        assert loaded.last_run.work.macs == 0 < loaded.last_run.host_macs
