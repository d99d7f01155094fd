"""Block-scaled GEMM and its epilogue against rational numbers and one scalar at a time."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from block_reference import INFINITY, NAN, as_elements, bits_of, dot, round_fp32, value
from test_numerics import EXTREME_FLOATS, bits, round_to_fp32

from kiwicha.isa import OutFormat
from kiwicha_host.golden import block as golden
from kiwicha_host.golden import epilogue, gemm_block, to_bf16
from kiwicha_host.golden.numerics import total_order
from kiwicha_host.operands import FORMATS

PAIRS = list(itertools.product(FORMATS, FORMATS))
#: Scale codes of A and B: ordinary; products about the subnormals; about overflow; anything.
REGIMES = {"unit": (120, 135), "low": (50, 62), "high": (180, 192), "any": (0, 255)}


def random_codes(rng, name, shape, nans=0.):
    codes = rng.integers(0, 1 << bits_of(name), shape)
    if name == "e4m3":
        codes = np.where((codes & 127 == 127) & (rng.random(shape) >= nans), codes & 0x87, codes)
    return codes


def check(a_name, a_codes, a_scales, b_name, b_codes, b_scales, block, acc=None):
    """Every result, to the bit; `b_scales` per column or per square block."""
    a_scales, b_scales = a_scales.astype(np.uint8), b_scales.astype(np.uint8)
    c = gemm_block(as_elements(a_name, a_codes), as_elements(b_name, b_codes), a_scales, b_scales, block, acc)
    assert c.dtype == np.float32
    for m, n in np.ndindex(c.shape):
        column = n if b_scales.shape[1] == c.shape[1] else n // block
        expected = dot(a_name, a_codes[m], a_scales[m], b_name, b_codes[:, n], b_scales[:, column], block,
                       0 if acc is None else int(bits(acc[m, n])))
        assert int(bits(c[m, n])) == expected, (m, n)
    return c


@pytest.mark.parametrize("name", FORMATS)
def test_values_of_all_codes(name):
    codes = np.arange(1 << bits_of(name))
    values = [value(name, int(code)) for code in codes]
    np.testing.assert_array_equal(golden.decode(as_elements(name, codes)),
                                  [math.nan if v is None else float(v) for v in values])
    finite = [v for v in values if v is not None]
    assert max(finite) == golden._LARGEST[name]


def test_values_of_all_scales():
    values = golden.decode_scales(np.arange(256, dtype=np.uint8))
    assert values[:255].tolist() == [2. ** (code - 127) for code in range(255)] and math.isnan(values[255])


@pytest.mark.parametrize("a_name, b_name", PAIRS)
def test_every_pair_of_formats(a_name, b_name):
    rng = np.random.default_rng(PAIRS.index((a_name, b_name)))
    for low, high in REGIMES.values():
        m, n, k = (int(x) for x in rng.integers(1, (4, 4, 50)))
        block = 16
        blocks = -(-k // block)
        check(a_name, random_codes(rng, a_name, (m, k), 0.1), rng.integers(low, high + 1, (m, blocks)),
              b_name, random_codes(rng, b_name, (k, n), 0.1), rng.integers(low, high + 1, (blocks, n)), block)


@pytest.mark.parametrize("block", [16, 32, 64, 128])
@pytest.mark.parametrize("tail", [1, 5, 0])
def test_blocks_tails_and_squares(block, tail):
    rng = np.random.default_rng(block + tail)
    k, n, blocks = block + (tail or block), block + 2, 2
    a, b = random_codes(rng, "e4m3", (2, k)), random_codes(rng, "e2m1", (k, n))
    a_scales = rng.integers(118, 138, (2, blocks))
    columns = [0, block - 1, block, n - 1]
    square = rng.integers(118, 138, (blocks, 2))
    spread = square[:, np.arange(n) // block]
    c = check("e4m3", a, a_scales, "e2m1", b[:, columns], spread[:, columns], block)
    whole = gemm_block(as_elements("e4m3", a), as_elements("e2m1", b), a_scales.astype(np.uint8),
                       square.astype(np.uint8), block)
    np.testing.assert_array_equal(bits(whole[:, columns]), bits(c))
    per_column = gemm_block(as_elements("e4m3", a), as_elements("e2m1", b), a_scales.astype(np.uint8),
                            spread.astype(np.uint8), block)
    np.testing.assert_array_equal(bits(whole), bits(per_column))


def test_largest_sums_lose_no_bit():
    """Products of the largest significands, and one of a single quantum, 35 bits below them."""
    a, b, one = np.full((1, 128), 0x7E), np.full((128, 1), 0x7E), np.array([[127]])
    a[0, 0], b[0, 0] = 0x81, 1
    check("e4m3", a, one, "e4m3", b, one, 128)
    a[0, 2::2] |= 0x80          # 64 above zero, 63 below
    assert check("e4m3", a, one, "e4m3", b, one, 128)[0, 0] == 448 ** 2
    a[0, 1] = 0
    assert check("e4m3", a, one, "e4m3", b, one, 128)[0, 0] == -2. ** -18


def test_random_large_blocks():
    rng = np.random.default_rng(3)
    for _ in range(5):
        check("e4m3", random_codes(rng, "e4m3", (2, 300)), rng.integers(0, 255, (2, 3)),
              "e4m3", random_codes(rng, "e4m3", (300, 2)), rng.integers(0, 255, (3, 2)), 128)


def test_subnormal_ties_and_overflow():
    """Single products at each edge of FP32: D * 2^e for small D and every e near the edge."""
    one = np.array([[1]])
    for d in range(1, 8):
        for power in [*range(-152, -145), *range(122, 129)]:
            a_scales, b_scales = np.array([[127 + power // 2]]), np.array([[127 + power - power // 2]])
            c = check("int4", one * d, a_scales, "int4", one, b_scales, 16)
            assert int(bits(c[0, 0])) == round_fp32(d * Fraction(2) ** power)


def test_blocks_add_in_order():
    """2^24, then 1, then -2^24: only the order given makes 0."""
    a = np.zeros((1, 48), np.int8)
    a[0, [0, 16, 32]] = [4, 4, -4]
    b = np.ones((48, 1), FORMATS["int4"])
    scales = np.array([[149, 125, 149]], np.uint8)
    assert gemm_block(a.astype(FORMATS["int4"]), b, scales, np.full((3, 1), 127, np.uint8), 16)[0, 0] == 0
    swapped = [0, 2, 1]
    a = a.reshape(3, 16)[swapped].reshape(1, 48).astype(FORMATS["int4"])
    assert gemm_block(a, b, scales[:, swapped], np.full((3, 1), 127, np.uint8), 16)[0, 0] == 1


@pytest.mark.parametrize("seed", range(3))
def test_continuing_from_an_accumulator(seed):
    rng = np.random.default_rng(seed)
    a, b = random_codes(rng, "e3m2", (3, 80)), random_codes(rng, "e2m3", (80, 6))
    a_scales, b_scales = rng.integers(120, 130, (3, 3)), rng.integers(120, 130, (3, 6))
    c = check("e3m2", a, a_scales, "e2m3", b, b_scales, 32)
    half = check("e3m2", a[:, :32], a_scales[:, :1], "e2m3", b[:32], b_scales[:1], 32)
    np.testing.assert_array_equal(
        bits(check("e3m2", a[:, 32:], a_scales[:, 1:], "e2m3", b[32:], b_scales[1:], 32, half)), bits(c))
    check("e3m2", a, a_scales, "e2m3", b, b_scales, 32, EXTREME_FLOATS.reshape(3, 6))


def test_zeros():
    """A sum of zero is +0; an underflow keeps its sign, until it meets +0."""
    zero, minus = np.array([[0x80]]), np.array([[0x81]])
    acc = np.array([[-0.]], np.float32)
    low, one = np.array([[0]]), np.array([[127]])
    assert bits(check("e4m3", zero, one, "e4m3", np.array([[1]]), one, 16, acc))[0, 0] == 0
    assert bits(check("e4m3", minus, low, "e4m3", np.array([[1]]), low, 16, acc))[0, 0] == 1 << 31
    assert bits(check("e4m3", minus, low, "e4m3", np.array([[1]]), low, 16))[0, 0] == 0


@pytest.mark.parametrize("shape", [(2, 3, 40), (33, 20, 64), (64, 64, 256)])
def test_nan_reaches_what_uses_it_and_no_more(shape):
    m, n, k = shape
    rng = np.random.default_rng(m)
    a, b = (as_elements("e4m3", random_codes(rng, "e4m3", item)) for item in ((m, k), (k, n)))
    a_scales = np.full((m, -(-k // 32)), 127, np.uint8)
    b_scales = np.full((-(-k // 32), n), 127, np.uint8)
    clean = gemm_block(a, b, a_scales, b_scales, 32)
    assert np.isfinite(clean).all()
    a[1, 35], b[2, 1] = np.nan, np.nan
    b[35] = 0               # NaN times zero is NaN
    a_scales[0, 1], b_scales[0, 2] = 255, 255
    wrong = np.zeros((m, n), bool)
    wrong[:2], wrong[:, 1:3] = True, True
    c = gemm_block(a, b, a_scales, b_scales, 32)
    assert (bits(c)[wrong] == NAN).all() and np.isfinite(c[~wrong]).all()


def test_infinities():
    a, b = np.array([[0x7E] + [0] * 31]), np.array([[0x7E] + [0] * 31]).T
    a[0, 16], b[16, 0] = 0xFE, 0x7E
    for codes, expected in (((254, 254), NAN), ((254, 0), INFINITY), ((0, 254), INFINITY | 1 << 31)):
        c = check("e4m3", a, np.array([codes]), "e4m3", b, np.array(codes)[:, None], 16)
        assert int(bits(c[0, 0])) == expected


def test_codes_are_no_elements():
    scale = np.full((1, 1), 127, np.uint8)
    with pytest.raises(ValueError, match="b must be of type int8, int4, .*, not uint8"):
        gemm_block(np.ones((1, 1), np.int8), scale, scale, scale, 16)


# The epilogue of an FP32 accumulator.

@pytest.mark.parametrize("seed", range(2))
def test_float_epilogue_one_by_one(seed):
    rng = np.random.default_rng(seed)
    for i in range(300):
        acc, bias, scale = (rng.choice(EXTREME_FLOATS, 3) if i % 3 == 0 else
                            (rng.normal(size=3) * 2. ** rng.integers(-20, 20, 3)).astype(np.float32))
        low, high = np.sort(rng.choice(EXTREME_FLOATS[:16], 2)) if i % 2 else (np.float32(0), np.float32(np.inf))
        total = round_to_fp32(float(acc) + float(bias))     # float64: exact, or too far apart to be near a tie
        product = round_to_fp32(total * float(scale)) if not math.isnan(total) else math.nan
        bare = np.float32(product) if not math.isnan(product) else np.uint32(NAN).view(np.float32)
        key = min(max(int(total_order(bare)), int(total_order(low))), int(total_order(high)))
        one = epilogue(acc[None, None], bias[None], scale, OutFormat.FP32, (low, high))
        assert int(total_order(one)[0, 0]) == key
        assert int(bits(epilogue(acc[None, None], bias[None], scale, OutFormat.FP32))[0, 0]) == int(bits(bare))
        if math.isfinite(product):
            eight = epilogue(acc[None, None], bias[None], scale, OutFormat.INT8, zero_point=3)
            assert eight[0, 0] == min(max(round(product) + 3, -128), 127)


def test_float_epilogue_pools_and_refuses_int32():
    acc = np.array([[1, -0., np.nan], [-2, 0, 5]], np.float32)
    pooled = epilogue(acc, out_format=OutFormat.FP32, window=(0,))
    assert bits(pooled).tolist() == [0x3F800000, 0, NAN]
    with pytest.raises(ValueError, match="a float32 accumulator has no INT32 output"):
        epilogue(acc)


def test_bf16():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(0, 2 ** 32, 20_000, np.uint32), bits(EXTREME_FLOATS),
                        rng.integers(0, 2 ** 16, 500, np.uint32) << 16 | 0x8000, [0x7F7F7FFF, 0x7F7F8000]])
    x = x.astype(np.uint32)
    nan = x & 0x7FFFFFFF > INFINITY
    wide = x.astype(np.uint64)
    expected = np.where(nan, 0x7FC0, (wide + 0x7FFF + (wide >> 16 & 1)) >> 16)
    codes = to_bf16(x.view(np.float32))
    assert codes.dtype == np.uint16
    np.testing.assert_array_equal(codes, expected)
