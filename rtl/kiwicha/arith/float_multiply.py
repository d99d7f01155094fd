"""FP32 multiplication in four smaller multipliers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..formats import QUIET_NAN
from ..lib.delay import delay
from ..timing import FLOAT_MULTIPLY
from .mult18x18d import mult18x18d
from .normalize import ShiftWindow, count_zeros

__all__ = ["FloatMultiply"]


class FloatMultiply(wiring.Component):
    """IEEE 754 binary32 multiplication, rounded to nearest, ties to even.

    Subnormals are exact in and out, what is too large becomes infinity, and every NaN (a NaN operand, or
    zero times infinity) is :data:`~kiwicha.formats.QUIET_NAN`. Latency :data:`LATENCY` = 9 cycles, one product
    per cycle, no stall.

    How it works: with the exponent field of a subnormal taken as 1, a product is P * 2^(ea + eb - 300),
    with P of 48 bits. Bit 47 of P would belong to the exponent field `field47` = ea + eb - 126. P is
    shifted left by the leading zeros of a subnormal operand, but no further than to field 1, and right if
    `field47` is below 1. After that the leading one is in bit 47 or 46, or the result is subnormal.

    Parameters
    ----------
    ecp5 : bool
        Use MULT18X18D, whose own registers are the first two cycles'. What toolchains make of ``*`` has none.
    lower : int
        Bits of a significand's lower part, which the partial products are of: 12, or 18, with which the ECP5 needs
        one MULT18X18D rather than four, and more LUTs.

    Members
    -------
    a, b : In(32)
        FP32, as their bits.
    o : Out(32)
    """

    LATENCY = FLOAT_MULTIPLY

    def __init__(self, *, ecp5: bool = False, lower: int = 12):
        if lower not in (12, 18):
            raise ValueError(f"lower must be 12 or 18, not {lower!r}")
        self._ecp5, self._lower = ecp5, lower
        super().__init__({"a": In(32), "b": In(32), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        # 1: unpack.
        lower = self._lower
        a, b = (_Operand(m, value, name, lower) for value, name in ((self.a, "a"), (self.b, "b")))
        sign = delay(m, self.a[31] ^ self.b[31], "sign", 8)

        # 2: partial products; leading zeros; special cases.
        products = [[self._product(m, x, y, f"product{i}{j}") for j, y in enumerate(b.parts)]
                    for i, x in enumerate(a.parts)]
        zeros = delay(m, _leading_zeros(Mux(a.subnormal, a.fraction, b.fraction),
                                        a.subnormal | b.subnormal), "zeros")
        room = delay(m, _signed(m, a.exponent + b.exponent - 127, 10, "room_now"), "room")
        is_nan = delay(m, a.nan | b.nan | (a.infinite & b.zero) | (a.zero & b.infinite), "is_nan", 7)
        is_infinite = delay(m, a.infinite | b.infinite, "is_infinite", 7)
        is_zero = delay(m, a.zero | b.zero, "is_zero", 7)

        # 3: the middle products; how far to shift left: `room` = field47 - 1 at most.
        middle = delay(m, products[0][1] + products[1][0], "middle")
        outer = delay(m, Cat(products[0][0], products[1][1]), "outer")
        shift = Signal(signed(10))
        with m.If(room > zeros):
            m.d.comb += shift.eq(zeros)
        with m.Elif(room < -31):
            m.d.comb += shift.eq(-31)           # nothing but sticky bits is left
        with m.Else():
            m.d.comb += shift.eq(room)
        shift = delay(m, shift, "shift")
        room = delay(m, room, "room_late")

        # 4: the product. Its lowest bits are those of the lowest partial product.
        product = delay(m, Cat(outer[:lower], (outer[lower:] + middle)[:48 - lower]), "product")
        distance = delay(m, (shift + 32)[:6], "distance")
        # The exponent field of bit 47 after the shift, less one; clamped shifts make it useless, and zero.
        field = delay(m, Mux(room < 0, 0, room - shift)[:9], "field")

        # 5, 6: shift by `distance` - 32.
        # The upper 26 bits of the product, which starts 32 bits too low so that each shift is to the left.
        window = ShiftWindow(product, 80, 54)
        window.shift(m, "coarse", distance, (5, 4, 3))
        window.shift(m, "fine", delay(m, distance, "distance_late"), (2, 1, 0))
        field = delay(m, field, "field_late", 2)

        # 7: the last step to a leading one, if the exponent allows; what to round.
        top = window.bits
        normal = top[25] | (field == 0)
        significand = delay(m, Mux(normal, top[2:26], top[1:25]), "significand")
        up = delay(m, Mux(normal, top[1] & (top[0] | window.lost | top[2]), top[0] & (window.lost | top[1])),
                   "up")
        field = delay(m, Mux(normal, field, field - 1)[:9], "field_rounded")

        # 8: round. The leading one adds 1 to the field, as a carry out of rounding does.
        packed = delay(m, ((field << 23) + significand + up)[:32], "packed")

        # 9: special cases.
        infinite = is_infinite | (packed[23:32] >= 255)
        result = Mux(is_zero, 0, Mux(infinite, 0x7F800000, packed[:31]))
        m.d.comb += self.o.eq(delay(m, Mux(is_nan, QUIET_NAN, Cat(result[:31], sign)), "out"))
        return m

    def _product(self, m, x, y, name):
        """x * y of two significands' parts, at 2."""
        if self._ecp5 and min(len(x), len(y)) < 12:
            return _in_luts(m, *sorted((x, y), key=len), name)
        if self._ecp5:
            return mult18x18d(m, x, y, is_signed=False, name=name)[:len(x) + len(y)]
        return delay(m, delay(m, x, f"{name}_x") * delay(m, y, f"{name}_y"), name)


class _Operand:
    """The parts of one operand, registered but for the two of its significand."""

    def __init__(self, m, value, name, lower):
        field, fraction = value[23:31], value[:23]
        not_tiny = delay(m, field.any(), f"{name}_not_tiny")
        largest = delay(m, field.all(), f"{name}_largest")
        empty = delay(m, ~fraction.any(), f"{name}_empty")
        self.fraction = delay(m, fraction, f"{name}_fraction")
        self.parts = [fraction[:lower], Cat(fraction[lower:], field.any())]
        self.exponent = delay(m, Cat(field[0] | ~field.any(), field[1:]), f"{name}_exponent")
        self.nan = largest & ~empty
        self.infinite = largest & empty
        self.zero = ~not_tiny & empty
        self.subnormal = ~not_tiny


def _in_luts(m, short, long, name):
    """The product, two cycles later, as a sum of rows; toolchains would take a multiplier for ``*``."""
    rows = [Mux(bit, long, 0) << place for place, bit in enumerate(short)]
    pairs = [delay(m, a + b, f"{name}_{index}") for index, (a, b) in enumerate(
        zip(rows[::2], rows[1::2], strict=True))]
    return delay(m, sum(pairs[1:], pairs[0])[:len(short) + len(long)], name)


def _signed(m, value, width, name):
    result = Signal(signed(width), name=name)
    m.d.comb += result.eq(value)
    return result


def _leading_zeros(fraction, subnormal):
    """Leading zeros of the 24-bit significand of a subnormal, 1 to 24; 0 if it is none."""
    zeros, _ = count_zeros(Cat(Const(0xFF, 8), fraction, 0))
    return Mux(subnormal, zeros, 0)
