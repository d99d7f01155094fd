"""Instructions, registers, errors and activities: defined once, here.

The RTL decoder, the assembler, the C header and the reference page are all made from these tables
(:mod:`kiwicha_host.assembler`, ``docs/generate.py``); :mod:`kiwicha.layouts` has their shapes in hardware. An
instruction is 64 bytes, little-endian; every bit that no field names is reserved and must be zero.
"""

import enum
from dataclasses import dataclass

from .formats import FORMATS, DocumentedEnum, ElementFormat

__all__ = ["Access", "Activity", "COMMON_FIELDS", "COUNTER_BASE", "ErrorCode", "Field", "INSTRUCTIONS",
           "INSTRUCTION_BYTES", "Instruction", "MAX_PROGRAM", "OperandUse", "OutFormat", "PAGE_BITS", "REGISTERS",
           "REGISTER_ADDRESS_WIDTH", "Reduce", "Register", "RegisterField", "ResultFunction", "SEMAPHORES",
           "SEMAPHORE_MAX", "ScaleMode", "ScaleRule", "SecondSource", "Source", "TABLE_WORDS", "TOP_MOST", "Unit",
           "counter_address"]

INSTRUCTION_BYTES = 64
#: Counting semaphores, all zero when a program starts; an instruction names them by bit masks.
SEMAPHORES = 16
#: A semaphore's highest value; a signal beyond it waits until the semaphore has been taken from.
SEMAPHORE_MAX = 15
#: Bits of an instruction's index, and so the longest program.
INDEX_WIDTH = 24
MAX_PROGRAM = (1 << INDEX_WIDTH) - 1
#: The memory window is of whole pages, and no burst crosses one, as AXI wants it: bits of an address in a page.
PAGE_BITS = 12
#: Bits of a register's byte address.
REGISTER_ADDRESS_WIDTH = 12
#: Words of 32 bits in each of the vector unit's tables: one for every byte.
TABLE_WORDS = 256
#: The most results of a row that VECTOR sorts out.
TOP_MOST = 8
#: Elements are addressed by loop nests of so many levels, level 0 the innermost.
LEVELS = 4


class Unit(DocumentedEnum):
    """The parts of the chip that run instructions; the value is the opcode of its instruction."""
    FETCH = 0
    LOAD = 1
    MATMUL = 2
    VECTOR = 3
    STORE = 4


class ErrorCode(DocumentedEnum):
    """Why a program ended; the address register holds what the member's `doc` names."""
    NONE = 0
    OPCODE = 1, "no such instruction; address: the opcode"
    RESERVED = 2, "a reserved bit is set; address: the lowest such bit's number"
    FIELD = 3, "a field has no meaning (a zero count, a segment over a line); address: its value"
    SCRATCHPAD_RANGE = 4, "a scratchpad line that does not exist; address: the line, sign-extended"
    ACCUMULATOR_RANGE = 5, "an accumulator line that does not exist; address: the line, sign-extended"
    WINDOW = 6, "memory outside the window; address: the first byte that is"
    BUS_READ = 7, "the memory answered a read with SLVERR or DECERR; address: the burst's first byte"
    BUS_WRITE = 8, "the same for a write"
    WATCHDOG = 9, "no progress for as many cycles as the watchdog register says"
    ABORTED = 10, "the host wrote CONTROL.abort"
    INDEX = 11, "an index is not below its bound; address: the index"


class Activity(DocumentedEnum):
    """What a unit does in one cycle; each cycle of a run counts once for each unit."""
    IDLE = 0, "nothing to do"
    BUSY = 1, "moves or computes data"
    SEMAPHORE = 2, "its next instruction waits for a semaphore"
    MEMORY = 3, "waits for the memory bus"
    PORT = 4, "waits for a scratchpad or accumulator port that another unit uses"
    OPERAND = 5, "waits for weights, parameters, an index, or an accumulator line still being written"
    QUEUE = 6, "waits for room in a queue behind it"
    DRAIN = 7, "all is issued; the last results are on their way"


class OutFormat(DocumentedEnum):
    """What the vector unit writes."""
    INT8 = 0
    INT32 = 1
    FP32 = 2
    BF16 = 3
    E4M3 = 4, "with a dynamic scale per block; only in a chip with floating-point formats"
    E2M1 = 5, "likewise"
    MXINT8 = 6, "int8, in sixty-fourths, likewise; only in a block-scaled chip with int8"


class ScaleRule(DocumentedEnum):
    """How a block's scale follows from its largest magnitude (:func:`kiwicha_host.golden.quantize_block`)."""
    RCEIL = 0
    FLOOR = 1


class ScaleMode(DocumentedEnum):
    """Where the vector unit's FP32 factor comes from."""
    NONE = 0
    SCALAR = 1
    COLUMN = 2


class Source(DocumentedEnum):
    """Where the vector unit's operand A comes from."""
    ACCUMULATOR = 0
    TABLE = 1, "bytes of the scratchpad, each through table A"
    WORDS = 2, "words of 32 bits in the scratchpad, or BF16; only in a chip with `functions`"
    BYTES = 3, "bytes of the scratchpad, int8, as they are; only in a chip with `functions`"


class SecondSource(DocumentedEnum):
    """Where the vector unit's operand B comes from; only TABLE in a chip without `functions`."""
    TABLE = 0, "bytes of the scratchpad, each through table B"
    WORDS = 1, "words of 32 bits in the scratchpad, or BF16"
    ROW = 2, "one word for all columns and all of level 2, a line's first"
    A = 3, "operand A itself: its squares, with MULTIPLY"


class OperandUse(DocumentedEnum):
    """What becomes of the vector unit's operand B."""
    NONE = 0
    ADD = 1, "in place of the bias"
    MULTIPLY = 2, "in place of the scale; in a chip with `functions` also before one"
    INDEX = 3, "subtracted from A's bytes before their table; only in a chip with `functions`"


class Reduce(DocumentedEnum):
    """How the vector unit makes one result of a window."""
    MAXIMUM = 0
    SUM = 1, "of operand A, int32, modulo 2^32; of a row's results, FP32, too"


class ResultFunction(DocumentedEnum):
    """What the vector unit makes of a result; all but NONE only in a chip with `functions`."""
    NONE = 0
    EXP2 = 1
    RECIPROCAL = 2
    RSQRT = 3


@dataclass(frozen=True)
class Field:
    """Bits ``offset`` to ``offset + width - 1`` of an instruction."""
    name: str
    byte: int
    width: int
    doc: str
    signed: bool = False
    bit: int = 0
    enum: type | None = None

    @property
    def offset(self) -> int:
        return 8 * self.byte + self.bit

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest value."""
        return (-(1 << self.width - 1), (1 << self.width - 1) - 1) if self.signed else (0, (1 << self.width) - 1)


@dataclass(frozen=True)
class Instruction:
    """One kind of instruction: its unit (whose value is the opcode) and its own fields."""
    unit: Unit
    doc: str
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        return self.unit.name

    @property
    def opcode(self) -> int:
        return self.unit.value

    @property
    def all_fields(self) -> tuple[Field, ...]:
        return COMMON_FIELDS + self.fields

    @property
    def used_mask(self) -> int:
        """The bits that some field names; all others are reserved."""
        mask = 0
        for item in self.all_fields:
            mask |= ((1 << item.width) - 1) << item.offset
        return mask


COMMON_FIELDS = (
    Field("opcode", 0, 8, "which unit runs it"),
    Field("wait", 4, SEMAPHORES, "semaphores to take one from, all at once, before the instruction starts"),
    Field("signal", 6, SEMAPHORES, "semaphores to add one to when its last result is in place"),
)


def _levels(name: str, byte: int, doc: str, levels=range(LEVELS), is_signed: bool = True) -> tuple[Field, ...]:
    return tuple(Field(f"{name}{level}", byte + 2 * i, 16, doc.format(level), signed=is_signed)
                 for i, level in enumerate(levels))


_TRANSFER = (
    Field("indexed", 1, 1, "add an index from the scratchpad to `address`; only in a chip with `indices`", bit=1),
    Field("segment_bytes", 3, 8, "bytes of a row in each line, 1 to the line's size"),
    Field("address", 8, 64, "first byte in memory, any alignment"),
    Field("row_bytes", 16, 24, "bytes per row, at least 1"),
    Field("rows", 20, 16, "rows per plane, at least 1"),
    Field("planes", 22, 16, "planes, at least 1"),
    Field("row_stride", 24, 32, "bytes from one row to the next in memory", signed=True),
    Field("plane_stride", 28, 32, "bytes from one plane to the next in memory", signed=True),
    Field("line", 32, 16, "first scratchpad line"),
    Field("segment_line_stride", 34, 16, "lines from one segment of a row to the next", signed=True),
    Field("row_line_stride", 36, 16, "lines from one row to the next", signed=True),
    Field("plane_line_stride", 38, 16, "lines from one plane to the next", signed=True),
    Field("index_line", 40, 16, "with `indexed`: scratchpad line of the index"),
    Field("index_word", 42, 8, "which of that line's words it is, from 0"),
    Field("index_stride", 44, 32, "bytes from index 0 to index 1 in memory", signed=True),
    Field("index_bound", 48, 32, "the index must be less; at least 1"),
)

LOAD = Instruction(Unit.LOAD, """\
Memory to scratchpad. Each row of `row_bytes` consecutive bytes is cut into segments of `segment_bytes` (the last
may be shorter); segment c of row r of plane p fills line `line + c * segment_line_stride + r * row_line_stride +
p * plane_line_stride` from byte 0, and the rest of that line becomes `fill`. With `fill_only`, no memory is
read and every byte of those lines becomes `fill`. With segments of one element each, a matrix's elements come to a
line each, and a STORE of such segments puts them in another order, so as to transpose it.

A chip with `indices` also has `indexed`, though not with `fill_only`: a word of the scratchpad, unsigned, is the
index, and the first byte in memory is `address + index * index_stride`. That is an exact sum: where it is negative
or has more bits than the chip's addresses, it is outside the window. The index is read after `wait` has been
satisfied, before any byte is moved, and maybe before the unit's instruction before this one has ended: what
writes it must have signalled, an earlier LOAD too.""", (
    Field("fill_only", 1, 1, "write `fill` everywhere and read no memory"),
    Field("fill", 2, 8, "byte for the rest of each line"),
    *_TRANSFER))

STORE = Instruction(Unit.STORE, """\
Scratchpad to memory, the mirror of LOAD: the first `segment_bytes` bytes of each line (what is left of the row
for the last) are written one after the other; no other byte in memory changes. `indexed` is as of LOAD.""",
                    _TRANSFER)

MATMUL = Instruction(Unit.MATMUL, """\
Matrix product into the accumulators. Loops of count0 (innermost) to count3: for each iteration of levels 3
and 2 a weight tile of `rows` lines is taken from `w_line + i2 * w_stride2 + i3 * w_stride3`; for each iteration
of levels 1 and 0 the first `rows` elements of line `a_line + sum(i * a_stride)` are multiplied with it and added
to accumulator line `acc_line + sum(i * acc_stride)`. A level whose acc_stride is zero is a reduction: its first
iteration overwrites and the others add; with `accumulate` the first adds too.

Without `scaled` both formats are integers, and sums are int32, modulo 2^32. With `scaled`, `block_tiles`
iterations of level 2 are one block along K (the last block of the level may have fewer). Its products are summed
exactly, per accumulator line; with its last weight tile the sum is multiplied by both scales, rounded to FP32
once, and added to the accumulators, which hold FP32, rounding once more; level 2 is in its first iteration for all
of the first block. Scales are E8M0 codes. Block b of level 2 takes those of A from lines
`a_scale_line + b * a_scale_stride2 + i3 * a_scale_stride3` on, a byte for each vector of the weight tile in order;
and those of the weights from line `w_scale_line + b * w_scale_stride2 + i3 * w_scale_stride3`, a byte for each
column.""", (
    Field("accumulate", 1, 1, "add to the accumulators in the first iteration too"),
    Field("scaled", 1, 1, "block-scaled: accumulate in FP32", bit=1),
    Field("a_format", 2, 3, "element format of A", enum=ElementFormat),
    Field("w_format", 2, 3, "element format of the weights", bit=4, enum=ElementFormat),
    Field("block_tiles", 3, 8, "iterations of level 2 that share a scale, if `scaled`: 1 to 128 / rows"),
    Field("a_line", 8, 16, "first scratchpad line of A"),
    Field("w_line", 10, 16, "first scratchpad line of the weight tiles"),
    Field("acc_line", 12, 16, "first accumulator line"),
    Field("a_scale_line", 14, 16, "first scratchpad line of A's scales"),
    *_levels("count", 16, "iterations of level {}, at least 1", is_signed=False),
    *_levels("a_stride", 24, "lines of A from one iteration of level {} to the next"),
    *_levels("acc_stride", 32, "accumulator lines from one iteration of level {} to the next"),
    *_levels("w_stride", 40, "lines of weights from one iteration of level {} to the next", levels=(2, 3)),
    Field("a_scale_stride2", 44, 16, "lines of A's scales from one block to the next", signed=True),
    Field("a_scale_stride3", 46, 16, "lines of A's scales from one iteration of level 3 to the next", signed=True),
    Field("w_scale_line", 48, 16, "first scratchpad line of the weights' scales"),
    Field("w_scale_stride2", 50, 16, "lines of the weights' scales from one block to the next", signed=True),
    Field("w_scale_stride3", 52, 16, "lines of the weights' scales from one iteration of level 3 to the next",
          signed=True)))

VECTOR = Instruction(Unit.VECTOR, """\
Vectors of `columns` elements to scratchpad. Levels 0 and 1 are a window, levels 2 and 3 the output's pixels. For
each pixel: over the window, operand A plus bias, to FP32, times scale, clamped; the maximum, converted to
`out_format`, goes to line `out_line + i2 * out_stride2 + i3 * out_stride3`, and a result that needs more lines
goes on every `out_step` lines. INT32 is not converted nor scaled: its `scale_mode` must be NONE. Parameters
start at `param_line`: ceil(4 * columns / line bytes) lines of bias if `bias`, then as many of FP32 scale if
`scale_mode` is COLUMN. With `float` operand A and bias are FP32 rather than int32.

Operand A is line `a_line + sum(i * a_stride)`: of the accumulators, or, if `a_source` is TABLE, of the
scratchpad, whose first `columns` bytes are each replaced by a word of table A. Operand B is scratchpad line
`b_line + i2 * b_stride2 + i3 * b_stride3`, through table B: with `b_use` ADD its words take the place of the
bias, and with MULTIPLY, as FP32, that of the scale. With `reduce` SUM the window's A and one bias are added
first, as int32, and there is no maximum. The tables have 256 words of 32 bits each and stay as they are until
they are loaded: `load_a` and `load_b` load table A, then B, from the lines from `table_line` on, before the
first pixel and after the instruction before has ended. No line of operands may be written by this instruction
before it has been read, nor by one of VECTOR that it does not wait for.

A chip with `functions` also has these. With MULTIPLY there may be a scale, too: results are multiplied by B, then
by the scale. Operands from WORDS are ceil(4 * columns / line bytes) consecutive lines of
32-bit words each; A from BYTES is int8, and not for `float`. With `a_bf16` and `b_bf16` WORDS are BF16
instead, ceil(2 * columns / line bytes) lines as results of BF16 are, and become FP32 exactly: A's for `float`,
B's for MULTIPLY, or for ADD with `float`. B from a ROW, such as the result of one, is line
`b_line + i3 * b_stride3`, whose first word serves all columns and all of level 2. B from A is A's own word before
the bias, at each place of the window and in each part: `b_line` and B's strides mean nothing, and a SUM has no
window (count0 and count1 are 1). With `b_use` INDEX, byte x of A and y of B (the byte, or the lowest of its word;
not from A) give word (x - y) mod 256 of table A. With `row`, the results of all columns and of all iterations of
level 2 become one, their maximum or their sum by `reduce`, which goes to every column of the line at
`out_line + i3 * out_stride3`; in the last iteration only the first `tail` columns count (0: all). Results are
INT32 or FP32 then. FP32 sums need `columns` to be a multiple of the vector unit's lanes; with `float` they have no
window, either. `function` is taken of an FP32 result last of all.

A chip with `top_k` also has `top`, for a `row` of FP32 with `reduce` MAXIMUM and no `function`: instead of the
maximum, the `top` largest of the row's results, in descending order, and of equal ones that which comes first;
there must be as many. Of these, number j < `top` goes to every column of the line at
`out_line + j * out_stride2 + i3 * out_stride3`, and its place in the row, column + columns * i2 as an unsigned
integer, to those of the line `top * out_stride2` further on. That these lines exist is seen with the row's first
operands.

E4M3, E2M1 and MXINT8 make `parts` * columns results of each pixel, part j from A's lines `j * part_stride`
further on, to its own line `j * out_step` further on; E2M1 puts two into a byte. They share one dynamic E8M0 scale
by `scale_rule`. The scales of all pixels, in order, are the bytes of the lines from `scale_line` on; the rest of
the last line is zero. Every part has the same bias, scale and operand B, so what differs from column to column
needs `parts` = 1: bias, a scale per COLUMN, and B, unless it is from a ROW, or from A.""", (
    Field("out_format", 1, 3, "INT8, INT32, FP32, BF16, E4M3, E2M1 or MXINT8", enum=OutFormat),
    Field("bias", 1, 1, "add a bias per column: int32, modulo 2^32, or FP32", bit=3),
    Field("scale_mode", 1, 2, "NONE, SCALAR (field `scale`) or COLUMN (parameter lines)", bit=4, enum=ScaleMode),
    Field("clamp", 1, 1, "clamp to clamp_low .. clamp_high", bit=6),
    Field("float", 1, 1, "operand A and bias are FP32; not for INT32, nor for SUM but of a row", bit=7),
    Field("zero_point", 2, 8, "added after rounding, INT8 only", signed=True),
    Field("scale_rule", 3, 1, "RCEIL or FLOOR, for dynamic scales only", enum=ScaleRule),
    Field("parts", 3, 7, "column blocks that share a dynamic scale: 1 to 128 / columns", bit=1),
    Field("a_line", 8, 16, "first line of A"),
    Field("out_line", 10, 16, "first scratchpad line of the result"),
    Field("param_line", 12, 16, "first scratchpad line of the parameters"),
    Field("part_stride", 14, 16, "lines of A from one part to the next", signed=True),
    *_levels("count", 16, "iterations of level {}, at least 1", is_signed=False),
    *_levels("a_stride", 24, "lines of A from one iteration of level {} to the next"),
    *_levels("out_stride", 32, "output lines from one iteration of level {} to the next", levels=(2, 3)),
    Field("out_step", 36, 16, "output lines from one line of a result to the next", signed=True),
    Field("scale_line", 38, 16, "first scratchpad line of the dynamic scales"),
    Field("scale", 40, 32, "FP32 factor for SCALAR, as its bits"),
    Field("clamp_low", 44, 32, "lower bound: FP32 bits; int32 if out_format is INT32"),
    Field("clamp_high", 48, 32, "upper bound: the same"),
    Field("a_source", 52, 2, "ACCUMULATOR, TABLE, WORDS or BYTES", enum=Source),
    Field("a_bf16", 52, 1, "A's WORDS are BF16, for `float`", bit=2),
    Field("b_use", 52, 2, "NONE, ADD (in place of `bias`), MULTIPLY (in place of a scale, or before it) or INDEX",
          bit=3, enum=OperandUse),
    Field("reduce", 52, 1, "MAXIMUM or SUM", bit=5, enum=Reduce),
    Field("row", 52, 1, "one result of all columns and all of level 2: INT32 or FP32", bit=6),
    Field("load_a", 53, 1, "load table A"),
    Field("load_b", 53, 1, "load table B", bit=1),
    Field("b_source", 53, 2, "TABLE, WORDS, ROW or A", bit=2, enum=SecondSource),
    Field("b_bf16", 53, 1, "B's WORDS are BF16, for MULTIPLY, or ADD with `float`", bit=6),
    Field("function", 53, 2, "NONE, EXP2, RECIPROCAL or RSQRT, FP32 only", bit=4, enum=ResultFunction),
    Field("table_line", 54, 16, "first scratchpad line of the tables to load"),
    Field("b_line", 56, 16, "first scratchpad line of B"),
    *_levels("b_stride", 58, "lines of B from one iteration of level {} to the next", levels=(2, 3)),
    Field("tail", 62, 6, "with `row`: columns that count in the last iteration of level 2; 0: all"),
    Field("top", 63, 4, "with `row`: how many of the largest, 1 to 8, and their places (0: the maximum alone); "
          "only in a chip with `top_k`")))

INSTRUCTIONS = {item.unit: item for item in (LOAD, MATMUL, VECTOR, STORE)}


class Access(enum.StrEnum):
    """What a register does for the host."""
    RO = "ro"       #: reads; a write is refused
    RW = "rw"       #: reads what was written
    WO = "wo"       #: each one written acts once; reads 0
    RW1S = "rw1s"   #: a one sets the bit, for good
    RW1C = "rw1c"   #: a one clears the bit; the chip sets it


WORD = 0xFFFF_FFFF


@dataclass(frozen=True)
class RegisterField:
    """Bits `bit` to `bit + width - 1` of a register, and their value after reset."""
    name: str
    bit: int
    width: int
    doc: str
    reset: int = 0

    @property
    def mask(self) -> int:
        return ((1 << self.width) - 1) << self.bit

    def of(self, value: int) -> int:
        """The field's value in the register's."""
        return (value & self.mask) >> self.bit


@dataclass(frozen=True)
class Register:
    """A 32-bit register at byte `offset`.

    Parameters
    ----------
    access : Access
    fields : tuple of RegisterField
        If it has any, they are all of its bits.
    reset : int
        Value after reset of a register without fields that stores something.
    writable : int
        Bits that a write changes, of a register without fields; the others keep their reset value.
    upper_half : bool
        The upper half of an address: bits beyond the chip's address width do not exist, and read 0.
    strict : bool
        A write with a one for a bit that it cannot change is refused.
    locked_by : tuple of str
        Fields of STATUS: while one of them is set, any write is refused.
    """
    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[RegisterField, ...] = ()
    reset: int = 0
    writable: int = WORD
    upper_half: bool = False
    strict: bool = False
    locked_by: tuple[str, ...] = ()

    def field(self, name: str) -> RegisterField:
        """The field called `name`; KeyError if there is none."""
        return {item.name: item for item in self.fields}[name]

    def _existing(self, address_width: int) -> int:
        return (1 << max(0, address_width - 32)) - 1 if self.upper_half else WORD

    def writable_bits(self, address_width: int) -> int:
        """The bits that a write changes, in a chip with addresses of so many bits."""
        return (sum(item.mask for item in self.fields) or self.writable) & self._existing(address_width)

    def reset_value(self, address_width: int) -> int:
        """What it holds after reset, in a chip with addresses of so many bits."""
        value = sum(item.reset << item.bit for item in self.fields) or self.reset
        return value & self._existing(address_width)

    @property
    def rules(self) -> str:
        """What a write must heed, and the reset value unless that is 0: in words, for people."""
        words = []
        if self.locked_by:
            words.append(f"not writable while {' or '.join(self.locked_by)}")
        if self.strict:
            words.append("bits beyond the address width must be zero" if self.upper_half else
                         f"bits from {self.writable.bit_length()} on must be zero")
        if self.reset:
            words.append("reset: ones up to the address width" if self.upper_half else
                         f"reset: {self.reset:#010x}")
        return "; ".join(words)


def _fields(*rows: tuple[str, int, int, str]) -> tuple[RegisterField, ...]:
    return tuple(RegisterField(*row) for row in rows)


ID_VALUE = int.from_bytes(b"KIWI", "big")
VERSION_VALUE = 0x0002_0005
COUNTER_BASE = 0x100
#: The part of an address's lower half that says which page.
_PAGES = WORD >> PAGE_BITS << PAGE_BITS

_STATIC = (
    Register("ID", 0x000, Access.RO, "reads 0x4b495749, \"KIWI\""),
    Register("VERSION", 0x004, Access.RO, "ISA version: major in the upper half, minor in the lower"),
    Register("ARRAY", 0x008, Access.RO, "the array's shape", _fields(
        ("rows", 0, 8, "array rows"), ("columns", 8, 8, "array columns"),
        ("vector_lanes", 16, 8, "columns that VECTOR takes per cycle"),
        ("line_bytes", 24, 8, "bytes per scratchpad line"))),
    Register("BUS", 0x00C, Access.RO, "the memory bus", _fields(
        ("bus_bytes", 0, 8, "bytes per beat"), ("address_width", 8, 8, "address bits"),
        ("reads_in_flight", 16, 8, "read bursts outstanding"),
        ("writes_in_flight", 24, 8, "write bursts outstanding"))),
    Register("SCRATCHPAD", 0x010, Access.RO, "the scratchpad", _fields(
        ("bank_lines", 0, 16, "lines per bank"), ("banks", 16, 8, "banks"),
        ("queue_depth", 24, 8, "instructions queued per unit"))),
    Register("ACCUMULATOR", 0x014, Access.RO, "accumulator lines"),
    Register("FORMATS", 0x018, Access.RO, f"one bit per element format: {', '.join(FORMATS)}"),
    Register("FEATURES", 0x01C, Access.RO, "what a chip may have", _fields(
        ("functions", 0, 1, "VECTOR takes words and BF16, reduces rows, and has functions"),
        ("block_scales", 1, 1, "scales also without floating-point formats"),
        ("indices", 2, 1, "LOAD and STORE take an index from the scratchpad"),
        ("top_k", 3, 1, "VECTOR finds the largest of a row"))),
    Register("CONTROL", 0x020, Access.WO, "write ones to act", _fields(
        ("start", 0, 1, "run the program; ignored while busy"),
        ("abort", 1, 1, "end the running program with error ABORTED"))),
    Register("STATUS", 0x024, Access.RO, "what the chip does", _fields(
        ("busy", 0, 1, "a program runs, or is being stopped, until the bus has answered"),
        ("done", 1, 1, "the last program ended well"),
        ("error", 2, 1, "the last program failed; set at once, before busy falls"),
        ("locked", 3, 1, "the window is locked"))),
    Register("ERROR", 0x028, Access.RO, "why the last program failed", _fields(
        ("code", 0, 8, "ErrorCode"), ("unit", 8, 8, "Unit"))),
    Register("ERROR_INSTRUCTION", 0x02C, Access.RO, "index of the instruction that failed, from 0"),
    Register("ERROR_ADDRESS_LOW", 0x030, Access.RO, "the address or value at fault"),
    Register("ERROR_ADDRESS_HIGH", 0x034, Access.RO, "its upper half"),
    Register("PROGRAM_LOW", 0x040, Access.RW, "address of the program, a multiple of 64", locked_by=("busy",)),
    Register("PROGRAM_HIGH", 0x044, Access.RW, "its upper half", locked_by=("busy",)),
    Register("PROGRAM_COUNT", 0x048, Access.RW, f"instructions in the program, 0 to 2^{INDEX_WIDTH} - 1",
             writable=MAX_PROGRAM, strict=True, locked_by=("busy",)),
    Register("WINDOW_FIRST_LOW", 0x050, Access.RW, "first byte that the chip may touch; the lower "
             f"{PAGE_BITS} bits read 0", reset=_PAGES, writable=_PAGES, locked_by=("busy", "locked")),
    Register("WINDOW_FIRST_HIGH", 0x054, Access.RW, "its upper half", reset=WORD, upper_half=True, strict=True,
             locked_by=("busy", "locked")),
    Register("WINDOW_LAST_LOW", 0x058, Access.RW, "last byte that the chip may touch; the lower "
             f"{PAGE_BITS} bits read 1", reset=WORD - _PAGES, writable=_PAGES,
             locked_by=("busy", "locked")),
    Register("WINDOW_LAST_HIGH", 0x05C, Access.RW, "its upper half", upper_half=True, strict=True,
             locked_by=("busy", "locked")),
    Register("WINDOW_LOCK", 0x060, Access.RW1S, "write 1: the window cannot change until reset", _fields(
        ("locked", 0, 1, "the window is locked"),)),
    Register("WATCHDOG", 0x064, Access.RW, "cycles without progress that end a program; 0: never",
             reset=1 << 20, locked_by=("busy",)),
    Register("IRQ_ENABLE", 0x068, Access.RW, "which ends raise the interrupt", _fields(
        ("done", 0, 1, "a good end"), ("error", 1, 1, "an error"))),
    Register("IRQ_PENDING", 0x06C, Access.RW1C, "which ends came; write ones to clear", _fields(
        ("done", 0, 1, "a good end"), ("error", 1, 1, "an error"))),
    Register("CYCLES", 0x080, Access.RO, "cycles of the running or last program, start to end"),
)


def counter_address(unit: Unit, activity: Activity) -> int:
    """Register offset of the cycles that `unit` spent in `activity` during the running or last program."""
    return COUNTER_BASE + 0x20 * unit.value + 4 * activity.value


REGISTERS: dict[str, Register] = {register.name: register for register in (*_STATIC, *(
    Register(f"{unit.name}_{activity.name}", counter_address(unit, activity), Access.RO,
             f"cycles of the last program that {unit.name} was {activity.name}")
    for unit in Unit for activity in Activity))}
