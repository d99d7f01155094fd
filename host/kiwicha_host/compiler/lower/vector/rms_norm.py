"""Root mean square normalization along the channels of each place, tile by tile."""

from typing import cast

import numpy as np

from kiwicha.isa import TABLE_WORDS, OperandUse, Reduce, ResultFunction, ScaleMode, Source, Unit

from ...ir.row_layers import RmsNormLayer
from ..emitter import result_fields
from .norms import NormPlan
from .rows import RowTile, column_words
from .tiles import Tile
from .work import Work, bits

__all__ = ["RmsNormPlan", "RmsNormWork"]

#: Results of rows: the sum of squares, then their mean, and 1 / its root.
_SQUARES, _INVERSE = range(2)


class RmsNormPlan(NormPlan):
    """Its constants are two tables A, of squares and of numbers; epsilon; the gain of each block of channels."""

    def parts(self) -> list[np.ndarray]:
        layer = cast(RmsNormLayer, self.layer)
        squares = layer.a_table.view(np.float32).astype(np.int32) ** 2
        gain = np.pad(layer.gain, (0, -layer.channels % self.config.columns)).reshape(-1, self.config.columns)
        return [squares, layer.a_table, *(column_words(self.config, item) for item in (
            np.full(self.config.columns, layer.epsilon, np.float32), *gain))]


class RmsNormWork(Work):
    """Two passes over a tile: sums of squares, which are exact, and 1 / the root of their mean; codes times that,
    then times the gain, block by block of channels.
    """

    def compute(self, tile: Tile, number: int) -> None:
        row, layer = RowTile(self, tile, number, 2), cast(RmsNormLayer, self.plan.layer)
        table = 4 * TABLE_WORDS // self.plan.config.line_bytes
        epsilon = self.constants + 2 * table
        row.reduce(_SQUARES, a_source=Source.TABLE, reduce=Reduce.SUM, load_a=1, table_line=self.constants)
        row.each(_SQUARES, _SQUARES, scale_mode=ScaleMode.SCALAR, scale=bits(np.float32(1 / layer.channels)))
        row.each(_INVERSE, _SQUARES, float=1, bias=1, param_line=epsilon, function=ResultFunction.RSQRT)
        numbers = {"load_a": 1, "table_line": self.constants + table}
        for block in range(row.blocks):
            self.emitter.add(
                Unit.VECTOR, reads=[*row.in_keys, row.key(_INVERSE)], writes=[row.out_key], a_source=Source.TABLE,
                float=1, b_use=OperandUse.MULTIPLY, **row.second(_INVERSE), **result_fields(layer), count0=1,
                count1=1, count2=1, count3=row.places, a_line=row.line + block, a_stride3=row.blocks,
                scale_mode=ScaleMode.COLUMN, param_line=epsilon + (1 + block) * row.words,
                out_line=row.out_line + block, out_stride3=row.blocks, **numbers)
            numbers = {}
