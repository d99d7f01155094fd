"""Who goes first: an arbiter for any number of requesters."""

from functools import reduce
from operator import or_

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Arbiter"]


class Arbiter(wiring.Component):
    """Grants one request at a time, to whoever was granted least recently.

    A requester loses at most ``size - 1`` times between two of its own grants, however its request
    comes and goes meanwhile: only those that stand before it can win against it, and who wins goes
    behind all others, a cycle later: nothing may be requested in the cycle after a grant.

    Latency: none. Throughput: a grant every 2 cycles.

    Parameters
    ----------
    size : int
        Number of requesters.

    Members
    -------
    request : In(size)
    grant : Out(size)
        One of the requests, in the same cycle; none if there is no request.
    """

    def __init__(self, size):
        self._size = size
        super().__init__({"request": In(size), "grant": Out(size)})

    def elaborate(self, platform):
        m = Module()
        pairs = [(low, high) for low in range(self._size) for high in range(low + 1, self._size)]
        # One bit for each pair: the lower one stands before the higher one.
        first = {pair: Signal(name=f"first_{pair[0]}_{pair[1]}", init=1) for pair in pairs}
        for me in range(self._size):
            beaten = [self.request[other] & (first[(other, me)] if other < me else ~first[(me, other)])
                      for other in range(self._size) if other != me]
            m.d.comb += self.grant[me].eq(self.request[me] & ~reduce(or_, beaten))
        # Registered: a grant hangs on all requests, and enables the bits of all the pairs that it is in.
        granted = Signal(self._size)
        m.d.sync += granted.eq(self.grant)
        for (low, high), order in first.items():
            with m.If(granted[low]):
                m.d.sync += order.eq(0)
            with m.If(granted[high]):
                m.d.sync += order.eq(1)
        return m
