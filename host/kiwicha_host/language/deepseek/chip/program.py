"""The program of a step of a DeepSeek decoder: from tokens to logits, every layer, without the host."""

from kiwicha import ChipConfig

from ....compiler.program.memory_map import Region, ceil_div
from ...decoder.begin import load_constants, load_embeddings, load_shared
from ...decoder.emitter import Emitter
from ...decoder.layers import Layers, Rows
from ...decoder.lines import Lines
from ...decoder.logits import Logits
from ...decoder.packed import Table
from ...decoder.script import Script
from ...decoder.step import Indices, Step
from ...decoder.template import Template
from .attention import Attention
from .memory import DeepSeekMemory, LayerMemory, MixtureMemory
from .mixture import FeedForwards
from .scratchpad import Scratchpad
from .shape import DeepSeekShape

__all__ = ["StepProgram", "scratch_bytes"]


def scratch_bytes(shape: DeepSeekShape, rows: int, context: int) -> int:
    """Memory that a step of `rows` tokens uses for its own."""
    model = shape.model
    widest = max(shape.width, shape.values, model.heads * max(shape.key, model.nope_size, context), shape.q_rank,
                 model.ffn + 31, model.shared_ffn + 31, model.expert_ffn + 31)
    return rows * (shape.key + widest)


class StepProgram:
    """Emits a step on a chip of `config`; `scratch` is memory of :func:`scratch_bytes`.

    Raises
    ------
    CompileError
        The step does not fit the chip's scratchpad.
    """

    def __init__(self, config: ChipConfig, memory: DeepSeekMemory, step: Step, scratch: Region):
        self._memory, self._step, self._shape = memory, step, memory.shape
        lines, shape = Lines(config), memory.shape
        self._indices = lines.take(ceil_div(4 * Indices(step, config.columns).count, config.line_bytes))
        self._emit, self._script = Emitter(config, self._indices), Script()
        self._at = at = Scratchpad(lines, shape, step, scratch.base + step.rows * shape.key)
        self._layers = Layers(config, at.shared, self._emit, self._script)
        self._attention = Attention(lines, self._layers, memory, step, at, scratch.base)
        self._ffn = FeedForwards(lines, self._layers, memory, step, at)
        self._logits = Logits(lines, self._layers, memory, memory.head, at.normed, shape.model.vocabulary,
                              len(step.runs), at.work, at.work_lines)
        [self._ring] = lines.rings(self._layers.chunk, [step])
        self._words, self._row = lines.words, shape.width // lines.columns * lines.words

    def template(self) -> Template:
        """The program for all steps of this one's kind."""
        self._script.part = "embedding"
        self._script.do(self._begin)
        for number, layer in enumerate(self._memory.layers):
            self._layer(number, layer)
        length = self._step.length
        last: Rows = (self._at.x + (length - 1) * self._row, length * self._row, len(self._step.runs))
        if self._step.logits:
            self._script.part = "head"
            self._normalize(last, self._memory.norm)
            self._logits.script()
        self._script.run(self._ring, self._emit.end_part)
        return Template.of(self._emit.instructions, (self._step.length,))

    def _begin(self) -> None:
        """Constants, table B, and the tokens' rows of the embedding."""
        layers, at, memory, step = self._layers, self._at, self._memory, self._step
        load_shared(self._emit, memory, at.work, at.trash, self._indices, 4 * Indices(step, layers.columns).count)
        load_constants(layers, memory, (at.one, *at.epsilons), at.unit_scale)
        load_embeddings(layers, memory, step, at.x, self._row)
        self._attention.begin()
        self._ffn.begin()

    def _layer(self, number: int, layer: LayerMemory) -> None:
        at = self._at
        x: Rows = (at.x, self._row, self._step.rows)
        self._script.part = f"layer {number}, attention"
        self._normalize(x, layer.attn_norm)
        self._attention.script(number, self._add)
        self._script.part = f"layer {number}, feed-forward"
        if isinstance(layer.ffn, MixtureMemory):
            self._normalize(x, layer.ffn_norm, with_words=True)
            self._ffn.mixture(layer.ffn)
        else:
            self._normalize(x, layer.ffn_norm)
            self._ffn.dense(layer.ffn, self._shape.model.ffn, self._add)

    def _add(self, first: int, count: int, acc: int) -> None:
        """Sums to the rows."""
        line = self._at.x + first * self._words
        self._layers.copy(acc, count, self._step.rows, line, self._row, add=line)

    def _normalize(self, rows: Rows, factors: Table, with_words: bool = False) -> None:
        """Script: as codes, and the words `y` too."""
        layers, at, shape = self._layers, self._at, self._shape
        out: Rows = (at.y, self._row, rows[2])

        def action(line: int) -> None:
            factor: int | None = layers.scaled_norm(rows, shape.model.width, line, out, at.epsilons[0])
            if with_words and factor is not None:
                layers.scale_rows(out, shape.width // layers.columns, factor)
                factor = None
            layers.quantize(out, shape.width, at.normed, factor)
            layers.relay(at.normed.line, rows[2], shape.width)

        layers.with_factors(factors.address(0), shape.model.width, action)
