"""Layer normalization of codes as a layer, against ONNX Runtime's numbers."""

import ml_dtypes
import numpy as np
import pytest
from code_nets import DTYPES, Between, check_on, onnxruntime_says
from layer_reference import run_layers
from test_softmax import CHIPS, softmax

from bench.cycles import chip
from bench.float_nets import Net, random_inputs
from kiwicha_host import load_model, open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.ir.row_layers import LayerNormLayer
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize

SHAPES = [(7,), (3, 33), (2, 3, 16), (19, 192), (2, 768)]


def layer_norm(dtype, shape, rng, *, zero=3, scale=0.05, gain=None, bias=True, **given):
    features = shape[-1]
    gain = rng.normal(1, 0.3, features).astype(np.float32) if gain is None else gain
    factors = [gain] + [rng.normal(0, 0.3, features).astype(np.float32)] * bias
    net = Between(dtype, x=["N", *shape])
    return net, net.codes(net("LayerNormalization", net.numbers("x", scale, zero), *factors, **given), 0.03, 5)


def mean(net, x):
    return net("ReduceMean", x, np.array([-1]))


def in_parts(dtype, shape, rng, parts=("gain", "bias"), differences=1, **quantization):
    """The same in single operators, with one Sub or two, and with or without these."""
    net = Between(dtype, x=["N", *shape])
    x = net.numbers("x", **quantization)
    less = [net("Sub", x, mean(net, x)) for _ in range(differences)]
    root = net("Sqrt", net("Add", mean(net, net("Pow", less[0], np.float32(2))), np.float32(1e-5)))
    y = net("Div", less[-1], root)
    if "gain" in parts:
        y = net("Mul", y, rng.normal(1, 0.3, shape[-1]).astype(np.float32))
    if "bias" in parts:
        y = net("Add", rng.normal(0, 0.3, (1, shape[-1])).astype(np.float32), y)
    return net.model(net.codes(y, 0.03, 5))


def codes(rng, dtype, shape, middle, spread):
    info = np.iinfo(dtype)
    return np.clip(rng.normal(middle, spread, (2, *shape)), info.min, info.max).astype(dtype)


def result(model, config, x):
    with load_model(model, config, "golden", strict=True) as loaded:
        [got] = loaded.run({"x": x}).values()
    return got


@DTYPES
@pytest.mark.parametrize("seed, spread, far", [(0, 40, 0), (1, 3, 2), (2, 0, 0), (3, 100, 30), (4, 10, 20),
                                               (5, 3, 90), (6, 0.3, 90), (7, 1, -95)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(shape, seed, spread, far, dtype):
    """As a page of numpy says, and hardly ever the code next to ONNX Runtime's: also where the mean is far from
    zero and the codes are close to each other."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    zero = int(rng.integers(info.min + 100, info.max - 100))
    net, made = layer_norm(dtype, shape, rng, zero=zero, bias=bool(seed % 2), axis=-1,
                           epsilon=10.0 ** -(3 + 2 * (seed % 5)))
    model, x = net.model(made), codes(rng, dtype, shape, zero + far, spread)
    layers = to_layers(optimize(model))
    assert [type(layer) for layer in layers.layers] == [LayerNormLayer]
    [expected] = run_layers(layers, {"x": x}).values()
    got = result(model, "wide", x)
    np.testing.assert_array_equal(got, expected)
    off = np.abs(got.astype(int) - onnxruntime_says(model, {"x": x})[0])
    assert off.max() <= 1 and off.sum() <= 1 + off.size * 0.0015, (off.sum(), off.size)


@DTYPES
@pytest.mark.parametrize("differences", [1, 2])
@pytest.mark.parametrize("parts", [("gain", "bias"), ("gain",), ("bias",), ()], ids=str)
def test_single_operators(parts, differences, dtype):
    rng, shape = np.random.default_rng(6), (7, 33)
    model, x = in_parts(dtype, shape, rng, parts, differences), codes(rng, dtype, shape, 20, 30)
    [layer] = to_layers(optimize(model)).layers
    assert isinstance(layer, LayerNormLayer) and "ReduceMean+Sub" in layer.op
    off = np.abs(result(model, "wide", x).astype(int) - onnxruntime_says(model, {"x": x})[0])
    assert off.max() <= 1 and off.sum() <= 1
    with load_model(model, "tiny", "golden") as loaded:     # without functions
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x})[0])


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_the_quantizer_leaves_it_whole(opset):
    """From a version on that has LayerNormalization, ONNX Runtime's tool makes one."""
    net = Net(0, x=["N", 6, 16])
    x = net("MatMul", "x", net.weights(16, 16))
    axes = {"axes": [-1]} if opset < 18 else {}

    def mean(x):
        return net("ReduceMean", x, *[] if axes else [np.array([-1])], **axes)

    less = net("Sub", x, mean(x))
    root = net("Sqrt", net("Add", mean(net("Pow", less, np.float32(2))), np.float32(1e-5)))
    y = net("Add", net("Mul", net("Div", less, root), net.weights(16)), net.weights(16))
    model = net.model(net("MatMul", y, net.weights(16, 8)), opset=opset)
    data = quantize_model(model, random_inputs(model, np.random.default_rng(1), 8))
    with load_model(data, "wide", "golden", strict=True) as loaded:
        kinds = [row.op for row in loaded.placement if "Linear" not in row.op]
    whole = "ReduceMean+Sub+Pow+ReduceMean+Add+Sqrt+Div+Mul+Add"
    assert kinds == [whole if opset < 17 else "LayerNormalization"]


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
def test_on_chips_of_many_shapes(config):
    rng = np.random.default_rng(1)
    for shape in ((3, 33), (2, 3, 16), (40, 90)):
        net, made = layer_norm(np.int8, shape, rng)
        check_on(config, net.model(made), codes(rng, np.int8, shape, 10, 30))


def test_on_the_compiled_chip():
    """What waits for what shows there alone: the golden machine runs one instruction after the other."""
    rng = np.random.default_rng(7)
    with open_device("verilated", config=chip("tiny+functions+indices"), latency=30) as device:
        for shape in ((3, 4), (2, 33), (9, 17)):
            norm, softmax_ = layer_norm(np.uint8, shape, rng), softmax(np.uint8, shape, axis=-1)
            for (net, made), x in ((norm, codes(rng, np.uint8, shape, 20, 30)),
                                   (softmax_, rng.integers(0, 256, (2, *shape)).astype(np.uint8))):
                check_on(device, net.model(made), x)


def test_gains_of_zero_and_quantized_factors():
    """A channel without gain is its bias. As ONNX Runtime's quantizer has them: codes of constants, int32 bias."""
    rng = np.random.default_rng(2)
    gain = np.array([0, 1, -2, 1e-30, 0.5], np.float32)
    net, made = layer_norm(np.uint8, (4, 5), rng, gain=gain)
    models = [net.model(made)]
    net = Between(np.uint8, x=["N", 4, 5])
    factors = (net("DequantizeLinear", np.array(numbers, kind), np.float32(scale), kind(zero))
               for numbers, kind, scale, zero in (
               ([200, 100, 0, 255, 128], np.uint8, 0.01, 100), ([1000, -500, 3, 0, 70], np.int32, 0.0005, 0)))
    models.append(net.model(net.codes(net("LayerNormalization", net.numbers("x"), *factors), 0.02, 100)))
    x = rng.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    for model in models:
        np.testing.assert_array_equal(result(model, "wide", x), onnxruntime_says(model, {"x": x})[0])


def test_gains_and_scales_of_any_size():
    rng = np.random.default_rng(5)
    for size in (1e-19, 1e-25, 1e10):
        net = Between(np.uint8, x=["N", 6, 16])
        factors = [(rng.normal(0, 1, 16) * size).astype(np.float32) for _ in range(2)]
        made = net.codes(net("LayerNormalization", net.numbers("x"), *factors), size / 25, 128)
        model, x = net.model(made), rng.integers(0, 256, (3, 6, 16)).astype(np.uint8)
        np.testing.assert_array_equal(result(model, "wide", x), onnxruntime_says(model, {"x": x})[0])


def test_factors_of_float8_are_the_hosts():
    rng = np.random.default_rng(6)
    net = Between(np.uint8, x=["N", 4, 5])
    gain = net("DequantizeLinear", np.linspace(0.3, 1.7, 5).astype(ml_dtypes.float8_e4m3fn), np.float32(1))
    model = net.model(net.codes(net("LayerNormalization", net.numbers("x"), gain), 0.02, 100))
    x = rng.integers(0, 256, (3, 4, 5)).astype(np.uint8)
    with load_model(model, "wide", "golden") as loaded:
        [got] = loaded.run({"x": x}).values()
    np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])


def test_what_is_the_hosts():
    rng = np.random.default_rng(3)
    net, made = layer_norm(np.uint8, (3, 4), rng, gain=np.ones((3, 4), np.float32), bias=False, axis=1)
    model, x = net.model(made), rng.integers(0, 256, (2, 3, 4)).astype(np.uint8)
    with pytest.raises(CompileError, match="takes the last of several axes, not 1 of 3"):
        load_model(model, "wide", "golden", strict=True)
    with load_model(model, "wide", "golden") as loaded:
        [got] = loaded.run({"x": x}).values()
    np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])
    net, made = layer_norm(np.uint8, (3, 4), rng, scale=1e-9)
    with pytest.raises(CompileError, match="do not fit in 32 bits"):
        load_model(net.model(made), "wide", "golden", strict=True)
    net, made = layer_norm(np.uint8, (3, 4), rng)
    with pytest.raises(CompileError, match="needs a chip with functions"):
        load_model(net.model(made), "tiny", "golden", strict=True)


@pytest.mark.parametrize("single", [False, True])
def test_numbers_that_move_before_they_are_codes(single):
    """As where a network goes on without its first token; something looked at the numbers' shape, too."""
    net, rng = Between(np.uint8, x=["N", 7, 12]), np.random.default_rng(9)
    gain, bias = rng.normal(1, 0.1, 12).astype(np.float32), rng.normal(0, 0.1, 12).astype(np.float32)
    numbers = net.numbers("x")
    if single:
        centered = net("Sub", numbers, net("ReduceMean", numbers, np.array([-1])))
        variance = net("ReduceMean", net("Mul", centered, centered), np.array([-1]))
        norm = net("Div", centered, net("Sqrt", net("Add", variance, np.float32(1e-5))))
        norm = net("Add", net("Mul", norm, gain), bias)
    else:
        norm = net("LayerNormalization", numbers, gain, bias, epsilon=1e-5)
    size = net("Gather", net("Shape", norm), np.array([1]))
    moved = net("Transpose", net("Slice", norm, np.array([1]), size, np.array([1])), perm=[0, 2, 1])
    model = net.model(net.codes(moved, 0.03, 120))
    x = rng.integers(0, 256, (2, 7, 12)).astype(np.uint8)
    with load_model(model, "wide", "golden", strict=True) as loaded:
        [got], [expected] = loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x})
    assert np.abs(got.astype(int) - expected).max() <= 1 and (got != expected).mean() < 0.01
