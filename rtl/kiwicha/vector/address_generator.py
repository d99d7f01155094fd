"""Walks an instruction's loops: reads, in the order pixel, part, step, window; and where lines go."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, ErrorCode, OperandUse, Source
from ..lib.loop_nest import POINTER_WIDTH, LoopNest, Pointer
from ..memory.ports import LINE_ADDRESS
from ..timing import PARAMETER_SETS
from .shapes import Geometry, Size, line_order, prepared_layout, request_layout, size_shape, tag_layout

__all__ = ["AddressGenerator"]


class AddressGenerator(wiring.Component):
    """One read of operand A per cycle, and one line order with the read that completes a line.

    Reads and lines pass a register, where it is known whether they exist, so that no range check delays the
    loops. An instruction's first read comes two cycles after the last read of the one before; but one whose
    results take dynamic scales and one whose results do not wait for each other's last write. Errors are found
    as lines are reached: ACCUMULATOR_RANGE at a read, or SCRATCHPAD_RANGE if it is one of the scratchpad; then
    for operand B; SCRATCHPAD_RANGE at the read that completes the line. A line of scales is checked at the last
    read of the first pixel with a scale there, after that pixel's lines.

    Members
    -------
    i : In(stream of prepared_layout())
    requests : Out(stream of request_layout())
    a, b : Out(stream of LINE_ADDRESS)
        Lines of operands to fetch from the scratchpad. Valid only together with `requests`.
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
        An instruction is being walked, or its last read has not gone.
    pending : Out(1)
        A read has not gone: it may be one of before the instruction that failed.
    waits : Out(1)
        An instruction waits for `settled`; only with block scaling.
    failed : Out(1)
        The instruction had an error, at once or on the way; nothing more happens until `clear`.
    code, index, address
        Which error, of which instruction; valid and unchanged while `failed`.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        scaled = {"scales": Out(stream.Signature(LINE_ADDRESS)), "settled": In(1), "waits": Out(1)}
        super().__init__({
            "i": In(stream.Signature(prepared_layout(config))),
            "requests": Out(stream.Signature(request_layout(config))),
            "orders": Out(stream.Signature(line_order(config))),
            "a": Out(stream.Signature(LINE_ADDRESS)), "b": Out(stream.Signature(LINE_ADDRESS)),
            "room": In(1), "clear": In(1), "busy": Out(1), "pending": Out(1), "failed": Out(1),
            "code": Out(ErrorCode), "index": Out(INDEX_WIDTH), "address": Out(signed(POINTER_WIDTH)),
            **(scaled if config.block_scaled else {}),
        })

    def elaborate(self, platform):
        m = Module()
        walking = Signal()
        m.submodules.loops = loops = _Loops(self._config)
        # The read that comes next, with the line that it may complete.
        held = Signal(data.StructLayout({
            "read": loops.read.shape(), "second": loops.second.shape(), "line": loops.line.shape(),
            "tag": loops.tag.shape(), "operands": loops.operands.shape(), "line_end": 1, "end": 1,
            "bad_read": 1, "bad": 1, "wrong_address": signed(POINTER_WIDTH),
        }), reset_less=True)
        valid, wrong, good_read = Signal(), Signal(), Signal()
        take, advance, takes = Signal(), Signal(), ~walking & ~self.failed
        bad_scale, wrong_line, may_take = Const(0, 1), loops.line, Const(1, 1)
        if self._config.block_scaled:
            may_take = (self.i.p.dynamic_scale == loops.dynamic_scale) | (self.settled & ~valid)
            m.d.comb += self.waits.eq(takes & self.i.valid & ~may_take)
            bad_scale, wrong_line = self._scales(m, loops, valid & ~held.bad)
        m.d.comb += [
            loops.i.eq(self.i.p), loops.load.eq(~walking), loops.take.eq(take), loops.advance.eq(advance),
            take.eq(self.i.valid & self.i.ready), advance.eq(walking & self.room),
            self.i.ready.eq(takes & may_take & ~wrong),
            wrong.eq(valid & held.bad),
            good_read.eq(valid & ~held.bad),
            self.requests.valid.eq(good_read),
            self.requests.p.address.eq(held.read), self.requests.p.tag.eq(held.tag),
            self.requests.p.table.eq(held.operands.table), self.requests.p.a_ends.eq(held.operands.a_ends),
            self.requests.p.second.eq(held.operands.second), self.requests.p.b_ends.eq(held.operands.b_ends),
            self.a.valid.eq(good_read & held.operands.a_begins), self.a.payload.eq(held.read),
            self.b.valid.eq(good_read & held.operands.b_begins), self.b.payload.eq(held.second),
            self.orders.valid.eq(good_read & held.line_end),
            self.orders.p.address.eq(held.line),
            self.orders.p.last.eq(held.end),
            self.busy.eq(walking | valid), self.pending.eq(valid),
        ]
        self._check(m, loops, held, bad_scale, wrong_line)
        m.d.sync += valid.eq(advance)
        self._report(m, held, takes, wrong)
        good = self.i.p.code == ErrorCode.NONE
        with m.If(take):
            m.d.sync += [walking.eq(good), self.failed.eq(~good)]
        with m.Elif(advance & loops.end):
            m.d.sync += walking.eq(0)
        with m.If(wrong):
            m.d.sync += [walking.eq(0), self.failed.eq(1), valid.eq(0)]
        with m.If(self.clear):
            m.d.sync += [walking.eq(0), self.failed.eq(0), valid.eq(0)]
        return m

    def _scales(self, m, loops, goes):
        """Lines of scales, a cycle after the loops; whether one does not exist, and which line is wrong then."""
        scale, flush = Signal.like(loops.scale, reset_less=True), Signal(reset_less=True)
        m.d.sync += [scale.eq(loops.scale), flush.eq(loops.tag.flush)]
        m.d.comb += [self.orders.p.flush.eq(flush), self.scales.valid.eq(goes & flush),
                     self.scales.payload.eq(scale)]
        bad_line = loops.line_end & ~_within(loops.line, self._config.scratchpad_lines)
        bad_scale = loops.scale_begins & ~_within(loops.scale, self._config.scratchpad_lines)
        return bad_scale, Mux(bad_line, loops.line, loops.scale)

    def _check(self, m, loops, held, bad_scale, wrong_line):
        """The loops' read and line a cycle later, and whether they exist."""
        lines, table = self._config.scratchpad_lines, loops.operands.table
        outside = Mux(table, ~_within(loops.read, lines), ~_within(loops.read, self._config.accumulator_lines))
        bad_second = loops.operands.second & ~_within(loops.second, lines)
        bad_line = loops.line_end & ~_within(loops.line, lines)
        m.d.sync += [
            held.read.eq(loops.read), held.second.eq(loops.second), held.line.eq(loops.line),
            held.tag.eq(loops.tag), held.operands.eq(loops.operands),
            held.line_end.eq(loops.line_end), held.end.eq(loops.end),
            held.wrong_address.eq(Mux(outside, loops.read, Mux(bad_second, loops.second, wrong_line))),
            held.bad_read.eq(outside & ~table),
            held.bad.eq(outside | bad_second | bad_line | bad_scale),
        ]

    def _report(self, m, held, takes, wrong):
        """The error that an instruction came with, or the one on its way."""
        with m.If(takes & ~wrong):
            m.d.sync += [
                self.code.eq(self.i.p.code),
                self.index.eq(self.i.p.instruction.index),
                self.address.eq(self.i.p.address),
            ]
        with m.If(wrong):
            m.d.sync += [
                self.code.eq(Mux(held.bad_read, ErrorCode.ACCUMULATOR_RANGE, ErrorCode.SCRATCHPAD_RANGE)),
                self.address.eq(held.wrong_address),
            ]


def _within(value, depth):
    """0 <= value < depth, for a power of two."""
    return ~value[(depth - 1).bit_length():].any()


#: Whether a read takes operand A from the scratchpad, and operand B; whether their lines begin and end with it.
_OPERANDS = data.StructLayout(dict.fromkeys(("table", "a_begins", "a_ends", "second", "b_begins", "b_ends"), 1))


class _Loops(wiring.Component):
    """The loop nest (window 0, window 1, step, part, pixel 2, pixel 3) and what follows it.

    The lines of a pixel's results are a level below the pixels, whose iterations end where a step fills a line,
    or with a part. Without block scaling there is no level of parts. Latency: the first read is there in the cycle
    after `load`. Throughput: a read per cycle.

    Members
    -------
    i : In(prepared_layout())
    load : In(1)
        Start over with `i`; without an instruction, what is loaded does not matter.
    take : In(1)
        `i` is one; only with `load`.
    advance : In(1)
        To the next read.
    read, second, line : Out(signed(18))
        The line of operand A to read, operand B's, and the line of results that it may complete.
    operands : Out(_OPERANDS)
        What the read takes from the scratchpad.
    line_end, end : Out(1)
        It completes the line; it is the instruction's last.
    tag : Out(tag_layout)
    dynamic_scale : Out(1), scale : Out(signed(18)), scale_begins : Out(1)
        Results take dynamic scales; the line of the pixel's; the pixel's is the first there. Only with block
        scaling.
    """

    def __init__(self, config: ChipConfig):
        self._config, self._geometry = config, Geometry.of(config)
        pointer = signed(POINTER_WIDTH)
        scaled = {"dynamic_scale": Out(1), "scale": Out(pointer), "scale_begins": Out(1)}
        super().__init__({
            "i": In(prepared_layout(config)), "load": In(1), "take": In(1), "advance": In(1),
            "read": Out(pointer), "second": Out(pointer), "line": Out(pointer), "operands": Out(_OPERANDS),
            "line_end": Out(1), "end": Out(1),
            "tag": Out(tag_layout(config)), **(scaled if config.block_scaled else {}),
        })

    def elaborate(self, platform):
        m = Module()
        load, advance, scaled = self.load, self.advance, self._config.block_scaled
        i = self.i.instruction
        counts = [(i.count0, i.a_stride0), (i.count1, i.a_stride1), (self._geometry.steps, None),
                  (i.count2, i.a_stride2), (i.count3, i.a_stride3)]
        if scaled:
            counts.insert(3, (Mux(self.i.dynamic_scale, i.parts, 1), i.part_stride))
        set_ = Signal(range(PARAMETER_SETS), name="set")
        size = Signal(size_shape(self._config), name="size")
        column = Signal(self._geometry.step_width, name="column")       # number of the step
        m.submodules.nest = nest = LoopNest(len(counts))
        m.d.comb += [nest.counts[level].eq(count) for level, (count, _) in enumerate(counts)]
        m.d.comb += [nest.load.eq(load), nest.advance.eq(advance | load)]
        fills = self._fills(m, size, column)
        self._follow_reads(m, nest, [stride for _, stride in counts])
        self._follow_lines(m, nest, fills)
        self._follow_operands(m, nest)
        with m.If(load):
            m.d.sync += [set_.eq(self.i.set), size.eq(self.i.size), column.eq(0)]
        with m.Elif(advance & nest.carry[2:].any()):
            m.d.sync += column.eq(Mux(nest.carry[2], column + 1, 0))
        window_end = nest.last[:2].all()
        m.d.comb += [
            self.line_end.eq(window_end & (nest.last[2] | fills)), self.end.eq(nest.done),
            self.tag.set.eq(set_), self.tag.step.eq(column), self.tag.first.eq(nest.first[:2].all()),
            self.tag.last.eq(window_end),
        ]
        if scaled:
            self._follow_scales(m, nest)
        return m

    def _follow_reads(self, m, nest, strides):
        """Operand A's line: each step starts at the same one."""
        stepping = [level for level, stride in enumerate(strides) if stride is not None]
        held = Signal(data.ArrayLayout(signed(16), len(stepping)), name="a_strides")
        m.submodules.read = read = Pointer(len(strides))
        m.d.comb += [
            *(read.strides[level].eq(held[own]) for own, level in enumerate(stepping)),
            read.load.eq(self.load), read.advance.eq(self.advance | self.load),
            read.base.eq(self.i.instruction.a_line),
            read.carry.eq(nest.carry & ~self.load.replicate(len(strides))),
            self.read.eq(read.value),
        ]
        with m.If(self.load):
            m.d.sync += [held[own].eq(strides[level]) for own, level in enumerate(stepping)]

    def _follow_operands(self, m, nest):
        """Operand B's line, one for each pixel; and with which reads lines from the scratchpad begin and end."""
        i = self.i.instruction
        held = Signal(data.ArrayLayout(signed(16), 2), name="b_strides")
        table, second = Signal(name="table"), Signal(name="has_second")
        m.submodules.second = pointer = Pointer(2)
        # A line serves all its steps, but not if each of them goes through a window.
        alone = nest.first[:2].all() & nest.last[:2].all()
        m.d.comb += [
            pointer.load.eq(self.load), pointer.advance.eq(self.advance | self.load), pointer.base.eq(i.b_line),
            pointer.strides.eq(held), pointer.carry.eq(nest.carry[-2:] & ~self.load.replicate(2)),
            self.second.eq(pointer.value),
            self.operands.table.eq(table), self.operands.second.eq(second),
            self.operands.a_begins.eq(table & (~alone | nest.first[2])),
            self.operands.a_ends.eq(~alone | nest.last[2]),
            self.operands.b_begins.eq(second & nest.first[:3].all()),
            self.operands.b_ends.eq(nest.last[:3].all()),
        ]
        with m.If(self.load):
            m.d.sync += [held[0].eq(i.b_stride2), held[1].eq(i.b_stride3), table.eq(i.a_source == Source.TABLE),
                         second.eq(i.b_use != OperandUse.NONE)]

    def _follow_lines(self, m, nest, fills):
        """The line of results: the next one where a step fills it, and where a part ends."""
        i = self.i.instruction
        held = Signal(data.ArrayLayout(signed(16), 3), name="out_strides")
        m.submodules.line = line = Pointer(3)
        carry = nest.carry[2] & fills
        if self._config.block_scaled:
            carry = carry | nest.carry[3]
        m.d.comb += [
            line.load.eq(self.load), line.advance.eq(self.advance | self.load), line.base.eq(i.out_line),
            line.strides.eq(held),
            line.carry.eq(Cat(carry, nest.carry[-2:]) & ~self.load.replicate(3)),
            self.line.eq(line.value),
        ]
        with m.If(self.load):
            m.d.sync += [own.eq(i[name]) for own, name in
                         zip(held, ("out_step", "out_stride2", "out_stride3"), strict=True)]

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

    def _follow_scales(self, m, nest):
        """Lines of scales: a byte for each pixel."""
        line_bytes = self._config.line_bytes
        byte = Signal(range(line_bytes), name="scale_byte")
        full = byte == line_bytes - 1
        with m.If(self.take):
            m.d.sync += [self.dynamic_scale.eq(self.i.dynamic_scale),
                         self.scale.eq(self.i.instruction.scale_line), byte.eq(0)]
        with m.Elif(self.advance & nest.carry[4:].any()):
            m.d.sync += [byte.eq(byte + 1), self.scale.eq(self.scale + full)]
        pixel_end = nest.last[:4].all()
        m.d.comb += [
            self.scale_begins.eq(self.dynamic_scale & pixel_end & (byte == 0)),
            self.tag.end.eq(pixel_end),
            self.tag.flush.eq(self.dynamic_scale & pixel_end & (full | nest.last[4:].all())),
        ]
