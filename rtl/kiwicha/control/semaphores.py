"""Sixteen counting semaphores, shared by four units that wait for them and signal them."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..isa import SEMAPHORE_MAX, SEMAPHORES

__all__ = ["Arbiter", "Semaphores"]

REQUESTERS = 4
#: One mask of semaphores for each unit.
MASKS = data.ArrayLayout(SEMAPHORES, REQUESTERS)


class Arbiter(wiring.Component):
    """Grants one request a cycle, to whoever was granted least recently.

    A requester loses at most ``size - 1`` times between two of its own grants, however its request
    comes and goes meanwhile: only those that stand before it can win against it, and who wins goes
    behind all others, a cycle later: nothing may be requested in the cycle after a grant.

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
        # A request comes late.
        granted = Signal(self._size)
        m.d.sync += granted.eq(self.grant)
        for (low, high), order in first.items():
            with m.If(granted[low]):
                m.d.sync += order.eq(0)
            with m.If(granted[high]):
                m.d.sync += order.eq(1)
        return m


class Semaphores(wiring.Component):
    """The semaphores: all zero after `clear`, never below zero, never above SEMAPHORE_MAX.

    A unit that waits gets one from each semaphore of its mask, all in one cycle, when none of them
    is zero. A unit that signals adds one to each semaphore of its mask, all in one cycle, when none
    of them is full. At most one of each is done in a cycle; both may meet on one semaphore.

    Latency: a signal offered in cycle 0 is `applied` in cycle 1 and can be `granted` to a waiting
    unit in cycle 3. Throughput: one grant and one signal every 3 cycles, because a decision looks
    at counters that the one before must have reached.

    Members
    -------
    clear : In(1)
        All semaphores to zero, and nothing granted nor applied.
    want : In(4), wait : In(4 masks)
        Unit by unit: it waits for these semaphores. Held until granted.
    granted : Out(4)
        High for one cycle: the unit's semaphores have been taken.
    signal : In(4), add : In(4 masks)
        Unit by unit: it signals these semaphores. Held until applied.
    applied : Out(4)
        High for one cycle: the unit's semaphores have been added to.
    """

    clear: In(1)
    want: In(REQUESTERS)
    wait: In(MASKS)
    granted: Out(REQUESTERS)
    signal: In(REQUESTERS)
    add: In(MASKS)
    applied: Out(REQUESTERS)

    def elaborate(self, platform):
        m = Module()
        counts = [Signal(range(SEMAPHORE_MAX + 1), name=f"count_{index}") for index in range(SEMAPHORES)]
        take = self._elaborate_wait(m, counts)
        give = self._elaborate_signal(m, counts)
        for index, count in enumerate(counts):
            with m.If(self.clear):
                m.d.sync += count.eq(0)
            with m.Elif(give[index] & ~take[index]):
                m.d.sync += count.eq(count + 1)
            with m.Elif(take[index] & ~give[index]):
                m.d.sync += count.eq(count - 1)
        return m

    def _elaborate_wait(self, m, counts):
        """Decide in one cycle, grant in the next, take in the one after; return the mask to take."""
        m.submodules.waiters = arbiter = Arbiter(REQUESTERS)
        zero = Cat(count == 0 for count in counts)
        able = Signal(REQUESTERS)
        take = Signal(SEMAPHORES)
        taking = Signal()
        # While a grant is on its way to the counters they are too high to decide by.
        blocked = able.any() | taking | self.clear
        for unit in range(REQUESTERS):
            m.d.sync += able[unit].eq(self.want[unit] & ~(self.wait[unit] & zero).any() & ~blocked)
        m.d.comb += [arbiter.request.eq(able), self.granted.eq(arbiter.grant)]
        m.d.sync += [taking.eq(able.any() & ~self.clear), take.eq(self._select(self.granted, self.wait))]
        return Mux(taking, take, 0)

    def _elaborate_signal(self, m, counts):
        """Decide in one cycle, add in the next; return the mask to add."""
        m.submodules.signallers = arbiter = Arbiter(REQUESTERS)
        full = Signal(SEMAPHORES)
        late = Signal()
        # While a signal is on its way into `full` the flags are too low to decide by.
        blocked = self.applied.any() | late | self.clear
        m.d.sync += [
            full.eq(Cat(count == SEMAPHORE_MAX for count in counts)),
            late.eq(self.applied.any()),
            self.applied.eq(arbiter.grant),
        ]
        for unit in range(REQUESTERS):
            m.d.comb += arbiter.request[unit].eq(
                self.signal[unit] & ~(self.add[unit] & full).any() & ~blocked)
        return self._select(self.applied, self.add)

    @staticmethod
    def _select(units, masks):
        return reduce(or_, (Mux(units[unit], masks[unit], 0) for unit in range(REQUESTERS)))
