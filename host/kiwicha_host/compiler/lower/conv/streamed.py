"""A layer whose input and weights come from memory as they are needed."""

from collections.abc import Hashable, Sequence
from functools import cached_property
from itertools import product
from math import prod

from kiwicha import ChipConfig

from ...program.memory_map import Region, ceil_div
from ..autotune import fastest
from ..emitter import Addresses, Emitter, TooLarge
from ..geometry import Rect
from ..product.estimate import VECTOR_OVERHEAD, Effort, load_overhead
from ..product.schedule import Order
from ..product.spans import split
from .images import LAST_BLOCKS, Images, Room
from .instructions import Accumulators
from .plan import ConvPlan

__all__ = ["Streamed"]

#: Sixteenths of the scratchpad for input tiles and for results; the rest is for weights.
_SHARES = ((4, 4), (6, 2), (6, 4), (8, 2), (4, 2), (11, 2), (13, 1), (2, 8), (1, 13), (2, 2), (1, 1))
#: Of those whose estimate is so little above the best, the cycle model says which is the fastest.
_NEARLY = 1.02
#: Images of the batch that estimates are for.
_BATCH = 4
#: Of the first weights so many tiles come by themselves, so that the array starts early.
_FIRST_TILES = 8

#: Shares and places that were chosen, by all that the choice hangs on.
_CHOICES: dict[tuple[Hashable, ...], tuple[tuple[int, int], int]] = {}


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
    def check(cls, config: ChipConfig, plan: ConvPlan) -> None:
        """Raise :exc:`.TooLarge` if not even one pixel of the result fits, however the scratchpad is shared."""
        problems = []
        for shares in _SHARES:
            try:
                cls(config, 0, plan, shares, 1)
                return
            except TooLarge as error:
                problems.append(error)
        raise min(problems, key=lambda error: error.excess)

    @classmethod
    def _chosen(cls, config: ChipConfig, first: int, plan: ConvPlan, memory_latency: int, budget: int
                ) -> "Streamed":
        found, problems = [], []
        for places, shares in product((2, 1), _SHARES):
            try:
                found.append(cls(config, first, plan, shares, places))
            except TooLarge as error:
                problems.append(error)
        if not found:
            raise min(problems, key=lambda error: error.excess)
        estimates = [item._estimate(memory_latency) for item in found]
        likely = [item for item, cycles in zip(found, estimates, strict=True)
                  if cycles <= _NEARLY * min(estimates)]
        # A program that is too long to be simulated need not be made for that.
        if likely[0]._least_instructions > budget:
            return likely[0]
        return fastest(config, likely, memory_latency, budget)

    @cached_property
    def program(self) -> bytes:
        """One image, wherever it may be in memory."""
        emitter = Emitter()
        self.emit(emitter, 1, [Addresses(0, 0, 0)])
        return emitter.builder.assemble()

    @property
    def _least_instructions(self) -> int:
        """Products and epilogues of one image, if each is a single instruction."""
        return len(self._tiles) * self.plans[0].blocks * (len(self._parts) + 1)

    def _estimate(self, memory_latency: int) -> float:
        """Cycles of a small batch, about: what is good for one image only is not."""
        plan, config = self.plans[0], self.config
        together = min(_BATCH, self._images_together(plan))
        tiles = ceil_div(_BATCH, together) * len(self._tiles)
        steps = ceil_div(config.columns, config.vector_lanes)
        # Accumulator lines that a VECTOR reads for a result, lines of input, cycles of products, of each tile.
        taps = prod(plan.layer.pool.kernel) if plan.layer.pool else 1
        inputs = [plan.reach(0, conv.h) * plan.reach(1, conv.w) * plan.segments * together
                  for conv in map(plan.conv_rect, self._tiles)]
        products = [plan.product_cycles(plan.conv_pixels(rect.h, rect.w) * together) for rect in self._tiles]
        results, parts = [rect.size * together for rect in self._tiles], plan.blocks * len(self._parts)
        groups = tiles // len(self._tiles)
        times = tiles if parts > self._slots else 1     # that the weights are loaded
        # With one place for tiles, nothing of the next is loaded, nor this one stored, while the array works.
        alone = groups * (sum(inputs) + plan.place_lines * sum(results)) - inputs[0] if self._places == 1 else 0
        first = inputs[0] + min(_FIRST_TILES, self._parts[0][1]) * config.rows
        return Effort(
            products=groups * plan.blocks * sum(products),
            loads=groups * sum(inputs) + times * (plan.weight_lines + parts * load_overhead(
                memory_latency, (parts, self._slots))),
            epilogues=plan.blocks * (groups * sum(results) * taps * steps + tiles * VECTOR_OVERHEAD),
            stores=groups * plan.place_lines * sum(results), instructions=groups * self._least_instructions,
            bus_bytes=config.bus_bytes, first=first + products[0] + alone, first_loads=first,
            first_products=products[0],
            tail=min(LAST_BLOCKS, plan.blocks) * results[-1] * (taps * steps + 1)).cycles

    def _needs(self, plan: ConvPlan, h: int, w: int) -> dict[str, tuple[int, int]]:
        """What a tile of h x w outputs takes of each resource, and what there is."""
        conv_h, conv_w = plan.conv_bound(0, h), plan.conv_bound(1, w)
        return {"accumulator lines": (conv_h * conv_w, self.config.accumulator_lines // 2),
                "scratchpad lines for input": (plan.reach(0, conv_h) * plan.reach(1, conv_w) * plan.segments,
                                               self._input.size // self._places),
                "scratchpad lines for results": (h * w * plan.place_lines, self._output.size // self._places)}

    def _choose_tiles(self, plan: ConvPlan) -> list[Rect]:
        def fits(h: int, w: int) -> bool:
            return all(needed <= there for needed, there in self._needs(plan, h, w).values())

        tiles = plan.tiles(fits)
        if tiles is None:
            what, (needed, there) = max(self._needs(plan, 1, 1).items(),
                                        key=lambda item: item[1][0] / max(1, item[1][1]))
            raise TooLarge(self.config, plan.layer, needed, there, f"{what} for one pixel of its result")
        return tiles

    def _choose_parts(self, plan: ConvPlan) -> None:
        """Cut a block's weight tiles into parts, at least two of which are in the scratchpad at once."""
        most = (self._ring.size // 2 - plan.param_lines) // self.config.rows
        if most < 1:
            raise TooLarge(self.config, plan.layer, self.config.rows + plan.param_lines, self._ring.size // 2,
                           "scratchpad lines for a weight tile")
        self._parts = split(plan.weight_tiles, most)
        self._part_lines = max(tiles for _, tiles in self._parts) * self.config.rows + plan.param_lines
        self._slots = self._ring.size // self._part_lines

    def emit(self, emitter: Emitter, images: int, at: Sequence[Addresses]) -> None:
        """Instructions for `images` images."""
        [plan], [own] = self.plans, at
        together = self._images_together(plan)
        emitter.layer = self.first
        largest = max(plan.conv_pixels(rect.h, rect.w) for rect in self._tiles) * together
        accumulators = Accumulators(self.config, largest)
        tiles = [((first, count, rect), (block, 1)) for first, count in split(images, together)
                 for rect in self._tiles for block in range(plan.blocks)]
        (_, size), cut = self._parts[0], min(_FIRST_TILES, self._parts[0][1] - 1)
        order = Order(tiles, self._parts, self._places, self._slots, accumulators.slots,
                      pieces=[(0, cut), (cut, size - cut)] if cut else [(0, size)], a_whole=True, a_of_k=False,
                      last=[(0, 1)])
        room = Room(self.first, plan, self._places, self._input, self._output, self._ring, self._part_lines)
        Images(emitter, room, accumulators, own, len(tiles)).run(*order.plan())

    def _images_together(self, plan: ConvPlan) -> int:
        """Images per tile: as many as fit, if the tile is the whole image."""
        if len(self._tiles) > 1:
            return 1
        height, width = plan.layer.out_size
        return min(there // needed for needed, there in self._needs(plan, height, width).values())
