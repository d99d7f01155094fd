"""Factors that change no code are left out, and no others."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, onnxruntime_says

from kiwicha_host import load_model
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.compiler.passes.fold_elementwise import ELEMENTWISE


def scaled(dtype, join, operands, scale, zero, is_output=False):
    """Codes times or through a number, and a window of them, as ONNX Runtime has it: how many functions stay."""
    net = Between(dtype, x=["N", 3, 8, 8])
    x, factor = net.numbers("x", 0.05, 3), np.float32(8 if join == "Div" else 0.125)
    if "code" in operands:
        factor = net("DequantizeLinear", dtype(100), np.float32(factor / 90), dtype(10))
    pair = (factor, x) if "swapped" in operands else (x, factor)
    codes = net.codes(net(join, *pair), scale, zero)
    model = net.model(*[codes] * is_output, net("MaxPool", codes, kernel_shape=[2, 2]))
    info = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(info.min, info.max, (2, 3, 8, 8), dtype, endpoint=True)
    with load_model(model, "tiny", "golden") as loaded:
        for got, expected in zip(loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x}), strict=True):
            np.testing.assert_array_equal(got, expected)
    return sum(op.kind == ELEMENTWISE for op in optimize(model).ops)


@DTYPES
@pytest.mark.parametrize("join, operands", [("Mul", ""), ("Mul", "swapped"), ("Mul", "code"), ("Div", ""),
                                            ("Div", "code"), ("Mul", "code, swapped")])
def test_copies(join, operands, dtype):
    """Also where the factor is itself a code, and scales are a little off."""
    for scale in (0.05 / 8, 0.05 / 8 * 1.0005):
        assert scaled(dtype, join, operands, scale, 3) == 0


@DTYPES
def test_others_stay(dtype):
    """Another zero point, another scale, a number through codes, and a tensor that the model's user asked for."""
    same = 0.05 / 8
    assert scaled(dtype, "Mul", "", same, 4) == 1
    assert scaled(dtype, "Mul", "", 1.01 * same, 3) == 1
    assert scaled(dtype, "Div", "swapped", same, 3) == 1
    assert scaled(dtype, "Mul", "", same, 3, is_output=True) == 1


def test_of_another_type():
    """Codes of int8 that become uint8 are others."""
    net = Between(np.int8, x=["N", 3, 8, 8])
    numbers = net("Mul", net.numbers("x", 0.05, 3), np.float32(0.125))
    codes = net("QuantizeLinear", numbers, np.float32(0.05 / 8), np.uint8(3))
    back = net("QuantizeLinear", net("DequantizeLinear", codes, np.float32(0.1), np.uint8(7)), np.float32(0.2),
               np.int8(3))
    assert any(op.kind == ELEMENTWISE for op in optimize(net.model(net(
        "MaxPool", back, kernel_shape=[2, 2]))).ops)
