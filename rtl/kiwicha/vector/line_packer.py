"""Collects the results of steps into lines."""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..timing import LINE_PACKER
from .shapes import Geometry, Size, size_shape

__all__ = ["LinePacker"]


class LinePacker(wiring.Component):
    """Results of successive steps, 4 to 32 bits wide, into a line, whose rest is zero.

    Latency :data:`LATENCY` = 1 cycle from the step that completes a line, one step per cycle. A line begins
    with step 0 and ends with the last one; it also begins and ends where steps have filled one, which they do
    only with results of 16 and 32 bits.

    Members
    -------
    valid : In(1)
        A step's results are here.
    step : In
        Its number; steps come in order.
    size : In
        Which results to take, a :class:`.shapes.Size`.
    word : In(array of 32)
    byte : In(array of signed(8))
    half : In(array of 16)
        Only with block scaling.
    nibble : In(array of 4)
        Only in a chip with E2M1 results.
    line : Out(line)
    done : Out(1)
        `line` is complete; only in this cycle.
    """

    LATENCY = LINE_PACKER

    def __init__(self, config: ChipConfig):
        self._geometry = geometry = Geometry.of(config)
        self._sizes = [Size.BYTE, Size.WORD]
        if config.has_float_results:
            self._sizes.append(Size.NIBBLE)
        if config.block_scaled:
            self._sizes.append(Size.HALF)
        shapes = {Size.BYTE: signed(8)}
        super().__init__({
            "valid": In(1), "step": In(geometry.step_width), "size": In(size_shape(config)),
            **{size.name.lower(): In(data.ArrayLayout(shapes.get(size, size.bits), geometry.lanes))
               for size in self._sizes},
            "line": Out(8 * geometry.line_bytes), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        geometry = self._geometry
        last = self.step == geometry.steps - 1
        starts = Signal()
        fills = Signal()
        m.d.sync += self.done.eq(self.valid & (last | fills))
        results = {size: self._results(m, size, last) for size in self._sizes}
        slots = {size: self._slot(size) for size in self._sizes}
        with m.Switch(self.size):
            for size in self._sizes:
                with m.Case(size.value):
                    m.d.comb += [starts.eq(slots[size] == 0), fills.eq(slots[size] == geometry.slots_of(size) - 1)]

        grain = min(size.bits for size in self._sizes)
        for at in range(0, len(self.line), grain):
            bits = self.line[at:at + grain]
            mine = Signal(name=f"mine{at}")
            value = Signal(grain, name=f"value{at}")
            with m.Switch(self.size):
                for size in self._sizes:
                    slot, lane = divmod(at // size.bits, geometry.lanes)
                    # Where one line is enough, what no step fills needs no zeros but those of the start.
                    if geometry.slots_of(size) < geometry.steps or at // size.bits < geometry.columns:
                        with m.Case(size.value):
                            result = results[size][lane][at % size.bits:at % size.bits + grain]
                            m.d.comb += [mine.eq(slots[size] == slot), value.eq(result)]
            with m.If(self.valid & (mine | starts)):
                m.d.sync += bits.eq(Mux(mine, value, 0))
        return m

    def _slot(self, size):
        """Where in its line a step goes."""
        width = (self._geometry.slots_of(size) - 1).bit_length()
        return self.step[:width] if width else Const(0, 1)

    def _results(self, m, size, last):
        """A step's results. Where one line is not enough, what is beyond the last column is zero."""
        geometry = self._geometry
        results = getattr(self, size.name.lower())
        if geometry.slots_of(size) >= geometry.steps:
            return [results[lane] for lane in range(geometry.lanes)]
        return [Mux(last, 0, results[lane]) if (geometry.steps - 1) * geometry.lanes + lane >= geometry.columns
                else results[lane] for lane in range(geometry.lanes)]
