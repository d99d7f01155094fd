"""The instructions of one layer for tiles of images and blocks of weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ...program.memory_map import Region
from ..emitter import Addresses, Emitter, load_lines
from ..geometry import Rect
from ..product.schedule import Load, Product, Step
from ..product.spans import Span, falling
from .instructions import Accumulators, Place, Weights, epilogue, load_input, pad_input, store_output, unit
from .plan import ConvPlan

__all__ = ["LAST_BLOCKS", "Images", "Room"]

#: The last results leave in pieces of at least so many blocks, so that little is to be done after the array.
LAST_BLOCKS = 2

#: First image, images, and the part of the output.
Tile = tuple[int, int, Rect]


@dataclass(frozen=True)
class Room:
    """A layer's share of the scratchpad.

    Parameters
    ----------
    layer : the layer's number, a part of its buffers' names
    plan : what it computes
    places : tiles of input, and of results, that there is room for
    input, output, ring : lines for tiles of input, for results, and for slots of weights
    part_lines : lines of a slot: weight tiles, and parameters behind them
    """
    layer: int
    plan: ConvPlan
    places: int
    input: Region
    output: Region
    ring: Region
    part_lines: int

    def region(self, rect: Rect) -> Rect:
        """What of the padded input a part of the output needs."""
        plan, conv = self.plan, self.plan.conv_rect(rect)
        return Rect(conv.y * plan.strides[0], conv.x * plan.strides[1],
                    plan.reach(0, conv.h), plan.reach(1, conv.w))

    def source(self, tile: Tile, slot: int) -> Place:
        """Where a tile's input is."""
        region = self.region(tile[2])
        return Place(self.input.base + slot * (self.input.size // self.places), region.w,
                     region.size * self.plan.segments, (("in", self.layer, slot),) * tile[1])

    def target(self, tile: Tile, slot: int) -> Place:
        """Where a tile's results are."""
        return Place(self.output.base + slot * (self.output.size // self.places), tile[2].w,
                     tile[2].size * self.plan.place_lines, (("out", self.layer, slot),) * tile[1])

    def weights(self, slot: int, part: Span, piece: Span) -> Weights:
        """A piece of a part of a block's weight tiles.

        LOAD and MATMUL run in order, so who waits for the last piece's load, or for its last product, need not
        know the first.
        """
        (start, size), (within, count), key = part, piece, ("w", self.layer, slot)
        line = self.ring.base + slot * self.part_lines + within * self.plan.config.rows
        return Weights(line, start + within, count, key if within + count == size else (*key, "first"))


class Images(Product):
    """A product whose tiles are of images and of a block of output channels.

    `tiles` is the number of all tiles.
    """

    #: The parameters are behind the weights, in the same slot.
    deferred = False

    def __init__(self, emitter: Emitter, room: Room, accumulators: Accumulators, at: Addresses, tiles: int):
        self._emitter, self._room, self._plan = emitter, room, room.plan
        self._accumulators, self._tiles = accumulators, tiles
        self._at = at

    def load(self, load: Load) -> None:
        plan, room = self._plan, self._room
        if load.operand == "a":
            first, _, rect = load.rows
            place, region = room.source(load.rows, load.slot), room.region(rect)
            pad_input(self._emitter, plan, place, region)
            load_input(self._emitter, plan, self._at.source + first * plan.source.image, place, region)
            return
        (start, size), (block, _) = load.rows, load.columns
        weights = room.weights(load.slot, (start, size), load.piece or (0, size))
        last = weights.first + weights.tiles == plan.weight_tiles
        lines = weights.tiles * plan.config.rows + (plan.param_lines if last else 0)
        line = block * plan.block_lines + weights.first * plan.config.rows
        load_lines(self._emitter, plan.config, self._at.weights + line * plan.config.line_bytes, weights.line,
                   lines, weights.key)

    def multiply(self, step: Step) -> None:
        weights = self._room.weights(step.w_slot, step.k, step.k_piece)
        unit(self._emitter, self._plan, self._room.source(step.m, step.a_slot), step.n[0], weights,
             self._accumulators.slot(step.slot), step.m[2])

    def results(self, step: Step) -> list[Callable[[], None]]:
        """An epilogue for each block, and a STORE after the last; that of the last tile in pieces."""
        emitter, plan, (first, _, rect), (block, _) = self._emitter, self._plan, step.m, step.n
        out = self._room.target(step.m, step.tile // plan.blocks % self._room.places)
        weights = self._room.weights(step.w_slot, step.k, (0, step.k[1]))
        params = weights.line + weights.tiles * plan.config.rows, weights.key
        actions: list[Callable[[], None]] = [partial(
            epilogue, emitter, plan, params, self._accumulators.slot(step.slot),
            out.shifted(block * plan.block_results), rect, plan.place_lines)]
        is_last = step.tile >= self._tiles - plan.blocks
        address = self._at.target + first * plan.target.image
        for start, size in falling(plan.blocks, LAST_BLOCKS) if is_last else [(0, plan.blocks)]:
            if block == start + size - 1:
                actions.append(partial(store_output, emitter, plan, address, out, rect, (start, size)))
        return actions
