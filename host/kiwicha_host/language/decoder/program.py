"""The program of a step: from tokens to logits, every layer, without the host."""

from collections.abc import Hashable, Sequence

from kiwicha import ChipConfig

from ...compiler.program.memory_map import Region
from .attention import Attention
from .emitter import Emitter
from .layers import Layers
from .memory import DecoderMemory
from .scratchpad import Scratchpad
from .script import Script
from .shape import DecoderShape
from .step import Step

__all__ = ["StepProgram", "scratch_bytes"]

#: Blocks of columns whose sums leave the accumulators together, while the next are computed.
_GROUP = 16


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

    def __init__(self, config: ChipConfig, shape: DecoderShape, memory: DecoderMemory, step: Step,
                 tokens: Sequence[int], scratch: Region):
        self._config, self._shape, self._memory, self._step = config, shape, memory, step
        self._tokens = tokens
        self._at = Scratchpad(config, shape, step)
        self._emit, self._script = Emitter(config), Script()
        self._layers = Layers(config, shape, self._at, self._emit, self._script,
                              scratch.base + _keys_bytes(shape, step.rows))
        self._attention = Attention(self._layers, memory, step, scratch.base)
        words, columns = self._emit.words, self._emit.columns
        self._words = words
        self._x_row = shape.width // columns * words
        self._work_blocks = self._at.work_lines // (words * step.rows)

    @property
    def moved(self) -> int:
        """Bytes that its transfers move."""
        return self._emit.bytes

    @property
    def kind(self) -> Hashable:
        """Steps of one kind have the same instructions, but for addresses in memory."""
        columns = self._config.columns
        return ("decoder", self._shape, self._memory.context, self._step.length, tuple(
            (self._step.span(run), run.position // columns) for run in self._step.runs))

    def assemble(self) -> bytes:
        self._script.do(self._begin)
        for layer in range(self._shape.model.layers):
            self._layer(layer)
        self._end()
        self._script.run(self._at.ring)
        return self._emit.assemble()

    def _begin(self) -> None:
        """Constants, table B, and the tokens' rows of the embedding."""
        emit, at, memory = self._emit, self._at, self._memory
        segment = min(self._config.line_bytes, 4 * self._config.columns)
        emit.load(memory.scale_table.base, memory.scale_table.size, at.work, segment=self._config.line_bytes)
        emit.load_table_b(at.work, at.trash)
        emit.load(memory.constants.base, 4, at.one, segment=4)
        emit.load(memory.constants.base + 4, 4, at.epsilon, segment=4)
        emit.fill(at.unit_scale, 1, 127)
        for row, token in enumerate(self._tokens):
            emit.load(memory.embedding.address(int(token)), memory.embedding.row_bytes, at.x + row * self._x_row,
                      segment=segment)
        self._attention.tables()

    def _layer(self, number: int) -> None:
        shape, at, layers, script, rows = self._shape, self._at, self._layers, self._script, self._step.rows
        qkv, o, gate_up, down = self._memory.layers[number]
        x, x_row = (at.x, self._x_row, rows), self._x_row
        attended = shape.model.heads * shape.value_head

        def normalize() -> None:
            layers.norm(x)
            layers.relay(at.codes[0], rows, shape.width)

        def add(first: int, count: int, acc: int) -> None:
            line = at.x + first * self._words
            layers.copy(acc, count, rows, line, x_row, add=line)

        script.do(normalize)
        layers.product(qkv, rows, 0, _GROUP, lambda first, count, acc: layers.copy(
            acc, count, rows, at.work + first * self._words, at.qkv_row))
        for action in (self._attention.turn, lambda: self._attention.remember(number), self._attention.queries):
            script.do(action)
        self._attention.attend(number)
        row = attended // layers.columns * self._words
        script.do(lambda: layers.quantize((at.work, row, rows), attended, 1))
        script.do(lambda: layers.relay(at.codes[1], rows, attended))
        layers.product(o, rows, 1, _GROUP, add)
        script.do(normalize)
        pairs = 2 * layers.parts
        group = max(pairs, min(self._work_blocks * 2, _GROUP, layers.most_accumulators // rows) // pairs * pairs)
        layers.product(gate_up, rows, 0, group, lambda first, count, acc: layers.gate(first, count, acc, rows))
        script.do(lambda: layers.relay(at.codes[1], rows, shape.ffn))
        layers.product(down, rows, 1, _GROUP, add)

    def _end(self) -> None:
        """Logits of each run's last token."""
        at, layers, length, runs = self._at, self._layers, self._step.length, len(self._step.runs)
        last = (at.x + (length - 1) * self._x_row, length * self._x_row, runs)

        def normalize() -> None:
            layers.norm(last)
            layers.relay(at.codes[0], runs, self._shape.width)

        self._script.do(normalize)
        half = at.work_lines // 2
        group = half // (self._words * runs)
        layers.product(self._memory.head, runs, 0, group,
                       lambda first, count, acc: self._logits(first, count, acc, runs,
                                                              at.work + first // group % 2 * half))

    def _logits(self, first: int, count: int, acc: int, runs: int, line: int) -> None:
        columns, logits = self._config.columns, self._memory.logits
        self._layers.copy(acc, count, runs, line, count * self._words)
        self._emit.store(logits.address(0) + 4 * first * columns, 4 * count * columns, line,
                         segment=min(self._config.line_bytes, 4 * columns), rows=runs, row_stride=logits.row_bytes,
                         row_lines=count * self._words, writes=["logits"])


