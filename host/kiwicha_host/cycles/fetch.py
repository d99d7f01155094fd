"""The program's way from memory to the issue queues."""

from collections.abc import Mapping, Sequence

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, Unit
from kiwicha.timing import FETCH_BUFFER, FETCH_BURST

from .bus import ReadBus
from .events import DECIDE, Events
from .issue_queue import Instruction, IssueQueue
from .timing import MEASURED

__all__ = ["Fetch"]


class Fetch:
    """Reads instructions ahead of dispatch, and hands them out in order."""

    def __init__(self, events: Events, bus: ReadBus, config: ChipConfig, program: Sequence[Instruction],
                 address: int, issue_queues: Mapping[Unit, IssueQueue]):
        self._events, self._bus, self._issue_queues = events, bus, issue_queues
        self._program = program
        self._beats = INSTRUCTION_BYTES // config.bus_bytes
        self._place = address // INSTRUCTION_BYTES
        self._asked = self._popped = 0
        self._free = FETCH_BUFFER
        self._blocked = False
        self._ready: list[int] = []         # when each instruction can be dispatched
        self._dispatching = False
        self._since = 0
        self._last_pop = -MEASURED["dispatch_period"]
        self.last_dispatch = -1
        #: Cycles in which an instruction was there and its issue queue full.
        self.queue_stalls = 0
        events.at(MEASURED["start_to_ask"] - 2, self._plan, DECIDE)

    def _plan(self, time: int) -> None:
        if self._asked == len(self._program):
            return
        if self._free < FETCH_BURST:
            self._blocked = True
            return
        self._bus.ask(time + 2, True, self._accepted)

    def _accepted(self, time: int) -> None:
        length = min(FETCH_BURST - (self._place + self._asked) % FETCH_BURST, len(self._program) - self._asked)
        self._asked += length
        self._free -= length
        first = self._bus.first_beat(time)
        self._bus.used_until(first + length * self._beats - 1)
        self._ready += [first + (i + 1) * self._beats - 1 + MEASURED["beat_to_offer"] for i in range(length)]
        self._events.at(time + 1, self._plan, DECIDE)
        self._next_dispatch()

    def _next_dispatch(self) -> None:
        if not self._dispatching and self._popped < len(self._ready):
            self._dispatching = True
            time = self._since = max(self._ready[self._popped], self._last_pop + MEASURED["dispatch_period"])
            self._events.at(time, self._dispatch, DECIDE)

    def _dispatch(self, time: int) -> None:
        item = self._program[self._popped]
        issue_queue = self._issue_queues[item.unit]
        if issue_queue.full:
            issue_queue.waiting_dispatch = self._dispatch
            return
        self.queue_stalls += time - self._since
        issue_queue.push(time, item)
        self._popped += 1
        self._last_pop = self.last_dispatch = time
        self._dispatching = False
        self._events.at(time + MEASURED["dispatch_to_room"], self._freed)
        self._next_dispatch()

    def _freed(self, time: int) -> None:
        self._free += 1
        if self._blocked and self._free >= FETCH_BURST:
            self._blocked = False
            self._events.at(time, self._plan, DECIDE)
