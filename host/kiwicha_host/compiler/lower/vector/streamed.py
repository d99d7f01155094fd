"""A layer of the vector unit whose operands come from memory, tile by tile, and whose results go there."""

from collections.abc import Hashable, Sequence

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import OperandUse, ScaleMode, Source, Unit

from ...program.loops import nests
from ..emitter import Addresses, Emitter, TooLarge, load_lines, result_fields, transfer
from ..geometry import Rect, Strides
from . import tiles
from .plan import Box, VectorPlan
from .tiles import Tile, Tiling

__all__ = ["StreamedVector", "Work", "bits"]


class StreamedVector:
    """One layer of the vector unit: LOAD brings the next tiles while VECTOR and STORE work on others.

    Raises
    ------
    CompileError
        Not even one result's operands fit.
    """

    def __init__(self, config: ChipConfig, first: int, plan: VectorPlan, memory_latency: int):
        self.config, self.first, self.plans = config, first, [plan]
        self._memory_latency = memory_latency
        self._room = config.scratchpad_lines - plan.weight_lines
        box = plan.box(1)
        needed = tiles.least(config, box).lines(box) + plan.weight_lines
        if needed > config.scratchpad_lines:
            what = "all channels" if box.row_lines else "one block of channels"
            raise TooLarge(config, plan.layer, needed, config.scratchpad_lines,
                           f"scratchpad lines for {what} of one place of its result")

    @property
    def _work(self) -> type["Work"]:
        """What works on tiles."""
        return Work

    def emit(self, emitter: Emitter, images: int, at: Addresses) -> None:
        """Instructions for `images` images."""
        plan = self.plans[0]
        box = plan.box(images)
        tiling = tiles.choose(self.config, box, self._room, self._memory_latency)
        work = self._work(emitter, plan, box, tiling, self.first, self._room, at)
        emitter.layer = self.first
        work.load_tables()
        parts = list(tiling.tiles(self.config, box))
        for number in range(min(tiling.slots, len(parts))):
            work.load(parts[number], number)
        for number, tile in enumerate(parts):
            work.compute(tile, number)
            work.store(tile, number)
            if number + tiling.slots < len(parts):
                work.load(parts[number + tiling.slots], number + tiling.slots)


class Work:
    """The instructions of tiles, the first of which computes first; tile `number` has one of `slots` in turn.

    `constants` is the first line of tables, and of what else the layer's constants are.
    """

    def __init__(self, emitter: Emitter, plan: VectorPlan, box: Box, tiling: Tiling, layer: int, constants: int,
                 at: Addresses):
        self.emitter, self.plan, self.layer = emitter, plan, layer
        self.slots, self.constants = tiling.slots, constants
        self._box, self._at, self._columns = box, at, plan.config.columns
        self._b_offset, self._in = tiling.a_lines(box), tiling.a_lines(box) + tiling.b_lines(box)
        self._out, self._rows = tiling.out_lines, tiling.row_lines(box)
        self._tables_loaded = False

    def input(self, number: int) -> tuple[int, Hashable]:
        """First line and buffer of a tile's operands."""
        slot = number % self.slots
        return slot * self._in, ("in", self.layer, slot)

    def output(self, number: int) -> tuple[int, Hashable]:
        """First line and buffer of a tile's results."""
        slot = number % self.slots
        return self.slots * self._in + slot * self._out, ("out", self.layer, slot)

    def row_lines(self, number: int) -> int:
        """First line of what a tile has besides."""
        return self.slots * (self._in + self._out) + number % self.slots * self._rows

    def load_tables(self) -> None:
        """To behind all tiles; whoever waits for the first tile waits for them, too."""
        load_lines(self.emitter, self.plan.config, self._at.weights, self.constants, self.plan.weight_lines,
                   self.input(0)[1])

    def tables(self) -> dict[str, int]:
        """Fields of a VECTOR that say which tables are loaded: all that there are, by the first one."""
        loaded, self._tables_loaded = self._tables_loaded, True
        return {} if loaded else {"load_a": 1, "load_b": int(self.plan.layer.b_table is not None),
                                "table_line": self.constants}

    def load(self, tile: Tile, number: int) -> None:
        (line, key), at, box = self.input(number), self._at, self._box
        self._move(Unit.LOAD, tile, at.source, box.source, tile.needed, line, [key])
        if box.second is not None:
            beside = Rect(tile.out.y, tile.out.x, *box.beside(tile.out.h, tile.out.w))
            self._move(Unit.LOAD, tile, at.second, box.second, beside, line + self._b_offset, [key])

    def store(self, tile: Tile, number: int) -> None:
        line, key = self.output(number)
        self._move(Unit.STORE, tile, self._at.target, self._box.target, tile.out, line, [key])

    def _move(self, unit: Unit, tile: Tile, base: int, apart: Strides, rect: Rect, line: int,
              keys: Sequence[Hashable]) -> None:
        """The blocks of channels of a tile's images in `rect`, between memory and the lines from `line` on."""
        (first, images), (block, blocks) = tile.images, tile.blocks
        start = block * self._columns
        end = min(self._box.channels, start + blocks * self._columns)
        address = base + first * apart.image + rect.y * apart.y + rect.x * apart.x + start
        transfer(self.emitter, unit, address, line, keys, end - start, self._columns, [
            (rect.w, (apart.x, blocks)), (rect.h, (apart.y, rect.w * blocks)),
            (images, (apart.image, rect.size * blocks))])

    def compute(self, tile: Tile, number: int) -> None:
        """A VECTOR for each rectangle of results whose windows are alike, or several."""
        box, blocks, out = self._box, tile.blocks[1], tile.out
        (a_line, a_key), (out_line, out_key) = self.input(number), self.output(number)
        b_line = a_line if box.second is None else a_line + self._b_offset
        for y in box.windows(0, out.y, out.h):
            for x in box.windows(1, out.x, out.w):
                a_first = ((y.start - tile.needed.y) * tile.needed.w + x.start - tile.needed.x) * blocks
                first = ((y.first - out.y) * out.w + x.first - out.x) * blocks
                for nest in nests(tile.dims(box, y, x), 2, any_order=True):
                    a, result, b = nest.offsets
                    self.emitter.add(
                        Unit.VECTOR, reads=[a_key], writes=[out_key],
                        a_line=a_line + a_first + a, out_line=out_line + first + result, b_line=b_line + b,
                        count0=x.taps, a_stride0=x.tap_step * blocks,
                        count1=y.taps, a_stride1=y.tap_step * tile.needed.w * blocks,
                        **nest.counts((2, 3)), **nest.fields("a_stride", 0, (2, 3)),
                        **nest.fields("out_stride", 1, (2, 3)), **nest.fields("b_stride", 2, (2, 3)),
                        **self._function(y.taps * x.taps), **self.tables())

    def _function(self, places: int) -> dict[str, int]:
        """What of a VECTOR says what is computed of windows with so many places."""
        layer, factor = self.plan.layer, self.plan.factor(places)
        fields = {"a_source": Source.TABLE, "b_use": layer.b_use, "reduce": layer.reduce, **result_fields(layer)}
        if factor != 1 and layer.b_use != OperandUse.MULTIPLY:
            fields |= {"scale_mode": ScaleMode.SCALAR, "scale": bits(factor)}
        return fields


def bits(number: np.floating) -> int:
    """An FP32 number as an instruction's field has it."""
    return int(np.float32(number).view(np.uint32))
