"""Issue queues and semaphores: which instruction a unit is offered, and when."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kiwicha.isa import INSTRUCTIONS, SEMAPHORE_MAX, SEMAPHORES, Unit
from kiwicha.timing import OPEN_INSTRUCTIONS, SEMAPHORE_PERIOD

from .events import DECIDE, Events

__all__ = ["Instruction", "Semaphores", "IssueQueue", "UnitModel"]



@dataclass(slots=True)
class Instruction:
    """A decoded instruction on its way."""
    index: int
    unit: Unit
    fields: dict[str, Any]
    wait: int
    signal: int


class UnitModel(Protocol):
    """What an issue queue needs of a unit."""

    busy: int

    def offer(self, time: int, item: Instruction, accepted: Callable[[int], None],
              retire: Callable[[int], None]) -> None:
        """Take `item`, offered from cycle `time` on; call `accepted` and `retire` as events of their cycles."""


class Semaphores:
    """The counting semaphores: one grant and one signal every three cycles."""

    def __init__(self, events: Events):
        self._events = events
        self._counts = [0] * SEMAPHORES
        self._wants: dict[Unit, tuple[int, Callable[[int], None]]] = {}
        self._signals: dict[Unit, tuple[int, Callable[[int], None]]] = {}
        self._grant_order = list(INSTRUCTIONS)
        self._signal_order = list(self._grant_order)
        self._next_grant = self._next_signal = 0        # when there can be another decision

    def want(self, time: int, unit: Unit, mask: int, granted: Callable[[int], None]) -> None:
        """From cycle `time` on `unit` wants one from each of `mask`."""
        self._wants[unit] = mask, granted
        self._events.at(max(time, self._next_grant), self._decide_grant, DECIDE)

    def signal(self, time: int, unit: Unit, mask: int, applied: Callable[[int], None]) -> None:
        """From cycle `time` on `unit` has one for each of `mask`."""
        self._signals[unit] = mask, applied
        self._events.at(max(time, self._next_signal), self._decide_signal, DECIDE)

    def _decide_grant(self, time: int) -> None:
        if time < self._next_grant:
            if self._wants:
                self._events.at(self._next_grant, self._decide_grant, DECIDE)
            return
        for unit in self._grant_order:
            mask, granted = self._wants.get(unit, (0, None))
            if granted is None or not all(self._counts[i] for i in _bits(mask)):
                continue
            del self._wants[unit]
            self._to_back(self._grant_order, unit)
            self._next_grant = time + SEMAPHORE_PERIOD
            self._events.at(time + 1, granted)
            self._events.at(time + SEMAPHORE_PERIOD, partial(self._change, mask, -1))
            return

    def _decide_signal(self, time: int) -> None:
        if time < self._next_signal:
            if self._signals:
                self._events.at(self._next_signal, self._decide_signal, DECIDE)
            return
        for unit in self._signal_order:
            mask, applied = self._signals.get(unit, (0, None))
            if applied is None or any(self._counts[i] >= SEMAPHORE_MAX for i in _bits(mask)):
                continue
            del self._signals[unit]
            self._to_back(self._signal_order, unit)
            self._next_signal = time + SEMAPHORE_PERIOD
            self._events.at(time + 1, applied)
            self._events.at(time + 2, partial(self._change, mask, 1))
            self._events.at(self._next_signal, self._decide_signal, DECIDE)
            return

    def _change(self, mask: int, by: int, time: int) -> None:
        for i in _bits(mask):
            self._counts[i] += by
        if self._wants:
            self._events.at(time, self._decide_grant, DECIDE)
        if self._signals:
            self._events.at(time, self._decide_signal, DECIDE)

    @staticmethod
    def _to_back(order: list[Unit], unit: Unit) -> None:
        order.remove(unit)
        order.append(unit)


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class IssueQueue:
    """One unit's queue, its head, and its open instructions; counts what the unit waits for."""

    def __init__(self, events: Events, semaphores: Semaphores, unit: Unit, model: UnitModel, depth: int):
        self._events, self._semaphores, self._unit, self._model = events, semaphores, unit, model
        self._depth = depth
        self._queue: deque[Instruction] = deque()
        self._head: Instruction | None = None
        self._head_loading = False
        self._open: deque[Instruction] = deque()
        self._opened = 0                # as the head sees it
        self._retired = 0
        self._closing = False
        self._room_again: Callable[[int], None] | None = None
        #: Calls when the queue has room again.
        self.waiting_dispatch: Callable[[int], None] | None = None
        self.last_retire = 0
        #: Spans in which the next instruction waited for semaphores, and those in which the unit had work.
        self.waits: list[tuple[int, int]] = []
        self.spans: list[tuple[int, int]] = []
        self._starts: deque[int] = deque()

    @property
    def full(self) -> bool:
        return len(self._queue) >= self._depth

    def push(self, time: int, item: Instruction) -> None:
        """Dispatch hands over `item` in cycle `time`."""
        self._queue.append(item)
        if self._head is None and not self._head_loading:
            self._head_loading = True
            self._events.at(time + 1, self._load_head)

    def _load_head(self, time: int) -> None:
        self._head = self._queue[0]
        self._events.at(time + 1, self._head_valid)

    def _head_valid(self, time: int) -> None:
        self._queue.popleft()
        self._head_loading = False
        if self.waiting_dispatch is not None:
            call, self.waiting_dispatch = self.waiting_dispatch, None
            self._events.at(time, call, DECIDE)
        self._events.at(time, self._ask, DECIDE)

    def _ask(self, time: int) -> None:
        assert self._head is not None
        if self._opened >= OPEN_INSTRUCTIONS:
            self._room_again = self._ask
            return
        if self._head.wait:
            self._semaphores.want(time, self._unit, self._head.wait, lambda t: self._granted(t, time))
        else:
            self._events.at(time + 1, self._offer)

    def _granted(self, time: int, since: int) -> None:
        self.waits.append((since, time + 1))
        self._events.at(time + 1, self._offer)

    def _offer(self, time: int) -> None:
        assert self._head is not None
        self._model.offer(time, self._head, self._accepted, self._retire)

    def _accepted(self, time: int) -> None:
        assert self._head is not None
        self._open.append(self._head)
        self._starts.append(time)
        self._head = None
        self._events.at(time + 2, self._count_open)
        if self._queue:
            self._head_loading = True
            self._events.at(time + 1, self._load_head)

    def _count_open(self, _: int) -> None:
        self._opened += 1

    def _retire(self, time: int) -> None:
        self._retired += 1
        self.spans.append((self._starts.popleft(), time))
        self.last_retire = time
        self._close(time)

    def _close(self, time: int) -> None:
        if self._closing or not self._retired:
            return
        self._closing = True
        if self._open[0].signal:
            self._semaphores.signal(time, self._unit, self._open[0].signal, self._closed)
        else:
            self._events.at(time + 1, self._closed)

    def _closed(self, time: int) -> None:
        self._events.at(time + 1, self._after_close)

    def _after_close(self, time: int) -> None:
        self._open.popleft()
        self._closing = False
        self._retired -= 1
        self._opened -= 1
        if self._room_again is not None:
            call, self._room_again = self._room_again, None
            self._events.at(time, call, DECIDE)
        self._close(time)
