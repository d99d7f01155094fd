"""The gated networks of a step: one for all rows, and for each row the experts that it has chosen."""

from collections.abc import Callable

from kiwicha.isa import OperandUse, SecondSource

from ...decoder.emitter import Address
from ...decoder.layers import GROUP_BLOCKS, Codes, Layers, Rows
from ...decoder.lines import Lines
from ...decoder.numbers import E4M3_E2M1, padded
from ...decoder.step import Step
from .choice import Choice
from .memory import DeepSeekMemory, Gated, MixtureMemory
from .scratchpad import Scratchpad

__all__ = ["FeedForwards"]


class FeedForwards:
    """Emits them, of one layer after another.

    Experts are of one row each: no program knows which rows go to the same one.
    """

    def __init__(self, lines: Lines, layers: Layers, memory: DeepSeekMemory, step: Step, at: Scratchpad):
        self._layers, self._emit, self._at, self._step = layers, layers.emit, at, step
        self._shape, self._words = memory.shape, layers.words
        model, rows = self._shape.model, step.rows
        self._row = self._shape.width // layers.columns * layers.words
        self._work_blocks = at.work_lines // (layers.words * rows)
        self._choice = None
        if model.dense_layers < model.layers:
            self._choice = Choice(lines, layers, memory, step, at)
            self._codes = [lines.codes(1, self._shape.width, E4M3_E2M1) for _ in range(rows)]
            # One expert's are computed while those of the one before are multiplied.
            self._gated = [lines.codes(1, padded(model.expert_ffn), E4M3_E2M1) for _ in range(2)]
            self._result = lines.rows(1, self._shape.width)

    def begin(self) -> None:
        """What is needed before the first layer."""
        if self._choice is not None:
            self._choice.begin()

    def dense(self, packed: Gated, size: int, add: Callable[[int, int, int], None]) -> None:
        """Script: from the normalized rows, as codes, to what `add` is given: sums of the result."""
        layers, rows, at = self._layers, self._step.rows, self._at
        gated = Codes(at.gated.line, at.gated.scales, padded(size), at.gated.numbers)
        layers.product(packed.up, rows, at.normed, layers.gate_group(gated, rows, self._work_blocks),
                       lambda first, count, acc: layers.gate(first, count, acc, rows, gated))
        layers.script.do(lambda: layers.relay(gated.line, rows, gated.size))
        layers.product(packed.down, rows, gated, GROUP_BLOCKS, add)

    def mixture(self, packed: MixtureMemory) -> None:
        """Script: from the normalized rows `y`, to be added to the rows."""
        assert self._choice is not None
        layers, script, at, rows = self._layers, self._layers.script, self._at, self._step.rows
        self._choice.script(packed)
        chosen = script.here
        script.do(self._quantize)
        self.dense(packed.shared, self._shape.model.shared_ffn, lambda first, count, acc: layers.copy(
            acc, count, rows, at.out + first * self._words, self._row))
        for row in range(rows):
            for rank in range(self._shape.model.chosen):
                self._expert(packed, row, rank, chosen)
        script.do(self._add)

    def _quantize(self) -> None:
        """Each row as the experts take it."""
        for row, codes in enumerate(self._codes):
            rows: Rows = (self._at.y + row * self._row, self._row, 1)
            self._layers.quantize(rows, codes.size, codes)
            self._layers.relay(codes.line, 1, codes.size)

    def _expert(self, packed: MixtureMemory, row: int, rank: int, chosen: int) -> None:
        """Script: one expert's result, weighted, to a row of `out`."""
        layers, choice = self._layers, self._choice
        assert choice is not None
        gated = self._gated[rank % 2]

        def place(address: int) -> Address:
            return choice.expert(row, rank, address, packed.expert_bytes)

        layers.product(packed.experts.up, 1, self._codes[row], layers.gate_group(gated, 1, self._work_blocks),
                       lambda first, count, acc: layers.gate(first, count, acc, 1, gated), after=chosen,
                       place=place)
        layers.script.do(lambda: layers.relay(gated.line, 1, gated.size))
        layers.product(packed.experts.down, 1, gated, GROUP_BLOCKS,
                       lambda first, count, acc: self._weigh(first, count, acc, row, choice.weight(row, rank)),
                       after=chosen, place=place)

    def _weigh(self, first: int, count: int, acc: int, row: int, weight: int) -> None:
        words = self._words
        line, out = self._result + first * words, self._at.out + row * self._row + first * words
        loops = [(count, words), (1, 0)]
        self._emit.vector(acc, [(count, 1), (1, 0)], line, (words, 0), acc=True,
                          b=(OperandUse.MULTIPLY, SecondSource.ROW, weight, (0, 0)))
        self._emit.vector(out, loops, out, (words, 0), b=(OperandUse.ADD, SecondSource.WORDS, line, (words, 0)))

    def _add(self) -> None:
        at, words = self._at, self._words
        loops, strides = [(self._row // words, words), (self._step.rows, self._row)], (words, self._row)
        self._emit.vector(at.x, loops, at.x, strides, b=(OperandUse.ADD, SecondSource.WORDS, at.out, strides))
