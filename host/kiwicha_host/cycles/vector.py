"""VECTOR: prepares, reads one line of operand A in a cycle, writes after a fixed time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from kiwicha import ChipConfig
from kiwicha.isa import TABLE_WORDS, OperandUse, OutFormat, Reduce, ResultFunction, ScaleMode, SecondSource, Source
from kiwicha.timing import (
    LANE_RESCALE,
    PARAMETER_SETS,
    READ_LATENCY,
    VECTOR_REQUESTS,
    half_lines,
    late_latency,
    row_top_gap,
    steps,
    sum_levels,
    word_lines,
)

from .events import Events
from .issue_queue import Instruction
from .matmul import MatmulModel
from .spans import Spans
from .timing import MEASURED, Timing

__all__ = ["VectorModel"]

_DYNAMIC_SCALE = (OutFormat.E4M3, OutFormat.E2M1, OutFormat.MXINT8)


@dataclass(slots=True)
class _Prepared:
    """An instruction whose parameters are in place from cycle `fetched` on, and tables, too, from `offered` on."""
    fields: dict[str, Any]
    fetched: int
    offered: int
    retire: Callable[[int], None]


class _Way(NamedTuple):
    """How results leave the datapath; another way waits until all of one have left."""
    dynamic_scale: bool
    row: bool
    function: bool
    levels: int     # of an FP32 sum of a row
    top: bool       # the largest of a row
    rescale: bool   # a scale beside a product with operand B

    @classmethod
    def of(cls, config: ChipConfig, fields: dict[str, Any]) -> "_Way":
        float_sum = fields["row"] and fields["reduce"] == Reduce.SUM and fields["out_format"] == OutFormat.FP32
        return cls(fields["out_format"] in _DYNAMIC_SCALE, bool(fields["row"]),
                   fields["function"] != ResultFunction.NONE,
                   sum_levels(config, fields["count2"]) if float_sum else 0, bool(fields["top"]),
                   fields["b_use"] == OperandUse.MULTIPLY and fields["scale_mode"] != ScaleMode.NONE)

    @property
    def late(self) -> int:
        """Cycles that results take besides."""
        return LANE_RESCALE if self.rescale else 0


class VectorModel:
    """Implements :class:`.issue_queue.UnitModel`."""

    def __init__(self, events: Events, config: ChipConfig, timing: Timing, matmul: MatmulModel):
        self._events, self._config, self._timing, self._matmul = events, config, timing, matmul
        self._steps, self._word_lines = steps(config), word_lines(config)
        self.busy = 0
        self._ready: int | None = 0                         # the head takes an instruction; None: not known yet
        self._waiting: Callable[[int], None] | None = None  # offers again, once it is known
        self._prepared: _Prepared | None = None             # waits for the address generator
        self._walking = False
        self._address_generator_free = 0                    # the address generator takes an instruction
        self._written = -1                                  # the last line was
        self._way = _Way(False, False, False, 0, False, False)
        self._next_row = 0                                  # its first read, after a row's largest
        self._accepted = 0
        self._ends: list[int] = []
        self._last = -1                                     # read of the instruction before
        #: Uses of the scratchpad's banks, which LOAD writes to and STORE reads from.
        self.writes, self.reads = Spans(), Spans()

    def offer(self, time: int, item: Instruction, accepted: Callable[[int], None],
              retire: Callable[[int], None]) -> None:
        if self._ready is None:
            self._waiting = lambda t: self.offer(t, item, accepted, retire)
            return
        ready = self._ready
        if self._accepted >= PARAMETER_SETS:
            ready = max(ready, self._ends[self._accepted - PARAMETER_SETS] + 1)
        if ready > time:
            self._events.at(ready, lambda t: self.offer(t, item, accepted, retire))
            return
        accepted(time)
        self._accepted += 1
        self._ready = None
        offered = self._parameter_fetch(item.fields, time)
        self._prepared = _Prepared(item.fields, offered, offered, retire)
        if not self._walking:
            self._start()

    def _start(self) -> None:
        """The instruction that is prepared goes on to the address generator, when its tables are loaded."""
        prepared = self._prepared
        assert prepared is not None
        self._prepared, self._walking = None, True
        if prepared.fields["load_a"] or prepared.fields["load_b"]:
            self._events.at(self._tables_loaded(prepared), lambda t: self._load(t, prepared))
        else:
            self._walk(prepared)

    def _load(self, time: int, prepared: "_Prepared") -> None:
        """The tables are loaded now, unless reads of MATMUL that were not known before came in between."""
        prepared.offered = self._tables_loaded(prepared)
        if prepared.offered > time:
            self._events.at(prepared.offered, lambda t: self._load(t, prepared))
        else:
            self._walk(prepared)

    def _walk(self, prepared: "_Prepared") -> None:
        """The address generator takes an instruction."""
        way = _Way.of(self._config, prepared.fields)
        took = max(prepared.offered, self._address_generator_free)
        if way != self._way:
            took = max(took, self._written + 1)
        self._way, self._ready = way, took + 1
        if self._waiting is not None:
            call, self._waiting = self._waiting, None
            self._events.at(took + 1, call)
        parts = prepared.fields["parts"] if way.dynamic_scale else 1
        reads = parts * self._steps
        for level in range(4):
            reads *= prepared.fields[f"count{level}"]
        self.busy += reads
        first = took + MEASURED["address_generator"]
        fetches = sum(self._fetched(prepared.fields, reads))
        # The lines of a row's largest are ordered before its first read.
        first += 2 * prepared.fields["top"] * self._word_lines
        first = max(first + _ahead(prepared.fields), self._last + 1, self._next_row)
        self._events.at(self._read(first, reads, fetches, prepared.fields),
                        lambda t: self._end(t, first, reads, fetches, prepared))

    def _tables_loaded(self, prepared: "_Prepared") -> int:
        """When the instruction is offered: its tables come after all that was before has ended."""
        tables = prepared.fields["load_a"] + prepared.fields["load_b"]
        start = max(prepared.fetched, self._ends[-1] + 1 if self._ends else 0)
        words = self._config.line_bytes // 4
        last = self._matmul.reads.last_of(prepared.fields["table_line"] // self._config.bank_lines, start + 1,
                                          TABLE_WORDS // words * tables, words)
        return last + words - 1 + MEASURED["tables"]

    def _fetched(self, fields: dict[str, Any], reads: int) -> tuple[int, int]:
        """Lines of operands B and A that come from the scratchpad."""
        window = fields["count0"] * fields["count1"] > 1
        a_words, b_words = (half_lines(self._config) if fields[name] else self._word_lines
                            for name in ("a_bf16", "b_bf16"))
        b = fields["count3"] * {SecondSource.ROW: 1, SecondSource.WORDS: fields["count2"] * b_words}.get(
            fields["b_source"], fields["count2"])
        a = reads if window else reads // self._steps * (a_words if fields["a_source"] == Source.WORDS else 1)
        return (b if _has_second(fields) else 0,
                a if fields["a_source"] != Source.ACCUMULATOR else 0)

    def _banks(self, fields: dict[str, Any], reads: int) -> dict[int, int]:
        """Those lines by their banks: what both operands wait for in one bank, they wait for once."""
        banks: dict[int, int] = {}
        for name, lines in zip(("b_line", "a_line"), self._fetched(fields, reads), strict=True):
            if lines:
                bank = fields[name] // self._config.bank_lines
                banks[bank] = banks.get(bank, 0) + lines
        return banks

    def _end(self, time: int, first: int, reads: int, fetches: int, prepared: "_Prepared") -> None:
        """The instruction's last read is now, unless sums that were not known before came in between."""
        last = self._read(first, reads, fetches, prepared.fields)
        if last > time:
            self._events.at(last, lambda t: self._end(t, first, reads, fetches, prepared))
            return
        self._walking, self._last = False, last
        ahead = _ahead(prepared.fields)
        if fetches:
            self._note_fetches(first - ahead, last - ahead, fetches, prepared.fields)
        self._address_generator_free = (last - ahead - MEASURED["address_generator"]
                                        + MEASURED["address_generator_period"])
        top, self._next_row = prepared.fields["top"], 0
        if top:
            # It is so many reads ahead, if there are as many, which take a cycle for each lane.
            self._address_generator_free -= (min(reads, VECTOR_REQUESTS) - 1) * (self._config.vector_lanes - 1)
            self._next_row = last + row_top_gap(self._config, top) + self._way.late
        if self._way.row or self._way.function:
            self._written = last + late_latency(self._config, self._way.row, self._way.function, self._way.levels,
                                                top)
        elif self._way.dynamic_scale:
            # The lines of a pixel, and one of scales after them.
            self._written = (last + self._timing.dynamic_scale
                             + (prepared.fields["parts"] - 1) * self._steps + 1)
        else:
            self._written = last + self._timing.vector
        self._written += self._way.late
        self._note_writes(first + self._written - last, prepared.fields, reads)
        self._ends.append(self._written + 1)
        self._events.at(self._written + 1, prepared.retire)
        if self._prepared is not None:
            self._start()

    def _note_fetches(self, first: int, last: int, fetches: int, fields: dict[str, Any]) -> None:
        """Tell STORE when its bank is taken."""
        line = fields["a_line" if fields["a_source"] != Source.ACCUMULATOR else "b_line"]
        self.reads.add(line // self._config.bank_lines, first, max(first, last), fetches)

    def _note_writes(self, first: int, fields: dict[str, Any], reads: int) -> None:
        """Tell LOAD when its bank is taken."""
        wide = fields["out_format"] in (OutFormat.INT32, OutFormat.FP32)
        pixels = fields["count3"] * (1 if self._way.row else fields["count2"])
        lines = pixels * (self._word_lines if wide else 1)
        count = 2 * fields["top"] * lines if self._way.top else min(lines, reads)
        self.writes.add(fields["out_line"] // self._config.bank_lines, first, self._written, count)

    def _parameter_fetch(self, fields: dict[str, Any], time: int) -> int:
        """When the instruction that is accepted in cycle `time` is offered to the address generator."""
        lines = self._word_lines
        asked = lines * (bool(fields["bias"]) + (fields["scale_mode"] == ScaleMode.COLUMN))
        if not asked:
            return time + MEASURED["parameter_fetch"] + lines
        bank = fields["param_line"] // self._config.bank_lines
        last = self._matmul.reads.last_of(bank, time + MEASURED["parameter_fetch"] - 1, asked)
        return last + READ_LATENCY + MEASURED["parameters"]

    def _read(self, first: int, reads: int, fetches: int, fields: dict[str, Any]) -> int:
        """When the last of `reads` reads is made: sums in the same half go first, and so do MATMUL's reads of the
        operands' bank."""
        last = first + reads - 1
        if fields["a_source"] == Source.ACCUMULATOR:
            half = fields["a_line"] // (self._config.accumulator_lines // 2)
            last = self._matmul.sums.last_of(half, first, reads)
        if fetches:
            ahead = _ahead(fields)
            asked = first - ahead
            ends = asked + fetches - 1
            late = 0                # by how much the first line of each operand is
            for bank, lines in self._banks(fields, reads).items():
                ends += self._matmul.reads.last_of(bank, asked, lines) - (asked + lines - 1)
                late = max(late, self._matmul.reads.last_of(bank, asked, 1) - asked)
            last = max(last, ends + MEASURED["operand"], first + late + reads - 1)
        if self._way.function and not self._way.row:
            # Each step's results go through the function one by one.
            made = reads // (fields["count0"] * fields["count1"])
            last = max(last, first + reads - 1 + (made - 1) * (self._config.vector_lanes - 1))
        elif self._way.top:
            # So does each step of a row, and the next row waits for the largest of this one.
            rows = fields["count3"]
            row = reads // rows - 1 + (fields["count2"] * self._steps - 1) * (self._config.vector_lanes - 1)
            last = max(last, first + rows * row + (rows - 1) * (
                row_top_gap(self._config, fields["top"]) + self._way.late))
        return last


def _has_second(fields: dict[str, Any]) -> bool:
    """Whether operand B has lines of its own."""
    return fields["b_use"] != OperandUse.NONE and fields["b_source"] != SecondSource.A


def _ahead(fields: dict[str, Any]) -> int:
    """Cycles from the order of a line of operands to the read that takes it, besides those of accumulators."""
    a, b = fields["a_source"] != Source.ACCUMULATOR, _has_second(fields)
    # B's line goes before A's.
    return MEASURED["operand"] + (a and b) if a or b else 0
