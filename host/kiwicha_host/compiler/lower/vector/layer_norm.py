"""Layer normalization along the channels of each place, tile by tile."""

from typing import cast

import numpy as np

from kiwicha.isa import TABLE_WORDS, OperandUse, OutFormat, Reduce, ResultFunction, ScaleMode, Source, Unit

from ...ir.row_layers import LayerNormLayer
from ...program.memory_map import ceil_div
from ..emitter import result_fields
from .norms import NormPlan
from .rows import RowTile, column_words
from .tiles import Tile
from .work import Work, bits

__all__ = ["LayerNormPlan", "LayerNormWork"]

#: Results of rows: the largest code; of all codes less that, the mean's square; less the mean, and behind it 1 /
#: the deviation: bias and scale of numbers in units of the deviation.
_LARGEST, _SQUARE, _MEAN, _INVERSE = range(4)
#: The buffer of numbers in units of the deviation: words for all channels of each place.
_NUMBERS = -1
_INFINITY = np.float32(np.inf)


class LayerNormPlan(NormPlan):
    """Its constants are two tables A, of squares and of numbers; epsilon's share of the sum of squares; shift and
    gain of each block of channels.
    """

    def parts(self) -> list[np.ndarray]:
        layer, columns = cast(LayerNormLayer, self.layer), self.config.columns
        numbers = layer.a_table.view(np.float32)
        epsilon = round(layer.epsilon * layer.channels * layer.square_unit)
        parts = [np.round(numbers.astype(np.float64) ** 2 * layer.square_unit).astype(np.int32), numbers,
                 column_words(self.config, np.full(columns, epsilon, np.int32))]
        blocks = ceil_div(layer.channels, columns)
        shift, gain = (np.pad(item, (0, blocks * columns - layer.channels)).reshape(blocks, columns)
                       for item in (layer.shift, layer.gain))
        return parts + [column_words(self.config, item) for pair in zip(shift, gain, strict=True) for item in pair]


class LayerNormWork(Work):
    """Five passes over a tile: the largest code of each place, which goes off all codes; sums; sums of squares,
    and 1 / deviation; codes less the mean, times that, in FP32; shift and gain, block by block of channels.
    """

    def compute(self, tile: Tile, number: int) -> None:
        row, layer = RowTile(self, tile, number, 4), cast(LayerNormLayer, self.plan.layer)
        table = 4 * TABLE_WORDS // self.plan.config.line_bytes
        less = {"a_source": Source.TABLE, "b_use": OperandUse.INDEX}
        epsilon, numbers = self.constants + 2 * table, {"load_a": 1, "table_line": self.constants + table}
        self._deviations(row, layer, epsilon, less)
        for place in range(row.places):
            self.emitter.add(
                Unit.VECTOR, reads=[*row.in_keys, *map(row.key, (_LARGEST, _MEAN, _INVERSE))],
                writes=[row.key(_NUMBERS)], **less, **row.second(_LARGEST, place), float=1,
                out_format=OutFormat.FP32, count0=1, count1=1, count2=row.blocks, count3=1,
                a_line=row.line + place * row.blocks, a_stride2=1, bias=1, scale_mode=ScaleMode.COLUMN,
                param_line=row.result(_MEAN, place), out_line=row.behind + place * row.blocks * row.words,
                out_stride2=row.words, out_step=1, **numbers)
            numbers = {}
        self._leave(row, epsilon + row.words)

    def _leave(self, row: RowTile, factors: int) -> None:
        """Numbers to results. From line `factors` on each block has words to add, then those to multiply with."""
        for block in range(row.blocks):
            self.emitter.add(
                Unit.VECTOR, reads=[*row.in_keys, row.key(_NUMBERS)], writes=[row.out_key], a_source=Source.WORDS,
                float=1, **result_fields(self.plan.layer), count0=1, count1=1, count2=row.places, count3=1,
                a_line=row.behind + block * row.words, a_stride2=row.blocks * row.words, bias=1,
                scale_mode=ScaleMode.COLUMN, param_line=factors + 2 * block * row.words,
                out_line=row.out_line + block, out_stride2=row.blocks)

    def _deviations(self, row: RowTile, layer: LayerNormLayer, epsilon: int, less: dict[str, int]) -> None:
        """Less the mean, and 1 / deviation, of each place. Up to the first division, all numbers are exact."""
        count = layer.channels

        def times(factor: float) -> dict[str, int]:
            return {"scale_mode": ScaleMode.SCALAR, "scale": bits(np.float32(factor))}

        row.reduce(_LARGEST)
        row.reduce(_MEAN, reduce=Reduce.SUM)
        row.reduce(_INVERSE, _LARGEST, **less, reduce=Reduce.SUM, load_a=1, table_line=self.constants)
        row.each(_MEAN, _MEAN)
        row.each(_SQUARE, _LARGEST, **times(-count))
        row.each(_MEAN, _MEAN, _SQUARE, float=1, b_use=OperandUse.ADD, **times(-1 / count))
        row.each(_SQUARE, _MEAN, _MEAN, float=1, b_use=OperandUse.MULTIPLY)
        row.each(_INVERSE, _INVERSE, bias=1, param_line=epsilon, **times(-1 / (count * layer.square_unit)))
        # Less than the least variance that codes can have, rounding may have made of none.
        least = max(np.float32(layer.epsilon), np.float32(0.25 / count))
        row.each(_INVERSE, _INVERSE, _SQUARE, float=1, b_use=OperandUse.ADD, **times(-1), clamp=1,
                 clamp_low=bits(least), clamp_high=bits(_INFINITY), function=ResultFunction.RSQRT)
