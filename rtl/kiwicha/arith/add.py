"""FP32 addition with one adder for all alignments."""

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import QUIET_NAN
from ..lib.delay import delay
from ..timing import FLOAT_ADD
from .normalize import leading_zeros, pack

__all__ = ["FloatAdd"]


class FloatAdd(wiring.Component):
    """IEEE 754 binary32 addition, rounded to nearest, ties to even.

    Subnormals are exact in and out, what is too large becomes infinity, and every NaN (a NaN operand, or
    infinity minus infinity) is :data:`~kiwicha.formats.QUIET_NAN`. x - x is +0; -0 + -0 is -0. Latency
    :data:`LATENCY` = 5 cycles, one sum per cycle, no stall.

    How it works: the operand of smaller magnitude is shifted right to the exponent of the larger, down to
    a guard and a round bit, and added or subtracted; the ones lost below are a sticky bit, and take a borrow
    with them. If the sum has fewer than two leading zeros, it moves by one place at most, and is rounded. If
    it has more, the exponents differed by one at most: the sum is exact, and is only shifted left.

    Members
    -------
    a, b : In(32)
        FP32, as their bits.
    o : Out(32)
    """

    LATENCY = FLOAT_ADD

    a: In(32)
    b: In(32)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        # 1: which is larger; by how many places the exponents differ, either way round.
        a, b = _Operand(m, self.a, "a"), _Operand(m, self.b, "b")
        swap = delay(m, self.a[:31] < self.b[:31], "swap")
        equal = delay(m, self.a[:31] == self.b[:31], "equal")
        a_places = delay(m, (a.exponent - b.exponent)[:8], "a_places")
        b_places = delay(m, (b.exponent - a.exponent)[:8], "b_places")
        subtract = a.sign ^ b.sign

        # 2: larger and smaller; most of the alignment. From 26 on, nothing but the sticky bit is left.
        exponent = delay(m, Mux(swap, b.field, a.field), "exponent")
        larger = delay(m, Mux(swap, b.significand, a.significand), "larger")
        smaller = Cat(Const(0, 2), Mux(swap, a.significand, b.significand))
        places = Mux(swap, b_places[:5] | b_places[5:].any().replicate(5),
                     a_places[:5] | a_places[5:].any().replicate(5))
        aligned, lost = (delay(m, value, name) for value, name in zip(
            _shift_right(smaller, 0, places, (4, 3)), ("coarse", "coarse_lost"), strict=True))
        places = delay(m, places[:3], "places_fine")
        sign = delay(m, Mux(swap, b.sign, a.sign) & ~(equal & subtract), "sign")
        is_nan = delay(m, a.nan | b.nan | (a.infinite & b.infinite & subtract), "is_nan", 3)
        is_infinite = delay(m, a.largest | b.largest, "is_infinite", 3)
        subtract = delay(m, subtract, "subtract")

        # 3: the rest of the alignment; the sum.
        aligned, lost = _shift_right(aligned, lost, places, (2, 1, 0))
        # larger + ~aligned + 1 is larger - aligned; what is lost below takes the 1. All in one carry chain.
        total = Cat(Const(1), Const(0, 2), larger) + Cat(subtract & ~lost, aligned ^ subtract.replicate(26))
        total = delay(m, Cat(total[1:27], total[27] & ~subtract), "total")
        sticky = delay(m, lost, "sticky")
        # An exponent of 1 to 25 is a stop for the leading one, which goes no further left than to field 1.
        stop = delay(m, Cat(exponent == place for place in range(25, 0, -1)), "stop")
        exponent = delay(m, exponent, "exponent_late")

        # 4: by one place, and what to round; or how far to shift.
        carry, normal = total[26], total[25] | (exponent == 1)
        significand = delay(m, Mux(carry, total[3:27], Mux(normal, total[2:26], total[1:25])), "significand")
        field = delay(m, (exponent - Mux(carry, 0, Mux(normal, 1, 2)))[:9], "field")
        up = delay(m, Mux(carry, total[2] & (total[3] | total[:2].any() | sticky),
                          Mux(normal, total[1] & (total[2] | total[0] | sticky), total[0] & (total[1] | sticky))),
                   "up")
        zeros = delay(m, leading_zeros(total[1:26] | stop)[:5], "zeros")
        exact = delay(m, ~total[24:27].any(), "exact")
        difference = delay(m, total[1:26], "difference")
        exponent = delay(m, exponent, "exponent_exact")

        # 5: round, or shift; special cases.
        rounded, overflow = pack(field, significand, up)
        shifted = (difference << zeros)[1:25]
        leading = shifted[23]
        shifted = Cat(shifted[:23], (exponent - zeros)[:8] & leading.replicate(8))
        infinite = is_infinite | overflow
        result = Mux(infinite, 0x7F800000, Mux(exact, shifted, rounded))
        sign = delay(m, sign, "sign_late", 2)
        m.d.comb += self.o.eq(delay(m, Mux(is_nan, QUIET_NAN, Cat(result[:31], sign)), "out"))
        return m


class _Operand:
    """The parts of one operand, registered; but `exponent` is that of the operand that is now there."""

    def __init__(self, m, value, name):
        field, fraction = value[23:31], value[:23]
        # That of a subnormal is 1.
        self.exponent = Cat(field[0] | ~field.any(), field[1:])
        self.field = delay(m, self.exponent, f"{name}_exponent")
        self.significand = delay(m, Cat(fraction, field.any()), f"{name}_significand")
        self.sign = delay(m, value[31], f"{name}_sign")
        self.largest = delay(m, field.all(), f"{name}_largest")
        empty = delay(m, ~fraction.any(), f"{name}_empty")
        self.nan = self.largest & ~empty
        self.infinite = self.largest & empty


def _shift_right(bits, lost, places, steps):
    """Shifts right by the bits `steps` of `places`; and whether that, or anything before, lost a one."""
    width = len(bits)
    for step in steps:
        move = 1 << step
        lost = lost | (places[step] & bits[:move].any())
        bits = Mux(places[step], bits >> move, bits)[:width]
    return bits, lost
