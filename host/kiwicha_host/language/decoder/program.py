"""The program of a step of a Llama decoder: from tokens to logits, every layer, without the host."""

from kiwicha import ChipConfig

from ...compiler.program.memory_map import Region, ceil_div
from .attention import Attention
from .emitter import Emitter
from .layers import GROUP_BLOCKS, Layers, Rows
from .lines import Lines
from .logits import Logits
from .memory import DecoderMemory
from .scratchpad import Scratchpad
from .script import Script
from .shape import DecoderShape
from .step import Indices, Step
from .template import Template

__all__ = ["StepProgram", "scratch_bytes"]


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

    Raises
    ------
    CompileError
        The step does not fit the chip's scratchpad.
    """

    def __init__(self, config: ChipConfig, memory: DecoderMemory, step: Step, scratch: Region):
        self._memory, self._step, shape = memory, step, memory.shape
        self._shape, lines = shape, Lines(config)
        indices = lines.take(ceil_div(4 * Indices(step, config.columns).count, config.line_bytes))
        self._emit, self._script = Emitter(config, indices), Script()
        self._at = Scratchpad(lines, shape, step, scratch.base + _keys_bytes(shape, step.rows))
        self._layers = Layers(config, self._at.shared, self._emit, self._script)
        self._attention = Attention(lines, self._layers, memory, step, self._at.work, self._at.unit_scale,
                                    scratch.base)
        self._logits = Logits(lines, self._layers, memory, memory.head, self._at.normed, shape.model.vocabulary,
                              len(step.runs), self._at.work, self._at.work_lines)
        self._ring = lines.ring(self._layers.chunk, step)
        self._indices, self._words = indices, lines.words
        self._x_row = shape.width // lines.columns * lines.words
        self._work_blocks = self._at.work_lines // (lines.words * step.rows)

    def template(self) -> Template:
        """The program for all steps of this one's kind."""
        self._script.part = "embedding"
        self._script.do(self._begin)
        for layer in range(self._shape.model.layers):
            self._layer(layer)
        self._end()
        self._script.run(self._ring, self._emit.end_part)
        return Template.of(self._emit)

    def _begin(self) -> None:
        """Constants, table B, and the tokens' rows of the embedding."""
        emit, at, memory = self._emit, self._at, self._memory
        line_bytes, segment = self._layers.config.line_bytes, self._layers.segment
        emit.load(memory.scale_table.base, memory.scale_table.size, at.work, segment=line_bytes)
        emit.load_table_b(at.work, at.trash)
        emit.load(memory.constants.base, 4, at.one, segment=4)
        emit.load(memory.constants.base + 4, 4, at.epsilon, segment=4)
        emit.fill(at.unit_scale, 1, 127)
        indices = Indices(self._step, self._layers.columns)
        emit.load(memory.indices.base, 4 * indices.count, self._indices, segment=line_bytes)
        for row in range(self._step.rows):
            emit.load(memory.embedding.indexed(indices.token(row)), memory.embedding.row_bytes,
                      at.x + row * self._x_row, segment=segment)
        self._attention.begin()

    def _normalize(self, rows: Rows, number: int) -> None:
        """Script: the norm whose factors are so many rows on in memory, as codes."""
        layers, at, shape = self._layers, self._at, self._shape

        def action(factors: int) -> None:
            out = (at.work, self._x_row, rows[2])
            factor = layers.norm(rows, shape.model.width, factors, out, at.epsilon)
            layers.quantize(out, shape.width, at.normed, factor)
            layers.relay(at.normed.line, rows[2], shape.width)

        layers.with_factors(self._memory.norms.address(number), shape.model.width, action)

    def _layer(self, number: int) -> None:
        shape, at, layers, script, rows = self._shape, self._at, self._layers, self._script, self._step.rows
        qkv, o, gate_up, down = self._memory.layers[number]
        x, x_row = (at.x, self._x_row, rows), self._x_row

        def add(first: int, count: int, acc: int) -> None:
            line = at.x + first * self._words
            layers.copy(acc, count, rows, line, x_row, add=line)

        script.part = f"layer {number}, attention"
        self._normalize(x, 2 * number)
        layers.product(qkv, rows, at.normed, GROUP_BLOCKS, lambda first, count, acc: layers.copy(
            acc, count, rows, at.work + first * self._words, self._attention.row))
        for action in (self._attention.turn, lambda: self._attention.remember(number), self._attention.queries):
            script.do(action)
        self._attention.attend(number)
        row = at.attended.size // layers.columns * self._words
        script.do(lambda: layers.quantize((at.work, row, rows), at.attended.size, at.attended))
        script.do(lambda: layers.relay(at.attended.line, rows, at.attended.size))
        layers.product(o, rows, at.attended, GROUP_BLOCKS, add)
        script.part = f"layer {number}, feed-forward"
        self._normalize(x, 2 * number + 1)
        layers.product(gate_up, rows, at.normed, layers.gate_group(at.gated, rows, self._work_blocks),
                       lambda first, count, acc: layers.gate(first, count, acc, rows, at.gated))
        script.do(lambda: layers.relay(at.gated.line, rows, shape.ffn))
        layers.product(down, rows, at.gated, GROUP_BLOCKS, add)

    def _end(self) -> None:
        """Logits of each run's last token."""
        at, length, runs = self._at, self._step.length, len(self._step.runs)
        last = (at.x + (length - 1) * self._x_row, length * self._x_row, runs)
        self._script.part = "head"
        self._normalize(last, 2 * self._shape.model.layers)
        self._logits.script()
