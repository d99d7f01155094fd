"""Segments whose weights and activations are all in the scratchpad."""

from collections.abc import Hashable, Sequence

from kiwicha import ChipConfig

from ...program.memory_map import ceil_div
from ..emitter import Addresses, Emitter, load_lines
from ..geometry import Rect
from ..product.spans import split
from .instructions import Accumulators, Place, Weights, epilogue, load_input, pad_input, store_output, unit
from .plan import ConvPlan

__all__ = ["Resident"]

#: Images in a group: sizes to try.
_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
#: Estimated cycles that an instruction costs besides its work.
_PER_INSTRUCTION = 4
#: Weights of so many lines or more come in pieces.
_PIECE_LINES = 512


class Resident:
    """Layers whose weights and activations are all in the scratchpad, for `group` images at a time.

    In step t, layer l works on group t - l, the last layer first: so a layer's epilogue has the time of all
    the others' products before its result is needed. Each activation has `depth` slots.
    """

    def __init__(self, config: ChipConfig, first: int, plans: list[ConvPlan], group: int, depth: int,
                 tiles: list[list[Rect]]):
        self.config, self.first, self.plans = config, first, plans
        self.group, self.depth, self._tiles = group, depth, tiles
        self._lines = [plan.lines for plan in plans] + [plans[-1].out_lines]
        self._base, line = [], 0
        for lines in self._lines:
            self._base.append(line)
            line += lines * group * depth
        line = config.scratchpad_lines - sum(plan.weight_lines for plan in plans)
        #: The blocks of each layer whose weights come at once: the array need not wait for all of many.
        self._pieces = [split(plan.blocks, ceil_div(plan.blocks, max(1, plan.weight_lines // _PIECE_LINES)))
                        for plan in plans]
        self._weight_line = []
        for plan in plans:
            self._weight_line.append(line)
            line += plan.weight_lines

    @classmethod
    def of(cls, config: ChipConfig, first: int, plans: list[ConvPlan]) -> "Resident | None":
        """The best group size and depth; None if nothing fits."""
        half = config.accumulator_lines // 2
        tiles = [rects for plan in plans if (rects := plan.tiles_within(half)) is not None]
        room = config.scratchpad_lines - sum(plan.weight_lines for plan in plans)
        per_image = sum(plan.lines for plan in plans) + plans[-1].out_lines
        found = [(group, depth) for depth in (2, 1) for group in _GROUPS if group * depth * per_image <= room]
        if not found or len(tiles) < len(plans):
            return None

        def cost(choice: tuple[int, int]) -> float:
            group, depth = choice
            cycles = sum(_cycles(plan, plan_tiles, group) for plan, plan_tiles in zip(plans, tiles, strict=True))
            return cycles / group * (1 if depth > 1 else 1.3)

        least = min(map(cost, found))
        group, depth = next(choice for choice in found if cost(choice) <= 1.005 * least)
        return cls(config, first, plans, group, depth, tiles)

    def emit(self, emitter: Emitter, images: int, at: Sequence[Addresses]) -> None:
        """Instructions for `images` images."""
        groups = [range(i, min(images, i + self.group)) for i in range(0, images, self.group)]
        largest = max(plan.conv_pixels(rect.h, rect.w) * self._together(plan, rects)
                      for plan, rects in zip(self.plans, self._tiles, strict=True) for rect in rects)
        accumulators = Accumulators(self.config, largest)
        self._load_group(emitter, groups, 0, at[0].source)
        for step in range(len(groups) + len(self.plans) - 1):
            if step < len(self.plans):
                self._load_weights(emitter, step, at[0].weights, min(self.depth, len(groups)))
            if self.depth > 1:
                self._load_group(emitter, groups, step + 1, at[0].source)
            for layer in reversed(range(len(self.plans))):
                if 0 <= step - layer < len(groups):
                    self._run(emitter, layer, step - layer, len(groups[step - layer]), accumulators)
                    if layer == len(self.plans) - 1:
                        self._store_group(emitter, groups[step - layer], step - layer, at[-1].target)
            if self.depth == 1:
                self._load_group(emitter, groups, step + 1, at[0].source)

    def _slot(self, layer: int, number: int, images: int) -> Place:
        """Where the input of `layer` (or the output of the last) of group `number` is."""
        slot, lines = number % self.depth, self._lines[layer]
        width = self.plans[layer].padded[1] if layer < len(self.plans) else self.plans[-1].layer.out_size[1]
        keys: tuple[Hashable, ...] = tuple(("act", self.first + layer, slot, i) for i in range(images))
        return Place(self._base[layer] + slot * self.group * lines, width, lines, keys)

    def _load_weights(self, emitter: Emitter, layer: int, weights: int, slots: int) -> None:
        """What `layer` needs before its first group: weights, parameters, and padding of its input."""
        emitter.layer = self.first + layer
        before = sum(plan.weight_lines for plan in self.plans[:layer])
        plan, (height, width) = self.plans[layer], self.plans[layer].padded
        for first, count in self._pieces[layer]:
            line = first * plan.block_lines
            load_lines(emitter, self.config, weights + (before + line) * self.config.line_bytes,
                       self._weight_line[layer] + line, count * plan.block_lines, self._key(layer, first))
        for slot in range(slots):
            pad_input(emitter, plan, self._slot(layer, slot, self.group), Rect(0, 0, height, width))

    def _key(self, layer: int, block: int) -> Hashable:
        """The buffer that a block's weights come into."""
        return "w", self.first + layer, next(i for i, (first, count) in enumerate(self._pieces[layer])
                                             if first <= block < first + count)

    def _load_group(self, emitter: Emitter, groups: list[range], number: int, source: int) -> None:
        if number < len(groups):
            plan = self.plans[0]
            emitter.layer = self.first
            load_input(emitter, plan, source + groups[number].start * plan.source.image,
                       self._slot(0, number, len(groups[number])), Rect(0, 0, *plan.padded))

    def _store_group(self, emitter: Emitter, group: range, number: int, target: int) -> None:
        plan = self.plans[-1]
        emitter.layer = self.first + len(self.plans) - 1
        store_output(emitter, plan, target + group.start * plan.target.image,
                     self._slot(len(self.plans), number, len(group)), Rect(0, 0, *plan.layer.out_size))

    def _together(self, plan: ConvPlan, rects: list[Rect]) -> int:
        """Images that one MATMUL can take: several only where each gives one pixel."""
        return min(self.group, self.config.accumulator_lines // 2) if plan.layer.conv_size == (1, 1) else 1

    def _run(self, emitter: Emitter, layer: int, number: int, images: int, accumulators: Accumulators) -> None:
        plan, rects = self.plans[layer], self._tiles[layer]
        emitter.layer = self.first + layer
        source, target = self._slot(layer, number, images), self._slot(layer + 1, number, images)
        top, left = self.plans[layer + 1].pads if layer + 1 < len(self.plans) else (0, 0)
        for first, count in split(images, self._together(plan, rects)):
            for rect in rects:
                conv = plan.conv_rect(rect)
                start = (conv.y * plan.strides[0] * source.width + conv.x * plan.strides[1]) * plan.segments
                out = ((rect.y + top) * target.width + rect.x + left) * plan.place_lines
                for block in range(plan.blocks):
                    line = self._weight_line[layer] + block * plan.block_lines
                    slot, key = accumulators.take(), self._key(layer, block)
                    unit(emitter, plan, source.images(first, count).shifted(start), block,
                         Weights(line, 0, plan.weight_tiles, key), slot, rect)
                    epilogue(emitter, plan, (line + plan.weight_tiles * self.config.rows, key), slot,
                             target.images(first, count).shifted(out + block * plan.block_results), rect,
                             plan.place_lines)


def _cycles(plan: ConvPlan, rects: list[Rect], group: int) -> float:
    """Estimated MATMUL cycles of a group."""
    merged = group if plan.layer.conv_size == (1, 1) else 1
    return plan.blocks * group / merged * sum(
        plan.product_cycles(plan.conv_pixels(rect.h, rect.w) * merged) + _PER_INSTRUCTION
        for rect in rects)
