"""Counting semaphores, shared by the units, which wait for them and signal them."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..isa import INSTRUCTIONS, SEMAPHORE_MAX, SEMAPHORES
from ..lib.arbiter import Arbiter

__all__ = ["Semaphores"]

#: The units, in the order of their opcodes.
REQUESTERS = len(INSTRUCTIONS)
#: One mask of semaphores for each unit.
MASKS = data.ArrayLayout(SEMAPHORES, REQUESTERS)


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
    want : In(units), wait : In(masks)
        Unit by unit: it waits for these semaphores. Held until granted.
    granted : Out(units)
        High for one cycle: the unit's semaphores have been taken.
    signal : In(units), add : In(masks)
        Unit by unit: it signals these semaphores. Held until applied.
    applied : Out(units)
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
