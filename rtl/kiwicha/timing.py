"""What hardware and software both count with: latencies in clock cycles, depths in items.

The components take theirs from here, their benches hold them to it, and the cycle model
(:mod:`kiwicha_host.cycles`) adds them up. Importing this loads no hardware.
"""

from typing import NamedTuple

from .config import ChipConfig
from .formats import FORMATS

# Memories.

#: From an accepted scratchpad or accumulator read request to its data: a register before block RAM, the block RAM
#: itself, and a register behind it.
READ_LATENCY = 3
#: From an accepted scratchpad write to the first read that sees it.
WRITE_LATENCY = 2

# Arithmetic, one operation per cycle.

FLOAT_ADD = 5
FLOAT_MULTIPLY = 9
INT_TO_FLOAT = 4
FLOAT_TO_INT8 = 4
FLOAT_TO_BF16 = 2
FLOAT_TO_ELEMENT = 5
BLOCK_SCALE = 2
SCALED_TO_FLOAT = 6
FLOAT_FUNCTION = 18

# Control.

#: Instructions that a unit may have accepted before the first of them has retired and signalled.
OPEN_INSTRUCTIONS = 4
#: From one grant of semaphores to the next, and from one applied signal to the next.
SEMAPHORE_PERIOD = 3
#: Instructions that the fetch holds, and the most that one of its bursts brings: 256 bytes, aligned to them, so
#: that no burst crosses a 4 KiB page.
FETCH_BUFFER, FETCH_BURST = 16, 4

# The array.


class Cell(NamedTuple):
    """A multiplier variant: array columns that it serves, and cycles from its operands to its products."""
    columns: int
    latency: int


#: By the names of :data:`kiwicha.config.MULTIPLIERS`.
CELLS = {"portable": Cell(1, 1), "ecp5": Cell(1, 2), "ecp5_packed": Cell(2, 2)}


def decode_latency(config: ChipConfig) -> int:
    """Codes at the array's edge to operands."""
    return 2 if any(FORMATS[name].is_float for name in config.formats) else 1


def array_latency(config: ChipConfig) -> int:
    """A vector at the array's edge to all its column sums."""
    cell = CELLS[config.multiplier]
    return 2 + (config.rows - 1) + cell.latency + 1 + (config.columns // cell.columns - 1)


# Accumulators.

#: Column sums to an addition, with block scaling: block RAM, its register, the adder's, and the conversion.
BLOCK_SUM = READ_LATENCY + 1 + SCALED_TO_FLOAT


def accumulator_adder(config: ChipConfig) -> int:
    """The adder between an accumulator line's read and its write."""
    return FLOAT_ADD if config.block_scaled else 1


def accumulator_hazard(config: ChipConfig) -> int:
    """From one addition to the next to the same line, at least."""
    return READ_LATENCY + accumulator_adder(config) + 1


def accumulator_latency(config: ChipConfig) -> int:
    """From column sums to the first read request that sees them."""
    return accumulator_hazard(config) + (BLOCK_SUM if config.block_scaled else 0)


# The vector unit: a step is `vector_lanes` neighbouring columns, converted in one cycle.

#: Instructions whose parameters are held at once: those in the pipeline and the one being prepared.
PARAMETER_SETS = 4
#: Stages of a lane, from its accumulator: the converted sum, scaled, as a sortable key, clamped, the maximum of
#: the window, the result in FP32, and the result in its format.
LANE_SCALE = 1 + INT_TO_FLOAT
LANE_KEY = LANE_SCALE + FLOAT_MULTIPLY
#: What is multiplied twice is so much later at all that follows.
LANE_RESCALE = FLOAT_MULTIPLY
LANE_CLAMP = LANE_KEY + 1
LANE_MAXIMUM = LANE_CLAMP + 2
LANE_RESULT = LANE_MAXIMUM + 1
LANE_OUT = LANE_RESULT + FLOAT_TO_INT8
#: A step's results to the first of them with its function, besides a cycle for each.
RESULT_FUNCTIONS = FLOAT_FUNCTION + 1
#: Reads that may wait for the accumulators or for lines from the scratchpad: those under way when they begin to
#: wait, and more to go on with than the cycles that such a line takes.
VECTOR_REQUESTS = 16
#: Iterations of a level of loops, at most.
MOST_ITERATIONS = (1 << 16) - 1
#: A row's last pair of sums may wait so long for the adder of higher levels; see :mod:`kiwicha.vector.row_sums`.
SUM_WAIT = 3
#: A step that completes a line to that line.
LINE_PACKER = 1


def steps(config: ChipConfig) -> int:
    """Steps of an accumulator line."""
    return -(-config.columns // config.vector_lanes)


def word_lines(config: ChipConfig) -> int:
    """Scratchpad lines of 32-bit words that hold a word per column."""
    return -(-4 * config.columns // config.line_bytes)


def half_lines(config: ChipConfig) -> int:
    """Scratchpad lines of BF16 numbers that hold one per column."""
    return -(-2 * config.columns // config.line_bytes)


def column_select(config: ChipConfig) -> int:
    """An accumulator line to a step of it: registered 4-to-1 multiplexers."""
    return max(1, -(-(steps(config) - 1).bit_length() // 2))


def block_quantizer(config: ChipConfig) -> int:
    """The last step of a scale block to the first step of its elements."""
    # A tree over the step's results finds their largest magnitude.
    tree = 1 + (min(config.vector_lanes, config.columns) - 1).bit_length()
    return tree + 1 + BLOCK_SCALE + 2 + FLOAT_TO_ELEMENT


def row_reducer(config: ChipConfig) -> int:
    """The last step of a row to its result: a tree over the step's values, and one value for all steps so far."""
    return 1 + (config.vector_lanes - 1).bit_length() + 1


def sum_levels(config: ChipConfig, iterations: int) -> int:
    """Levels of FP32 additions over the steps of a row of so many iterations: one at least, with -0 perhaps."""
    return max(1, (iterations * steps(config) - 1).bit_length())


def sum_tree(levels: int) -> int:
    """The last step's sum, at the first adder of steps, to the sum of a row."""
    # Of the second level, no pair of a row of three or four steps has to wait.
    return (FLOAT_ADD + 1) * levels + (levels > 1) + (SUM_WAIT if levels > 2 else 0)


def row_sums(config: ChipConfig, levels: int) -> int:
    """The last step of a row to its FP32 sum: a tree over the step's values, and the levels of all steps."""
    return 1 + FLOAT_ADD * (config.vector_lanes - 1).bit_length() + sum_tree(levels)


def row_top(config: ChipConfig) -> int:
    """The last step of a row to the first of its largest: a comparison for each of the step's values."""
    return config.vector_lanes + 3


def row_top_results(config: ChipConfig, top: int) -> int:
    """The first of a row's `top` largest to the last of their places: each goes to all steps of a line."""
    return (2 * top - 1) * steps(config)


def row_top_gap(config: ChipConfig, top: int) -> int:
    """A row's last read to the next one's first: until the last of its `top` largest is on its way."""
    return (READ_LATENCY + column_select(config) + LANE_RESULT + row_top(config) - 1 + row_top_results(config, top)
            + 1)


def vector_latency(config: ChipConfig) -> int:
    """The acceptance of a line's last read to its write."""
    return READ_LATENCY + column_select(config) + LANE_OUT + LINE_PACKER + 1


def dynamic_scale_latency(config: ChipConfig) -> int:
    """With dynamic scales: the acceptance of a pixel's last read to the write of its first line."""
    return (READ_LATENCY + column_select(config) + LANE_RESULT + block_quantizer(config) + steps(config) - 1
            + LINE_PACKER + 1)


def late_latency(config: ChipConfig, row: bool, function: bool, levels: int = 0, top: int = 0) -> int:
    """A row's last read, or with a function a step's, to the write of its last line.

    `levels` are those of an FP32 sum, `top` is how many of the largest are taken; 0 if the row is not for these.
    """
    latency = READ_LATENCY + column_select(config) + LANE_RESULT + 1 + LINE_PACKER + 1
    if top:
        latency += row_top(config) + row_top_results(config, top) + steps(config) - 1
    elif row:
        latency += (row_sums(config, levels) if levels else row_reducer(config)) + steps(config) - 1
    if function:
        latency += RESULT_FUNCTIONS + (1 if row else config.vector_lanes)
    return latency


# LOAD and STORE.

#: From the acceptance of a request for an index to the index.
INDEX_READ = READ_LATENCY + 2
#: Transfers that the memory side may be ahead of the scratchpad side.
TRANSFERS_AHEAD = 4
#: Lines between LOAD's realigner and its write port, and beats between STORE's and the bus: the realigner's depth,
#: and room to ride out a busy port or bus.
LINE_QUEUE = BEAT_QUEUE = 16
#: Words that the realigner holds, of its wider side.
REALIGNER_ROWS = 16
#: Cycles of a word into, and out of, the realigner besides turning it.
REALIGNER_IN = REALIGNER_OUT = 3


def turn_stages(size: int) -> int:
    """Pipeline stages that turn a word of `size` bytes: two bits of the turn in each."""
    return -(-(size - 1).bit_length() // 2)
