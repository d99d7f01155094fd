"""Walks an instruction's loops: reads, in the order pixel, part, step, window; and where lines go."""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, ErrorCode
from ..lib.loop_nest import POINTER_WIDTH
from ..memory.ports import LINE_ADDRESS
from .loops import Loops
from .shapes import line_order, prepared_layout, request_layout

__all__ = ["AddressGenerator"]


class AddressGenerator(wiring.Component):
    """One read of operand A per cycle, and one line order with the read that completes a line.

    Reads and lines pass a register, where it is known whether they exist, so that no range check delays the
    loops. An instruction's first read comes two cycles after the last read of the one before; but where the
    results of two leave the datapath by different ways, the second waits for the first's last write. Errors are
    found as lines are reached: ACCUMULATOR_RANGE at a read, or SCRATCHPAD_RANGE if it is one of the scratchpad;
    then for operand B; SCRATCHPAD_RANGE at the read that completes the line, of a row's with the last iteration of
    level 2, and of the largest of a row with its first read, before which their orders go, one a cycle. A line of
    scales is checked at the last read of the first pixel with a scale there, after that pixel's
    lines.

    Members
    -------
    i : In(stream of prepared_layout())
    requests : Out(stream of request_layout())
    a, b : Out(stream of LINE_ADDRESS)
        Lines of operands to fetch from the scratchpad. Valid only together with `requests`.
    orders : Out(stream of line orders)
        Valid only together with `requests`, but for those of the largest of a row.
    scales : Out(stream of LINE_ADDRESS)
        Where a line of scales goes, together with the order that says `flush`; only with dynamic scales.
    room : In(1)
        Three more of each of these will find room, as of a cycle ago; their `ready` is not looked at.
    top : Out(1)
        The instruction takes the largest of rows; only in a chip with `top_k`.
    settled : In(1)
        All that was asked for has been written.
    clear : In(1)
        Forget everything, a failure too.
    busy : Out(1)
        An instruction is being walked, or its last read has not gone.
    pending : Out(1)
        A read has not gone: it may be one of before the instruction that failed.
    waits : Out(1)
        An instruction waits for `settled`.
    failed : Out(1)
        The instruction had an error, at once or on the way; nothing more happens until `clear`.
    code, index, address
        Which error, of which instruction; valid and unchanged while `failed`.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        scaled = {"scales": Out(stream.Signature(LINE_ADDRESS))}
        super().__init__({
            "i": In(stream.Signature(prepared_layout(config))),
            "requests": Out(stream.Signature(request_layout(config))),
            "orders": Out(stream.Signature(line_order(config))),
            "a": Out(stream.Signature(LINE_ADDRESS)), "b": Out(stream.Signature(LINE_ADDRESS)),
            "room": In(1), "settled": In(1), "waits": Out(1), "clear": In(1),
            "busy": Out(1), "pending": Out(1), "failed": Out(1),
            "code": Out(ErrorCode), "index": Out(INDEX_WIDTH), "address": Out(signed(POINTER_WIDTH)),
            **(scaled if config.dynamic_scales else {}),
            **({"top": Out(1)} if config.top_k else {}),
        })

    def elaborate(self, platform):
        m = Module()
        walking = Signal()
        m.submodules.loops = loops = Loops(self._config)
        # The read that comes next, with the line that it may complete.
        held = Signal(data.StructLayout({
            "read": loops.read.shape(), "second": loops.second.shape(), "line": loops.line.shape(),
            "tag": loops.tag.shape(), "way": loops.way.shape(), "operands": loops.operands.shape(),
            "line_end": 1, "end": 1, "bad_read": 1, "bad": 1, "wrong_address": signed(POINTER_WIDTH),
            **({"goes": 1} if self._config.top_k else {}),
        }), reset_less=True)
        valid, wrong, good_read = Signal(), Signal(), Signal()
        take, advance, takes = Signal(), Signal(), ~walking & ~self.failed
        bad_scale, wrong_line, may_take = Const(0, 1), loops.line, Const(1, 1)
        if len(loops.way.as_value()):
            may_take = (self.i.p.way.as_value() == loops.way.as_value()) | (self.settled & ~valid)
            m.d.comb += self.waits.eq(takes & self.i.valid & ~may_take)
        if self._config.dynamic_scales:
            bad_scale, wrong_line = self._scales(m, loops, valid & ~held.bad)
        reads = good_read & held.goes if self._config.top_k else good_read
        m.d.comb += [
            loops.i.eq(self.i.p), loops.load.eq(~walking), loops.take.eq(take), loops.advance.eq(advance),
            take.eq(self.i.valid & self.i.ready), advance.eq(walking & self.room),
            self.i.ready.eq(takes & may_take & ~wrong),
            wrong.eq(valid & held.bad),
            good_read.eq(valid & ~held.bad),
            self.requests.valid.eq(reads),
            self.requests.p.address.eq(held.read), self.requests.p.tag.eq(held.tag),
            self.requests.p.fetched.eq(held.operands.fetched), self.requests.p.a_ends.eq(held.operands.a_ends),
            self.requests.p.second.eq(held.operands.second), self.requests.p.b_ends.eq(held.operands.b_ends),
            self.a.valid.eq(reads & held.operands.a_begins), self.a.payload.eq(held.read),
            self.b.valid.eq(reads & held.operands.b_begins), self.b.payload.eq(held.second),
            self.orders.valid.eq(good_read & held.line_end),
            self.orders.p.address.eq(held.line),
            self.orders.p.last.eq(held.end),
            self.busy.eq(walking | valid), self.pending.eq(valid),
        ]
        if self._config.functions:
            slow = held.way.function & ~held.way.row
            m.d.comb += self.requests.p.slow.eq(slow | held.way.top if self._config.top_k else slow)
        if self._config.top_k:
            m.d.comb += [self.requests.p.top.eq(held.way.top), self.top.eq(loops.way.top)]
            m.d.sync += held.goes.eq(loops.goes)
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
        lines, fetched = self._config.scratchpad_lines, loops.operands.fetched
        outside = Mux(fetched, ~_within(loops.read, lines), ~_within(loops.read, self._config.accumulator_lines))
        bad_second = loops.operands.second & ~_within(loops.second, lines)
        bad_line = loops.line_end & ~_within(loops.line, lines)
        m.d.sync += [
            held.read.eq(loops.read), held.second.eq(loops.second), held.line.eq(loops.line),
            held.tag.eq(loops.tag), held.way.eq(loops.way), held.operands.eq(loops.operands),
            held.line_end.eq(loops.line_end), held.end.eq(loops.last_line if self._config.top_k else loops.end),
            held.wrong_address.eq(Mux(outside, loops.read, Mux(bad_second, loops.second, wrong_line))),
            held.bad_read.eq(outside & ~fetched),
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
