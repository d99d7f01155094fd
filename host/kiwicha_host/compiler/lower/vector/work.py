"""What VECTOR does to tiles of operands that are in the scratchpad, wherever they come from."""

from collections.abc import Hashable
from typing import Protocol

import numpy as np

from kiwicha.isa import OperandUse, ScaleMode, Source, Unit

from ...program.loops import nests
from ..emitter import Emitter, result_fields
from .plan import Box, VectorPlan
from .tiles import Tile

__all__ = ["Room", "Work", "bits", "scaled"]


class Room(Protocol):
    """Where tiles are in the scratchpad, by their numbers; those that are `slots` apart are at the same place."""
    slots: int

    def input(self, number: int) -> tuple[int, list[Hashable]]:
        """First line of a tile's operand A, and the buffers that must be there: with the layer's constants."""

    def second(self, number: int) -> tuple[int, list[Hashable]]:
        """The same of operand B, if that is not A."""

    def output(self, number: int) -> tuple[int, Hashable]:
        """First line and buffer of a tile's results."""

    def row_lines(self, number: int) -> int:
        """First line of what a tile has besides."""


class Work:
    """The instructions of tiles, the first of which computes first.

    `constants` is the first line of tables, and of what else the layer's constants are.
    """

    def __init__(self, emitter: Emitter, plan: VectorPlan, box: Box, layer: int, room: Room, constants: int):
        self.emitter, self.plan, self.layer = emitter, plan, layer
        self.room, self.constants = room, constants
        self._box = box
        self._tables_loaded = False

    def tables(self) -> dict[str, int]:
        """Fields of a VECTOR that say which tables are loaded: all that there are, by the first one."""
        loaded, self._tables_loaded = self._tables_loaded, True
        a, b = (int(table is not None and table.size > 0)
                for table in (self.plan.layer.a_table, self.plan.layer.b_table))
        return {} if loaded or not (a or b) else {"load_a": a, "load_b": b, "table_line": self.constants}

    def compute(self, tile: Tile, number: int) -> None:
        """A VECTOR for each rectangle of results whose windows are alike, or several."""
        box, out = self._box, tile.out
        a_blocks, _, blocks = (tile.blocks[1] * lines for lines in box.lines)
        (a_line, keys), (out_line, out_key) = self.room.input(number), self.room.output(number)
        b_line = a_line
        if box.second is not None:
            b_line, b_keys = self.room.second(number)
            keys = [*keys, *b_keys]
        for y in box.windows(0, out.y, out.h):
            for x in box.windows(1, out.x, out.w):
                a_first = ((y.start - tile.needed.y) * tile.needed.w + x.start - tile.needed.x) * a_blocks
                first = ((y.first - out.y) * out.w + x.first - out.x) * blocks
                for nest in nests(tile.dims(box, y, x), 2, any_order=True):
                    a, result, b = nest.offsets
                    self.emitter.add(
                        Unit.VECTOR, reads=keys, writes=[out_key],
                        a_line=a_line + a_first + a, out_line=out_line + first + result, b_line=b_line + b,
                        count0=x.taps, a_stride0=x.tap_step * a_blocks,
                        count1=y.taps, a_stride1=y.tap_step * tile.needed.w * a_blocks,
                        **nest.counts((2, 3)), **nest.fields("a_stride", 0, (2, 3)),
                        **nest.fields("out_stride", 1, (2, 3)), **nest.fields("b_stride", 2, (2, 3)),
                        **self._function(y.taps * x.taps), **self.tables())

    def _function(self, places: int) -> dict[str, int]:
        """What of a VECTOR says what is computed of windows with so many places."""
        layer, factor = self.plan.layer, self.plan.factor(places)
        fields = {"a_source": Source.TABLE, "b_use": layer.b_use, "reduce": layer.reduce, **result_fields(layer)}
        return fields if factor == 1 or layer.b_use == OperandUse.MULTIPLY else fields | scaled(factor)


def scaled(factor: np.floating) -> dict[str, int]:
    """What of a VECTOR says that results are multiplied by `factor`."""
    return {"scale_mode": ScaleMode.SCALAR, "scale": bits(factor)}


def bits(number: np.floating) -> int:
    """An FP32 number as an instruction's field has it."""
    return int(np.float32(number).view(np.uint32))
