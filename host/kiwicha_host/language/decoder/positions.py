"""What depends on positions: RoPE, and which positions a row may see."""

from functools import partial
from typing import NamedTuple

from kiwicha.isa import OperandUse, SecondSource

from .emitter import Indexed
from .layers import Layers
from .lines import Lines
from .packed import Table
from .step import Indices, Run, Step

__all__ = ["PositionTables", "Positions", "Vectors"]

#: Rows whose products with sines and cosines are there at the same time.
_TURNED_ROWS = 2


class PositionTables(NamedTuple):
    """In memory: for each position a row of cosines, one of sines, and one of sines times -1, of half a head; and
    one row of `mask_zero` times 0, then as many of -infinity.
    """
    cosines: Table
    sines: Table
    less_sines: Table
    mask: Table
    mask_zero: int


class Vectors(NamedTuple):
    """Words or codes: first line, lines from a head to the next and from a row to the next."""
    line: int
    head: int
    row: int


class Positions:
    """Of a step's rows.

    Parameters
    ----------
    heads : the most that are turned at once
    half : elements of half a head, padded
    """

    def __init__(self, lines: Lines, layers: Layers, tables: PositionTables, step: Step, heads: int, half: int):
        self._layers, self._emit, self._tables, self._step = layers, layers.emit, tables, step
        self._columns, self._words, self._half = layers.columns, layers.words, half
        self._half_lines = half // self._columns * self._words
        self._indices = Indices(step, self._columns)
        self._rope = lines.rows(3 * step.rows, half)
        self.mask_blocks = max(step.span(run) // self._columns - self.tail(run) for run in step.runs)
        self._mask = lines.take(step.rows * self.mask_blocks * self._words)
        self._at_once = min(step.rows, _TURNED_ROWS)
        self._products = lines.rows(2 * self._at_once * heads, half)

    def load(self) -> None:
        """Bring the rows of the tables that the step's positions need, and masks."""
        tables, length = self._tables, self._step.length
        for number, run in enumerate(self._step.runs):
            row, position = number * length, self._indices.position(number)
            for index, table in enumerate((tables.cosines, tables.sines, tables.less_sines)):
                line = self._rope + (index * self._step.rows + row) * self._half_lines
                self._emit.load(table.indexed(position), 4 * self._half, line, segment=self._layers.segment,
                                rows=length, row_stride=4 * self._half, row_lines=self._half_lines)
            blocks = self._step.span(run) // self._columns - self.tail(run)
            start = Indexed(tables.mask.address(0) + 4 * (tables.mask_zero - 1), -4, self._indices.within(number),
                            self._columns)
            self._emit.load(start, 4 * blocks * self._columns, self.mask(row, 0), segment=self._layers.segment,
                            rows=length, row_stride=-4, row_lines=self.mask_row)

    def tail(self, run: Run) -> int:
        """The first block of positions that not all of the run may see."""
        return run.position // self._columns

    def mask(self, row: int, block: int) -> int:
        """The line of a row's mask, for a block of positions counted from the tail."""
        return self._mask + (row * self.mask_blocks + block) * self._words

    @property
    def mask_row(self) -> int:
        """Lines from a row's mask to the next."""
        return self.mask_blocks * self._words

    def turn(self, x: Vectors, heads: int, out: Vectors) -> None:
        """Script: RoPE of all rows, some at a time: x1 cos - x2 sin, x2 cos + x1 sin of the halves of each head;
        `out` may be `x`.
        """
        for first in range(0, self._step.rows, self._at_once):
            self._layers.script.do(partial(self._turn, first, x, heads, out))

    def _turn(self, first: int, x: Vectors, heads: int, out: Vectors) -> None:
        """All products of some rows, then their sums: by then, the first products are where they are read."""
        some = range(first, min(self._step.rows, first + self._at_once))
        for row in some:
            self._multiply(row, row - first, x, heads, out)
        for row in some:
            self._add(row, row - first, heads, out)

    def _buffer(self, number: int, heads: int) -> tuple[int, int]:
        """First lines of the products that are added to the first and the second half."""
        lines = heads * self._half_lines
        return self._products + 2 * number * lines, self._products + (2 * number + 1) * lines

    def _loops(self, heads: int, between: int) -> list[tuple[int, int]]:
        return [(self._half_lines // self._words, self._words), (heads, between)]

    def _multiply(self, row: int, number: int, x: Vectors, heads: int, out: Vectors) -> None:
        half, words = self._half_lines, self._words
        cos, sin, less_sin = (self._rope + (index * self._step.rows + row) * half for index in range(3))
        x1, out1 = x.line + row * x.row, out.line + row * out.row
        t1, t2 = self._buffer(number, heads)
        for source, table, result, between in (
                (x1 + half, less_sin, t1, half), (x1, sin, t2, half), (x1, cos, out1, out.head),
                (x1 + half, cos, out1 + half, out.head)):
            self._emit.vector(source, self._loops(heads, x.head), result, (words, between),
                              b=(OperandUse.MULTIPLY, SecondSource.WORDS, table, (words, 0)))

    def _add(self, row: int, number: int, heads: int, out: Vectors) -> None:
        out1 = out.line + row * out.row
        for half, products in enumerate(self._buffer(number, heads)):
            line = out1 + half * self._half_lines
            self._emit.vector(line, self._loops(heads, out.head), line, (self._words, out.head),
                              b=(OperandUse.ADD, SecondSource.WORDS, products, (self._words, self._half_lines)))
