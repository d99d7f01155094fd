"""exp2, reciprocal and rsqrt of FP32 numbers, in one pipeline."""

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import QUIET_NAN
from ..functions import C0_BITS, C1_BITS, C2_BITS, FRACTION_BITS, OFFSET_BITS, SEGMENTS, Curve, Function
from ..lib.delay import delay
from ..memory.rom import Rom
from ..timing import FLOAT_FUNCTION
from .mult18x18d import mult18x18d
from .normalize import ShiftWindow, leading_zeros

__all__ = ["FunctionPipe"]

#: Bits of a slope, and of the lower of its two parts, which are multiplied apart.
_SLOPE_BITS, _PART_BITS = C1_BITS + 3, 11


class FunctionPipe(wiring.Component):
    """2^x, 1 / x or 1 / sqrt(x), chosen anew for each operand.

    ``docs/numerics.md`` says what the result is, to the bit; it is at most one unit of the last place from the
    exact one. Subnormals count in full, in and out, and every NaN is :data:`~kiwicha.formats.QUIET_NAN`. Latency
    :data:`LATENCY` = 18 cycles, one result per cycle, no stall. Three multipliers and two block RAMs.

    How it works: one shifter turns exp2's operand into a number in steps of 2^-25, and gives the subnormal ones of
    the others a leading one. 25 bits of that are the fraction: a segment, and the offset u in it. Two
    multiplications make c0 +- u * (c1 +- u * c2) of them, which is from 1 to below 2. Last, the exponent of the
    result is put before it, or it is shifted right to a subnormal number, and rounded.

    Parameters
    ----------
    ecp5 : bool
        Use MULT18X18D, whose own registers are those of a multiplication's two cycles.

    Members
    -------
    i : In(32)
        FP32, as its bits.
    select : In(Function)
        For the operand that is on `i` in the same cycle; 3 has no meaning.
    o : Out(32)
    """

    LATENCY = FLOAT_FUNCTION

    def __init__(self, *, ecp5: bool = False):
        self._ecp5 = ecp5
        super().__init__({"i": In(32), "select": In(Function), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        steps, curve, exponent, special = self._reduce(m)
        values = self._polynomial(m, steps[:FRACTION_BITS], curve)
        m.d.comb += self.o.eq(_rounded(m, values, exponent, special))
        return m

    def _reduce(self, m):
        """1 to 6: the fraction, at 5, and its curve; the result's exponent field less one, at 6; special cases."""
        # 1: unpack. exp2's operand is to have its binary point 24 bits further up than a distance of 0 puts it.
        field, fraction, sign = self.i[23:31], self.i[:23], self.i[31]
        is_exp2, is_rsqrt = self.select == Function.EXP2, self.select == Function.RSQRT
        tiny, large = ~field.any(), field.all()
        empty = ~fraction.any()
        special = _Special(m, nan=(large & ~empty) | (is_rsqrt & sign & ~(tiny & empty)),
                           infinite=Mux(is_exp2, (field >= 135) & ~sign, tiny & empty),
                           zero=Mux(is_exp2, (field >= 135) & sign, large), negative=sign & ~is_exp2)
        significand = delay(m, Cat(fraction, ~tiny), "significand", 2)
        zeros = delay(m, Mux(tiny, leading_zeros(Cat(fraction, 0))[:5], 0), "zeros")
        distance = delay(m, Mux(field < 100, 0, (field - 100)[:6]), "exp2_distance")
        field = delay(m, Cat(field[0] | tiny, field[1:]), "field")
        sign = delay(m, sign, "sign", 4)
        is_exp2, is_rsqrt = delay(m, is_exp2, "is_exp2"), delay(m, is_rsqrt, "is_rsqrt")

        # 2: how far to shift; the exponent field that a leading one would have.
        distance = delay(m, Mux(is_exp2, distance, zeros + 27)[:6], "distance")
        normal = delay(m, field - zeros, "normal")
        is_exp2, is_rsqrt = delay(m, is_exp2, "is_exp2_late"), delay(m, is_rsqrt, "is_rsqrt_late")

        # 3, 4: shift. A number with a leading one has it in bit 26 of the window.
        window = ShiftWindow(significand, 58, 24)
        window.shift(m, "coarse", distance, (5, 4, 3))
        window.shift(m, "fine", delay(m, distance[:3], "distance_late"), (2, 1, 0))
        exponent = delay(m, Mux(is_rsqrt, 189 - ((normal + 1) >> 1), 252 - normal), "exponent", 3)
        # An even field is an odd exponent.
        curve = Mux(is_exp2, Curve.EXP2.value, Mux(is_rsqrt, Cat(~normal[0], Const(1, 1)), Curve.RECIPROCAL.value))
        curve = delay(m, curve, "curve", 3)
        is_exp2 = delay(m, is_exp2, "is_exp2_last", 2)

        # 5: round to steps of 2^-25, halves away from zero, and negate.
        negate, half = sign & is_exp2, window.bits[0] & is_exp2
        steps = (window.bits[1:] ^ negate.replicate(33)) + (negate ^ half)
        steps = delay(m, Cat(steps[:33], negate & ~steps[33]), "steps")

        # 6: the exponent of exp2.
        power = steps[FRACTION_BITS:].as_signed() + 126
        return steps, curve, delay(m, Mux(curve == Curve.EXP2.value, power, exponent), "exponent_6"), special

    def _polynomial(self, m, fraction, curve):
        """6 to 14: the curve at `fraction`."""
        # 6, 7: coefficients of u and its square.
        m.submodules.slopes = slopes = Rom(C1_BITS + C2_BITS, (word.c1 << C2_BITS | word.c2 for word in SEGMENTS))
        m.submodules.values = values = Rom(C0_BITS, (word.c0 for word in SEGMENTS))
        read = Cat(fraction[OFFSET_BITS:], curve)
        u = delay(m, fraction[:OFFSET_BITS], "u", 2)
        m.d.comb += slopes.read.eq(read)
        c1, c2 = slopes.o[C2_BITS:], slopes.o[:C2_BITS]

        # 8, 9: the first multiplication; 10: the slope.
        bend = self._product(m, c2, u, "bend")
        falls = delay(m, curve != Curve.EXP2.value, "falls", 4)
        slope = delay(m, _add(Cat(Const(0, 3), delay(m, c1, "c1", 2)), bend, OFFSET_BITS, falls), "slope")

        # 11, 12: the second one, in two parts; 13: together.
        u = delay(m, u, "u_late", 3)
        low, high = (self._product(m, part, u, name) for part, name in (
            (slope[:_PART_BITS], "low"), (slope[_PART_BITS:], "high")))
        rise = delay(m, ((high << _PART_BITS) + low)[:_SLOPE_BITS + OFFSET_BITS], "rise")

        # 12, 13: the value at the segment's start; 14: the value.
        m.d.comb += values.read.eq(delay(m, read, "read", 6))
        return delay(m, _add(Cat(values.o, Const(1, 1)), rise, 19, delay(m, falls, "falls_late", 4)), "value")

    def _product(self, m, x, y, name):
        """x * y, two cycles later."""
        if self._ecp5:
            return mult18x18d(m, x, y, is_signed=False, name=name)[:len(x) + len(y)]
        return delay(m, delay(m, x, f"{name}_x") * delay(m, y, f"{name}_y"), name)


class _Special:
    """Results that the operand alone decides, registered until the last stage."""

    def __init__(self, m, **flags):
        for name, flag in flags.items():
            setattr(self, name, delay(m, flag, name, FLOAT_FUNCTION - 1))


def _add(start, amount, places, falls):
    """start + round(amount / 2^places), or less that, halves of it upwards: as many bits as `start`, one adder."""
    change, half = amount[places:], amount[places - 1]
    return (start + (change ^ falls.replicate(len(start))) + (half ^ falls))[:len(start)]


def _rounded(m, value, exponent, special):
    """15 to 18: the value, at 14, with the exponent of the result: its field less one, at 6."""
    # 7: how far right, if the field is below 1; after 25 places nothing is left, and there are up to 31.
    tiny = exponent < 0
    distance = delay(m, Mux(tiny, Mux(exponent < -31, 0, exponent[:5] - 1), 31)[:5], "distance_right", 8)
    field = delay(m, Mux(tiny, 0, exponent[:9]), "field_right", 10)

    # 15, 16: the shift.
    window = ShiftWindow(value, C0_BITS + 32, C0_BITS + 7)
    window.shift(m, "right", distance, (4, 3, 2))
    window.shift(m, "right_fine", delay(m, distance[:2], "right_late"), (1, 0))

    # 17: round. The leading one adds 1 to the field, as a carry out of rounding does.
    up = window.bits[0] & (window.bits[1] | window.lost)
    packed = delay(m, ((field << 23) + window.bits[1:] + up)[:32], "packed")

    # 18: special cases.
    infinite = special.infinite | (packed[23:] >= 255)
    result = Mux(special.zero, 0, Mux(infinite, 0x7F800000, packed[:31]))
    return delay(m, Mux(special.nan, QUIET_NAN, Cat(result[:31], special.negative)), "out")
