"""Softmax of codes as a layer: ONNX Runtime's numbers."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, check, onnxruntime_says

from kiwicha import ChipConfig
from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.ir.row_layers import SoftmaxLayer
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize

SHAPES = [(1,), (7,), (3, 33), (2, 3, 16), (5, 1, 4), (19, 197), (1, 1000)]
#: Rows fill lines, or not; one tile holds few rows, or many.
CHIPS = [ChipConfig(name="few", rows=4, columns=4, bus_width=64, scratchpad_banks=2, bank_lines=256,
                    accumulator_lines=64, vector_lanes=1, functions=True),
         ChipConfig(name="odd", rows=3, columns=6, bus_width=64, scratchpad_banks=4, bank_lines=512,
                    accumulator_lines=64, vector_lanes=2, functions=True),
         ChipConfig.preset("wide")]


def softmax(dtype, shape, x_scale=0.1, y_scale=1 / 256, zero=0, **given):
    net = Between(dtype, x=["N", *shape])
    return net, net.codes(net("Softmax", net.numbers("x", x_scale, 3), **given), y_scale, zero)


@DTYPES
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(shape, seed, dtype):
    """Of any length and scale, with rows of one code, and of very different ones."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    scale = float(np.exp(rng.uniform(-5, 1)))
    net, made = softmax(dtype, shape, scale, float(rng.uniform(1 / 400, 1 / 100)),
                        int(rng.integers(info.min, info.max)), axis=-1)
    x = rng.integers(info.min, info.max, (2, *shape), dtype, endpoint=True)
    x[0, ..., :] = info.min if seed % 2 else info.max
    x[1] = np.where(rng.random(x[1].shape) < 0.5, x[1], x[1] // 4)
    [layer] = check(net.model(made), {"x": x}).layers
    assert isinstance(layer, SoftmaxLayer)


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
def test_on_chips_of_many_shapes(config):
    rng = np.random.default_rng(1)
    for shape in ((3, 33), (2, 3, 16), (40, 197)):
        net, made = softmax(np.uint8, shape, axis=-1)
        model, x = net.model(made), rng.integers(0, 256, (2, *shape)).astype(np.uint8)
        with load_model(model, config, "golden", strict=True) as loaded:
            [got] = loaded.run({"x": x}).values()
        np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])


def test_between_products():
    """With what comes before and after it, one program: the shape of attention's middle."""
    rng = np.random.default_rng(2)
    net = Between(np.uint8, x=["N", 12, 20])
    first, second = (net("DequantizeLinear", rng.integers(-100, 100, size).astype(np.int8), np.float32(0.01),
                         np.int8(0)) for size in ((20, 24), (24, 8)))
    scores = net.numbers(net.codes(net("MatMul", net.numbers("x"), first), 0.06, 120), 0.06, 120)
    parts = net.numbers(net.codes(net("Softmax", scores, axis=-1), 1 / 256, 0), 1 / 256, 0)
    model = net.model(net.codes(net("MatMul", parts, second), 0.003, 128))
    x = rng.integers(0, 256, (3, 12, 20)).astype(np.uint8)
    layers = check(model, {"x": x}).layers
    assert [type(layer).__name__ for layer in layers] == ["Layer", "SoftmaxLayer", "Layer"]
    with load_model(model, "wide", "golden", strict=True) as loaded:
        [got] = loaded.run({"x": x}).values()
    np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])


@pytest.mark.parametrize("shape, axis", [((6, 5), 1), ((5, 3, 4), 1), ((5, 3, 4), 2), ((5, 3, 4), -2)], ids=str)
@DTYPES
def test_any_axis(dtype, shape, axis):
    """Of channels, as detectors have it, or of another axis; alone and behind a convolution."""
    rng, info = np.random.default_rng(4), np.iinfo(dtype)
    net, made = softmax(dtype, shape, axis=axis)
    x = rng.integers(info.min, info.max, (2, *shape), dtype, endpoint=True)
    check(net.model(made), {"x": x})
    if len(shape) == 3:
        net = Between(dtype, x=["N", *shape])
        kernels = net("DequantizeLinear", rng.integers(-100, 100, (5, 5, 1, 1), np.int8), np.float32(0.01),
                      np.int8(0))
        made = net.numbers(net.codes(net("Conv", net.numbers("x"), kernels), 0.06, 3), 0.06, 3)
        model = net.model(net.codes(net("Softmax", made, axis=axis), 1 / 256, info.min))
        with load_model(model, "wide", "golden", strict=axis == 1) as loaded:
            [got] = loaded.run({"x": x}).values()
        np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])


@pytest.mark.parametrize("shape, perm, axis", [
    ([0, 3, 8, 10], [0, 2, 1, 3], 1), ([0, 3, 8, 10], [0, 1, 3, 2], -1), ([0, 3, 8, 2, 5], [0, 3, 4, 1, 2], -1)],
    ids=str)
def test_rows_in_parts_of_the_channels(shape, perm, axis):
    """As where a detector makes distances of distributions: all is one program."""
    rng = np.random.default_rng(5)
    net = Between(np.uint8, x=["N", 6, 2, 5])
    kernels = net("DequantizeLinear", rng.integers(-100, 100, (24, 6, 1, 1), np.int8), np.float32(0.01),
                  np.int8(0))
    made = net.numbers(net.codes(net("Conv", net.numbers("x"), kernels), 0.06, 120), 0.06, 120)
    moved = net("Transpose", net("Reshape", made, np.array(shape)), perm=perm)
    moved = net.numbers(net.codes(moved, 0.06, 120), 0.06, 120)
    model = net.model(net.codes(net("Softmax", moved, axis=axis), 1 / 256, 0))
    x = rng.integers(0, 256, (3, 6, 2, 5)).astype(np.uint8)
    assert "SoftmaxLayer" in {type(layer).__name__ for layer in check(model, {"x": x}).layers}
    with load_model(model, "wide", "golden", strict=True) as loaded:
        [got] = loaded.run({"x": x}).values()
    np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])


@pytest.mark.parametrize("opset, given, wrong", [
    (20, {"axis": 0}, "axis 0 must be one of 3 dimensions, and not the batch$"),
    (12, {"axis": 1}, "not 1 of 3; before opset 13, all axes from there on are one"),
    (12, {}, "not 1 of 3; before opset 13")])
def test_other_axes_are_the_hosts(opset, given, wrong):
    net, made = softmax(np.uint8, (3, 5), **given)
    with pytest.raises(CompileError, match=wrong):
        to_layers(optimize(net.model(made, opset=opset)))


def test_the_last_axis_before_opset_13():
    net, made = softmax(np.int8, (3, 5), axis=2)
    x = np.random.default_rng(3).integers(-128, 128, (2, 3, 5)).astype(np.int8)
    check(net.model(made, opset=12), {"x": x})


def test_without_functions_it_is_the_hosts():
    net, made = softmax(np.uint8, (3, 5), axis=-1)
    model, x = net.model(made), np.arange(15, dtype=np.uint8).reshape(1, 3, 5)
    with load_model(model, "tiny", "golden") as loaded:
        [got] = loaded.run({"x": x}).values()
        assert "needs a chip with functions; configuration 'tiny' has none" in str(loaded.placement)
    np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])
    with pytest.raises(CompileError, match="needs a chip with functions"):
        load_model(model, "tiny", "golden", strict=True)


def test_rows_that_do_not_fit_say_so():
    net, made = softmax(np.uint8, (2, 40000), axis=-1)
    with pytest.raises(CompileError, match="scratchpad lines for all channels of one place"):
        load_model(net.model(made), CHIPS[0], "golden", strict=True)


@pytest.mark.parametrize("config", ["tiny", "wide"])
@pytest.mark.parametrize("ends", ["x, two", "x, one", "codes, two", "codes, one"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_signed_codes_with_many_readers(ends, seed, config):
    """Where ONNX Runtime's codes are signed on one side alone it computes in numbers, by a scale that is not the
    reciprocal of an integer; so do the chip and, if it has no functions, the host."""
    rng, (source, readers) = np.random.default_rng(seed), ends.split(", ")
    net = Between(np.int8, x=["N", 4, 33])
    codes = net.codes(net("Neg", net.numbers("x")), 0.05, 3) if source == "codes" else "x"
    y_scale = float(rng.uniform(1 / 90, 1 / 30))
    y = net.numbers(net.codes(net("Softmax", net.numbers(codes, 0.05, 3), axis=-1), y_scale, -100), y_scale, -100)
    outputs = [net.codes(net(kind, y)) for kind in ("Neg", "Tanh")[:1 + (readers == "two")]]
    model, x = net.model(*outputs), rng.integers(-128, 128, (9, 4, 33), np.int8)
    with load_model(model, config, "golden") as loaded:
        results = loaded.run({"x": x})
        [place] = {(row.op == "Softmax", row.place) for row in loaded.placement if row.op.endswith("Softmax")}
    for got, expected in zip(results.values(), onnxruntime_says(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert place == ((source == "x") != (readers == "two"), "host" if config == "tiny" else "chip")
