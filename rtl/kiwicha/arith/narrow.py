"""From FP32 to narrower formats: bfloat16, and elements of a block that share a scale."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import QUIET_NAN, SCALE_NAN, ElementFormat
from ..lib.delay import delay
from ..timing import BLOCK_SCALE, FLOAT_TO_BF16, FLOAT_TO_ELEMENT
from .normalize import count_zeros

__all__ = ["QUANTIZED", "BlockScale", "FloatToBf16", "FloatToElement"]

#: The formats that blocks are quantized to.
QUANTIZED = (ElementFormat.E4M3, ElementFormat.E2M1, ElementFormat.INT8)


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

    Its exponent is that of the largest magnitude less that of the element format's maximum, 8 for E4M3, 2 for
    E2M1 and 0 for INT8, whose 1 is a 64th. With `ceil` it is one more where the scaled magnitude would otherwise
    be above that maximum, 448, 6 or 127/64; without, it is OCP's rule, and such elements saturate. Codes below 0
    are 0: blocks so small, and those of zeros, are scaled by 2^-127. Codes above 254 are 254. If there is an
    infinity or a NaN in the block the code is :data:`~kiwicha.formats.SCALE_NAN`. Latency :data:`LATENCY` = 2
    cycles, one scale per cycle, no stall. Source: OCP Microscaling Formats (MX) v1.0, section 6.3.

    Parameters
    ----------
    formats : collection of ElementFormat
        Of E4M3, E2M1 and INT8: those that are asked for.

    Members
    -------
    i : In(31)
        The largest magnitude, as FP32 without its sign: magnitudes compare as integers, NaN above all.
    format : In(ElementFormat)
        One of `formats`, for the magnitude that is on `i` in the same cycle; others have no meaning.
    ceil : In(1)
        Likewise.
    o : Out(8)
    """

    LATENCY = BLOCK_SCALE

    i: In(31)
    format: In(ElementFormat)
    ceil: In(1)
    o: Out(8)

    def __init__(self, formats=QUANTIZED):
        self._formats = formats
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        field, fraction = self.i[23:], self.i[:23]
        is_e2m1 = self.format == ElementFormat.E2M1
        # Above 1.75, or 1.5.
        above = fraction[22] & Mux(is_e2m1, fraction[:22].any(), fraction[21] & fraction[:21].any())
        step = Mux(is_e2m1, -2, -8)
        if ElementFormat.INT8 in self._formats:
            is_int8 = self.format == ElementFormat.INT8
            # Above 127/64, if there is a code above; a subnormal magnitude may be so, too, and has a bit more.
            below = Mux(field.any(), fraction[:17].any(), fraction[16] & fraction[:16].any())
            above = Mux(is_int8, fraction[17:].all() & below & ~field[1:].all(), above)
            step = Mux(is_int8, 0, step)
        up = delay(m, self.ceil & above, "up")
        step = delay(m, step, "step")
        nan = delay(m, field.all(), "nan")
        code = Signal(signed(10))
        m.d.comb += code.eq(delay(m, field, "field") + step + up)
        m.d.comb += self.o.eq(delay(m, Mux(nan, SCALE_NAN, Mux(code < 0, 0, code[:8])), "out"))
        return m


class FloatToElement(wiring.Component):
    """FP32 divided by the scale of its block, to an element: E4M3, E2M1, or INT8 of 64ths.

    Rounded once, to nearest, ties to even, and saturated to the format's maximum, 448, 6 or 127/64. Subnormals,
    those of FP32 included, are exact or rounded once; a zero keeps its sign, as does what is rounded to zero.
    Infinities and NaN have no meaning: blocks with such values have a scale of NaN, and `bad` makes their codes 0.
    Latency :data:`LATENCY` = 5 cycles, one element per cycle, no stall.

    In order, for E4M3 and E2M1: the exponent, and the leading zeros of a subnormal; a significand with a leading
    one; the field in the element; a shift right to the bits that the element has room for, which are fewer for
    subnormals; rounding, whose carry grows the field by itself, and saturation. For INT8: how far right; no
    further than to zero; the shift; whether to round up, which 127 does not; rounding and the sign.

    Parameters
    ----------
    formats : collection of ElementFormat
        Of E4M3, E2M1 and INT8: those that are asked for.

    Members
    -------
    i : In(32)
        FP32, as its bits.
    scale : In(8)
        E8M0: the divisor is 2^(scale - 127). SCALE_NAN has no meaning, nor one for INT8 by which a magnitude is 2
        or more: :class:`BlockScale` gives none.
    format : In(ElementFormat)
        One of `formats`; others have no meaning.
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

    def __init__(self, formats=QUANTIZED):
        self._formats = formats
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        sign = delay(m, self.i[31], "sign", 4)
        bad = delay(m, self.bad, "bad", 4)
        has_int8 = ElementFormat.INT8 in self._formats
        if has_int8 and len(self._formats) == 1:
            code = self._integer(m)
        else:
            code = self._float(m, sign)
            if has_int8:
                is_int8 = delay(m, self.format == ElementFormat.INT8, "is_int8", 4)
                code = Mux(is_int8, self._integer(m), code)
        m.d.comb += self.o.eq(delay(m, Mux(bad, 0, code), "out"))
        return m

    def _float(self, m, sign):
        """The code of E4M3 or E2M1, after 4 cycles."""
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
        return Mux(is_e2m1, e2m1, e4m3)

    def _integer(self, m):
        """The code of INT8, after 4 cycles."""
        # 1: the significand's upper bits, and the one below them, which may decide about rounding; how far right
        # they go. A subnormal has a field of 1 and no leading one, and goes one place less. None goes left.
        normal, fraction = self.i[23:31].any(), self.i[:23]
        upper = delay(m, Cat(fraction[15:], normal), "integer_upper")
        lost = delay(m, fraction[:15].any(), "integer_lost", 2)
        distance = delay(m, (self.scale - self.i[23:31] + normal)[:8], "distance")

        # 2: with 9 places, less than a half is left.
        places = delay(m, Mux(distance > 9, 9, distance[:4]), "integer_places")
        upper = delay(m, upper, "integer_upper_late")

        # 3: the shift.
        moved = (Cat(Const(0, 9), upper) >> places)[:17]
        kept = delay(m, moved[10:], "integer_kept")
        half = delay(m, moved[9], "integer_half")
        rest = delay(m, moved[:9].any() | lost, "integer_rest")

        # 4: minus a number is the number inverted, plus one.
        sign = delay(m, self.i[31], "integer_sign", 3)
        up = half & (rest | kept[0]) & ~kept.all()
        ones = delay(m, Cat(kept, Const(0, 1)) ^ sign.replicate(8), "integer_ones")
        up = delay(m, up ^ sign, "integer_up")

        # 5: round.
        return (ones + up)[:8]
