"""The supervisor: starts a program, finds out how it ends, and stops what must be stopped."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..isa import INDEX_WIDTH, INSTRUCTIONS, ErrorCode, Unit
from .unit import SETTLE, ErrorReport

__all__ = ["ErrorRecord", "SOURCES", "Supervisor", "Watchdog"]

ISSUE_QUEUES = len(INSTRUCTIONS)
#: Cycles to find the oldest instruction among them, two by two.
TREE_LEVELS = (ISSUE_QUEUES - 1).bit_length()
#: Where errors come from, in the order in which they are preferred at the same index.
SOURCES = (*(unit.name.lower() for unit in INSTRUCTIONS), "dispatch", "fetch", "watchdog", "host")


def _without_lowest(bits):
    return Cat(bit & bits[:number].any() if number else 0 for number, bit in enumerate(bits))


class ErrorRecord(data.Struct):
    """What the ERROR registers show."""
    code: ErrorCode
    unit: Unit
    index: INDEX_WIDTH
    address: 64


class Watchdog(wiring.Component):
    """Counts cycles without progress.

    Members
    -------
    running, progress : In(1)
    limit : In(32)
        So many cycles without progress end the program; 0: never.
    expired : Out(1)
        High from `limit` + 3 cycles after the last cycle with progress on, until progress or the end.
    """

    running: In(1)
    progress: In(1)
    limit: In(32)
    expired: Out(1)

    def elaborate(self, platform):
        m = Module()
        moved = Signal()
        left = Signal(32)
        m.d.sync += [moved.eq(self.progress | ~self.running), self.expired.eq(0)]
        with m.If(moved):
            m.d.sync += left.eq(self.limit)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.Else():
            m.d.sync += self.expired.eq((self.limit != 0) & self.running)
        return m


class Supervisor(wiring.Component):
    """Runs one program after another: idle, running, choosing among errors, stopping.

    A program ends well when all its instructions are dispatched, no issue queue holds any, and all units are
    quiet; or with the first error, which of several in one cycle is the one with the lowest
    instruction index. `failed` comes 3 cycles after the error, one more for each further error of the same cycle.
    Then `abort` is held until fetch and all units are quiet, however long the bus takes; only then
    `busy` falls.

    Members
    -------
    start : In(1)
        Ignored while `busy`.
    host_abort : In(1)
        Ignored unless a program runs.
    all_done, empty, quiet : In(1)
        All instructions are dispatched; the issue queues are empty; fetch and units are quiet.
    progress : In(1), limit : In(32)
        For the watchdog.
    errors : In(ErrorReport), one each for the units, dispatch and fetch
    dispatch_unit : In(Unit)
        Whom dispatch's error is about.
    held, held_index : In
        From each issue queue: its oldest instruction.
    next_index : In(24)
        The instruction that will be dispatched next.
    starting : Out(1)
        A program starts: high for one cycle, in which everything is reset.
    running : Out(1)
        High in the cycles that count as the program's.
    busy, abort : Out(1)
        `abort` is a register: it goes to all units.
    succeeded, failed : Out(1)
        High for one cycle, when a program ends well, or when its error is known.
    done, error : Out(1)
        The same, until the next start.
    record : Out(ErrorRecord)
    """

    def __init__(self):
        super().__init__({
            "start": In(1),
            "host_abort": In(1),
            "all_done": In(1),
            "empty": In(1),
            "quiet": In(1),
            "progress": In(1),
            "limit": In(32),
            "errors": In(ErrorReport).array(ISSUE_QUEUES + 2),
            "dispatch_unit": In(Unit),
            "held": In(ISSUE_QUEUES),
            "held_index": In(data.ArrayLayout(INDEX_WIDTH, ISSUE_QUEUES)),
            "next_index": In(INDEX_WIDTH),
            "starting": Out(1),
            "running": Out(1),
            "busy": Out(1),
            "abort": Out(1),
            "succeeded": Out(1),
            "failed": Out(1),
            "done": Out(1),
            "error": Out(1),
            "record": Out(ErrorRecord),
        })

    def elaborate(self, platform):
        m = Module()
        oldest = self._elaborate_oldest(m)
        m.submodules.watchdog = watchdog = Watchdog()
        m.d.comb += [watchdog.running.eq(self.running), watchdog.progress.eq(self.progress),
                     watchdog.limit.eq(self.limit)]
        records = self._records(m, oldest)
        seen = Signal(len(SOURCES))
        for number, report in enumerate(self.errors):
            m.d.comb += seen[number].eq(report.valid)
        m.d.comb += [seen[SOURCES.index("watchdog")].eq(watchdog.expired),
                     seen[SOURCES.index("host")].eq(self.host_abort)]
        pending = Signal(len(SOURCES))
        chosen = self._elaborate_choice(m, records, pending)

        finished = Signal()
        quiet = Signal()
        settle = Signal(range(SETTLE + 1))
        m.d.sync += [
            finished.eq(self.all_done & self.empty & self.quiet & ~self.starting),
            quiet.eq(self.quiet),
            self.succeeded.eq(0),
            self.failed.eq(0),
        ]
        with m.FSM(name="run") as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += self.starting.eq(self.start)
                with m.If(self.start):
                    m.d.sync += [self.done.eq(0), self.error.eq(0), self.record.eq(0)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.running.eq(1)
                m.d.sync += pending.eq(seen)
                with m.If(seen.any()):
                    m.next = "CHOOSE"
                with m.Elif(finished):
                    m.d.sync += [self.done.eq(1), self.succeeded.eq(1)]
                    m.next = "IDLE"
            with m.State("CHOOSE"):
                m.d.sync += [pending.eq(_without_lowest(pending)), settle.eq(SETTLE)]
                with m.If(chosen):
                    m.d.sync += [self.error.eq(1), self.failed.eq(1), self.abort.eq(1)]
                    m.next = "STOP"
            with m.State("STOP"):
                with m.If(settle != 0):
                    m.d.sync += settle.eq(settle - 1)
                with m.Elif(quiet):
                    m.d.sync += self.abort.eq(0)
                    m.next = "IDLE"
        return m

    def _records(self, m, oldest):
        """What each source would put into the record."""
        records = []
        for number, source in enumerate(SOURCES):
            record = Signal(ErrorRecord, name=f"record_{source}")
            if number < len(self.errors):
                report = self.errors[number]
                unit = [*INSTRUCTIONS, Unit.FETCH, Unit.FETCH][number]
                m.d.comb += [record.code.eq(report.code), record.index.eq(report.index),
                             record.address.eq(report.address),
                             record.unit.eq(self.dispatch_unit if source == "dispatch" else unit)]
            elif source == "watchdog":
                m.d.comb += [record.code.eq(ErrorCode.WATCHDOG), record.index.eq(oldest.index),
                             record.unit.eq(oldest.unit)]
            else:
                m.d.comb += [record.code.eq(ErrorCode.ABORTED), record.index.eq(oldest.index),
                             record.unit.eq(Unit.FETCH)]
            records.append(record)
        return records

    def _elaborate_choice(self, m, records, pending):
        """Look at one pending source after the other and keep the lowest index; return "that was all"."""
        candidate = Signal(ErrorRecord)
        valid, kept = Signal(), Signal()
        for number in reversed(range(len(SOURCES))):
            with m.If(pending[number]):
                m.d.sync += candidate.eq(records[number])
        m.d.sync += [valid.eq(pending.any() & (self.busy & ~self.running)), kept.eq(valid)]
        with m.If(valid & (~kept | (candidate.index < self.record.index))):
            m.d.sync += self.record.eq(candidate)
        # That was all if there was only one left a cycle ago.
        chosen = Signal()
        m.d.sync += chosen.eq(pending.any() & ~_without_lowest(pending).any() & self.busy & ~self.running)
        return chosen

    def _elaborate_oldest(self, m):
        """The unit and index of the oldest instruction that is not finished, as of 1 + TREE_LEVELS cycles ago."""
        Entry = data.StructLayout({"valid": 1, "index": INDEX_WIDTH, "unit": Unit})
        level = [Signal(Entry, name=f"oldest_{number}") for number in range(1 << TREE_LEVELS)]
        for entry, unit, held, index in zip(level, INSTRUCTIONS, self.held, self.held_index, strict=False):
            m.d.comb += [entry.valid.eq(held), entry.index.eq(index), entry.unit.eq(unit)]
        while len(level) > 1:
            above = []
            for left, right in zip(level[::2], level[1::2], strict=True):
                older = Signal(Entry, name=f"older_{len(level)}_{len(above)}")
                use_left = left.valid & (~right.valid | (left.index < right.index))
                m.d.sync += older.eq(Mux(use_left, left, right))
                above.append(older)
            level = above
        oldest = Signal(Entry)
        # What is still to come is younger than anything that an issue queue holds, seen in the same cycle.
        following = self.next_index
        for number in range(1 + TREE_LEVELS):
            before, following = following, Signal(INDEX_WIDTH, name=f"following_{number}")
            m.d.sync += following.eq(before)
        m.d.comb += oldest.eq(level[0])
        with m.If(~level[0].valid):
            m.d.comb += [oldest.index.eq(following), oldest.unit.eq(Unit.FETCH)]
        return oldest
