"""From FP32 to narrower formats: bfloat16, and elements of a block that share a scale."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import QUIET_NAN, SCALE_NAN, ElementFormat
from ..lib.delay import delay
from ..timing import BLOCK_SCALE, FLOAT_TO_BF16, FLOAT_TO_ELEMENT
from .normalize import count_zeros

__all__ = ["BlockScale", "FloatToBf16", "FloatToElement"]


class FloatToBf16(wiring.Component):
    """FP32 to bfloat16, rounded to nearest, ties to even.

    What is too large becomes infinity, subnormals stay exact or are rounded, and every NaN is 0x7FC0. Latency
    :data:`LATENCY` = 2 cycles, one conversion per cycle, no stall.

    Members
    -------
    i : In(32)
        FP32, as its bits.
    o : Out(16)
    """

    LATENCY = FLOAT_TO_BF16

    i: In(32)
    o: Out(16)

    def elaborate(self, platform):
        m = Module()
        # The exponent is that of FP32, so a carry out of the fraction is right, up to infinity.
        upper = delay(m, self.i[16:], "upper")
        up = delay(m, self.i[15] & (self.i[:15].any() | self.i[16]), "up")
        nan = delay(m, self.i[23:31].all() & self.i[:23].any(), "nan")
        m.d.comb += self.o.eq(delay(m, Mux(nan, QUIET_NAN >> 16, Cat((upper[:15] + up)[:15], upper[15])), "out"))
        return m


class BlockScale(wiring.Component):
    """The E8M0 scale of a block from the largest magnitude in it.

    Its exponent is that of the largest magnitude less that of the element format's maximum, 8 for E4M3 and 2 for
    E2M1. With `ceil` it is one more where the scaled magnitude would otherwise be above that maximum, 448 or 6;
    without, it is OCP's rule, and such elements saturate. Codes below 0 are 0: blocks so small, and those of
    zeros, are scaled by 2^-127. If there is an infinity or a NaN in the block the code is
    :data:`~kiwicha.formats.SCALE_NAN`. Latency :data:`LATENCY` = 2 cycles, one scale per cycle, no stall. Source:
    OCP Microscaling Formats (MX) v1.0, section 6.3.

    Members
    -------
    i : In(31)
        The largest magnitude, as FP32 without its sign: magnitudes compare as integers, NaN above all.
    format : In(ElementFormat)
        E4M3 or E2M1, for the magnitude that is on `i` in the same cycle; others have no meaning.
    ceil : In(1)
        Likewise.
    o : Out(8)
    """

    LATENCY = BLOCK_SCALE

    i: In(31)
    format: In(ElementFormat)
    ceil: In(1)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        field, fraction = self.i[23:], self.i[:23]
        is_e2m1 = self.format == ElementFormat.E2M1
        # Above 1.75, or 1.5.
        above = fraction[22] & Mux(is_e2m1, fraction[:22].any(), fraction[21] & fraction[:21].any())
        up = delay(m, self.ceil & above, "up")
        step = delay(m, Mux(is_e2m1, -2, -8), "step")
        nan = delay(m, field.all(), "nan")
        code = Signal(signed(10))
        m.d.comb += code.eq(delay(m, field, "field") + step + up)
        m.d.comb += self.o.eq(delay(m, Mux(nan, SCALE_NAN, Mux(code < 0, 0, code[:8])), "out"))
        return m


class FloatToElement(wiring.Component):
    """FP32 divided by the scale of its block, to an element: E4M3 or E2M1.

    Rounded once, to nearest, ties to even, and saturated to the format's maximum, 448 or 6. Subnormals, those of
    FP32 included, are exact or rounded once; a zero keeps its sign, as does what is rounded to zero. Infinities
    and NaN have no meaning: blocks with such values have a scale of NaN, and `bad` makes their codes 0.
    Latency :data:`LATENCY` = 5 cycles, one element per cycle, no stall.

    In order: the exponent, and the leading zeros of a subnormal; a significand with a leading one; the field in
    the element; a shift right to the bits that the element has room for, which are fewer for subnormals;
    rounding, whose carry grows the field by itself, and saturation.

    Members
    -------
    i : In(32)
        FP32, as its bits.
    scale : In(8)
        E8M0: the divisor is 2^(scale - 127). SCALE_NAN has no meaning.
    format : In(ElementFormat)
        E4M3 or E2M1; others have no meaning.
    bad : In(1)
        Makes the code 0.
    o : Out(8)
        The code, in the low bits.
    """

    LATENCY = FLOAT_TO_ELEMENT

    i: In(32)
    scale: In(8)
    format: In(ElementFormat)
    bad: In(1)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        sign = delay(m, self.i[31], "sign", 4)
        bad = delay(m, self.bad, "bad", 4)
        is_e2m1 = delay(m, self.format == ElementFormat.E2M1, "is_e2m1", 2)

        # 1: of a subnormal, the leading zeros: with 16 or more it is nothing but a sticky bit, at any scale.
        field, fraction = self.i[23:31], self.i[:23]
        subnormal = ~field.any()
        zeros = delay(m, Mux(subnormal, count_zeros(fraction[7:])[0], 0), "zeros")
        exponent = Signal(signed(9))
        m.d.comb += exponent.eq(field - self.scale)     # a subnormal has that of field 1, and one zero more
        exponent = delay(m, exponent, "exponent")
        lower = delay(m, Cat(Const(0, 1), fraction), "lower")
        subnormal = delay(m, subnormal, "subnormal")

        # 2: four bits and what is below them.
        shifted = Mux(subnormal, (lower << zeros)[:24], Cat(lower[1:], 1))
        upper = delay(m, shifted[20:], "upper")
        below = delay(m, Cat(shifted[:19].any(), shifted[19]), "below")
        normalized = Signal(signed(10))
        m.d.comb += normalized.eq(exponent - zeros)
        normalized = delay(m, normalized, "normalized")

        # 3: the field less one, up to what saturates at any rate; how far right: for the missing bits of E2M1, and
        # as a subnormal, until nothing but a sticky bit is left.
        less_one = Signal(signed(11))
        m.d.comb += less_one.eq(normalized + Mux(is_e2m1, 0, 6))
        tiny = less_one < 0
        field = delay(m, Mux(tiny, 0, Mux(less_one > 15, 15, less_one[:4])), "field")
        deep = Mux(tiny, Mux(less_one < -5, 5, (-less_one)[:3]), 0)
        places = delay(m, (deep + Mux(is_e2m1, 2, 0))[:3], "places")
        upper = delay(m, Cat(below[1], upper), "upper_late")
        lost = delay(m, below[0], "lost")

        # 4: the shift.
        moved = Cat(Const(0, 7), upper) >> places
        kept = delay(m, moved[8:12], "kept")
        up = delay(m, moved[7] & (moved[:7].any() | lost | moved[8]), "up")
        field = delay(m, field, "field_late")
        is_e2m1 = delay(m, is_e2m1, "is_e2m1_late", 2)

        # 5: round and saturate.
        total = (Mux(is_e2m1, field << 1, field << 3) + kept + up)[:8]
        e4m3 = Cat(Mux(total >= 0x7F, 0x7E, total[:7]), sign)
        e2m1 = Cat(Mux(total >= 8, 7, total[:3]), sign)
        m.d.comb += self.o.eq(delay(m, Mux(bad, 0, Mux(is_e2m1, e2m1, e4m3)), "out"))
        return m
