"""Integers times a power of two to FP32, and FP32 to narrower formats: bit for bit against exact models."""

from fractions import Fraction

import cocotb
import numpy as np
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

import harness
from kiwicha.arith.scaled import ScaledToFloat
from lanes import NAN, apply, check, generator, lanes_bench


class Scaled(wiring.Component):
    """A ScaledToFloat with its inputs in words of 32 bits: `high` is bits 32 and up of `i`, with `nan` on top."""

    low: In(32)
    high: In(32)
    exponent: In(32)
    o: Out(32)

    def __init__(self, width):
        self._width = width
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = ScaledToFloat(self._width)
        m.d.comb += [
            unit.i.eq(Cat(self.low, self.high)),
            unit.exponent.eq(self.exponent),
            unit.nan.eq(self.high[31]),
            self.o.eq(unit.o),
        ]
        return m


def scale(i, exponent):
    """The float32 nearest to i * 2^exponent, in rationals for single values; as bits."""
    value = abs(Fraction(int(i)) * Fraction(2) ** int(exponent))
    sign = 1 << 31 if i < 0 else 0
    if not value:
        return 0
    top = value.numerator.bit_length() - value.denominator.bit_length()
    top -= value < Fraction(2) ** top           # 2^top <= value < 2^(top + 1)
    ulp = max(top, -126) - 23
    steps = round(value / Fraction(2) ** ulp)   # Python rounds halves to even
    if steps * Fraction(2) ** ulp >= Fraction(2) ** 128:
        return sign | 0x7F800000
    return sign | int(np.float32(np.ldexp(float(steps), ulp)).view(np.uint32))


def scale_all(i, exponent):
    """`scale` for arrays. float64 holds i exactly, and scaling it loses nothing: numpy rounds only once."""
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(i.astype(np.float64), exponent).astype(np.float32).view(np.uint32)


async def check_scaled(dut, i, exponent, nan=None):
    i = np.asarray(i, np.int64)
    exponent = np.asarray(exponent, np.int64)
    nan = np.zeros(len(i), bool) if nan is None else nan
    want = np.where(nan, NAN, scale_all(i, exponent)).astype(np.uint32)
    for index in range(0, len(i), max(1, len(i) // 200)):
        assert nan[index] or want[index] == scale(i[index], exponent[index])
    low = (i & 0xFFFFFFFF).astype(np.uint32)
    high = (i >> 32 & 0x7FFFFFFF).astype(np.uint32) | nan.astype(np.uint32) << 31
    bits = (exponent & 0xFFFFFFFF).astype(np.uint32)
    check(await apply(dut, low=low, high=high, exponent=bits), want, high=high, low=low, exponent=bits)


def integers(random, count, width):
    """Of every length, with short and long runs of zeros and ones below."""
    values = random.integers(-(1 << width - 1), 1 << width - 1, count) >> random.integers(0, width, count)
    mask = (np.int64(1) << random.integers(0, width, count)) - 1
    values[::3] &= ~mask[::3]
    values[1::3] |= mask[1::3]
    return np.where(random.integers(2, size=count) > 0, values, np.maximum(-values, -(1 << width - 1)).clip(
        max=(1 << width - 1) - 1))


def _width():
    return harness.current().params["width"]


@cocotb.test()
async def every_exponent(dut):
    """Every exponent with the extremes, small numbers, powers of two and numbers of every length."""
    random = generator("exponents")
    width = _width()
    top = 1 << width - 1
    edges = np.unique(np.clip([0, 1, -1, 2, 3, -3, top - 1, -top, 1 - top, top >> 1,
                               *(1 << bit for bit in range(width - 1)), *(-1 << bit for bit in range(width))],
                              -top, top - 1))
    i = np.concatenate([edges, integers(random, 400, width)])
    exponent = np.arange(-272, 255)
    i, exponent = (x.ravel() for x in np.meshgrid(i, exponent))
    await check_scaled(dut, i, exponent)


@cocotb.test()
async def ties_and_neighbours(dut):
    """Values in the middle between two floats, and one off: normal, subnormal, and around the largest."""
    random = generator("ties")
    width = _width()
    count = 200_000
    # `kept` bits of significand, a half, and zeros; then one more or less in some of them.
    length = random.integers(2, width, count)
    kept = np.minimum(random.integers(1, 25, count), length - 1)
    significand = random.integers(0, 1 << 24, count) >> (24 - kept) | np.int64(1) << kept - 1
    ones = random.random(count) < 0.3
    significand = np.where(ones, (np.int64(1) << kept) - 1, significand)
    i = (significand << 1 | 1) << (length - kept - 1)
    i += random.integers(-1, 2, count) * (length - kept > 1)
    i = np.minimum(i, (1 << width - 1) - 1)
    # A subnormal with `kept` bits has its lowest bit at 2^-149.
    lowest = length - kept
    at_bottom = -149 - lowest
    at_top = 128 - length
    pick = random.integers(3, size=count)
    exponent = np.where(pick == 0, at_bottom, np.where(pick == 1, at_top, random.integers(-272, 255, count)))
    sign = np.where(random.integers(2, size=count) > 0, 1, -1)
    await check_scaled(dut, sign * i, np.clip(exponent, -272, 254))


@cocotb.test()
async def random_values(dut):
    random = generator("random")
    count = 150_000
    await check_scaled(dut, integers(random, count, _width()), random.integers(-272, 255, count),
                       random.random(count) < 0.01)


@cocotb.test()
async def tiny_negatives_keep_their_sign(dut):
    i = np.array([-1, -1, 1, -2, 0, 0])
    exponent = np.array([-272, -150, -150, -150, -272, 254])
    assert [scale(*pair) for pair in zip(i, exponent, strict=True)] == [1 << 31, 1 << 31, 0, 1 << 31 | 1, 0, 0]
    await check_scaled(dut, i, exponent)


def _scaled(width, *tests):
    bench = lanes_bench(__name__, f"scaled_{width}", lambda: Scaled(width), ["low", "high", "exponent"],
                        ScaledToFloat.LATENCY, ["every_exponent", "random_values",
                                                "tiny_negatives_keep_their_sign", *tests])
    bench.params["width"] = width
    return bench


BENCHES = [_scaled(44, "ties_and_neighbours"), _scaled(21, "ties_and_neighbours"), _scaled(2)]
