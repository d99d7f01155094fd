"""Two readers, LOAD and the instruction fetch, on one AXI read bus."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..config import ChipConfig
from ..lib.stream import RegisterSlice
from .axi import AxiRead, ReadId

__all__ = ["ReadArbiter"]


class ReadArbiter(wiring.Component):
    """Merges the addresses of two readers and routes the beats back by their id.

    The fetch goes first, for a late instruction stalls every unit, but never twice in a row while LOAD waits.
    Both channels are registered: one cycle each way, one address and one beat per cycle. A reader that does not
    take its beat holds up the other's: each must in time take what it asked for.

    Members
    -------
    load, fetch : In(AxiRead)
        Their `ar.id` is ignored: the id says which port it was.
    bus : Out(AxiRead)
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "load": In(AxiRead(config)),
            "fetch": In(AxiRead(config)),
            "bus": Out(AxiRead(config)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.ar = ar = RegisterSlice(self.bus.ar.payload.shape())
        m.submodules.r = r = RegisterSlice(self.bus.r.payload.shape())
        connect(m, ar.o, flipped(self.bus.ar))
        connect(m, flipped(self.bus.r), r.i)

        choose = Signal(ReadId)
        fetched = Signal()      # the last address was the fetch's
        m.d.comb += choose.eq(Mux(self.fetch.ar.valid & ~(fetched & self.load.ar.valid),
                                  ReadId.FETCH, ReadId.LOAD))
        to_fetch = r.o.payload.id == ReadId.FETCH
        m.d.comb += [
            ar.i.valid.eq(self.fetch.ar.valid | self.load.ar.valid),
            ar.i.payload.eq(Mux(choose == ReadId.FETCH, self.fetch.ar.payload, self.load.ar.payload)),
            ar.i.payload.id.eq(choose),
            self.fetch.ar.ready.eq(ar.i.ready & (choose == ReadId.FETCH)),
            self.load.ar.ready.eq(ar.i.ready & (choose == ReadId.LOAD)),
            self.fetch.r.payload.eq(r.o.payload),
            self.load.r.payload.eq(r.o.payload),
            self.fetch.r.valid.eq(r.o.valid & to_fetch),
            self.load.r.valid.eq(r.o.valid & ~to_fetch),
            r.o.ready.eq(Mux(to_fetch, self.fetch.r.ready, self.load.r.ready)),
        ]
        with m.If(ar.i.valid & ar.i.ready):
            m.d.sync += fetched.eq(choose == ReadId.FETCH)
        return m
