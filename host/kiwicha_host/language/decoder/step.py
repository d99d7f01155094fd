"""What a step of a decoder is asked to do."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .numbers import padded

__all__ = ["Indices", "Run", "Step"]


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one sequence, the first at `position`."""
    sequence: int
    position: int


@dataclass(frozen=True)
class Step:
    """`length` tokens of each of the runs; the last of each gets logits, if there are `logits`.

    Row `r * length + i` of what the chip computes is token i of run r. `first_index` is the number of the first
    word of its indices.
    """
    runs: tuple[Run, ...]
    length: int
    logits: bool = True
    first_index: int = 0

    @property
    def rows(self) -> int:
        return len(self.runs) * self.length

    def span(self, run: Run) -> int:
        """Positions that a run attends to, in whole blocks."""
        return padded(run.position + self.length)

    def kind(self, columns: int) -> Hashable:
        """Steps of one kind have one program, but for addresses where the chip takes no indices.

        Where a block begins, a first half that ends with a block sees one fewer than further on.
        """
        return self.length, self.logits, tuple(
            (run.sequence, self.span(run), run.position // columns, run.position % columns == 0)
            for run in self.runs)

    def halves(self, rows: int, columns: int) -> tuple[int, ...]:
        """How many tokens two steps may have in its place, each at least `rows`; or the only length.

        The second begins as many whole blocks of `columns` positions later, so that steps of one kind have halves
        of one kind.
        """
        first = self.length // 2 // columns * columns
        return (self.length,) if len(self.runs) > 1 or first < rows else (first, self.length - first)

    def cut(self, lengths: Sequence[int], columns: int) -> "list[Step]":
        """Steps of so many tokens of each run that do the same one after the other."""
        steps, start, first_index = [], 0, self.first_index
        for length in lengths:
            runs = tuple(Run(run.sequence, run.position + start) for run in self.runs)
            start += length
            steps.append(Step(runs, length, self.logits and start == self.length, first_index))
            first_index += Indices(steps[-1], columns).count
        return steps

    @property
    def most_span(self) -> int:
        return max(map(self.span, self.runs))


class Indices:
    """Which word of a step's indices says what: its tokens, and of each run the first position, and that within
    a block of `columns` positions.
    """

    def __init__(self, step: Step, columns: int):
        self._step, self._columns = step, columns

    @property
    def count(self) -> int:
        return self._step.rows + 2 * len(self._step.runs)

    def token(self, row: int) -> int:
        return self._step.first_index + row

    def position(self, run: int) -> int:
        return self._step.first_index + self._step.rows + run

    def within(self, run: int) -> int:
        return self._step.first_index + self._step.rows + len(self._step.runs) + run

    def words(self, tokens: Sequence[int]) -> np.ndarray:
        """uint32: all of them."""
        positions = [run.position for run in self._step.runs]
        return np.array([*tokens, *positions, *(position % self._columns for position in positions)], np.uint32)
