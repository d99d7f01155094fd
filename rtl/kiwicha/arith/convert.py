"""Between integers and FP32 (IEEE 754 binary32), one conversion per cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..lib.delay import delay
from ..timing import FLOAT_TO_INT8, INT_TO_FLOAT

__all__ = ["FloatToInt8", "IntToFloat"]


class IntToFloat(wiring.Component):
    """int32 to FP32, rounded to nearest, ties to even. Zero gives +0.

    Latency :data:`LATENCY` = 4 cycles, one conversion per cycle, no stall. In order: magnitude; leading
    zeros by 16 and 8; by 4, 2 and 1; rounding, whose carry grows the exponent by itself.

    Members
    -------
    i : In(signed(32))
    o : Out(32)
        FP32, as its bits.
    """

    LATENCY = INT_TO_FLOAT

    i: In(signed(32))
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        negative = self.i[31]
        # -2^31 has the magnitude 2^31, which fits 32 unsigned bits.
        magnitude = delay(m, ((self.i ^ negative.replicate(32)) + negative)[:32], "magnitude")

        # The second distance is found for both outcomes of the first, at once.
        none16 = ~magnitude[16:].any()
        none8 = Mux(none16, ~magnitude[8:16].any(), ~magnitude[24:].any())
        coarse = delay(m, _shift_left(magnitude, (none16, 16), (none8, 8)), "coarse")
        zeros_coarse = delay(m, Cat(none8, none16), "zeros_coarse")

        top = coarse[24:]
        none4 = ~top[4:].any()
        none2 = Mux(none4, ~top[2:4].any(), ~top[6:].any())
        none1 = ~Mux(none4, Mux(none2, top[1], top[3]), Mux(none2, top[5], top[7]))
        fine = delay(m, _shift_left(coarse, (none4, 4), (none2, 2), (none1, 1)), "fine")
        zeros = Cat(delay(m, Cat(none1, none2, none4), "zeros_fine"),
                    delay(m, zeros_coarse, "zeros_coarse_late"))

        up = fine[7] & (fine[:7].any() | fine[8])
        # The leading one has weight 31 - zeros, which is the complement of five bits.
        exponent = Mux(fine[31], (~zeros[:5] + 127)[:8], 0)
        bits = (Cat(fine[8:31], exponent) + up)[:31]
        m.d.comb += self.o.eq(delay(m, Cat(bits, delay(m, negative, "sign", 3)), "out"))
        return m


def _shift_left(value, *choices):
    width = len(value)
    for condition, distance in choices:
        value = Mux(condition, value << distance, value)[:width]
    return value


class FloatToInt8(wiring.Component):
    """FP32 to int8: round half to even, add the zero point as an integer, saturate to -128 .. 127.

    NaN gives the zero point, as zero does; infinities saturate. Latency :data:`LATENCY` = 4 cycles, one
    conversion per cycle, no stall. In order: exponent; alignment; rounding; zero point and saturation.

    Members
    -------
    i : In(32)
        FP32, as its bits.
    zero_point : In(signed(8))
        For the value that is on `i` in the same cycle.
    o : Out(signed(8))
    """

    LATENCY = FLOAT_TO_INT8

    i: In(32)
    zero_point: In(signed(8))
    o: Out(signed(8))

    def elaborate(self, platform):
        m = Module()
        exponent = self.i[23:31]
        sign = delay(m, self.i[31], "sign", 3)
        zero_point = delay(m, self.zero_point, "zero_point", 3)
        # From 256 on, no zero point brings the value back into range.
        huge = delay(m, exponent >= 127 + 8, "huge")
        is_max = delay(m, exponent == 255, "is_max")
        # 1.fraction * 2^(exponent - 127), as 9 bits of 1/2 and above once shifted; the rest can only be sticky.
        below_half = delay(m, exponent < 126, "below_half")
        shift = delay(m, (exponent - 126)[:4], "shift")
        upper = delay(m, Cat(self.i[15:23], 1), "upper")
        tail = delay(m, self.i[:15].any(), "tail")

        aligned = Signal(24)
        m.d.comb += aligned.eq(Mux(below_half, 0, upper << shift))
        whole = delay(m, aligned[9:17], "whole")
        guard = delay(m, aligned[8], "guard")
        sticky = delay(m, aligned[:8].any() | tail, "sticky")
        nan = delay(m, is_max & (tail | upper[:8].any()), "nan")
        huge = delay(m, huge, "huge_late")

        magnitude = delay(m, Mux(nan, 0, whole + (guard & (sticky | whole[0]))), "magnitude")
        huge = delay(m, huge & ~nan, "saturates")

        total = Signal(signed(11))
        # One adder: a difference is the sum with the complement and a carry.
        m.d.comb += total.eq((Cat(Const(1, 1), zero_point).as_signed()
                              + Cat(sign, magnitude ^ sign.replicate(9), sign).as_signed()) >> 1)
        high = Mux(huge, ~sign, ~total[10] & total[7:10].any())
        low = Mux(huge, sign, total[10] & ~total[7:10].all())
        m.d.comb += self.o.eq(delay(m, Mux(high, 127, Mux(low, -128, total[:8].as_signed())), "out"))
        return m
