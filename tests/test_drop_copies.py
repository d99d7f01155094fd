"""Factors that change no code are left out, and no others."""

import numpy as np
import onnx
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from onnx import helper

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


@pytest.mark.parametrize("softmax", [False, True])
def test_what_takes_a_copy_takes_the_original(softmax):
    """Attention's scores through a number, with a mask; and the sum of codes and a copy of them."""
    net = Between(np.uint8, x=["N", 2, 4, 8], y=["N", 2, 8, 4])
    scores = net.codes(net("MatMul", net.numbers("x"), net.numbers("y", 0.02)), 0.0816)
    scaled = net.codes(net("Div", net.numbers(scores, 0.0816, 5), np.float32(8)), 0.0102)
    mask = net("DequantizeLinear", np.triu(np.full((4, 4), 90, np.uint8), 1), np.float32(0.031), np.uint8(0))
    masked = net.codes(net("Add", net.numbers(scaled, 0.0102, 5), mask), 0.0437)
    both = net.codes(net("Add", net.numbers(scores, 0.0816, 5), net.numbers(scaled, 0.0102, 5)), 0.0913)
    if softmax:
        masked = net.codes(net("Softmax", net.numbers(masked, 0.0437, 5)), 1 / 256, 0)
    model, rng = net.model(masked, both), np.random.default_rng(1)
    values = {name: rng.integers(0, 256, (3, *shape[1:]), np.uint8) for name, shape in net.shapes.items()}
    assert sum(op.kind == ELEMENTWISE for op in optimize(model).ops) == 2
    with load_model(model, "tiny", "golden") as loaded:
        for got, expected in zip(loaded.run(values).values(), onnxruntime_says(model, values), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_captured_copies_stay():
    """Graphs among the attributes name tensors too."""
    net = Between(np.int8, x=["N", 3, 8, 8])
    codes = net.codes(net("Mul", net.numbers("x", 0.05, 3), np.float32(0.125)), 0.05 / 8, 3)
    branch = helper.make_graph([helper.make_node("Identity", [codes], ["same"])], "branch", [],
                               [helper.make_tensor_value_info("same", onnx.TensorProto.INT8, None)])
    model = net.model(net("If", np.array(True), then_branch=branch, else_branch=branch))
    x = np.random.default_rng(0).integers(-128, 128, (2, 3, 8, 8), np.int8)
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), *onnxruntime_says(model, {"x": x}))
