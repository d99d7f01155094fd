"""Root mean square normalization along the channels of each place, tile by tile."""

from functools import cached_property
from typing import cast

import numpy as np

from kiwicha.isa import TABLE_WORDS, OperandUse, OutFormat, Reduce, ResultFunction, ScaleMode, Source, Unit

from ...ir.row_layers import RmsNormLayer
from ..emitter import result_fields
from .plan import VectorPlan
from .rows import RowTile, column_words
from .tiles import Tile
from .work import Work, bits

__all__ = ["RmsNormPlan", "RmsNormWork"]

#: Results of rows: the sum of squares, then their mean, and 1 / its root.
_SQUARES, _INVERSE = range(2)
_NUMBERS = -1


class RmsNormPlan(VectorPlan):
    """Its constants are two tables A, of squares and of numbers; epsilon; the gain of each block of channels."""

    @cached_property
    def _packed(self) -> np.ndarray:
        layer = cast(RmsNormLayer, self.layer)
        squares = layer.a_table.view(np.float32).astype(np.int32) ** 2
        gain = np.pad(layer.gain, (0, -layer.channels % self.config.columns)).reshape(-1, self.config.columns)
        parts = [squares, layer.a_table, *(column_words(self.config, item) for item in (
            np.full(self.config.columns, layer.epsilon, np.float32), *gain))]
        packed = np.concatenate([part.view(np.uint8).reshape(-1) for part in parts])
        return packed.reshape(-1, self.config.line_bytes)

    @property
    def weight_bytes(self) -> int:
        return self._packed.nbytes

    def packed(self) -> np.ndarray:
        return self._packed


class RmsNormWork(Work):
    """Three passes over a tile: sums of squares, which are exact, and 1 / the root of their mean; codes times
    that, in FP32; gain, block by block of channels.
    """

    def compute(self, tile: Tile, number: int) -> None:
        row, layer = RowTile(self, tile, number, 2), cast(RmsNormLayer, self.plan.layer)
        table = 4 * TABLE_WORDS // self.plan.config.line_bytes
        epsilon = self.constants + 2 * table
        row.reduce(_SQUARES, a_source=Source.TABLE, reduce=Reduce.SUM, load_a=1, table_line=self.constants)
        row.each(_SQUARES, _SQUARES, scale_mode=ScaleMode.SCALAR, scale=bits(np.float32(1 / layer.channels)))
        row.each(_INVERSE, _SQUARES, float=1, bias=1, param_line=epsilon, function=ResultFunction.RSQRT)
        self.emitter.add(
            Unit.VECTOR, reads=[*row.in_keys, row.key(_INVERSE)], writes=[row.key(_NUMBERS)],
            a_source=Source.TABLE, float=1, load_a=1, table_line=self.constants + table,
            b_use=OperandUse.MULTIPLY, **row.second(_INVERSE), out_format=OutFormat.FP32, count0=1, count1=1,
            count2=row.blocks, count3=row.places, a_line=row.line, a_stride2=1, a_stride3=row.blocks,
            out_line=row.behind, out_stride2=row.words, out_stride3=row.blocks * row.words, out_step=1)
        for block in range(row.blocks):
            self.emitter.add(
                Unit.VECTOR, reads=[*row.in_keys, row.key(_NUMBERS)], writes=[row.out_key],
                a_source=Source.WORDS, float=1, **result_fields(layer), count0=1, count1=1, count2=row.places,
                count3=1, a_line=row.behind + block * row.words, a_stride2=row.blocks * row.words,
                scale_mode=ScaleMode.COLUMN, param_line=epsilon + (1 + block) * row.words,
                out_line=row.out_line + block, out_stride2=row.blocks)
