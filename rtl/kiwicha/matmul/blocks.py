"""Which weight tiles share a scale."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Blocks"]


class Blocks(wiring.Component):
    """Cuts the iterations of a loop over weight tiles into blocks of `size`; the last block may have fewer.

    Members
    -------
    load : In(1)
        Start over with `size` (at least 1) in a block; wins over the others.
    size : In(8)
    advance : In(1)
        To the loop's next weight tile.
    restart : In(1)
        To the first weight tile of the loop's next round.
    last : In(1)
        This is the last weight tile of the round.
    begin, end : Out(1)
        This is the first (last) weight tile of a block.
    first : Out(1)
        This is in the first block of the round.
    """

    load: In(1)
    size: In(8)
    advance: In(1)
    restart: In(1)
    last: In(1)
    begin: Out(1)
    end: Out(1)
    first: Out(1)

    def elaborate(self, platform):
        m = Module()
        top = Signal(8)         # size - 1, to start each block with
        left = Signal(8)        # weight tiles after this one
        full = Signal()         # there are none
        m.d.comb += self.end.eq(full | self.last)
        with m.If(self.load):
            m.d.sync += [top.eq(self.size - 1), left.eq(self.size - 1), full.eq(self.size == 1),
                         self.begin.eq(1), self.first.eq(1)]
        with m.Elif(self.restart | (self.advance & self.end)):
            m.d.sync += [left.eq(top), full.eq(top == 0), self.begin.eq(1), self.first.eq(self.restart)]
        with m.Elif(self.advance):
            m.d.sync += [left.eq(left - 1), full.eq(left == 1), self.begin.eq(0)]
        return m
