"""The stages of LOAD: bursts from memory, segments from their bytes, lines to the scratchpad."""

from amaranth import Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..bus.axi import AxiRead, ReadId, is_error
from ..config import ChipConfig
from ..control.unit import ErrorReport
from ..isa import INDEX_WIDTH, ErrorCode
from ..lib.stream import Queue, RegisterSlice
from ..memory.ports import LINE_ADDRESS, WritePort
from ..timing import LINE_QUEUE
from .bursts import burst_layout
from .realigner import ByteSink, ByteSource, Settled, word_layout
from .segments import segment_error, segment_layout

__all__ = ["BurstReader", "LineWriter", "SegmentTaker", "line_tag"]


def line_tag() -> data.StructLayout:
    """What goes through the realigner beside a line's bytes."""
    return data.StructLayout({"line": LINE_ADDRESS, "fill": 8, "last": 1})


class BurstReader(wiring.Component):
    """The memory side: asks for bursts, and takes their beats while there is room for their bytes.

    Latency: a burst is on AR in the cycle after `bursts` gave it; a beat is on `bytes` in the cycle in which it
    comes. Throughput: a burst every 2 cycles, a beat per cycle, `reads_in_flight` bursts at a time.

    Members
    -------
    bursts : In(stream of burst_layout()), fail_address : In(64)
        As :class:`.BurstGenerator` has them.
    bus : Out(AxiRead)
    bytes : Out(ByteSink(bus_bytes))
    drop : In(1)
        From the next cycle on ask for nothing more; beats that still come count for nothing. Forgets the error.
    error : Out(ErrorReport)
        The first: WINDOW or BUS_READ. The bytes before it have been handed on, and none after it are.
    idle : Out(1)
        Nothing that was asked for is still to come.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "bursts": In(stream.Signature(burst_layout(config))), "fail_address": In(64),
            "bus": Out(AxiRead(config)), "bytes": Out(ByteSink(config.bus_bytes)),
            "drop": In(1), "error": Out(ErrorReport), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # Registered: it stands in the way of every beat, and `drop` comes from where segments are taken.
        dropping = Signal()
        m.d.sync += dropping.eq(self.drop)
        # What is known of a burst waits here for its beats.
        m.submodules.expected = expected = ResetInserter(dropping)(
            Queue(burst_layout(self.config), self.config.reads_in_flight))
        failed, stop, room = Signal(), Signal(), Signal()
        m.d.comb += stop.eq(dropping | failed)
        issued = self._ask(m, expected.i, stop, room)
        # The one whose beats come is in registers: the bus's `ready` hangs on it, and the queue's pointer on none.
        m.submodules.burst = burst = ResetInserter(dropping)(RegisterSlice(burst_layout(self.config)))
        connect(m, expected.o, burst.i)
        done = self._take(m, burst.o, stop, dropping, failed)
        flying = Signal(range(self.config.reads_in_flight + 2))
        # One cycle late, which is fine: a burst leaves at most every 2 cycles.
        m.d.sync += [
            room.eq((flying < self.config.reads_in_flight) & expected.i.ready & ~stop),
            flying.eq(flying + issued - done),
        ]
        m.d.comb += self.idle.eq((flying == 0) & ~self.bus.ar.valid)
        self._explain(m, burst.o.payload, failed)
        return m

    def _ask(self, m, expected, stop, room):
        """Bursts to AR, while there is `room`; says when one goes there."""
        ar, bursts = self.bus.ar, self.bursts
        low = (self.config.bus_bytes - 1).bit_length()
        issue = Signal()
        # One register, refilled only when empty: once `stop` is there nothing new may appear on the channel.
        m.d.comb += [
            bursts.ready.eq(~ar.valid & room),
            issue.eq(bursts.valid & bursts.ready & ~bursts.payload.fail & ~stop),
            expected.valid.eq(bursts.valid & bursts.ready & ~stop),
            expected.payload.eq(bursts.payload),
            ar.payload.id.eq(ReadId.LOAD),
        ]
        with m.If(issue):
            m.d.sync += [
                ar.valid.eq(1),
                ar.payload.address.eq(bursts.payload.address & -(1 << low)),
                ar.payload.length.eq(bursts.payload.length),
            ]
        with m.Elif(ar.ready):
            m.d.sync += ar.valid.eq(0)
        return issue

    def _take(self, m, expected, stop, dropping, failed):
        """Beats to `bytes`; says when a burst's last one has come."""
        r, burst, word = self.bus.r, expected.payload, self.bytes.word
        low = (self.config.bus_bytes - 1).bit_length()
        beat, moved, wanted = Signal(), Signal(), Signal()
        started = Signal()      # the burst's first beat has come
        wrong = is_error(r.payload.resp)
        m.d.comb += [
            wanted.eq(self.bytes.room & expected.valid & ~burst.fail),
            r.ready.eq(stop | wanted),
            moved.eq(r.valid & r.ready),
            beat.eq(r.valid & wanted & ~stop),
            expected.ready.eq(beat & r.payload.last),
            word.data.eq(r.payload.data),
            word.first.eq(Mux(started, 0, burst.address[:low])),
            word.last.eq(Mux(r.payload.last, burst.end, -1)),
            self.bytes.valid.eq(beat & ~wrong),
            self.bytes.reserve.eq(beat & ~wrong),
            self.bytes.count.eq(word.last - word.first + 1),
        ]
        with m.If(dropping):
            m.d.sync += [started.eq(0), failed.eq(0)]
        with m.Elif(beat):
            m.d.sync += started.eq(~r.payload.last)
            with m.If(wrong):
                m.d.sync += failed.eq(1)
        with m.Elif(expected.valid & burst.fail & ~stop):
            m.d.sync += failed.eq(1)
        return moved & r.payload.last

    def _explain(self, m, burst, failed):
        """What would be the error, until there is one."""
        error = Signal(data.StructLayout({"code": ErrorCode, "index": INDEX_WIDTH, "address": 64}),
                       reset_less=True)
        with m.If(~failed):
            m.d.sync += [
                error.index.eq(burst.index),
                error.code.eq(Mux(burst.fail, ErrorCode.WINDOW, ErrorCode.BUS_READ)),
                error.address.eq(Mux(burst.fail, self.fail_address, burst.address)),
            ]
        m.d.comb += [self.error.valid.eq(failed), self.error.code.eq(error.code),
                     self.error.index.eq(error.index), self.error.address.eq(error.address)]


class SegmentTaker(wiring.Component):
    """Takes each segment's bytes once they have come, and finds the first error.

    Latency: a segment is taken in the cycle in which its bytes are there, two after `segments` gave it at the
    earliest. Throughput: a segment per cycle.

    Members
    -------
    segments : In(stream of segment_layout()), stop_index : In(24)
        As :class:`.SegmentGenerator` has them.
    bytes : Out(ByteSource(line_bytes, line_tag()))
    written : In(1)
        The scratchpad took a line.
    memory_error : In(ErrorReport)
        The memory side's: after the bytes that came before it.
    bus_idle : In(1)
        Nothing is under way on the bus, nor will be from the second cycle of `failing` on.
    abort : In(1)
        Forget everything.
    wrong_index : In(32)
        As :class:`.Transfer` has it, in a chip with `indices`.
    failing : Out(1)
        An error has been found; nothing more is taken.
    error : Out(ErrorReport)
        It, when the bus is idle and every line before it has been written.
    """

    def __init__(self, config: ChipConfig, push_latency: int):
        self.config = config
        self._push_latency = push_latency
        super().__init__({
            "segments": In(stream.Signature(segment_layout(config))), "stop_index": In(INDEX_WIDTH),
            "bytes": Out(ByteSource(config.line_bytes, line_tag())), "written": In(1),
            "memory_error": In(ErrorReport), "bus_idle": In(1), "abort": In(1),
            "failing": Out(1), "error": Out(ErrorReport), **({"wrong_index": In(32)} if config.indices else {}),
        })

    def elaborate(self, platform):
        m = Module()
        failing, drop = self.failing, Signal()
        m.d.comb += drop.eq(failing | self.abort)
        m.submodules.ahead = ahead = ResetInserter(drop)(RegisterSlice(segment_layout(self.config)))
        connect(m, flipped(self.segments), ahead.i)
        segment, source = ahead.o.payload, self.bytes
        # The port's `ready` is an arbitration of units: a place is free one cycle late, and `room` another one.
        pending, written, room = Signal(range(LINE_QUEUE + 1)), Signal(), Signal()
        m.submodules.settled = settled = Settled(self._push_latency)
        m.d.comb += [
            settled.i.eq(self.memory_error.valid),
            source.claim.eq(Mux(ahead.renews, ahead.following.count, 0)),
            source.want.eq(segment.count),
            source.tag.line.eq(segment.line),
            source.tag.fill.eq(segment.fill),
            source.tag.last.eq(segment.last),
            source.take.eq(ahead.o.valid & source.enough & room & ~segment.stop & ~drop),
            ahead.o.ready.eq(source.take),
        ]
        m.d.sync += [
            written.eq(self.written),
            pending.eq(pending + source.take - written),
            room.eq(pending < LINE_QUEUE - 1),
        ]
        told = Signal()     # failing, for a cycle already
        m.d.sync += told.eq(failing)
        with m.If(self.abort):
            m.d.sync += [pending.eq(0), failing.eq(0), self.error.valid.eq(0)]
        with m.Else():
            with m.If(ahead.o.valid & ~failing):
                m.d.sync += failing.eq(Mux(source.enough, segment.stop, settled.o))
            # In the first cycle a burst may still be asked for.
            with m.If(failing & told & self.bus_idle & (pending == 0)):
                m.d.sync += self.error.valid.eq(1)
        self._explain(m, segment, told)
        return m

    def _explain(self, m, segment, told):
        """What would be the error, until a cycle after there is one: the segment is still there then."""
        error, memory_error = self.error, self.memory_error
        enough = Signal()
        code, address = segment_error(segment, self.wrong_index if self.config.indices else None)
        m.d.sync += enough.eq(self.bytes.enough)
        with m.If(~told):
            m.d.sync += [
                error.index.eq(Mux(enough, self.stop_index, memory_error.index)),
                error.code.eq(Mux(enough, code, memory_error.code)),
                error.address.eq(Mux(enough, address, memory_error.address)),
            ]


class LineWriter(wiring.Component):
    """Lines to the scratchpad: their bytes, and `fill` for the others.

    Latency: 1 cycle. Throughput: a line per cycle; there must be room for each that comes.

    Members
    -------
    valid : In(1), i : In(word_layout)
        A line from the realigner.
    write : Out(WritePort)
    abort : In(1)
        Forget everything.
    retire : Out(1)
        The last line of an instruction was written in the cycle before.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "valid": In(1), "i": In(word_layout(config.line_bytes, line_tag())),
            "write": Out(WritePort(8 * config.line_bytes)), "abort": In(1), "retire": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        request = self.write.request
        layout = data.StructLayout({"line": request.payload.shape(), "last": 1})
        m.submodules.lines = lines = ResetInserter(self.abort)(Queue(layout, LINE_QUEUE))
        line = lines.i.payload.line
        for i in range(self.config.line_bytes):
            m.d.comb += line.data[8 * i:8 * i + 8].eq(Mux(self.i.mask[i], self.i.data[i], self.i.tag.fill))
        m.d.comb += [
            line.address.eq(self.i.tag.line),
            lines.i.payload.last.eq(self.i.tag.last),
            lines.i.valid.eq(self.valid),
            request.payload.eq(lines.o.payload.line),
            request.valid.eq(lines.o.valid),
            lines.o.ready.eq(request.ready),
        ]
        m.d.sync += self.retire.eq(lines.o.valid & lines.o.ready & lines.o.payload.last & ~self.abort)
        return m
