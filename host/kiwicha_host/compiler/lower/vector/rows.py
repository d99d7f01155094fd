"""What layers that reduce rows, the channels of each place, have in common."""

from collections.abc import Hashable

from kiwicha import ChipConfig
from kiwicha.isa import OutFormat, Source, Unit
from kiwicha.timing import word_lines

from ...errors import CompileError
from .plan import VectorPlan
from .streamed import StreamedVector, Work
from .tiles import Tile

__all__ = ["RowTile", "StreamedRows"]


class StreamedRows(StreamedVector):
    """As :class:`.StreamedVector`, on a chip with functions."""

    def __init__(self, config: ChipConfig, first: int, plan: VectorPlan, memory_latency: int):
        if not config.functions:
            raise CompileError(f"layer {plan.layer.name!r} needs a chip with functions; configuration "
                               f"{config.name!r} has none")
        super().__init__(config, first, plan, memory_latency)


class RowTile:
    """A tile of places with all their channels, and lines of words besides, after those of all tiles.

    `words` lines are a row's result; `results(n)` are the first of `places` such, and `key` is their buffer.
    """

    def __init__(self, work: Work, tile: Tile, number: int):
        config = work.plan.config
        self.blocks, self.places, self.words = tile.blocks[1], tile.images[1] * tile.out.size, word_lines(config)
        (self.line, self.in_key), (self.out_line, self.out_key) = work.input(number), work.output(number)
        self._first = work.row_lines(number)
        self._key = ("rows", work.layer, number % work.slots)
        self._tail = work.plan.layer.channels % config.columns
        self._add = work.emitter.add

    def results(self, index: int) -> int:
        """First line of the results `index`, a line of words for each place; or of what comes behind."""
        return self._first + index * self.places * self.words

    def key(self, index: int) -> Hashable:
        return (*self._key, index)

    def reduce(self, index: int, **fields: int) -> None:
        """Results `index`, INT32, of all codes of each place."""
        self._add(Unit.VECTOR, reads=[self.in_key, *self._read(fields)], writes=[self.key(index)], **{
            "a_source": Source.BYTES, "row": 1, "count0": 1, "count1": 1, "count2": self.blocks,
            "count3": self.places, "a_line": self.line, "a_stride2": 1, "a_stride3": self.blocks,
            "out_line": self.results(index), "out_stride3": self.words, "out_step": 1, "tail": self._tail,
            "out_format": OutFormat.INT32} | fields)

    def each(self, index: int, of: int, **fields: int) -> None:
        """Results `index`, FP32, of each of the results `of`."""
        reads = [self.in_key, self.key(of), *self._read(fields)]
        self._add(Unit.VECTOR, reads=reads, writes=[self.key(index)], **{
            "a_source": Source.WORDS, "row": 1, "count0": 1, "count1": 1, "count2": 1, "count3": self.places,
            "a_line": self.results(of), "a_stride3": self.words, "out_line": self.results(index),
            "out_stride3": self.words, "out_step": 1, "tail": 1, "out_format": OutFormat.FP32} | fields)

    def _read(self, fields: dict[str, int]) -> list[Hashable]:
        """The results that operand B is of."""
        line = fields.get("b_line", -1)
        return [self.key(index) for index in range(3) if line == self.results(index)]
