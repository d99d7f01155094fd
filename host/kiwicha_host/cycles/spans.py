"""Who has a port, and when: what those behind it in priority have to wait for."""

from bisect import bisect_left
from collections import defaultdict
from math import inf

__all__ = ["Spans"]


class _Row:
    """Spans of one memory, in order of time."""

    __slots__ = ("counts", "firsts", "lasts")

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.lasts: list[int] = []
        self.counts: list[int] = []


class Spans:
    """Spans of cycles in which a memory (a bank, or a half) is used by those who go first."""

    def __init__(self) -> None:
        self._rows: defaultdict[int, _Row] = defaultdict(_Row)

    def add(self, memory: int, first: int, last: int, count: int) -> None:
        """From cycle `first` to `last` there are `count` uses, evenly."""
        row = self._rows[memory]
        if row.lasts and row.lasts[-1] + 1 >= first:
            row.lasts[-1] = max(row.lasts[-1], last)
            row.counts[-1] += count
        else:
            row.firsts.append(first)
            row.lasts.append(last)
            row.counts.append(count)

    def last_of(self, memory: int, first: int, uses: int, period: int = 1) -> int:
        """When the last is made of `uses` of lower priority, each `period` cycles after the one before, from cycle
        `first` on."""
        last = first + (uses - 1) * period
        row = self._rows.get(memory)
        if row is None:
            return last
        for i in range(bisect_left(row.lasts, first), len(row.lasts)):
            start, end = row.firsts[i], row.lasts[i]
            if start > last:
                break
            begin = max(start, first)
            length, left = end - begin + 1, (last - begin) / period + 1
            share = min(1.0, row.counts[i] / (end - start + 1))
            # A use waits for a free cycle, and the next begins to count then.
            slower = period - 1 + 1 / (1 - share) if share < 1 else inf
            fit = length / slower
            # They fit in between, or go on after.
            last = begin + round(left * slower) - 1 if left < fit else last + round(length - fit * period)
        return last
