"""Constant words, as block RAM where there is some."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..lib.delay import delay

__all__ = ["Rom"]


class Rom(wiring.Component):
    """Words that never change; one read per cycle, whose word comes two cycles after its address.

    It is no memory but a choice among constants, since what is in it must be there without being loaded: Verilog
    without initial values has it too, an ASIC's flow makes logic of it, and yosys a block RAM, whose output is
    the first of the two registers.

    Parameters
    ----------
    width : int
        Bits of a word.
    words : sequence of int
        As many as a power of two.

    Members
    -------
    read : In(range(len(words)))
        The word to read; from a register.
    o : Out(width)
        Two cycles later: the word; a register.
    """

    def __init__(self, width, words):
        self._words = tuple(words)
        if len(self._words) < 2 or len(self._words) & len(self._words) - 1:
            raise ValueError(f"Rom words must be a power of two of them, not {len(self._words)}")
        for word in self._words:
            if not 0 <= word < 1 << width:
                raise ValueError(f"Rom words must have {width} bits, not {word:#x}")
        super().__init__({"read": In(range(len(self._words))), "o": Out(width)})

    def elaborate(self, platform):
        m = Module()
        word = Signal.like(self.o)
        with m.Switch(self.read):
            for index, value in enumerate(self._words):
                with m.Case(index):
                    m.d.comb += word.eq(value)
        m.d.comb += self.o.eq(delay(m, word, "word", 2))
        return m
