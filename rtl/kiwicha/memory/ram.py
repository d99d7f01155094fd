"""Block RAM as the memories use it: a write port, a read port, and registers on both sides of them."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Ram", "WideRam"]


def _ports(width, depth):
    return {"read": In(range(depth)), "reads": In(1), "zero": In(1), "o": Out(width),
            "write": In(data.StructLayout({"enable": 1, "address": range(depth), "data": width}))}


class Ram(wiring.Component):
    """`depth` words of `width` bits; one read and one write per cycle; reads take three cycles.

    Block RAM takes more than half a cycle to answer, so nothing but a register follows it; and the blocks of
    one memory lie far apart, so nothing but a register comes before them. A read and a write of one word
    in the same cycle are not allowed: what is read then is undefined, which spares the logic that would
    define it (toolchains see ``no_rw_check``), and simulation reports it (``kiwicha_memory.v``).

    Parameters
    ----------
    width, depth : int

    Members
    -------
    read : In(range(depth))
        Word to read.
    reads : In(1)
        There is a read; without it `o` is undefined three cycles later.
    zero : In(1)
        One cycle later: `o` becomes zero instead. The register's own reset, so it costs no logic.
    o : Out(width)
        Three cycles later: the word; a register.
    write : In(struct)
        `data` to `address` if `enable`; a read in the next cycle sees it.
    """

    def __init__(self, width: int, depth: int):
        self.width = width
        self.depth = depth
        super().__init__(_ports(width, depth))

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=[],
                                              attrs={"no_rw_check": 1})
        write = memory.write_port()
        read = memory.read_port()
        word = Signal(self.width, reset_less=True)
        zero = Signal(reset_less=True)
        m.d.comb += self.o.eq(word)
        m.d.sync += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.address),
            write.data.eq(self.write.data),
            read.addr.eq(self.read),
            read.en.eq(self.reads),
            zero.eq(self.zero),
            word.eq(Mux(zero, 0, read.data)),
        ]
        return m


class WideRam(wiring.Component):
    """A :class:`Ram` made of narrower ones, each with address registers of its own: a word as wide as the array
    lies all along it, and one address register would drive block RAMs at both ends.

    Parameters
    ----------
    width, depth : int
    slice_width : int
        Bits of each of those.

    Members
    -------
    read, reads, zero, o, write
        As those of :class:`Ram`.
    """

    def __init__(self, width: int, depth: int, slice_width: int):
        self.width = width
        self.depth = depth
        self.slice_width = slice_width
        super().__init__(_ports(width, depth))

    def elaborate(self, platform):
        m = Module()
        for number, low in enumerate(range(0, self.width, self.slice_width)):
            bits = slice(low, min(low + self.slice_width, self.width))
            m.submodules[f"slice{number}"] = ram = Ram(bits.stop - low, self.depth)
            m.d.comb += [
                ram.read.eq(self.read), ram.reads.eq(self.reads), ram.zero.eq(self.zero), self.o[bits].eq(ram.o),
                ram.write.enable.eq(self.write.enable), ram.write.address.eq(self.write.address),
                ram.write.data.eq(self.write.data[bits]),
            ]
        return m
