"""LOAD: memory to scratchpad."""

from amaranth import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..bus.axi import AxiRead
from ..config import ChipConfig
from ..control.unit import UnitPort, Window
from ..isa import Activity, Unit
from ..memory.ports import WritePort
from .index import IndexPort
from .load_path import BurstReader, LineWriter, SegmentTaker, line_tag
from .plan import TransferPlan
from .realigner import Realigner
from .transfer import OpenInstructions

__all__ = ["LoadUnit"]


class LoadUnit(wiring.Component):
    """Runs LOAD instructions (:data:`kiwicha.isa.LOAD`), in order.

    The memory side reads as far ahead as `reads_in_flight` bursts and a queue of 16 lines' bytes allow, over rows,
    planes and instructions; the scratchpad side cuts the bytes into lines. A line and a beat per cycle, a burst
    every 2 cycles. About 20 cycles from an instruction to its first line, plus the memory's latency.

    Errors come when everything before them is written and nothing is left on the bus, and are those that a byte by
    byte execution would find first; a segment is read from memory before its line is checked. FIELD; of an index
    SCRATCHPAD_RANGE: its line, and INDEX: the index;
    WINDOW: the first byte outside; BUS_READ: the burst's first byte; SCRATCHPAD_RANGE: the line.
    Bursts asked for are awaited and dropped after an error and on abort; one more may be asked for a cycle later.

    Members
    -------
    control : Out(UnitPort(Unit.LOAD))
    window : In(Window)
    bus : Out(AxiRead)
    write : Out(WritePort)
    index : Out(IndexPort)
        In a chip with `indices`.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "control": Out(UnitPort(Unit.LOAD)),
            "window": In(Window(config)),
            "bus": Out(AxiRead(config)),
            "write": Out(WritePort(8 * config.line_bytes)),
            **({"index": Out(IndexPort(config))} if config.indices else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config, control = self.config, self.control
        # Registered: it resets every queue of the unit, and control's `abort` goes to four units.
        abort = Signal()
        m.d.sync += abort.eq(control.abort)
        m.submodules.plan = plan = TransferPlan(config, Unit.LOAD)
        m.submodules.reader = reader = BurstReader(config)
        # What was taken before an error still has to come out of the realigner: it is emptied only afterwards.
        m.submodules.bytes = realigner = ResetInserter(abort | control.error.valid)(
            Realigner(config.bus_bytes, config.line_bytes, line_tag()))
        m.submodules.taker = taker = SegmentTaker(config, realigner.push_latency)
        m.submodules.writer = writer = LineWriter(config)
        m.submodules.open = opened = OpenInstructions()
        drop = Signal()
        connect(m, flipped(control.i), plan.i)
        connect(m, plan.bursts, reader.bursts)
        connect(m, reader.bus, flipped(self.bus))
        connect(m, reader.bytes, realigner.sink)
        connect(m, plan.segments, taker.segments)
        connect(m, taker.bytes, realigner.source)
        connect(m, writer.write, flipped(self.write))
        request = self.write.request
        m.d.comb += [
            drop.eq(taker.failing | abort),
            plan.clear.eq(drop), reader.drop.eq(drop), taker.abort.eq(abort), writer.abort.eq(abort),
            plan.window.eq(self.window),
            reader.fail_address.eq(plan.fail_address),
            taker.stop_index.eq(plan.stop_index),
            taker.memory_error.eq(reader.error),
            taker.bus_idle.eq(reader.idle),
            taker.written.eq(request.valid & request.ready),
            writer.valid.eq(realigner.o_valid),
            writer.i.eq(realigner.o),
            opened.came.eq(control.i.valid & control.i.ready),
            opened.retire.eq(writer.retire),
            opened.clear.eq(abort | control.error.valid),
            control.retire.eq(writer.retire),
            control.error.eq(taker.error),
        ]
        # With an index under way, and nothing else.
        indexing = None
        if config.indices:
            connect(m, plan.index, flipped(self.index))
            indexing = plan.indexing & reader.idle
            m.d.comb += [control.quiet.eq(reader.idle & opened.none & ~plan.index_comes),
                         taker.wrong_index.eq(plan.wrong_index)]
        else:
            m.d.comb += control.quiet.eq(reader.idle & opened.none)
        self._report(m, indexing)
        return m

    def _report(self, m, indexing):
        control, ar, r, request = self.control, self.bus.ar, self.bus.r, self.write.request
        # Registered: it hangs on `ready` of bus and port, and control ORs it with those of all units.
        m.d.sync += control.progress.eq((ar.valid & ar.ready) | (r.valid & r.ready)
                                        | (request.valid & request.ready))
        with m.If(control.quiet):
            m.d.comb += control.activity.eq(Activity.IDLE)
        with m.Elif(request.valid & request.ready):
            m.d.comb += control.activity.eq(Activity.BUSY)
        with m.Elif(request.valid):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Else():
            waits = Activity.MEMORY if indexing is None else Mux(indexing, Activity.OPERAND, Activity.MEMORY)
            m.d.comb += control.activity.eq(waits)
