"""What a step of a decoder is asked to do."""

from dataclasses import dataclass

from .shape import BLOCK

__all__ = ["Run", "Step"]


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
        """Positions that a run attends to, in whole scale blocks."""
        return -(-(run.position + self.length) // BLOCK) * BLOCK

    @property
    def most_span(self) -> int:
        return max(map(self.span, self.runs))
