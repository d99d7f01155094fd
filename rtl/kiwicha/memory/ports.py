"""How units reach the scratchpad and the accumulators: request streams, fixed-latency answers."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LINE_ADDRESS", "ReadPort", "WritePort", "line_write"]

#: Bits of a line address as instructions carry it; units check the range before they ask.
LINE_ADDRESS = 16


def line_write(width: int) -> data.StructLayout:
    """A whole line of `width` bits to `address`."""
    return data.StructLayout({"address": LINE_ADDRESS, "data": width})


class ReadPort(wiring.Signature):
    """Read port, from the reader's side.

    A request is accepted when `request.valid` and `request.ready` are both high; exactly
    :data:`kiwicha.timing.READ_LATENCY` cycles later `valid` is high for one cycle with the line in `data`.
    The reader must be able to take every answer: there is no back-pressure on `data`.
    """

    def __init__(self, width: int):
        self.width = width
        super().__init__({
            "request": Out(stream.Signature(LINE_ADDRESS)),
            "data": In(width),
            "valid": In(1),
        })

    def __repr__(self):
        return f"ReadPort({self.width})"


class WritePort(wiring.Signature):
    """Write port, from the writer's side: a stream of whole lines, in place WRITE_LATENCY cycles after."""

    def __init__(self, width: int):
        self.width = width
        super().__init__({"request": Out(stream.Signature(line_write(width)))})

    def __repr__(self):
        return f"WritePort({self.width})"
