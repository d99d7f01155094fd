"""The stages of STORE: lines from the scratchpad, bursts and beats to memory."""

from itertools import pairwise

from amaranth import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..bus.axi import AxiWrite
from ..config import ChipConfig
from ..lib.stream import Queue, RegisterSlice
from ..memory.ports import LINE_ADDRESS, ReadPort
from ..timing import BEAT_QUEUE, READ_LATENCY
from .bursts import burst_layout
from .realigner import ByteSink, ByteSource, Settled, word_layout
from .segments import segment_layout

__all__ = ["BeatPlanner", "BeatWriter", "BurstAnnouncer", "LineReader", "beat_tag"]


def beat_tag() -> data.StructLayout:
    """What goes through the realigner beside a beat's bytes: whether it is its burst's last."""
    return data.StructLayout({"last": 1})


def beat_layout(config: ChipConfig) -> data.StructLayout:
    """A beat's `count` bytes from byte `first` on. `fail`: no beat, but BurstGenerator.fail_address."""
    low = (config.bus_bytes - 1).bit_length()
    return data.StructLayout({"first": low, "count": low + 1, "last": 1, "fail": 1})


class LineReader(wiring.Component):
    """Segments' lines from the scratchpad; their answers come after a fixed time and find room reserved.

    They are asked for from two more register slices: a port's `ready` is what the other units' requests leave, and
    a segment's registers are too many to hang on that.

    Latency: 3 cycles from `segments` to the request. Throughput: a line per cycle.

    Members
    -------
    segments : In(stream of segment_layout())
    read : Out(ReadPort)
    bytes : Out(ByteSink(line_bytes))
    failing : In(1)
        Ask for nothing more.
    flush : In(1)
        Forget the segments.
    fault : Out(1), segment : Out(segment_layout())
        The next segment has no line to read, and the bytes of all before it have come; that segment.
    reading : Out(1)
        A line is asked for, or will be.
    taken, denied : Out(1)
        A segment is taken (or kept back by the port) in this cycle.
    """

    def __init__(self, config: ChipConfig, push_latency: int):
        self._push_latency = push_latency
        self._segment = layout = segment_layout(config)
        self._count = layout["count"].shape
        super().__init__({
            "segments": In(stream.Signature(layout)), "segment": Out(layout), "flush": In(1),
            "read": Out(ReadPort(8 * config.line_bytes)), "bytes": Out(ByteSink(config.line_bytes)),
            "failing": In(1), "fault": Out(1), "reading": Out(1), "taken": Out(1), "denied": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.first = first = ResetInserter(self.flush)(RegisterSlice(self._segment))
        connect(m, flipped(self.segments), first.i)
        segments, request, sink = first.o, self.read.request, self.bytes
        segment = segments.payload
        item = data.StructLayout({"line": LINE_ADDRESS, "count": self._count})
        m.submodules.near = near = RegisterSlice(item)
        m.submodules.asked = asked = RegisterSlice(item)
        connect(m, near.o, asked.i)
        counts = [Signal(self._count, name=f"count{i}") for i in range(READ_LATENCY)]
        fault = Signal()
        m.submodules.settled = settled = Settled(READ_LATENCY + self._push_latency)
        m.d.comb += [
            self.segment.eq(segment),
            fault.eq(segments.valid & segment.stop),
            # When an abort begins, lines may still be asked for: they come before its end.
            near.i.valid.eq(segments.valid & ~segment.stop & sink.room & ~self.failing),
            near.i.p.line.eq(segment.line),
            near.i.p.count.eq(segment.count),
            self.taken.eq(near.i.valid & near.i.ready),
            self.denied.eq(segments.valid & ~near.i.ready),
            request.valid.eq(asked.o.valid),
            request.payload.eq(asked.o.p.line),
            asked.o.ready.eq(request.ready),
            segments.ready.eq(self.taken),
            sink.reserve.eq(self.taken),
            sink.count.eq(segment.count),
            sink.valid.eq(self.read.valid),
            sink.word.data.eq(self.read.data),
            sink.word.first.eq(0),
            sink.word.last.eq(counts[-1] - 1),
            self.reading.eq(near.o.valid | asked.o.valid | Cat(counts).any()),
            settled.i.eq(fault & ~near.o.valid & ~asked.o.valid),
            self.fault.eq(settled.o),
        ]
        m.d.sync += counts[0].eq(Mux(request.valid & request.ready, asked.o.p.count, 0))
        m.d.sync += [after.eq(before) for before, after in pairwise(counts)]
        return m


class BurstAnnouncer(wiring.Component):
    """Bursts to AW; their shapes to the beats; and what each was about, until its answer comes.

    Latency: a burst is on AW in the cycle after `bursts` gave it. Throughput: one every 2 cycles, at most
    `writes_in_flight` at a time.

    Members
    -------
    bursts : In(stream of burst_layout())
    aw, b : as of AxiWrite
    clear : In(1)
        Forget the plans; the bus must be idle.
    plans : Out(stream of burst_layout())
        The same bursts, and the one that fails.
    answer : Out(burst_layout())
        Whose answer comes next.
    idle : Out(1)
        Every burst has been answered.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        channels = AxiWrite(config).members
        super().__init__({
            "bursts": In(stream.Signature(burst_layout(config))), "aw": channels["aw"], "b": channels["b"],
            "clear": In(1), "plans": Out(stream.Signature(burst_layout(config))),
            "answer": Out(burst_layout(config)), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        layout, depth = burst_layout(self.config), self.config.writes_in_flight
        m.submodules.plans = plans = ResetInserter(self.clear)(Queue(layout, depth))
        m.submodules.answers = answers = Queue(layout, depth)
        connect(m, plans.o, flipped(self.plans))
        aw, b, bursts, burst = self.aw, self.b, self.bursts, self.bursts.payload
        flying = Signal(range(depth + 2))
        # One cycle late, which is fine: a burst leaves at most every 2 cycles.
        room, issue = Signal(), Signal()
        low = (self.config.bus_bytes - 1).bit_length()
        m.d.sync += room.eq((flying < depth) & plans.i.ready & answers.i.ready)
        m.d.comb += [
            bursts.ready.eq(~aw.valid & room),
            issue.eq(bursts.valid & bursts.ready & ~burst.fail),
            plans.i.valid.eq(bursts.valid & bursts.ready),
            plans.i.payload.eq(burst),
            answers.i.valid.eq(issue),
            answers.i.payload.eq(burst),
            answers.o.ready.eq(b.valid),
            b.ready.eq(1),
            self.answer.eq(answers.o.payload),
            self.idle.eq((flying == 0) & ~aw.valid),
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
        return m


class BeatPlanner(wiring.Component):
    """Each burst's beats: which bytes, and whether it is the last. Latency 1 cycle, one beat per cycle.

    Members
    -------
    plans : In(stream of burst_layout())
    clear : In(1)
    o : Out(stream of beat_layout())
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({"plans": In(stream.Signature(burst_layout(config))), "clear": In(1),
                          "o": Out(stream.Signature(beat_layout(config)))})

    def elaborate(self, platform):
        m = Module()
        low = (self.config.bus_bytes - 1).bit_length()
        m.submodules.planned = planned = ResetInserter(self.clear)(RegisterSlice(beat_layout(self.config)))
        connect(m, planned.o, flipped(self.o))
        plans, plan, beat = self.plans, self.plans.payload, planned.i.payload
        started, left, end = Signal(), Signal(8), Signal(low)
        m.d.comb += [
            planned.i.valid.eq(plans.valid),
            beat.last.eq(Mux(started, left, plan.length) == 0),
            beat.first.eq(Mux(started, 0, plan.address[:low])),
            end.eq(Mux(beat.last, plan.end, -1)),
            # An error needs to know that the first byte outside has come: see Judge.
            beat.count.eq(Mux(plan.fail, 1, end - beat.first + 1)),
            beat.fail.eq(plan.fail),
            plans.ready.eq(planned.i.ready & beat.last),
        ]
        with m.If(self.clear):
            m.d.sync += started.eq(0)
        with m.Elif(planned.i.valid & planned.i.ready):
            m.d.sync += [started.eq(~beat.last), left.eq(Mux(started, left, plan.length) - 1)]
        return m


class BeatWriter(wiring.Component):
    """Bytes to W beats: takes each beat's bytes once they have come.

    Latency: 1 cycle from `beats` to `bytes`, 2 from `word` to W. Throughput: a beat per cycle.

    Members
    -------
    beats : In(stream of beat_layout())
    bytes : Out(ByteSource(bus_bytes, beat_tag()))
    word_valid : In(1), word : In(word_layout)
        A beat from the realigner.
    w : as of AxiWrite
    flush : In(1)
        Finish what the bus has begun, with whatever bytes.
    mute : In(1)
        Beats that leave now write nothing.
    clear : In(1)
        Forget all beats; the bus must be idle.
    beat_valid, beat_fail : Out(1)
        A beat waits for its bytes; it is not one, but the error behind the last.
    sent : Out(1)
        A burst's last beat has its bytes, and none of a flush.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "beats": In(stream.Signature(beat_layout(config))),
            "bytes": Out(ByteSource(config.bus_bytes, beat_tag())),
            "word_valid": In(1), "word": In(word_layout(config.bus_bytes, beat_tag())),
            "w": AxiWrite(config).members["w"], "flush": In(1), "mute": In(1), "clear": In(1),
            "beat_valid": Out(1), "beat_fail": Out(1), "sent": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        layout = self.w.payload.shape()
        # A second slice behind the planner's: the realigner adds up the counts that come to this one.
        m.submodules.ahead = ahead = ResetInserter(self.clear)(RegisterSlice(beat_layout(self.config)))
        m.submodules.words = words = ResetInserter(self.clear)(Queue(layout, BEAT_QUEUE))
        m.submodules.out = out = RegisterSlice(layout)
        connect(m, flipped(self.beats), ahead.i)
        connect(m, out.o, flipped(self.w))
        beat, source = ahead.o.payload, self.bytes
        pending = Signal(range(BEAT_QUEUE + 1))
        room = Signal()     # one cycle late, hence one place less
        m.d.sync += room.eq(pending < BEAT_QUEUE - 1)
        m.d.comb += [
            source.claim.eq(Mux(ahead.renews, ahead.following.count, 0)),
            source.want.eq(beat.count),
            source.none.eq(self.flush),
            source.first.eq(beat.first),
            source.tag.last.eq(beat.last),
            source.take.eq(ahead.o.valid & source.enough & ~beat.fail & room),
            ahead.o.ready.eq(source.take),
            self.beat_valid.eq(ahead.o.valid),
            self.beat_fail.eq(beat.fail),
            self.sent.eq(source.take & beat.last & ~self.flush),
            words.i.valid.eq(self.word_valid),
            words.i.payload.data.eq(self.word.data),
            words.i.payload.strobe.eq(self.word.mask),
            words.i.payload.last.eq(self.word.tag.last),
            out.i.valid.eq(words.o.valid),
            out.i.payload.eq(words.o.payload),
            out.i.payload.strobe.eq(Mux(self.mute, 0, words.o.payload.strobe)),
            words.o.ready.eq(out.i.ready),
        ]
        with m.If(self.clear):
            m.d.sync += pending.eq(0)
        with m.Else():
            m.d.sync += pending.eq(pending + source.take - (words.o.valid & words.o.ready))
        return m
