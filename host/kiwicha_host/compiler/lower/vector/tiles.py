"""How a layer of the vector unit is cut into tiles."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np

from kiwicha import ChipConfig

from ...program.loops import Dim
from ...program.memory_map import ceil_div
from ..geometry import Rect, Strides, Window
from ..product.estimate import VECTOR_OVERHEAD
from ..product.spans import Span, split
from .plan import Box

__all__ = ["ROW_RESULT", "Tile", "Tiling", "choose", "even_parts", "least"]

#: More tiles than so many at once in the scratchpad do not help.
_MOST_SLOTS = 4
#: Lines of a tile, so that 16 bits hold whatever is from one place to another; they do in the smallest one.
_MOST_LINES = (1 << 15) - 1
#: Cycles from a result of rows to the next, besides its steps, about.
ROW_RESULT = 130
#: Cycles of a transfer besides its data.
_TRANSFER_CYCLES = 16
#: Cycles that a burst takes besides the memory's latency.
_BURST_CYCLES = 8


@dataclass(frozen=True)
class Tile:
    """Images, blocks of channels and results that are in the scratchpad together.

    Places follow each other row by row, image by image; those of operand A have `across` x `down` in each image.
    """
    images: Span
    blocks: Span
    out: Rect
    needed: Rect

    def dims(self, box: Box, y: Window, x: Window) -> list[Dim]:
        """The results of some windows: counts, and lines of A, of the result and of B from one to the next."""
        blocks, out, needed = self.blocks[1], self.out, self.needed
        h, w = box.beside(out.h, out.w)
        a, b, lines = (blocks * lines for lines in box.lines)
        return [(blocks, (box.lines[0], box.lines[2], box.lines[1])),
                (x.count, (x.step * a, lines, b if w == out.w else 0)),
                (y.count, (y.step * needed.w * a, out.w * lines, w * b if h == out.h else 0)),
                (self.images[1], (needed.size * a, out.size * lines, h * w * b))]


@dataclass(frozen=True)
class Tiling:
    """Tiles of at most so many images, blocks of `columns` channels, rows and columns of results.

    `slots` tiles of operands, and of results, are in the scratchpad at once.
    """
    images: int
    blocks: int
    h: int
    w: int
    slots: int = 1

    def a_lines(self, box: Box) -> int:
        """Lines of a tile's operand A."""
        return self.images * self.blocks * box.most_covered(self.h, self.w) * box.lines[0]

    def b_lines(self, box: Box) -> int:
        """Lines of a tile's operand B, if that is not A."""
        if box.second is None:
            return 0
        return self.images * self.blocks * prod(box.beside(self.h, self.w)) * box.lines[1]

    def out_lines(self, box: Box) -> int:
        """Lines of a tile's results, if these are no results of rows."""
        return 0 if box.words else self.steps * box.lines[2]

    @property
    def steps(self) -> int:
        """Blocks of all places."""
        return self.images * self.blocks * self.h * self.w

    def lines(self, box: Box) -> int:
        return self.a_lines(box) + self.b_lines(box) + self.out_lines(box) + self.row_lines(box)

    def row_lines(self, box: Box) -> int:
        return self.images * self.h * self.w * box.row_lines

    def tiles(self, config: ChipConfig, box: Box) -> Iterator[Tile]:
        (height, width), blocks = box.out_size, ceil_div(box.channels, config.columns)
        for images, (y, h), (x, w), part in product(split(box.images, self.images), split(height, self.h),
                                                    split(width, self.w), split(blocks, self.blocks)):
            out = Rect(y, x, h, w)
            yield Tile(images, part, out, box.covered(out))


def least(config: ChipConfig, box: Box) -> Tiling:
    """The smallest tile."""
    return Tiling(1, ceil_div(box.channels, config.columns) if box.row_lines else 1, 1, 1)


def choose(config: ChipConfig, box: Box, room: int, memory_latency: int) -> Tiling:
    """The tiles of which `room` lines hold at least one that promise the fewest cycles."""
    height, width = (len(box.windows(axis, 0, size)) for axis, size in enumerate(box.out_size))
    return min(_candidates(config, box, room),
               key=lambda item: _cycles(config, box, item, (height, width), memory_latency))


def _candidates(config: ChipConfig, box: Box, room: int) -> Iterator[Tiling]:
    (height, width), blocks = box.out_size, ceil_div(box.channels, config.columns)
    sizes = [(h, width) for h in even_parts(height)] + [(1, w) for w in even_parts(width)[1:]]
    smallest = least(config, box)
    for (h, w), part in product(sizes, [blocks] if box.row_lines else even_parts(blocks)):
        whole = (part, h, w) == (blocks, height, width)
        for images in even_parts(box.images) if whole else [1]:
            tiling = Tiling(images, part, h, w)
            lines = tiling.lines(box)
            if lines <= room and (lines <= _MOST_LINES or tiling == smallest):
                yield replace(tiling, slots=min(_MOST_SLOTS, room // lines))


def even_parts(total: int) -> list[int]:
    """Sizes of even parts to try, the largest first: for 1 to 8 parts, then about three for each doubling."""
    counts = {*range(1, 9), *(int(8 * 1.25 ** step) for step in range(1, 75)), total}
    return sorted({ceil_div(total, count) for count in counts if count <= total}, reverse=True)


def _cycles(config: ChipConfig, box: Box, tiling: Tiling, runs: tuple[int, int], memory_latency: int) -> float:
    """About how many cycles all tiles take, if along y and x there are so many runs of equal windows."""
    (height, width), blocks = box.out_size, ceil_div(box.channels, config.columns)
    parts = ceil_div(height, tiling.h), ceil_div(width, tiling.w)
    tiles = ceil_div(box.images, tiling.images) * ceil_div(blocks, tiling.blocks) * prod(parts)
    load = _transfer(config, box, tiling, 0, box.source, tiling.a_lines(box), memory_latency)
    if box.second is not None:
        load += _transfer(config, box, tiling, 1, box.second, tiling.b_lines(box), memory_latency)
    if box.constants:
        load += tiling.row_lines(box) * max(1.0, config.line_bytes / config.bus_bytes)
    store = _transfer(config, box, tiling, 2, box.target, tiling.steps * box.lines[2], memory_latency)
    # Windows that differ are instructions of their own, and each walks along two dimensions.
    counts = sorted((tiling.images, tiling.blocks, tiling.h, tiling.w))
    apart = box.pool or (box.second is not None and bool(box.second.y) != bool(box.second.x))
    instructions = prod((run + part - 1) / part for run, part in zip(runs, parts, strict=True)) * (
        prod(counts[:2]) if apart else 1)
    steps = ceil_div(config.columns, config.vector_lanes)
    vector = (tiling.steps * box.taps * steps * box.passes + instructions * VECTOR_OVERHEAD
              + box.row_results * ROW_RESULT)
    if tiling.slots == 1:
        return tiles * (load + memory_latency + vector + store)
    # With two slots a LOAD begins when the VECTOR before last has ended, and waits for the memory then.
    waiting = memory_latency if tiling.slots == 2 else 0
    return tiles * max(load + waiting, vector, store) + load + memory_latency + store


def _transfer(config: ChipConfig, box: Box, tiling: Tiling, which: int, apart: Strides, lines: int,
              memory_latency: int) -> float:
    """About how many cycles the transfer of a tile's lines takes: short rows wait for the memory.

    `which` of A, B and the result it is, 0 to 2.
    """
    in_flight = config.writes_in_flight if which == 2 else config.reads_in_flight
    size = np.dtype(box.elements[which]).itemsize
    row = min(tiling.blocks * config.columns, box.channels) * size
    rows = places = lines // (tiling.blocks * box.lines[which])
    if apart.x == row and row % min(row, config.columns * size) == 0:
        rows = ceil_div(places, tiling.w)
        if apart.y == row * tiling.w:
            rows = ceil_div(places, tiling.w * tiling.h)
    waiting = (memory_latency + _BURST_CYCLES) / in_flight
    beats = config.columns * size / box.lines[which] / config.bus_bytes
    # Of words, tiles are small where there are many channels, and what a transfer takes besides counts.
    return max(lines * max(1.0, beats), rows * waiting) + (_TRANSFER_CYCLES if size > 1 else 0)
