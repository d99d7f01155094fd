"""Walks a job's loops: accumulator reads, in the order pixel, step, window; and where lines go."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, ErrorCode
from ..memory.walker import POINTER_WIDTH, LoopNest, Pointer
from .shapes import SETS, Geometry, job_layout, line_order, request_layout

__all__ = ["Walk"]


class _State(enum.Enum, shape=2):
    TAKE = 0
    WALK = 1
    FAILED = 2


class Walk(wiring.Component):
    """One accumulator read per cycle, and one line order with the read that completes a line.

    Reads and lines pass a register, where it is known whether they exist, so that no range check delays the
    loops. A job's first read comes two cycles after the last read of the job before. Errors are found as lines
    are reached: ACCUMULATOR_RANGE at a read, SCRATCHPAD_RANGE at the read that completes the line.

    Members
    -------
    i : In(stream of jobs)
    requests : Out(stream of accumulator reads)
    orders : Out(stream of line orders)
        Valid only together with `requests`; either waits for the other to be ready.
    clear : In(1)
        Forget everything, a failure too.
    busy : Out(1)
        A job is being walked, or its last read has not gone.
    pending : Out(1)
        A read has not gone: it may be one of before the job that failed.
    failed : Out(1)
        The job had an error, at once or on the way; nothing more happens until `clear`.
    code, index, address
        Which error, of which instruction; valid and unchanged while `failed`.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        super().__init__({
            "i": In(stream.Signature(job_layout())),
            "requests": Out(stream.Signature(request_layout(config))),
            "orders": Out(stream.Signature(line_order())),
            "clear": In(1), "busy": Out(1), "pending": Out(1), "failed": Out(1),
            "code": Out(ErrorCode), "index": Out(INDEX_WIDTH), "address": Out(signed(POINTER_WIDTH)),
        })

    def elaborate(self, platform):
        m = Module()
        load = Signal()
        step = Signal()
        loops = _Loops(m, self._config, self.i.p, load, step)
        # The read that comes next, with the line that it may complete.
        read, line = Signal.like(loops.read, reset_less=True), Signal.like(loops.line, reset_less=True)
        tag = Signal(self.requests.p.tag.shape(), reset_less=True)
        line_end, end, bad_read, bad = (Signal(name=name, reset_less=True)
                                        for name in ("line_end", "end", "bad_read", "bad"))
        valid, room, wrong = Signal(), Signal(), Signal()
        outside = ~_within(loops.read, self._config.accumulator_lines)
        m.d.comb += [
            room.eq(~valid | (~bad & self.requests.ready & self.orders.ready)),
            wrong.eq(valid & bad),
            self.requests.valid.eq(valid & ~bad & self.orders.ready),
            self.requests.p.address.eq(read),
            self.requests.p.tag.eq(tag),
            self.orders.valid.eq(valid & ~bad & self.requests.ready & line_end),
            self.orders.p.address.eq(line),
            self.orders.p.last.eq(end),
        ]
        with m.If(room):
            m.d.sync += [
                valid.eq(step), read.eq(loops.read), line.eq(loops.line), line_end.eq(loops.line_end),
                end.eq(loops.end), *(tag[name].eq(value) for name, value in loops.tag.items()),
                bad_read.eq(outside),
                bad.eq(outside | (loops.line_end & ~_within(loops.line, self._config.scratchpad_lines))),
            ]
        state = Signal(_State)
        with m.Switch(state):
            with m.Case(_State.TAKE):
                # Without a job, what is loaded does not matter.
                m.d.comb += [self.i.ready.eq(~wrong), load.eq(1)]
                with m.If(~wrong):
                    m.d.sync += [
                        self.code.eq(self.i.p.code),
                        self.index.eq(self.i.p.instruction.index),
                        self.address.eq(self.i.p.address),
                    ]
                with m.If(self.i.valid & ~wrong):
                    m.d.sync += state.eq(Mux(self.i.p.code == ErrorCode.NONE, _State.WALK, _State.FAILED))
            with m.Case(_State.WALK):
                m.d.comb += step.eq(room)
                with m.If(step & loops.end):
                    m.d.sync += state.eq(_State.TAKE)
        with m.If(wrong):
            m.d.sync += [
                self.code.eq(Mux(bad_read, ErrorCode.ACCUMULATOR_RANGE, ErrorCode.SCRATCHPAD_RANGE)),
                self.address.eq(Mux(bad_read, read, line)),
                state.eq(_State.FAILED), valid.eq(0),
            ]
        with m.If(self.clear):
            m.d.sync += [state.eq(_State.TAKE), valid.eq(0)]
        m.d.comb += [self.busy.eq((state == _State.WALK) | valid), self.pending.eq(valid),
                     self.failed.eq(state == _State.FAILED)]
        return m


def _within(value, depth):
    """0 <= value < depth, for a power of two."""
    return ~value[(depth - 1).bit_length():].any()


class _Loops:
    """The loop nest (window 0, window 1, step, pixel 2, pixel 3) and what follows it.

    The lines of a pixel's 32-bit results are a level below the pixels, whose iterations end where a step
    fills a line.
    """

    def __init__(self, m, config, job, load, step):
        geometry = Geometry.of(config)
        job_strides = Signal(data.ArrayLayout(signed(16), 4), name="acc_strides")
        line_strides = Signal(data.ArrayLayout(signed(16), 3), name="out_strides")
        set_ = Signal(range(SETS), name="set")
        words = Signal(name="words")
        column = Signal(geometry.step_width, name="column")     # number of the step
        # The step fills a line of 32-bit results.
        fills = Signal(name="fills")
        following = Signal.like(column, name="following")
        slots = geometry.slot_width if geometry.slots > 1 else 0
        m.submodules.nest = nest = LoopNest(5)
        m.submodules.read = read = Pointer(5)
        m.submodules.line = line = Pointer(3)

        i = job.instruction
        for level, count in enumerate((i.count0, i.count1, geometry.steps, i.count2, i.count3)):
            m.d.comb += nest.counts[level].eq(count)
        for level, own in ((0, 0), (1, 1), (3, 2), (4, 3)):     # each step starts at the same line
            m.d.comb += read.strides[level].eq(job_strides[own])
        m.d.comb += [
            nest.load.eq(load), nest.step.eq(step | load),
            read.load.eq(load), read.step.eq(step | load), read.base.eq(i.acc_line), read.carry.eq(nest.carry),
            line.load.eq(load), line.step.eq(step | load), line.base.eq(i.out_line), line.strides.eq(line_strides),
            line.carry.eq(Cat(nest.carry[2] & fills, nest.carry[3:])),
            following.eq(Mux(nest.carry[2], column + 1, 0)),
        ]
        with m.If(load):
            m.d.sync += [set_.eq(job.set), words.eq(job.words), column.eq(0),
                         fills.eq(job.words if not slots else 0)]
            for level in range(4):
                m.d.sync += job_strides[level].eq(i[f"acc_stride{level}"])
            for level, name in enumerate(("out_step", "out_stride2", "out_stride3")):
                m.d.sync += line_strides[level].eq(i[name])
        with m.Elif(step & nest.carry[2:].any()):
            m.d.sync += [column.eq(following), fills.eq(words & following[:slots].all() if slots else words)]

        window_end = nest.last[:2].all()
        self.read, self.line = read.value, line.value
        self.line_end = window_end & (nest.last[2] | fills)
        self.end = nest.done
        self.tag = {"set": set_, "step": column, "first": nest.first[:2].all(), "last": window_end}
