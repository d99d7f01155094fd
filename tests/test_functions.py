"""exp2, reciprocal and rsqrt: the table, every fraction, the edges, the contract in integers; the hardware."""

import re

import numpy as np
import pytest

from bench import area, function_table, functions
from kiwicha import timing
from kiwicha.arith.function_pipe import FunctionPipe
from kiwicha.export import to_verilog
from kiwicha.functions import SEGMENTS, SEGMENTS_OF, Curve, Function
from kiwicha.memory.rom import Rom
from kiwicha_host.golden import functions as golden

INFINITY, NAN = 0x7F800000, 0x7FC00000
MINUS = 1 << 31


def apply(function, *operands):
    """Bits of results, from bits of operands."""
    return functions.GOLDEN[function](np.array(operands, np.uint32).view(np.float32)).view(np.uint32).tolist()


# The table.

def test_the_table_is_what_its_script_makes():
    assert function_table.TABLE.read_text(encoding="utf-8") == function_table.table_source()


@pytest.mark.parametrize("curve", Curve)
def test_every_value_of_a_curve(curve):
    error = function_table.curve_error(curve)
    assert -function_table.BOUND < error.low < 0 < error.high < function_table.BOUND
    assert error.monotone and error.within


def test_a_wrong_coefficient_is_seen(monkeypatch):
    c0 = golden._C0.copy()
    c0[Curve.RSQRT_ODD.value * SEGMENTS_OF + 5] += 40
    monkeypatch.setattr(golden, "_C0", c0)
    error = function_table.curve_error(Curve.RSQRT_ODD)
    assert error.high > function_table.BOUND and not error.monotone


# The golden model.

@pytest.mark.parametrize("function, first", [
    (Function.EXP2, 0x3F800000), (Function.RECIPROCAL, 0x3F800000),
    (Function.RSQRT, 0x3F800000), (Function.RSQRT, 0x40000000)],
    ids=["exp2", "reciprocal", "rsqrt of even exponents", "rsqrt of odd ones"])
def test_every_fraction(function, first):
    outcome = functions.check(function, first, 1 << 23)
    assert outcome.operands == 1 << 23 and not outcome.wrong and 0.5 < outcome.error < 0.8


@pytest.mark.parametrize("function", Function)
def test_every_exponent(function):
    """About 2,000 fractions of each, of either sign."""
    for first in (0, MINUS):
        outcome = functions.check(function, first, 1 << 31, stride=4099)
        assert outcome.operands > 500_000 and not outcome.wrong


@pytest.mark.parametrize("function, pairs", [
    (Function.EXP2, [
        (0, 0x3F800000), (MINUS, 0x3F800000), (1, 0x3F800000), (MINUS | 1, 0x3F800000),
        (INFINITY, INFINITY), (MINUS | INFINITY, 0), (0x3F800000, 0x40000000), (MINUS | 0x3F800000, 0x3F000000),
        (0x42FE0000, 0x7F000000),               # 127
        (0x42FFFFFF, 0x7F7FFFA7),               # just below 128
        (0x43000000, INFINITY),                 # 128
        (0xC2FC0000, 0x00800000),               # -126: the last normal number
        (0xC2FE0000, 0x00400000),               # -127
        (0xC3150000, 1),                        # -149: the last subnormal number
        (0xC315FFFF, 1), (0xC3160000, 0),       # just above -150; -150 is a tie, to even
        (0xC3160001, 0), (0xC3800000, 0), (0x7F7FFFFF, INFINITY), (0xFF7FFFFF, 0)]),
    (Function.RECIPROCAL, [
        (0, INFINITY), (MINUS, MINUS | INFINITY), (INFINITY, 0), (MINUS | INFINITY, MINUS),
        (0x3F800000, 0x3F800000), (0xC0800000, 0xBE800000), (1, INFINITY), (MINUS | 1, MINUS | INFINITY),
        (0x00200000, INFINITY),                 # 2^-128
        (0x00200001, 0x7F7FFFF8), (0x00400000, 0x7F000000), (0x00800000, 0x7E800000),
        (0x7E800000, 0x00800000), (0x7F000000, 0x00400000), (0xFF7FFFFF, MINUS | 0x00200000)]),
    (Function.RSQRT, [
        (0, INFINITY), (MINUS, MINUS | INFINITY), (INFINITY, 0), (MINUS | INFINITY, NAN), (MINUS | 1, NAN),
        (0xBF800000, NAN), (0x3F800000, 0x3F800000), (0x40800000, 0x3F000000), (0x40000000, 0x3F3504F3),
        (2, 0x64800000),                        # 2^-148
        (0x7E800000, 0x20000000)]),
], ids=lambda value: value.name if isinstance(value, Function) else "")
def test_edges(function, pairs):
    operands, results = zip(*pairs, strict=True)
    nans = [0x7FC00000, 0x7F800001, 0xFFC12345, 0xFFFFFFFF]
    got = apply(function, *operands, *nans)
    assert {f"{x:#x}": f"{y:#x}" for x, y in zip(operands, got, strict=False)} == {
        f"{x:#x}": f"{y:#x}" for x, y in pairs}
    assert got[len(operands):] == [NAN] * len(nans) and len(results) + len(nans) == len(got)


def test_numbers_of_any_type_and_shape():
    assert golden.exp2([[1, -2.0]]).tolist() == [[2.0, 0.25]] and golden.rsqrt(4).item() == 0.5
    assert golden.reciprocal(np.ones((2, 0))).shape == (2, 0)
    assert golden.reciprocal(np.arange(1, 9, dtype=np.float32)[::4]).tolist() == [1.0, np.float32(0.2)]


# The contract again, as docs/numerics.md has it: integers, one operand at a time.

def rounded_shift(value, places):
    return value + (1 << places - 1) >> places


def by_hand(function, bits):
    sign, field, fraction = bits >> 31, bits >> 23 & 255, bits & 0x7FFFFF
    magnitude = bits & 0x7FFFFFFF
    if magnitude > INFINITY or (function == Function.RSQRT and sign and magnitude):
        return NAN
    if function == Function.EXP2:
        if field >= 135:
            return 0 if sign else INFINITY
        significand, power = (fraction | 1 << 23, field - 125) if field else (fraction, -124)
        steps = significand << power if power >= 0 else rounded_shift(significand, -power)
        steps = -steps if sign else steps
        exponent, t, curve, sign = steps >> 25, steps & (1 << 25) - 1, Curve.EXP2, 0
    elif magnitude in (0, INFINITY):
        return sign << 31 | (0 if magnitude else INFINITY)
    else:
        significand, e = (fraction | 1 << 23, field - 127) if field else (fraction, -126)
        while significand < 1 << 23:
            significand, e = significand << 1, e - 1
        t = (significand - (1 << 23)) << 2
        if function == Function.RECIPROCAL:
            exponent, curve = -1 - e, Curve.RECIPROCAL
        else:
            exponent, curve = -1 - (e >> 1), Curve.RSQRT_ODD if e % 2 else Curve.RSQRT_EVEN
    c0, c1, c2 = SEGMENTS[128 * curve.value + (t >> 18)]
    u, s = t % (1 << 18), 1 if curve == Curve.EXP2 else -1
    value = (1 << 28) + c0 + s * rounded_shift((8 * c1 + s * rounded_shift(c2 * u, 18)) * u, 19)
    places = 5 + max(0, -126 - exponent)
    quotient, rest = divmod(value, 1 << places)
    quotient += 2 * rest > 1 << places or (2 * rest == 1 << places and quotient % 2)
    return sign << 31 | min((max(exponent + 126, 0) << 23) + quotient, INFINITY)


@pytest.mark.parametrize("function", Function)
def test_the_contract_by_hand(function):
    rng = np.random.default_rng(function.value)
    operands = rng.integers(0, 1 << 32, 6000, dtype=np.uint32)
    operands[::2] = operands[::2] & 0x807FFFFF | rng.integers(98, 136, 3000, dtype=np.uint32) << 23
    operands[1::8] &= 0x807FFFFF
    operands[3::8] = operands[3::8] & 0x81FFFFFF | 0x7E000000
    assert apply(function, *operands) == [by_hand(function, int(bits)) for bits in operands]


# The check of all operands.

@pytest.mark.parametrize("wrong, spoil", [
    ("too far", lambda x, y: y + np.uint32(2) * (x == 0x3F812345)),
    ("not exact", lambda x, y: y - np.uint32(x == 0x3F800000)),
    ("out of order", lambda x, y: y + np.uint32(5) * (x == 0x3F812345)),
    ("sign", lambda x, y: y ^ np.uint32(MINUS) * (x == 0x3F812345)),
    ("NaN", lambda x, y: np.where(x == 0x3F812345, np.uint32(NAN), y)),
    ("NaN", lambda x, y: np.where(x == 0x3F812345, np.uint32(NAN + 1), y))])
def test_the_check_sees(monkeypatch, wrong, spoil):
    good = golden.reciprocal
    monkeypatch.setitem(functions.GOLDEN, Function.RECIPROCAL, lambda x: spoil(
        x.view(np.uint32), good(x).view(np.uint32)).astype(np.uint32).view(np.float32))
    assert functions.check(Function.RECIPROCAL, 0x3F800000, 1 << 18).wrong.get(wrong, 0) >= 1
    assert not functions.check(Function.RECIPROCAL, 0x40000000, 1 << 18).wrong


def test_the_check_takes_the_hardware():
    """A stride that brings all fractions and exponents to the compiled pipe; and one wrong bit is seen."""
    for function in Function:
        for first in (0, MINUS):
            assert not functions.check(function, first, 1 << 31, 20011, functions.hardware).wrong

    def broken(function, bits):
        return functions.hardware(function, bits) ^ (bits == 0x40000001)
    assert functions.check(Function.EXP2, 0x40000000, 100, 1, broken).wrong == {"pipe": 1}


# The hardware, apart from its results: tb/arith/bench_functions.py has these.

def test_the_pipe_fits():
    """What one pipe for all lanes may take of an ECP5, as yosys counts it; carries are two LUTs each."""
    cells = area.cells(area.netlist(FunctionPipe(ecp5=True)))
    assert cells["DP16KD"] == 2 and cells["MULT18X18D"] == 3
    assert cells["LUT4"] + 2 * cells["CCU2C"] < 1000 and "TRELLIS_DPR16X4" not in cells
    assert FunctionPipe.LATENCY == timing.FLOAT_FUNCTION


def test_a_rom_needs_no_initial_values():
    words = [7, 0, 5, 2]
    text, _ = to_verilog(Rom(3, words), "rom", initial_values=False)
    assert not re.search(r"\binitial\b|kiwicha_memory|^ *reg [^;]*=|\] *\S+ *\[", text, re.MULTILINE)
    assert re.findall(r"2'h(\d):.*\n.*= 3'h(\d);", text) == [(str(i), str(word)) for i, word in enumerate(words)]


@pytest.mark.parametrize("width, words, message", [
    (3, [1, 2, 3], "Rom words must be a power of two of them, not 3"),
    (3, [1], "Rom words must be a power of two of them, not 1"),
    (3, [1, 8], "Rom words must have 3 bits, not 0x8"),
    (3, [-1, 2], "Rom words must have 3 bits, not -0x1"),
])
def test_rom_refuses(width, words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Rom(width, words)


