"""Attention of a step: RoPE, the cache, scores, softmax, and the weighted sum of values.

Keys stand still in the array for the scores, values for their sum; both come from the cache through the same ring
as weights. V has a scale for each position, which goes into the probabilities before these get their own.
"""

import math
from collections.abc import Iterator
from functools import partial

from kiwicha.isa import OperandUse, Reduce, ResultFunction, ScaleMode, SecondSource

from ...compiler.program.memory_map import ceil_div
from .emitter import Indexed
from .layers import LOG2_E, Layers, bits
from .memory import Cache, DecoderMemory
from .shape import BLOCK
from .step import Indices, Run, Step

__all__ = ["Attention"]


class Attention:
    """Emits the attention of one layer after another; Q, K and V are words in `work`, row by row."""

    def __init__(self, layers: Layers, memory: DecoderMemory, step: Step, transposed: int):
        self._layers, self._memory, self._step = layers, memory, step
        self._emit, self._at, self._shape = layers.emit, layers.at, layers.shape
        self._columns, self._words = layers.columns, layers.words
        self._indices = Indices(step, layers.columns)
        self._keys_address = transposed
        self._line = layers.config.line_bytes

    def tables(self) -> None:
        """Bring the rows of RoPE's tables that the step's positions need, and masks."""
        emit, memory, at, size = self._emit, self._memory, self._at, 4 * self._shape.half_head
        rope_lines = self._shape.half_head // self._columns * self._words
        for number, run in enumerate(self._step.runs):
            row, position = number * self._step.length, self._indices.position(number)
            for index, table in enumerate((memory.cosines, memory.sines, memory.less_sines)):
                line = at.rope + (index * self._step.rows + row) * rope_lines
                emit.load(table.indexed(position), size, line, segment=self._layers.segment,
                          rows=self._step.length, row_stride=size, row_lines=rope_lines)
            _, blocks = self._tail(run)
            start = Indexed(memory.mask.address(0) + 4 * (memory.mask_zero - 1), -4, self._indices.within(number),
                            self._columns)
            emit.load(start, 4 * blocks * self._columns, at.mask + row * at.mask_blocks * self._words,
                      segment=self._layers.segment, rows=self._step.length, row_stride=-4,
                      row_lines=at.mask_blocks * self._words)

    def _tail(self, run: Run) -> tuple[int, int]:
        """The first block of positions that not all of the run may see, and how many follow."""
        first = run.position // self._columns
        return first, self._step.span(run) // self._columns - first

    def turn(self) -> None:
        """RoPE of all heads of Q and K, row by row: x1 cos - x2 sin, x2 cos + x1 sin."""
        rows, at_once = self._step.rows, self._at.turned_rows
        for first in range(0, rows, at_once):
            # All products of some rows, then their sums: by then, the first products are where they are read.
            some = range(first, min(rows, first + at_once))
            for sums in (False, True):
                for row in some:
                    self._turn(row, row - first, sums)

    def _turn(self, row: int, buffer: int, sums: bool) -> None:
        at, shape, words, emit = self._at, self._shape, self._words, self._emit
        half, heads = shape.half_head // self._columns * words, shape.model.heads + shape.model.kv_heads
        loops, strides, apart = [(half // words, words), (heads, 2 * half)], (words, 2 * half), (words, half)
        x1 = at.work + row * at.qkv_row
        x2 = x1 + half
        t1 = at.turned + 2 * buffer * heads * half
        t2 = t1 + heads * half
        if sums:
            for x, t in ((x1, t1), (x2, t2)):
                emit.vector(x, loops, x, strides, b=(OperandUse.ADD, SecondSource.WORDS, t, apart))
            return
        cos, sin, less_sin = (at.rope + (index * self._step.rows + row) * half for index in range(3))
        for x, table, out, out_strides in ((x2, less_sin, t1, apart), (x1, sin, t2, apart), (x1, cos, x1, strides),
                                           (x2, cos, x2, strides)):
            emit.vector(x, loops, out, out_strides,
                        b=(OperandUse.MULTIPLY, SecondSource.WORDS, table, (words, 0)))

    # The cache.

    def remember(self, layer: int) -> None:
        """Keys and values of the step's rows as codes, into the cache."""
        at, shape, emit, columns = self._at, self._shape, self._emit, self._columns
        k_lines, v_lines, length = shape.k // columns, shape.v // columns, self._step.length
        k, v = (at.work + first // columns * self._words for first in (shape.q, shape.q + shape.k))
        scale_lines = ceil_div(length, self._line)
        k_scale = at.kv_scales
        v_scale = k_scale + shape.k // BLOCK * scale_lines
        for number, run in enumerate(self._step.runs):
            row, cache, position = number * length, self._memory.caches[layer][run.sequence], (
                self._indices.position(number))
            key = ("cache", layer, run.sequence)
            for block in range(shape.k // BLOCK):
                self._codes(k, block, BLOCK, row, at.k_codes, k_lines, k_scale + block * scale_lines)
            for head in range(shape.model.kv_heads):
                self._codes(v, head, shape.value_head, row, at.v_codes, v_lines, v_scale + head * scale_lines)
            for base, scale, rows in ((cache.k_scale(0), k_scale, shape.k // BLOCK),
                                      (cache.v_scale(0), v_scale, shape.model.kv_heads)):
                emit.store(cache.at(base, position), length, scale, segment=self._line, rows=rows,
                           row_stride=cache.context, row_lines=scale_lines, writes=[key])
            emit.store(cache.at(cache.v(0), position, stride=shape.v), shape.v, at.v_codes + row * v_lines,
                       segment=columns, rows=length, row_stride=shape.v, row_lines=v_lines, writes=[key])
            self._transpose(at.k_codes + row * k_lines, cache, position, key)

    def _codes(self, words: int, number: int, size: int, row: int, out: int, out_row: int,
               scale_line: int) -> None:
        """Elements `number` * `size` and on of the rows of a run, from `row` on, with a scale of their own."""
        parts, stride = size // self._columns, self._at.qkv_row
        self._emit.vector(
            words + row * stride + number * parts * self._words, [(1, 0), (self._step.length, stride)],
            out + row * out_row + number * parts, (0, out_row), parts=(parts, self._words), scale_line=scale_line)

    def _transpose(self, line: int, cache: Cache, word: int, key: tuple) -> None:
        """Keys of all heads, a run's rows in the scratchpad, become columns of the cache: by way of memory, from
        where each byte gets a line of its own.
        """
        emit, size, address = self._emit, self._shape.k, self._keys_address
        emit.store(address, size, line, segment=self._columns, rows=self._step.length, row_stride=size,
                   row_lines=size // self._columns, writes=["keys"])
        for index in range(self._step.length):
            through = self._at.bytes[index % 2]
            emit.load(address + index * size, 1, through, segment=1, rows=size, row_stride=1, row_lines=1,
                      reads=["keys"])
            emit.store(cache.at(cache.k(0), word, index), 1, through, segment=1, rows=size,
                       row_stride=cache.context, row_lines=1, writes=[key])

    # Queries.

    def attend(self, layer: int) -> None:
        """Script: from Q's codes to the attended values, words in `work`, row by row."""
        layers, shape, at, script = self._layers, self._shape, self._at, self._layers.script
        script.do(lambda: layers.relay(at.q_codes, self._step.rows, shape.q))
        for batch, (run_row, first, count, run) in enumerate(self._batches()):
            for head in range(shape.model.kv_heads):
                _Heads(self, layer, run, run_row + first, count, head, self.q_scales(batch, head)).script()

    def queries(self) -> None:
        """Q as codes; heads that share K and V, of rows that are attended for together, share lines of scales."""
        for batch, (run_row, first, count, _) in enumerate(self._batches()):
            for kv_head in range(self._shape.model.kv_heads):
                self._queries(batch, run_row + first, count, kv_head)

    def _queries(self, batch: int, row: int, count: int, kv_head: int) -> None:
        at, shape, columns, words = self._at, self._shape, self._columns, self._words
        parts, head_lines, q_lines = BLOCK // columns, shape.head // columns, shape.q // columns
        first, lines = kv_head * shape.group, ceil_div(count * shape.group, self._line)
        for block in range(shape.head // BLOCK):
            self._emit.vector(
                at.work + row * at.qkv_row + (first * head_lines + block * parts) * words,
                [(shape.group, head_lines * words), (count, at.qkv_row)],
                at.q_codes + row * q_lines + first * head_lines + block * parts, (head_lines, q_lines),
                parts=(parts, words), scale_line=self.q_scales(batch, kv_head) + block * lines)

    def _batches(self) -> Iterator[tuple[int, int, int, Run]]:
        """Rows that are attended for together: a run's first row, their first in it, how many, and the run."""
        for number, run in enumerate(self._step.runs):
            for first in range(0, self._step.length, self._at.at_once):
                yield (number * self._step.length, first, min(self._at.at_once, self._step.length - first), run)

    def q_scales(self, batch: int, kv_head: int) -> int:
        """The first line of a batch's scales for the heads of a head of K and V."""
        number = batch * self._shape.model.kv_heads + kv_head
        return self._at.q_scales + number * self._at.q_scale_lines


class _Heads:
    """`count` rows of a run, from `row` on, and the heads that share K and V number `head`.

    Vectors are the heads of a row, row after row; scores are words [vector, position].
    """

    def __init__(self, attention: Attention, layer: int, run: Run, row: int, count: int, head: int, q_scales: int):
        self._a, self._emit, self._at = attention, attention._emit, attention._at
        self._layers, self._shape = attention._layers, attention._shape
        self._run, self._head, self._row, self._count, self._q_scales = run, head, row, count, q_scales
        self._columns, self._words = attention._columns, attention._words
        self._span = attention._step.span(run)
        self._blocks = self._span // self._columns
        self._vectors = count * self._shape.group
        self._cache = attention._memory.caches[layer][run.sequence]
        self._key = ("cache", layer, run.sequence)
        self._acc = 0

    def script(self) -> None:
        script, shape = self._layers.script, self._shape
        lines = shape.head // BLOCK * (BLOCK + 1)
        most = self._layers.chunk
        at_once = max(1, min(most // lines, self._layers.most_accumulators // self._vectors))
        here = script.here
        for block in range(0, self._blocks, at_once):
            count = min(at_once, self._blocks - block)
            script.use(count * lines, partial(self._load_k, block, count), partial(self._score, block, count),
                       after=here)
        script.do(self._softmax)
        value_blocks = shape.value_head // self._columns
        at_once = most // value_blocks // BLOCK * BLOCK
        for position in range(0, self._span, at_once):
            count = min(at_once, self._span - position)
            script.use(count * value_blocks, partial(self._load_v, position, count),
                       partial(self._sum, position, count), after=here)
        script.do(self._divide)

    def _load_k(self, block: int, count: int, line: int) -> None:
        """For each block of positions the lines of all dimensions, then those of scales."""
        size, scales = self._shape.head, self._shape.head // BLOCK
        first, length = block * self._columns, count * self._columns
        for address, rows, where in ((self._cache.k(self._head, first), size, line),
                                     (self._cache.k_scale(self._head, first), scales, line + size)):
            self._emit.load(address, length, where, segment=self._columns, rows=rows,
                            row_stride=self._cache.context, segment_lines=size + scales, row_lines=1,
                            reads=[self._key])

    def _score(self, block: int, count: int, line: int) -> None:
        """Q K^T of blocks of positions, masked where not every row may see them, as words."""
        shape, at, vectors, group = self._shape, self._at, self._vectors, self._shape.group
        scales = shape.head // BLOCK
        acc = self._layers.accumulators()
        tiles = shape.head // self._layers.config.rows
        q_row = shape.model.heads * tiles
        first = self._head * group * tiles
        self._emit.matmul(k=shape.head, blocks=count, vectors=[(group, tiles), (self._count, q_row)],
                          a=at.q_codes + self._row * q_row + first, a_scale=self._q_scales,
                          w=line, w_stride=shape.head + scales, w_scale=line + shape.head,
                          w_scale_strides=(1, shape.head + scales), acc=acc, accumulate=False)
        tail, _ = self._a._tail(self._run)
        free = max(0, min(count, tail - block))
        row_words = self._blocks * self._words
        out = at.scores + block * self._words
        if free:
            self._emit.vector(acc, [(free, vectors), (vectors, 1)], out, (self._words, row_words), acc=True)
        for head in range(group if free < count else 0):
            mask = at.mask + (self._row * at.mask_blocks + block + free - tail) * self._words
            self._emit.vector(
                acc + free * vectors + head, [(count - free, vectors), (self._count, group)],
                out + free * self._words + head * row_words, (self._words, group * row_words), acc=True,
                b=(OperandUse.ADD, SecondSource.WORDS, mask, (self._words, at.mask_blocks * self._words)))

    def _softmax(self) -> None:
        """exp2((score - largest) c) times V's scales, as codes; 1 / their sum is a result of the row."""
        emit, at, words, vectors = self._emit, self._at, self._words, self._vectors
        row = self._blocks * words
        loops, strides = [(self._blocks, words), (vectors, row)], (words, row)
        largest, inverse = at.row_results, at.row_results + vectors * words
        emit.vector(at.scores, loops, largest, (0, words), row=True)
        emit.vector(largest, [(1, 0), (vectors, words)], largest, (0, words), row=True, tail=1,
                    scale_mode=ScaleMode.SCALAR, scale=bits(-1))
        emit.vector(at.scores, loops, at.scores, strides, scale_mode=ScaleMode.SCALAR,
                    scale=bits(LOG2_E / math.sqrt(self._shape.model.head_size)), function=ResultFunction.EXP2,
                    b=(OperandUse.ADD, SecondSource.ROW, largest, (0, words)))
        emit.vector(at.scores, loops, inverse, (0, words), row=True, reduce=Reduce.SUM,
                    function=ResultFunction.RECIPROCAL)
        emit.load(self._cache.v_scale(self._head), self._span, at.v_scales, segment=self._columns,
                  reads=[self._key])
        emit.vector(at.scores, loops, at.scores, strides,
                    b=(OperandUse.MULTIPLY, SecondSource.TABLE, at.v_scales, (1, 0)))
        parts, lines = BLOCK // self._columns, ceil_div(vectors, self._layers.config.line_bytes)
        for block in range(self._span // BLOCK):
            emit.vector(at.scores + block * parts * words, [(1, 0), (vectors, row)],
                        at.p_codes + block * parts, (0, self._blocks), parts=(parts, words),
                        scale_line=at.p_scales + block * lines)
        self._layers.relay(at.p_codes, vectors, self._span)

    def _load_v(self, position: int, count: int, line: int) -> None:
        """For each block of a head's dimensions the lines of all positions."""
        size = self._shape.value_head
        self._emit.load(self._cache.v(position, self._head), size, line, segment=self._columns, rows=count,
                        row_stride=self._shape.v, segment_lines=count, row_lines=1, reads=[self._key])

    def _sum(self, position: int, count: int, line: int) -> None:
        config, at, vectors = self._layers.config, self._at, self._vectors
        tiles = self._span // config.rows
        if position == 0:
            self._acc = self._layers.accumulators()
        self._emit.matmul(k=count, blocks=self._shape.value_head // self._columns,
                          vectors=[(vectors, tiles), (1, 0)], a=at.p_codes + position // config.rows,
                          a_scale=at.p_scales + position // BLOCK * ceil_div(vectors, config.line_bytes), w=line,
                          w_stride=count, w_scale=at.unit_scale, w_scale_strides=(0, 0), acc=self._acc,
                          accumulate=position > 0)

    def _divide(self) -> None:
        """The sums over the probabilities' own, as words of the rows' heads."""
        at, shape, words, group = self._at, self._shape, self._words, self._shape.group
        blocks = shape.value_head // self._columns
        row = shape.model.heads * blocks * words
        inverse = at.row_results + self._vectors * words
        for head in range(group):
            self._emit.vector(
                self._acc + head, [(blocks, self._vectors), (self._count, group)],
                at.work + self._row * row + (self._head * group + head) * blocks * words, (words, row), acc=True,
                b=(OperandUse.MULTIPLY, SecondSource.ROW, inverse + head * words, (0, group * words)))

