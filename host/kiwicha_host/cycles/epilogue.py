"""EPILOGUE: prepares, reads one accumulator line in a cycle, writes after a fixed time."""

from collections import deque
from collections.abc import Callable
from typing import Any

from kiwicha import ChipConfig
from kiwicha.config import READ_LATENCY
from kiwicha.epilogue.shapes import SETS, Geometry
from kiwicha.isa import OutFormat, ScaleMode

from .events import Events
from .matmul import MatmulModel
from .station import Instruction
from .timing import MEASURED, Timing

__all__ = ["EpilogueModel"]

_FRESH = (OutFormat.E4M3, OutFormat.E2M1)


class EpilogueModel:
    """Implements :class:`.station.UnitModel`."""

    def __init__(self, events: Events, config: ChipConfig, timing: Timing, matmul: MatmulModel):
        self._events, self._config, self._timing, self._matmul = events, config, timing, matmul
        self._geometry = Geometry.of(config)
        self.busy = 0
        self._ready = 0                                     # the head takes an instruction
        self._walk_free = 0                                 # the walk takes a job
        self._written = -1                                  # the last line was
        self._fresh = False
        self._retires: deque[int] = deque(maxlen=SETS)

    def offer(self, time: int, item: Instruction, accepted: Callable[[int], None],
              retire: Callable[[int], None]) -> None:
        time = max(time, self._ready)
        if len(self._retires) == SETS:
            time = max(time, self._retires[0] + 1)
        offered = time + self._prepare(item.fields)
        fresh = item.fields["out_format"] in _FRESH
        took = max(offered, self._walk_free)
        if fresh != self._fresh:
            took = max(took, self._written + 1)
        self._fresh, self._ready = fresh, took + 1
        end = self._walk(item.fields, took, fresh)
        self._retires.append(end)
        self._events.at(time, accepted)
        self._events.at(end, retire)

    def _prepare(self, fields: dict[str, Any]) -> int:
        """Cycles from acceptance to the job's offer."""
        lines = self._geometry.word_lines
        asked = lines * (bool(fields["bias"]) + (fields["scale_mode"] == ScaleMode.COLUMN))
        return MEASURED["prepare"] + (MEASURED["parameters"] + READ_LATENCY - 3 + asked if asked else lines)

    def _walk(self, fields: dict[str, Any], took: int, fresh: bool) -> int:
        """Read everything; returns when the instruction retires."""
        parts = fields["parts"] if fresh else 1
        steps = self._geometry.steps
        pixels = fields["count2"] * fields["count3"]
        reads = fields["count0"] * fields["count1"] * parts * steps * pixels
        self.busy += reads
        last = self._read(took + MEASURED["walk"], reads, fields)
        self._walk_free = last - MEASURED["walk"] + MEASURED["walk_period"]
        if fresh:
            # The lines of a pixel, and one of scales after them.
            self._written = last + self._timing.fresh + (parts - 1) * steps + 1
        else:
            self._written = last + self._timing.epilogue
        return self._written + 1

    def _read(self, first: int, reads: int, fields: dict[str, Any]) -> int:
        """When the last of `reads` reads is made, sums in the same half going first."""
        half = fields["acc_line"] // (self._config.accumulator_lines // 2)
        last = first + reads - 1
        for span in self._matmul.sums:
            if span.half == half and span.last >= first and span.first <= last:
                last += span.last - max(span.first, first) + 1
                first = max(first, min(span.last + 1, last))
        return last
