"""The clock of the cycle model: things that happen, in order of time."""

import heapq
from collections.abc import Callable
from itertools import count

__all__ = ["DECIDE", "NEVER", "UPDATE", "Events"]

#: In one cycle, what changes comes before what looks at it.
UPDATE, DECIDE = 0, 1
#: Later than anything.
NEVER = 1 << 62


class Events:
    """A queue of calls, each at a cycle. A call gets its cycle as its argument."""

    def __init__(self) -> None:
        self._queue: list[tuple[int, int, int, Callable[[int], None]]] = []
        self._number = count()

    def at(self, time: int, call: Callable[[int], None], order: int = UPDATE) -> None:
        """Call `call(time)`; of calls in the same cycle, those of a lower `order` come first."""
        heapq.heappush(self._queue, (time, order, next(self._number), call))

    @property
    def next_time(self) -> int:
        """Cycle of the next call; NEVER if there is none."""
        return self._queue[0][0] if self._queue else NEVER

    def run(self, until: int = NEVER) -> None:
        """All calls up to the cycle `until`; those that they ask for, too."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            time, _, _, call = heapq.heappop(queue)
            call(time)
