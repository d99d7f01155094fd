"""Operands from the scratchpad: lines to the words that the lanes take."""

from amaranth.hdl import Cat, Const, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..lib.delay import delay
from ..timing import READ_LATENCY
from .shapes import Geometry, tag_layout
from .tables import OperandTable, table_write

__all__ = ["OperandWords"]


class OperandWords(wiring.Component):
    """Words of operands A and B for a step's lanes: those that the tables have for bytes, or what the lines hold.

    Latency READ_LATENCY cycles, as that of an accumulator read; one step per cycle.

    Members
    -------
    read : In(1)
        There is a read.
    tag : In(tag)
        Its step, and with functions where its words come from.
    a_line, b_line : In(line)
    a, b : Out(lanes * 32)
    table : In(table_write())
        Not while a read is on its way.
    """

    def __init__(self, config: ChipConfig):
        self._config, self._geometry = config, Geometry.of(config)
        line, words = 8 * config.line_bytes, 32 * config.vector_lanes
        super().__init__({
            "read": In(1), "tag": In(tag_layout(config)), "a_line": In(line), "b_line": In(line),
            "a": Out(words), "b": Out(words), "table": In(table_write()),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.a_table = a_table = OperandTable(self._config)
        m.submodules.b_table = b_table = OperandTable(self._config)
        for index, (table, line, o) in enumerate(((a_table, self.a_line, self.a), (b_table, self.b_line, self.b))):
            m.d.comb += [
                table.read.eq(self.read), table.line.eq(line), table.step.eq(self.tag.step), o.eq(table.o),
                table.write.enable.eq(self.table.enable[index]), table.write.address.eq(self.table.address),
                table.write.data.eq(self.table.data),
            ]
        if self._config.functions:
            self._without_tables(m, a_table)
        return m

    def _without_tables(self, m, a_table):
        """Words, BF16 and bytes as they are; and B's bytes, which go off those of A."""
        lanes, tag = self._config.vector_lanes, self.tag
        slot = tag.step[:self._geometry.slot_width]
        a, b = (line.word_select(slot, 32 * lanes) for line in (self.a_line, self.b_line))
        b = Mux(tag.b_row, self.b_line[:32].replicate(lanes), b)
        a_bytes, b_bytes = (line.word_select(tag.step, 8 * lanes) for line in (self.a_line, self.b_line))
        wide, offset = [], []
        for lane in range(lanes):
            byte, other = (bytes_.word_select(lane, 8) for bytes_ in (a_bytes, b_bytes))
            wide.append(Cat(byte, byte[7].replicate(24)))
            offset.append(Mux(tag.b_words, b.word_select(lane, 32)[:8], other) & tag.index.replicate(8))
        m.d.comb += a_table.offset.eq(Cat(offset))
        a, b = (Mux(half, self._halves(line), words) for half, line, words in (
            (tag.a_half, self.a_line, a), (tag.b_half, self.b_line, b)))
        a = delay(m, Mux(tag.a_bytes, Cat(wide), a), "a_taken", READ_LATENCY)
        b = delay(m, b, "b_taken", READ_LATENCY)
        flags = delay(m, Cat(tag.a_words | tag.a_bytes, tag.b_words), "taken", READ_LATENCY)
        with m.If(flags[0]):
            m.d.comb += self.a.eq(a)
        with m.If(flags[1]):
            m.d.comb += self.b.eq(b)

    def _halves(self, line):
        """BF16 numbers as FP32: 16 zero bits below."""
        lanes = self._config.vector_lanes
        halves = line.word_select(self.tag.step[:self._geometry.slot_width + 1], 16 * lanes)
        return Cat(Cat(Const(0, 16), halves.word_select(lane, 16)) for lane in range(lanes))
