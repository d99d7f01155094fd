"""Which experts each row of a step goes to, and how much: scores, groups, the best, and their weights.

What is to be compared is put side by side by way of memory, where an index finds it, too. Of each row the chip
keeps the numbers of the chosen experts as words, which say from where their weights are loaded.
"""

from functools import partial
from typing import Any

from kiwicha.isa import OperandUse, Reduce, ResultFunction, ScaleMode, SecondSource

from ....compiler.program.memory_map import ceil_div
from ...decoder.emitter import Address, Indexed
from ...decoder.layers import LOG2_E, Layers, bits
from ...decoder.lines import Lines
from ...decoder.packed import Table
from ...decoder.step import Step
from .memory import DeepSeekMemory, MixtureMemory
from .scratchpad import Scratchpad

__all__ = ["Choice"]


class Choice:
    """Emits the choice of one layer after another, by the normalized rows `y`."""

    def __init__(self, lines: Lines, layers: Layers, memory: DeepSeekMemory, step: Step, at: Scratchpad):
        self._layers, self._emit, self._memory, self._at = layers, layers.emit, memory, at
        self._model, self._rows = memory.shape.model, step.rows
        self._columns, self._words = layers.columns, layers.words
        model, rows, words = self._model, step.rows, layers.words
        self._y_row = memory.shape.width // self._columns * words
        self._group_row = self._row(memory.shape.group_size)
        self._scores = lines.take(rows * model.experts * words)
        self._bias = lines.take(model.groups * self._group_row)
        self._grouped, self._loaded = (lines.take(rows * model.groups * self._group_row) for _ in range(2))
        self._best = lines.take(rows * model.groups * 4 * words)
        self._groups = lines.take(rows * model.groups * words)
        self._packed = lines.take(rows * max(self._row(model.groups), self._row(model.experts)))
        self._kept = lines.take(rows * 2 * model.kept_groups * words)
        self._lowest = lines.take(self._row(model.experts))
        self._moved = [lines.take(self._group_row) for _ in range(2)]
        self._chosen = lines.take(rows * 2 * model.chosen * words)
        self._weights = lines.take(rows * model.chosen * words)
        self._sums = lines.take(rows * words)

    def _row(self, size: int) -> int:
        """Lines of `size` words side by side."""
        return ceil_div(size, self._columns) * self._words

    def begin(self) -> None:
        """What no layer changes. Of a weight's words all but the first are zero, and count in sums."""
        self._load(self._memory.lowest.address(0), self._model.experts, self._lowest, 1)
        self._emit.fill(self._weights, self._rows * self._model.chosen * self._words, 0)

    def script(self, packed: MixtureMemory) -> None:
        """Script: everything."""
        script, row, model = self._layers.script, self._y_row, self._model
        at_once = max(1, self._layers.chunk // row)
        for first in range(0, model.experts, at_once):
            count = min(at_once, model.experts - first)
            script.use(count * row, partial(self._load_gate, packed.gate, first, count),
                       partial(self._score, first, count), after=1)
        script.do(lambda: self._choose(packed.bias))

    def expert(self, row: int, rank: int, address: int, stride: int) -> Address:
        """Where the matrices of a chosen expert are: `address` is that of the first expert's."""
        line = self._chosen + ((2 * row + 1) * self._model.chosen + rank) * self._words
        return Indexed(address, stride, 0, self._model.experts, line)

    def weight(self, row: int, rank: int) -> int:
        """The line of a word, how much a chosen expert counts."""
        return self._weights + (row * self._model.chosen + rank) * self._words

    # Moves. Words side by side start a line each row.

    def _load(self, address: int, size: int, line: int, rows: int, *names: str) -> None:
        self._emit.load(address, 4 * size, line, segment=self._layers.segment, rows=rows, row_stride=4 * size,
                        row_lines=self._row(size), reads=names)

    def _store(self, table: Table, size: int, line: int, rows: int, name: str) -> None:
        self._emit.store(table.address(0), 4 * size, line, segment=self._layers.segment, rows=rows,
                         row_stride=4 * size, row_lines=self._row(size), writes=[name])

    def _store_firsts(self, table: Table, line: int, rows: int, name: str) -> None:
        """The first words of so many lines of words."""
        self._emit.store(table.address(0), 4, line, segment=4, rows=rows, row_stride=4, row_lines=self._words,
                         writes=[name])

    # Steps.

    def _load_gate(self, gate: Table, first: int, count: int, line: int) -> None:
        self._load(gate.address(first), gate.row_bytes // 4, line, count)

    def _score(self, first: int, count: int, gate: int) -> None:
        """Sums of rows times rows of the gate, `count` experts from `first` on."""
        words, experts = self._words, self._model.experts
        blocks = self._y_row // words
        for row in range(self._rows):
            self._emit.vector(
                self._at.y + row * self._y_row, [(blocks, words), (count, 0)],
                self._scores + (row * experts + first) * words, (0, words), row=True, reduce=Reduce.SUM,
                b=(OperandUse.MULTIPLY, SecondSource.WORDS, gate, (words, self._y_row)))

    def _choose(self, bias: Table) -> None:
        self._sigmoid()
        self._bias_groups(bias)
        self._keep_groups()
        self._rank()
        self._weigh()

    def _of_each(self, line: int, count: int, **fields: Any) -> None:
        """The first word of so many lines of words, changed, to all of each."""
        self._emit.vector(line, [(1, 0), (count, self._words)], line, (0, self._words), row=True, tail=1, **fields)

    def _sigmoid(self) -> None:
        """1 / (1 + exp(-score)) to memory."""
        count = self._rows * self._model.experts
        self._of_each(self._scores, count, scale_mode=ScaleMode.SCALAR, scale=bits(-LOG2_E),
                      function=ResultFunction.EXP2)
        self._of_each(self._scores, count, function=ResultFunction.RECIPROCAL,
                      b=(OperandUse.ADD, SecondSource.ROW, self._at.one, (0, 0)))
        self._store_firsts(self._memory.choice.scores, self._scores, count, "scores")

    def _bias_groups(self, bias: Table) -> None:
        """Scores and bias, group by group, and of each group the sum of the best two to memory."""
        model, words, size, row = self._model, self._words, self._memory.shape.group_size, self._group_row
        rows, choice = self._rows * model.groups, self._memory.choice
        self._load(choice.scores.address(0), size, self._loaded, rows, "scores")
        self._load(bias.address(0), size, self._bias, model.groups)
        lines = model.groups * row
        self._emit.vector(self._loaded, [(lines // words, words), (self._rows, lines)], self._grouped,
                          (words, lines), b=(OperandUse.ADD, SecondSource.WORDS, self._bias, (words, 0)))
        self._store(choice.biased, size, self._grouped, rows, "biased")
        self._emit.vector(self._grouped, [(row // words, words), (rows, row)], self._best, (words, 4 * words),
                          row=True, top=2, tail=size % self._columns)
        self._emit.vector(self._best, [(1, 0), (rows, 4 * words)], self._groups, (0, words),
                          b=(OperandUse.ADD, SecondSource.WORDS, self._best + words, (0, 4 * words)))
        self._store_firsts(choice.groups, self._groups, rows, "groups")

    def _top(self, size: int, count: int, out: int) -> None:
        """Of each row of `size` words side by side the `count` largest."""
        row, words = self._row(size), self._words
        self._emit.vector(self._packed, [(row // words, words), (self._rows, row)], out,
                          (words, 2 * count * words), row=True, top=count, tail=size % self._columns)

    def _keep_groups(self) -> None:
        """Biased scores of the experts of the best groups, where all others are -infinity."""
        model, choice, size = self._model, self._memory.choice, self._memory.shape.group_size
        self._load(choice.groups.address(0), model.groups, self._packed, self._rows, "groups")
        self._top(model.groups, model.kept_groups, self._kept)
        for row in range(self._rows):
            self._emit.store(choice.left.address(row), 4 * model.experts, self._lowest,
                             segment=self._layers.segment, writes=["left"])
        moves = [(row, rank) for row in range(self._rows) for rank in range(model.kept_groups)]
        for number, (row, rank) in enumerate(moves):
            line = self._kept + ((2 * row + 1) * model.kept_groups + rank) * self._words
            through = self._moved[number % 2]
            source, target = (Indexed(table.address(row), 4 * size, 0, model.groups, line)
                              for table in (choice.biased, choice.left))
            self._emit.load(source, 4 * size, through, segment=self._layers.segment, reads=["biased"])
            self._emit.store(target, 4 * size, through, segment=self._layers.segment, writes=["left"])

    def _rank(self) -> None:
        """The best experts, and their scores without bias."""
        model, choice, words = self._model, self._memory.choice, self._words
        self._load(choice.left.address(0), model.experts, self._packed, self._rows, "left")
        self._top(model.experts, model.chosen, self._chosen)
        for row in range(self._rows):
            for rank in range(model.chosen):
                place = self.expert(row, rank, choice.scores.address(row), 4)
                self._emit.load(place, 4, self.weight(row, rank), segment=4, reads=["scores"])
        self._emit.vector(self._weights, [(model.chosen, words), (self._rows, model.chosen * words)], self._sums,
                          (0, words), row=True, reduce=Reduce.SUM, function=ResultFunction.RECIPROCAL)

    def _weigh(self) -> None:
        """Scores over their sum, times the model's own factor."""
        words, chosen = self._words, self._model.chosen
        self._of_each(self._sums, self._rows, scale_mode=ScaleMode.SCALAR, scale=bits(self._model.route_scale))
        self._emit.vector(self._weights, [(chosen, words), (self._rows, chosen * words)], self._weights,
                          (words, chosen * words),
                          b=(OperandUse.MULTIPLY, SecondSource.ROW, self._sums, (0, words)))
