"""In what formats products are computed, and which elements share a scale."""

from dataclasses import dataclass

from kiwicha.formats import FORMATS, Format
from kiwicha.isa import OutFormat

from ..running import TILE

__all__ = ["E4M3", "E4M3_E2M1", "MXINT8", "Numbers", "PADDING", "TILE", "padded"]

#: Sizes are whole multiples of it, filled up with zeros: arrays' rows and columns divide it, and it divides blocks
#: of scales but a row's last.
PADDING = 32


def padded(size: int) -> int:
    """`size`, or the next whole multiple of PADDING."""
    return -(-size // PADDING) * PADDING


@dataclass(frozen=True)
class Numbers:
    """Operands of a block-scaled product.

    Parameters
    ----------
    out_format : what activations are written as
    activations, weights : Format
    block : elements along K that share a scale
    """
    out_format: OutFormat
    activations: Format
    weights: Format
    block: int

    def blocks(self, size: int) -> int:
        """Scales of `size` elements."""
        return -(-size // self.block)

    def parts(self, size: int) -> list[tuple[int, int]]:
        """First element and number of elements of each block of `size` elements."""
        return [(first, min(self.block, size - first)) for first in range(0, size, self.block)]


#: OCP MX's: blocks of 32.
MXINT8 = Numbers(OutFormat.MXINT8, FORMATS["int8"], FORMATS["int8"], 32)
#: DeepSeek's: blocks of 128 along K, and such with weights of 4 bits in blocks of 32.
E4M3 = Numbers(OutFormat.E4M3, FORMATS["e4m3"], FORMATS["e4m3"], 128)
E4M3_E2M1 = Numbers(OutFormat.E4M3, FORMATS["e4m3"], FORMATS["e2m1"], 32)
