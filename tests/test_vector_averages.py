"""Averages of codes as layers: ONNX Runtime's numbers, to the bit."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, check, onnxruntime_says

from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize


@DTYPES
@pytest.mark.parametrize("seed", range(12))
def test_averages(seed, dtype):
    """Windows with padding that counts or does not, over images and rows, in codes and between them."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    flat = seed % 4 == 3
    kernel = [int(item) for item in rng.integers(1, 5, 2 - flat)]
    sides = [int(side + rng.integers(0, 6)) for side in kernel]
    given = {"kernel_shape": kernel, "strides": [int(item) for item in rng.integers(1, 4, 2 - flat)],
             "count_include_pad": int(rng.integers(2))}
    if rng.random() < 0.3:
        given["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    else:
        given["ceil_mode"] = int(rng.integers(2))
        given["pads"] = [int(rng.integers(0, size)) for size in kernel * 2]
    ends = [(np.float32(rng.uniform(0.01, 1)), dtype(rng.integers(info.min, info.max))) for _ in range(2)]
    net = Between(dtype, x=["N", 3, *sides])
    if seed % 2 or flat:
        made = net.codes(net("AveragePool", net.numbers("x", *ends[0]), **given), *ends[1])
    else:
        made = net("QLinearAveragePool", "x", *ends[0], *ends[1], channels_last=0, domain="com.microsoft", **given)
    x = rng.integers(info.min, info.max, (2, 3, *sides), dtype, endpoint=True)
    [layer] = check(net.model(made), {"x": x}).layers
    assert layer.pool is not None


@pytest.mark.parametrize("kernel, stride, on_chip", [(1, 3, False), (2, 3, True), (1, 4, True), (2, 5, True)])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_strides_beyond_the_window(op, kernel, stride, on_chip):
    """Where ONNX Runtime leaves out places at the beginning, too, a window would begin within the image."""
    net = Between(np.int8, x=["N", 1, 1, 6])
    model = net.model(net.codes(net(op, net.numbers("x"), kernel_shape=[1, kernel], strides=[1, stride],
                                    auto_pad="SAME_UPPER"), 0.05, 3))
    x = np.array([-8, 4, 2, 1, -2, 9], np.int8).reshape(1, 1, 1, 6)
    if on_chip:
        check(model, {"x": x})
    else:
        with pytest.raises(CompileError, match=f"{op} .*: auto_pad leaves out places at both ends"):
            to_layers(optimize(model))


@pytest.mark.parametrize("op", ["AveragePool", "ReduceMean"])
@pytest.mark.parametrize("scales", [(1, 1e-30), (3e38, 3e38)])
def test_averages_beyond_integers(op, scales):
    """ONNX Runtime's numbers overflow there, and the host computes them."""
    net = Between(np.int8, x=["N", 3, 4, 4])
    given = {"kernel_shape": [2, 2]} if op == "AveragePool" else {}
    axes = [] if given else [np.array([2, 3])]
    model = net.model(net.codes(net(op, net.numbers("x", scales[0]), *axes, **given), scales[1]))
    with pytest.raises(CompileError, match="input's scale, .* is too large for its output's"):
        to_layers(optimize(model))
    x = np.random.default_rng(0).integers(-128, 128, (2, 3, 4, 4), np.int8)
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x})[0])


@DTYPES
@pytest.mark.parametrize("zero", [2, 3])
@pytest.mark.parametrize("window", [[2, 2], [1, 3], [2, 3]])
def test_averages_that_lie_between_codes(window, zero, dtype):
    """In equal steps that are powers of two, many averages are at halves: those go to even codes."""
    info, net = np.iinfo(dtype), Between(dtype, x=["N", 3, 9, 12])
    model = net.model(net.codes(net("AveragePool", net.numbers("x", 0.25, 5), kernel_shape=window), 0.25, zero))
    x = np.random.default_rng(0).integers(info.min, info.max, (2, 3, 9, 12), dtype, endpoint=True)
    check(model, {"x": x})


@DTYPES
@pytest.mark.parametrize("case", ["GlobalAveragePool", "ReduceMean", "attribute", "flat", "row"])
def test_averages_of_all_places(case, dtype):
    rng, info = np.random.default_rng(0), np.iinfo(dtype)
    shape = (5, 24) if case == "row" else (5, 4, 6)
    net = Between(dtype, x=["N", *shape])
    x, axes = net.numbers("x", 0.31, 7), list(range(2, 1 + len(shape)))
    if case in ("GlobalAveragePool", "row"):
        y = net("GlobalAveragePool", x)
    elif case == "ReduceMean":
        y = net("ReduceMean", x, np.array([-1, 2]))
    else:
        y = net("ReduceMean", x, axes=axes, keepdims=int(case == "attribute"))
    model = net.model(net.codes(y, 0.1173, 4), opset=17 if case in ("attribute", "flat") else 20)
    [layer] = check(model, {"x": rng.integers(info.min, info.max, (40, *shape), dtype, endpoint=True)}).layers
    assert layer.pool.kernel == ((1, 24) if case == "row" else (4, 6))


@DTYPES
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("shape, axes", [([7, 5], [1]), ([3, 4, 5], [1, 2]), ([3, 4, 5], [-2, -3])])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
def test_of_all_rows(op, shape, axes, keepdims, dtype):
    """Of a transformer's tokens, or places with the channels last, from the host or behind a product."""
    info = np.iinfo(dtype)
    x = np.random.default_rng(2).integers(info.min, info.max, (3, *shape), dtype, endpoint=True)
    for product in (False, True)[:1 + (dtype == np.uint8)]:     # int8 codes in between become uint8
        net, scale, zero = Between(dtype, x=["N", *shape]), 0.05, 3
        y = net.numbers("x", scale, zero)
        if product:
            weights, scale, zero = net.rng.integers(-99, 99, (5, 6), np.int8), 0.07, 5
            y = net("MatMul", y, net("DequantizeLinear", weights, np.float32(0.01), np.int8(0)))
            y = net.numbers(net.codes(y, scale, zero), scale, zero)
        y = net(op, y, np.array(axes), keepdims=keepdims)
        made = net.codes(y, scale, zero) if op == "ReduceMax" else net.codes(y, 0.031, 9)
        check(net.model(made, opset=18), {"x": x})


@pytest.mark.parametrize("shape, axes, rank", [([4, 5, 6], [1], 4), ([4, 5, 6], [3], 4), ([4, 5], [0], 3),
                                               ([4], [1], 2)])
def test_of_other_axes(shape, axes, rank):
    net = Between(np.uint8, x=["N", *shape])
    model = net.model(net.codes(net("ReduceMean", net.numbers("x"), np.array(axes))), opset=18)
    with pytest.raises(CompileError, match="its axes must be those of height and width, or of all rows, not "
                       rf"\[{axes[0]}\] of {rank}"):
        to_layers(optimize(model))
