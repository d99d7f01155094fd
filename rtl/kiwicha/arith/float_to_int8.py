"""FP32 (IEEE 754 binary32) to int8: rounding, zero point, saturation; one conversion per cycle."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..lib.delay import delay
from ..timing import FLOAT_TO_INT8

__all__ = ["FloatToInt8"]


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
