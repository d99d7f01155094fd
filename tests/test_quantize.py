"""The block quantizer against others' formulas, PyTorch's casts, and the nearest of all values."""

from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from block_reference import FIELDS, bits_of, magnitudes, nearest, value

from kiwicha_host.golden import block as golden
from kiwicha_host.golden import quantize_block
from kiwicha_host.operands import FORMATS
from kiwicha_host.quantize import dequantize, quantize, quantize_weights

TORCH = np.load(Path(__file__).parent / "data" / "torch_e4m3.npz")
LARGEST = {"e4m3": 448, "e2m1": 6, "e2m3": 7.5, "e3m2": 28}
EMAX = {"e4m3": 8, "e2m1": 2, "e2m3": 2, "e3m2": 4}


def random_rows(seed, rows=200, columns=128):
    """FP32 rows of very different sizes; some have a largest magnitude at, or beside, a format's times 2^n."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) * 10. ** -rng.integers(0, 3, columns)
    x[::4] = np.clip(x[::4], -1, 1)
    x[::4, rng.integers(columns)] = -1
    x[::4] *= rng.choice([448, 6, 7.5, 28], (len(x[::4]), 1))
    x = (x * 2. ** rng.integers(-90, 90, (rows, 1))).astype(np.float32)
    x[1::4] = np.nextafter(x[::4], np.float32(0))
    x[2::4] = np.nextafter(x[::4], np.copysign(np.float32(1e38), x[::4]))
    return x


def act_quant(x, fmt, block):
    """DeepSeek's formula for one scale per `block` elements of a row, in FP32 with a divider and a logarithm."""
    groups = x.reshape(len(x), -1, block)
    amax = np.abs(groups).max(axis=2)
    power = np.ceil(np.log2((amax / np.float32(LARGEST[fmt])).astype(np.float64)))
    scale = np.exp2(power).astype(np.float32)
    y = np.clip(groups / scale[..., None], np.float32(-LARGEST[fmt]), np.float32(LARGEST[fmt]))
    return nearest(fmt, y.astype(np.float64)).reshape(x.shape), (power + 127).astype(np.uint8)


def mx_floor(x, fmt, block):
    """OCP MX v1.0, section 6.3, as emulators compute it: values that are steps of a private exponent."""
    _, mantissa_bits, bias = FIELDS[fmt]
    groups = x.reshape(len(x), -1, block).astype(np.float64)
    shared = np.floor(np.log2(np.abs(groups).max(axis=2))) - EMAX[fmt]
    y = groups / 2 ** shared[..., None]
    private = np.maximum(np.floor(np.log2(np.abs(y) + (y == 0))), 1 - bias)
    y = np.rint(y / 2 ** private * 2 ** mantissa_bits) / 2 ** mantissa_bits * 2 ** private
    return np.clip(y, -LARGEST[fmt], LARGEST[fmt]).reshape(x.shape), (shared + 127).astype(np.uint8)


@pytest.mark.parametrize("fmt, block", [("e4m3", 128), ("e4m3", 32), ("e2m1", 32), ("e2m1", 128), ("e3m2", 16)])
def test_rceil_is_deepseeks(fmt, block):
    x = random_rows(block)
    codes, scales = quantize_block(x, fmt, block)
    expected, expected_scales = act_quant(x, fmt, block)
    np.testing.assert_array_equal(scales, expected_scales)
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("fmt, block", [("e4m3", 32), ("e4m3", 128), ("e2m1", 32), ("e2m3", 32), ("e3m2", 64)])
def test_floor_is_the_ocp_rule(fmt, block):
    x = random_rows(block + 1)
    codes, scales = quantize_block(x, fmt, block, "floor")
    values, expected_scales = mx_floor(x, fmt, block)
    np.testing.assert_array_equal(scales, expected_scales)
    np.testing.assert_array_equal(codes.view(FORMATS[fmt]).astype(np.float64), values)
    np.testing.assert_array_equal(codes >> (bits_of(fmt) - 1), np.signbit(x))


def test_elements_are_pytorchs():
    x, codes = TORCH["x"], TORCH["codes"]
    one = np.full(x.shape, 127, np.uint8)
    np.testing.assert_array_equal(golden.round_elements(x, one, "e4m3").view(np.uint8), codes)
    np.testing.assert_array_equal(nearest("e4m3", x.astype(np.float64)), codes)


@pytest.mark.parametrize("fmt", FIELDS)
@pytest.mark.parametrize("scale", [0, 1, 3, 127, 253, 254])
def test_every_rounding_boundary(fmt, scale):
    """All values and middles times the scale where that is FP32, and the numbers beside them."""
    values = magnitudes(fmt)
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2, [values[-1] * 1.2]]) * 2. ** (scale - 127)
    points = points[points < 2. ** 128].astype(np.float32)
    x = np.concatenate([np.nextafter(points, np.float32(0)), points, np.nextafter(points, np.float32(3e38))])
    x = np.concatenate([x, -x])
    got = golden.round_elements(x, np.full(x.shape, scale, np.uint8), fmt).view(np.uint8)
    np.testing.assert_array_equal(got, nearest(fmt, x.astype(np.float64) * 2. ** (127 - scale)))


@pytest.mark.parametrize("fmt", FIELDS)
@pytest.mark.parametrize("rule", ["rceil", "floor"])
def test_scale_of_every_exponent(fmt, rule):
    """From bit fields alone, as hardware does it: exponent, minus emax, plus one if the fraction is too large."""
    limit = {"e4m3": 0x600000, "e2m1": 0x400000, "e2m3": 0x700000, "e3m2": 0x600000}[fmt]
    for fraction in (0, 1, limit - 1, limit, limit + 1, 0x7FFFFF):
        exponent = np.arange(255)
        x = (exponent << 23 | fraction).astype(np.uint32).view(np.float32)[:, None]
        expected = np.clip(exponent - EMAX[fmt] + (fraction > limit and rule == "rceil"), 0, 254)
        codes, scales = quantize_block(x, fmt, 32, rule)
        np.testing.assert_array_equal(scales[:, 0], expected)
        np.testing.assert_array_equal(
            codes[:, 0], nearest(fmt, x[:, 0].astype(np.float64) * 2. ** (127 - expected)))


@pytest.mark.parametrize("fmt", ["e4m3", "e2m1"])
def test_corners(fmt):
    minus = 1 << bits_of(fmt) - 1
    zeros = np.array([[0, -0.]], np.float32)
    codes, scales = quantize_block(zeros, fmt, 16)
    assert codes.tolist() == [[0, minus]] and scales.tolist() == [[0]]
    for bad in (np.nan, np.inf, -np.inf):
        x = np.full((1, 48), -1, np.float32)
        x[0, 20] = bad
        codes, scales = quantize_block(x, fmt, 16)
        assert scales[0, 1] == 255 and (scales[0, ::2] < 255).all()
        assert not codes[0, 16:32].any() and codes[0, [0, 47]].all()
    # The smallest subnormal is far below half a step of the smallest scale; 2^-127 is not.
    codes, scales = quantize_block(np.array([[2 ** -149, -2. ** -149, 2 ** -127]], np.float32), fmt, 16)
    one = nearest(fmt, np.array([1.]))[0]
    assert scales.tolist() == [[0]] and codes.tolist() == [[0, minus, one]]


def exact_mxint8(row, rule):
    """Codes and scale code of one block, in rational numbers: OCP's scale, or the least that saturates nothing."""
    if not np.isfinite(row).all():
        return [0] * len(row), 255
    numbers = [Fraction(float(item)) for item in row]
    amax, power = max(map(abs, numbers)), -127
    while power < 127 and (amax > Fraction(127, 64) * Fraction(2) ** power if rule == "rceil" else
                           amax >= 2 * Fraction(2) ** power):
        power += 1
    # round() takes halves to the even integer.
    return [max(-127, min(127, round(item * 64 / Fraction(2) ** power))) for item in numbers], power + 127


@pytest.mark.parametrize("rule", ["rceil", "floor"])
def test_mxint8_is_exact(rule):
    """Every exponent with fractions about 127/64, subnormal numbers, halves, and blocks of many sizes."""
    rng = np.random.default_rng(11)
    edge = 0x7E0000     # of 127/64
    tops = np.array([(exponent << 23 | fraction) for exponent in (0, 1, 2, 60, 127, 253, 254) for fraction in
                     (0, 1, edge - 1, edge, edge + 1, 0x7F0000, 0x7F0001, 0x7FFFFF, 0x3F0000, 0x3F0001)],
                    np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        halves = (rng.integers(-255, 256, (len(tops), 14)) / 128 * tops[:, None]).astype(np.float32)
    x = np.concatenate([tops[:, None], halves, -tops[:, None]], axis=1)
    x[~np.isfinite(x)] = 0
    x = np.concatenate([x, random_rows(12, 40, 16), np.zeros((1, 16), np.float32), -x[-3:]])
    x[-2, 3], x[-1, 0] = np.nan, -np.inf
    codes, scales = quantize_block(x, "int8", 16, rule)
    for row, got, scale in zip(x, codes.view(np.int8), scales[:, 0], strict=True):
        assert (got.tolist(), int(scale)) == exact_mxint8(row, rule), row


def test_shapes_and_tails():
    x = random_rows(9, 24, 40).reshape(2, 3, 4, 40)
    codes, scales = quantize_block(x, "e4m3", 16)
    assert codes.shape == x.shape and scales.shape == (2, 3, 4, 3)
    alone, scale = quantize_block(x[1, 2, 3, 32:], "e4m3", 16)
    np.testing.assert_array_equal(codes[1, 2, 3, 32:], alone)
    assert scales[1, 2, 3, 2:] == scale


# The public helpers.

@pytest.mark.parametrize("fmt", FORMATS)
def test_quantised_again_is_the_same(fmt):
    x = random_rows(4, 36, 50)
    for make in (lambda v: quantize(v, fmt, 16), lambda v: quantize_weights(v, fmt, 16),
                 lambda v: quantize_weights(v, fmt, 16, square=True), lambda v: quantize(v, fmt, 32, "floor")):
        q, scales = make(x)
        assert q.dtype == FORMATS[fmt] and scales.dtype == np.uint8
        block = 32 if scales.shape == (36, 2) else 16
        once = dequantize(q, scales, block)
        again = dequantize(*make(once), block)
        assert once.dtype == np.float32
        np.testing.assert_array_equal(again, once)


def test_error_is_half_a_step():
    x = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)
    for fmt, relative in (("e4m3", 2 ** -4), ("e2m1", 2 ** -2)):
        q, scales = quantize(x, fmt, 32)
        step = golden.spread(2. ** (scales.astype(float) - 127), x.shape, 32) * float(value(fmt, 1))
        assert (np.abs(dequantize(q, scales, 32) - x) <= np.maximum(relative * np.abs(x), step / 2)).all()


def test_square_blocks_share_the_largest_scale():
    w = random_rows(5, 40, 40)
    columns, squares = quantize_weights(w, "e4m3", 16)[1], quantize_weights(w, "e4m3", 16, square=True)[1]
    assert columns.shape == (3, 40) and squares.shape == (3, 3)
    np.testing.assert_array_equal(squares, np.maximum.reduceat(columns, [0, 16, 32], axis=1))
    np.testing.assert_array_equal(columns, quantize_block(w.T.copy(), "e4m3", 16)[1].T)


def test_integers_are_symmetric():
    x = np.array([[1.999, -1.999, 1, -.5], [-2, 2, 0, 0]], np.float32)
    q, scales = quantize(x, "int8", 16)
    assert q.tolist() == [[64, -64, 32, -16], [-64, 64, 0, 0]] and scales.tolist() == [[128], [128]]
    q, scales = quantize(x, "int8", 16, "floor")
    assert q.tolist() == [[127, -127, 64, -32], [-64, 64, 0, 0]] and scales.tolist() == [[127], [128]]
    q, scales = quantize(x * 7, "int4", 16)
    assert q.astype(int).tolist() == [[7, -7, 4, -2], [-7, 7, 0, 0]] and scales.tolist() == [[128], [128]]


def test_other_real_types():
    x = random_rows(6, 4, 20)
    for other in (x.astype(np.float64), x.astype(ml_dtypes.bfloat16), (x * 0 + 3).astype(np.int64)):
        q, scales = quantize(other, "e2m1", 16)
        expected, expected_scales = quantize(other.astype(np.float32), "e2m1", 16)
        np.testing.assert_array_equal(q, expected)
        np.testing.assert_array_equal(scales, expected_scales)


X = np.ones((2, 3), np.float32)
Q, S = quantize(X, "e4m3", 16)


@pytest.mark.parametrize("call, message", [
    (lambda: quantize(X, "e5m2", 16),
     "fmt must be one of int8, int4, e4m3, e2m1, e2m3, e3m2, not 'e5m2'"),
    (lambda: quantize(X, "e4m3", 48), "block must be one of 16, 32, 64, 128, not 48"),
    (lambda: quantize(X, "e4m3", 16, "ceil"), "rule must be one of rceil, floor, not 'ceil'"),
    (lambda: quantize(X[0], "e4m3", 16), "x must have 2 dimensions of at least 1 each, not shape [3]"),
    (lambda: quantize_weights(X[:0], "e4m3", 16),
     "w must have 2 dimensions of at least 1 each, not shape [0, 3]"),
    (lambda: quantize_weights(X * 1j, "e4m3", 16), "w must be real numbers, not complex64 [2, 3]"),
    (lambda: quantize([["a"]], "e4m3", 16), "x must be real numbers, not <U1 [1, 1]"),
    (lambda: dequantize(X, S, 16), "elements must be of type int8, int4, float8_e4m3fn, float4_e2m1fn, "
     "float6_e2m3fn, float6_e3m2fn, not float32"),
    (lambda: dequantize(Q, S[:1, :0], 16),
     "scales must be uint8 [2, 1] or [1, 3] or [1, 1], not uint8 [1, 0]"),
    (lambda: dequantize(Q, S, 0), "block must be one of 16, 32, 64, 128, not 0"),
])
def test_errors(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
