"""The function pipe: bit for bit as the golden model, a new operand and another function in each cycle."""

from functools import partial

import cocotb
import numpy as np

from kiwicha.arith.function_pipe import FunctionPipe
from kiwicha.arith.mult18x18d import MODEL
from kiwicha.functions import SEGMENTS_OF, Function
from kiwicha_host.golden import functions as golden
from tb.arith.lanes import EDGES, any_floats, apply, check, generator, lanes_bench


def model(x, function):
    """Bits of the results of functions, by their codes."""
    x = x.view(np.float32)
    results = [golden.exp2(x), golden.reciprocal(x), golden.rsqrt(x)]
    return np.choose(function, [result.view(np.uint32) for result in results])


async def check_functions(dut, x, function):
    x, function = (np.ascontiguousarray(values, np.uint32) for values in (x, function))
    check(await apply(dut, i=x, select=function), model(x, function), i=x, select=function)


async def check_each(dut, x):
    """All three functions of each operand, one after the other."""
    await check_functions(dut, np.repeat(x, len(Function)), np.tile(np.arange(len(Function)), len(x)))


@cocotb.test()
async def edges(dut):
    await check_each(dut, EDGES)


@cocotb.test()
async def every_exponent(dut):
    """With a few fractions, among them all ones and zeros, and both signs."""
    random = generator("exponents")
    upper = np.arange(512, dtype=np.uint32)[:, None] << 23
    low = random.integers(0, 1 << 23, (512, 6), dtype=np.uint32)
    low[:, :4] = 0, 1, 0x7FFFFF, 0x400000
    await check_each(dut, (upper | low).ravel())


@cocotb.test()
async def every_segment(dut):
    """The ends of all segments, of even and odd exponents."""
    ends = (np.arange(SEGMENTS_OF)[:, None] << 16 | np.array([0, 1, 0xFFFF])).ravel()
    await check_each(dut, np.concatenate([ends | 127 << 23, ends | 128 << 23]).astype(np.uint32))


@cocotb.test()
async def exp2_of_ordinary_numbers(dut):
    """From those that are rounded to zero to those whose power is; and whole ones."""
    random = generator("exp2")
    x = any_floats(random, 30_000) & 0x807FFFFF | random.integers(99, 136, 30_000, dtype=np.uint32) << 23
    near = random.integers(-160, 140, 3000) + random.choice([0, 0.5, 2. ** -16, -2. ** -16], 3000)
    x = np.concatenate([x, near.astype(np.float32).view(np.uint32)])
    await check_functions(dut, x, np.full(len(x), Function.EXP2.value))


@cocotb.test()
async def subnormals_and_their_neighbours(dut):
    """Subnormal operands of every length, and reciprocals that are subnormal."""
    random = generator("subnormal")
    sign = random.integers(0, 2, 12_000, dtype=np.uint32) << 31
    short = random.integers(0, 1 << 24, 12_000, dtype=np.uint32) >> random.integers(0, 24, 12_000, dtype=np.uint32)
    large = random.integers(0x7E000000, 0x7F800000, 12_000, dtype=np.uint32)
    await check_each(dut, np.concatenate([short | sign, large | sign]))


@cocotb.test()
async def any_operands(dut):
    random = generator("any")
    await check_functions(dut, any_floats(random, 60_000), random.integers(0, len(Function), 60_000))


# The portable multipliers' pipe is compiled and compared in tests/test_functions.py, on more operands.
BENCHES = [lanes_bench(__name__, "functions_ecp5", partial(FunctionPipe, ecp5=True), ["i", "select"],
                       FunctionPipe.LATENCY, [], [MODEL])]
