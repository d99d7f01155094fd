"""Attention of a Llama decoder: RoPE, the cache, and each head of K and V with the heads that share it."""

import math
from functools import partial

from ...compiler.program.memory_map import ceil_div
from .attend import Attend
from .heads import Batch, Heads, Kept
from .keep import Keep
from .layers import LOG2_E, Layers
from .lines import Lines
from .memory import DecoderMemory
from .positions import Positions, Vectors
from .shape import KEPT, DecoderShape
from .step import Step

__all__ = ["Attention", "shared_heads"]


def shared_heads(shape: DecoderShape) -> Heads:
    """Those that share a head of K and V, whose values have one scale."""
    return Heads(shape.group, shape.head, (shape.value_head,), KEPT, LOG2_E / math.sqrt(shape.model.head_size))


class Attention:
    """Emits the attention of one layer after another; Q, K and V are words from line `work` on, row by row.

    Parameters
    ----------
    transposed : address of memory of keys on their way into the cache
    """

    def __init__(self, lines: Lines, layers: Layers, memory: DecoderMemory, step: Step, work: int, unit_scale: int,
                 transposed: int):
        self._layers, self._memory, self._step = layers, memory, step
        self._emit, self._shape, self._work = layers.emit, memory.shape, work
        self._columns, self._words = layers.columns, layers.words
        shape, heads, rows = self._shape, shared_heads(self._shape), step.rows
        #: Lines of a row of Q, K and V.
        self.row = (shape.q + shape.k + shape.v) // self._columns * self._words
        self._positions = Positions(lines, layers, memory.positions, step, shape.model.heads, shape.half_head)
        self._q_codes = lines.code_lines(rows, shape.q)
        self._k_codes = lines.take(rows * shape.k // self._columns)
        self._v_codes = lines.take(rows * shape.v // self._columns)
        self._keep = Keep(lines, layers, step, key=shape.k, scales=KEPT.blocks(shape.k) + shape.model.kv_heads,
                          context=memory.context, relay=transposed)
        self._attend = Attend(lines, layers, self._positions, step, heads, unit_scale)
        batches = list(self._attend.batches())
        self._q_scales = lines.take(len(batches) * shape.model.kv_heads * self._attend.q_scale_lines)

    def begin(self) -> None:
        """What is needed before the first layer."""
        self._positions.load()
        self._keep.begin()

    def _turn(self, first: int, count: int) -> None:
        """Script: RoPE of heads from column `first` on."""
        heads = Vectors(self._work + first // self._columns * self._words,
                        self._shape.head // self._columns * self._words, self.row)
        self._positions.turn(heads, count, heads)

    def remember(self, layer: int) -> None:
        """Script: RoPE of K; keys and values of the step's rows as codes, on their way into the cache."""
        self._turn(self._shape.q, self._shape.model.kv_heads)
        for number, run in enumerate(self._step.runs):
            kept = self._memory.caches[layer][run.sequence].kept(0)
            self._layers.script.do(partial(self._remember, number, kept))

    def _remember(self, number: int, kept: Kept) -> None:
        """All of a run's keys as codes, and values to memory, and the scales of both."""
        shape, keep, columns, row = self._shape, self._keep, self._columns, number * self._step.length
        k_lines, v_lines, heads = shape.k // columns, shape.v // columns, shape.model.kv_heads
        k, v = (self._work + first // columns * self._words for first in (shape.q, shape.q + shape.k))
        k_blocks = KEPT.blocks(shape.k)
        for block, (first, size) in enumerate(KEPT.parts(shape.k)):
            self._codes(k, first, size, row, self._k_codes, k_lines, keep.scale_line(block))
        for head in range(heads):
            self._codes(v, head * shape.value_head, shape.value_head, row, self._v_codes, v_lines,
                        keep.scale_line(k_blocks + head))
        keep.scales(number, 0, k_blocks, kept.key_scales, kept)
        keep.scales(number, k_blocks, heads, kept.value_scales[0], kept)
        keep.put_aside(number, self._k_codes + row * k_lines)
        keep.values(number, self._v_codes + row * v_lines, v_lines, kept, shape.v)

    def _codes(self, words: int, first: int, size: int, row: int, out: int, out_row: int, scale_line: int) -> None:
        """`size` elements from `first` on of the rows of a run, from `row` on, with a scale of their own."""
        block = first // self._columns
        self._emit.vector(
            words + row * self.row + block * self._words, [(1, 0), (self._step.length, self.row)],
            out + row * out_row + block, (0, out_row), parts=(size // self._columns, self._words),
            scales=(KEPT, scale_line))

    def queries(self, layer: int) -> None:
        """Script: RoPE of Q, and Q as codes; heads that share K and V, of rows that are attended for together,
        share lines of scales. Meanwhile the keys reach the cache.
        """
        self._turn(0, self._shape.model.heads)
        for number, run in enumerate(self._step.runs):
            self._keep.keys(number, self._memory.caches[layer][run.sequence].kept(0))
        for batch in self._attend.batches():
            for kv_head in range(self._shape.model.kv_heads):
                self._layers.script.do(partial(self._queries, batch, kv_head))

    def _queries(self, batch: Batch, kv_head: int) -> None:
        shape, columns, words = self._shape, self._columns, self._words
        head_lines, q_lines = shape.head // columns, shape.q // columns
        lines = ceil_div(batch.rows * shape.group, self._layers.config.line_bytes)
        for number, (first, size) in enumerate(KEPT.parts(shape.head)):
            line = kv_head * shape.group * head_lines + first // columns
            self._emit.vector(
                self._work + batch.row * self.row + line * words,
                [(shape.group, head_lines * words), (batch.rows, self.row)],
                self._q_codes + batch.row * q_lines + line, (head_lines, q_lines), parts=(size // columns, words),
                scales=(KEPT, self._scales_of(batch, kv_head) + number * lines))

    def _scales_of(self, batch: Batch, kv_head: int) -> int:
        number = batch.number * self._shape.model.kv_heads + kv_head
        return self._q_scales + number * self._attend.q_scale_lines

    def attend(self, layer: int) -> None:
        """Script: from Q's codes to the attended values, words in `work`, row by row."""
        shape, layers, words = self._shape, self._layers, self._words
        layers.script.do(lambda: layers.relay(self._q_codes, self._step.rows, shape.q))
        head, rows = shape.head // layers.config.rows, layers.config.rows
        value = shape.value_head // self._columns * words
        for batch in self._attend.batches():
            cache = self._memory.caches[layer][batch.run.sequence]
            for kv_head in range(shape.model.kv_heads):
                first = kv_head * shape.group
                queries = Vectors(self._q_codes + batch.row * shape.q // rows + first * head, head,
                                  shape.q // rows)
                out = Vectors(self._work + (batch.row * shape.model.heads + first) * value, value,
                              shape.model.heads * value)
                self._attend.script(batch, cache.kept(kv_head), queries, self._scales_of(batch, kv_head), out)
