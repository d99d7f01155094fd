"""AXI4 and AXI4-Lite as streams: one stream per channel, constant side signals added at the chip's edge.

Source: AMBA AXI and ACE Protocol Specification, ARM IHI 0022. All bursts are INCR with full-width beats.
"""

from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ChipConfig

__all__ = ["AxiLite", "AxiRead", "AxiWrite", "ID_WIDTH", "ReadId", "Resp", "is_error"]

ID_WIDTH = 1


class ReadId(enum.Enum, shape=ID_WIDTH):
    """Who asked for a read burst; bursts of different ids may come back in any order."""
    LOAD = 0
    FETCH = 1


class Resp(enum.Enum, shape=2):
    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


def is_error(resp):
    """SLVERR or DECERR: one bit."""
    return resp.as_value()[1]


class AxiRead(wiring.Signature):
    """Read channels, from the master's side. `length` is beats - 1; `address` is beat-aligned."""

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "ar": Out(stream.Signature(data.StructLayout({
                "address": config.address_width, "length": 8, "id": ReadId}))),
            "r": In(stream.Signature(data.StructLayout({
                "data": config.bus_width, "resp": Resp, "last": 1, "id": ReadId}))),
        })

    def __repr__(self):
        return f"AxiRead({self.config.name})"


class AxiWrite(wiring.Signature):
    """Write channels, from the master's side; one id, so answers come in order."""

    def __init__(self, config: ChipConfig):
        self.config = config
        super().__init__({
            "aw": Out(stream.Signature(data.StructLayout({"address": config.address_width, "length": 8}))),
            "w": Out(stream.Signature(data.StructLayout({
                "data": config.bus_width, "strobe": config.bus_bytes, "last": 1}))),
            "b": In(stream.Signature(data.StructLayout({"resp": Resp}))),
        })

    def __repr__(self):
        return f"AxiWrite({self.config.name})"


class AxiLite(wiring.Signature):
    """AXI4-Lite with 32-bit data, from the master's side; `address` counts bytes."""

    def __init__(self, address_width: int):
        self.address_width = address_width
        super().__init__({
            "aw": Out(stream.Signature(address_width)),
            "w": Out(stream.Signature(data.StructLayout({"data": 32, "strobe": 4}))),
            "b": In(stream.Signature(Resp)),
            "ar": Out(stream.Signature(address_width)),
            "r": In(stream.Signature(data.StructLayout({"data": 32, "resp": Resp}))),
        })

    def __repr__(self):
        return f"AxiLite({self.address_width})"
