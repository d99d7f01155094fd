"""Heads that share keys and values: scores, softmax, and the weighted sum of values.

Keys stand still in the array for the scores, values for their sum; both come from memory through the same ring as
weights. Values have a scale for each position, which goes into the probabilities before these get their own.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from kiwicha.isa import OperandUse, Reduce, ResultFunction, ScaleMode, SecondSource

from ...compiler.program.memory_map import ceil_div
from .layers import Layers, bits
from .lines import Lines
from .numbers import Numbers
from .positions import Positions, Vectors
from .step import Run, Step

__all__ = ["Attend", "Batch", "Heads", "Kept"]

#: The share of the scratchpad that scores may have.
_SCORES_SHARE = 8


@dataclass(frozen=True)
class Heads:
    """Heads that share keys and values.

    Parameters
    ----------
    count : int
    key : elements of a key
    values : elements of the parts of a value that have a scale of their own
    numbers : Numbers
    factor : what scores are multiplied with before 2 is raised to their power
    """
    count: int
    key: int
    values: tuple[int, ...]
    numbers: Numbers
    factor: float

    @property
    def value(self) -> int:
        return sum(self.values)

    @property
    def least_chunk(self) -> int:
        """Lines that are needed at once: of keys a block of positions, of values a scale block of them."""
        block = self.numbers.block
        return max(self.key + self.numbers.blocks(self.key), block)


class Kept(NamedTuple):
    """Keys and values of a sequence in memory: addresses of position 0.

    Parameters
    ----------
    keys, key_scales : a byte for each [dimension, position], and [block, position]; `pitch` from row to row
    pitch : int
    values : a byte for each [position, dimension]; `value_pitch` from row to row
    value_pitch : int
    value_scales : of each part, a byte for each position
    name : what waits for their being written
    """
    keys: int
    key_scales: int
    pitch: int
    values: int
    value_pitch: int
    value_scales: list[int]
    name: Hashable


class Batch(NamedTuple):
    """Rows that are attended for together, `rows` of a run from the step's row `row` on; batches are numbered."""
    run: Run
    row: int
    rows: int
    number: int


class Attend:
    """Emits it for any number of such groups of heads, one after another, in a step.

    Attributes
    ----------
    at_once : rows of a batch, at most
    q_scale_lines : lines of scales of a batch's queries
    """

    def __init__(self, lines: Lines, layers: Layers, positions: Positions, step: Step, heads: Heads,
                 unit_scale: int):
        self._layers, self._emit, self._positions = layers, layers.emit, positions
        self._step, self._heads, self._unit_scale = step, heads, unit_scale
        self._columns, self._words, config = layers.columns, layers.words, layers.config
        span = step.most_span
        each = heads.count * (span // self._columns) * self._words
        self.at_once = max(1, min(step.length, config.scratchpad_lines // _SCORES_SHARE // each,
                                  config.accumulator_lines // 2 // self.accumulators(heads, config.columns)))
        vectors = self.at_once * heads.count
        scale_lines = ceil_div(vectors, config.line_bytes)
        self._scores = lines.take(self.at_once * each)
        # Values' scales differ: powers are needed once for each part.
        self._weighted = self._scores if len(heads.values) == 1 else lines.take(self.at_once * each)
        self._p_codes = lines.code_lines(vectors, span)
        self._p_scales = lines.take(heads.numbers.blocks(span) * scale_lines)
        self._row_results = lines.take(2 * vectors * self._words)
        self.q_scale_lines = heads.numbers.blocks(heads.key) * scale_lines

    @staticmethod
    def accumulators(heads: Heads, columns: int) -> int:
        """Lines of a row's weighted sums."""
        return heads.count * max(heads.values) // columns

    def batches(self) -> Iterator[Batch]:
        number = 0
        for index, run in enumerate(self._step.runs):
            for first in range(0, self._step.length, self.at_once):
                yield Batch(run, index * self._step.length + first, min(self.at_once, self._step.length - first),
                            number)
                number += 1

    def script(self, batch: Batch, kept: Kept, queries: Vectors, scales: int, out: Vectors) -> None:
        """Script: from queries, codes with scales from line `scales` on, to attended values, words."""
        _Batch(self, batch, kept, queries, scales).script(out)


class _Batch:
    """Vectors are the heads of a row, row after row; scores are words [vector, position]."""

    def __init__(self, attend: Attend, batch: Batch, kept: Kept, queries: Vectors, scales: int):
        self._a, self._emit, self._layers = attend, attend._emit, attend._layers
        self._heads, self._kept, self._queries, self._batch = attend._heads, kept, queries, batch
        self._scales = scales
        self._columns, self._words = attend._columns, attend._words
        self._span = attend._step.span(batch.run)
        self._blocks = self._span // self._columns
        self._vectors = batch.rows * self._heads.count
        self._row = self._blocks * self._words
        self._acc = 0

    def script(self, out: Vectors) -> None:
        script, heads = self._layers.script, self._heads
        lines = heads.key + heads.numbers.blocks(heads.key)
        at_once = max(1, min(self._layers.chunk // lines, self._layers.most_accumulators // self._vectors))
        here, name = script.here, [self._kept.name]
        for block in range(0, self._blocks, at_once):
            count = min(at_once, self._blocks - block)
            script.use(count * lines, partial(self._load_k, block, count, name),
                       partial(self._score, block, count), after=here)
        script.do(self._softmax)
        first = 0
        for part, size in enumerate(heads.values):
            script.use(self._blocks, partial(self._load_v_scales, part), self._weigh, after=here)
            self._sum_part(first, size, here)
            script.do(partial(self._divide, first, size, out))
            first += size

    def _sum_part(self, first: int, size: int, here: int) -> None:
        """Script: the weighted sums of a part of values."""
        script, most, scale_block = self._layers.script, self._layers.chunk, self._heads.numbers.block
        blocks = size // self._columns
        wide = min(blocks, most // scale_block)
        at_once = most // wide // scale_block * scale_block
        for block in range(0, blocks, wide):
            columns = min(wide, blocks - block)
            for position in range(0, self._span, at_once):
                count = min(at_once, self._span - position)
                address = self._kept.values + position * self._kept.value_pitch + first + block * self._columns
                script.use(count * columns, partial(self._load_v, address, columns, count),
                           partial(self._sum, block, columns, position, count), after=here)

    def _load_k(self, block: int, count: int, name: list[Hashable], line: int) -> None:
        """For each block of positions the lines of all dimensions, then those of scales."""
        size, scales, first = self._heads.key, self._heads.numbers.blocks(self._heads.key), block * self._columns
        for address, rows, where in ((self._kept.keys, size, line), (self._kept.key_scales, scales, line + size)):
            self._emit.load(address + first, count * self._columns, where, segment=self._columns, rows=rows,
                            row_stride=self._kept.pitch, segment_lines=size + scales, row_lines=1, reads=name)

    def _score(self, block: int, count: int, line: int) -> None:
        """Scores of blocks of positions, masked where not every row may see them, as words."""
        vectors, size, words, heads = self._vectors, self._heads.key, self._words, self._heads.count
        lines = size + self._heads.numbers.blocks(size)
        acc = self._layers.accumulators()
        self._emit.matmul(self._heads.numbers, k=size, blocks=count,
                          vectors=[(heads, self._queries.head), (self._batch.rows, self._queries.row)],
                          a=self._queries.line, a_scale=self._scales, w=line, w_stride=lines,
                          w_scale=line + size, w_scale_strides=(1, lines), acc=acc, accumulate=False)
        positions, tail = self._a._positions, self._a._positions.tail(self._batch.run)
        free = max(0, min(count, tail - block))
        out = self._a._scores + block * words
        if free:
            self._emit.vector(acc, [(free, vectors), (vectors, 1)], out, (words, self._row), acc=True)
        for head in range(heads if free < count else 0):
            mask = positions.mask(self._batch.row, block + free - tail)
            self._emit.vector(
                acc + free * vectors + head, [(count - free, vectors), (self._batch.rows, heads)],
                out + free * words + head * self._row, (words, heads * self._row), acc=True,
                b=(OperandUse.ADD, SecondSource.WORDS, mask, (words, positions.mask_row)))

    def _softmax(self) -> None:
        """exp2((score - largest) factor), and 1 / their sum as a result of the row."""
        emit, at, words, vectors = self._emit, self._a, self._words, self._vectors
        loops, strides = [(self._blocks, words), (vectors, self._row)], (words, self._row)
        largest, inverse = at._row_results, at._row_results + vectors * words
        emit.vector(at._scores, loops, largest, (0, words), row=True)
        emit.vector(largest, [(1, 0), (vectors, words)], largest, (0, words), row=True, tail=1,
                    scale_mode=ScaleMode.SCALAR, scale=bits(-1))
        emit.vector(at._scores, loops, at._scores, strides, scale_mode=ScaleMode.SCALAR,
                    scale=bits(self._heads.factor), function=ResultFunction.EXP2,
                    b=(OperandUse.ADD, SecondSource.ROW, largest, (0, words)))
        emit.vector(at._scores, loops, inverse, (0, words), row=True, reduce=Reduce.SUM,
                    function=ResultFunction.RECIPROCAL)

    def _load_v_scales(self, part: int, line: int) -> None:
        self._emit.load(self._kept.value_scales[part], self._span, line, segment=self._columns,
                        reads=[self._kept.name])

    def _weigh(self, v_scales: int) -> None:
        """Powers times the scales of a part of values, as codes."""
        emit, at, words, vectors, numbers = self._emit, self._a, self._words, self._vectors, self._heads.numbers
        loops, strides = [(self._blocks, words), (vectors, self._row)], (words, self._row)
        emit.vector(at._scores, loops, at._weighted, strides,
                    b=(OperandUse.MULTIPLY, SecondSource.TABLE, v_scales, (1, 0)))
        for number, (first, size) in enumerate(numbers.parts(self._span)):
            block = first // self._columns
            emit.vector(at._weighted + block * words, [(1, 0), (vectors, self._row)], at._p_codes + block,
                        (0, self._blocks), parts=(size // self._columns, words),
                        scales=(numbers, at._p_scales + number * self._scale_lines))
        self._layers.relay(at._p_codes, vectors, self._span)

    @property
    def _scale_lines(self) -> int:
        return ceil_div(self._vectors, self._layers.config.line_bytes)

    def _load_v(self, address: int, columns: int, count: int, line: int) -> None:
        """For each block of dimensions the lines of all positions."""
        self._emit.load(address, columns * self._columns, line, segment=self._columns, rows=count,
                        row_stride=self._kept.value_pitch, segment_lines=count, row_lines=1,
                        reads=[self._kept.name])

    def _sum(self, block: int, columns: int, position: int, count: int, line: int) -> None:
        at, vectors, numbers, rows = self._a, self._vectors, self._heads.numbers, self._layers.config.rows
        if position == 0 and block == 0:
            self._acc = self._layers.accumulators()
        self._emit.matmul(numbers, k=count, blocks=columns, vectors=[(vectors, self._span // rows), (1, 0)],
                          a=at._p_codes + position // rows,
                          a_scale=at._p_scales + position // numbers.block * self._scale_lines, w=line,
                          w_stride=count, w_scale=at._unit_scale, w_scale_strides=(0, 0),
                          acc=self._acc + block * vectors, accumulate=position > 0)

    def _divide(self, first: int, size: int, out: Vectors) -> None:
        """The sums of `size` elements from `first` on, over the powers' own."""
        words, heads = self._words, self._heads.count
        line, blocks = out.line + first // self._columns * words, size // self._columns
        inverse = self._a._row_results + self._vectors * words
        for head in range(heads):
            self._emit.vector(
                self._acc + head, [(blocks, self._vectors), (self._batch.rows, heads)],
                line + head * out.head, (words, out.row), acc=True,
                b=(OperandUse.MULTIPLY, SecondSource.ROW, inverse + head * words, (0, heads * words)))
