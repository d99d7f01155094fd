"""The element formats: one table for decoders, assembler, compiler and docs.

Every format is a small integer times a constant power of two: a code stands for ``significand * 2**exponent``.
Source: OCP Microscaling Formats (MX) v1.0, section 5; OCP 8-bit Floating Point v1.0 for E4M3.
"""

import enum
from dataclasses import dataclass

__all__ = ["BLOCKS", "DocumentedEnum", "ElementFormat", "FORMATS", "Format", "MAX_BLOCK", "MINUS_ZERO",
           "QUIET_NAN", "SCALE_BIAS", "SCALE_NAN"]

#: Elements along K that share a scale.
BLOCKS = (16, 32, 64, 128)
MAX_BLOCK = max(BLOCKS)
#: Scales are E8M0: a code is so much above its exponent, and this one is NaN.
SCALE_BIAS, SCALE_NAN = 127, 0xFF
#: The only NaN that arithmetic makes, as the bits of FP32; its upper half is that of bfloat16.
QUIET_NAN = 0x7FC0_0000
#: What an FP32 addition leaves as it is, a zero of either sign too.
MINUS_ZERO = 0x8000_0000


class DocumentedEnum(enum.Enum):
    """An enumeration whose members may say what they mean, in `doc`: ``NAME = value, "meaning"``.

    As a shape in hardware it is as wide as its largest value.
    """

    doc: str
    # There is one object for each member: equal means the same. Enum's own hash takes ten times as long.
    __hash__ = object.__hash__

    def __new__(cls, value: int, doc: str = ""):
        member = object.__new__(cls)
        member._value_ = value
        member.doc = doc
        return member


class ElementFormat(DocumentedEnum):
    """Codes of the element formats in instructions; the FORMATS register has a bit for each."""
    INT8 = 0
    INT4 = 1
    E4M3 = 2
    E3M2 = 3
    E2M3 = 4
    E2M1 = 5


@dataclass(frozen=True)
class Format:
    """One element format.

    Parameters
    ----------
    code : ElementFormat
    bits : int
        Of an element. Elements of 4 bits are stored two to a byte, the even one in the low nibble; all others
        take a byte, in its low bits.
    exponent_bits, mantissa_bits : int
        0 and `bits` - 1 for an integer in two's complement.
    exponent : int
        The power of two of a significand of 1, in a block-scaled product. INT4 has none, and is 0.
    max_significand : int
        The largest magnitude of a significand; -128 and -8 count for the integers.
    has_nan : bool
        Whether the codes S.1111.111 are NaN.
    """

    code: ElementFormat
    bits: int
    exponent_bits: int
    mantissa_bits: int
    exponent: int
    max_significand: int
    has_nan: bool = False

    @property
    def name(self) -> str:
        return self.code.name.lower()

    @property
    def is_float(self) -> bool:
        return self.exponent_bits > 0

    @property
    def per_byte(self) -> int:
        """Elements in a byte, in memory and in the scratchpad."""
        return 2 if self.bits == 4 else 1

    @property
    def significand_width(self) -> int:
        """Bits of a significand in two's complement."""
        return (self.max_significand - (not self.is_float)).bit_length() + 1


FORMATS: dict[str, Format] = {item.name: item for item in (
    Format(ElementFormat.INT8, 8, 0, 7, -6, 128),
    Format(ElementFormat.INT4, 4, 0, 3, 0, 8),
    Format(ElementFormat.E4M3, 8, 4, 3, -9, 7 << 15, has_nan=True),
    Format(ElementFormat.E3M2, 6, 3, 2, -4, 7 << 6),
    Format(ElementFormat.E2M3, 6, 2, 3, -3, 15 << 2),
    Format(ElementFormat.E2M1, 4, 2, 1, -1, 3 << 2),
)}
