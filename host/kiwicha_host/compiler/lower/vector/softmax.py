"""Softmax along the channels of each place, tile by tile."""

from kiwicha.isa import OperandUse, Reduce, ResultFunction, ScaleMode, Source, Unit

from ..emitter import result_fields
from .rows import RowTile
from .tiles import Tile
from .work import Work, bits

__all__ = ["SoftmaxWork"]

#: Results of rows: the largest code, and 1 / the sum of the exponentials.
_LARGEST, _INVERSE = range(2)


class SoftmaxWork(Work):
    """Three passes over a tile: the largest code of each place; the sum of the exponentials that the table has for
    the distances from it, and 1 / (sum * scale); the exponentials times that.
    """

    def compute(self, tile: Tile, number: int) -> None:
        row, layer = RowTile(self, tile, number, 2), self.plan.layer
        less = {"a_source": Source.TABLE, "b_use": OperandUse.INDEX}
        row.reduce(_LARGEST, **self.tables())
        row.reduce(_INVERSE, _LARGEST, **less, reduce=Reduce.SUM)
        row.each(_INVERSE, _INVERSE, scale_mode=ScaleMode.SCALAR, scale=bits(layer.factor[-1]),
                 function=ResultFunction.RECIPROCAL)
        for place in range(row.places):
            line = place * row.blocks
            self.emitter.add(
                Unit.VECTOR, reads=[*row.in_keys, row.key(_LARGEST), row.key(_INVERSE)], writes=[row.out_key],
                **less, **row.second(_LARGEST, place), **result_fields(layer), count0=1, count1=1,
                count2=row.blocks, count3=1, a_line=row.line + line, a_stride2=1, out_line=row.out_line + line,
                out_stride2=1, scale_mode=ScaleMode.COLUMN, param_line=row.result(_INVERSE, place))
