"""Which columns are converted in a step: out of an accumulator line, and out of the parameters."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..lib.delay import delay
from ..timing import PARAMETER_SETS, column_select
from .shapes import Geometry

__all__ = ["ColumnParameters", "ColumnSelect"]


class ColumnSelect(wiring.Component):
    """The words of step number `step` of an accumulator line, through registered 4-to-1 multiplexers.

    Words beyond the last column are zero. Latency :attr:`latency` cycles (1 for up to 4 steps, 2 for up to
    16, else 3), one line per cycle.

    Members
    -------
    line : In(columns * 32)
    step : In
    o : Out(lanes * 32)
    """

    def __init__(self, config: ChipConfig):
        self._geometry = geometry = Geometry.of(config)
        self.latency = column_select(config)
        super().__init__({
            "line": In(32 * geometry.columns),
            "step": In(geometry.step_width),
            "o": Out(32 * geometry.lanes),
        })

    def elaborate(self, platform):
        m = Module()
        width = len(self.o)
        line = Signal(self._geometry.steps * width)
        m.d.comb += line.eq(self.line)
        groups = [line[at:at + width] for at in range(0, len(line), width)]
        step = self.step
        for level in range(self.latency):
            groups = [delay(m, _choose(groups[at:at + 4], step[:2]), f"level{level}_{at // 4}")
                      for at in range(0, len(groups), 4)]
            step = delay(m, step[2:], f"step{level}") if len(step) > 2 else Signal(2)
        m.d.comb += self.o.eq(groups[0])
        return m


def _choose(groups, index):
    return groups[0] if len(groups) == 1 else Array(groups)[index]


class ColumnParameters(wiring.Component):
    """A 32-bit parameter for each column and each of the :data:`~kiwicha.timing.PARAMETER_SETS` sets, in LUT RAM.

    It is written by lines, as the parameters come, and read by steps. A read's latency is
    :data:`LATENCY` = 2 cycles, one read per cycle. Words beyond the last column have no meaning.

    Members
    -------
    write_set, write_line, data, enable : In
        Line number `write_line` of a set.
    set, step : In
        What to read.
    o : Out(lanes * 32)
    """

    LATENCY = 2

    def __init__(self, config: ChipConfig):
        self._geometry = geometry = Geometry.of(config)
        super().__init__({
            "write_set": In(range(PARAMETER_SETS)), "write_line": In(geometry.line_width),
            "data": In(8 * geometry.line_bytes), "enable": In(1),
            "set": In(range(PARAMETER_SETS)), "step": In(geometry.step_width),
            "o": Out(32 * geometry.lanes),
        })

    def elaborate(self, platform):
        m = Module()
        geometry = self._geometry
        m.submodules.lines = lines = Memory(
            shape=8 * geometry.line_bytes, depth=PARAMETER_SETS << geometry.line_width, init=[])
        write = lines.write_port()
        read = lines.read_port(domain="comb")
        slot_width = geometry.slot_width
        number = self.step[slot_width:slot_width + geometry.line_width]
        m.d.comb += [
            write.addr.eq(Cat(self.write_line, self.write_set)),
            write.data.eq(self.data),
            write.en.eq(self.enable),
            read.addr.eq(Cat(number, self.set)),
        ]
        line = delay(m, read.data, "line")
        slot = delay(m, self.step[:slot_width], "slot") if slot_width else None
        width = len(self.o)
        groups = [line[at:at + width] for at in range(0, len(line), width)]
        chosen = groups[0] if slot is None else Array(groups)[slot]
        m.d.comb += self.o.eq(delay(m, chosen, "out"))
        return m
