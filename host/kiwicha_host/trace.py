"""Where the cycles of one run went: what each unit did, when, and for which instruction."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kiwicha.isa import INSTRUCTION_BYTES, Activity, Unit

from . import arguments
from .assembler import disassemble

__all__ = ["SPAN", "SPAN_LIMIT", "Trace"]

#: One span: from cycle `start` to before `end`, `unit` did one `activity` for one `instruction` (-1: for none).
SPAN = np.dtype([("unit", np.uint8), ("activity", np.uint8), ("instruction", np.int32), ("start", np.int64),
                 ("end", np.int64)])
#: Spans that a trace holds unless more are asked for: 24 MiB here, a report of some 100 MB at the very most.
SPAN_LIMIT = 1 << 20


@dataclass(frozen=True, eq=False)
class Trace:
    """The spans of a run.

    A unit's spans follow one another without gaps or overlaps from cycle 0 to `covered`; `unit` and `activity`
    are the values of :class:`kiwicha.isa.Unit` and :class:`kiwicha.isa.Activity`, and are what the counters
    count. The instruction of a span is the oldest that the unit has accepted and not ended; where there is none
    and the next waits for a semaphore, the next; FETCH's is the one that is dispatched, or waited for.

    Parameters
    ----------
    spans : :data:`SPAN` [spans], by unit and then by time
    covered : int
        The cycles that the spans are of, from the first on.
    cycles : int
        The cycles of the run; more than `covered` if the spans were more than the trace may hold.
    program : bytes
        The program as it was before the run.
    """
    spans: np.ndarray
    covered: int
    cycles: int
    program: bytes

    @classmethod
    def from_starts(cls, unit: np.ndarray, activity: np.ndarray, instruction: np.ndarray, start: np.ndarray,
                    covered: int, cycles: int, program: bytes) -> "Trace":
        """A trace of spans that are known by their first cycles, in the order of these."""
        order = np.argsort(unit, kind="stable")
        spans = np.empty(len(order), SPAN)
        for name, values in (("unit", unit), ("activity", activity), ("instruction", instruction),
                             ("start", start)):
            spans[name] = values[order]
        spans["end"][:-1] = spans["start"][1:]
        last = np.flatnonzero(np.diff(spans["unit"], append=np.uint8(0xFF)))
        spans["end"][last] = covered
        return cls(spans, covered, cycles, program)

    def __add__(self, other: "Trace") -> "Trace":
        """Both runs as one, one after the other, the programs too."""
        if not isinstance(other, Trace):
            return NotImplemented
        program, cycles = self.program + other.program, self.cycles + other.cycles
        if not self.complete:
            return Trace(self.spans, self.covered, cycles, program)
        later = other.spans.copy()
        later["start"] += self.cycles
        later["end"] += self.cycles
        later["instruction"][later["instruction"] >= 0] += self.program_count
        spans = np.concatenate([self.spans, later])
        order = np.argsort(spans["unit"], kind="stable")
        return Trace(spans[order], self.cycles + other.covered, cycles, program)

    @property
    def complete(self) -> bool:
        """Whether the spans are of the whole run."""
        return self.covered == self.cycles

    def of(self, unit: Unit) -> np.ndarray:
        """The spans of one unit."""
        if not isinstance(unit, Unit):
            raise TypeError(f"unit must be a Unit, not {arguments.shown(unit)}")
        first, last = np.searchsorted(self.spans["unit"], [unit.value, unit.value + 1])
        return self.spans[first:last]

    @cached_property
    def counters(self) -> dict[str, dict[str, int]]:
        """Cycles by unit and activity; of a complete trace, the chip's own counters."""
        lengths = self.spans["end"] - self.spans["start"]
        keys = self.spans["unit"].astype(np.intp) * len(Activity) + self.spans["activity"]
        # Exact: np.bincount sums in float64, and a trace has less than 2^53 cycles.
        sums = np.bincount(keys, lengths, len(Unit) * len(Activity)).astype(np.int64)
        return {unit.name: {activity.name: int(sums[unit.value * len(Activity) + activity.value])
                            for activity in Activity} for unit in Unit}

    def shares(self, columns: int) -> np.ndarray:
        """How much of each of `columns` equal parts of the time each unit spent on each activity.

        float64 [units, activities, columns], by the values of :class:`Unit` and :class:`Activity`; over the
        activities the sum is 1.
        """
        arguments.integer("columns", columns, 1)
        edges = np.linspace(0, self.covered, columns + 1)
        shares = np.empty((len(Unit), len(Activity), columns))
        for unit in Unit:
            spans = self.of(unit)
            knots = np.append(0, spans["end"])
            for activity in Activity:
                spent = np.where(spans["activity"] == activity.value, spans["end"] - spans["start"], 0)
                shares[unit.value, activity.value] = np.diff(np.interp(edges, knots, np.append(0, spent.cumsum())))
        return shares * columns / max(1, self.covered)

    def instructions(self, unit: Unit) -> np.ndarray:
        """What `unit` worked on, one span per instruction, in order; `activity` is BUSY.

        From the first span of the instruction to its last; where FETCH or a semaphore had it is no other's.
        """
        spans = self.of(unit)
        spans = spans[spans["instruction"] >= 0]
        changes = np.flatnonzero(np.diff(spans["instruction"], prepend=-1))
        merged = spans[changes].copy()
        merged["activity"] = Activity.BUSY.value
        if len(merged):
            merged["end"] = spans["end"][np.append(changes[1:], len(spans)) - 1]
        return merged

    def instruction(self, index: int) -> bytes:
        """The 64 bytes of an instruction."""
        arguments.integer("index", index)
        return self.program[index * INSTRUCTION_BYTES:(index + 1) * INSTRUCTION_BYTES]

    def describe(self, index: int) -> str:
        """An instruction as text; empty for none."""
        return disassemble(self.instruction(index)) if index >= 0 else ""

    @property
    def program_count(self) -> int:
        return len(self.program) // INSTRUCTION_BYTES

    def units(self) -> np.ndarray:
        """The opcode of each instruction of the program, which is the value of its unit."""
        return np.frombuffer(self.program, np.uint8)[::INSTRUCTION_BYTES]

    def __iter__(self) -> Iterator[tuple[Unit, int, Activity, int, int]]:
        """Unit, instruction, activity, first cycle and cycle after the last, of each span."""
        for unit, activity, instruction, start, end in self.spans.tolist():
            yield Unit(unit), instruction, Activity(activity), start, end
