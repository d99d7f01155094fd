"""Collects the results of steps into lines."""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from .shapes import Geometry

__all__ = ["Assemble"]


class Assemble(wiring.Component):
    """Bytes or 32-bit words of successive steps into a line, whose rest is zero.

    Latency :data:`LATENCY` = 1 cycle from the step that completes a line, one step per cycle. A line of bytes
    begins with step 0 and ends with the last one; a line of words also begins and ends where `slots` steps
    have filled one.

    Members
    -------
    valid : In(1)
        A step's results are here.
    step : In
        Its number; steps come in order.
    words : In(1)
        Take `word` rather than `byte`.
    word : In(array of 32)
    byte : In(array of signed(8))
    line : Out(line)
    done : Out(1)
        `line` is complete; only in this cycle.
    """

    LATENCY = 1

    def __init__(self, config: ChipConfig):
        self._geometry = geometry = Geometry.of(config)
        super().__init__({
            "valid": In(1), "step": In(geometry.step_width), "words": In(1),
            "word": In(data.ArrayLayout(32, geometry.lanes)),
            "byte": In(data.ArrayLayout(signed(8), geometry.lanes)),
            "line": Out(8 * geometry.line_bytes), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        geometry = self._geometry
        lanes = geometry.lanes
        slot = self.step[:geometry.slot_width] if geometry.slots > 1 else Const(0, 1)
        last = self.step == geometry.steps - 1
        ends = last | (self.words & (slot == geometry.slots - 1))
        starts = Mux(self.words, slot == 0, self.step == 0)
        m.d.sync += self.done.eq(self.valid & ends)

        word = Signal.like(self.word)
        for lane in range(lanes):
            # The last step may reach beyond the last column.
            beyond = last if (geometry.steps - 1) * lanes + lane >= geometry.columns else 0
            m.d.comb += word[lane].eq(Mux(beyond, 0, self.word[lane]))
        with m.If(self.valid):
            for at in range(geometry.line_bytes):
                byte = self.line[8 * at:8 * at + 8]
                lane, number = at // 4 % lanes, at // 4 // lanes
                with m.If(self.words & (slot == number)):
                    m.d.sync += byte.eq(word[lane][at % 4 * 8:at % 4 * 8 + 8])
                # Not elif: bytes beyond the columns have no step.
                with m.Elif(~self.words & (self.step == at // lanes if at < geometry.columns else Const(0, 1))):
                    m.d.sync += byte.eq(self.byte[at % lanes])
                with m.Elif(starts):
                    m.d.sync += byte.eq(0)
        return m
