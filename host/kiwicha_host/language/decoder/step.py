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
    """`length` tokens of each of the runs; the last of each gets logits.

    Row `r * length + i` of what the chip computes is token i of run r.
    """
    runs: tuple[Run, ...]
    length: int

    @property
    def rows(self) -> int:
        return len(self.runs) * self.length

    def span(self, run: Run) -> int:
        """Positions that a run attends to, in whole blocks."""
        return padded(run.position + self.length)

    def kind(self, columns: int) -> Hashable:
        """Steps of one kind have one program, but for addresses where the chip takes no indices."""
        return self.length, tuple((run.sequence, self.span(run), run.position // columns) for run in self.runs)

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

    @staticmethod
    def token(row: int) -> int:
        return row

    def position(self, run: int) -> int:
        return self._step.rows + run

    def within(self, run: int) -> int:
        return self._step.rows + len(self._step.runs) + run

    def words(self, tokens: Sequence[int]) -> np.ndarray:
        """uint32: all of them."""
        positions = [run.position for run in self._step.runs]
        return np.array([*tokens, *positions, *(position % self._columns for position in positions)], np.uint32)
