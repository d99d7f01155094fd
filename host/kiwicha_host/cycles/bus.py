"""The read bus: two readers, one memory that answers in order."""

from collections.abc import Callable

from .events import DECIDE, Events
from .timing import MEASURED

__all__ = ["ReadBus"]

_FETCH, _LOAD = 0, 1


class ReadBus:
    """Merges the addresses of FETCH and LOAD and says when their beats come.

    Parameters
    ----------
    latency : int
        Cycles from an address on the bus to its first beat there.
    """

    def __init__(self, events: Events, latency: int):
        self._events = events
        self._answer = max(latency, 1) + MEASURED["address_to_bus"] + MEASURED["beat_from_bus"]
        self._pending: dict[int, tuple[int, Callable[[int], None]]] = {}     # from when on, and whom to tell
        self._last = _LOAD
        self._next = 0              # no address is accepted before
        self._free = 0              # no beat comes before

    def ask(self, time: int, fetch: bool, accepted: Callable[[int], None]) -> None:
        """From cycle `time` on there is an address; `accepted` is called in the cycle of its acceptance."""
        self._pending[_FETCH if fetch else _LOAD] = time, accepted
        self._events.at(max(time, self._next), self._arbitrate, DECIDE)

    def alone(self, time: int) -> bool:
        """Whether nobody else can want the channel in cycle `time`; then :meth:`took` may be called at once."""
        return not self._pending and self._next <= time < self._events.next_time

    def took(self, time: int) -> None:
        """LOAD's address was accepted in cycle `time` without asking."""
        self._next, self._last = time + 1, _LOAD

    def _arbitrate(self, time: int) -> None:
        there = [who for who, (since, _) in self._pending.items() if since <= time]
        if not there:
            return
        if time < self._next:
            self._events.at(self._next, self._arbitrate, DECIDE)
            return
        turn = _LOAD if self._last == _FETCH else _FETCH
        who = turn if turn in there else there[0]
        _, call = self._pending.pop(who)
        self._next, self._last = time + 1, who
        call(time)
        if len(there) > 1:
            self._events.at(self._next, self._arbitrate, DECIDE)

    def first_beat(self, accepted: int) -> int:
        """When the reader gets the first beat of the burst whose address was accepted last, in that cycle."""
        return max(accepted + self._answer, self._free)

    def used_until(self, last: int) -> None:
        """The last beat of that burst was taken in cycle `last`."""
        self._free = last + 1
