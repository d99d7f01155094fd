"""What the address generators hand on: a vector of A, a row of a weight tile."""

from amaranth import signed
from amaranth.lib import data

from ..config import ChipConfig
from ..formats import ElementFormat
from ..isa import INDEX_WIDTH
from ..lib.loop_nest import POINTER_WIDTH

__all__ = ["Vector", "WeightRow"]


def Vector(config: ChipConfig) -> data.StructLayout:
    """One vector of A, and where its products go."""
    scaled = {
        "scaled": 1,
        "begin": 1,                         # of a block's first weight tile
        "end": 1,                           # of a block's last weight tile
        "exponent": signed(6),              # of a significand of 1 in a product
        "scale_line": signed(POINTER_WIDTH),
        "scale_byte": range(config.line_bytes),
        "fetch": 1,                         # the first to use its scale line
        "no_scale": 1,                      # there is no such scale line
    }
    return data.StructLayout({
        "line": signed(POINTER_WIDTH),      # scratchpad line
        "acc": signed(POINTER_WIDTH),       # accumulator line
        "format": ElementFormat,
        "add": 1,                           # add to the accumulators, rather than replace them
        "swap": 1,                          # the first of a weight tile
        "last": 1,                          # the last of its instruction
        "index": INDEX_WIDTH,               # of its instruction
        "no_field": 1,                      # a field of its instruction has no meaning:
        "value": 8,                         # its value
        "no_line": 1,                       # there is no such scratchpad line
        "no_acc": 1,                        # there is no such accumulator line
        "bad": 1,                           # any of these, or a scale line to fetch that does not exist
        **(scaled if config.block_scaled else {}),
    })


def WeightRow(config: ChipConfig) -> data.StructLayout:
    """One row of a weight tile: its scratchpad line, and whether there is no such line.

    With `scale`, it is the line of scales that comes ahead of a block's last weight tile.
    """
    return data.StructLayout({
        "line": signed(POINTER_WIDTH),
        "row": range(config.rows),
        "format": ElementFormat,
        "first": 1,
        "last": 1,
        "no_line": 1,
        **({"scale": 1} if config.block_scaled else {}),
    })
