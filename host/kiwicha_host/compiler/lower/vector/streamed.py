"""A layer of the vector unit whose operands come from memory, tile by tile, and whose results go there."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import Unit
from kiwicha.timing import word_lines

from ...errors import CompileError
from ...program.loops import Dim
from ...program.memory_map import ceil_div
from ..emitter import Addresses, Emitter, TooLarge, load_lines, transfer, transfer_channels
from ..geometry import Rect, Strides
from . import tiles
from .kinds import work_of
from .plan import Box, VectorPlan
from .rows import row_key
from .tiles import Tile, Tiling

__all__ = ["StreamedVector"]


#: Regions of the scratchpad: operands, results, and what tiles have besides.
_A, _B, _OUT, _ROWS = range(4)


class StreamedVector:
    """One layer of the vector unit: LOAD brings the next tiles while VECTOR and STORE work on others.

    Raises
    ------
    CompileError
        Not even one result's operands fit, or the chip has not what the layer needs.
    """

    def __init__(self, config: ChipConfig, first: int, plan: VectorPlan, memory_latency: int):
        self.config, self.first, self.plans = config, first, [plan]
        self._memory_latency = memory_latency
        self._room = config.scratchpad_lines - plan.resident_lines
        box = plan.box(1)
        #: Lines that may be left free so that operands and results, if some are words, are in banks of their own.
        spare = (1 + (box.second is not None)) * config.bank_lines if {*box.elements} != {"int8"} else 0
        smallest = tiles.least(config, box).lines(box)
        self._spare = spare if self._room - spare >= max(smallest, config.bank_lines // 2) else 0
        for switch in plan.needs:
            if not getattr(config, switch):
                raise CompileError(f"layer {plan.layer.name!r} needs a chip with {switch}; configuration "
                                   f"{config.name!r} has none")
        needed = smallest + plan.resident_lines
        if needed > config.scratchpad_lines:
            what = "all channels" if box.row_lines else "one block of channels"
            raise TooLarge(config, plan.layer, needed, config.scratchpad_lines,
                           f"scratchpad lines for {what} of one place of its result")

    def emit(self, emitter: Emitter, images: int, at: Sequence[Addresses]) -> None:
        """Instructions for `images` images."""
        [plan] = self.plans
        own = plan.addresses(at[0])
        box = plan.box(images)
        tiling = tiles.choose(self.config, box, self._room - self._spare, self._memory_latency)
        moved = _Tiles(emitter, plan, box, tiling, self.first, own, self.config.bank_lines if self._spare else 1)
        work = work_of(plan.layer)(emitter, plan, box, self.first, moved, self._room)
        emitter.layer = self.first
        # To behind all tiles; whoever waits for the first tile waits for them, too.
        if lines := plan.resident_lines:
            load_lines(emitter, self.config, own.weights, self._room, lines, moved.input(0)[1][0])
        parts = list(tiling.tiles(self.config, box))
        for number in range(min(tiling.slots, len(parts))):
            moved.load(parts[number], number)
        for number, tile in enumerate(parts):
            work.compute(tile, number)
            moved.store(tile, number)
            if number + tiling.slots < len(parts):
                moved.load(parts[number + tiling.slots], number + tiling.slots)


class _Tiles:
    """Tiles between memory and the scratchpad, where tile `number` has one of `slots` in turn.

    Operands and results begin at lines that are multiples of `unit`.
    """

    def __init__(self, emitter: Emitter, plan: VectorPlan, box: Box, tiling: Tiling, layer: int, at: Addresses,
                 unit: int):
        config = plan.config
        self._emitter, self._layer, self._apart = emitter, layer, word_lines(config)
        self._config, self._constants = config, at.weights + plan.resident_lines * config.line_bytes
        self.slots = tiling.slots
        self._box, self._at = box, at
        # Lines of one tile, and the first of all.
        sizes = [tiling.a_lines(box), tiling.b_lines(box), tiling.out_lines(box), tiling.row_lines(box)]
        self._sizes, self._first = sizes, [0]
        for size, start in zip(sizes, (unit, unit, 1), strict=False):
            end = self._first[-1] + self.slots * size
            self._first.append(ceil_div(end, start) * start)

    def _line(self, region: int, number: int) -> int:
        return self._first[region] + number % self.slots * self._sizes[region]

    def input(self, number: int) -> tuple[int, list[Hashable]]:
        return self._line(_A, number), [("in", self._layer, number % self.slots)]

    def second(self, number: int) -> tuple[int, list[Hashable]]:
        return self._line(_B, number), self.input(number)[1]

    def output(self, number: int) -> tuple[int, Hashable]:
        return self._line(_OUT, number), ("out", self._layer, number % self.slots)

    def row_lines(self, number: int) -> int:
        return self._line(_ROWS, number)

    def load(self, tile: Tile, number: int) -> None:
        (line, keys), at, box = self.input(number), self._at, self._box
        self._move(Unit.LOAD, _A, tile, at.source, box.source, tile.needed, line, keys)
        if box.second is not None:
            beside = Rect(tile.out.y, tile.out.x, *box.beside(tile.out.h, tile.out.w))
            self._move(Unit.LOAD, _B, tile, at.second, box.second, beside, *self.second(number))
        if box.constants:
            apart = replace(Strides.dense(box.constants, box.size), image=0)
            self._transfer(Unit.LOAD, tile, self._constants, apart, tile.out, self.row_lines(number),
                           [row_key(self, self._layer, number, index) for index in range(2)], box.constants,
                           self._config.line_bytes)

    def store(self, tile: Tile, number: int) -> None:
        (line, key), words = self.output(number), self._box.words
        if words:
            self._transfer(Unit.STORE, tile, self._at.target, self._box.target, tile.out, self.row_lines(number),
                           [row_key(self, self._layer, number, 0)], 4 * words, 4, self._apart)
        else:
            self._move(Unit.STORE, _OUT, tile, self._at.target, self._box.target, tile.out, line, [key])

    def _move(self, unit: Unit, which: int, tile: Tile, base: int, apart: Strides, rect: Rect, line: int,
              keys: Sequence[Hashable]) -> None:
        """The blocks of channels of a tile's images in `rect`, between memory and the lines from `line` on.

        `which` of A, B and the result they are, 0 to 2.
        """
        (first, blocks), columns, element = tile.blocks, self._config.columns, self._box.elements[which]
        channels = min(self._box.channels, (first + blocks) * columns) - first * columns
        base += first * columns * np.dtype(element).itemsize
        address, dims = _places(tile, base, apart, rect, blocks * self._box.lines[which])
        transfer_channels(self._emitter, unit, self._config, address, line, keys, channels, element, dims)

    def _transfer(self, unit: Unit, tile: Tile, base: int, apart: Strides, rect: Rect, line: int,
                  keys: Sequence[Hashable], size: int, segment: int, segment_lines: int = 1) -> None:
        """`size` bytes of each place, `segment` of them in a line."""
        address, dims = _places(tile, base, apart, rect, ceil_div(size, segment) * segment_lines)
        transfer(self._emitter, unit, address, line, keys, size, segment, dims, segment_lines)


def _places(tile: Tile, base: int, apart: Strides, rect: Rect, lines: int) -> tuple[int, list[Dim]]:
    """The address of the first place of a tile's images in `rect`, of a map at `base`, and the way to all of them;
    each has so many lines."""
    (first, images), size = tile.images, rect.size * lines
    return base + first * apart.image + rect.y * apart.y + rect.x * apart.x, [
        (rect.w, (apart.x, lines)), (rect.h, (apart.y, rect.w * lines)), (images, (apart.image, size))]
