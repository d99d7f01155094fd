"""From an exact integer and a power of two to FP32."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import QUIET_NAN
from ..lib.delay import delay
from ..timing import SCALED_TO_FLOAT
from .normalize import ShiftWindow, leading_zeros, pack

__all__ = ["ScaledToFloat"]


class ScaledToFloat(wiring.Component):
    """i * 2^exponent to FP32, rounded once, to nearest, ties to even.

    What is too small for a normal number is rounded to a subnormal or to a zero of its sign, and what is too
    large becomes infinity. i = 0 gives +0. Latency :data:`LATENCY` = 6 cycles, one conversion per cycle, no
    stall.

    How it works: bit `width` - 1 of the magnitude would belong to the exponent field `room` + 1. The magnitude
    is shifted left by its leading zeros, but no further than to field 1, and right if `room` is negative. In
    order: magnitude; leading zeros; how far to shift; shifts, in two cycles; rounding.

    Parameters
    ----------
    width : int
        Bits of `i`, 2 to 44.

    Members
    -------
    i : In(signed(width))
    exponent : In(signed(10))
        -272 to 254.
    nan : In(1)
        Makes the result :data:`~kiwicha.formats.QUIET_NAN`, whatever the value.
    o : Out(32)
        FP32, as its bits.

    Raises
    ------
    TypeError, ValueError
        `width` is not an integer, or out of range.
    """

    LATENCY = SCALED_TO_FLOAT
    MAX_WIDTH = 44

    def __init__(self, width):
        if not isinstance(width, int) or isinstance(width, bool):
            raise TypeError(f"ScaledToFloat width must be an integer, not {width!r}")
        if not 2 <= width <= self.MAX_WIDTH:
            raise ValueError(f"ScaledToFloat width must be from 2 to {self.MAX_WIDTH}, not {width!r}")
        self._width = width
        super().__init__({
            "i": In(signed(width)),
            "exponent": In(signed(10)),
            "nan": In(1),
            "o": Out(32),
        })

    @property
    def width(self):
        return self._width

    def elaborate(self, platform):
        m = Module()
        width = self._width
        # 1: the magnitude, up to 2^(width - 1), which fits `width` unsigned bits.
        negative = self.i[-1]
        sign = delay(m, negative, "sign", 5)
        nan = delay(m, self.nan, "nan", 5)
        magnitude = delay(m, ((self.i ^ negative.replicate(width)) + negative)[:width], "magnitude")
        room = Signal(signed(11))       # 254 + 43 + 126 at most, -272 + 1 + 126 at least
        m.d.comb += room.eq(self.exponent + (width - 1 + 126))
        room = delay(m, room, "room")

        # 2: leading zeros. Further right than by 32 no bit of the magnitude could matter.
        zeros = delay(m, leading_zeros(magnitude)[:6], "zeros")
        any_one = delay(m, magnitude.any(), "any_one")
        limit = Signal(signed(7))       # counts only while it is less than `zeros`
        m.d.comb += limit.eq(Mux(room < -32, -32, room))
        limit = delay(m, limit, "limit")
        room = delay(m, room, "room_late")
        magnitude = delay(m, magnitude, "magnitude_late")

        # 3: how far to shift left, plus 32; the exponent field, less one.
        spare = Signal(signed(12))
        m.d.comb += spare.eq(room - zeros)
        limited = spare < 0
        distance = delay(m, (Mux(limited, limit, zeros) + 32)[:7], "distance")
        field = delay(m, Mux(limited | ~any_one, 0, spare)[:9], "field", 2)

        # 4, 5: the 24 bits of the significand and one to round, above `width` + 8 others.
        window = ShiftWindow(delay(m, magnitude, "magnitude_last"), width + 32, width + 7)
        window.shift(m, "coarse", distance, (6, 5, 4))
        window.shift(m, "fine", delay(m, distance[:4], "distance_late"), (3, 2, 1, 0))
        field = delay(m, field, "field_late")

        # 6: round; special cases.
        significand = window.bits[1:]
        up = window.bits[0] & (window.lost | significand[0])
        rounded, overflow = pack(field, significand, up)
        result = Mux(overflow, 0x7F800000, rounded)
        m.d.comb += self.o.eq(delay(m, Mux(nan, QUIET_NAN, Cat(result[:31], sign)), "out"))
        return m
