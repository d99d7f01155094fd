"""int32 to FP32 (IEEE 754 binary32), one conversion per cycle."""

from amaranth.hdl import Cat, Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..lib.delay import delay
from ..timing import INT_TO_FLOAT

__all__ = ["IntToFloat"]


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
