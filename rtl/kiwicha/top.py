"""The chip with plain AXI pins, named as other tools expect them: the top of the exported Verilog."""

from amaranth import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .bus.axi import ID_WIDTH, ReadId, Resp
from .chip import Chip
from .config import ChipConfig
from .control.probe import UNIT_PROBE
from .isa import REGISTER_ADDRESS_WIDTH, Unit

__all__ = ["Top"]

_BURST_INCR = 1
#: Normal, non-cacheable, bufferable: what a device without a cache asks for.
_CACHE = 0b0011


class Top(wiring.Component):
    """:class:`kiwicha.Chip` with an AXI4 master `m_axi_*` and an AXI4-Lite slave `s_axil_*`.

    All bursts are INCR with full-width beats; read id 0 is LOAD's, 1 the program's. Clock `clk`, synchronous
    reset `rst`, active high. With `probe`, which is for simulators, there are `probe_counted` and `probe_units`,
    :class:`kiwicha.control.probe.Probe` with 32 bits for each unit.
    """

    def __init__(self, config: ChipConfig, probe: bool = False):
        self.config = config
        self._probe = probe
        address = {"id": Out(ID_WIDTH), "addr": Out(config.address_width), "len": Out(8), "size": Out(3),
                   "burst": Out(2), "lock": Out(1), "cache": Out(4), "prot": Out(3), "valid": Out(1),
                   "ready": In(1)}
        axi = {
            "aw": address,
            "w": {"data": Out(config.bus_width), "strb": Out(config.bus_bytes), "last": Out(1),
                  "valid": Out(1), "ready": In(1)},
            "b": {"id": In(ID_WIDTH), "resp": In(2), "valid": In(1), "ready": Out(1)},
            "ar": address,
            "r": {"id": In(ID_WIDTH), "data": In(config.bus_width), "resp": In(2), "last": In(1),
                  "valid": In(1), "ready": Out(1)},
        }
        lite_address = {"addr": In(REGISTER_ADDRESS_WIDTH), "prot": In(3), "valid": In(1), "ready": Out(1)}
        lite = {
            "aw": lite_address,
            "w": {"data": In(32), "strb": In(4), "valid": In(1), "ready": Out(1)},
            "b": {"resp": Out(2), "valid": Out(1), "ready": In(1)},
            "ar": lite_address,
            "r": {"data": Out(32), "resp": Out(2), "valid": Out(1), "ready": In(1)},
        }
        super().__init__({
            **{f"m_axi_{channel}{name}": member for channel, pins in axi.items()
               for name, member in pins.items()},
            **{f"s_axil_{channel}{name}": member for channel, pins in lite.items()
               for name, member in pins.items()},
            "irq": Out(1),
            **({"probe_counted": Out(1), "probe_units": Out(UNIT_PROBE.size * len(Unit))} if probe else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.chip = chip = Chip(self.config, probe=self._probe)
        m.d.comb += self.irq.eq(chip.irq)
        if self._probe:
            m.d.comb += [self.probe_counted.eq(chip.probe.counted),
                         self.probe_units.eq(Cat(unit.as_value() for unit in chip.probe.units))]
        read, write, host = chip.memory_read, chip.memory_write, chip.host
        size = self.config.bus_bytes.bit_length() - 1
        for prefix, channel in (("m_axi_ar", read.ar), ("m_axi_aw", write.aw)):
            self._out(m, prefix, channel, addr=channel.p.address, len=channel.p.length)
            m.d.comb += [getattr(self, prefix + "size").eq(size),
                         getattr(self, prefix + "burst").eq(_BURST_INCR),
                         getattr(self, prefix + "cache").eq(_CACHE)]
        m.d.comb += self.m_axi_arid.eq(read.ar.p.id)
        self._out(m, "m_axi_w", write.w, data=write.w.p.data, strb=write.w.p.strobe, last=write.w.p.last)
        self._in(m, "m_axi_r", read.r)
        m.d.comb += [read.r.p.data.eq(self.m_axi_rdata), read.r.p.resp.eq(Resp(self.m_axi_rresp)),
                     read.r.p.last.eq(self.m_axi_rlast), read.r.p.id.eq(ReadId(self.m_axi_rid))]
        self._in(m, "m_axi_b", write.b)
        m.d.comb += write.b.p.resp.eq(Resp(self.m_axi_bresp))

        for name in ("aw", "ar"):
            self._in(m, "s_axil_" + name, getattr(host, name))
            m.d.comb += getattr(host, name).payload.eq(getattr(self, f"s_axil_{name}addr"))
        self._in(m, "s_axil_w", host.w)
        m.d.comb += [host.w.p.data.eq(self.s_axil_wdata), host.w.p.strobe.eq(self.s_axil_wstrb)]
        self._out(m, "s_axil_b", host.b, resp=host.b.payload)
        self._out(m, "s_axil_r", host.r, data=host.r.p.data, resp=host.r.p.resp)
        return m

    def _out(self, m, prefix, channel, **pins):
        m.d.comb += [getattr(self, prefix + name).eq(value) for name, value in pins.items()]
        m.d.comb += [getattr(self, prefix + "valid").eq(channel.valid),
                     channel.ready.eq(getattr(self, prefix + "ready"))]

    def _in(self, m, prefix, channel):
        m.d.comb += [channel.valid.eq(getattr(self, prefix + "valid")),
                     getattr(self, prefix + "ready").eq(channel.ready)]
