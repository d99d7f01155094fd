"""Walks a job's loops: accumulator reads, in the order pixel, step, window; and where lines go."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
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

    A job's first read comes two cycles after the last read of the job before. Lines are checked as they are
    reached: ACCUMULATOR_RANGE at a read, SCRATCHPAD_RANGE at the read that completes the line.

    Members
    -------
    i : In(stream of jobs)
    requests : Out(stream of accumulator reads)
    orders : Out(stream of line orders)
        Valid only together with `requests`; either waits for the other to be ready.
    clear : In(1)
        Forget everything, a failure too.
    busy : Out(1)
        A job is being walked.
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
            "clear": In(1), "busy": Out(1), "failed": Out(1),
            "code": Out(ErrorCode), "index": Out(INDEX_WIDTH), "address": Out(signed(POINTER_WIDTH)),
        })

    def elaborate(self, platform):
        m = Module()
        load = Signal()
        step = Signal()
        loops = _Loops(m, self._config, self.i.p, load, step)
        bad_read = ~_within(loops.read, self._config.accumulator_lines)
        bad_line = loops.line_end & ~_within(loops.line, self._config.scratchpad_lines)
        good = ~bad_read & ~bad_line
        m.d.comb += [
            self.requests.p.address.eq(loops.read),
            *(self.requests.p.tag[name].eq(value) for name, value in loops.tag.items()),
            self.orders.p.address.eq(loops.line),
            self.orders.p.last.eq(loops.end),
        ]
        state = Signal(_State)
        with m.Switch(state):
            with m.Case(_State.TAKE):
                m.d.comb += [self.i.ready.eq(1), load.eq(self.i.valid)]
                m.d.sync += [
                    self.code.eq(self.i.p.code),
                    self.index.eq(self.i.p.instruction.index),
                    self.address.eq(self.i.p.address),
                ]
                with m.If(self.i.valid):
                    m.d.sync += state.eq(Mux(self.i.p.code == ErrorCode.NONE, _State.WALK, _State.FAILED))
            with m.Case(_State.WALK):
                m.d.comb += [
                    self.requests.valid.eq(good & self.orders.ready),
                    self.orders.valid.eq(good & self.requests.ready & loops.line_end),
                    step.eq(good & self.requests.ready & self.orders.ready),
                ]
                with m.If(~good):
                    m.d.sync += [
                        self.code.eq(Mux(bad_read, ErrorCode.ACCUMULATOR_RANGE, ErrorCode.SCRATCHPAD_RANGE)),
                        self.address.eq(Mux(bad_read, loops.read, loops.line)),
                        state.eq(_State.FAILED),
                    ]
                with m.Elif(step & loops.end):
                    m.d.sync += state.eq(_State.TAKE)
        with m.If(self.clear):
            m.d.sync += state.eq(_State.TAKE)
        m.d.comb += [self.busy.eq(state == _State.WALK), self.failed.eq(state == _State.FAILED)]
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
        fills = column[:geometry.slot_width].all() if geometry.slots > 1 else Const(1, 1)
        m.submodules.nest = nest = LoopNest(5)
        m.submodules.read = read = Pointer(5)
        m.submodules.line = line = Pointer(3)

        i = job.instruction
        for level, count in enumerate((i.count0, i.count1, geometry.steps, i.count2, i.count3)):
            m.d.comb += nest.counts[level].eq(count)
        for level, own in ((0, 0), (1, 1), (3, 2), (4, 3)):     # each step starts at the same line
            m.d.comb += read.strides[level].eq(job_strides[own])
        m.d.comb += [
            nest.load.eq(load), nest.step.eq(step),
            read.load.eq(load), read.step.eq(step), read.base.eq(i.acc_line), read.carry.eq(nest.carry),
            line.load.eq(load), line.step.eq(step), line.base.eq(i.out_line), line.strides.eq(line_strides),
            line.carry.eq(Cat(nest.carry[2] & words & fills, nest.carry[3:])),
        ]
        with m.If(load):
            m.d.sync += [set_.eq(job.set), words.eq(job.words), column.eq(0)]
            for level in range(4):
                m.d.sync += job_strides[level].eq(i[f"acc_stride{level}"])
            for level, name in enumerate(("out_step", "out_stride2", "out_stride3")):
                m.d.sync += line_strides[level].eq(i[name])
        with m.Elif(step & nest.carry[2:].any()):
            m.d.sync += column.eq(Mux(nest.carry[2], column + 1, 0))

        window_end = nest.last[:2].all()
        self.read, self.line = read.value, line.value
        self.line_end = window_end & (nest.last[2] | (words & fills))
        self.end = nest.done
        self.tag = {"set": set_, "step": column, "first": nest.first[:2].all(), "last": window_end}
