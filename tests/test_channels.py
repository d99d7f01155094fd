"""Lines through codes, one for each channel: what ONNX Runtime says, as convolutions of one place."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from layer_reference import run_layers
from onnx import TensorProto

from kiwicha_host.compiler.errors import CompileError
from kiwicha_host.compiler.legalize.channels import _best
from kiwicha_host.compiler.legalize.evaluate import CODES
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.compiler.passes.fold_channels import CHANNELWISE


def vector(net, channels, rank, axis, low=0.3, high=2.0):
    """Random numbers of either sign along an axis."""
    numbers = net.rng.uniform(low, high, channels) * net.rng.choice([-1, 1], channels)
    return numbers.astype(np.float32).reshape([-1 if item == axis else 1 for item in range(axis, rank)])


def batch_normalization(net, x, channels, rank):
    scale, bias, mean = (vector(net, channels, 2, 1).reshape(-1) for _ in range(3))
    return net("BatchNormalization", x, scale, bias, mean, np.abs(mean) + np.float32(0.1), epsilon=0.01)


def multiply_add(net, x, channels, rank):
    return net("Add", net("Mul", vector(net, channels, rank, 1), x), vector(net, channels, rank, 1))


def subtract_divide(net, x, channels, rank):
    return net("Neg", net("Div", net("Sub", vector(net, channels, rank, 1), x), vector(net, channels, rank, 1)))


def by_codes(net, x, channels, rank):
    """Constants that are codes."""
    codes = net("DequantizeLinear", net.rng.integers(30, 90, vector(net, channels, rank, 1).shape, np.int8),
                np.float32(0.02), np.int8(0))
    return net("Add", net("Mul", x, codes), np.float32(0.3))


def check(model, inputs, most=0.002):
    """Of the results so many may be the next code; there are layers alone."""
    layers = to_layers(optimize(model))
    for got, expected in zip(run_layers(layers, inputs).values(), onnxruntime_says(model, inputs), strict=True):
        assert got.dtype == expected.dtype
        off = np.abs(got.astype(int) - expected)
        assert off.max(initial=0) <= 1 and np.count_nonzero(off) <= most * off.size
    return layers


@DTYPES
@pytest.mark.parametrize("limit", [None, "Relu", "Clip"])
@pytest.mark.parametrize("function", [batch_normalization, multiply_add, subtract_divide, by_codes])
@pytest.mark.parametrize("shape", [[5], [4, 3], [6, 3, 5]])
def test_functions_of_channels(shape, function, limit, dtype):
    """Every code in every channel."""
    net = Between(dtype, x=["N", *shape])
    y = function(net, net.numbers("x"), shape[0], len(shape) + 1)
    if limit:
        y = net(limit, y, *[np.float32(-1), np.float32(2.5)] * (limit == "Clip"))
    model = net.model(net.codes(y, 0.037))
    assert [op.kind for op in optimize(model).ops] == [CHANNELWISE]
    codes = np.arange(256).astype(np.uint8).view(dtype).reshape(256, *[1] * len(shape))
    check(model, {"x": np.ascontiguousarray(np.broadcast_to(codes, (256, *shape)))})


def test_between_layers():
    """Of channels that are in another order, of rows, and with a MaxPool behind; weights of zero."""
    net = Between(np.uint8, x=["N", 4, 6, 6], r=["N", 5, 8])
    y = net("Conv", net.numbers("x"), net("DequantizeLinear", net.rng.integers(-9, 9, (4, 4, 3, 3), np.int8),
                                          np.float32(0.1), np.int8(0)), pads=[1] * 4)
    y = net("Reshape", net.numbers(net.codes(y, 0.1), 0.1, 5), np.array([0, 2, 2, 6, 6]))
    y = net("Transpose", net.numbers(net.codes(y, 0.1), 0.1, 5), perm=[0, 2, 1, 3, 4])
    y = net("Reshape", net.numbers(net.codes(y, 0.1), 0.1, 5), np.array([0, 4, 6, 6]))
    factors = np.array([2, 0, -0.5, 1e-9], np.float32).reshape(4, 1, 1)
    y = net.codes(net("Add", net("Mul", net.numbers(net.codes(y, 0.1), 0.1, 5), factors), 3 * factors), 0.11)
    pooled = net.codes(net("MaxPool", net.numbers(y, 0.11, 5), kernel_shape=[2, 2]), 0.11)
    rows = net("MatMul", net.numbers("r"), net("DequantizeLinear", net.rng.integers(-9, 9, (8, 6), np.int8),
                                               np.float32(0.1), np.int8(0)))
    scaled = net("Mul", net.numbers(net.codes(rows, 0.1), 0.1, 5), vector(net, 6, 3, 2))
    inputs = {name: net.rng.integers(0, 256, (3, *shape[1:]), np.uint8) for name, shape in net.shapes.items()}
    check(net.model(pooled, net.codes(scaled, 0.09)), inputs)


@pytest.mark.parametrize("what", ["height", "two axes", "relu inside", "another size", "divisor", "training",
                                  "half"])
def test_what_is_none(what):
    net = Between(np.uint8, x=["N", 1 if what == "another size" else 4, 3, 3])
    x, row = net.numbers("x"), vector(net, 4, 4, 1)
    if what == "height":
        row = vector(net, 3, 4, 2)
    if what == "two axes":
        row = row * vector(net, 3, 4, 2)
    if what == "half":
        x = net("Cast", net("Cast", x, to=TensorProto.FLOAT16), to=TensorProto.FLOAT)
    if what == "training":
        flat = np.abs(row.reshape(-1))
        y = net("BatchNormalization", x, flat, flat, flat, flat, training_mode=1, outputs=3)[0]
    elif what == "divisor":
        y = net("Div", row, x)
    else:
        y = net("Mul", net("Relu", x) if what == "relu inside" else x, row)
    kinds = {op.kind for op in optimize(net.model(net.codes(y), opset=17)).ops}
    assert (CHANNELWISE in kinds) == (what == "height")
    if what == "height":
        with pytest.raises(CompileError, match="Mul '.*': its constants are not along the channels"):
            to_layers(optimize(net.model(net.codes(y), opset=17)))


@pytest.mark.parametrize("factor, message", [(np.inf, "its numbers are not all finite"),
                                             (1e4, "its factors are too large for its output's scale")])
def test_numbers_that_are_too_large(factor, message):
    """So steep a line that one code alone is within the limits: no bias is exact enough."""
    net = Between(np.uint8, x=["N", 2, 3, 3])
    y = net("Mul", net.numbers("x"), np.array([factor, 1], np.float32).reshape(2, 1, 1))
    y = net.codes(net("Add", y, np.float32(-69500 + 0.4)))
    with pytest.raises(CompileError, match=f"Mul\\+Add '.*': {message}"):
        to_layers(optimize(net.model(y)))


@pytest.mark.parametrize("low, high", [(1e-6, 1e-3), (0.01, 1), (0.3, 3), (3, 50)])
def test_the_convolution_that_fits(low, high):
    """Of random lines nearly all results are right, and none is off by more than one."""
    rng = np.random.default_rng(0)
    slope = np.exp(rng.uniform(np.log(low), np.log(high), 256)) * rng.choice([-1, 1], 256)
    lines, zero = slope * CODES[:, None] + rng.normal(0, 60, 256), int(rng.integers(-128, 128))
    wanted = (np.rint(lines - zero) + zero).clip(-128, 127).astype(np.int64)
    fit = _best(lines, wanted, zero)
    sums = (fit.weights.astype(np.int64) * CODES[:, None] + fit.biases).astype(np.float32)
    off = np.abs((np.rint(sums * fit.factors) + fit.zero).clip(-128, 127) - wanted)
    assert off.max() == fit.most <= 1 and np.count_nonzero(off) == fit.wrong <= 5
