"""Results that are not a lane's alone: those of rows, and those that a function is taken of."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.order import total_order
from ..config import ChipConfig
from ..isa import TOP_MOST, ResultFunction
from ..lib.delay import delay
from .result_functions import ResultFunctions, RowWriter
from .row_reducer import RowReducer
from .row_sums import RowSums
from .row_top import RowTop
from .shapes import Geometry, settings_layout

__all__ = ["LateResults"]

#: Steps and rows that are here at most: fewer than its latency in cycles.
_MAX_OPEN = 64


class LateResults(wiring.Component):
    """From a step's results to the words that are written instead.

    Of a row, once per row, or of its largest, for each of these, the same in all columns; else of each step, with
    its function. From the last step of a row, or from a step, to the first words the latency of
    :class:`.RowReducer`, :class:`.RowSums` or :class:`.RowTop`, that of :class:`.ResultFunctions` and 1 cycle
    pass, of which those that there is no need for do not count. A row or not, a function or none, FP32 sums of so
    many levels, the largest or the maximum alone: the choice may change only while it is `idle`.

    Members
    -------
    valid : In(1)
        A step's results are here.
    key : In(array of signed(32)), word : In(array of 32)
        They, as integers that compare, and as they are.
    step : In
        Its number: results of columns that do not exist do not count.
    tail : In(1), limit : In
        With `tail`, only the first `limit` columns count.
    begins, ends, sum : In(1)
        As :class:`.RowReducer` has them.
    levels : In
        Not 0: an FP32 sum, of so many levels, as :class:`.RowSums` has them. Only in a chip with FP32 sums.
    top : In, room : In(1), free : Out(1)
        As :class:`.RowTop` has them; 0 for other results. Only in a chip with `top_k`.
    integer : In(1)
        They are INT32, not FP32.
    row : In(1), function : In(ResultFunction)
        What to make of them.
    o_valid : Out(1), o : Out(array of 32), o_step : Out
        Words for a step.
    idle : Out(1)
        Nothing is here but a row that has not ended, none of it in an adder, and the last words have been here two
        cycles ago.
    """

    def __init__(self, config: ChipConfig):
        self._config, geometry = config, Geometry.of(config)
        lanes = geometry.lanes
        super().__init__({
            "valid": In(1), "key": In(data.ArrayLayout(signed(32), lanes)),
            "word": In(data.ArrayLayout(32, lanes)),
            "step": In(geometry.step_width), "begins": In(1), "ends": In(1), "tail": In(1), "sum": In(1),
            "limit": In(range(geometry.columns + 1)), "integer": In(1), "row": In(1),
            "function": In(ResultFunction),
            "o_valid": Out(1), "o": Out(data.ArrayLayout(32, lanes)), "o_step": Out(geometry.step_width),
            "idle": Out(1),
            **({"levels": In(settings_layout(config)["levels"].shape)} if config.float_row_sums else {}),
            **({"top": In(range(TOP_MOST + 1)), "room": In(1), "free": Out(1)} if config.top_k else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.reducer = reducer = RowReducer(self._config)
        m.submodules.functions = functions = ResultFunctions(self._config)
        m.submodules.writer = writer = RowWriter(self._config)
        row, counts = self.valid & self.row, self._counts()
        is_sum = self.levels != 0 if self._config.float_row_sums else Const(0, 1)
        others = is_sum | (self.top != 0) if self._config.top_k else is_sum
        m.d.comb += [
            reducer.valid.eq(row & ~others), reducer.value.eq(self.key), reducer.counts.eq(counts),
            *(getattr(reducer, name).eq(getattr(self, name)) for name in ("begins", "ends", "sum")),
            self.o_valid.eq(writer.o_valid), self.o.eq(writer.o), self.o_step.eq(writer.o_step),
        ]
        # A row's result has the function that came with its steps.
        row_function, is_integer = (delay(m, value, name, reducer.latency) for value, name in
                                    ((self.function, "row_function"), (self.integer, "row_is_integer")))
        row_word = Mux(is_integer, reducer.o.as_unsigned(), total_order(reducer.o))
        row_valid, moving = reducer.o_valid, Const(0, 1)
        if self._config.float_row_sums:
            sums = self._sums(m, row & is_sum, counts)
            row_valid, moving = row_valid | sums.o_valid, sums.moving
            row_word = Mux(sums.o_valid, sums.o, row_word)
            row_function = Mux(sums.o_valid, sums.o_function, row_function)
        ends = self.ends
        if self._config.top_k:
            top = self._top(m, row, counts)
            row_valid, moving = row_valid | top.o_valid, moving | top.busy
            row_word = Mux(top.o_valid, top.o, row_word)
            row_function = Mux(top.o_valid, ResultFunction.NONE, row_function)
            # Each of its results is a row's, as it were.
            ends = ends & (self.top == 0)
        takes, row_takes = self.function != ResultFunction.NONE, row_function != ResultFunction.NONE
        m.d.comb += [
            functions.valid.eq(Mux(row_valid, row_takes, self.valid & ~self.row & takes)),
            functions.single.eq(row_valid), functions.step.eq(self.step),
            functions.function.eq(Mux(row_valid, row_function, self.function)),
            functions.word.eq(self.word), functions.word[0].eq(Mux(row_valid, row_word, self.word[0])),
            writer.valid.eq(functions.o_valid | (row_valid & ~row_takes)),
            writer.row.eq(functions.o_single | ~functions.o_valid), writer.step.eq(functions.o_step),
            *(word.eq(Mux(functions.o_valid, own, row_word))
              for word, own in zip(writer.word, functions.o, strict=True)),
        ]
        under_way = Signal(range(_MAX_OPEN))
        begun, ended = self.valid & Mux(self.row, ends, takes), Signal()
        if self._config.top_k:
            begun = begun | top.o_valid
        # By then the line is where it is seen.
        m.d.sync += [ended.eq(writer.ends), under_way.eq(under_way + begun - ended)]
        m.d.comb += self.idle.eq((under_way == 0) & ~moving)
        return m

    def _counts(self):
        """Which of a step's results count for its row."""
        lanes, columns = self._config.vector_lanes, self._config.columns
        limit, lane_bits = Mux(self.tail, self.limit, columns), (lanes - 1).bit_length()
        return Cat(Cat(Const(lane, lane_bits), self.step) < limit for lane in range(lanes))

    def _top(self, m, row, counts):
        """Where rows go of which the largest are taken."""
        m.submodules.top = top = RowTop(self._config)
        m.d.comb += [
            top.valid.eq(row & (self.top != 0)), top.key.eq(self.key), top.counts.eq(counts),
            *(getattr(top, name).eq(getattr(self, name)) for name in ("begins", "ends", "top", "room")),
            self.free.eq(top.free),
        ]
        return top

    def _sums(self, m, valid, counts):
        """Where rows go whose FP32 sum is taken."""
        m.submodules.sums = sums = RowSums(self._config)
        m.d.comb += [
            sums.valid.eq(valid), sums.value.eq(self.word), sums.counts.eq(counts),
            *(getattr(sums, name).eq(getattr(self, name)) for name in ("begins", "ends", "levels", "function")),
        ]
        return sums
