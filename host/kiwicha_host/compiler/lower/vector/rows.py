"""What layers that reduce rows, the channels of each place, have in common."""

from collections.abc import Hashable

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import OutFormat, SecondSource, Source, Unit
from kiwicha.timing import word_lines

from .tiles import Tile
from .work import Room, Work

__all__ = ["RowTile", "column_words", "row_key"]


class RowTile:
    """A tile of places with all their channels, and lines of words besides, after those of all tiles.

    `words` lines are a row's result, of which each place has `results`, number by number. What comes behind these
    begins with line `behind`.
    """

    def __init__(self, work: Work, tile: Tile, number: int, results: int):
        config = work.plan.config
        self.blocks, self.places, self.words = tile.blocks[1], tile.images[1] * tile.out.size, word_lines(config)
        room = work.room
        (self.line, self.in_keys), (self.out_line, self.out_key) = room.input(number), room.output(number)
        #: Lines from a place's results to the next one's.
        self.apart = results * self.words
        self._first = room.row_lines(number)
        self.behind = self._first + self.places * self.apart
        self._room, self._layer, self._number = room, work.layer, number
        self._tail = work.plan.layer.channels % config.columns
        self._add = work.emitter.add

    def result(self, index: int, place: int = 0) -> int:
        """The first line of a place's result number `index`."""
        return self._first + place * self.apart + index * self.words

    def key(self, index: int) -> Hashable:
        """The buffer that has result number `index` of all places; or of what comes behind, -1."""
        return row_key(self._room, self._layer, self._number, index)

    def second(self, index: int, place: int = 0) -> dict[str, int]:
        """Fields that make a place's result, and from there on those of all, operand B."""
        return {"b_source": SecondSource.ROW, "b_line": self.result(index, place), "b_stride3": self.apart}

    def reduce(self, index: int, by: int | None = None, **fields: int) -> None:
        """Result `index`, INT32, of all codes of each place; `by` is that which is operand B."""
        self._row(index, self.in_keys, by, {
            "a_source": Source.BYTES, "count2": self.blocks, "a_line": self.line, "a_stride2": 1,
            "a_stride3": self.blocks, "tail": self._tail, "out_format": OutFormat.INT32} | fields)

    def each(self, index: int, of: int, by: int | None = None, **fields: int) -> None:
        """Result `index`, FP32, of result `of` of each place."""
        # Constants come with the first tile's operands.
        self._row(index, [*self.in_keys, self.key(of)], by, {
            "a_source": Source.WORDS, "count2": 1, "a_line": self.result(of), "a_stride3": self.apart, "tail": 1,
            "out_format": OutFormat.FP32} | fields)

    def _row(self, index: int, reads: list[Hashable], by: int | None, fields: dict[str, int]) -> None:
        if by is not None:
            reads, fields = [*reads, self.key(by)], self.second(by) | fields
        self._add(Unit.VECTOR, reads=reads, writes=[self.key(index)], **{
            "row": 1, "count0": 1, "count1": 1, "count3": self.places, "out_line": self.result(index),
            "out_stride3": self.apart, "out_step": 1} | fields)


def row_key(room: Room, layer: int, number: int, index: int) -> Hashable:
    """The buffer that has result number `index` of all places of a layer's tile."""
    return "rows", layer, number % room.slots, index


def column_words(config: ChipConfig, words: np.ndarray) -> np.ndarray:
    """A word for each column, as lines."""
    return np.pad(words, (0, word_lines(config) * config.line_bytes // 4 - len(words)))
