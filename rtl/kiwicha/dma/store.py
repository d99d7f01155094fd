"""STORE: scratchpad to memory."""

from itertools import pairwise

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..bus.axi import AxiWrite, is_error
from ..config import READ_LATENCY, ChipConfig
from ..control.unit import UnitPort, Window
from ..isa import Activity, ErrorCode, Unit
from ..lib.delay import delay
from ..lib.stream import Queue, RegisterSlice
from ..memory.ports import LINE_ADDRESS, ReadPort
from .bursts import BurstGenerator, burst_layout
from .realigner import Realigner, Settled
from .segments import SegmentGenerator, segment_layout
from .transfer import Transfer, segment_job

__all__ = ["StoreUnit"]

#: Beats between the realigner and the bus: its pipeline's depth, and room to ride out a busy bus.
BEAT_QUEUE = 16
#: Instructions that the scratchpad side may be behind the memory side.
JOB_QUEUE = 4


class StoreUnit(wiring.Component):
    """Runs STORE instructions (:data:`kiwicha.isa.STORE`), in order.

    Lines are read ahead into a queue of bytes; bursts are announced ahead, up to `writes_in_flight`; a beat leaves
    per cycle. Neither AW nor W waits for the other to be accepted, and a beat is never valid before its burst's
    address has been. About 25 cycles from an instruction to its first beat.

    Errors come when every burst has been answered, and are those that a byte by byte execution would find first;
    a segment's line is checked before its bytes are written. FIELD; WINDOW: the first byte outside;
    BUS_WRITE: the burst's first byte; SCRATCHPAD_RANGE: the line. After an error and on abort, bursts begun or
    announced are finished with no byte enabled (three beats already on their way excepted) and awaited.

    Members
    -------
    control : Out(UnitPort(Unit.STORE))
    window : In(Window)
    bus : Out(AxiWrite)
    read : Out(ReadPort)
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "control": Out(UnitPort(Unit.STORE)),
            "window": In(Window(config)),
            "bus": Out(AxiWrite(config)),
            "read": Out(ReadPort(8 * config.line_bytes)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        failing = Signal()      # an error has been found; it is reported when the bus is empty
        flush = Signal()        # only finish what the bus has begun
        idle_bus = Signal()
        # A register of its own: control is far away, and much hangs on it.
        self._abort = Signal()
        m.d.sync += self._abort.eq(self.control.abort)
        m.d.comb += flush.eq(failing | self._abort)
        flying = Signal(range(config.writes_in_flight + 2))

        m.submodules.transfer = transfer = ResetInserter(flush)(Transfer(config, Unit.STORE))
        m.submodules.bursts = bursts = ResetInserter(flush)(BurstGenerator(config))
        m.submodules.jobs = job_queue = ResetInserter(flush)(Queue(segment_job(), JOB_QUEUE))
        m.submodules.segment_generator = segment_generator = ResetInserter(flush)(SegmentGenerator(config))
        m.submodules.segments = segments = ResetInserter(flush)(RegisterSlice(segment_layout(config)))
        connect(m, transfer.runs, bursts.i)
        connect(m, transfer.segments, job_queue.i)
        connect(m, job_queue.o, segment_generator.i)
        connect(m, segment_generator.o, segments.i)
        m.d.comb += [
            transfer.i.payload.eq(self.control.i.payload),
            transfer.i.valid.eq(self.control.i.valid & ~flush),
            self.control.i.ready.eq(transfer.i.ready & ~flush),
            bursts.window.eq(self.window),
            idle_bus.eq((flying == 0) & ~self.bus.aw.valid),
        ]
        # The realigner also carries the strobeless beats of a flush: it is emptied after that. A burst may still
        # be announced in a flush's first cycle.
        empty, flushed = Signal(), Signal()
        m.d.sync += flushed.eq(flush)
        m.d.comb += empty.eq(flush & flushed & idle_bus)
        tag = data.StructLayout({"last": 1, "keep": 1})
        m.submodules.bytes = queue = ResetInserter(empty)(Realigner(config.line_bytes, config.bus_bytes, tag))
        plans, answers = self._announce(m, bursts, empty, flying)
        beats = self._plan(m, plans, empty)
        fault, reading, taken, denied = self._fetch(m, segments.o, queue, failing)
        mute = Signal()         # after a BUS_WRITE error: queued beats come after it in the program
        sent = self._send(m, beats, queue, flush, mute, empty)
        wrong = self._judge(m, beats.o, queue, answers, fault, sent, failing, flush, mute)
        self._explain(m, segments.o.payload, segment_generator.stop_index, bursts, queue, answers.o.payload, wrong,
                      failing)
        self._report(m, failing & flushed, idle_bus, reading, taken, denied)
        return m

    def _announce(self, m, bursts, empty, flying):
        """Bursts to AW; their shape to the beats, what their answer means to `answers`."""
        layout = burst_layout(self.config)
        depth = self.config.writes_in_flight
        m.submodules.plans = plans = ResetInserter(empty)(Queue(layout, depth))
        m.submodules.answers = answers = Queue(layout, depth)
        aw, b, burst = self.bus.aw, self.bus.b, bursts.o.payload
        # One cycle late, which is fine: a burst leaves at most every 2 cycles.
        room = Signal()
        issue = Signal()
        low = (self.config.bus_bytes - 1).bit_length()
        m.d.sync += room.eq((flying < depth) & plans.i.ready & answers.i.ready)
        m.d.comb += [
            bursts.o.ready.eq(~aw.valid & room),
            issue.eq(bursts.o.valid & bursts.o.ready & ~burst.fail),
            plans.i.valid.eq(bursts.o.valid & bursts.o.ready),
            plans.i.payload.eq(burst),
            answers.i.valid.eq(issue),
            answers.i.payload.eq(burst),
            answers.o.ready.eq(b.valid),
            b.ready.eq(1),
        ]
        with m.If(issue):
            m.d.sync += [
                aw.valid.eq(1),
                aw.payload.address.eq(burst.address & -(1 << low)),
                aw.payload.length.eq(burst.length),
            ]
        with m.Elif(aw.ready):
            m.d.sync += aw.valid.eq(0)
        m.d.sync += flying.eq(flying + issue - b.valid)
        return plans, answers

    def _plan(self, m, plans, empty):
        """Each burst's beats, one per cycle: which bytes, and whether it is the last."""
        low = (self.config.bus_bytes - 1).bit_length()
        layout = data.StructLayout({"first": low, "count": low + 1, "last": 1, "fail": 1})
        # Two slices: the queue of bytes adds up the counts that come to the second.
        m.submodules.planned = planned = ResetInserter(empty)(RegisterSlice(layout))
        m.submodules.beats = beats = ResetInserter(empty)(RegisterSlice(layout))
        connect(m, planned.o, beats.i)
        plan, beat = plans.o.payload, planned.i.payload
        started = Signal()
        left = Signal(8)
        end = Signal(low)
        m.d.comb += [
            planned.i.valid.eq(plans.o.valid),
            beat.last.eq(Mux(started, left, plan.length) == 0),
            beat.first.eq(Mux(started, 0, plan.address[:low])),
            end.eq(Mux(beat.last, plan.end, -1)),
            # An error needs to know that the first byte outside has come: see _judge.
            beat.count.eq(Mux(plan.fail, 1, end - beat.first + 1)),
            beat.fail.eq(plan.fail),
            plans.o.ready.eq(planned.i.ready & beat.last),
        ]
        with m.If(empty):
            m.d.sync += started.eq(0)
        with m.Elif(planned.i.valid & planned.i.ready):
            m.d.sync += [started.eq(~beat.last), left.eq(Mux(started, left, plan.length) - 1)]
        return beats

    def _fetch(self, m, segments, queue, failing):
        """Lines from the scratchpad; their answers come after a fixed time and find room reserved.

        They are asked for from two register slices: the port's `ready` depends on all other units, which are
        elsewhere, and much hangs on a segment.
        """
        segment, request = segments.payload, self.read.request
        item = data.StructLayout({"line": LINE_ADDRESS, "count": segment.count.shape()})
        m.submodules.near = near = RegisterSlice(item)
        m.submodules.asked = asked = RegisterSlice(item)
        fault = Signal()        # the next segment has no line to read
        counts = [Signal(segment.count.shape(), name=f"count{i}") for i in range(READ_LATENCY)]
        taken = Signal()
        m.d.comb += [
            fault.eq(segments.valid & segment.stop),
            # When an abort begins, lines may still be asked for: they come before its end.
            near.i.valid.eq(segments.valid & ~segment.stop & queue.room & ~failing),
            near.i.p.line.eq(segment.line),
            near.i.p.count.eq(segment.count),
            taken.eq(near.i.valid & near.i.ready),
            request.valid.eq(asked.o.valid),
            request.payload.eq(asked.o.p.line),
            asked.o.ready.eq(request.ready),
            segments.ready.eq(taken),
            queue.reserve.eq(taken),
            queue.reserve_count.eq(segment.count),
            queue.push_valid.eq(self.read.valid),
            queue.push.data.eq(self.read.data),
            queue.push.first.eq(0),
            queue.push.last.eq(counts[-1] - 1),
        ]
        connect(m, near.o, asked.i)
        m.d.sync += counts[0].eq(Mux(request.valid & request.ready, asked.o.p.count, 0))
        m.d.sync += [after.eq(before) for before, after in pairwise(counts)]
        reading = Signal()
        m.d.comb += reading.eq(near.o.valid | asked.o.valid | Cat(counts).any())
        m.submodules.settled = settled = Settled(READ_LATENCY + queue.push_latency)
        m.d.comb += settled.i.eq(fault & ~near.o.valid & ~asked.o.valid)
        return settled.o, reading, taken, segments.valid & ~near.i.ready

    def _send(self, m, ahead, queue, flush, mute, empty):
        """Bytes to W beats; returns the pulse that a burst's last beat has its bytes."""
        w = self.bus.w
        layout = w.payload.shape()
        beats, beat = ahead.o, ahead.o.payload
        m.submodules.words = words = ResetInserter(empty)(Queue(layout, BEAT_QUEUE))
        m.submodules.out = out = RegisterSlice(layout)
        connect(m, out.o, flipped(w))
        pending = Signal(range(BEAT_QUEUE + 1))
        room = Signal()     # one cycle late, hence one place less
        sent = Signal()
        m.d.sync += room.eq(pending < BEAT_QUEUE - 1)
        m.d.comb += [
            queue.claim.eq(Mux(ahead.renews, ahead.following.count, 0)),
            queue.want.eq(beat.count),
            queue.none.eq(flush),
            queue.first.eq(beat.first),
            queue.tag.last.eq(beat.last),
            queue.take.eq(beats.valid & queue.enough & ~beat.fail & room),
            beats.ready.eq(queue.take),
            sent.eq(queue.take & beat.last & ~flush),
            words.i.valid.eq(queue.o_valid),
            words.i.payload.data.eq(queue.o.data),
            words.i.payload.strobe.eq(queue.o.mask),
            words.i.payload.last.eq(queue.o.tag.last),
            out.i.valid.eq(words.o.valid),
            out.i.payload.eq(words.o.payload),
            # Not so for an error that comes later in the program: this beat's burst may yet retire.
            out.i.payload.strobe.eq(Mux(mute | self._abort, 0, words.o.payload.strobe)),
            words.o.ready.eq(out.i.ready),
        ]
        with m.If(empty):
            m.d.sync += pending.eq(0)
        with m.Else():
            m.d.sync += pending.eq(pending + queue.take - (words.o.valid & words.o.ready))
        return sent

    def _judge(self, m, beats, queue, answers, fault, sent, failing, flush, mute):
        """Retires instructions and finds the first error, in program order; returns a BUS_WRITE error's pulse.

        Answers count only for the `whole` bursts, those that have had all their bytes: the others are finished by
        the flush after an error that comes before them in the program.
        """
        b = self.bus.b
        whole = Signal(range(self.config.writes_in_flight + 2))
        counts = Signal()
        wrong = Signal()
        m.d.comb += [
            counts.eq(b.valid & (whole != 0) & ~self._abort),
            wrong.eq(is_error(b.payload.resp)),
        ]
        m.d.sync += self.control.retire.eq(counts & ~wrong & answers.o.payload.last)
        with m.If(self._abort | (counts & wrong)):
            m.d.sync += whole.eq(0)
        with m.Else():
            m.d.sync += whole.eq(whole + sent - counts)
        with m.If(self._abort):
            m.d.sync += [failing.eq(0), mute.eq(0)]
        with m.Elif(counts & wrong):
            m.d.sync += [failing.eq(1), mute.eq(1)]
        with m.Elif(beats.valid & ~flush):
            m.d.sync += failing.eq(Mux(queue.enough, beats.payload.fail, fault))
        return counts & wrong

    def _explain(self, m, segment, stop_index, bursts, queue, answer, wrong, failing):
        """What would be the error, until a cycle after there is one; a BUS_WRITE error comes before the others."""
        error = self.control.error
        told, answered, enough = Signal(), Signal(), Signal()
        answer = delay(m, answer, "answer_then")
        m.d.sync += [told.eq(failing), answered.eq(wrong), enough.eq(queue.enough)]
        with m.If(answered):
            m.d.sync += [error.code.eq(ErrorCode.BUS_WRITE), error.index.eq(answer.index),
                         error.address.eq(answer.address)]
        with m.Elif(~told & enough):
            m.d.sync += [error.code.eq(ErrorCode.WINDOW), error.index.eq(bursts.o.payload.index),
                         error.address.eq(bursts.fail_address)]
        with m.Elif(~told):
            m.d.sync += [error.code.eq(Mux(segment.bad, ErrorCode.FIELD, ErrorCode.SCRATCHPAD_RANGE)),
                         error.index.eq(stop_index), error.address.eq(segment.line)]

    def _report(self, m, failing, idle_bus, reading, taken, denied):
        control, aw, w, b = self.control, self.bus.aw, self.bus.w, self.bus.b
        jobs, came = Signal(range(128)), Signal()
        m.d.sync += came.eq(control.i.valid & control.i.ready)
        with m.If(self._abort | control.error.valid):
            m.d.sync += jobs.eq(0)
        with m.Else():
            m.d.sync += jobs.eq(jobs + came - control.retire)
        with m.If(self._abort):
            m.d.sync += control.error.valid.eq(0)
        with m.Elif(failing & idle_bus):
            m.d.sync += control.error.valid.eq(1)
        # A line that is asked for when an abort begins comes later.
        m.d.comb += control.quiet.eq(idle_bus & (jobs == 0) & ~came & ~reading)
        # A register, for control is far away.
        m.d.sync += control.progress.eq((aw.valid & aw.ready) | (w.valid & w.ready) | b.valid | taken)
        with m.If(control.quiet):
            m.d.comb += control.activity.eq(Activity.IDLE)
        with m.Elif(w.valid):
            m.d.comb += control.activity.eq(Mux(w.ready, Activity.BUSY, Activity.MEMORY))
        with m.Elif(denied):
            m.d.comb += control.activity.eq(Activity.PORT)
        with m.Else():
            m.d.comb += control.activity.eq(Activity.MEMORY)
