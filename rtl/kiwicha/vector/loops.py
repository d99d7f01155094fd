"""The vector unit's loop nest, and the lines that follow it."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import TOP_MOST, OperandUse, SecondSource, Source
from ..lib.loop_nest import POINTER_WIDTH, LoopNest, Pointer
from ..timing import PARAMETER_SETS
from .fields import takes_itself
from .shapes import Geometry, Size, prepared_layout, size_shape, tag_layout, way_layout

__all__ = ["OPERANDS", "Loops"]

#: Whether a read takes operand A from the scratchpad, and operand B; whether their lines begin and end with it.
OPERANDS = data.StructLayout(dict.fromkeys(("fetched", "a_begins", "a_ends", "second", "b_begins", "b_ends"), 1))


class Loops(wiring.Component):
    """The loop nest (window 0, window 1, step, part, pixel 2, pixel 3) and what follows it.

    The lines of a pixel's results are a level below the pixels, whose iterations end where a step fills a line,
    or with a part. Without dynamic scales there is no level of parts. Latency: the first read is there in the
    cycle after `load`. Throughput: a read per cycle. Where the largest of a row are taken, the lines of these come
    one after the other before the row's first read, which says meanwhile that it does not go.

    Members
    -------
    i : In(prepared_layout())
    load : In(1)
        Start over with `i`; without an instruction, what is loaded does not matter.
    take : In(1)
        `i` is one; only with `load`.
    advance : In(1)
        To the next read, or line.
    read, second, line : Out(signed(18))
        The line of operand A to read, operand B's, and the line of results that it may complete.
    operands : Out(OPERANDS)
        What the read takes from the scratchpad.
    line_end, end : Out(1)
        It completes the line; it is the instruction's last.
    goes, last_line : Out(1)
        It is a read; the line is the instruction's last. Only in a chip with `top_k`: elsewhere all are reads, and
        the last one's line is the last.
    tag : Out(tag_layout)
    way : Out(way_layout())
        The instruction's; until the next one is taken.
    scale : Out(signed(18)), scale_begins : Out(1)
        The line of the pixel's scale; the pixel's is the first there. Only with dynamic scales.
    """

    def __init__(self, config: ChipConfig):
        self._config, self._geometry = config, Geometry.of(config)
        pointer = signed(POINTER_WIDTH)
        scaled = {"scale": Out(pointer), "scale_begins": Out(1)}
        super().__init__({
            "i": In(prepared_layout(config)), "load": In(1), "take": In(1), "advance": In(1),
            "read": Out(pointer), "second": Out(pointer), "line": Out(pointer), "operands": Out(OPERANDS),
            "line_end": Out(1), "end": Out(1),
            "tag": Out(tag_layout(config)), "way": Out(way_layout(config)),
            **(scaled if config.dynamic_scales else {}),
            **({"goes": Out(1), "last_line": Out(1)} if config.top_k else {}),
        })

    def elaborate(self, platform):
        m = Module()
        load, scaled = self.load, self._config.dynamic_scales
        # To the next read.
        advance = self._advance = self.advance & self.goes if self._config.top_k else self.advance
        i = self.i.instruction
        counts = [(i.count0, i.a_stride0), (i.count1, i.a_stride1), (self._geometry.steps, None),
                  (i.count2, i.a_stride2), (i.count3, i.a_stride3)]
        if scaled:
            counts.insert(3, (Mux(self.i.way.dynamic_scale, i.parts, 1), i.part_stride))
        set_ = Signal(range(PARAMETER_SETS), name="set")
        size = Signal(size_shape(self._config), name="size")
        column = Signal(self._geometry.step_width, name="column")       # number of the step
        m.submodules.nest = nest = LoopNest(len(counts))
        m.d.comb += [nest.counts[level].eq(count) for level, (count, _) in enumerate(counts)]
        m.d.comb += [nest.load.eq(load), nest.advance.eq(advance | load)]
        # Of several lines of words, the one that this step takes.
        self._a_offset = self._b_offset = 0
        if self._config.functions:
            tag = self.tag
            self._a_offset, self._a_slot = self._in_words(column, tag.a_words, tag.a_half)
            self._b_offset, self._b_slot = self._in_words(column, tag.b_words & ~tag.b_row, tag.b_half)
        fills = self._fills(m, size, column)
        self._follow_reads(m, nest, [stride for _, stride in counts])
        self._follow_lines(m, nest, fills)
        self._follow_operands(m, nest)
        with m.If(load):
            m.d.sync += [set_.eq(self.i.set), size.eq(self.i.size), column.eq(0)]
        with m.Elif(advance & nest.carry[2:].any()):
            m.d.sync += column.eq(Mux(nest.carry[2], column + 1, 0))
        window_end, line_end = nest.last[:2].all(), Signal()
        m.d.comb += [
            line_end.eq(window_end & (nest.last[2] | fills)), self.end.eq(nest.done),
            self.line_end.eq(line_end & (~self.way.row | nest.last[-2]) if self._config.functions else line_end),
            self.tag.set.eq(set_), self.tag.step.eq(column), self.tag.first.eq(nest.first[:2].all()),
            self.tag.last.eq(window_end),
        ]
        with m.If(self.take):
            m.d.sync += self.way.eq(self.i.way)
        if scaled:
            self._follow_scales(m, nest)
        if self._config.top_k:
            with m.If(self.way.top):
                m.d.comb += [self.line_end.eq(~self.goes), self.end.eq(self.goes & nest.done)]
        return m

    def _in_words(self, column, words, half):
        """Of several lines of `words`, the one that a step takes, and whether it opens that line and fills it."""
        width = self._geometry.slot_width
        (slot, line), (half_slot, half_line) = ((column[:bits], column[bits:]) for bits in (width, width + 1))
        opens, fills = Mux(half, ~half_slot.any(), ~slot.any()), Mux(half, half_slot.all(), slot.all())
        return Mux(words, Mux(half, half_line, line), 0), (words & opens, words & fills)

    def _follow_reads(self, m, nest, strides):
        """Operand A's line: each step starts at the same one."""
        stepping = [level for level, stride in enumerate(strides) if stride is not None]
        held = Signal(data.ArrayLayout(signed(16), len(stepping)), name="a_strides")
        m.submodules.read = read = Pointer(len(strides))
        m.d.comb += [
            *(read.strides[level].eq(held[own]) for own, level in enumerate(stepping)),
            read.load.eq(self.load), read.advance.eq(self._advance | self.load),
            read.base.eq(self.i.instruction.a_line),
            read.carry.eq(nest.carry & ~self.load.replicate(len(strides))),
            self.read.eq(read.value + self._a_offset),
        ]
        with m.If(self.load):
            m.d.sync += [held[own].eq(strides[level]) for own, level in enumerate(stepping)]

    def _follow_operands(self, m, nest):
        """Operand B's line, one for each pixel; and with which reads lines from the scratchpad begin and end."""
        i = self.i.instruction
        held = Signal(data.ArrayLayout(signed(16), 2), name="b_strides")
        fetched, second = Signal(name="fetched"), Signal(name="has_second")
        a_begins, a_ends, b_begins, b_ends = [nest.first[2], nest.last[2]] * 2
        if self._config.functions:
            a_begins, a_ends, b_begins, b_ends = self._follow_words(m, nest)
        m.submodules.second = pointer = Pointer(2)
        # A line serves all its steps, but not if each of them goes through a window.
        alone = nest.first[:2].all() & nest.last[:2].all()
        m.d.comb += [
            pointer.load.eq(self.load), pointer.advance.eq(self._advance | self.load), pointer.base.eq(i.b_line),
            pointer.strides.eq(held), pointer.carry.eq(nest.carry[-2:] & ~self.load.replicate(2)),
            self.second.eq(pointer.value + self._b_offset),
            self.operands.fetched.eq(fetched), self.operands.second.eq(second),
            self.operands.a_begins.eq(fetched & (~alone | a_begins)),
            self.operands.a_ends.eq(~alone | a_ends),
            self.operands.b_begins.eq(second & nest.first[:2].all() & b_begins),
            self.operands.b_ends.eq(nest.last[:2].all() & b_ends),
        ]
        with m.If(self.load):
            own_line, has_second = 1, i.b_use != OperandUse.NONE
            if self._config.functions:
                # What A itself serves as needs no line.
                own_line, has_second = i.b_source != SecondSource.ROW, has_second & ~takes_itself(i)
            m.d.sync += [held[0].eq(Mux(own_line, i.b_stride2, 0)), held[1].eq(i.b_stride3),
                         fetched.eq(i.a_source != Source.ACCUMULATOR), second.eq(has_second)]

    def _follow_words(self, m, nest):
        """Whether a step begins a line of operand A, and ends it, and the same of B; and what is a row's."""
        i, tag = self.i.instruction, self.tag
        flags = Cat(tag.a_words, tag.a_half, tag.a_bytes, tag.b_words, tag.b_half, tag.b_row, tag.index)
        held = Signal(len(flags), name="sources")
        with m.If(self.load):
            m.d.sync += held.eq(Cat(i.a_source == Source.WORDS, i.a_bf16, i.a_source == Source.BYTES,
                                    i.b_source != SecondSource.TABLE, i.b_bf16,
                                    i.b_source == SecondSource.ROW, i.b_use == OperandUse.INDEX))
        m.d.comb += [
            flags.eq(held),
            tag.rescale.eq(self.way.rescale),
            tag.row_tail.eq(nest.last[-2]), tag.row_begins.eq(nest.first[2] & nest.first[-2]),
            tag.row_ends.eq(nest.last[2] & nest.last[-2]),
        ]
        first, last = nest.first[2], nest.last[2]
        row_first, row_last = first & nest.first[-2], last & nest.last[-2]
        if self._config.dynamic_scales:
            # Only a row's word serves several parts.
            row_first, row_last = row_first & nest.first[3], row_last & nest.last[3]
        (a_opens, a_fills), (b_opens, b_fills) = self._a_slot, self._b_slot
        return (first | a_opens, last | a_fills, Mux(tag.b_row, row_first, first | b_opens),
                Mux(tag.b_row, row_last, last | b_fills))

    def _follow_lines(self, m, nest, fills):
        """The line of results: the next one where a step fills it, and where a part ends."""
        i = self.i.instruction
        held = Signal(data.ArrayLayout(signed(16), 3), name="out_strides")
        m.submodules.line = line = Pointer(3)
        carry = nest.carry[2] & fills
        if self._config.dynamic_scales:
            carry = carry | nest.carry[3]
        carry = Cat(carry, nest.carry[-2:])
        if self._config.top_k:
            carry = self._follow_top(m, nest, carry)
        m.d.comb += [
            line.load.eq(self.load), line.advance.eq(self.advance | self.load), line.base.eq(i.out_line),
            line.strides.eq(held),
            line.carry.eq(carry & ~self.load.replicate(3)),
            self.line.eq(line.value),
        ]
        with m.If(self.load):
            m.d.sync += [own.eq(i[name]) for own, name in
                         zip(held, ("out_step", "out_stride2", "out_stride3"), strict=True)]
            if self._config.functions:
                with m.If(i.row & (i.top == 0) if self._config.top_k else i.row):
                    m.d.sync += held[1].eq(0)

    def _follow_top(self, m, nest, carry):
        """The lines of a row's largest and of their places, before its first read; how the line goes on."""
        word_lines = self._geometry.word_lines
        # A result's line, the result, and the last one's upper bits: there is an even number of them.
        step, result = Signal(range(max(2, word_lines))), Signal(range(2 * TOP_MOST))
        last = Signal(range(TOP_MOST), name="last_top")
        done, step_ends, ends = Signal(name="top_done"), Signal(), Signal(name="top_ends")
        m.d.comb += [
            self.goes.eq(~(self.way.top & nest.first[:-1].all() & ~done)),
            step_ends.eq(step == word_lines - 1), ends.eq(step_ends & (result == Cat(Const(1, 1), last))),
            self.last_line.eq(Mux(self.way.top, ends & nest.last[-1], nest.done)),
        ]
        with m.If(self.load):
            m.d.sync += [last.eq(self.i.instruction.top - 1), step.eq(0), result.eq(0), done.eq(0)]
        with m.Elif(self.advance & ~self.goes):
            m.d.sync += [step.eq(Mux(step_ends, 0, step + 1)), done.eq(ends)]
            with m.If(step_ends):
                m.d.sync += result.eq(Mux(ends, 0, result + 1))
        with m.Elif(self.advance):
            m.d.sync += done.eq(0)
        own = Cat(~step_ends, step_ends & ~ends, ends) & ~self.goes.replicate(3)
        return Mux(self.way.top, own, carry)

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
            m.d.sync += [self.scale.eq(self.i.instruction.scale_line), byte.eq(0)]
        with m.Elif(self.advance & nest.carry[4:].any()):
            m.d.sync += [byte.eq(byte + 1), self.scale.eq(self.scale + full)]
        pixel_end, dynamic_scale = nest.last[:4].all(), self.way.dynamic_scale
        m.d.comb += [
            self.scale_begins.eq(dynamic_scale & pixel_end & (byte == 0)),
            self.tag.end.eq(pixel_end),
            self.tag.flush.eq(dynamic_scale & pixel_end & (full | nest.last[4:].all())),
        ]
