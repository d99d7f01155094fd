"""The scratchpad side of a transfer: which bytes go to which line, one line after the other."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import INDEX_WIDTH, ErrorCode
from ..lib.loop_nest import POINTER_WIDTH, LoopNest, Pointer
from .transfer import segment_descriptor

__all__ = ["SegmentGenerator", "segment_error", "segment_layout"]


def segment_layout(config: ChipConfig) -> data.StructLayout:
    """The first `count` bytes of `line` (0 if the line is all `fill`); `last` of its instruction.

    `bad`: no segment, but an instruction with a FIELD error; `line` is the value. With `wrong` too, which a chip
    with `indices` has: its index is wrong. `stop`: bad, or the scratchpad has no such line;
    SegmentGenerator.stop_index says whose.
    """
    return data.StructLayout({
        "line": signed(POINTER_WIDTH), "count": range(config.line_bytes + 1), "fill": 8, "last": 1, "bad": 1,
        "stop": 1, **({"wrong": 1} if config.indices else {})})


def segment_error(segment, wrong_index):
    """The code and the address of the error that a segment with `stop` is."""
    code, address = Mux(segment.bad, ErrorCode.FIELD, ErrorCode.SCRATCHPAD_RANGE), segment.line
    if wrong_index is None:
        return code, address
    return Mux(segment.wrong, ErrorCode.INDEX, code), Mux(segment.wrong, wrong_index, address)


class SegmentGenerator(wiring.Component):
    """Emits a transfer's segments in order, one per cycle, from two cycles after its descriptor was taken; without
    a gap between transfers of two segments and more.

    Whoever takes segments stops at the first with `stop`. All of `o` but `line` and `stop` are registers.

    Members
    -------
    i : In(stream of segment_descriptor())
    o : Out(stream of segment_layout())
    stop_index : Out(24)
        After a segment with `stop`, until reset: the instruction's index.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(segment_descriptor(config))),
            "o": Out(stream.Signature(segment_layout(config))),
            "stop_index": Out(INDEX_WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.nest = nest = LoopNest(2)
        m.submodules.pointer = pointer = Pointer(3)
        active = Signal()
        layout = segment_descriptor(self.config)
        descriptor = Signal(layout, reset_less=True)
        advance = Signal()
        final = Signal()
        # The next descriptor: LUT RAM is slow, and the loops' registers many.
        new, waits = Signal(layout, reset_less=True), Signal()
        # Bytes of the row behind this segment, minus one: negative in the row's last segment, which so shows in
        # one bit of a register and needs no division.
        behind = Signal(signed(25), reset_less=True)
        ends_row = behind[-1]
        count = Signal(range(self.config.line_bytes + 1), reset_less=True)
        stopped = Signal()
        lines = (self.config.scratchpad_lines - 1).bit_length()
        m.d.comb += [
            # The next descriptor is loaded in this one's last cycle; without one, what is loaded does not matter.
            # Not nest.done: with its carries, what enables a level of the pointer is one look-up table.
            final.eq(~active | (ends_row & ~nest.carry.any())),
            advance.eq(~active | self.o.ready),
            self.i.ready.eq(~waits),
            nest.load.eq(final),
            nest.counts[0].eq(new.rows),
            nest.counts[1].eq(new.planes),
            nest.advance.eq(advance & (final | ends_row)),
            pointer.load.eq(final),
            pointer.base.eq(new.line),
            pointer.strides.eq(descriptor.strides),
            pointer.advance.eq(advance),
            # The loop nest's have none at their end, which is when it loads.
            pointer.carry.eq(Cat(~ends_row, nest.carry & ends_row.replicate(2)) & active.replicate(3)),
            self.o.valid.eq(active),
            self.o.payload.line.eq(pointer.value),
            self.o.payload.count.eq(count),
            self.o.payload.fill.eq(descriptor.fill),
            self.o.payload.last.eq(ends_row & nest.done),
            self.o.payload.bad.eq(descriptor.bad),
            self.o.payload.stop.eq(descriptor.bad | pointer.value[lines:].any()),
        ]
        if self.config.indices:
            m.d.comb += self.o.payload.wrong.eq(descriptor.wrong)
        with m.If(~waits):
            m.d.sync += [new.eq(self.i.payload), waits.eq(self.i.valid)]
        with m.Elif(advance & final):
            m.d.sync += waits.eq(0)
        after = Signal.like(behind)
        m.d.comb += after.eq(behind - descriptor.segment_bytes)
        with m.If(advance & final):
            m.d.sync += [descriptor.eq(new), active.eq(waits), behind.eq(new.behind), count.eq(new.first)]
        with m.Elif(advance):
            m.d.sync += behind.eq(Mux(ends_row, descriptor.behind, after))
            with m.If(ends_row | descriptor.fill_only):
                m.d.sync += count.eq(descriptor.first)
            with m.Else():
                m.d.sync += count.eq(Mux(after[-1], behind + 1, descriptor.segment_bytes))
        with m.If(advance & ~stopped):
            m.d.sync += [self.stop_index.eq(descriptor.index), stopped.eq(active & self.o.payload.stop)]
        return m
