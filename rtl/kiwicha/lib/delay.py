"""Pipeline registers, and long delays that cost LUT RAM rather than flip-flops."""

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Delay", "copies", "delay", "delay_valid"]


def delay(m, value, name, cycles=1):
    """*value*, *cycles* later: registers that no reset touches, called *name*."""
    for cycle in range(cycles):
        register = Signal.like(value, name=name if cycles == 1 else f"{name}_{cycle}", reset_less=True)
        m.d.sync += register.eq(value)
        value = register
    return value


def delay_valid(m, valid, name, cycles):
    """*valid*, bits that mean something from the first cycle on, *cycles* later: as :func:`delay`, but reset."""
    for cycle in range(cycles):
        register = Signal.like(valid, name=f"{name}{cycle}", init=0)
        m.d.sync += register.eq(valid)
        valid = register
    return valid


def copies(m, value, name, count):
    """*value* a cycle later, in *count* registers: one for each part of something wide.

    yosys merges bits that start alike, so there are two of each bit at most: two registers share none, and more of
    them share bits, not all the same ones.
    """
    inits = [0, -1] if count == 2 else range(count)
    registers = [Signal.like(value, name=f"{name}_{i}", init=init % (1 << len(value)), reset_less=True)
                 for i, init in enumerate(inits)]
    m.d.sync += [register.eq(value) for register in registers]
    return registers


class Delay(wiring.Component):
    """Hands on whatever comes in, `cycles` later, every cycle.

    A ring in LUT RAM: the word that is read is the one about to be overwritten. What comes out in the
    first `cycles` cycles has no meaning.

    Parameters
    ----------
    shape : ShapeLike
        Shape of what is delayed.
    cycles : int
        Latency, at least 2.

    Members
    -------
    i : In(shape)
    o : Out(shape)
    """

    def __init__(self, shape, cycles):
        if not isinstance(cycles, int) or isinstance(cycles, bool):
            raise TypeError(f"Delay cycles must be an integer, not {cycles!r}")
        if cycles < 2:
            raise ValueError(f"Delay cycles must be at least 2, not {cycles!r}")
        self._shape = shape
        self._width = Shape.cast(shape).width
        self._cycles = cycles
        super().__init__({"i": In(shape), "o": Out(shape)})

    @property
    def cycles(self):
        return self._cycles

    def elaborate(self, platform):
        m = Module()
        depth = self._cycles - 1            # the output register is the last cycle
        m.submodules.ring = ring = Memory(shape=self._width, depth=depth, init=[])
        write = ring.write_port()
        read = ring.read_port(domain="comb")
        at = Signal(range(max(2, depth)))
        m.d.sync += at.eq(Mux(at == depth - 1, 0, at + 1))
        m.d.comb += [
            write.addr.eq(at),
            write.data.eq(self.i),
            write.en.eq(1),
            read.addr.eq(at),
        ]
        m.d.comb += self.o.eq(delay(m, read.data, "out"))
        return m
