"""The house's stream library: a small queue and a register slice."""

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Queue", "RegisterSlice"]


class Queue(wiring.Component):
    """A small first-in first-out queue of stream items, in LUT RAM.

    An item appears on ``o`` one cycle after ``i`` took it, and one item moves every cycle at any
    depth. With a depth of 2 or more, ``i.ready`` and ``o.valid`` depend on registers only. A depth
    of 1 is a single register, whose ``i.ready`` depends on ``o.ready`` in the same cycle.

    Parameters
    ----------
    shape : ShapeLike
        Shape of an item.
    depth : int
        Number of items it holds, at least 1; need not be a power of two.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    level : Out(range(depth + 1))
        Number of items held.
    clear : In(1)
        Drop everything at the end of this cycle, an item that ``i`` takes in it included. An item
        that ``o`` hands over in it has been delivered. May stay unconnected.
    """

    def __init__(self, shape, depth):
        Shape.cast(shape)
        if not isinstance(depth, int) or isinstance(depth, bool):
            raise TypeError(f"Queue depth must be an integer, not {depth!r}")
        if depth < 1:
            raise ValueError(f"Queue depth must be at least 1, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
            "clear": In(1),
        })

    @property
    def shape(self):
        return self._shape

    @property
    def depth(self):
        return self._depth

    def elaborate(self, platform):
        m = Module()
        push = Signal()
        pop = Signal()
        m.d.comb += [push.eq(self.i.valid & self.i.ready), pop.eq(self.o.valid & self.o.ready)]
        with m.If(self.clear):
            m.d.sync += [self.level.eq(0), self.o.valid.eq(0)]
        with m.Else():
            # `o.valid` is a register of its own rather than `level != 0`: whatever takes items begins with it.
            m.d.sync += [self.level.eq(self.level + push - pop),
                         self.o.valid.eq(push | (self.level > 1) | (self.o.valid & ~pop))]
        if self._depth == 1:
            m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
            with m.If(push):
                m.d.sync += self.o.payload.eq(self.i.payload)
        else:
            m.d.comb += self.i.ready.eq(self.level < self._depth)       # one bit, if it is a power of two
            self._elaborate_ram(m, push, pop)
        return m

    def _elaborate_ram(self, m, push, pop):
        m.submodules.storage = storage = Memory(shape=self._shape, depth=self._depth, init=[])
        write = storage.write_port()
        read = storage.read_port(domain="comb")
        head = Signal(range(self._depth))
        tail = Signal(range(self._depth))
        m.d.comb += [
            write.addr.eq(tail),
            write.data.eq(self.i.payload),
            write.en.eq(push),
            read.addr.eq(head),
            self.o.payload.eq(read.data),
        ]
        with m.If(push):
            m.d.sync += tail.eq(self._after(tail))
        with m.If(pop):
            m.d.sync += head.eq(self._after(head))
        with m.If(self.clear):
            m.d.sync += [head.eq(0), tail.eq(0)]

    def _after(self, pointer):
        if self._depth & (self._depth - 1) == 0:
            return pointer + 1
        return Mux(pointer == self._depth - 1, 0, pointer + 1)


class RegisterSlice(wiring.Component):
    """A register slice: no combinational path from one stream to the other.

    An item appears on ``o`` one cycle after ``i`` took it, and one item moves every cycle. A
    second register holds the item that arrives in the cycle in which ``o`` stalls.

    Parameters
    ----------
    shape : ShapeLike
        Shape of an item.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    renews : Out(1), following : Out(shape)
        `following` is what `o` has in the next cycle, and has not had before. Depends on inputs.
    """

    def __init__(self, shape):
        Shape.cast(shape)
        self._shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "renews": Out(1),
            "following": Out(shape),
        })

    @property
    def shape(self):
        return self._shape

    def elaborate(self, platform):
        m = Module()
        # No reset, and no `o.ready`, goes to more than it must: items are wide.
        front = Signal(self._shape, reset_less=True)
        spare = Signal(self._shape, reset_less=True)
        spare_valid = Signal()
        free = ~self.o.valid | self.o.ready
        m.d.comb += [
            self.i.ready.eq(~spare_valid), self.o.payload.eq(front),
            self.following.eq(Mux(spare_valid, spare, self.i.payload)),
            self.renews.eq(free & (self.i.valid | spare_valid)),
        ]
        with m.If(~spare_valid):
            m.d.sync += spare.eq(self.i.payload)
        with m.If(free):
            m.d.sync += [front.eq(self.following), self.o.valid.eq(self.i.valid | spare_valid), spare_valid.eq(0)]
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += spare_valid.eq(1)
        return m
