"""A network's feature maps: who writes and reads them, and where they are in memory."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ..ir.layers import LayerGraph, View
from ..program.memory_map import MemoryMap, Region
from .buffers import Lifetime, allocate
from .emitter import Addresses
from .geometry import Strides
from .schedule import writers

__all__ = ["FeatureMaps"]


class FeatureMaps:
    """Of the layers of `graph`, in the order in which they run."""

    def __init__(self, graph: LayerGraph):
        self._graph = graph
        self._writers = writers(graph)
        self._taken = [tuple(view for view in pair if view is not None)
                       for pair in zip(graph.sources, graph.seconds, strict=True)]
        self._takers = Counter(view.map for views in self._taken for view in views) + Counter(
            item.view.map for item in graph.outputs)
        self._given = {item.map for item in graph.inputs}

    # What is where.

    def _strides(self, view: View) -> Strides:
        view = self._graph.rooted(view)
        whole = self._graph.maps[view.map]
        dense = Strides.dense(whole.channels * whole.dtype.itemsize, whole.size)
        return Strides(view.step[1] * dense.x, view.step[0] * dense.y, dense.image)

    def source(self, layer: int) -> Strides:
        """Of the view that a layer reads."""
        return self._strides(self._graph.sources[layer])

    def target(self, layer: int) -> Strides:
        """Of the view that a layer writes."""
        return self._strides(self._graph.targets[layer])

    def second(self, layer: int) -> Strides | None:
        """Of a layer's operand B, zero where a place counts for all; None without one, or if that is A too."""
        source, second = self._graph.sources[layer], self._graph.seconds[layer]
        if second is None or self._graph.rooted(second) == self._graph.rooted(source):
            return None
        strides, (h, w) = self._strides(second), second.size
        return Strides(strides.x if w == source.size[1] else 0, strides.y if h == source.size[0] else 0,
                       strides.image)

    def _address(self, bases: Mapping[int, int], view: View) -> int:
        view = self._graph.rooted(view)
        whole = self._graph.maps[view.map]
        within = (view.origin[0] * whole.size[1] + view.origin[1]) * whole.channels + view.channel
        return bases[view.map] + within * whole.dtype.itemsize if view.map in bases else 0

    def addresses(self, bases: Mapping[int, int], layer: int, weights: int) -> Addresses:
        """Of a layer; `bases` are the addresses of maps that are in no other."""
        second = self._graph.seconds[layer]
        return Addresses(weights, self._address(bases, self._graph.sources[layer]),
                         self._address(bases, self._graph.targets[layer]),
                         self._address(bases, second) if second is not None else 0)

    # Who has it.

    def arranged(self, layer: int) -> bool:
        """Whether the host may arrange the layer's input as the layer likes it best: nothing else sees that."""
        source = self._graph.sources[layer]
        return self._is_whole(source) and source.map in self._given and self._takers[source.map] == 1

    def arranged_for(self, number: int) -> int | None:
        """The layer for which the host arranges the map of that number, if it does for one."""
        return next((layer for layer, source in enumerate(self._graph.sources)
                     if source.map == number and self.arranged(layer)), None)

    def leads_to_next(self, layer: int) -> bool:
        """Whether a layer's result is all that the next takes, and only that takes it."""
        source, target = self._graph.sources[layer + 1], self._graph.targets[layer]
        return source == target and self._is_whole(source) and self._takers[source.map] == 1 and len(
            self._writers[source.map]) == 1

    # Layers in a row.

    def joins(self, layer: int, layers: range) -> bool:
        """Whether a layer takes results of `layers` as they are written, if any."""
        written = {self._graph.rooted(self._graph.targets[item]).map for item in layers}
        return all(self.maker(view, layers) is not None or self._graph.rooted(view).map not in written
                   for view in self._taken[layer])

    def makers(self, layer: int, layers: range) -> tuple[int | None, int | None]:
        """Which of `layers` write what a layer reads, as operand A and as B."""
        source, second = self._graph.sources[layer], self._graph.seconds[layer]
        return self.maker(source, layers), None if second is None else self.maker(second, layers)

    def operands(self, layer: int) -> tuple[View, View | None]:
        """What a layer reads, as boxes of maps that are in no other."""
        source, second = self._graph.sources[layer], self._graph.seconds[layer]
        return self._graph.rooted(source), None if second is None else self._graph.rooted(second)

    def maker(self, view: View, layers: range) -> int | None:
        """Which of `layers` writes a view, neither more nor less."""
        return next((layer for layer in layers if self._graph.rooted(self._graph.targets[layer])
                     == self._graph.rooted(view)), None)

    def leaves(self, layer: int, layers: range) -> bool:
        """Whether anything but `layers` takes what one of them writes, or a part of that; or nothing does."""
        number = self._graph.rooted(self._graph.targets[layer]).map
        takers = {other for other, views in enumerate(self._taken) for view in views
                  if self._graph.rooted(view).map == number}
        is_output = any(self._graph.rooted(item.view).map == number for item in self._graph.outputs)
        return is_output or not takers or not takers <= {*layers}

    def outside(self, layers: range) -> list[View]:
        """What layers that are resident together read and write in memory."""
        return [*(view for layer in layers for view in self._taken[layer] if self.maker(view, layers) is None),
                *(self._graph.targets[layer] for layer in layers if self.leaves(layer, layers))]

    def _is_whole(self, view: View) -> bool:
        return view == self._graph.whole(view.map) and self._graph.maps[view.map].place is None

    def traffic(self) -> Iterator[tuple[int, int]]:
        """Layers, and bytes per image that they bring from the host or make for it."""
        roots = [{self._graph.rooted(view).map for view in views} for views in self._taken]
        for item in self._graph.inputs:
            root = self._graph.rooted(self._graph.whole(item.map)).map
            first = next((layer for layer, taken in enumerate(roots) if root in taken), 0)
            yield first, self._graph.maps[item.map].image_bytes
        for output in self._graph.outputs:
            view = output.view
            yield (max(self._writers[view.map], default=len(roots) - 1),
                   view.channels * view.size[0] * view.size[1] * self._graph.maps[view.map].dtype.itemsize)

    # Memory.

    def allocate(self, memory: MemoryMap, segments: Sequence[range], sizes: Mapping[int, int], images: int
                 ) -> tuple[dict[int, int], Region]:
        """Addresses of the maps that are in no other and that some segment, a range of layers, reads or writes;
        and the region of those that the host reads.

        `sizes` are the bytes of an image of those maps that have another form than their own.
        """
        lifetimes = self._lifetimes(segments, sizes, images)
        kept = dict.fromkeys(self._graph.rooted(item.view).map for item in self._graph.outputs)
        offsets, size = allocate({number: item for number, item in lifetimes.items() if number not in kept})
        region = memory.region(size)
        bases = {number: region.base + offset for number, offset in offsets.items()}
        regions = {number: memory.region(lifetimes[number].size) for number in kept}
        bases |= {number: item.base for number, item in regions.items()}
        ends = [item.end for item in regions.values()]
        first = min(item.base for item in regions.values())
        return bases, Region(first, max(ends) - first)

    def _lifetimes(self, segments: Sequence[range], sizes: Mapping[int, int], images: int) -> dict[int, Lifetime]:
        """Of all maps that are in no other, if the host did not read any; segments read first, and write last."""
        used: dict[int, list[int]] = {}
        for item in self._graph.inputs:
            used.setdefault(self._graph.rooted(self._graph.whole(item.map)).map, []).append(-1)
        for segment, layers in enumerate(segments):
            for view in self.outside(layers):
                used.setdefault(self._graph.rooted(view).map, []).append(segment)
        bytes_of = {number: sizes.get(number, self._graph.maps[number].image_bytes) for number in used}
        return {number: Lifetime(images * bytes_of[number], min(when), max(when)) for number, when in used.items()}
