"""Root mean square normalization of codes as a layer, against ONNX Runtime's numbers."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, check_on, onnxruntime_says
from layer_reference import run_layers
from test_layer_norm import SHAPES, codes, result
from test_softmax import CHIPS

from bench.cycles import chip
from bench.float_nets import Net, random_inputs
from kiwicha_host import load_model, open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.ir.row_layers import RmsNormLayer
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize


def operator(net, x, gain, epsilon):
    return net("RMSNormalization", x, gain, epsilon=epsilon)


def powers(net, x, gain, epsilon):
    mean = net("ReduceMean", net("Pow", x, np.float32(2)), np.array([-1]), keepdims=1)
    return net("Mul", gain, net("Div", x, net("Sqrt", net("Add", np.float32(epsilon), mean))))


def reciprocals(net, x, gain, epsilon):
    last = len(net.shapes["x"]) - 1
    root = net("Pow", net("Add", net("ReduceMean", net("Mul", x, x), np.array([last])), np.float32(epsilon)),
               np.float32(0.5))
    return net("Mul", net("Mul", net("Reciprocal", root), x), gain)


def quotients(net, x, gain, epsilon):
    """Without a gain."""
    root = net("Sqrt", net("Add", net("ReduceMean", net("Pow", x, np.float32(2)), np.array([-1])), np.float32(
        epsilon)))
    return net("Mul", x, net("Div", np.float32(1), root))


FORMS = pytest.mark.parametrize("form", [operator, powers, reciprocals, quotients],
                                ids=lambda form: form.__name__)


def rms_norm(dtype, shape, rng, form=operator, *, zero=3, scale=0.05, gain=None, epsilon=1e-5):
    gain = rng.normal(1, 0.3, shape[-1]).astype(np.float32) if gain is None else gain
    net = Between(dtype, x=["N", *shape])
    made = net.codes(form(net, net.numbers("x", scale, zero), gain, epsilon), 0.03, 5)
    return net.model(made, opset=23)


@DTYPES
@FORMS
@pytest.mark.parametrize("seed, spread, far", [(0, 40, 0), (1, 3, 2), (2, 0, 0), (3, 100, 30), (4, 0.3, 0),
                                               (5, 3, 90), (6, 0.3, -95)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(shape, seed, spread, far, form, dtype):
    """As a page of numpy says, and hardly ever the code next to ONNX Runtime's: also where all codes are small."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    zero = int(rng.integers(info.min + 100, info.max - 100))
    model = rms_norm(dtype, shape, rng, form, zero=zero, epsilon=10.0 ** -(3 + 2 * (seed % 5)))
    x, layers = codes(rng, dtype, shape, zero + far, spread), to_layers(optimize(model))
    assert [type(layer) for layer in layers.layers] == [RmsNormLayer]
    [expected] = run_layers(layers, {"x": x}).values()
    got = result(model, "wide", x)
    np.testing.assert_array_equal(got, expected)
    off = np.abs(got.astype(int) - onnxruntime_says(model, {"x": x})[0])
    assert off.max() <= 1 and off.sum() <= 1 + off.size * 0.0015, (off.sum(), off.size)


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
def test_on_chips_of_many_shapes(config):
    rng = np.random.default_rng(1)
    for shape in ((3, 33), (2, 3, 16), (40, 90)):
        check_on(config, rms_norm(np.int8, shape, rng), codes(rng, np.int8, shape, 10, 30))


def test_on_the_compiled_chip():
    """What waits for what shows there alone."""
    rng = np.random.default_rng(7)
    with open_device("verilated", config=chip("tiny+functions+indices"), latency=30) as device:
        for shape in ((3, 4), (2, 33), (9, 17)):
            check_on(device, rms_norm(np.uint8, shape, rng), codes(rng, np.uint8, shape, 20, 30))


def test_gains():
    """Of zero, quantized, of one number, and with more dimensions than they need."""
    rng = np.random.default_rng(2)
    x, all_codes = rng.integers(0, 256, (3, 4, 5)).astype(np.uint8), np.array([200, 100, 0, 255, 128], np.uint8)
    for gain in (np.array([0, 1, -2, 1e-30, 0.5], np.float32), np.float32([1.5]), np.float32(1.5),
                 np.ones((1, 1, 5), np.float32), None):
        net = Between(np.uint8, x=["N", 4, 5])
        given = gain if gain is not None else net("DequantizeLinear", all_codes, np.float32(0.01), np.uint8(100))
        model = net.model(net.codes(powers(net, net.numbers("x"), given, 1e-5), 0.02, 100), opset=23)
        np.testing.assert_array_equal(result(model, "wide", x), onnxruntime_says(model, {"x": x})[0])


@pytest.mark.parametrize("form", [powers, reciprocals, quotients, operator], ids=lambda form: form.__name__)
def test_the_quantizer_leaves_it_whole(form):
    """Squares in eight bits would be worth little."""
    net = Net(0, x=["N", 6, 16])
    y = form(net, net("MatMul", "x", net.weights(16, 16)), net.weights(16), 1e-5)
    model = net.model(net("MatMul", y, net.weights(16, 8)), opset=23)
    data = quantize_model(model, random_inputs(model, np.random.default_rng(1), 8))
    with load_model(data, "wide", "golden", strict=True) as loaded:
        kinds = [row.op for row in loaded.placement if "Linear" not in row.op]
        assert len(kinds) == 1 and ("RMSNormalization" in kinds[0] or kinds[0].count("+") >= 4)


def columns(net, x, gain, epsilon):
    """Something that is none."""
    mean = net("ReduceMean", net("Pow", x, np.float32(2)), np.array([-2]))
    return net("Mul", gain, net("Div", x, net("Sqrt", net("Add", mean, np.float32(epsilon)))))


def cubes(net, x, gain, epsilon):
    mean = net("ReduceMean", net("Pow", x, np.float32(3)), np.array([-1]))
    return net("Mul", gain, net("Div", x, net("Sqrt", net("Add", mean, np.float32(epsilon)))))


def of_another(net, x, gain, epsilon):
    mean = net("ReduceMean", net("Pow", net("Relu", x), np.float32(2)), np.array([-1]))
    return net("Mul", gain, net("Div", x, net("Sqrt", net("Add", mean, np.float32(epsilon)))))


@pytest.mark.parametrize("form", [columns, cubes, of_another], ids=lambda form: form.__name__)
def test_what_is_none(form):
    rng = np.random.default_rng(3)
    graph = optimize(rms_norm(np.uint8, (3, 4), rng, form))
    assert not any("RMS" in op.kind for op in graph.ops)


def test_what_is_the_hosts():
    rng = np.random.default_rng(3)
    net, x = Between(np.uint8, x=["N", 3, 4]), rng.integers(0, 256, (2, 3, 4)).astype(np.uint8)
    y = net("RMSNormalization", net.numbers("x"), np.ones((3, 4), np.float32), axis=1)
    model = net.model(net.codes(y), opset=23)
    with pytest.raises(CompileError, match="takes the last of several axes, not 1 of 3"):
        load_model(model, "wide", "golden", strict=True)
    for form in (powers, operator):     # also what is several operators
        model = rms_norm(np.uint8, (3, 4), rng, form)
        with pytest.raises(CompileError, match="needs a chip with functions"):
            load_model(model, "tiny", "golden", strict=True)
        with load_model(model, "tiny", "golden") as loaded:
            [got] = loaded.run({"x": x}).values()
        np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])
    for epsilon, scale, gain in ((0.0, 0.05, None), (1e-5, 0.05, np.full(4, 3e38, np.float32))):
        model = rms_norm(np.uint8, (3, 4), rng, powers, scale=scale, epsilon=epsilon, gain=gain)
        with pytest.raises(CompileError, match="its epsilon is not above zero"):
            load_model(model, "wide", "golden", strict=True)
