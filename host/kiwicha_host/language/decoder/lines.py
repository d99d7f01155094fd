"""Lines of the scratchpad, given out one part after another."""

from collections.abc import Sequence

from kiwicha import ChipConfig
from kiwicha.isa import TABLE_WORDS
from kiwicha.timing import word_lines

from ...compiler.errors import CompileError
from ...compiler.program.memory_map import ceil_div
from .emitter import GROUP
from .layers import Codes
from .numbers import TILE, Numbers
from .script import Ring
from .step import Step

__all__ = ["Lines", "chunk_lines"]

#: The share of the scratchpad that a chunk of the ring may have, and the most lines.
_CHUNK_SHARE, _CHUNK_LINES = 16, 1024
#: The ring holds this many chunks, at least.
_CHUNKS = 2


def chunk_lines(config: ChipConfig, least: int) -> int:
    """The most lines that are loaded at once: a share of the scratchpad, but at least so many."""
    share = min(_CHUNK_LINES, config.scratchpad_lines // _CHUNK_SHARE)
    return ceil_div(max(least, share), GROUP) * GROUP


class Lines:
    """Parts start where a group of lines does."""

    def __init__(self, config: ChipConfig):
        self.config, self._next = config, 0
        self.columns, self.words = config.columns, word_lines(config)
        #: Lines of a table of the vector unit.
        self.table = ceil_div(4 * TABLE_WORDS, config.line_bytes)

    def take(self, lines: int) -> int:
        """The first of so many lines."""
        line, self._next = self._next, self._next + ceil_div(lines, GROUP) * GROUP
        return line

    def rows(self, rows: int, size: int) -> int:
        """For rows of `size` words."""
        return self.take(rows * size // self.columns * self.words)

    def code_lines(self, rows: int, size: int) -> int:
        """For rows of `size` codes, in lines of as many as the array has rows or columns."""
        return self.take(rows * size // min(self.columns, self.config.rows))

    def codes(self, rows: int, size: int, numbers: Numbers) -> Codes:
        """Rows of `size` codes and their scales."""
        scale_lines = ceil_div(rows, self.config.line_bytes)
        return Codes(self.code_lines(rows, size), self.take(numbers.blocks(size) * scale_lines), size, numbers)

    def rings(self, chunk: int, steps: Sequence[Step]) -> list[Ring]:
        """What is left, a ring for each step, mostly in banks that little else is in; in each at least some chunks
        of so many lines, or of a scale for each position.

        Raises
        ------
        CompileError
            There are not so many.
        """
        rows, span = sum(step.rows for step in steps), max(step.most_span for step in steps)
        chunk = max(chunk, min(span, TILE) // self.columns)
        there, needed = self.config.scratchpad_lines, self._next + len(steps) * _CHUNKS * chunk
        if needed > there:
            raise CompileError(f"a step of {rows} tokens at {span} positions needs {needed} scratchpad lines; "
                               f"configuration {self.config.name!r} has {there}: choose one with more, or a "
                               "shorter text")
        share = (there - self._next) // len(steps) // GROUP * GROUP
        return [Ring(self._next + number * share, share, GROUP) for number in range(len(steps))]
