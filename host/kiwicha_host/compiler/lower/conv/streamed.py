"""A layer whose input and weights come from memory as they are needed."""

from collections.abc import Hashable
from functools import cached_property
from itertools import product

from kiwicha import ChipConfig

from ...errors import CompileError
from ...program.memory_map import Region
from ..autotune import fastest
from ..gemm.tiling import falling, split
from .emitter import (
    Accumulators,
    Emitter,
    Place,
    Weights,
    epilogue,
    load_input,
    load_lines,
    pad_input,
    store_output,
    unit,
)
from .plan import ConvPlan, Rect

__all__ = ["Streamed"]


#: Sixteenths of the scratchpad for input tiles and for results; the rest is for weights.
_SHARES = ((4, 4), (6, 2), (6, 4), (8, 2), (4, 2), (11, 2), (13, 1), (2, 8), (1, 13), (2, 2), (1, 1))
#: Of those whose estimate is so little above the best, the cycle model says which is the fastest.
_NEARLY = 1.02
#: Of the first weights so many tiles come by themselves, so that the array starts early.
_FIRST_TILES = 8
#: The last results leave in pieces of at least so many blocks, so that little is to be done after the array.
_LAST_BLOCKS = 2


#: Shares and places that were chosen, by all that the choice hangs on.
_CHOICES: dict[tuple[Hashable, ...], tuple[tuple[int, int], int]] = {}


class _TooLarge(CompileError):
    """A layer needs `needed` of something of which there is `there`."""

    def __init__(self, plan: ConvPlan, needed: int, there: int, what: str):
        self.excess = needed / max(1, there)
        super().__init__(f"layer {plan.layer.name!r} needs {needed} {what}; configuration {plan.config.name!r} "
                         f"has {there}")


class Streamed:
    """One layer whose input tiles and weights come from memory as they are needed.

    Raises
    ------
    CompileError
        Not even one pixel of the result fits.
    """

    def __init__(self, config: ChipConfig, first: int, plan: ConvPlan, shares: tuple[int, int], places: int):
        self.config, self.first, self.plans = config, first, [plan]
        #: Tiles of input, and of results, that there is room for: with one, the next waits for its end.
        self._places = places
        self._shares = shares
        lines = config.scratchpad_lines
        inputs, results = (share * lines // 32 * 2 for share in shares)
        self._input, self._output = Region(0, inputs), Region(inputs, results)
        self._ring = Region(inputs + results, lines - inputs - results)
        self._tiles = self._choose_tiles(plan)
        self._choose_parts(plan)

    @classmethod
    def best(cls, config: ChipConfig, first: int, plan: ConvPlan, memory_latency: int, budget: int) -> "Streamed":
        """With the shares of the scratchpad that promise the fewest cycles at `memory_latency`.

        So many instructions are simulated for the choice; of layers that differ in their numbers only, once.
        """
        key = config, plan.geometry, memory_latency, budget
        if key not in _CHOICES:
            chosen = cls._chosen(config, first, plan, memory_latency, budget)
            _CHOICES[key] = chosen._shares, chosen._places
        return cls(config, first, plan, *_CHOICES[key])

    @classmethod
    def _chosen(cls, config: ChipConfig, first: int, plan: ConvPlan, memory_latency: int, budget: int
                ) -> "Streamed":
        found, problems = [], []
        for places, shares in product((2, 1), _SHARES):
            try:
                found.append(cls(config, first, plan, shares, places))
            except _TooLarge as error:
                problems.append(error)
        if not found:
            raise min(problems, key=lambda error: error.excess)
        found.sort(key=lambda item: item._cycles)
        likely = [item for item in found if item._cycles <= _NEARLY * found[0]._cycles]
        # A program that is too long to be simulated need not be made for that.
        if found[0]._least_instructions > budget:
            return found[0]
        return fastest(config, likely, memory_latency, budget)

    @cached_property
    def program(self) -> bytes:
        """One image, wherever it may be in memory."""
        emitter = Emitter()
        self.emit(emitter, 1, 0, 0, 0)
        return emitter.builder.assemble()

    @property
    def _least_instructions(self) -> int:
        """Products and epilogues of one image, if each is a single instruction."""
        return len(self._tiles) * self.plans[0].blocks * (len(self._parts) + 1)

    @cached_property
    def _cycles(self) -> float:
        """Estimated cycles per image: products, or what LOAD has to bring."""
        plan, together = self.plans[0], self._images_together(self.plans[0])
        products = loads = 0.0
        for rect in self._tiles:
            products += plan.blocks * plan.product_cycles(plan.conv_pixels(rect.h, rect.w) * together)
            conv = plan.conv_rect(rect)
            loads += plan.reach(0, conv.h) * plan.reach(1, conv.w) * plan.segments * together
            if plan.blocks * len(self._parts) > self._slots:
                loads += plan.weight_lines
        return max(products, loads) / together

    def _needs(self, plan: ConvPlan, h: int, w: int) -> dict[str, tuple[int, int]]:
        """What a tile of h x w outputs takes of each resource, and what there is."""
        conv_h, conv_w = plan.conv_bound(0, h), plan.conv_bound(1, w)
        return {"accumulator lines": (conv_h * conv_w, self.config.accumulator_lines // 2),
                "scratchpad lines for input": (plan.reach(0, conv_h) * plan.reach(1, conv_w) * plan.segments,
                                               self._input.size // self._places),
                "scratchpad lines for results": (h * w * plan.blocks, self._output.size // self._places)}

    def _choose_tiles(self, plan: ConvPlan) -> list[Rect]:
        def fits(h: int, w: int) -> bool:
            return all(needed <= there for needed, there in self._needs(plan, h, w).values())

        tiles = plan.tiles(fits)
        if tiles is None:
            what, (needed, there) = max(self._needs(plan, 1, 1).items(),
                                        key=lambda item: item[1][0] / max(1, item[1][1]))
            raise _TooLarge(plan, needed, there, f"{what} for one pixel of its result")
        return tiles

    def _choose_parts(self, plan: ConvPlan) -> None:
        """Cut a block's weight tiles into parts, at least two of which are in the scratchpad at once."""
        most = (self._ring.size // 2 - plan.param_lines) // self.config.rows
        if most < 1:
            raise _TooLarge(plan, self.config.rows + plan.param_lines, self._ring.size // 2,
                            "scratchpad lines for a weight tile")
        self._parts = split(plan.weight_tiles, most)
        self._part_lines = max(tiles for _, tiles in self._parts) * self.config.rows + plan.param_lines
        self._slots = self._ring.size // self._part_lines

    def emit(self, emitter: Emitter, images: int, weights: int, source: int, target: int) -> None:
        """Instructions for `images` images; `weights`, `source` and `target` are addresses in memory."""
        plan = self.plans[0]
        emitter.layer = self.first
        together = self._images_together(plan)
        largest = max(plan.conv_pixels(rect.h, rect.w) for rect in self._tiles) * together
        _Stream(self, emitter, Accumulators(self.config, largest), weights).run(
            [(first, count, rect) for first, count in split(images, together) for rect in self._tiles],
            source, target)

    def _images_together(self, plan: ConvPlan) -> int:
        """Images per tile: as many as fit, if the tile is the whole image."""
        if len(self._tiles) > 1:
            return 1
        height, width = plan.layer.out_size
        return min(there // needed for needed, there in self._needs(plan, height, width).values())


class _Stream:
    """Emits a streamed layer: what the next product needs is loaded before the current one is issued."""

    def __init__(self, layer: Streamed, emitter: Emitter, accumulators: Accumulators, weights: int):
        self._layer, self._plan, self._emitter = layer, layer.plans[0], emitter
        self._accumulators, self._weights = accumulators, weights
        self._held: list[tuple[int, int] | None] = [None] * layer._slots
        self._next = 0

    def run(self, tiles: list[tuple[int, int, Rect]], source: int, target: int) -> None:
        """`tiles`: first image, images, and the part of the output."""
        place = next_place = self._load_tile(tiles, 0, source)
        ahead: list[Weights] | None = None
        for number, (first, count, rect) in enumerate(tiles):
            out = self._out_place(number, count, rect)
            for block in range(self._plan.blocks):
                slot = self._accumulators.take()
                for part in range(len(self._layer._parts)):
                    pieces = ahead or self._load_part(block, part)
                    last = part == len(self._layer._parts) - 1
                    last_of_tile = last and block == self._plan.blocks - 1
                    ahead = None
                    tile_follows = last_of_tile and number + 1 < len(tiles)
                    if tile_follows and self._layer._places > 1:
                        next_place = self._load_tile(tiles, number + 1, source)
                    if not last_of_tile or number + 1 < len(tiles):
                        ahead = self._load_part(*self._following(block, part))
                    unit(self._emitter, self._plan, place, block, pieces, slot, rect)
                    if tile_follows and self._layer._places == 1:
                        next_place = self._load_tile(tiles, number + 1, source)
                params = pieces[-1].line + pieces[-1].tiles * self._layer.config.rows, pieces[-1].key
                epilogue(self._emitter, self._plan, params, slot, out.shifted(block), rect, self._plan.blocks)
                self._store(target, out, (first, count, rect), block, number + 1 == len(tiles))
            place = next_place

    def _store(self, target: int, out: Place, tile: tuple[int, int, Rect], block: int, is_last: bool) -> None:
        """Store a tile's results after its last block; the last tile's in pieces, each half of what is left."""
        blocks, (first, _, rect) = self._plan.blocks, tile
        pieces = falling(blocks, _LAST_BLOCKS) if is_last else [(0, blocks)]
        for start, size in pieces:
            if block == start + size - 1:
                store_output(self._emitter, self._plan, target + first * self._plan.target.image, out, rect,
                             (start, size))

    def _following(self, block: int, part: int) -> tuple[int, int]:
        index = block * len(self._layer._parts) + part + 1
        return divmod(index % (self._plan.blocks * len(self._layer._parts)), len(self._layer._parts))

    def _load_tile(self, tiles: list[tuple[int, int, Rect]], number: int, source: int) -> Place:
        """Bring the input of a tile and its padding into one of two slots."""
        plan, (first, count, rect) = self._plan, tiles[number]
        conv = plan.conv_rect(rect)
        region = Rect(conv.y * plan.strides[0], conv.x * plan.strides[1],
                      plan.reach(0, conv.h), plan.reach(1, conv.w))
        lines = region.size * plan.segments
        number %= self._layer._places
        line = self._layer._input.base + number * (self._layer._input.size // self._layer._places)
        place = Place(line, region.w, lines, (("in", self._layer.first, number),) * count)
        pad_input(self._emitter, plan, place, region)
        load_input(self._emitter, plan, source + first * plan.source.image, place, region)
        return place

    def _out_place(self, number: int, count: int, rect: Rect) -> Place:
        number %= self._layer._places
        line = self._layer._output.base + number * (self._layer._output.size // self._layer._places)
        keys = (("out", self._layer.first, number),) * count
        return Place(line, rect.w, rect.size * self._plan.blocks, keys)

    def _load_part(self, block: int, part: int) -> list[Weights]:
        """Bring a part of a block's weights unless it is there; the last part has the parameters behind it.

        The first of all comes in two pieces. LOAD and MATMUL run in order, so who waits for the second piece's
        load, or for its last product, need not know the first.
        """
        layer, rows = self._layer, self._layer.config.rows
        start, tiles = layer._parts[part]
        if (block, part) in self._held:
            index = self._held.index((block, part))
            return [Weights(layer._ring.base + index * layer._part_lines, start, tiles, ("w", layer.first, index))]
        nothing_yet = not any(self._held)
        index, self._next = self._next, (self._next + 1) % layer._slots
        self._held[index] = (block, part)
        line, key = layer._ring.base + index * layer._part_lines, ("w", layer.first, index)
        cut = min(_FIRST_TILES, tiles - 1) if nothing_yet else 0
        pieces = [Weights(line, start, cut, (*key, "first"))] if cut else []
        pieces.append(Weights(line + cut * rows, start + cut, tiles - cut, key))
        for piece in pieces:
            behind = self._plan.param_lines if piece is pieces[-1] and part == len(layer._parts) - 1 else 0
            source = (block * self._plan.block_lines + piece.first * rows) * layer.config.line_bytes
            lines = piece.tiles * rows + behind
            load_lines(self._emitter, layer.config, self._weights + source, piece.line, lines, piece.key)
        return pieces
