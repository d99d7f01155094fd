"""Segments of layers that make each place of the same place alone."""

import itertools
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from kiwicha import ChipConfig
from kiwicha.isa import Unit

from ...program.memory_map import ceil_div
from ..conv.instructions import Place, Weights, epilogue, unit
from ..conv.plan import ConvPlan
from ..emitter import Addresses, Emitter, load_lines, transfer
from ..feature_maps import FeatureMaps
from ..geometry import Rect, Strides
from ..product.spans import split
from ..vector.kinds import work_of
from ..vector.plan import Box, VectorPlan
from ..vector.tiles import Tile, even_parts
from .estimate import cycles
from .interleave import Batch, Recorded, Recorder, interleaved
from .layout import Layout, blocks_together, pieces
from .stages import Stages, place_stride

__all__ = ["Pointwise"]

#: Groups of as many places as the array has rows that an image must be good for.
_LEAST = 4


class Pointwise:
    """Layers that work on places group by group, as :class:`Stages` says.

    Operands and results that other layers have or need are in memory; the rest never is. `size` places are a
    group. Weights are in the scratchpad, or `streamed`: they come for each group anew.
    """

    def __init__(self, config: ChipConfig, first: int, plans: list[ConvPlan | VectorPlan], stages: Stages,
                 size: int, streamed: bool):
        self.config, self.first, self.plans = config, first, plans
        self._stages, self._size, self._streamed = stages, size, streamed
        self._places = _places(plans[0])
        self._room = Layout(config, plans, stages, size, streamed)

    @classmethod
    def of(cls, config: ChipConfig, first: int, plans: list[ConvPlan | VectorPlan], maps: FeatureMaps
           ) -> "Pointwise | None":
        """With the size of groups that promises the fewest cycles; None if the layers cannot run so."""
        products = [isinstance(plan, ConvPlan) for plan in plans]
        places = _places(plans[0])
        if not any(products) or all(products) or places < _LEAST * config.rows:
            return None
        stages = Stages(plans, first, maps)
        found = list[Pointwise]()
        for size in (size for size in even_parts(places) if size >= config.rows):
            ways = (cls(config, first, plans, stages, size, streamed) for streamed in (False, True))
            found += itertools.islice((segment for segment in ways if segment._room.fits), 1)
        return min(found, key=lambda item: item.cycles, default=None)

    @property
    def cycles(self) -> float:
        """About how many an image takes."""
        return cycles(self.config, self.plans, self._stages, self._size, self._streamed)

    @staticmethod
    def takes(config: ChipConfig, plan: ConvPlan | VectorPlan) -> bool:
        """Whether such a segment can have the layer: its results are of one place each, and lie without gaps."""
        elements = ("int8",) if isinstance(plan, ConvPlan) else plan.image.elements
        if config.rows != config.columns or {*elements, plan.layer.element} != {"int8"}:
            return False
        if isinstance(plan, ConvPlan):
            if plan.kernel != (1, 1) or plan.strides != (1, 1) or plan.pads != (0, 0) or plan.layer.pool:
                return False
            views, size = [plan.source, plan.target], plan.size
        else:
            box, missing = plan.image, [item for item in plan.needs if not getattr(config, item)]
            if plan.layer.pool or box.words or box.constants or missing:
                return False
            second, size = plan.second, plan.layer.size
            if second is not None and bool(second.x) != bool(second.y) and min(size) > 1:
                return False
            views = [plan.source, plan.target, *([second] if second and (second.x or second.y) else [])]
        return plan.layer.out_size == size and all(size[1] == 1 or size[0] == 1 or view.y == size[1] * view.x
                                                   for view in views)

    def emit(self, emitter: Emitter, images: int, at: Sequence[Addresses]) -> None:
        """Instructions for `images` images."""
        groups = [_Group(image, start, size) for image in range(images)
                  for start, size in split(self._places, self._size)]
        self._load(emitter, -1, groups, at)
        sums, slots = _Sums(self.config, self._size), itertools.count()
        batches, others = self._step(0, groups, at, sums, slots)
        for step in range(len(groups) + self._stages.count - 1):
            self._load(emitter, step, groups, at)
            following = self._step(step + 1, groups, at, sums, slots)
            for item in interleaved(self.config, batches, others, following[0]):
                item.emit(emitter)
            batches, others = following

    def _step(self, step: int, groups: list["_Group"], at: Sequence[Addresses], sums: "_Sums",
              slots: Iterator[int]) -> tuple[list[Batch], list[Recorded]]:
        """What the array and the vector unit do in a step: each stage for its group, the last stage first."""
        batches, others = list[Batch](), list[Recorded]()
        for layer in sorted(range(len(self.plans)), key=lambda layer: -self._stages.of[layer]):
            number, plan = step - self._stages.of[layer], self.plans[layer]
            if not 0 <= number < len(groups):
                continue
            stored = Recorder(self.first + layer)
            if self._stages.stored[layer]:
                self._store(stored, layer, number, groups[number], at[layer])
            if isinstance(plan, ConvPlan):
                batches += self._multiplied(layer, plan, number, groups[number], sums, slots, at[layer].weights)
                batches[-1].results.extend(stored.items)
            else:
                others += [*self._computed(layer, plan, number, groups[number]), *stored.items]
        return batches, others

    # What comes from memory, and goes there.

    def _load(self, emitter: Emitter, step: int, groups: list["_Group"], at: Sequence[Addresses]) -> None:
        """What the next step needs that this one does not have."""
        for number, buffer in enumerate(self._stages.buffers):
            if buffer.loads is not None and 0 <= step - buffer.stage < len(groups):
                layer, is_second = buffer.loads
                self._load_group(emitter, number, step - buffer.stage, groups[step - buffer.stage], layer,
                                 is_second, at[layer])
        for layer, plan in enumerate(self.plans):
            if self._stages.of[layer] == step + 1:
                self._load_constants(emitter, layer, plan, at[layer].weights)

    def _load_group(self, emitter: Emitter, number: int, group: int, places: "_Group", layer: int, is_second: bool,
                    at: Addresses) -> None:
        plan, buffer = self.plans[layer], self._stages.buffers[number]
        apart, channels = plan.source, plan.channels if isinstance(plan, ConvPlan) else plan.layer.channels
        if is_second:
            assert isinstance(plan, VectorPlan) and plan.second is not None
            apart = plan.second
        emitter.layer = self.first + layer
        line, key = self._room.place(number, group)
        self._move(emitter, Unit.LOAD, at.second if is_second else at.source, apart, places, channels, line, key,
                   buffer.is_one)

    def _store(self, emitter: Emitter, layer: int, group: int, places: "_Group", at: Addresses) -> None:
        plan = self.plans[layer]
        line, key = self._room.place(self._stages.targets[layer], group)
        self._move(emitter, Unit.STORE, at.target, plan.target, places, plan.layer.out_channels, line, key, False)

    def _move(self, emitter: Emitter, kind: Unit, base: int, apart: Strides, places: "_Group", channels: int,
              line: int, key: Hashable, is_one: bool) -> None:
        stride = place_stride(_size(self.plans[0]), apart)
        start, count = (0, 1) if is_one else (places.start, places.count)
        transfer(emitter, kind, base + places.image * apart.image + start * stride, line, [key], channels,
                 self.config.columns, [(count, (stride, ceil_div(channels, self.config.columns)))])

    def _load_constants(self, emitter: Emitter, layer: int, plan: ConvPlan | VectorPlan, address: int) -> None:
        emitter.layer, line = self.first + layer, self._room.constants[layer]
        if isinstance(plan, VectorPlan):
            load_lines(emitter, self.config, address, line, plan.weight_lines, self._key(layer, 0))
            return
        for first, count in pieces(plan) if not self._streamed else ():
            lines = first * plan.block_lines
            load_lines(emitter, self.config, address + lines * self.config.line_bytes, line + lines,
                       count * plan.block_lines, self._key(layer, first))

    def _key(self, layer: int, block: int) -> Hashable:
        """The buffer that a layer's constants come into; of a product, those of a block."""
        plan = self.plans[layer]
        piece = next(i for i, (first, count) in enumerate(pieces(plan)) if first <= block < first + count
                     ) if isinstance(plan, ConvPlan) else 0
        return "w", self.first + layer, piece

    # What is computed.

    def _multiplied(self, layer: int, plan: ConvPlan, number: int, places: "_Group", sums: "_Sums",
                    slots: Iterator[int], weights: int) -> Iterator[Batch]:
        """Products of all blocks of output channels, and what makes results of them."""
        rect, blocks = Rect(0, 0, 1, places.count), plan.blocks
        line, key = self._room.place(self._stages.sources[layer], number)
        source = Place(line, places.count, 0, (key,))
        line, key = self._room.place(self._stages.targets[layer], number)
        target = Place(line, places.count, 0, (key,))
        for first, count in split(blocks, blocks_together(plan, self._size)):
            loads, products, results = (Recorder(self.first + layer) for _ in range(3))
            base, key = self._room.constants[layer] + first * plan.block_lines, None
            if self._streamed:
                base, key = self._room.slot(next(slots))
                load_lines(loads, self.config, weights + first * plan.block_lines * self.config.line_bytes, base,
                           count * plan.block_lines, key)
            for block, slot in zip(range(first, first + count), sums.take(count), strict=True):
                line, own = base + (block - first) * plan.block_lines, key or self._key(layer, block)
                unit(products, plan, source, block, Weights(line, 0, plan.weight_tiles, own), slot, rect)
                epilogue(results, plan, (line + plan.weight_tiles * self.config.rows, own), slot,
                         target.shifted(block), rect, blocks)
            yield Batch(products.items, results.items, deque(loads.items))

    def _computed(self, layer: int, plan: VectorPlan, number: int, places: "_Group") -> list[Recorded]:
        recorder, count, channels = Recorder(self.first + layer), places.count, plan.layer.channels
        dense, second = Strides.dense(channels, (1, count)), None
        if self._stages.seconds[layer] >= 0:
            is_one = self._stages.buffers[self._stages.seconds[layer]].is_one
            second = Strides(0, 0, 0) if is_one else dense
        box = plan.of(Box(1, channels, (1, count), (1, count), dense, second, dense, None))
        rect = Rect(0, 0, 1, count)
        work = work_of(plan.layer)(recorder, plan, box, self.first + layer, _Operands(self, layer),
                                   self._room.constants[layer])
        work.compute(Tile((0, 1), (0, ceil_div(channels, self.config.columns)), rect, rect), number)
        return recorder.items


@dataclass(frozen=True)
class _Group:
    """`count` places of an image from `start` on."""
    image: int
    start: int
    count: int


class _Sums:
    """Accumulators of products of `size` places: the halves in turn."""

    def __init__(self, config: ChipConfig, size: int):
        self._half, self._size = config.accumulator_lines // 2, size
        self._second = False

    def take(self, count: int) -> list[tuple[int, Hashable]]:
        """First lines of so many products in the half whose turn it is, and the buffer that all of it is: who
        reads some sums of it would wait for whoever writes others.
        """
        self._second = not self._second
        return [(self._second * self._half + slot * self._size, ("half", self._second)) for slot in range(count)]


class _Operands:
    """Where a layer's operands and results are: the vector unit's :class:`.Room`, with groups as tiles."""
    slots = 1       # what reduces rows has no room but one for that

    def __init__(self, segment: Pointwise, layer: int):
        self._stages, self._room, self._layer = segment._stages, segment._room, layer
        self._constants = segment._key(layer, 0)

    def input(self, number: int) -> tuple[int, list[Hashable]]:
        line, key = self._room.place(self._stages.sources[self._layer], number)
        return line, [key, self._constants]

    def second(self, number: int) -> tuple[int, list[Hashable]]:
        line, key = self._room.place(self._stages.seconds[self._layer], number)
        return line, [key]

    def output(self, number: int) -> tuple[int, Hashable]:
        return self._room.place(self._stages.targets[self._layer], number)

    def row_lines(self, number: int) -> int:
        return self._room.rows


def _size(plan: ConvPlan | VectorPlan) -> tuple[int, int]:
    return plan.size if isinstance(plan, ConvPlan) else plan.layer.size


def _places(plan: ConvPlan | VectorPlan) -> int:
    h, w = _size(plan)
    return h * w


