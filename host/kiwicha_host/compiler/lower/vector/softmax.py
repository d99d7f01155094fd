"""Softmax along the channels of each place, tile by tile."""

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import OperandUse, OutFormat, Reduce, ResultFunction, ScaleMode, SecondSource, Source, Unit
from kiwicha.timing import word_lines

from ...errors import CompileError
from ..emitter import result_fields
from .plan import VectorPlan
from .streamed import StreamedVector, Work
from .tiles import Tile

__all__ = ["StreamedSoftmax"]


class StreamedSoftmax(StreamedVector):
    """As :class:`.StreamedVector`, on a chip with functions.

    Three passes over a tile: the largest code of each place; the sum of the exponentials that the table has for
    the distances from it, and 1 / (sum * scale); the exponentials times that.
    """

    def __init__(self, config: ChipConfig, first: int, plan: VectorPlan, memory_latency: int):
        if not config.functions:
            raise CompileError(f"layer {plan.layer.name!r} needs a chip with functions; configuration "
                               f"{config.name!r} has none")
        super().__init__(config, first, plan, memory_latency)

    @property
    def _work(self) -> type[Work]:
        return _SoftmaxWork


class _SoftmaxWork(Work):

    def compute(self, tile: Tile, number: int) -> None:
        """After all tiles come lines of words for each place: its largest code; 1 / its sum; in all columns."""
        config, layer = self._plan.config, self._plan.layer
        blocks, places = tile.blocks[1], tile.images[1] * tile.out.size
        words, slot = word_lines(config), number % self._slots
        (line, key), (out_line, out_key) = self._input(number), self._output(number)
        largest = self._slots * (self._in + self._out) + slot * self._rows
        inverse = largest + places * words
        tops, sums = (("largest", self._layer, slot), ("inverse", self._layer, slot))
        row = {"count0": 1, "count1": 1, "count2": blocks, "count3": places, "row": 1, "a_line": line,
               "a_stride2": 1, "a_stride3": blocks, "out_stride3": words, "out_step": 1,
               "out_format": OutFormat.INT32, "tail": self._box.channels % config.columns}
        less = {"a_source": Source.TABLE, "b_use": OperandUse.INDEX, "b_source": SecondSource.ROW,
                "b_line": largest}
        scale = int(np.float32(layer.factor[-1]).view(np.uint32))
        add = self._emitter.add
        add(Unit.VECTOR, reads=[key], writes=[tops], **row | {"a_source": Source.BYTES, "out_line": largest},
            **self._tables_to_load)
        self._tables_to_load = {}
        add(Unit.VECTOR, reads=[key, tops], writes=[sums], **row | less | {
            "reduce": Reduce.SUM, "b_stride3": words, "out_line": inverse})
        add(Unit.VECTOR, reads=[sums], writes=[sums], **row | {
            "a_source": Source.WORDS, "a_line": inverse, "a_stride3": words, "count2": 1, "tail": 1,
            "out_format": OutFormat.FP32, "out_line": inverse, "scale_mode": ScaleMode.SCALAR, "scale": scale,
            "function": ResultFunction.RECIPROCAL})
        for place in range(places):
            add(Unit.VECTOR, reads=[key, tops, sums], writes=[out_key], **less | result_fields(layer) | {
                "count0": 1, "count1": 1, "count2": blocks, "count3": 1, "a_line": line + place * blocks,
                "a_stride2": 1, "b_line": largest + place * words, "out_line": out_line + place * blocks,
                "out_stride2": 1, "scale_mode": ScaleMode.COLUMN, "param_line": inverse + place * words})
