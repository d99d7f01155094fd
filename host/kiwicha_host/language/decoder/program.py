"""The program of a step of a Llama decoder: from tokens to logits, every layer, without the host."""

from functools import partial

from kiwicha import ChipConfig
from kiwicha.isa import Unit

from ...compiler.errors import CompileError
from ...compiler.program.memory_map import Region, ceil_div
from .attention import Attention
from .begin import load_constants, load_embeddings, load_shared
from .emitter import Emitter
from .layers import GROUP_BLOCKS, Layers, Rows, accumulator_share
from .lines import Lines
from .logits import Logits
from .memory import DecoderMemory
from .merge import merge
from .packed import PackedMatrix
from .scratchpad import Scratchpad
from .script import Script
from .shape import DecoderShape
from .step import Indices, Step
from .template import Template

__all__ = ["StepProgram", "scratch_bytes"]

#: Tokens that a half has at least: with fewer there is more between products than is gained.
_LEAST_HALF = 16


def scratch_bytes(shape: DecoderShape, rows: int, context: int) -> int:
    """Memory that a step of `rows` tokens uses for its own."""
    vectors = rows * shape.model.heads
    widest = max(shape.width, shape.ffn, shape.q, shape.model.heads * shape.value_head)
    return _keys_bytes(shape, rows) + max(rows * widest, vectors * context)


def _keys_bytes(shape: DecoderShape, rows: int) -> int:
    """Memory of keys on their way into the cache."""
    return rows * shape.k


class StepProgram:
    """Emits a step on a chip of `config`; `scratch` is memory of :func:`scratch_bytes`.

    Many tokens of a sequence are taken in two halves, so that the array works on one while the vector unit is at
    the other: the second half attends while the first is at its feed-forward, and so on.

    Raises
    ------
    CompileError
        The step does not fit the chip's scratchpad.
    """

    def __init__(self, config: ChipConfig, memory: DecoderMemory, step: Step, scratch: Region):
        self._config, self._memory, self._step = config, memory, step
        halves: tuple[int, ...] = (step.length,)
        # Weights are loaded for each half: no longer than the array takes for both.
        if 2 * config.rows * config.columns <= config.bus_bytes * step.length:
            halves = step.halves(max(config.rows, _LEAST_HALF), config.columns)
        try:
            self._make(halves, scratch)
        except CompileError:
            if len(halves) == 1:
                raise
            self._make((step.length,), scratch)

    def _make(self, lengths: tuple[int, ...], scratch: Region) -> None:
        config, lines, count = self._config, Lines(self._config), len(lengths)
        self._lengths, steps = lengths, self._step.cut(lengths, config.columns)
        words = sum(Indices(part, config.columns).count for part in steps)
        self._indices = lines.take(ceil_div(4 * words, config.line_bytes))
        self._index_bytes, self._trash = 4 * words, lines.take(lines.words)
        base = scratch.base
        self._streams = []
        for number, part in enumerate(steps):
            emitter = Emitter(config, self._indices)
            self._streams.append(_Stream(lines, self._memory, part, base, emitter, (number, count)))
            base += scratch_bytes(self._memory.shape, part.rows, self._memory.context)
        self._rings = lines.rings(self._streams[0].chunk, steps)

    def template(self) -> Template:
        """The program for all steps of this one's kind."""
        memory, first, shared = self._memory, self._streams[0], Emitter(self._config, self._indices)
        load_shared(shared, memory, first.at.work, self._trash, self._indices, self._index_bytes)
        shared.end_part("embedding")
        for stream in self._streams:
            stream.script.part = "embedding"
            stream.script.do(stream.begin)
            for layer in range(memory.shape.model.layers):
                stream.layer(layer)
        if self._step.logits:
            self._streams[-1].end()
        for stream, ring in zip(self._streams, self._rings, strict=True):
            stream.script.run(ring, stream.emit.end_part)
        instructions = first.emit.instructions
        if len(self._streams) > 1:
            lead = next(number for number, item in enumerate(instructions)
                        if item.unit == Unit.MATMUL and item.part.endswith("feed-forward"))
            instructions = merge(instructions, self._streams[1].emit.instructions, lead)
        return Template.of(shared.instructions + instructions, self._lengths)


class _Stream:
    """A step, or half of one: with its own lines, share of the accumulators, and memory from `base` on.

    Attributes
    ----------
    emit : Emitter
    script : Script
    at : Scratchpad
    chunk : lines that are loaded at once
    """

    def __init__(self, lines: Lines, memory: DecoderMemory, step: Step, base: int, emitter: Emitter,
                 share: tuple[int, int]):
        self._memory, self._step, shape = memory, step, memory.shape
        self._shape, self.emit, self.script = shape, emitter, Script()
        self.at = Scratchpad(lines, shape, step, base + _keys_bytes(shape, step.rows),
                              2 * accumulator_share(lines.config, share[1]))
        self._layers = Layers(lines.config, self.at.shared, emitter, self.script, share)
        self.chunk = self._layers.chunk
        self._attention = Attention(lines, self._layers, memory, step, self.at.work, self.at.unit_scale, base)
        if step.logits:
            self._logits = Logits(lines, self._layers, memory, memory.head, self.at.normed,
                                  shape.model.vocabulary, len(step.runs), self.at.work, self.at.work_lines)
        self._words = lines.words
        self._x_row = shape.width // lines.columns * lines.words
        self._work_blocks = self.at.work_lines // (lines.words * step.rows)

    def begin(self) -> None:
        """Constants, and the tokens' rows of the embedding."""
        at = self.at
        load_constants(self._layers, self._memory, (at.one, at.epsilon), at.unit_scale)
        load_embeddings(self._layers, self._memory, self._step, at.x, self._x_row)
        self._attention.begin()

    def _normalize(self, rows: Rows) -> None:
        """Script: rows over the root of their mean square, as codes; a rotated model's norms have no factors."""
        layers, at, shape = self._layers, self.at, self._shape
        self.script.do(partial(layers.norm, rows, shape.model.width, at.epsilon))
        layers.quantize_rows(rows, shape.width, at.normed, at.shared.results)

    def _project(self, matrix: PackedMatrix, column: int) -> None:
        """Script: normalized rows times a matrix to attention's words, from a column on."""
        layers, rows, row = self._layers, self._step.rows, self._attention.row
        line = self.at.work + column // layers.columns * self._words
        layers.product(matrix, rows, self.at.normed, GROUP_BLOCKS, lambda first, count, acc: layers.copy(
            acc, count, rows, line + first * self._words, row))

    def layer(self, number: int) -> None:
        """Script: a layer."""
        shape, at, layers, script, rows = self._shape, self.at, self._layers, self.script, self._step.rows
        q, kv, o, gate_up, down = self._memory.layers[number]
        x, x_row = (at.x, self._x_row, rows), self._x_row

        def add(first: int, count: int, acc: int) -> None:
            line = at.x + first * self._words
            layers.copy(acc, count, rows, line, x_row, add=line)

        script.part = f"layer {number}, attention"
        self._normalize(x)
        # Keys have a long way, which the queries' product hides.
        self._project(kv, shape.q)
        self._attention.remember(number)
        self._project(q, 0)
        self._attention.queries(number)
        self._attention.attend(number)
        row = at.attended.size // layers.columns * self._words
        layers.quantize_rows((at.work, row, rows), at.attended.size, at.attended)
        layers.product(o, rows, at.attended, GROUP_BLOCKS, add)
        script.part = f"layer {number}, feed-forward"
        self._normalize(x)
        layers.product(gate_up, rows, at.normed, layers.gate_group(at.gated, rows, self._work_blocks),
                       lambda first, count, acc: layers.gate(first, count, acc, rows, at.gated))
        script.do(lambda: layers.relay(at.gated.line, rows, shape.ffn))
        layers.product(down, rows, at.gated, GROUP_BLOCKS, add)

    def end(self) -> None:
        """Logits of each run's last token."""
        at, length, runs = self.at, self._step.length, len(self._step.runs)
        last = (at.x + (length - 1) * self._x_row, length * self._x_row, runs)
        self.script.part = "head"
        self._normalize(last)
        self._logits.script()
