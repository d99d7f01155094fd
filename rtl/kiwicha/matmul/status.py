"""What the MATMUL unit tells control: what each cycle is spent on, and the first error."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..control.unit import ErrorReport
from ..isa import Activity, ErrorCode
from ..timing import accumulator_latency, array_latency
from .edge import edge_latency
from .items import Vector, WeightRow

__all__ = ["ErrorFinder", "Status"]


class Status(wiring.Component):
    """Whether and why a cycle is busy or not. Latency: none.

    Members
    -------
    vector_issued, row_issued : In(1)
        A vector (a row) is requested in this cycle.
    waiting : In(1)
        Something is still to be requested.
    denied : In(1)
        The port that the next vector depends on refuses a request.
    quiet : Out(1)
        Nothing waits, and the last sum has come to the accumulators.
    activity : Out(Activity)
        BUSY with a vector, else PORT if denied, OPERAND if waiting, DRAIN until `quiet`.
    progress : Out(1)
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "vector_issued": In(1), "row_issued": In(1), "waiting": In(1), "denied": In(1),
            "quiet": Out(1), "activity": Out(Activity), "progress": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        whole = edge_latency(config) + array_latency(config) + accumulator_latency(config)
        under_way = Signal(range(whole + 1))        # cycles until the pipeline is empty
        m.d.comb += [
            self.progress.eq(self.vector_issued | self.row_issued),
            self.quiet.eq(~self.waiting & (under_way == 0)),
        ]
        with m.If(self.progress):
            m.d.sync += under_way.eq(whole)
        with m.Elif(under_way != 0):
            m.d.sync += under_way.eq(under_way - 1)
        with m.If(self.quiet):
            m.d.comb += self.activity.eq(Activity.IDLE)
        with m.Elif(self.vector_issued):
            m.d.comb += self.activity.eq(Activity.BUSY)
        with m.Elif(self.denied):
            m.d.comb += self.activity.eq(Activity.PORT)
        with m.Elif(self.waiting):
            m.d.comb += self.activity.eq(Activity.OPERAND)
        with m.Else():
            m.d.comb += self.activity.eq(Activity.DRAIN)
        return m


class ErrorFinder(wiring.Component):
    """The error of the vector whose turn it is; that vector stays where it is and so stops everything.

    Latency: one cycle from the vector, or the row that it waits for, to `error`.

    Members
    -------
    vector_valid : In(1), vector : In(Vector)
        The vector to be issued next.
    needs_weights : In(1)
        It is the first of a weight tile that is not loaded: the weight tile's lines come before its own.
    row_valid : In(1), row : In(WeightRow)
        The row to be issued next.
    abort : In(1)
        Forget the error.
    error : Out(ErrorReport)
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "vector_valid": In(1), "vector": In(Vector(config)), "needs_weights": In(1),
            "row_valid": In(1), "row": In(WeightRow(config)), "abort": In(1), "error": Out(ErrorReport),
        })

    def elaborate(self, platform):
        m = Module()
        vector, row, needs_weights, error = self.vector, self.row, self.needs_weights, self.error
        # In order: what comes first wins.
        found = [
            (vector.no_field, ErrorCode.FIELD, vector.value),
            (needs_weights & self.row_valid & row.no_line, ErrorCode.SCRATCHPAD_RANGE, row.line),
            (~needs_weights & vector.no_line, ErrorCode.SCRATCHPAD_RANGE, vector.line),
            *([(~needs_weights & vector.fetch & vector.no_scale, ErrorCode.SCRATCHPAD_RANGE, vector.scale_line)]
              if self.config.block_scaled else []),
            (~needs_weights & vector.no_acc, ErrorCode.ACCUMULATOR_RANGE, vector.acc),
        ]
        with m.If(self.abort):
            m.d.sync += error.valid.eq(0)
        with m.Elif(self.vector_valid & ~error.valid):
            for condition, code, address in reversed(found):
                with m.If(condition):
                    m.d.sync += [error.valid.eq(1), error.code.eq(code), error.index.eq(vector.index),
                                 error.address.eq(address)]
        return m
