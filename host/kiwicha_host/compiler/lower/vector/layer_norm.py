"""Layer normalization along the channels of each place, tile by tile."""

from functools import cached_property
from typing import cast

import numpy as np

from kiwicha.isa import OperandUse, OutFormat, Reduce, ResultFunction, ScaleMode, SecondSource, Source, Unit
from kiwicha.timing import word_lines

from ...ir.layers import LayerNormLayer
from ...program.memory_map import ceil_div
from ..emitter import result_fields
from .plan import VectorPlan
from .rows import RowTile, StreamedRows
from .streamed import Work, bits
from .tiles import Tile

__all__ = ["LayerNormPlan", "StreamedLayerNorm"]

#: Results of rows: less the mean; its square; less the mean square, then 1 / the deviation. Behind them come
#: numbers in units of the deviation.
_MEAN, _SQUARE, _INVERSE, _NUMBERS = range(4)
_INFINITY = np.float32(np.inf)


class LayerNormPlan(VectorPlan):
    """Its constants are tables, biases of rows' sums and of those of squares, and each block's shift and gain."""

    @property
    def _layer(self) -> LayerNormLayer:
        return cast(LayerNormLayer, self.layer)

    @cached_property
    def _packed(self) -> np.ndarray:
        layer, columns = self._layer, self.config.columns
        codes = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)
        # What a code lacks to be its square; the zero point goes off the sum, once.
        unit = layer.square_unit
        squares = ((codes - layer.x_zero) ** 2 * unit - codes).astype(np.int32)
        parts = [layer.a_table, squares]
        parts += [self._words(np.full(columns, value, np.int32)) for value in (
            -layer.channels * layer.x_zero, round(layer.epsilon * layer.channels * unit))]
        blocks = ceil_div(layer.channels, columns)
        shift, gain = (np.pad(item, (0, blocks * columns - layer.channels)).reshape(blocks, columns)
                       for item in (layer.shift, layer.gain))
        parts += [self._words(item) for pair in zip(shift, gain, strict=True) for item in pair]
        packed = np.concatenate([part.view(np.uint8).reshape(-1) for part in parts])
        return packed.reshape(-1, self.config.line_bytes)

    def _words(self, words: np.ndarray) -> np.ndarray:
        """A word for each column, as lines."""
        return np.pad(words, (0, word_lines(self.config) * self.config.line_bytes // 4 - len(words)))

    @property
    def weight_bytes(self) -> int:
        return self._packed.nbytes

    @property
    def constant_bytes(self) -> int:
        return self._packed.nbytes

    def packed(self) -> np.ndarray:
        return self._packed


class StreamedLayerNorm(StreamedRows):
    """Four passes over a tile: the sum of each place; that of squares, and 1 / deviation; codes less the mean,
    times that, in FP32; and shift and gain, a block of channels after the other.
    """

    @property
    def _work(self) -> type[Work]:
        return _LayerNormWork


class _LayerNormWork(Work):

    def compute(self, tile: Tile, number: int) -> None:
        row, layer = RowTile(self, tile, number), cast(LayerNormLayer, self.plan.layer)
        first = self.constants + 2 * 1024 // self.plan.config.line_bytes
        self._deviations(row, layer, first)
        for place in range(row.places):
            below = place * row.words
            self.emitter.add(
                Unit.VECTOR, reads=[row.in_key, row.key(_MEAN), row.key(_INVERSE)], writes=[row.key(_NUMBERS)],
                a_source=Source.TABLE, float=1, out_format=OutFormat.FP32, count0=1, count1=1, count2=row.blocks,
                count3=1, a_line=row.line + place * row.blocks, a_stride2=1,
                b_use=OperandUse.ADD, b_source=SecondSource.ROW, b_line=row.results(_MEAN) + below,
                scale_mode=ScaleMode.COLUMN, param_line=row.results(_INVERSE) + below,
                out_line=row.results(_NUMBERS) + row.blocks * below, out_stride2=row.words, out_step=1)
        for block in range(row.blocks):
            self.emitter.add(
                Unit.VECTOR, reads=[row.in_key, row.key(_NUMBERS)], writes=[row.out_key],
                a_source=Source.WORDS, float=1, **result_fields(layer), count0=1, count1=1, count2=row.places,
                count3=1, a_line=row.results(_NUMBERS) + block * row.words, a_stride2=row.blocks * row.words,
                bias=1, scale_mode=ScaleMode.COLUMN, param_line=first + (2 + 2 * block) * row.words,
                out_line=row.out_line + block, out_stride2=row.blocks)

    def _deviations(self, row: RowTile, layer: LayerNormLayer, constants: int) -> None:
        """Less the mean, and 1 / deviation, of each place."""
        means, mean_squares = ({"bias": 1, "param_line": constants + index * row.words,
                                "scale_mode": ScaleMode.SCALAR, "scale": bits(np.float32(-1 / count))}
                               for index, count in enumerate((layer.channels, layer.channels * layer.square_unit)))
        row.reduce(_MEAN, reduce=Reduce.SUM, **self.tables())
        row.reduce(_INVERSE, reduce=Reduce.SUM, b_use=OperandUse.ADD, b_line=row.line, b_stride2=1,
                   b_stride3=row.blocks)
        row.each(_MEAN, _MEAN, **means)
        row.each(_SQUARE, _MEAN, float=1, b_use=OperandUse.MULTIPLY, b_source=SecondSource.ROW,
                 b_line=row.results(_MEAN), b_stride3=row.words)
        row.each(_INVERSE, _INVERSE, **mean_squares)
        # Less than the least variance that codes can have, rounding may have made of none.
        least = max(np.float32(layer.epsilon), np.float32(0.25 / layer.channels))
        row.each(_INVERSE, _INVERSE, float=1, b_use=OperandUse.ADD, b_source=SecondSource.ROW,
                 b_line=row.results(_SQUARE), b_stride3=row.words, scale_mode=ScaleMode.SCALAR,
                 scale=bits(np.float32(-1)), clamp=1, clamp_low=bits(least), clamp_high=bits(_INFINITY),
                 function=ResultFunction.RSQRT)
