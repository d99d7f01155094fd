"""STORE: scratchpad to memory."""

from amaranth import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..bus.axi import AxiWrite, is_error
from ..config import ChipConfig
from ..control.unit import UnitPort, Window
from ..isa import Activity, Unit
from ..memory.ports import ReadPort
from .index import IndexPort
from .plan import TransferPlan
from .realigner import Realigner
from .store_judge import Judge
from .store_path import BeatPlanner, BeatWriter, BurstAnnouncer, LineReader, beat_tag
from .transfer import OpenInstructions

__all__ = ["StoreUnit"]


class StoreUnit(wiring.Component):
    """Runs STORE instructions (:data:`kiwicha.isa.STORE`), in order.

    Lines are read ahead into a queue of bytes; bursts are announced ahead, up to `writes_in_flight`; a beat leaves
    per cycle. Neither AW nor W waits for the other to be accepted, and a beat is never valid before its burst's
    address has been. About 25 cycles from an instruction to its first beat.

    Errors come when every burst has been answered, and are those that a byte by byte execution would find first;
    a segment's line is checked before its bytes are written. FIELD; of an index SCRATCHPAD_RANGE: its line, and
    INDEX: the index; WINDOW: the first byte outside;
    BUS_WRITE: the burst's first byte; SCRATCHPAD_RANGE: the line. After an error and on abort, bursts begun or
    announced are finished with no byte enabled (three beats already on their way excepted) and awaited.

    Members
    -------
    control : Out(UnitPort(Unit.STORE))
    window : In(Window)
    bus : Out(AxiWrite)
    read : Out(ReadPort)
    index : Out(IndexPort)
        In a chip with `indices`.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "control": Out(UnitPort(Unit.STORE)),
            "window": In(Window(config)),
            "bus": Out(AxiWrite(config)),
            "read": Out(ReadPort(8 * config.line_bytes)),
            **({"index": Out(IndexPort(config))} if config.indices else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config, control = self.config, self.control
        # Registered: it resets every queue of the unit, and control's `abort` goes to four units.
        abort = Signal()
        m.d.sync += abort.eq(control.abort)
        flush = Signal()        # only finish what the bus has begun
        # The realigner also carries the strobeless beats of a flush: it is emptied after that. A burst may still
        # be announced in a flush's first cycle.
        empty, flushed = Signal(), Signal()
        m.submodules.plan = plan = TransferPlan(config, Unit.STORE)
        m.submodules.bytes = realigner = ResetInserter(empty)(
            Realigner(config.line_bytes, config.bus_bytes, beat_tag()))
        m.submodules.reader = reader = LineReader(config, realigner.push_latency)
        m.submodules.announcer = announcer = BurstAnnouncer(config)
        m.submodules.planner = planner = BeatPlanner(config)
        m.submodules.writer = writer = BeatWriter(config)
        m.submodules.judge = judge = Judge(config)
        m.submodules.open = opened = OpenInstructions()
        m.d.sync += flushed.eq(flush)
        connect(m, flipped(control.i), plan.i)
        connect(m, plan.segments, reader.segments)
        connect(m, reader.read, flipped(self.read))
        connect(m, reader.bytes, realigner.sink)
        connect(m, plan.bursts, announcer.bursts)
        connect(m, announcer.plans, planner.plans)
        connect(m, planner.o, writer.beats)
        connect(m, writer.bytes, realigner.source)
        connect(m, announcer.aw, flipped(self.bus.aw))
        connect(m, writer.w, flipped(self.bus.w))
        connect(m, flipped(self.bus.b), announcer.b)
        m.d.comb += [
            flush.eq(judge.failing | abort),
            empty.eq(flush & flushed & announcer.idle),
            plan.clear.eq(flush), plan.window.eq(self.window),
            reader.failing.eq(judge.failing), reader.flush.eq(flush),
            announcer.clear.eq(empty), planner.clear.eq(empty), writer.clear.eq(empty),
            writer.flush.eq(flush),
            # Not in a flush after an error that comes later in the program: this beat's burst may yet retire.
            writer.mute.eq(judge.mute | abort),
            writer.word_valid.eq(realigner.o_valid), writer.word.eq(realigner.o),
            opened.came.eq(control.i.valid & control.i.ready), opened.retire.eq(judge.retire),
            opened.clear.eq(abort | control.error.valid),
        ]
        self._judge(m, judge, plan, reader, announcer, writer)
        m.d.comb += [
            judge.abort.eq(abort),
            control.retire.eq(judge.retire),
        ]
        # Registered once more: who chooses among a hundred bits is at memory's end, who reads them at control's.
        m.d.sync += control.error.eq(judge.error)
        # A line, or an index, that is asked for when an abort begins comes later.
        reading, indexing = reader.reading, None
        if config.indices:
            connect(m, plan.index, flipped(self.index))
            reading, indexing = reader.reading | plan.index_comes, plan.indexing & announcer.idle
            m.d.comb += judge.wrong_index.eq(plan.wrong_index)
        m.d.comb += control.quiet.eq(announcer.idle & opened.none & ~reading)
        self._report(m, reader, indexing)
        return m

    def _judge(self, m, judge, plan, reader, announcer, writer):
        m.d.comb += [
            judge.b_valid.eq(self.bus.b.valid), judge.b_error.eq(is_error(self.bus.b.payload.resp)),
            judge.answer.eq(announcer.answer), judge.bus_idle.eq(announcer.idle),
            judge.sent.eq(writer.sent),
            judge.beat_valid.eq(writer.beat_valid), judge.beat_fail.eq(writer.beat_fail),
            judge.enough.eq(writer.bytes.enough),
            judge.burst_index.eq(plan.bursts.payload.index), judge.fail_address.eq(plan.fail_address),
            judge.fault.eq(reader.fault),
            judge.segment.eq(reader.segment), judge.stop_index.eq(plan.stop_index),
        ]

    def _report(self, m, reader, indexing):
        control, aw, w, b = self.control, self.bus.aw, self.bus.w, self.bus.b
        # Registered: it hangs on the bus's `ready`, and control ORs it with those of all units.
        m.d.sync += control.progress.eq((aw.valid & aw.ready) | (w.valid & w.ready) | b.valid | reader.taken)
        with m.If(control.quiet):
            m.d.comb += control.activity.eq(Activity.IDLE)
        with m.Elif(w.valid):
            m.d.comb += control.activity.eq(Mux(w.ready, Activity.BUSY, Activity.MEMORY))
        with m.Elif(reader.denied):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Else():
            waits = Activity.MEMORY if indexing is None else Mux(indexing, Activity.OPERAND, Activity.MEMORY)
            m.d.comb += control.activity.eq(waits)
