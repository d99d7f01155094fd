"""Fetches the operands that come from the scratchpad, ahead of the steps that take them."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig
from ..lib.delay import delay, delay_valid
from ..lib.stream import Queue
from ..memory.ports import LINE_ADDRESS, ReadPort
from ..timing import READ_LATENCY

__all__ = ["OperandFetch"]

#: Lines of an operand that are ordered, and that are asked for or there: more than the cycles in between.
ORDERS = LINES = 16


class OperandFetch(wiring.Component):
    """Two queues of lines, in the order in which they were ordered. Of both operands, the one that has fewer lines
    asked for or here goes first, or B.

    Latency 7 cycles from an order to its line, if the port is free; a line per cycle.

    Members
    -------
    a, b : In(stream of LINE_ADDRESS)
        Lines to fetch. Their `ready` need not be looked at if `room` has been.
    room : Out(1)
        Three more of each will find room.
    port : Out(ReadPort(line))
    a_line, b_line : Out(stream of lines)
    clear : In(1)
        Forget everything; an answer on its way comes to nothing.
    """

    def __init__(self, config: ChipConfig):
        width = 8 * config.line_bytes
        self._width = width
        super().__init__({
            "a": In(stream.Signature(LINE_ADDRESS)), "b": In(stream.Signature(LINE_ADDRESS)), "room": Out(1),
            "port": Out(ReadPort(width)), "a_line": Out(stream.Signature(width)),
            "b_line": Out(stream.Signature(width)), "clear": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        request = self.port.request
        # Its `ready` is a register: that of the port hangs on all who go first.
        m.submodules.asked = asked = Queue(data.StructLayout({"line": LINE_ADDRESS, "for_b": 1}), 2)
        accepted, free = request.valid & request.ready, asked.i.ready
        m.d.comb += [
            request.valid.eq(asked.o.valid), request.payload.eq(asked.o.p.line), asked.o.ready.eq(request.ready),
            asked.clear.eq(self.clear),
        ]
        # An answer goes to either operand's lines, from a register.
        came = delay_valid(m, accepted & ~self.clear, "came", 1)
        for cycle in range(READ_LATENCY):
            came = delay_valid(m, came & ~self.clear, f"came_{cycle}_", 1)
        came_b, line = delay(m, asked.o.p.for_b, "came_b", READ_LATENCY + 1), delay(m, self.port.data, "line")
        orders_a, wants_a, held_a = self._operand(m, "a", came & ~came_b, line)
        orders_b, wants_b, held_b = self._operand(m, "b", came & came_b, line)
        takes_b = Signal()
        m.d.comb += [
            takes_b.eq(wants_b & (~wants_a | (held_b <= held_a))),
            self.room.eq((orders_a.level < ORDERS - 2) & (orders_b.level < ORDERS - 2)),
            orders_a.o.ready.eq(free & wants_a & ~takes_b), orders_b.o.ready.eq(free & takes_b),
            asked.i.valid.eq(wants_a | wants_b), asked.i.p.for_b.eq(takes_b),
            asked.i.p.line.eq(Mux(takes_b, orders_b.o.payload, orders_a.o.payload)),
        ]
        return m

    def _operand(self, m, name, came, line):
        """An operand's orders; whether there is one, and room for its line; how many it has asked for or here."""
        m.submodules[f"orders_{name}"] = orders = Queue(LINE_ADDRESS, ORDERS)
        m.submodules[f"lines_{name}"] = lines = Queue(self._width, LINES)
        taken, given = getattr(self, name), getattr(self, f"{name}_line")
        wiring.connect(m, wiring.flipped(taken), orders.i)
        wiring.connect(m, lines.o, wiring.flipped(given))
        m.d.comb += [orders.clear.eq(self.clear), lines.clear.eq(self.clear),
                     lines.i.valid.eq(came), lines.i.payload.eq(line)]
        # Lines that are asked for, or here.
        held = Signal(range(LINES + 1), name=f"held_{name}")
        # Orders are taken only if there are any.
        m.d.sync += held.eq(Mux(self.clear, 0, held + orders.o.ready - (given.valid & given.ready)))
        return orders, orders.o.valid & (held != LINES), held
