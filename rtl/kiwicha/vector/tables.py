"""Tables: a 32-bit word for every byte of an operand, and how they are loaded."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..isa import TABLE_WORDS
from ..memory.ports import LINE_ADDRESS
from ..memory.ram import Ram
from .shapes import Geometry

__all__ = ["OperandTable", "TableLoader", "table_write"]

_WORD = range(TABLE_WORDS)


def table_write() -> data.StructLayout:
    """A word for `address` of those tables that `enable` has a one for: bit 0 is A's, bit 1 B's."""
    return data.StructLayout({"enable": 2, "address": _WORD, "data": 32})


class OperandTable(wiring.Component):
    """The words of the bytes that step number `step` takes of an operand's line; block RAM, one for each lane.

    Latency 3 cycles, as that of an accumulator read; one step per cycle.

    Members
    -------
    read : In(1)
        `line` and `step` are those of a read.
    line : In(line)
    step : In
    offset : In(lanes * 8)
        Goes off the bytes, modulo 256; only with functions.
    o : Out(lanes * 32)
    write : In(struct)
        `data` to `address` if `enable`; not while a read is on its way.
    """

    def __init__(self, config: ChipConfig):
        self._geometry = geometry = Geometry.of(config)
        self._has_offset = config.functions
        super().__init__({
            "read": In(1), "line": In(8 * geometry.line_bytes), "step": In(geometry.step_width),
            **({"offset": In(8 * geometry.lanes)} if config.functions else {}),
            "o": Out(32 * geometry.lanes),
            "write": In(data.StructLayout({"enable": 1, "address": _WORD, "data": 32})),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._geometry.lanes
        taken = self.line.word_select(self.step, 8 * lanes)
        for lane in range(lanes):
            m.submodules[f"lane{lane}"] = ram = Ram(32, TABLE_WORDS)
            byte = taken.word_select(lane, 8)
            if self._has_offset:
                byte = (byte - self.offset.word_select(lane, 8))[:8]
            m.d.comb += [
                ram.read.eq(byte), ram.reads.eq(self.read), ram.write.eq(self.write),
                self.o.word_select(lane, 32).eq(ram.o),
            ]
        return m


class TableLoader(wiring.Component):
    """Copies lines to tables, a word a cycle: table A's, then table B's.

    A line is asked for when the one before has as good as left, so that lines come as they are needed:
    `TABLE_WORDS` cycles a table and 6 besides from `start` to the first word, if the port is free.

    Members
    -------
    start : In(1)
        Load the tables that `wanted` has a one for, from line `first` on. Only when it is not `busy`.
    wanted : In(2), first : In(16)
    request : Out(stream of LINE_ADDRESS)
        Lines to read.
    arrived : In(1), line : In(line)
        One of them, a cycle after the port has answered.
    write : Out(table_write())
    busy : Out(1)
        Until the last word has been written, or an error.
    failed : Out(1), address : Out(17)
        The line that is asked for next does not exist; until `clear`.
    clear : In(1)
        Forget everything.
    """

    def __init__(self, config: ChipConfig):
        self._config = config
        width = 8 * config.line_bytes
        super().__init__({
            "start": In(1), "wanted": In(2), "first": In(LINE_ADDRESS),
            "request": Out(stream.Signature(LINE_ADDRESS)), "arrived": In(1), "line": In(width),
            "write": Out(table_write()),
            "busy": Out(1), "failed": Out(1), "address": Out(LINE_ADDRESS + 1), "clear": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        words = self._config.line_bytes // 4
        lines = TABLE_WORDS // words
        to_ask = Signal(range(2 * lines + 1))
        pause = Signal(range(words))            # cycles until the next line may be asked for
        asks = Signal()                         # for a line; a register, for the scratchpad's arbitration follows
        index = Signal(range(2 * TABLE_WORDS))  # of the next word
        last = Signal(2)                        # tables that are still to be ended
        line = Signal(8 * self._config.line_bytes, reset_less=True)
        left = Signal(range(words + 1))         # words of it
        request = self.request
        exists = self.address < self._config.scratchpad_lines
        m.d.comb += [
            request.valid.eq(asks), request.payload.eq(self.address),
            self.write.enable.eq(Cat(~index[-1], index[-1]) & (left != 0).replicate(2)),
            self.write.address.eq(index), self.write.data.eq(line),
            self.busy.eq((last != 0) & ~self.failed),
        ]
        with m.If(self.start):
            m.d.sync += [to_ask.eq(Mux(self.wanted.all(), 2 * lines, lines)), self.address.eq(self.first),
                         index.eq(Mux(self.wanted[0], 0, TABLE_WORDS)), last.eq(self.wanted),
                         asks.eq(self.first < self._config.scratchpad_lines)]
        with m.Else():
            with m.If((to_ask != 0) & ~exists):
                m.d.sync += self.failed.eq(1)
            with m.If(request.valid & request.ready):
                m.d.sync += [to_ask.eq(to_ask - 1), self.address.eq(self.address + 1), pause.eq(words - 1),
                             asks.eq(0)]
            with m.Elif(pause != 0):
                m.d.sync += [pause.eq(pause - 1), asks.eq((pause == 1) & (to_ask != 0) & exists)]
            with m.If(left != 0):
                m.d.sync += [left.eq(left - 1), line.eq(line >> 32), index.eq(index + 1)]
                with m.If(index[:-1].all()):
                    m.d.sync += last.eq(last & Mux(index[-1], 0b01, 0b10))
            with m.If(self.arrived & (last != 0)):
                m.d.sync += [line.eq(self.line), left.eq(words)]
        with m.If(self.clear):
            m.d.sync += [to_ask.eq(0), asks.eq(0), last.eq(0), left.eq(0), self.failed.eq(0)]
        return m
