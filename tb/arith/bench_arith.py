"""FP32 conversions, multiplication, addition and order: bit for bit against numpy, at one result per cycle."""

import warnings
from functools import partial

import cocotb
import numpy as np
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from kiwicha.arith.float_add import FloatAdd
from kiwicha.arith.float_multiply import FloatMultiply
from kiwicha.arith.float_to_int8 import FloatToInt8
from kiwicha.arith.int_to_float import IntToFloat
from kiwicha.arith.mult18x18d import MODEL
from kiwicha.arith.order import total_order
from kiwicha.lib.delay import Delay
from tb.arith.lanes import EDGES, NAN, any_floats, apply, check, generator, lanes_bench


class TotalOrder(wiring.Component):
    """Whether a comes before b, as a component for the bench; and that the key turns back into the bits."""

    LATENCY = 0

    a: In(32)
    b: In(32)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        with m.If(total_order(total_order(self.a)) == total_order(total_order(self.b))):
            m.d.comb += self.o.eq(2)
        with m.Else():
            m.d.comb += self.o.eq(total_order(self.a) < total_order(self.b))
        return m


# Integer to FP32.

@cocotb.test()
async def integers_convert(dut):
    random = generator("integers")
    powers = (np.int64(1) << np.arange(32)).astype(np.int64)
    near = (powers[:, None] + np.arange(-40, 41)).ravel()
    # A tie, and one on either side of it, at every magnitude and for even and odd neighbours.
    ties = np.array([(1 << top) + (low << (top - 23)) + (1 << (top - 24)) + nudge
                     for top in range(24, 31) for low in (0, 1, 2, 3, 0x7FFFFE, 0x7FFFFF)
                     for nudge in (-1, 0, 1)])
    full = random.integers(-(1 << 31), 1 << 31, 500_000)
    short = full >> random.integers(0, 32, len(full))
    values = np.concatenate([near, -near, ties, -ties, full, short, [0, 1, -1, (1 << 31) - 1, -(1 << 31)]])
    values = (values & 0xFFFFFFFF).astype(np.uint32)
    got = await apply(dut, i=values)
    check(got, values.view(np.int32).astype(np.float32).view(np.uint32), i=values)


# Multiplication.

def multiply(a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        product = a.view(np.float32) * b.view(np.float32)
    return np.where(np.isnan(product), NAN, product.view(np.uint32))


async def check_products(dut, a, b):
    a, b = (np.ascontiguousarray(x, np.uint32) for x in (a, b))
    check(await apply(dut, a=a, b=b), multiply(a, b), a=a, b=b)


@cocotb.test()
async def every_pair_of_exponents(dut):
    random = generator("exponents")
    a, b = (x.ravel() for x in np.meshgrid(np.arange(256), np.arange(256)))
    low = any_floats(random, 6 * len(a)) & 0x807FFFFF
    high = any_floats(random, 6 * len(a)) & 0x807FFFFF
    await check_products(dut, np.tile(a, 6) << 23 | low, np.tile(b, 6) << 23 | high)


@cocotb.test()
async def edges_times_edges(dut):
    a, b = (x.ravel() for x in np.meshgrid(EDGES, EDGES))
    await check_products(dut, a, b)


@cocotb.test()
async def random_products(dut):
    random = generator("random")
    await check_products(dut, any_floats(random, 300_000), any_floats(random, 300_000))


@cocotb.test()
async def subnormal_products(dut):
    random = generator("subnormal")
    count = 200_000
    # An exponent sum at which the product is, or is almost, subnormal, from normal or subnormal operands.
    a = any_floats(random, count)
    a_field = np.maximum(1, a >> 23 & 255).astype(np.int64)
    field = np.clip(127 - a_field + random.integers(-27, 4, count), 0, 254)
    b = (any_floats(random, count) & 0x807FFFFF) | (field << 23)
    small = any_floats(random, count) & 0x807FFFFF
    small >>= random.integers(0, 24, count, dtype=np.uint32)
    await check_products(dut, np.concatenate([a, small, any_floats(random, count)]),
                         np.concatenate([b, any_floats(random, count), small]))


@cocotb.test()
async def ties(dut):
    """Products whose exact value lies in the middle of two floats, or one bit off."""
    random = generator("ties")
    rows = []
    while len(rows) < 20_000:
        # odd * odd with 25 significant bits: exactly a tie for 24 bits.
        x = random.integers(1, 1 << 12, 4096) | 1
        y = random.integers(1, 1 << 13, 4096) | 1
        keep = (x * y >= 1 << 24) & (x * y < 1 << 25)
        rows.extend(zip(x[keep], y[keep], strict=True))
    x, y = np.array(rows).T
    exponents = random.integers(0, 40, (2, len(x)))
    a = np.ldexp(x.astype(np.float64), exponents[0] - 20).astype(np.float32).view(np.uint32)
    b = np.ldexp(y.astype(np.float64), exponents[1] - 20).astype(np.float32).view(np.uint32)
    await check_products(dut, np.concatenate([a, a, a + 1]), np.concatenate([b, b | 1 << 31, b]))


@cocotb.test()
async def times_one(dut):
    values = any_floats(generator("one"), 20_000)
    await check_products(dut, values, np.full_like(values, 0x3F800000))


# Addition.

async def check_sums(dut, a, b):
    a, b = (np.ascontiguousarray(x, np.uint32) for x in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        total = a.view(np.float32) + b.view(np.float32)
    check(await apply(dut, a=a, b=b), np.where(np.isnan(total), NAN, total.view(np.uint32)), a=a, b=b)


@cocotb.test()
async def sums_of_every_pair_of_exponents(dut):
    random = generator("exponents")
    a, b = (x.ravel() for x in np.meshgrid(np.arange(256), np.arange(256)))
    low, high = (any_floats(random, 4 * len(a)) & 0x807FFFFF for _ in range(2))
    await check_sums(dut, np.tile(a, 4) << 23 | low, np.tile(b, 4) << 23 | high)


@cocotb.test()
async def edges_plus_edges(dut):
    a, b = (x.ravel() for x in np.meshgrid(EDGES, EDGES))
    await check_sums(dut, a, b)


@cocotb.test()
async def sums_of_near_exponents(dut):
    """Every distance from 0 to 28, both signs, both orders, down to subnormals: where rounding is decided."""
    random = generator("near")
    count = 300_000
    a, b = any_floats(random, count), any_floats(random, count)
    distance = random.integers(0, 29, count)
    field = np.clip((a >> 23 & 255).astype(np.int64) - distance, 0, 255)
    b = ((b & 0x807FFFFF) | (field << 23)).astype(np.uint32)
    swap = random.integers(2, size=count, dtype=bool)
    await check_sums(dut, np.where(swap, b, a), np.where(swap, a, b))


@cocotb.test()
async def sums_that_cancel(dut):
    """Any number of leading bits lost, at any exponent; also exactly to zero."""
    random = generator("cancel")
    count = 200_000
    a = any_floats(random, count)
    a[::2] &= np.uint32(0x87FFFFFF)     # half of them near subnormal
    nudge = random.integers(0, 1 << 24, count) >> random.integers(0, 25, count)
    b = np.clip((a & 0x7FFFFFFF).astype(np.int64) + np.where(random.integers(2, size=count), nudge, -nudge),
                0, 0x7F7FFFFF).astype(np.uint32) | (~a & 0x80000000)
    await check_sums(dut, a, b)


@cocotb.test()
async def random_sums(dut):
    random = generator("random")
    await check_sums(dut, any_floats(random, 300_000), any_floats(random, 300_000))


# FP32 to int8.

def quantize(bits, zero_point):
    value = bits.view(np.float32).astype(np.float64)
    value = np.where(np.isnan(value), 0, np.clip(value, -1000, 1000))
    return np.clip(np.rint(value).astype(np.int64) + zero_point, -128, 127)


@cocotb.test()
async def floats_quantize(dut):
    random = generator("int8")
    halves = (np.arange(-1200, 1201) / 4).astype(np.float32).view(np.uint32)
    halves = np.concatenate([halves, halves + 1, halves - 1])
    halves = np.repeat(halves, 3)
    near = (any_floats(random, 200_000) & 0x807FFFFF) | random.integers(120, 138, 200_000) << 23
    values = np.concatenate([halves, near, any_floats(random, 800_000), np.tile(EDGES, 20)]).astype(np.uint32)
    zero_point = random.integers(-128, 128, len(values))
    zero_point[::4] = random.choice([-128, -1, 0, 127], len(zero_point[::4]))
    got = await apply(dut, i=values, zero_point=(zero_point & 0xFF).astype(np.uint32))
    # The lane's signed(8) result is sign-extended to its 32 bits.
    check(got, (quantize(values, zero_point) & 0xFFFFFFFF).astype(np.uint32), i=values, zp=zero_point & 255)


# Order.

@cocotb.test()
async def floats_compare(dut):
    random = generator("order")
    edges = [x.ravel() for x in np.meshgrid(EDGES, EDGES)]
    a = np.concatenate([edges[0], any_floats(random, 1_000_000)])
    b = np.concatenate([edges[1], any_floats(random, 1_000_000)])
    b[-500:] = a[-500:]
    got = await apply(dut, a=a, b=b)
    x, y = a.view(np.float32), b.view(np.float32)
    same_zero = (x == 0) & (y == 0)
    less = np.where(same_zero, np.signbit(x) & ~np.signbit(y), x < y)
    # A NaN lies outside of all numbers, on the side of its sign; between two, the payload counts.
    nan_a, nan_b = np.isnan(x), np.isnan(y)
    rank_a, rank_b = (np.where(n, np.where(np.signbit(v), -1, 1), 0) for n, v in ((nan_a, x), (nan_b, y)))
    payload = np.where(np.signbit(x), (b & 0x7FFFFF) < (a & 0x7FFFFF), (a & 0x7FFFFF) < (b & 0x7FFFFF))
    less = np.where(nan_a | nan_b, np.where(rank_a == rank_b, payload, rank_a < rank_b), less)
    check(got, np.where(a == b, 2, less).astype(np.uint32), a=a, b=b)


# Delay.

@cocotb.test()
async def delays(dut):
    values = generator("delay").integers(0, 1 << 32, 3000, dtype=np.uint32)
    check(await apply(dut, i=values), values, i=values)


class SignedDelay(wiring.Component):
    """A Delay of a signed 20-bit number and the rest of a word."""

    i: In(32)
    o: Out(32)

    def __init__(self, cycles):
        self._cycles = cycles
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.number = number = Delay(signed(20), self._cycles)
        m.submodules.rest = rest = Delay(12, self._cycles)
        m.d.comb += [number.i.eq(self.i[:20].as_signed()), rest.i.eq(self.i[20:]),
                     self.o[:20].eq(number.o), self.o[20:].eq(rest.o)]
        return m


BENCHES = [
    lanes_bench(__name__, "int_to_float", IntToFloat, ["i"], 4, ["integers_convert"]),
    *(lanes_bench(__name__, name, unit, ["a", "b"], 9,
                  ["every_pair_of_exponents", "edges_times_edges", "random_products", "subnormal_products",
                   "ties", "times_one"], models)
      for name, unit, models in (("multiply", FloatMultiply, ()),
                                 ("multiply_18", partial(FloatMultiply, lower=18), ()),
                                 ("multiply_ecp5", partial(FloatMultiply, ecp5=True), [MODEL]),
                                 ("multiply_ecp5_18", partial(FloatMultiply, ecp5=True, lower=18), [MODEL]))),
    lanes_bench(__name__, "add", FloatAdd, ["a", "b"], FloatAdd.LATENCY,
                ["sums_of_every_pair_of_exponents", "edges_plus_edges", "sums_of_near_exponents",
                 "sums_that_cancel", "random_sums"]),
    lanes_bench(__name__, "float_to_int8", FloatToInt8, ["i", "zero_point"], 4, ["floats_quantize"]),
    lanes_bench(__name__, "order", TotalOrder, ["a", "b"], 0, ["floats_compare"]),
    *(lanes_bench(__name__, f"delay_{n}", lambda n=n: SignedDelay(n), ["i"], n, ["delays"]) for n in (2, 3, 13)),
]
