"""Kiwicha in a LiteX system: the Verilog that `kiwicha verilog` wrote, with LiteX's buses."""

import json
import re
from pathlib import Path

from litex.gen import ClockSignal, Instance, LiteXModule, ResetSignal
from litex.soc.interconnect.axi import AXIInterface, AXILiteInterface
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel

__all__ = ["Kiwicha"]


class Kiwicha(LiteXModule):
    """The chip, in clock domain `sys`.

    In a SoC with an interrupt controller and main memory::

        self.kiwicha = Kiwicha(platform, "build/verilog/small.json")
        self.bus.add_master("kiwicha", self.kiwicha.bus)
        self.bus.add_slave("kiwicha", self.kiwicha.control,
                           SoCRegion(0x3000_0000, Kiwicha.CONTROL_BYTES, cached=False))
        self.irq.add("kiwicha")

    Parameters
    ----------
    platform : litex.build.generic_platform.GenericPlatform
        Takes the Verilog as its sources.
    description : str or Path
        NAME.json, with NAME.v and kiwicha_memory.v beside it.

    Attributes
    ----------
    bus : AXIInterface
        Master, to main memory.
    control : AXILiteInterface
        Slave, the registers; of an address the lower bits count.
    ev : EventManager
        Its one event, `interrupt`, is the chip's interrupt line, a level.
    """

    #: Size of the registers' region.
    CONTROL_BYTES = 0x1000

    def __init__(self, platform, description):
        path = Path(description)
        chip = json.loads(path.read_text(encoding="utf-8"))
        ports = chip["ports"]
        self.bus = AXIInterface(data_width=ports["m_axi_rdata"]["width"],
                                address_width=ports["m_axi_araddr"]["width"],
                                id_width=ports["m_axi_arid"]["width"])
        self.control = AXILiteInterface(data_width=ports["s_axil_rdata"]["width"], address_width=32)
        self.ev = EventManager()
        self.ev.interrupt = EventSourceLevel()
        self.ev.finalize()

        signals = {"irq": self.ev.interrupt.trigger}
        for prefix, interface in (("m_axi", self.bus), ("s_axil", self.control)):
            for port in ports:
                if pin := re.fullmatch(rf"{prefix}_(aw|ar|w|b|r)(\w+)", port):
                    signals[port] = getattr(getattr(interface, pin[1]), pin[2])
        # LiteX's signals that the chip has no pin for keep their reset value, 0.
        self.specials += Instance(chip["top"], i_clk=ClockSignal(), i_rst=ResetSignal(), **{
            f"{entry['direction']}_{port}": signals[port][:entry["width"]] for port, entry in ports.items()})
        for source in (path.with_suffix(".v"), path.with_name("kiwicha_memory.v")):
            platform.add_source(str(source))
