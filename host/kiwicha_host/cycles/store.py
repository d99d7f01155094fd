"""STORE: lines from the scratchpad, bursts to the write bus. Nobody else uses either, so all follows at once."""

from collections import deque
from collections.abc import Callable

from kiwicha import ChipConfig
from kiwicha.timing import REALIGNER_ROWS

from .events import Events
from .issue_queue import Instruction
from .spans import Spans
from .timing import MEASURED, Timing
from .transfer import Bursts, Transfer

__all__ = ["StoreModel"]


class StoreModel:
    """Implements :class:`.issue_queue.UnitModel`."""

    def __init__(self, events: Events, config: ChipConfig, timing: Timing, latency: int,
                 reads: tuple[Spans, ...]):
        self._events, self._config, self._timing = events, config, timing
        self._reads = reads
        self._latency = max(latency, 1)
        self._room = REALIGNER_ROWS * max(config.line_bytes, config.bus_bytes) - config.line_bytes
        self.busy = 0
        self._ready = 0                 # the head takes an instruction
        self._generator_free = 0
        self._finish = 0                # when the last burst was announced
        self._flying: deque[int] = deque(maxlen=config.writes_in_flight)
        self._asked = -1                # when the last line was asked for
        self._taken = -1                # when the last beat's bytes were taken
        self._answer = -1

    def offer(self, time: int, item: Instruction, accepted: Callable[[int], None],
              retire: Callable[[int], None]) -> None:
        time = max(time, self._ready)
        transfer = Transfer.of(item.fields)
        sent = transfer.handed_over(time, self._config, self._reads)
        took = max(sent, self._generator_free)
        self._ready = took + 1
        self._run(transfer, sent, took)
        self._events.at(time, accepted)
        self._events.at(self._answer + 1, retire)

    def _run(self, transfer: Transfer, sent: int, took: int) -> None:
        line = max(self._asked + 1, sent + MEASURED["segment"])       # when the first line can be asked for
        offer = max(took + 1, self._finish) + MEASURED["burst"] - 1
        left = transfer.runs * transfer.planes
        seen = read = 0
        bus, stage = self._config.bus_bytes, self._timing
        for size, beats, offset, first in Bursts(transfer, bus):
            if first:
                left -= 1
                if not left:
                    self._generator_free = offer - 1
            time = offer
            if len(self._flying) == self._flying.maxlen:
                time = max(time, self._flying[0] + 2)
            self._finish, offer = time, time + MEASURED["burst_period"]
            # Lines that this burst's first and all of its beats need, one in each cycle, unless they have no room.
            seen += size
            needs = transfer.segments_in(seen - 1) + 1
            begin_needs = transfer.segments_in(min(seen - size + bus - offset, seen) - 1) + 1
            if needs > read:
                at, many = line + read, needs - read
                bank = transfer.line(read) // self._config.bank_lines
                line += sum(reads.last_of(bank, at, many) - (at + many - 1) for reads in self._reads)
            begin = max(self._taken + 1, time + MEASURED["plan"], line + begin_needs - 1 + stage.read)
            self._taken = max(begin + beats - 1, line + needs - 1 + stage.read)
            ahead = self._room * transfer.row_segments // transfer.row_bytes
            line = max(line, self._taken + 3 - needs - ahead)
            read = needs
            self._answer = max(self._taken + stage.send + self._latency, self._answer + 1)
            self._flying.append(self._answer)
            self.busy += beats
        self._asked = line + read - 1
