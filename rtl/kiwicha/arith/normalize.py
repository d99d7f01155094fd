"""The parts that floating-point units share: leading zeros, shifts with a sticky bit, rounding."""

from amaranth.hdl import Cat, Const, Mux

from ..lib.delay import delay

__all__ = ["ShiftWindow", "count_zeros", "leading_zeros", "pack"]


def count_zeros(bits):
    """Leading zeros of a power of two of bits, and whether there is a one, as a tree.

    The count of no one at all is that of a one in bit 0.
    """
    if len(bits) == 2:
        return ~bits[1], bits.any()
    half = len(bits) // 2
    lower, _ = count_zeros(bits[:half])
    upper, occupied = count_zeros(bits[half:])
    return Cat(Mux(occupied, upper, lower), ~occupied), bits.any()


def leading_zeros(bits):
    """Leading zeros of any number of bits; the number of bits, or more, if there is no one among them."""
    padding = (1 << (len(bits)).bit_length()) - len(bits)
    return count_zeros(Cat(Const((1 << padding) - 1, padding), bits))[0]


class ShiftWindow:
    """Bits `bottom` to `top` - 1 of a value that is being shifted left, and whether a one was lost below them.

    Bits that no later shift could bring into the window are let go of at once.

    Parameters
    ----------
    value : Value
        Unsigned. No shift takes a one of it to bit `top` or above.
    top, bottom : int

    Attributes
    ----------
    bits, lost : Value
        What there is after the shifts so far; the window itself after the last one.
    """

    def __init__(self, value, top, bottom):
        self.bits = value
        self.lost = Const(0, 1)
        self._low = 0
        self._top, self._bottom = top, bottom

    def shift(self, m, name, distance, steps):
        """Shifts by the bits `steps` of `distance`, in one cycle. All steps of all calls descend to 0."""
        for step in steps:
            move = 1 << step
            low = max(self._low, self._bottom - (move - 1))
            bits = Mux(distance[step], self.bits << move, self.bits)
            cut = low - self._low
            self.lost = self.lost | bits[:cut].any() if cut else self.lost
            self.bits = bits[cut:self._top - self._low]
            self._low = low
        self.bits = delay(m, self.bits, name)
        self.lost = delay(m, self.lost, f"{name}_lost")


def pack(field, significand, up):
    """FP32 without its sign from its parts, rounded; and whether it overflowed, as is known no later.

    Parameters
    ----------
    field : Value
        9 bits: the exponent field that the leading one of `significand` brings to its value, which is one less.
    significand : Value
        24 bits. Without a leading one, with a field of 0, it is subnormal or zero.
    up : Value
        Whether to round up.

    Returns
    -------
    tuple
        31 bits, which have no meaning in case of overflow; and the overflow.
    """
    packed = ((field[:8] << 23) + significand + up)[:31]
    # The leading one adds 1 to the field, as a carry out of rounding does.
    overflow = (field >= 254) | ((field == 253) & significand.all() & up)
    return packed, overflow
