"""Integers times a power of two to FP32, and FP32 to narrower formats: bit for bit against exact models."""

from fractions import Fraction

import cocotb
import ml_dtypes
import numpy as np
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from kiwicha.arith.narrow import QUANTIZED, BlockScale, FloatToBf16, FloatToElement
from kiwicha.arith.scaled import ScaledToFloat
from kiwicha.formats import ElementFormat
from tb import harness
from tb.arith.lanes import NAN, any_floats, apply, check, generator, lanes_bench


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


# FP32 to bfloat16.

@cocotb.test()
async def floats_to_bf16(dut):
    random = generator("bf16")
    # Every upper half, with lower halves around the middle.
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF]
    values = np.concatenate([*(upper | low for low in lower), any_floats(random, 50_000)]).astype(np.uint32)
    with np.errstate(all="ignore"):
        want = values.view(np.float32).astype(ml_dtypes.bfloat16)
    want = np.where(np.isnan(values.view(np.float32)), 0x7FC0, want.view(np.uint16)).astype(np.uint32)
    check(await apply(dut, i=values), want, i=values)


# FP32 to elements of a block.

#: (dtype, largest value, exponent of the largest value) of the formats that blocks are quantized to.
TARGETS = {ElementFormat.E4M3: (ml_dtypes.float8_e4m3fn, 448.0, 8),
           ElementFormat.E2M1: (ml_dtypes.float4_e2m1fn, 6.0, 2),
           ElementFormat.INT8: (np.int8, 127 / 64, 0)}


class Quantize(wiring.Component):
    """A FloatToElement with its small inputs in one word: scale, format, bad."""

    i: In(32)
    how: In(32)
    o: Out(32)

    def __init__(self, formats):
        self._formats = formats
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = FloatToElement(self._formats)
        m.d.comb += [unit.i.eq(self.i), Cat(unit.scale, unit.format, unit.bad).eq(self.how),
                     self.o.eq(unit.o)]
        return m


@cocotb.test()
async def floats_to_elements(dut):
    """Every code's value, every middle between two and their float32 neighbours, at many scales; anything else."""
    random = generator("elements")
    for target in harness.current().params["formats"]:
        dtype, largest, _ = TARGETS[target]
        step = 64 if target == ElementFormat.INT8 else 1
        bits = 4 if target == ElementFormat.E2M1 else 8
        codes = np.arange(1 << bits - 1, dtype=np.uint8).view(dtype).astype(np.float64) / step
        codes = codes[~np.isnan(codes)]
        points = np.concatenate([codes, (codes[1:] + codes[:-1]) / 2, codes * 0.75, codes * 1.25,
                                 [largest * 1.0625, largest * 1.25, largest * 2, 1e9]])
        scale = np.concatenate([np.arange(0, 30), [100, 126, 127, 128, 200, 240, 253, 254]])
        points, scale = (x.ravel() for x in np.meshgrid(points, scale))
        with np.errstate(all="ignore"):
            exact = np.ldexp(points, scale - 127).astype(np.float32).view(np.uint32).astype(np.int64)
        values = np.concatenate([exact, exact - 1, exact + 1]).clip(0, 0x7F7FFFFF).astype(np.uint32)
        scale = np.tile(scale, 3)
        # Anything, at scales that bring it near the range of the format.
        some = any_floats(random, 100_000) & 0x7FFFFFFF
        some[::5] &= 0x00FFFFFF
        some = np.minimum(some, 0x7F7FFFFF).astype(np.uint32)
        near = (some >> 23).astype(np.int64) + random.integers(-12, 14, len(some))
        near[::9] = random.integers(0, 255, len(near[::9]))
        values = np.concatenate([values, some])
        scale = np.concatenate([scale, near.clip(0, 254)])
        values |= (random.integers(2, size=len(values)) << 31).astype(np.uint32)
        if target == ElementFormat.INT8:
            # A block's scale is never smaller.
            fits = np.ldexp((values & 0x7FFFFFFF).view(np.float32).astype(np.float64), 127 - scale) < 2
            values, scale = values[fits], scale[fits]
        bad = random.random(len(values)) < 0.01
        # float64 divides by a power of two exactly; saturation first, since ml_dtypes has its own ideas.
        real = np.ldexp(values.view(np.float32).astype(np.float64), 127 - scale)
        want = np.clip(real, -largest, largest) * step
        want = (np.rint(want) if step > 1 else want).astype(dtype).view(np.uint8).astype(np.uint32)
        how = scale | target.value << 8 | bad.astype(np.int64) << 11
        check(await apply(dut, i=values, how=how.astype(np.uint32)), np.where(bad, 0, want).astype(np.uint32),
              i=values, how=how)


# Scales of blocks.

class Scale(wiring.Component):
    """A BlockScale with its small inputs in one word: format, ceil."""

    i: In(32)
    how: In(32)
    o: Out(32)

    def __init__(self, formats):
        self._formats = formats
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = BlockScale(self._formats)
        m.d.comb += [unit.i.eq(self.i), Cat(unit.format, unit.ceil).eq(self.how), self.o.eq(unit.o)]
        return m


@cocotb.test()
async def scales_of_blocks(dut):
    """Every exponent with fractions around the middle ones, by both rules, for all formats."""
    random = generator("scales")
    fractions = [0, 1, 0x3FFFFF, 0x400000, 0x400001, 0x5FFFFF, 0x600000, 0x600001, 0x7FFFFF,
                 0x3EFFFF, 0x3F0000, 0x3F0001, 0x7DFFFF, 0x7E0000, 0x7E0001, 0x7F0000, 0x7F0001,
                 *random.integers(0, 1 << 23, 40)]
    amax = (np.arange(256)[:, None] << 23 | np.array(fractions)).ravel().astype(np.uint32)
    real = amax.view(np.float32).astype(np.float64)
    usable = np.isfinite(real)
    for target in harness.current().params["formats"]:
        _, largest, top = TARGETS[target]
        for ceil in (0, 1):
            # The smallest power of two that brings amax to the maximum at most; or its exponent alone.
            safe = np.where(usable & (real > 0), real, 2.0 ** -149)
            if ceil:
                mantissa, exponent = np.frexp(safe / largest)
                exponent -= mantissa == 0.5
            else:
                exponent = np.frexp(safe)[1] - 1 - top
            want = np.where(usable, np.clip(exponent + 127, 0, 254), 255).astype(np.uint32)
            how = np.full(len(amax), target.value | ceil << 3, np.uint32)
            check(await apply(dut, i=amax, how=how), want, i=amax, how=how)


def _scaled(width, *tests):
    bench = lanes_bench(__name__, f"scaled_{width}", lambda: Scaled(width), ["low", "high", "exponent"],
                        ScaledToFloat.LATENCY, ["every_exponent", "random_values",
                                                "tiny_negatives_keep_their_sign", *tests])
    bench.params["width"] = width
    return bench


def _quantizer(suffix, formats):
    """Benches of what makes blocks, for `formats` only."""
    element = lanes_bench(__name__, f"element{suffix}", lambda: Quantize(formats), ["i", "how"],
                          FloatToElement.LATENCY, ["floats_to_elements"])
    scale = lanes_bench(__name__, f"block_scale{suffix}", lambda: Scale(formats), ["i", "how"], BlockScale.LATENCY,
                        ["scales_of_blocks"])
    for bench in (element, scale):
        bench.params["formats"] = formats
    return element, scale


BENCHES = [
    _scaled(44, "ties_and_neighbours"), _scaled(21, "ties_and_neighbours"), _scaled(2),
    lanes_bench(__name__, "bf16", FloatToBf16, ["i"], FloatToBf16.LATENCY, ["floats_to_bf16"]),
    *_quantizer("", QUANTIZED), *_quantizer("_floats", QUANTIZED[:2]), *_quantizer("_int8", QUANTIZED[2:]),
]
