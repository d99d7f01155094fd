"""The program of a step: from tokens to logits, every layer, without the host."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, LOAD

from ...compiler.program.memory_map import Region
from .attention import Attention
from .emitter import Emitter, Indexed
from .layers import Layers
from .memory import DecoderMemory
from .scratchpad import Scratchpad
from .script import Script
from .shape import DecoderShape
from .step import Indices, Step

__all__ = ["StepProgram", "Template", "scratch_bytes"]

#: Blocks of columns whose sums leave the accumulators together, while the next are computed.
_GROUP = 16
#: The byte of a transfer at which its address begins.
_ADDRESS = next(field.byte for field in LOAD.fields if field.name == "address")


def scratch_bytes(shape: DecoderShape, rows: int, context: int) -> int:
    """Memory that a step of `rows` tokens uses for its own."""
    vectors = rows * shape.model.heads
    widest = max(shape.width, shape.ffn, shape.q, shape.model.heads * shape.value_head)
    return _keys_bytes(shape, rows) + max(rows * widest, vectors * context)


def _keys_bytes(shape: DecoderShape, rows: int) -> int:
    """Memory of keys on their way into the cache."""
    return rows * shape.k


@dataclass(frozen=True)
class Template:
    """A program, uint8 [instructions, 64]; the bytes that its transfers move; and which of its instructions have
    to be given their addresses.
    """
    code: np.ndarray
    moved: int
    moving: list[tuple[int, Indexed]]

    def with_indices(self, words: np.ndarray) -> np.ndarray:
        """The program of the step whose indices these are."""
        for number, place in self.moving:
            address = place.base + int(words[place.word]) * place.stride
            self.code[number, _ADDRESS:_ADDRESS + 8] = np.frombuffer(address.to_bytes(8, "little"), np.uint8)
        return self.code


class StepProgram:
    """Emits a step on a chip of `config`; `scratch` is memory of :func:`scratch_bytes`.

    Raises
    ------
    CompileError
        The step does not fit the chip's scratchpad.
    """

    def __init__(self, config: ChipConfig, shape: DecoderShape, memory: DecoderMemory, step: Step,
                 scratch: Region):
        self._config, self._shape, self._memory, self._step = config, shape, memory, step
        self._at = Scratchpad(config, shape, step)
        self._emit, self._script = Emitter(config, self._at.indices), Script()
        self._layers = Layers(config, shape, self._at, self._emit, self._script,
                              scratch.base + _keys_bytes(shape, step.rows))
        self._attention = Attention(self._layers, memory, step, scratch.base)
        words, columns = self._emit.words, self._emit.columns
        self._words = words
        self._x_row = shape.width // columns * words
        self._work_blocks = self._at.work_lines // (words * step.rows)

    @staticmethod
    def kind(config: ChipConfig, step: Step) -> Hashable:
        """Steps of one kind have one program, but for addresses where the chip takes no indices."""
        return step.length, tuple((run.sequence, step.span(run), run.position // config.columns)
                                  for run in step.runs)

    def template(self) -> Template:
        """The program for all steps of this one's kind."""
        self._script.do(self._begin)
        for layer in range(self._shape.model.layers):
            self._layer(layer)
        self._end()
        self._script.run(self._at.ring)
        code = np.frombuffer(self._emit.assemble(), np.uint8).reshape(-1, INSTRUCTION_BYTES).copy()
        return Template(code, self._emit.bytes, self._emit.moving)

    def _begin(self) -> None:
        """Constants, table B, and the tokens' rows of the embedding."""
        emit, at, memory = self._emit, self._at, self._memory
        segment = self._layers.segment
        emit.load(memory.scale_table.base, memory.scale_table.size, at.work, segment=self._config.line_bytes)
        emit.load_table_b(at.work, at.trash)
        emit.load(memory.constants.base, 4, at.one, segment=4)
        emit.load(memory.constants.base + 4, 4, at.epsilon, segment=4)
        emit.fill(at.unit_scale, 1, 127)
        indices = Indices(self._step, self._config.columns)
        emit.load(memory.indices.base, 4 * indices.count, at.indices, segment=self._config.line_bytes)
        for row in range(self._step.rows):
            emit.load(memory.embedding.indexed(indices.token(row)), memory.embedding.row_bytes,
                      at.x + row * self._x_row, segment=segment)
        self._attention.tables()

    def _layer(self, number: int) -> None:
        shape, at, layers, script, rows = self._shape, self._at, self._layers, self._script, self._step.rows
        qkv, o, gate_up, down = self._memory.layers[number]
        x, x_row = (at.x, self._x_row, rows), self._x_row
        attended = shape.model.heads * shape.value_head

        def normalize(norm: int) -> None:
            layers.norm(x, self._memory.norms.address(2 * number + norm))
            layers.relay(at.codes[0], rows, shape.width)

        def add(first: int, count: int, acc: int) -> None:
            line = at.x + first * self._words
            layers.copy(acc, count, rows, line, x_row, add=line)

        script.do(lambda: normalize(0))
        layers.product(qkv, rows, 0, _GROUP, lambda first, count, acc: layers.copy(
            acc, count, rows, at.work + first * self._words, at.qkv_row))
        for action in (self._attention.turn, lambda: self._attention.remember(number), self._attention.queries):
            script.do(action)
        self._attention.attend(number)
        row = attended // layers.columns * self._words
        script.do(lambda: layers.quantize((at.work, row, rows), attended, 1))
        script.do(lambda: layers.relay(at.codes[1], rows, attended))
        layers.product(o, rows, 1, _GROUP, add)
        script.do(lambda: normalize(1))
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
            layers.norm(last, self._memory.norms.address(2 * self._shape.model.layers))
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
                         segment=self._layers.segment, rows=runs, row_stride=logits.row_bytes,
                         row_lines=count * self._words, writes=["logits"])


