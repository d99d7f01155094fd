"""What the parts of the vector unit say to one another, and the numbers that follow from a configuration."""

from dataclasses import dataclass

from amaranth.hdl import signed
from amaranth.lib import data, enum

from ..config import ChipConfig
from ..formats import MAX_BLOCK
from ..isa import TOP_MOST, ErrorCode, ResultFunction, ScaleRule, Unit
from ..layouts import unit_layout
from ..memory.ports import LINE_ADDRESS
from ..timing import MOST_ITERATIONS, PARAMETER_SETS, steps, sum_levels, word_lines

__all__ = ["Geometry", "Size", "line_order", "prepared_layout", "request_layout", "settings_layout",
           "size_shape", "tag_layout", "way_layout"]


class Size(enum.Enum, shape=2):
    """How wide a result is. A chip without block scaling has only the first two, and the lower bit."""
    BYTE = 0
    WORD = 1
    NIBBLE = 2
    HALF = 3

    @property
    def bits(self) -> int:
        return {Size.BYTE: 8, Size.WORD: 32, Size.NIBBLE: 4, Size.HALF: 16}[self]


def size_shape(config: ChipConfig) -> int:
    """Bits of a :class:`Size` in a chip of `config`."""
    return 2 if config.block_scaled else 1


@dataclass(frozen=True)
class Geometry:
    """How lines fall into steps: a step is `lanes` neighbouring columns, converted in one cycle."""
    columns: int
    lanes: int
    line_bytes: int
    #: Steps of an accumulator line.
    steps: int
    #: Lines of 32-bit words that hold a word per column.
    word_lines: int

    @classmethod
    def of(cls, config: ChipConfig) -> "Geometry":
        return cls(config.columns, config.vector_lanes, config.line_bytes, steps(config), word_lines(config))

    @property
    def slots(self) -> int:
        """Steps that fill a line with 32-bit words; a power of two."""
        return self.line_bytes // 4 // self.lanes

    def slots_of(self, size: Size) -> int:
        """Steps that fill a line with results of that size; no fewer than `steps` if one line is enough."""
        return 8 * self.line_bytes // size.bits // self.lanes

    @property
    def most_parts(self) -> int:
        """Column blocks that may share a dynamic scale; none unless `columns` is a power of two."""
        return 0 if self.columns & (self.columns - 1) else MAX_BLOCK // self.columns

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


def settings_layout(config: ChipConfig) -> data.StructLayout:
    """What the datapath needs to know of an instruction besides bias and scale.

    The bounds are keys that compare as integers; `size` is that of the results, and `integer` says that they are
    INT32. Operand A is `fetched` from the scratchpad or else the accumulators, and a window's is a `sum` or else
    the maximum; operand B's words `add` to it, or `multiply`. `float` says that A and bias are FP32;
    `dynamic_scale`, that results take a dynamic scale, by `rule`; `mxint8`, that they are MXINT8 in a chip where
    they could be E4M3. With functions, operand B is A `itself`, and with `rescale` the scale comes after a
    product with B; `row` and `function` are the instruction's, and in the last iteration of a row the first `tail`
    columns count; `levels` are those of the additions over a row's steps for its FP32 sum, or 0; `top` is the
    instruction's.
    """
    scaled = {"dynamic_scale": 1, "rule": ScaleRule}
    if config.has_float_results and config.has_mxint8_results:
        scaled |= {"mxint8": 1}
    functions = {"itself": 1, "rescale": 1, "row": 1, "function": ResultFunction,
                 "tail": range(config.columns + 1)}
    if config.float_row_sums:
        functions |= _levels(config)
    if config.top_k:
        functions |= {"top": range(TOP_MOST + 1)}
    return data.StructLayout({
        "low": signed(32),
        "high": signed(32),
        "integer": 1,
        "size": size_shape(config),
        "zero_point": signed(8),
        "fetched": 1, "sum": 1, "add": 1, "multiply": 1,
        **({"float": 1} if config.vector_floats else {}),
        **(scaled if config.dynamic_scales else {}),
        **(functions if config.functions else {}),
    })


def tag_layout(config: ChipConfig) -> data.StructLayout:
    """What goes through the datapath beside each step's accumulators."""
    scaled = {
        "end": 1,           # the last step of a pixel
        "flush": 1,         # the pixel's scale ends a line of scales
    }
    functions = {
        "a_words": 1,       # operand A is words rather than bytes
        "a_half": 1,        # its words are BF16
        "a_bytes": 1,       # its bytes are int8 rather than the table's
        "b_words": 1,
        "b_half": 1,
        "b_row": 1,         # the first of a line for all
        "index": 1,         # operand B is subtracted from A's bytes
        "rescale": 1,       # a product with operand B is multiplied once more
        "row_begins": 1,    # the first step of a row
        "row_ends": 1,      # the last one
        "row_tail": 1,      # one of a row's last lines
    }
    return data.StructLayout({
        "set": range(PARAMETER_SETS),
        "step": Geometry.of(config).step_width,
        "first": 1,         # opens a window
        "last": 1,          # ends one
        **(scaled if config.dynamic_scales else {}),
        **(functions if config.functions else {}),
    })


def request_layout(config: ChipConfig) -> data.StructLayout:
    """One accumulator line to read, and which of its columns for what.

    With `fetched`, it is the next line of operand A instead; with `second`, there is one of operand B to it. The
    lines are done with after a step that says `a_ends`, and `b_ends`. After one that is `slow`, what follows takes
    a cycle for each lane. The largest of its row are wanted if it is for the `top`.
    """
    return data.StructLayout({"address": LINE_ADDRESS, "tag": tag_layout(config),
                              "fetched": 1, "a_ends": 1, "second": 1, "b_ends": 1,
                              **({"slow": 1} if config.functions else {}), **({"top": 1} if config.top_k else {})})


def way_layout(config: ChipConfig) -> data.StructLayout:
    """By which of several ways results leave the datapath; before another one is taken, it runs empty.

    FP32 sums of rows take more or less time by their `levels` of additions, and a second factor, `rescale`, takes
    some, too.
    """
    return data.StructLayout({**({"dynamic_scale": 1} if config.dynamic_scales else {}),
                              **({"row": 1, "function": 1, "rescale": 1} if config.functions else {}),
                              **(_levels(config) if config.float_row_sums else {}),
                              **({"top": 1} if config.top_k else {})})


def _levels(config):
    return {"levels": range(sum_levels(config, MOST_ITERATIONS) + 1)}


def prepared_layout(config: ChipConfig) -> data.StructLayout:
    """An instruction that is ready to run, or whose error is ready to be told."""
    return data.StructLayout({
        "instruction": unit_layout(Unit.VECTOR),
        "set": range(PARAMETER_SETS),
        "size": size_shape(config),
        "way": way_layout(config),
        "code": ErrorCode,
        "address": signed(LINE_ADDRESS + 2),
    })


def line_order(config: ChipConfig) -> data.StructLayout:
    """Where the next finished line goes, and whether the instruction ends with it.

    With `flush`, a line of scales follows, and the instruction ends with that.
    """
    return data.StructLayout({"address": LINE_ADDRESS, "last": 1,
                              **({"flush": 1} if config.dynamic_scales else {})})
