"""The largest along the channels of each place, tile by tile."""

from typing import cast

from kiwicha.isa import OutFormat, ScaleMode

from ...ir.row_layers import TopLayer
from .rows import RowTile
from .tiles import Tile
from .work import Work, bits

__all__ = ["TopWork"]


class TopWork(Work):
    """One pass over a tile: the largest numbers of each place, and then their channels, are results of rows."""

    def compute(self, tile: Tile, number: int) -> None:
        layer = cast(TopLayer, self.plan.layer)
        row = RowTile(self, tile, number, 2 * layer.count)
        row.reduce(0, top=layer.count, out_format=OutFormat.FP32, out_stride2=row.words,
                   scale_mode=ScaleMode.SCALAR, scale=bits(layer.factor[-1]))
