"""The golden numerics against ONNX Runtime, and against one scalar at a time in Python."""

import ctypes
import math

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from kiwicha.isa import OutFormat
from kiwicha_host.golden import numerics
from kiwicha_host.golden.numerics import epilogue, gemm_int

EXTREME_INTS = [0, 1, -1, 2, 127, -128, 2 ** 24 - 1, 2 ** 24 + 1, 2 ** 24 + 3, -(2 ** 24) - 1, 2 ** 25 + 2,
                2 ** 31 - 1, 2 ** 31 - 65, -(2 ** 31), -(2 ** 31) + 1]
EXTREME_FLOATS = np.array([0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000,
                           0xBF800000, 0x3F000000, 0x3EFFFFFF, 0x34000000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000,
                           0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC00001], np.uint32).view(np.float32)


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def round_to_fp32(x):
    """A C cast: to nearest even, also to subnormals, overflow to infinity."""
    return ctypes.c_float(x).value


def slow_result(acc, bias, scale, out_format, low_high, zero_point):
    """One result by the contract, in Python integers and floats; FP32 as its bits."""
    x = (acc + bias + 2 ** 31) % 2 ** 32 - 2 ** 31
    if out_format == OutFormat.INT32:
        return min(max(x, low_high[0]), low_high[1]) if low_high else x
    y = round_to_fp32(x)
    if scale is not None:
        y = round_to_fp32(y * float(scale))     # exact in float64, so rounded once
    code = 0x7FC00000 if math.isnan(y) else int(bits(y))
    if low_high:
        order = lambda item: item if item < 2 ** 31 else 2 ** 31 - 1 - item     # noqa: E731
        low, high = (int(bits(item)) for item in low_high)
        code = low if order(code) < order(low) else code
        code = high if order(code) > order(high) else code
    if out_format == OutFormat.FP32:
        return code
    y = float(np.uint32(code).view(np.float32))
    if math.isnan(y):
        return zero_point
    if math.isinf(y):
        return 127 if y > 0 else -128
    return min(max(round(y) + zero_point, -128), 127)


# Sums.

def test_sums_in_pairs():
    """Level by level, one addition at a time, each rounded from float64, which holds the sum of two."""
    rng = np.random.default_rng(6)
    for count in [*range(1, 70), 127, 128, 129, 1000, 4095, 4097]:
        numbers = (rng.normal(size=(3, count)) * 2.0 ** rng.integers(-10, 10, (3, count))).astype(np.float32)
        for row, total in zip(numbers, numerics.pairwise_sum(numbers), strict=True):
            level = {i: float(x) for i, x in enumerate(row)}
            while len(level) > 1:
                pairs = {i // 2 for i in level}
                level = {i: round_to_fp32(level[2 * i] + level.get(2 * i + 1, -0.0)) for i in pairs}
            assert total == level[0]
            assert abs(total - math.fsum(row)) <= 2 ** -24 * (count - 1).bit_length() * math.fsum(abs(row))


@pytest.mark.parametrize("numbers, result", [
    ([-0.0], 0x80000000), ([-0.0] * 5, 0x80000000), ([-0.0, 0.0], 0), ([1, -1], 0),
    ([math.inf, -math.inf], 0x7FC00000), ([math.inf, 1, 2], 0x7F800000), ([1, math.nan, 1], 0x7FC00000),
    ([-math.nan], 0x7FC00000), ([3e38, 3e38], 0x7F800000), ([1e-45, 1e-45, 1e-45], 3), ([-1e-45], 0x80000001),
    ([2.0 ** 24, 1, 1, 0], 0x4B800000), ([2.0 ** 24, 0, 1, 1], 0x4B800001)])
def test_special_sums(numbers, result):
    assert bits(numerics.pairwise_sum(np.array(numbers, np.float32))) == result
    with pytest.raises(ValueError, match=r"at least one number along its last axis, not shape \[2, 0\]$"):
        numerics.pairwise_sum(np.zeros((2, 0), np.float32))


# GEMM.

@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (3, 5, 2), (7, 300, 9)])
def test_gemm_by_hand(m, k, n):
    rng = np.random.default_rng(m)
    a, b = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    c = gemm_int(a, b)
    assert c.dtype == np.int32
    for i, j in np.ndindex(m, n):
        assert c[i, j] == sum(int(a[i, x]) * int(b[x, j]) for x in range(k))


def test_gemm_is_modulo_2_to_32():
    k = 140_000
    c = gemm_int(np.full((1, k), -128, np.int8), np.full((k, 1), -128, np.int8))
    assert c.tolist() == [[(k * 2 ** 14 + 2 ** 31) % 2 ** 32 - 2 ** 31]]
    assert k * 2 ** 14 >= 2 ** 31
    a, b = np.array([[2 ** 30, 3]], np.int32), np.array([[4], [-5]], np.int32)
    assert gemm_int(a, b).tolist() == [[-15]]


def run_onnx(nodes, inputs, output_type):
    """Run nodes whose inputs are constants and whose output is "y"."""
    constants = [numpy_helper.from_array(value, name) for name, value in inputs.items()]
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", output_type, None)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, {})[0]


@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (5, 17, 33), (64, 300, 40)])
def test_gemm_is_onnx_matmul_integer(m, k, n):
    rng = np.random.default_rng(k)
    a, b = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    np.testing.assert_array_equal(gemm_int(a, b), run_onnx([node], {"a": a, "b": b}, TensorProto.INT32))


@pytest.mark.parametrize("seed", range(6))
def test_epilogue_is_onnx_qlinear_matmul(seed):
    rng = np.random.default_rng(seed)
    m, k, n = (int(x) for x in rng.integers(1, 80, 3))
    a, b = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    a_scale, y_scale = np.float32(rng.uniform(0.001, 1)), np.float32(rng.uniform(1, 20))
    b_scale = rng.uniform(0.001, 1, n).astype(np.float32)
    zero = np.int8(rng.integers(-128, 128))
    expected = run_onnx(
        [helper.make_node("QLinearMatMul", ["a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["y"])],
        {"a": a, "as": a_scale, "az": np.int8(0), "b": b, "bs": b_scale, "bz": np.zeros(n, np.int8),
         "ys": y_scale, "yz": zero}, TensorProto.INT8)
    scale = a_scale * b_scale / y_scale
    np.testing.assert_array_equal(
        epilogue(gemm_int(a, b), scale=scale, out_format=OutFormat.INT8, zero_point=int(zero)), expected)


@pytest.mark.parametrize("seed", range(4))
def test_epilogue_is_onnx_qlinear_conv(seed):
    rng = np.random.default_rng(seed)
    channels, filters, size = 3, 5, 6
    x = rng.integers(-128, 128, (2, channels, size, size), np.int8)
    w = rng.integers(-128, 128, (filters, channels, 3, 3), np.int8)
    bias = rng.integers(-5000, 5000, filters, np.int32)
    x_scale, y_scale = np.float32(rng.uniform(0.01, 1)), np.float32(rng.uniform(10, 50))
    w_scale, zero = rng.uniform(0.01, 1, filters).astype(np.float32), np.int8(rng.integers(-128, 128))
    expected = run_onnx(
        [helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "bias"], ["y"],
                          pads=[1, 1, 1, 1])],
        {"x": x, "xs": x_scale, "xz": np.int8(0), "w": w, "ws": w_scale, "wz": np.zeros(filters, np.int8),
         "ys": y_scale, "yz": zero, "bias": bias}, TensorProto.INT8)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    acc = gemm_int(windows.reshape(-1, channels * 9), w.reshape(filters, -1).T)
    y = epilogue(acc, bias, x_scale * w_scale / y_scale, OutFormat.INT8, zero_point=int(zero))
    np.testing.assert_array_equal(y.reshape(2, size, size, filters).transpose(0, 3, 1, 2), expected)


# The epilogue, one scalar at a time.

def _compare(acc, bias, scale, out_format, low_high, zero_point):
    got = epilogue(np.array([[acc]], np.int32), np.array([bias], np.int32), scale, out_format, low_high,
                   zero_point)[0, 0]
    got = int(bits(got)) if out_format == OutFormat.FP32 else int(got)
    assert got == slow_result(acc, bias, scale, out_format, low_high, zero_point), \
        (acc, bias, scale, out_format, low_high, zero_point)


@pytest.mark.parametrize("out_format", [OutFormat.INT8, OutFormat.FP32])
def test_extremes_of_floating_outputs(out_format):
    bounds = [None, (np.float32(0), np.float32(np.inf)), (EXTREME_FLOATS[1], EXTREME_FLOATS[0]),
              (EXTREME_FLOATS[17], EXTREME_FLOATS[16]), (np.float32(3), np.float32(-3))]
    for acc in EXTREME_INTS:
        for scale in [None, *EXTREME_FLOATS]:
            for low_high in bounds:
                _compare(acc, 0, scale, out_format, low_high, -7)


def test_extremes_of_integer_outputs():
    for acc in EXTREME_INTS:
        for bias in EXTREME_INTS:
            for low_high in (None, (0, 2 ** 31 - 1), (-5, 5), (5, -5)):
                _compare(acc, bias, np.float32(3), OutFormat.INT32, low_high, 0)


@pytest.mark.parametrize("seed", range(3))
def test_random_results(seed):
    rng = np.random.default_rng(seed)
    for _ in range(700):
        scale = rng.integers(0, 2 ** 32, dtype=np.uint32).view(np.float32)
        if rng.random() < 0.7:
            scale = np.float32(2.0 ** rng.integers(-40, 3) * rng.integers(1, 64))
        low, high = (rng.integers(0, 2 ** 32, dtype=np.uint32).view(np.float32) for _ in range(2))
        _compare(int(rng.integers(-2 ** 31, 2 ** 31) >> rng.integers(0, 31)), int(rng.integers(-2 ** 31, 2 ** 31)),
                 scale, OutFormat(int(rng.choice([0, 2]))), (low, high) if rng.random() < 0.3 else None,
                 int(rng.integers(-128, 128)))


def test_rounding_is_half_to_even_then_zero_point():
    acc = np.array([[1, 3, 5, -1, -3, 255, 253]], np.int32)
    y = epilogue(acc, scale=np.float32(0.5), out_format=OutFormat.INT8, zero_point=1)
    # 0.5 0 -> 1, 1.5 2 -> 3, 2.5 2 -> 3; rounding after the zero point would give 2, 2, 4.
    assert y.tolist() == [[1, 3, 3, 1, -1, 127, 127]]


def test_nan_is_canonical_and_quantizes_to_the_zero_point():
    acc = np.array([[0, 1]], np.int32)
    scale = np.array([np.inf, EXTREME_FLOATS[17]], np.float32)
    assert bits(epilogue(acc, scale=scale, out_format=OutFormat.FP32)).tolist() == [[0x7FC00000] * 2]
    assert epilogue(acc, scale=scale, out_format=OutFormat.INT8, zero_point=-9).tolist() == [[-9, -9]]
    high = epilogue(acc, scale=scale, out_format=OutFormat.FP32, clamp_to=(np.float32(0), np.float32(6)))
    assert high.tolist() == [[6, 6]]


def test_total_order():
    ordered = np.array([0xFFC00001, 0xFF800000, 0xFF7FFFFF, 0xBF800000, 0x80000001, 0x80000000, 0, 1, 0x3F800000,
                        0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000], np.uint32)
    keys = numerics.total_order(ordered.view(np.float32))
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    assert keys[5] == -1 and keys[6] == 0


def test_maximum_over_windows():
    rng = np.random.default_rng(5)
    acc = rng.integers(-1000, 1000, (4, 3, 2, 6), np.int32)
    for out_format, dtype in ((OutFormat.INT32, np.int32), (OutFormat.FP32, np.float32),
                              (OutFormat.INT8, np.int8)):
        pooled = epilogue(acc, scale=np.float32(0.1), out_format=out_format, window=(1, 2))
        each = epilogue(acc, scale=np.float32(0.1), out_format=out_format)
        assert pooled.dtype == dtype
        np.testing.assert_array_equal(pooled, each.max(axis=(1, 2)))
    # A NaN wins, and +0 over -0.
    scale = np.array([-1], np.float32)
    assert bits(epilogue(np.array([[0], [1]], np.int32), scale=scale, out_format=OutFormat.FP32,
                         window=(0,))).tolist() == [0x80000000]
    zeros = epilogue(np.array([[0], [0]], np.int32), scale=scale, out_format=OutFormat.FP32,
                     clamp_to=(np.float32(-1), np.float32(0)), window=(0,))
    assert bits(zeros).tolist() == [0x80000000]
