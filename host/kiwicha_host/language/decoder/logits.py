"""The end of a step: logits of each run's last token, and of each the token that has the largest.

A chip with `top_k` and `indices` finds that: the largest of each group of columns and its place; of these the
largest; and the token is the sum of its place and its group's first column.
"""

from kiwicha import ChipConfig

from ...compiler.program.memory_map import ceil_div
from .base_memory import BaseMemory
from .emitter import Indexed
from .layers import Codes, Layers
from .lines import Lines
from .packed import PackedMatrix

__all__ = ["Logits", "finds_tokens"]


def finds_tokens(config: ChipConfig) -> bool:
    """Whether a chip of `config` does."""
    return config.top_k and config.indices


class Logits:
    """Emits it for normalized rows, `codes`, one of each of `runs`.

    Parameters
    ----------
    vocabulary : as many columns of `head` count
    work, work_lines : lines for words of the logits
    """

    def __init__(self, lines: Lines, layers: Layers, memory: BaseMemory, head: PackedMatrix, codes: Codes,
                 vocabulary: int, runs: int, work: int, work_lines: int):
        self._layers, self._emit, self._memory = layers, layers.emit, memory
        self._head, self._codes, self._vocabulary, self._runs = head, codes, vocabulary, runs
        self._columns, self._words = layers.columns, layers.words
        self._work, self._half = work, work_lines // 2
        #: Blocks of columns that leave the accumulators together.
        self._group = min(self._half // (self._words * runs), layers.most_accumulators // runs)
        #: Groups that have a token.
        self._groups = ceil_div(vocabulary, self._group * self._columns)
        self._has_top = finds_tokens(layers.config)
        if self._has_top:
            self._largest = [lines.take(2 * runs * self._words) for _ in range(2)]
            self._row = ceil_div(self._groups, self._columns) * self._words
            self._packed = lines.take(runs * self._row)
            self._parts = [lines.take(runs * self._words) for _ in range(2)]

    def script(self) -> None:
        layers = self._layers
        layers.product(self._head, self._runs, self._codes, self._group, self._leave)
        if self._has_top:
            layers.script.do(self._choose)

    def _leave(self, first: int, count: int, acc: int) -> None:
        number, words, logits = first // self._group, self._words, self._memory.logits
        line = self._work + number % 2 * self._half
        self._layers.copy(acc, count, self._runs, line, count * words)
        self._emit.store(logits.address(0) + 4 * first * self._columns, 4 * count * self._columns, line,
                         segment=self._layers.segment, rows=self._runs, row_stride=logits.row_bytes,
                         row_lines=count * words, writes=["logits"])
        if self._has_top and number < self._groups:
            self._find(number, line, count * words)

    def _find(self, number: int, line: int, row: int) -> None:
        """The largest logit of a group, and its place: words in memory."""
        left, memory, words = self._vocabulary - number * self._group * self._columns, self._memory, self._words
        size = min(left, row // words * self._columns)
        largest = self._largest[number % 2]
        self._top(line, size, row, largest)
        for place, table in enumerate((memory.largest, memory.places)):
            self._emit.store(table.address(0) + 4 * number, 4, largest + place * words, segment=4, rows=self._runs,
                             row_stride=table.row_bytes, row_lines=2 * words, writes=["largest"])

    def _top(self, line: int, size: int, row: int, out: int) -> None:
        """Of each run `size` words, `row` lines apart: the largest, and its place."""
        words = self._words
        self._emit.vector(line, [(ceil_div(size, self._columns), words), (self._runs, row)], out,
                          (words, 2 * words), row=True, top=1, tail=size % self._columns)

    def _choose(self) -> None:
        """The tokens, words in memory."""
        emit, memory, words, largest = self._emit, self._memory, self._words, self._largest[0]
        emit.load(memory.largest.address(0), 4 * self._groups, self._packed, segment=self._layers.segment,
                  rows=self._runs, row_stride=memory.largest.row_bytes, row_lines=self._row, reads=["largest"])
        self._top(self._packed, self._groups, self._row, largest)
        places, firsts = self._parts
        for run in range(self._runs):
            group = largest + (2 * run + 1) * words
            for base, stride, line in ((memory.places.address(run), 4, places),
                                       (memory.firsts.address(0), 4 * self._group, firsts)):
                emit.load(Indexed(base, stride, 0, self._groups, group), 4, line + run * words, segment=4,
                          reads=["largest"])
        emit.add_integers(places, firsts, places, self._runs)
        emit.store(memory.tokens.address(0), 4, places, segment=4, rows=self._runs, row_stride=4, row_lines=words,
                   writes=["tokens"])
