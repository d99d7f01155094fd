"""Multi-head latent attention of a step, absorbed: the heads share one latent vector of each position.

It is both key and value, as codes with the same scales; what would make a head's key and value of it is multiplied
into queries and results. Weights of one product are loaded while others run.
"""

from collections.abc import Callable
from functools import partial

from ....compiler.program.memory_map import ceil_div
from ...decoder.attend import Attend
from ...decoder.heads import Batch, Kept
from ...decoder.keep import Keep
from ...decoder.layers import GROUP_BLOCKS, Codes, Layers, Rows
from ...decoder.lines import Lines
from ...decoder.numbers import E4M3
from ...decoder.packed import PackedMatrix
from ...decoder.positions import Positions, Vectors
from ...decoder.step import Step
from .memory import DeepSeekMemory
from .scratchpad import Scratchpad

__all__ = ["Attention"]


class Attention:
    """Emits the attention of one layer after another.

    Parameters
    ----------
    transposed : address of memory of keys on their way into the cache
    """

    def __init__(self, lines: Lines, layers: Layers, memory: DeepSeekMemory, step: Step, at: Scratchpad,
                 transposed: int):
        self._layers, self._memory, self._step, self._at = layers, memory, step, at
        self._shape, self._model = memory.shape, memory.shape.model
        self._columns, self._words = layers.columns, layers.words
        shape, model, rows = self._shape, self._model, step.rows
        self._latents = lines.rows(rows, shape.latents)
        self._q = lines.rows(rows, max(model.heads * shape.query, shape.values))
        self._q_latent = lines.codes(rows, shape.q_rank, E4M3)
        self._q_nope = lines.codes(rows, model.heads * model.nope_size, E4M3)
        self._queries = lines.code_lines(rows, model.heads * shape.key)
        self._kept = lines.take(rows * shape.key // self._columns)
        self._mixed = lines.codes(rows, model.heads * model.kv_rank, E4M3)
        self._positions = Positions(lines, layers, memory.positions, step, model.heads, shape.half)
        self._keep = Keep(lines, layers, step, key=shape.key, scales=E4M3.blocks(shape.key),
                          context=memory.context, relay=transposed)
        self._attend = Attend(lines, layers, self._positions, step, shape.heads, at.unit_scale)
        batches = sum(1 for _ in self._attend.batches())
        self._scales = lines.take(batches * self._attend.q_scale_lines)

    def begin(self) -> None:
        """What is needed before the first layer."""
        self._positions.load()
        self._keep.begin()

    def _lines(self, size: int) -> int:
        """Lines of so many words."""
        return size // self._columns * self._words

    def script(self, layer: int, add: Callable[[int, int, int], None]) -> None:
        """Script: from the normalized rows to what `add` is given: the sums of the output."""
        layers, script, rows, at = self._layers, self._layers.script, self._step.rows, self._at
        packed, model, shape = self._memory.layers[layer].attention, self._model, self._shape
        layers.product(packed.latents, rows, at.normed, GROUP_BLOCKS,
                       self._copy(self._latents, self._lines(shape.latents)))
        layers.with_factors(packed.q_norm.address(0), model.q_rank, self._query_latents)
        layers.product(packed.queries, rows, self._q_latent, GROUP_BLOCKS,
                       self._copy(self._q, self._lines(model.heads * shape.query)))
        layers.with_factors(packed.kv_norm.address(0), model.kv_rank, self._normalize_latents)
        key, row = self._lines(shape.key), self._lines(shape.latents)
        rotated = Vectors(self._latents + self._lines(shape.q_rank + model.kv_rank), 0, row)
        self._positions.turn(rotated, 1, rotated)
        self._remember(layer)
        script.do(self._quantize_heads)
        head = self._lines(shape.query)
        self._positions.turn(
            Vectors(self._q + self._lines(model.nope_size), head, model.heads * head), model.heads,
            Vectors(at.work + self._lines(model.kv_rank), key, model.heads * key))
        self._absorb(packed.keys, self._q_nope, at.work, shape.key)
        script.do(self._quantize_queries)
        self._mix(layer)
        script.do(lambda: self._to_codes(at.work, self._mixed))
        self._absorb(packed.values, self._mixed, self._q, model.value_size)
        script.do(lambda: self._to_codes(self._q, at.attended))
        layers.product(packed.output, rows, at.attended, GROUP_BLOCKS, add)

    def _copy(self, line: int, row: int) -> Callable[[int, int, int], None]:
        """What copies blocks of sums to rows of words."""
        return lambda first, count, acc: self._layers.copy(acc, count, self._step.rows, line + first * self._words,
                                                           row)

    def _absorb(self, packed: list[PackedMatrix], codes: Codes, line: int, size: int) -> None:
        """Script: each head's part of the codes times its matrix, to words: rows of heads of `size`."""
        for head, matrix in enumerate(packed):
            post = self._copy(line + head * self._lines(size), self._model.heads * self._lines(size))
            self._layers.product(matrix, self._step.rows, codes, GROUP_BLOCKS, post, first=head * matrix.k)

    def _to_codes(self, line: int, codes: Codes) -> None:
        rows: Rows = (line, self._lines(codes.size), self._step.rows)
        self._layers.quantize(rows, codes.size, codes)
        self._layers.relay(codes.line, self._step.rows, codes.size)

    def _query_latents(self, factors: int) -> None:
        rows: Rows = (self._latents, self._lines(self._shape.latents), self._step.rows)
        factor = self._layers.scaled_norm(rows, self._model.q_rank, factors, rows, self._at.epsilons[1])
        self._layers.quantize(rows, self._shape.q_rank, self._q_latent, factor)
        self._layers.relay(self._q_latent.line, self._step.rows, self._shape.q_rank)

    # The cache.

    @property
    def _kept_rows(self) -> Rows:
        """What is kept of each row, words."""
        return self._latents + self._lines(self._shape.q_rank), self._lines(self._shape.latents), self._step.rows

    def _normalize_latents(self, factors: int) -> None:
        rows, rank, layers = self._kept_rows, self._model.kv_rank, self._layers
        factor = layers.scaled_norm(rows, rank, factors, rows, self._at.epsilons[2])
        layers.scale_rows(rows, rank // self._columns, factor)

    def _remember(self, layer: int) -> None:
        """Script: latent vectors and rotated keys as codes, into the cache."""
        for number, run in enumerate(self._step.runs):
            kept = self._memory.kept(layer, run.sequence)
            codes = self._kept + number * self._step.length * (self._shape.key // self._columns)
            self._layers.script.do(partial(self._remember_run, number, codes, kept))
            self._keep.keys(number, kept)

    def _remember_run(self, number: int, codes: int, kept: Kept) -> None:
        """A run's codes, as values, and their scales to memory."""
        shape, length, (line, row, _) = self._shape, self._step.length, self._kept_rows
        lines = shape.key // self._columns
        for block, (start, size) in enumerate(E4M3.parts(shape.key)):
            self._layers.emit.vector(
                line + number * length * row + self._lines(start), [(1, 0), (length, row)],
                codes + start // self._columns, (0, lines), parts=(size // self._columns, self._words),
                scales=(E4M3, self._keep.scale_line(block)))
        self._keep.scales(number, 0, E4M3.blocks(shape.key), kept.key_scales, kept)
        self._keep.values(number, codes, lines, kept, self._model.kv_rank)
        self._keep.put_aside(number, codes)

    # Queries.

    def _quantize_heads(self) -> None:
        """Of each head the part without rotation."""
        model, layers, rows = self._model, self._layers, self._step.rows
        head = self._lines(self._shape.query)
        for number in range(model.heads):
            layers.quantize((self._q + number * head, model.heads * head, rows), model.nope_size, self._q_nope,
                            first=number * model.nope_size)
        layers.relay(self._q_nope.line, rows, self._q_nope.size)

    def _quantize_queries(self) -> None:
        """Absorbed queries as codes; those of rows that are attended for together share lines of scales."""
        shape, heads, columns = self._shape, self._model.heads, self._columns
        key, lines = self._lines(shape.key), shape.key // columns
        for batch in self._attend.batches():
            scale_lines = ceil_div(batch.rows * heads, self._layers.config.line_bytes)
            for number, (first, size) in enumerate(E4M3.parts(shape.key)):
                self._layers.emit.vector(
                    self._at.work + batch.row * heads * key + self._lines(first),
                    [(heads, key), (batch.rows, heads * key)],
                    self._queries + batch.row * heads * lines + first // columns, (lines, heads * lines),
                    parts=(size // columns, self._words),
                    scales=(E4M3, self._scales_of(batch) + number * scale_lines))
        self._layers.relay(self._queries, self._step.rows, heads * shape.key)

    def _scales_of(self, batch: Batch) -> int:
        return self._scales + batch.number * self._attend.q_scale_lines

    def _mix(self, layer: int) -> None:
        """Script: latent vectors weighted by softmax, words: rows of heads."""
        heads, key = self._model.heads, self._shape.key // self._layers.config.rows
        rank = self._lines(self._model.kv_rank)
        for batch in self._attend.batches():
            queries = Vectors(self._queries + batch.row * heads * key, key, heads * key)
            out = Vectors(self._at.work + batch.row * heads * rank, rank, heads * rank)
            kept = self._memory.kept(layer, batch.run.sequence)
            self._attend.script(batch, kept, queries, self._scales_of(batch), out)
