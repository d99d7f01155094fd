"""The MATMUL unit: issues weight rows and vectors to the array, and sees to it that sums do not collide."""

from amaranth import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from ..arith.delay import Delay, later
from ..config import READ_LATENCY, ChipConfig
from ..control.unit import UnitPort
from ..isa import Activity, ErrorCode, Unit
from ..memory.accumulator import Accumulator, accumulation
from ..memory.ports import LINE_ADDRESS, ReadPort
from .sequencers import Vector, VectorSequencer, WeightSequencer
from .systolic import SystolicArray

__all__ = ["MatmulUnit"]

#: Cycles from a line's arrival to the array's edge: a register, where decoders of other formats will be.
EDGE_LATENCY = 1


class MatmulUnit(wiring.Component):
    """Runs MATMUL instructions (:data:`kiwicha.isa.MATMUL`), several at a time.

    Weight rows and vectors are read through ports of one and the same latency, so what is accepted first is
    first at the array. Weights run one tile ahead of the vectors, across instructions too: with free ports a
    tile of M vectors takes max(M, rows) cycles, and nothing comes in between. A vector waits until its
    accumulator line has rested for :attr:`Accumulator.HAZARD` cycles.

    Errors come in the program's order, after everything before them has been issued: FIELD for a zero count;
    SCRATCHPAD_RANGE and ACCUMULATOR_RANGE at the first line that does not exist, a tile's weights before its
    vectors, and of a vector the line of A first.

    Parameters
    ----------
    config : ChipConfig
    sites : dict, optional
        Places of the multipliers, for :class:`SystolicArray`.

    Members
    -------
    control : Out(UnitPort)
        `retire` comes with the first cycle in which a read of the accumulators sees the last sum. BUSY counts
        vectors issued; PORT, what the scratchpad denied; OPERAND, waiting for a tile or an accumulator line.
    a, w : Out(ReadPort)
        Scratchpad lines. `w.request.valid` depends on `a.request.ready`: the next tile may come with the
        very vector that frees its place.
    acc : Out(accumulation(config))
        For :class:`Accumulator`.
    latency : int
        Cycles from the acceptance of a vector to its `acc`.
    """

    def __init__(self, config: ChipConfig, sites: dict | None = None):
        self.config = config
        self._array = SystolicArray(config, sites=sites)
        line = 8 * config.line_bytes
        super().__init__({
            "control": Out(UnitPort(Unit.MATMUL)),
            "a": Out(ReadPort(line)),
            "w": Out(ReadPort(line)),
            "acc": Out(accumulation(config)),
        })

    @property
    def latency(self) -> int:
        return READ_LATENCY + EDGE_LATENCY + self._array.latency

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = self._array
        m.submodules.vectors = vectors = VectorSequencer(self.config)
        m.submodules.weights = weights = WeightSequencer(self.config)
        #: The vector to be issued next, whether it is there (and can be), and a one for each cycle it must still
        #: wait. The request for its line goes all over the chip and so has but one LUT before it.
        self._vector = Signal(Vector, reset_less=True)
        self._vector_valid, self._vector_good, self._vector_ready = Signal(), Signal(), Signal()
        self._hold = Signal(Accumulator.HAZARD - 1)
        #: The array has a whole tile that no vector has used; it has room for the first row of another.
        self._loaded = Signal()
        self._free = Signal(init=1)
        self._issue, self._issue_row = Signal(), Signal()

        forked = self._fork(m, vectors, weights)
        self._issue_vectors(m, vectors)
        self._issue_weights(m, weights)
        self._feed(m, weights)
        self._collect(m)
        self._report(m, vectors, weights, forked)
        self._find_errors(m, weights)
        return m

    def _fork(self, m, vectors, weights):
        """Hand each instruction to both sequencers, to each when it likes; whether one has not got it yet."""
        control = self.control
        taken = []
        for name, sequencer in (("vectors", vectors), ("weights", weights)):
            done = Signal(name=f"{name}_done")
            m.d.comb += [
                sequencer.abort.eq(control.abort),
                sequencer.i.valid.eq(control.i.valid & ~done & ~control.abort),
                sequencer.i.payload.eq(control.i.payload),
            ]
            taken.append((done, done | sequencer.i.ready))
        # What comes during an abort is dropped.
        m.d.comb += control.i.ready.eq((taken[0][1] & taken[1][1]) | control.abort)
        for done, now in taken:
            m.d.sync += done.eq(control.i.valid & now & ~control.i.ready)
        return taken[0][0] | taken[1][0]

    def _issue_vectors(self, m, vectors):
        vector, coming = self._vector, vectors.o.p
        load = Signal()
        to_wait = self._cycles_to_wait(m, coming.acc)
        m.d.comb += [
            self.a.request.payload.eq(vector.line[:LINE_ADDRESS]),
            self.a.request.valid.eq(self._vector_ready & (~vector.swap | self._loaded)),
            self._issue.eq(self.a.request.valid & self.a.request.ready),
            load.eq(~self._vector_valid | self._issue),
            vectors.o.ready.eq(load),
        ]
        with m.If(load):
            m.d.sync += [vector.eq(coming), self._vector_valid.eq(vectors.o.valid), self._hold.eq(to_wait),
                         self._vector_good.eq(vectors.o.valid & ~coming.bad),
                         self._vector_ready.eq(vectors.o.valid & ~coming.bad & ~to_wait[0])]
        with m.Else():
            m.d.sync += [self._hold.eq(self._hold >> 1),
                         self._vector_ready.eq(self._vector_good & ~self._hold[1])]
        with m.If(self.control.abort):
            m.d.sync += [self._vector_valid.eq(0), self._vector_good.eq(0), self._vector_ready.eq(0)]

    def _cycles_to_wait(self, m, acc):
        """The hold bits of a vector to accumulator line `acc` that comes after the one now being issued.

        They are found a cycle ahead, which takes the comparators out of the request's way.
        """
        bits = (self.config.accumulator_lines - 1).bit_length()
        # Lines issued in this cycle (if any is, for only then does another come), the last, and so on.
        past = [(self._vector.acc[:bits], self._vector_valid)]
        issued = self._issue
        for age in range(1, Accumulator.HAZARD - 1):
            line = later(m, past[-1][0], f"line{age}")
            valid = Signal(name=f"line{age}_valid")
            m.d.sync += valid.eq(issued)
            past.append((line, valid))
            issued = valid
        return Cat(Cat(valid & (line == acc[:bits]) for line, valid in past[:Accumulator.HAZARD - 1 - cycle]).any()
                   for cycle in range(Accumulator.HAZARD - 1))

    def _issue_weights(self, m, weights):
        row = weights.o.p
        swap = Signal()
        m.d.comb += [
            swap.eq(self._issue & self._vector.swap),
            self.w.request.payload.eq(row.line[:LINE_ADDRESS]),
            self.w.request.valid.eq(weights.o.valid & ~row.no_line & (~row.first | self._free | swap)),
            self._issue_row.eq(self.w.request.valid & self.w.request.ready),
            weights.o.ready.eq(self._issue_row),
        ]
        with m.If(swap):
            m.d.sync += [self._loaded.eq(0), self._free.eq(1)]
        with m.If(self._issue_row & row.first):
            m.d.sync += self._free.eq(0)
        with m.If(self._issue_row & row.last):
            m.d.sync += self._loaded.eq(1)
        with m.If(self.control.abort):
            m.d.sync += [self._loaded.eq(0), self._free.eq(1)]

    def _feed(self, m, weights):
        """From the ports to the array's edge."""
        config, array = self.config, self._array
        a = Signal.like(array.a, name="edge_a")
        w = Signal.like(array.w, name="edge_w")
        swap = later(m, self._vector.swap, "swap", READ_LATENCY)
        row = later(m, weights.o.p.row, "row", READ_LATENCY)
        m.d.sync += [
            a.valid.eq(self.a.valid), a.swap.eq(swap),
            a.data.as_value().eq(self.a.data[:config.rows * config.operand_width]),
            w.valid.eq(self.w.valid), w.row.eq(row),
            w.data.as_value().eq(self.w.data[:config.columns * config.operand_width]),
        ]
        m.d.comb += [array.a.eq(a), array.w.eq(w)]

    def _collect(self, m):
        """From the array to the accumulators; each vector's address waits in a delay line of equal length."""
        tag = data.StructLayout({"address": LINE_ADDRESS, "add": 1, "last": 1})
        m.submodules.tags = tags = Delay(tag, self.latency)
        sent, back = self._vector, tags.o
        m.d.comb += [
            tags.i.address.eq(sent.acc[:LINE_ADDRESS]),
            tags.i.add.eq(sent.add),
            tags.i.last.eq(sent.last),
            self.acc.valid.eq(self._array.o.valid),
            self.acc.data.eq(self._array.o.data),
            self.acc.address.eq(back.address),
            self.acc.add.eq(back.add),
        ]
        retire = self.acc.valid & back.last
        for cycle in range(Accumulator.LATENCY):
            then = Signal(name=f"retire{cycle}")
            m.d.sync += then.eq(retire)
            retire = then
        m.d.comb += self.control.retire.eq(retire & ~self.control.abort)

    def _report(self, m, vectors, weights, forked):
        """Whether and why this cycle is busy or not."""
        control = self.control
        whole = self.latency + Accumulator.LATENCY
        under_way = Signal(range(whole + 1))        # cycles until the pipeline is empty
        with m.If(self._issue | self._issue_row):
            m.d.sync += under_way.eq(whole)
        with m.Elif(under_way != 0):
            m.d.sync += under_way.eq(under_way - 1)
        waiting = vectors.busy | self._vector_valid | weights.busy | forked
        denied = Cat(port.request.valid & ~port.request.ready for port in (self.a, self.w)).any()
        needs_tile = self._vector.swap & ~self._loaded
        m.d.comb += [
            control.progress.eq(self._issue | self._issue_row),
            control.quiet.eq(~waiting & (under_way == 0)),
        ]
        with m.If(control.quiet):
            m.d.comb += control.activity.eq(Activity.IDLE)
        with m.Elif(self._issue):
            m.d.comb += control.activity.eq(Activity.BUSY)
        # With no tile there is no request for A; then it is the weights' port that matters.
        with m.Elif(denied & (~self._vector_valid | needs_tile | self.a.request.valid)):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Elif(waiting):
            m.d.comb += control.activity.eq(Activity.OPERAND)
        with m.Else():
            m.d.comb += control.activity.eq(Activity.DRAIN)

    def _find_errors(self, m, weights):
        """Raise the error of the vector whose turn it is; it stays where it is and so stops everything."""
        error, vector, row = self.control.error, self._vector, weights.o.p
        needs_tile = vector.swap & ~self._loaded
        report = Signal.like(error, name="report")
        m.d.comb += error.eq(report)
        found = [
            (vector.no_count, ErrorCode.FIELD, 0),
            (needs_tile & weights.o.valid & row.no_line, ErrorCode.SCRATCHPAD_RANGE, row.line),
            (~needs_tile & vector.no_line, ErrorCode.SCRATCHPAD_RANGE, vector.line),
            (~needs_tile & vector.no_acc, ErrorCode.ACCUMULATOR_RANGE, vector.acc),
        ]
        with m.If(self.control.abort):
            m.d.sync += report.valid.eq(0)
        with m.Elif(self._vector_valid & ~report.valid):
            for condition, code, address in reversed(found):
                with m.If(condition):
                    m.d.sync += [report.valid.eq(1), report.code.eq(code), report.index.eq(vector.index),
                                 report.address.eq(address)]
