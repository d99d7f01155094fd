"""What stands between the dispatcher and one unit: its queue, its semaphores, its open instructions."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..isa import INDEX_WIDTH, SEMAPHORES, Unit
from ..layouts import unit_layout
from ..lib.stream import Queue
from ..timing import OPEN_INSTRUCTIONS

__all__ = ["IssueQueue", "issue_entry"]


def issue_entry(unit: Unit) -> data.StructLayout:
    """What the dispatcher hands to the issue queue: the unit's instruction and its semaphores."""
    return data.StructLayout({"unit": unit_layout(unit), "wait": SEMAPHORES, "signal": SEMAPHORES})


class IssueQueue(wiring.Component):
    """Queues instructions for one unit and hands each over when its semaphores have been taken.

    Up to `queue_depth` instructions wait in the queue and one more at its head, where it asks for its
    semaphores. An instruction is open from two cycles after the unit accepted it until its signals have been
    applied; with :data:`~kiwicha.timing.OPEN_INSTRUCTIONS` open the next one does not even ask for semaphores.

    Latency: an instruction that waits for nothing is offered on `o` 3 cycles after `i` took it; one
    that has to wait is offered in the cycle after `granted`. `signal` rises in the cycle of `retire`.

    Members
    -------
    i : In(stream)
    o : Out(stream)
        To the unit.
    retire : In(1)
        From the unit; it must have an open instruction that has not yet retired.
    want, wait, granted, signal, add, applied
        To :class:`.semaphores.Semaphores`.
    clear : In(1)
        Drop everything, and offer nothing.
    empty : Out(1)
        Holds nothing, queued nor open.
    waiting : Out(1)
        The next instruction cannot be offered for want of semaphores, or because a signal is stuck.
    oldest_valid : Out(1), oldest_index : Out(24)
        The oldest instruction held, queued or open, as of one cycle ago.
    progress : Out(1)
        An instruction came, was offered, or signalled.
    """

    def __init__(self, unit: Unit, queue_depth: int):
        self._unit = unit
        self._queue_depth = queue_depth
        super().__init__({
            "i": In(stream.Signature(issue_entry(unit))),
            "o": Out(stream.Signature(unit_layout(unit))),
            "retire": In(1),
            "want": Out(1),
            "wait": Out(SEMAPHORES),
            "granted": In(1),
            "signal": Out(1),
            "add": Out(SEMAPHORES),
            "applied": In(1),
            "clear": In(1),
            "empty": Out(1),
            "waiting": Out(1),
            "oldest_valid": Out(1),
            "oldest_index": Out(INDEX_WIDTH),
            "progress": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Queue(issue_entry(self._unit), self._queue_depth)
        m.submodules.open = opened = Queue(data.StructLayout({"index": INDEX_WIDTH, "signal": SEMAPHORES}),
                                           OPEN_INSTRUCTIONS)
        wiring.connect(m, wiring.flipped(self.i), queue.i)
        m.d.comb += [queue.clear.eq(self.clear), opened.clear.eq(self.clear)]
        head = Signal(issue_entry(self._unit))
        head_valid = Signal()
        self._elaborate_head(m, queue, opened, head, head_valid)
        self._elaborate_retire(m, opened)

        index = Mux(opened.o.valid, opened.o.p.index,
                    Mux(head_valid | opened.i.valid, head.unit.index, queue.o.p.unit.index))
        occupied = opened.o.valid | opened.i.valid | head_valid | queue.o.valid
        m.d.comb += self.empty.eq(~occupied)
        m.d.sync += [self.oldest_valid.eq(occupied & ~self.clear), self.oldest_index.eq(index)]
        return m

    def _elaborate_head(self, m, queue, opened, head, head_valid):
        """The head of the queue in a register: it asks for semaphores, then goes to the unit."""
        offered = Signal()
        room = opened.level != OPEN_INSTRUCTIONS
        accepted = Signal()
        m.d.comb += [
            queue.o.ready.eq(~head_valid),
            self.want.eq(head_valid & ~offered & room & head.wait.any()),
            self.wait.eq(head.wait),
            self.waiting.eq(head_valid & ~offered & (head.wait.any() | ~room)),
            # The register `offered` falls a cycle after `clear` rises: too late.
            self.o.valid.eq(offered & ~self.clear),
            self.o.payload.eq(head.unit),
            accepted.eq(self.o.valid & self.o.ready),
            opened.i.p.index.eq(head.unit.index),
            opened.i.p.signal.eq(head.signal),
            self.progress.eq((queue.o.valid & ~head_valid) | accepted | self.granted | self.applied),
        ]
        # Registered, lest the unit's `ready` reach the write port of `open`; the head stays for that long.
        m.d.sync += opened.i.valid.eq(accepted)
        with m.If(~head_valid):
            m.d.sync += [head.eq(queue.o.payload), head_valid.eq(queue.o.valid), offered.eq(0)]
        with m.Elif(accepted):
            m.d.sync += [head_valid.eq(0), offered.eq(0)]
        with m.Elif(self.granted | (room & ~head.wait.any())):
            m.d.sync += offered.eq(1)
        with m.If(self.clear):
            m.d.sync += [head_valid.eq(0), offered.eq(0)]

    def _elaborate_retire(self, m, opened):
        """Instructions signal in order, each after it has retired."""
        retired = Signal(range(OPEN_INSTRUCTIONS + 1))
        any_retired = (self.retire | (retired != 0)) & opened.o.valid
        nothing = opened.o.p.signal == 0
        closed = Signal()
        m.d.comb += [
            self.signal.eq(any_retired & ~nothing),
            self.add.eq(opened.o.p.signal),
            # Decided by registers only, so that no path leads from the unit's retire to the queue.
            closed.eq(self.applied | ((retired != 0) & nothing)),
            opened.o.ready.eq(closed),
        ]
        with m.If(self.clear):
            m.d.sync += retired.eq(0)
        with m.Else():
            m.d.sync += retired.eq(retired + self.retire - closed)
