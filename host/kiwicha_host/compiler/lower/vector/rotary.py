"""Rotary positions, tile by tile."""

from functools import cached_property
from typing import cast

import numpy as np

from kiwicha.isa import TABLE_WORDS, OperandUse, OutFormat, SecondSource, Source, Unit
from kiwicha.timing import word_lines

from ...ir.row_layers import RotaryLayer
from ...program.memory_map import ceil_div
from ..emitter import result_fields
from .plan import VectorPlan
from .rows import RowTile
from .tiles import Tile
from .work import Work

__all__ = ["RotaryPlan", "RotaryWork"]

#: What a tile has besides its codes: numbers for A and for B, and then the products.
_FIRST, _SECOND = range(2)


class RotaryPlan(VectorPlan):
    """Behind table A are, for each place, the numbers for A and then those for B, block by block of channels."""

    @cached_property
    def _packed(self) -> np.ndarray:
        layer, columns = cast(RotaryLayer, self.layer), self.config.columns
        blocks, places = ceil_div(layer.channels, columns), len(layer.cos)
        words = np.zeros((places, 2, blocks, word_lines(self.config) * self.config.line_bytes // 4), np.float32)
        for number, factors in enumerate((layer.cos, layer.sin)):
            whole = np.pad(factors, ((0, 0), (0, blocks * columns - layer.channels)))
            words[:, number, :, :columns] = whole.reshape(places, blocks, columns)
        return np.concatenate([super().packed(), words.view(np.uint8).reshape(-1, self.config.line_bytes)])

    @property
    def weight_bytes(self) -> int:
        return self._packed.nbytes

    @property
    def resident_lines(self) -> int:
        return 4 * TABLE_WORDS // self.config.line_bytes

    def packed(self) -> np.ndarray:
        return self._packed


class RotaryWork(Work):
    """Three passes over a tile: codes of A times their numbers, of B times theirs, both in FP32 and to where these
    numbers were; the sums.
    """

    def compute(self, tile: Tile, number: int) -> None:
        row = RowTile(self, tile, number, 0)
        half = row.blocks * row.words
        each = {"float": 1, "count0": 1, "count1": 1, "count2": row.blocks, "count3": row.places,
                "b_source": SecondSource.WORDS, "b_stride2": row.words, "b_stride3": 2 * half}
        second, second_keys = self.room.second(number)
        for index, line, keys in ((_FIRST, row.line, row.in_keys), (_SECOND, second, second_keys)):
            self.emitter.add(
                Unit.VECTOR, reads=[*row.in_keys, *keys, row.key(index)], writes=[row.key(index)], **each,
                **self.tables(), a_source=Source.TABLE, a_line=line, a_stride2=1, a_stride3=row.blocks,
                b_use=OperandUse.MULTIPLY, b_line=row.behind + index * half, out_format=OutFormat.FP32,
                out_line=row.behind + index * half, out_stride2=row.words, out_stride3=2 * half, out_step=1)
        self.emitter.add(
            Unit.VECTOR, reads=[row.key(_FIRST), row.key(_SECOND)], writes=[row.out_key], **each,
            a_source=Source.WORDS, a_line=row.behind, a_stride2=row.words, a_stride3=2 * half,
            b_use=OperandUse.ADD, b_line=row.behind + half, **result_fields(self.plan.layer),
            out_line=row.out_line, out_stride2=1, out_stride3=row.blocks)
