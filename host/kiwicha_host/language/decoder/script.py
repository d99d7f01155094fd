"""The order of a program: what stands still in the array is loaded as far ahead as there is room for."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Ring", "Script"]


#: Parts of the ring that are taken at most. More would be ahead further than semaphores count.
_MOST_TAKEN = 8


class Ring:
    """Lines from `first` on that are given out in turn, whole groups, and come back in the same order."""

    def __init__(self, first: int, lines: int, group: int):
        self._first, self._end, self._next, self._group = first, first + lines, first, group
        self._taken: deque[tuple[int, int]] = deque()

    def take(self, lines: int) -> int | None:
        """The first of `lines` consecutive lines, if there are so many."""
        lines = -(-lines // self._group) * self._group
        if len(self._taken) == _MOST_TAKEN:
            return None
        for start in (self._next, self._first):
            if start + lines <= self._end and not any(
                    start < begin + count and begin < start + lines for begin, count in self._taken):
                self._next = start + lines
                self._taken.append((start, lines))
                return start
        return None

    @property
    def oldest(self) -> int:
        """The first of the lines that were taken first."""
        return self._taken[0][0]

    def give_back(self) -> None:
        """These are free."""
        self._taken.popleft()


@dataclass(frozen=True)
class _Step:
    part: str
    action: Callable[[int], None]
    load: Callable[[int], None] | None = None
    lines: int = 0
    after: int = 0


class Script:
    """Steps in order. Lines for those that need some of the ring are loaded while earlier ones run.

    Attributes
    ----------
    part : str
        The name of that part of the model which the steps that come next belong to.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self.part = ""

    def do(self, action: Callable[[], object]) -> None:
        def call(_: int) -> None:
            action()
        self._steps.append(_Step(self.part, call))

    def use(self, lines: int, load: Callable[[int], None], action: Callable[[int], None], after: int = 0) -> None:
        """`load` and `action` are told the first of `lines` lines; `load` not before the first `after` steps."""
        self._steps.append(_Step(self.part, action, load, lines, after))

    @property
    def here(self) -> int:
        """The steps so far."""
        return len(self._steps)

    def run(self, ring: Ring, done: Callable[[str], None] = lambda part: None) -> None:
        """Call everything; every use must fit the ring. `done` is told after each call which part it was of."""
        waiting = deque(step for step in self._steps if step.load is not None)
        for number, step in enumerate(self._steps):
            while waiting and waiting[0].after <= number and (line := ring.take(waiting[0].lines)) is not None:
                first = waiting.popleft()
                assert first.load is not None
                first.load(line)
                done(first.part)
            if step.load is None:
                step.action(0)
            else:
                step.action(ring.oldest)
                ring.give_back()
            done(step.part)
