"""Attention to a tile of positions: scores, their powers, and the sums of these and of the values they weight.

Where there are several tiles, the largest score is that so far, and earlier sums are multiplied with
exp2((the largest before - the largest now) factor): the running maximum of M. Milakov and N. Gimelshein (arXiv
1805.02867).
"""

from collections.abc import Hashable
from functools import partial
from typing import Any, NamedTuple

from kiwicha.isa import OperandUse, Reduce, ResultFunction, ScaleMode, SecondSource

from ...compiler.program.memory_map import ceil_div
from .heads import Batch, Heads, Kept
from .layers import Layers, bits
from .numbers import TILE
from .positions import Positions, Vectors

__all__ = ["Tile", "TileLines"]


class TileLines(NamedTuple):
    """First lines of what tiles need, one after another.

    Parameters
    ----------
    scores, weighted : words [vector, position]; powers take the scores' place, times scales of values that of both
        or their own
    p_codes, p_scales : the latter as codes
    largest : two words for each vector: the largest score so far, after a tile of even number and after an odd one
    results : a word for each vector: the tile's largest score, then less the largest so far
    factor, sums, tile_sums : likewise: what earlier sums are multiplied with; of powers so far; of the tile's
    unit_scale : scales of 1
    """
    scores: int
    weighted: int
    p_codes: int
    p_scales: int
    largest: int
    results: int
    factor: int
    sums: int
    tile_sums: int
    unit_scale: int


class Tile:
    """Emits a tile of a batch: vectors are the heads of a row, row after row.

    Parameters
    ----------
    start, span : first position, and how many, whole blocks
    is_last : of the batch's tiles
    """

    def __init__(self, layers: Layers, positions: Positions, heads: Heads, lines: TileLines, batch: Batch,
                 kept: Kept, start: int, span: int, is_last: bool):
        self._layers, self._emit, self._positions = layers, layers.emit, positions
        self._heads, self._at, self._batch, self._kept = heads, lines, batch, kept
        self._columns, self._words = layers.columns, layers.words
        self._start, self._span, self._is_first, self._is_last = start, span, start == 0, is_last
        self._parity = start // TILE % 2
        self._blocks = span // self._columns
        self._vectors = batch.rows * heads.count
        self._row = self._blocks * self._words
        self._acc = 0

    def script(self, queries: Vectors, scales: int, out: Vectors, after: int) -> None:
        """Script: from queries, codes with scales from line `scales` on, to weighted sums of values; with the last
        tile these are divided by those of powers. Nothing is loaded before `after` steps.
        """
        script, heads, name = self._layers.script, self._heads, [self._kept.name]
        lines = heads.key + heads.numbers.blocks(heads.key)
        at_once = max(1, min(self._layers.chunk // lines, self._layers.most_accumulators // self._vectors))
        for block in range(0, self._blocks, at_once):
            count = min(at_once, self._blocks - block)
            script.use(count * lines, partial(self._load_k, block, count, name),
                       partial(self._score, queries, scales, block, count), after=after)
        script.do(self._softmax)
        first = 0
        for part, size in enumerate(heads.values):
            script.use(self._blocks, partial(self._load_v_scales, part), self._weigh, after=after)
            self._sum_part(first, size, after)
            script.do(partial(self._leave, first, size, out))
            first += size

    # Scores.

    def _load_k(self, block: int, count: int, name: list[Hashable], line: int) -> None:
        """For each block of positions the lines of all dimensions, then those of scales."""
        size, scales = self._heads.key, self._heads.numbers.blocks(self._heads.key)
        first = self._start + block * self._columns
        for address, rows, where in ((self._kept.keys, size, line), (self._kept.key_scales, scales, line + size)):
            self._emit.load(address + first, count * self._columns, where, segment=self._columns, rows=rows,
                            row_stride=self._kept.pitch, segment_lines=size + scales, row_lines=1, reads=name)

    def _score(self, queries: Vectors, scales: int, block: int, count: int, line: int) -> None:
        """Scores of blocks of positions, masked where not every row may see them, as words."""
        vectors, size, words, heads = self._vectors, self._heads.key, self._words, self._heads.count
        lines = size + self._heads.numbers.blocks(size)
        acc = self._layers.accumulators(count * vectors)
        self._emit.matmul(self._heads.numbers, k=size, blocks=count,
                          vectors=[(heads, queries.head), (self._batch.rows, queries.row)], a=queries.line,
                          a_scale=scales, w=line, w_stride=lines, w_scale=line + size, w_scale_strides=(1, lines),
                          acc=acc, accumulate=False)
        positions = self._positions
        tail = positions.tail(self._batch.run) - self._start // self._columns
        free = max(0, min(count, tail - block))
        out = self._at.scores + block * words
        if free:
            self._emit.vector(acc, [(free, vectors), (vectors, 1)], out, (words, self._row), acc=True)
        for head in range(heads if free < count else 0):
            mask = positions.mask(self._batch.row, block + free - tail)
            self._emit.vector(
                acc + free * vectors + head, [(count - free, vectors), (self._batch.rows, heads)],
                out + free * words + head * self._row, (words, heads * self._row), acc=True,
                b=(OperandUse.ADD, SecondSource.WORDS, mask, (words, positions.mask_row)))

    # Softmax.

    def _each(self, line: int, out: int, **fields: Any) -> None:
        """The first word of each vector's, changed, to all of another line of words."""
        self._emit.vector(line, [(1, 0), (self._vectors, self._words)], out, (0, self._words), row=True, tail=1,
                          **fields)

    def _softmax(self) -> None:
        """exp2((score - largest) factor), and their sums; or 1 / the sums."""
        emit, at, words = self._emit, self._at, self._words
        loops, strides = [(self._blocks, words), (self._vectors, self._row)], (words, self._row)
        power: dict[str, Any] = {"scale_mode": ScaleMode.SCALAR, "scale": bits(self._heads.factor),
                                 "function": ResultFunction.EXP2}
        now, before = (at.largest + parity * self._vectors * words for parity in (self._parity, 1 - self._parity))
        emit.vector(at.scores, loops, now if self._is_first else at.results, (0, words), row=True)
        if not self._is_first:
            self._each(before, now, window=(2, at.results - before))
        self._each(now, at.results, scale_mode=ScaleMode.SCALAR, scale=bits(-1))
        if not self._is_first:
            self._each(before, at.factor, b=self._words_of(OperandUse.ADD, at.results), **power)
        emit.vector(at.scores, loops, at.scores, strides,
                    b=(OperandUse.ADD, SecondSource.ROW, at.results, (0, words)), **power)
        inverse = {"function": ResultFunction.RECIPROCAL} if self._is_last else {}
        if self._is_first:
            emit.vector(at.scores, loops, at.sums, (0, words), row=True, reduce=Reduce.SUM, **inverse)
        else:
            emit.vector(at.scores, loops, at.tile_sums, (0, words), row=True, reduce=Reduce.SUM)
            self._each(at.sums, at.sums, b=self._words_of(OperandUse.MULTIPLY, at.factor))
            self._each(at.sums, at.sums, b=self._words_of(OperandUse.ADD, at.tile_sums), **inverse)

    def _words_of(self, use: OperandUse, line: int) -> tuple[OperandUse, SecondSource, int, tuple[int, int]]:
        """Operand B: each vector's word of lines of words."""
        return use, SecondSource.WORDS, line, (0, self._words)

    # Values.

    def _load_v_scales(self, part: int, line: int) -> None:
        self._emit.load(self._kept.value_scales[part] + self._start, self._span, line, segment=self._columns,
                        reads=[self._kept.name])

    def _weigh(self, v_scales: int) -> None:
        """Powers times the scales of a part of values, as codes."""
        emit, at, words, vectors, numbers = self._emit, self._at, self._words, self._vectors, self._heads.numbers
        loops, strides = [(self._blocks, words), (vectors, self._row)], (words, self._row)
        emit.vector(at.scores, loops, at.weighted, strides,
                    b=(OperandUse.MULTIPLY, SecondSource.TABLE, v_scales, (1, 0)))
        for number, (first, size) in enumerate(numbers.parts(self._span)):
            block = first // self._columns
            emit.vector(at.weighted + block * words, [(1, 0), (vectors, self._row)], at.p_codes + block,
                        (0, self._blocks), parts=(size // self._columns, words),
                        scales=(numbers, at.p_scales + number * self._scale_lines))
        self._layers.relay(at.p_codes, vectors, self._span)

    @property
    def _scale_lines(self) -> int:
        return ceil_div(self._vectors, self._layers.config.line_bytes)

    def _sum_part(self, first: int, size: int, after: int) -> None:
        """Script: the weighted sums of a part of values."""
        script, most, scale_block = self._layers.script, self._layers.chunk, self._heads.numbers.block
        blocks = size // self._columns
        wide = min(blocks, most // scale_block)
        at_once = most // wide // scale_block * scale_block
        for block in range(0, blocks, wide):
            columns = min(wide, blocks - block)
            for position in range(0, self._span, at_once):
                count = min(at_once, self._span - position)
                address = (self._kept.values + (self._start + position) * self._kept.value_pitch + first
                           + block * self._columns)
                script.use(count * columns, partial(self._load_v, address, columns, count),
                           partial(self._sum, blocks, block, columns, position, count), after=after)

    def _load_v(self, address: int, columns: int, count: int, line: int) -> None:
        """For each block of dimensions the lines of all positions."""
        self._emit.load(address, columns * self._columns, line, segment=self._columns, rows=count,
                        row_stride=self._kept.value_pitch, segment_lines=count, row_lines=1,
                        reads=[self._kept.name])

    def _sum(self, blocks: int, block: int, columns: int, position: int, count: int, line: int) -> None:
        """Of `blocks` blocks of dimensions `columns`, from `block` on; so many positions' share."""
        at, vectors, numbers, rows = self._at, self._vectors, self._heads.numbers, self._layers.config.rows
        if position == 0 and block == 0:
            self._acc = self._layers.accumulators(blocks * vectors)
        self._emit.matmul(numbers, k=count, blocks=columns, vectors=[(vectors, self._span // rows), (1, 0)],
                          a=at.p_codes + position // rows,
                          a_scale=at.p_scales + position // numbers.block * self._scale_lines, w=line,
                          w_stride=count, w_scale=at.unit_scale, w_scale_strides=(0, 0),
                          acc=self._acc + block * vectors, accumulate=position > 0)

    def _leave(self, first: int, size: int, out: Vectors) -> None:
        """Sums of `size` elements from `first` on, to those of earlier tiles, or over the powers' own."""
        at, words, blocks = self._at, self._words, size // self._columns
        for head in range(self._heads.count):
            line = out.line + first // self._columns * words + head * out.head
            loops, strides = [(blocks, words), (self._batch.rows, out.row)], (words, out.row)
            sums = [(blocks, self._vectors), (self._batch.rows, self._heads.count)]
            if self._is_first:
                self._emit.vector(self._acc + head, sums, line, strides, acc=True,
                                  b=self._head_row(at.sums, head) if self._is_last else None)
                continue
            self._emit.vector(line, loops, line, strides, b=self._head_row(at.factor, head))
            self._emit.vector(self._acc + head, sums, line, strides, acc=True,
                              b=(OperandUse.ADD, SecondSource.WORDS, line, strides))
            if self._is_last:
                self._emit.vector(line, loops, line, strides, b=self._head_row(at.sums, head))

    def _head_row(self, line: int, head: int) -> tuple[OperandUse, SecondSource, int, tuple[int, int]]:
        """Operand B: the words of a head, one for each row, as factors."""
        return (OperandUse.MULTIPLY, SecondSource.ROW, line + head * self._words,
                (0, self._heads.count * self._words))
