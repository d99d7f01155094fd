"""Walks a job's loops: accumulator reads, in the order pixel, part, step, window; and where lines go."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, ErrorCode
from ..lib.loop_nest import POINTER_WIDTH, LoopNest, Pointer
from ..memory.ports import LINE_ADDRESS
from .shapes import SETS, Geometry, Size, job_layout, line_order, request_layout, size_shape

__all__ = ["AddressGenerator"]


class AddressGenerator(wiring.Component):
    """One accumulator read per cycle, and one line order with the read that completes a line.

    Reads and lines pass a register, where it is known whether they exist, so that no range check delays the
    loops. A job's first read comes two cycles after the last read of the job before; but a job whose results take
    dynamic scales and one whose results do not wait for each other's last write. Errors are found as lines are
    reached: ACCUMULATOR_RANGE at a read, SCRATCHPAD_RANGE at the read that completes the line. A line of scales is
    checked at the last read of the first pixel with a scale there, after that pixel's lines.

    Members
    -------
    i : In(stream of jobs)
    requests : Out(stream of accumulator reads)
    orders : Out(stream of line orders)
        Valid only together with `requests`.
    scales : Out(stream of LINE_ADDRESS)
        Where a line of scales goes, together with the order that says `flush`; only with block scaling.
    room : In(1)
        Three more of each of these will find room, as of a cycle ago; their `ready` is not looked at.
    settled : In(1)
        All that was asked for has been written; only with block scaling.
    clear : In(1)
        Forget everything, a failure too.
    busy : Out(1)
        A job is being walked, or its last read has not gone.
    pending : Out(1)
        A read has not gone: it may be one of before the job that failed.
    waits : Out(1)
        A job is waiting for `settled`; only with block scaling.
    failed : Out(1)
        The job had an error, at once or on the way; nothing more happens until `clear`.
    code, index, address
        Which error, of which instruction; valid and unchanged while `failed`.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        scaled = {"scales": Out(stream.Signature(LINE_ADDRESS)), "settled": In(1), "waits": Out(1)}
        super().__init__({
            "i": In(stream.Signature(job_layout(config))),
            "requests": Out(stream.Signature(request_layout(config))),
            "orders": Out(stream.Signature(line_order(config))),
            "room": In(1), "clear": In(1), "busy": Out(1), "pending": Out(1), "failed": Out(1),
            "code": Out(ErrorCode), "index": Out(INDEX_WIDTH), "address": Out(signed(POINTER_WIDTH)),
            **(scaled if config.block_scaled else {}),
        })

    def elaborate(self, platform):
        m = Module()
        walking = Signal()
        load = Signal()         # what comes is loaded; without a job, that does not matter
        take = Signal()
        step = Signal()
        loops = _Loops(m, self._config, self.i.p, load, take, step)
        m.d.comb += take.eq(self.i.valid & self.i.ready)
        # The read that comes next, with the line that it may complete.
        read, line = Signal.like(loops.read, reset_less=True), Signal.like(loops.line, reset_less=True)
        tag = Signal(self.requests.p.tag.shape(), reset_less=True)
        line_end, end, bad_read, bad = (Signal(name=name, reset_less=True)
                                        for name in ("line_end", "end", "bad_read", "bad"))
        wrong_address = Signal(signed(POINTER_WIDTH), reset_less=True)
        valid, wrong = Signal(), Signal()
        outside = ~_within(loops.read, self._config.accumulator_lines)
        bad_line = loops.line_end & ~_within(loops.line, self._config.scratchpad_lines)
        bad_scale, wrong_line = Const(0, 1), loops.line
        may_take = Const(1, 1)
        if self._config.block_scaled:
            scale, flush = Signal.like(loops.scale, reset_less=True), Signal(reset_less=True)
            bad_scale = loops.scale_begins & ~_within(loops.scale, self._config.scratchpad_lines)
            wrong_line = Mux(bad_line, loops.line, loops.scale)
            may_take = (self.i.p.dynamic_scale == loops.dynamic_scale) | (self.settled & ~valid)
            m.d.sync += [scale.eq(loops.scale), flush.eq(loops.flush)]
            m.d.comb += [
                self.orders.p.flush.eq(flush),
                self.scales.valid.eq(valid & ~bad & flush),
                self.scales.payload.eq(scale),
            ]
        m.d.comb += [
            wrong.eq(valid & bad),
            self.requests.valid.eq(valid & ~bad),
            self.requests.p.address.eq(read),
            self.requests.p.tag.eq(tag),
            self.orders.valid.eq(valid & ~bad & line_end),
            self.orders.p.address.eq(line),
            self.orders.p.last.eq(end),
        ]
        m.d.sync += [
            valid.eq(step), read.eq(loops.read), line.eq(loops.line), line_end.eq(loops.line_end),
            end.eq(loops.end), *(tag[name].eq(value) for name, value in loops.tag.items()),
            wrong_address.eq(Mux(outside, loops.read, wrong_line)), bad_read.eq(outside),
            bad.eq(outside | bad_line | bad_scale),
        ]
        takes = ~walking & ~self.failed
        m.d.comb += [load.eq(~walking), step.eq(walking & self.room), self.i.ready.eq(takes & may_take & ~wrong)]
        with m.If(takes & ~wrong):
            m.d.sync += [
                self.code.eq(self.i.p.code),
                self.index.eq(self.i.p.instruction.index),
                self.address.eq(self.i.p.address),
            ]
        good = self.i.p.code == ErrorCode.NONE
        with m.If(take):
            m.d.sync += [walking.eq(good), self.failed.eq(~good)]
        with m.Elif(step & loops.end):
            m.d.sync += walking.eq(0)
        with m.If(wrong):
            m.d.sync += [
                self.code.eq(Mux(bad_read, ErrorCode.ACCUMULATOR_RANGE, ErrorCode.SCRATCHPAD_RANGE)),
                self.address.eq(wrong_address),
                walking.eq(0), self.failed.eq(1), valid.eq(0),
            ]
        with m.If(self.clear):
            m.d.sync += [walking.eq(0), self.failed.eq(0), valid.eq(0)]
        m.d.comb += [self.busy.eq(walking | valid), self.pending.eq(valid)]
        if self._config.block_scaled:
            m.d.comb += self.waits.eq(takes & self.i.valid & ~may_take)
        return m


def _within(value, depth):
    """0 <= value < depth, for a power of two."""
    return ~value[(depth - 1).bit_length():].any()


class _Loops:
    """The loop nest (window 0, window 1, step, part, pixel 2, pixel 3) and what follows it.

    The lines of a pixel's results are a level below the pixels, whose iterations end where a step fills a line,
    or with a part. Without block scaling there is no level of parts.
    """

    def __init__(self, m, config, job, load, take, step):
        self._config, self._geometry = config, Geometry.of(config)
        scaled = config.block_scaled
        i = job.instruction
        counts = [(i.count0, i.acc_stride0), (i.count1, i.acc_stride1), (self._geometry.steps, None),
                  (i.count2, i.acc_stride2), (i.count3, i.acc_stride3)]
        if scaled:
            counts.insert(3, (Mux(job.dynamic_scale, i.parts, 1), i.part_stride))
        levels = len(counts)
        read_strides = Signal(data.ArrayLayout(signed(16), levels - 1), name="acc_strides")
        line_strides = Signal(data.ArrayLayout(signed(16), 3), name="out_strides")
        set_ = Signal(range(SETS), name="set")
        size = Signal(size_shape(config), name="size")
        column = Signal(self._geometry.step_width, name="column")       # number of the step
        m.submodules.nest = nest = LoopNest(levels)
        m.submodules.read = read = Pointer(levels)
        m.submodules.line = line = Pointer(3)
        fills = self._fills(m, size, column)
        line_carry = nest.carry[2] & fills
        if scaled:
            line_carry = line_carry | nest.carry[3]

        stepping = [level for level, (_, stride) in enumerate(counts) if stride is not None]
        m.d.comb += [
            *(nest.counts[level].eq(count) for level, (count, _) in enumerate(counts)),
            # Each step starts at the same line.
            *(read.strides[level].eq(read_strides[own]) for own, level in enumerate(stepping)),
            nest.load.eq(load), nest.step.eq(step | load),
            read.load.eq(load), read.step.eq(step | load), read.base.eq(i.acc_line),
            read.carry.eq(nest.carry & ~load.replicate(levels)),
            line.load.eq(load), line.step.eq(step | load), line.base.eq(i.out_line), line.strides.eq(line_strides),
            line.carry.eq(Cat(line_carry, nest.carry[-2:]) & ~load.replicate(3)),
        ]
        with m.If(load):
            m.d.sync += [set_.eq(job.set), size.eq(job.size), column.eq(0)]
            m.d.sync += [read_strides[own].eq(counts[level][1]) for own, level in enumerate(stepping)]
            m.d.sync += [line_strides[level].eq(i[name])
                         for level, name in enumerate(("out_step", "out_stride2", "out_stride3"))]
        with m.Elif(step & nest.carry[2:].any()):
            m.d.sync += column.eq(Mux(nest.carry[2], column + 1, 0))

        window_end = nest.last[:2].all()
        self.read, self.line = read.value, line.value
        self.line_end = window_end & (nest.last[2] | fills)
        self.end = nest.done
        self.tag = {"set": set_, "step": column, "first": nest.first[:2].all(), "last": window_end}
        if scaled:
            self._scales(m, job, take, step, nest)

    def _fills(self, m, size, column):
        """Whether this step fills a line before the last one."""
        fills = Signal()
        sizes = (Size.WORD, Size.HALF) if self._config.block_scaled else (Size.WORD,)
        with m.Switch(size):
            for each in sizes:
                width = (self._geometry.slots_of(each) - 1).bit_length()
                with m.Case(each.value):
                    m.d.comb += fills.eq(column[:width].all() if width else 1)
        return fills

    def _scales(self, m, job, take, step, nest):
        """Lines of scales: a byte for each pixel."""
        line_bytes = self._config.line_bytes
        self.dynamic_scale = Signal(name="dynamic_scale")
        self.scale = Signal(signed(POINTER_WIDTH), name="scale")        # the line
        byte = Signal(range(line_bytes), name="scale_byte")
        full = byte == line_bytes - 1
        with m.If(take):
            m.d.sync += [self.dynamic_scale.eq(job.dynamic_scale), self.scale.eq(job.instruction.scale_line),
                         byte.eq(0)]
        with m.Elif(step & nest.carry[4:].any()):
            m.d.sync += [byte.eq(byte + 1), self.scale.eq(self.scale + full)]
        pixel_end = nest.last[:4].all()
        self.scale_begins = self.dynamic_scale & pixel_end & (byte == 0)
        self.flush = self.dynamic_scale & pixel_end & (full | nest.last[4:].all())
        self.tag |= {"end": pixel_end, "flush": self.flush}
