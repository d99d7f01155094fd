"""LOAD: memory to scratchpad."""

from amaranth import Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from ..bus.axi import AxiRead, ReadId, is_error
from ..config import ChipConfig
from ..control.unit import UnitPort, Window
from ..isa import INDEX_WIDTH, Activity, ErrorCode, Unit
from ..lib.stream import Queue, RegisterSlice
from ..memory.ports import LINE_ADDRESS, WritePort
from .bursts import BurstGenerator, burst_layout
from .realigner import Realigner, Settled
from .segments import SegmentGenerator, segment_layout
from .transfer import Transfer, segment_job

__all__ = ["LoadUnit"]

#: Lines between the realigner and the write port: its pipeline's depth, and room to ride out denials.
LINE_QUEUE = 16
#: Instructions that the memory side may be ahead of the scratchpad side.
JOB_QUEUE = 4


class LoadUnit(wiring.Component):
    """Runs LOAD instructions (:data:`kiwicha.isa.LOAD`), in order.

    The memory side reads as far ahead as `reads_in_flight` bursts and a queue of 16 lines' bytes allow, over rows,
    planes and instructions; the scratchpad side cuts the bytes into lines. A line and a beat per cycle, a burst
    every 2 cycles. About 20 cycles from an instruction to its first line, plus the memory's latency.

    Errors come when everything before them is written and nothing is left on the bus, and are those that a byte by
    byte execution would find first; a segment is read from memory before its line is checked. FIELD;
    WINDOW: the first byte outside; BUS_READ: the burst's first byte; SCRATCHPAD_RANGE: the line.
    Bursts asked for are awaited and dropped after an error and on abort, and no more are asked for.

    Members
    -------
    control : Out(UnitPort(Unit.LOAD))
    window : In(Window)
    bus : Out(AxiRead)
    write : Out(WritePort)
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "control": Out(UnitPort(Unit.LOAD)),
            "window": In(Window(config)),
            "bus": Out(AxiRead(config)),
            "write": Out(WritePort(8 * config.line_bytes)),
        })

    def elaborate(self, platform):
        m = Module()
        failing = Signal()      # an error has been found; it is reported when the unit is empty
        poisoned = Signal()     # the memory side has ended in an error; bytes before it are still good
        drop = Signal()
        stop = Signal()
        # A register of its own: control is far away, and much hangs on it.
        self._abort = Signal()
        m.d.sync += self._abort.eq(self.control.abort)
        m.d.comb += [drop.eq(failing | self._abort), stop.eq(drop | poisoned)]
        flying = Signal(range(self.config.reads_in_flight + 2))
        cause = Signal(data.StructLayout({"code": ErrorCode, "index": INDEX_WIDTH, "address": 64}),
                       reset_less=True)
        jobs, came = Signal(range(128)), Signal()

        m.submodules.transfer = transfer = ResetInserter(drop)(Transfer(self.config, Unit.LOAD))
        m.submodules.bursts = bursts = ResetInserter(drop)(BurstGenerator(self.config))
        m.submodules.jobs = job_queue = ResetInserter(drop)(Queue(segment_job(), JOB_QUEUE))
        m.submodules.segment_generator = segment_generator = ResetInserter(drop)(SegmentGenerator(self.config))
        m.submodules.segments = segments = ResetInserter(drop)(RegisterSlice(segment_layout(self.config)))
        connect(m, transfer.runs, bursts.i)
        connect(m, transfer.segments, job_queue.i)
        connect(m, job_queue.o, segment_generator.i)
        connect(m, segment_generator.o, segments.i)
        m.d.comb += [
            transfer.i.payload.eq(self.control.i.payload),
            transfer.i.valid.eq(self.control.i.valid & ~drop),
            self.control.i.ready.eq(transfer.i.ready & ~drop),
            bursts.window.eq(self.window),
        ]
        tag = data.StructLayout({"line": LINE_ADDRESS, "fill": 8, "last": 1})
        # What was taken before an error still has to come out of the realigner: it is emptied only afterwards.
        m.submodules.bytes = queue = ResetInserter(self._abort | self.control.error.valid)(
            Realigner(self.config.bus_bytes, self.config.line_bytes, tag))
        self._receive(m, bursts, queue, stop, drop, poisoned, flying, cause)
        pending = self._pop(m, segments, segment_generator.stop_index, queue, drop, poisoned, failing, cause)
        self._write(m, queue, jobs, came)
        self._report(m, failing, flying, jobs, came, pending)
        return m

    def _receive(self, m, bursts, queue, stop, drop, poisoned, flying, cause):
        """Bursts out, beats in; what is known of a burst waits in `expected` for its beats."""
        m.submodules.expected = expected = ResetInserter(drop)(
            Queue(burst_layout(self.config), self.config.reads_in_flight))
        ar, r = self.bus.ar, self.bus.r
        # One cycle late, which is fine: a burst leaves at most every 2 cycles.
        room = Signal()
        issue = Signal()
        m.d.sync += room.eq((flying < self.config.reads_in_flight) & expected.i.ready & ~stop)
        # One register, refilled only when empty: after an error nothing new may appear on the channel.
        m.d.comb += [
            bursts.o.ready.eq(~ar.valid & room),
            issue.eq(bursts.o.valid & bursts.o.ready & ~bursts.o.payload.fail & ~stop),
            expected.i.valid.eq(bursts.o.valid & bursts.o.ready & ~stop),
            expected.i.payload.eq(bursts.o.payload),
            ar.payload.id.eq(ReadId.LOAD),
        ]
        low = (self.config.bus_bytes - 1).bit_length()
        with m.If(issue):
            m.d.sync += [
                ar.valid.eq(1),
                ar.payload.address.eq(bursts.o.payload.address & -(1 << low)),
                ar.payload.length.eq(bursts.o.payload.length),
            ]
        with m.Elif(ar.ready):
            m.d.sync += ar.valid.eq(0)

        burst = expected.o.payload
        beat = Signal()
        started = Signal()      # the burst's first beat has come
        wrong = is_error(r.payload.resp)
        moved, wanted = Signal(), Signal()
        m.d.comb += [
            wanted.eq(queue.room & expected.o.valid & ~burst.fail),
            r.ready.eq(stop | wanted),
            moved.eq(r.valid & r.ready),
            beat.eq(r.valid & wanted & ~stop),
            expected.o.ready.eq(beat & r.payload.last),
            queue.push.data.eq(r.payload.data),
            queue.push.first.eq(Mux(started, 0, burst.address[:low])),
            queue.push.last.eq(Mux(r.payload.last, burst.end, -1)),
            queue.push_valid.eq(beat & ~wrong),
            queue.reserve.eq(beat & ~wrong),
            queue.reserve_count.eq(queue.push.last - queue.push.first + 1),
        ]
        m.d.sync += flying.eq(flying + issue - (moved & r.payload.last))
        with m.If(drop):
            m.d.sync += [started.eq(0), poisoned.eq(0)]
        with m.Elif(beat):
            m.d.sync += started.eq(~r.payload.last)
            with m.If(wrong):
                m.d.sync += poisoned.eq(1)
        with m.Elif(expected.o.valid & burst.fail & ~stop):
            m.d.sync += poisoned.eq(1)
        # What would be the cause, until there is one.
        with m.If(~poisoned):
            m.d.sync += [
                cause.index.eq(burst.index),
                cause.code.eq(Mux(burst.fail, ErrorCode.WINDOW, ErrorCode.BUS_READ)),
                cause.address.eq(Mux(burst.fail, bursts.fail_address, burst.address)),
            ]

    def _pop(self, m, ahead, stop_index, queue, drop, poisoned, failing, cause):
        """Takes each segment's bytes once they have come; finds the first error; returns lines on their way."""
        segments, segment = ahead.o, ahead.o.payload
        error = self.control.error
        pending = Signal(range(LINE_QUEUE + 1))
        # The scratchpad is ready late in a cycle: a place is free one cycle late, and `room` is another one late.
        written, room = Signal(), Signal()
        m.submodules.settled = settled = Settled(queue.push_latency)
        m.d.comb += [
            settled.i.eq(poisoned),
            queue.claim.eq(Mux(ahead.renews, ahead.following.count, 0)),
            queue.want.eq(segment.count),
            queue.first.eq(0),
            queue.tag.line.eq(segment.line),
            queue.tag.fill.eq(segment.fill),
            queue.tag.last.eq(segment.last),
            queue.take.eq(segments.valid & queue.enough & room & ~segment.stop & ~drop),
            segments.ready.eq(queue.take),
        ]
        m.d.sync += [
            written.eq(self.write.request.valid & self.write.request.ready),
            pending.eq(pending + queue.take - written),
            room.eq(pending < LINE_QUEUE - 1),
        ]
        with m.If(self._abort):
            m.d.sync += [pending.eq(0), failing.eq(0)]
        with m.Elif(segments.valid & ~failing):
            m.d.sync += failing.eq(Mux(queue.enough, segment.stop, settled.o))
        # What would be the error, until a cycle after there is one: the segment and the cause are still there.
        enough, told = Signal(), Signal()
        m.d.sync += [enough.eq(queue.enough), told.eq(failing)]
        with m.If(~told):
            m.d.sync += [
                error.index.eq(Mux(enough, stop_index, cause.index)),
                error.code.eq(Mux(enough, Mux(segment.bad, ErrorCode.FIELD, ErrorCode.SCRATCHPAD_RANGE),
                                  cause.code)),
                error.address.eq(Mux(enough, segment.line, cause.address)),
            ]
        return pending

    def _write(self, m, queue, jobs, came):
        """Lines to the scratchpad; they outlive `drop`, for what was before an error is written."""
        layout = data.StructLayout({"line": self.write.request.payload.shape(), "last": 1})
        m.submodules.lines = lines = ResetInserter(self._abort)(Queue(layout, LINE_QUEUE))
        for i in range(self.config.line_bytes):
            m.d.comb += lines.i.payload.line.data[8 * i:8 * i + 8].eq(
                Mux(queue.o.mask[i], queue.o.data[i], queue.o.tag.fill))
        m.d.comb += [
            lines.i.payload.line.address.eq(queue.o.tag.line),
            lines.i.payload.last.eq(queue.o.tag.last),
            lines.i.valid.eq(queue.o_valid),
            self.write.request.payload.eq(lines.o.payload.line),
            self.write.request.valid.eq(lines.o.valid),
            lines.o.ready.eq(self.write.request.ready),
        ]
        done = lines.o.valid & lines.o.ready & lines.o.payload.last & ~self._abort
        m.d.sync += [came.eq(self.control.i.valid & self.control.i.ready), self.control.retire.eq(done)]
        with m.If(self._abort | self.control.error.valid):
            m.d.sync += jobs.eq(0)
        with m.Else():
            m.d.sync += jobs.eq(jobs + came - self.control.retire)

    def _report(self, m, failing, flying, jobs, came, pending):
        control, ar, r, request = self.control, self.bus.ar, self.bus.r, self.write.request
        idle_bus = (flying == 0) & ~ar.valid
        with m.If(self._abort):
            m.d.sync += control.error.valid.eq(0)
        with m.Elif(failing & idle_bus & (pending == 0)):
            m.d.sync += control.error.valid.eq(1)
        m.d.comb += control.quiet.eq(idle_bus & (jobs == 0) & ~came)
        # A register, for control is far away.
        m.d.sync += control.progress.eq((ar.valid & ar.ready) | (r.valid & r.ready)
                                        | (request.valid & request.ready))
        with m.If(control.quiet):
            m.d.comb += control.activity.eq(Activity.IDLE)
        with m.Elif(request.valid & request.ready):
            m.d.comb += control.activity.eq(Activity.BUSY)
        with m.Elif(request.valid):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Else():
            m.d.comb += control.activity.eq(Activity.MEMORY)
