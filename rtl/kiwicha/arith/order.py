"""The order of FP32 values that clamps and maxima use, made of integers."""

from amaranth.hdl import Cat, Value

__all__ = ["total_order"]


def total_order(bits):
    """A signed 32-bit key that orders FP32 values as integers, or back from such a key to the bits.

    The order is IEEE 754-2019's totalOrder: -NaN < -infinity < ... < -0 < +0 < ... < +infinity < +NaN.
    The only NaN that our arithmetic makes is 0x7FC00000, which is above everything else. The function
    is its own inverse.
    """
    bits = Value.cast(bits)
    if len(bits) != 32:
        raise ValueError(f"total_order takes 32 bits, not {len(bits)}")
    return Cat(bits[:31] ^ bits[31].replicate(31), bits[31]).as_signed()
