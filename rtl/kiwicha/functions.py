"""The functions exp2, reciprocal and rsqrt: their codes, and the curves that they are made of.

A function is reduced to one of four curves on t from 0 to 1, which are between 1 and 2; ``docs/numerics.md`` says
how, and what is computed, to the bit. Hardware and software share the table and no arithmetic.
"""

from typing import NamedTuple

from .formats import DocumentedEnum
from .function_table import WORDS

__all__ = ["C0_BITS", "C1_BITS", "C2_BITS", "Curve", "FRACTION_BITS", "Function", "OFFSET_BITS", "SEGMENTS",
           "SEGMENTS_OF", "Segment"]

#: Bits of t, of which the upper ones choose a segment and the lower ones are the offset u in it.
FRACTION_BITS, OFFSET_BITS = 25, 18
#: Segments of a curve.
SEGMENTS_OF = 1 << FRACTION_BITS - OFFSET_BITS
#: Bits of the coefficients: c0 is a fraction, of a value that is 1 and more; c1 and c2 are below 2.
C0_BITS, C1_BITS, C2_BITS = 28, 20, 16


class Function(DocumentedEnum):
    """What the function pipe computes."""
    EXP2 = 0, "2 to the power of x"
    RECIPROCAL = 1, "1 / x"
    RSQRT = 2, "1 / sqrt(x)"


class Curve(DocumentedEnum):
    """Where its segments begin in the table, in multiples of :data:`SEGMENTS_OF`; EXP2 rises, the others fall."""
    EXP2 = 0, "2^t"
    RECIPROCAL = 1, "2 / (1 + t)"
    RSQRT_EVEN = 2, "2 / sqrt(1 + t), for even exponents"
    RSQRT_ODD = 3, "2 / sqrt(2 (1 + t)), for odd ones"


class Segment(NamedTuple):
    """The coefficients of a segment's polynomial, all at least 0; those of u and its square in c1 and c2.

    Their units are 2^-28, 2^-19 and 2^-15; a 1 must be added to c0. On a curve that falls, c1 counts as negative.
    """
    c0: int
    c1: int
    c2: int


#: All segments of all curves.
SEGMENTS = tuple(Segment(word >> C1_BITS + C2_BITS, word >> C2_BITS & (1 << C1_BITS) - 1,
                         word & (1 << C2_BITS) - 1) for word in WORDS)
