"""What the parts of the epilogue say to one another, and the numbers that follow from a configuration."""

from dataclasses import dataclass

from amaranth.hdl import signed
from amaranth.lib import data

from ..config import ChipConfig
from ..isa import ErrorCode, Unit, unit_layout
from ..memory.ports import LINE_ADDRESS

__all__ = ["SETS", "Geometry", "SETTINGS", "job_layout", "line_order", "request_layout", "tag_layout"]

#: Instructions whose parameters are held at once: those in the pipeline and the one being prepared.
SETS = 4


@dataclass(frozen=True)
class Geometry:
    """How lines fall into steps: a step is `lanes` neighbouring columns, converted in one cycle."""
    columns: int
    lanes: int
    line_bytes: int

    @classmethod
    def of(cls, config: ChipConfig) -> "Geometry":
        return cls(config.columns, config.epilogue_lanes, config.line_bytes)

    @property
    def steps(self) -> int:
        """Steps of an accumulator line."""
        return -(-self.columns // self.lanes)

    @property
    def slots(self) -> int:
        """Steps that fill a line with 32-bit words; a power of two."""
        return self.line_bytes // 4 // self.lanes

    @property
    def word_lines(self) -> int:
        """Lines of 32-bit words that hold a word per column."""
        return -(-4 * self.columns // self.line_bytes)

    @property
    def step_width(self) -> int:
        return max(1, (self.steps - 1).bit_length())

    @property
    def slot_width(self) -> int:
        """How many of a step's lower bits say where in a line of words it goes; the others say in which line."""
        return (self.slots - 1).bit_length()

    @property
    def line_width(self) -> int:
        """Bits of a line's number among the `word_lines`."""
        return (self.word_lines - 1).bit_length()


#: What the datapath needs to know of an instruction besides bias and scale. The bounds are keys that
#: compare as integers; `words` says that results are 32 bits wide, `integer` that they are INT32.
SETTINGS = data.StructLayout({
    "low": signed(32),
    "high": signed(32),
    "integer": 1,
    "words": 1,
    "zero_point": signed(8),
})


def tag_layout(config: ChipConfig) -> data.StructLayout:
    """What goes through the datapath beside each step's accumulators."""
    return data.StructLayout({
        "set": range(SETS),
        "step": Geometry.of(config).step_width,
        "first": 1,         # opens a max-pool window
        "last": 1,          # ends one
    })


def request_layout(config: ChipConfig) -> data.StructLayout:
    """One accumulator line to read, and which of its columns for what."""
    return data.StructLayout({"address": LINE_ADDRESS, "tag": tag_layout(config)})


def job_layout() -> data.StructLayout:
    """An instruction that is ready to run, or whose error is ready to be told."""
    return data.StructLayout({
        "instruction": unit_layout(Unit.EPILOGUE),
        "set": range(SETS),
        "words": 1,
        "code": ErrorCode,
        "address": signed(LINE_ADDRESS + 2),
    })


def line_order() -> data.StructLayout:
    """Where the next finished line goes, and whether the instruction ends with it."""
    return data.StructLayout({"address": LINE_ADDRESS, "last": 1})
