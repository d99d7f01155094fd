"""Dispatch: hands each instruction, in program order, to the issue queue of its unit."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..isa import INDEX_WIDTH, INSTRUCTIONS, Activity, ErrorCode, Unit
from ..layouts import instruction_layout
from .check import Verdict
from .fetch import Fetched
from .issue_queue import issue_entry
from .unit import ErrorReport

__all__ = ["Dispatch"]


class Dispatch(wiring.Component):
    """Routes instructions; the first that the check found bad stays, and is reported.

    A full queue holds back all instructions behind it, whichever unit they are for. Latency: none.

    Errors: OPCODE (unit FETCH), RESERVED (the instruction's unit).

    Members
    -------
    i : In(stream.Signature(Fetched)), index : In(24)
        An instruction and its index.
    all_done : In(1)
        All instructions of the program have been dispatched.
    running : In(1)
        A program runs.
    load, matmul, vector, store : Out(stream)
        To the issue queues.
    error : Out(ErrorReport), error_unit : Out(Unit)
    activity : Out(Activity)
        FETCH's: BUSY when it dispatches, once for each instruction; QUEUE when it cannot; MEMORY when
        the next instruction has not come or is being checked; IDLE when all are dispatched.
    progress : Out(1)
        An instruction was dispatched.
    """

    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(Fetched)),
            "index": In(INDEX_WIDTH),
            "all_done": In(1),
            "running": In(1),
            **{unit.name.lower(): Out(stream.Signature(issue_entry(unit))) for unit in INSTRUCTIONS},
            "error": Out(ErrorReport),
            "error_unit": Out(Unit),
            "activity": Out(Activity),
            "progress": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        verdict = self.i.p.verdict
        ready = []
        for chosen, unit in zip(self.i.p.to, INSTRUCTIONS, strict=True):
            output = getattr(self, unit.name.lower())
            view = instruction_layout(unit)(self.i.p.bits)
            own = output.p.unit
            m.d.comb += [own[item.name].eq(view[item.name]) for item in INSTRUCTIONS[unit].fields]
            m.d.comb += [
                own.index.eq(self.index),
                output.p.wait.eq(view.wait),
                output.p.signal.eq(view.signal),
                output.valid.eq(self.i.valid & chosen),
            ]
            ready.append(chosen & output.ready)
        m.d.comb += [
            self.i.ready.eq(Cat(ready).any()),
            self.error.valid.eq(self.i.valid & ~self.i.p.to.any()),
            self.error.code.eq(Mux(verdict.kind == Verdict.Kind.OPCODE, ErrorCode.OPCODE, ErrorCode.RESERVED)),
            self.error.index.eq(self.index),
            self.error.address.eq(verdict.number),
            self.error_unit.eq(verdict.unit),
            self.progress.eq(self.i.valid & self.i.ready),
        ]
        self._elaborate_activity(m)
        return m

    def _elaborate_activity(self, m):
        activity = Signal(Activity)
        with m.If(~self.running | self.all_done):
            m.d.comb += activity.eq(Activity.IDLE)
        with m.Elif(self.progress):
            m.d.comb += activity.eq(Activity.BUSY)
        with m.Elif(self.i.valid):
            m.d.comb += activity.eq(Activity.QUEUE)
        with m.Else():
            m.d.comb += activity.eq(Activity.MEMORY)
        m.d.comb += self.activity.eq(activity)
