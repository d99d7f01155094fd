"""The order in which a network's layers run."""

from dataclasses import replace

from ..ir.layers import LayerGraph

__all__ = ["scheduled", "writers"]


def writers(graph: LayerGraph) -> dict[int, set[int]]:
    """The layers that write to each feature map, or to one that is a part of it."""
    found: dict[int, set[int]] = {number: set() for number in range(len(graph.maps))}
    for layer, target in enumerate(graph.targets):
        number: int | None = target.map
        while number is not None:
            found[number].add(layer)
            place = graph.maps[number].place
            number = None if place is None else place.map
    return found


def scheduled(graph: LayerGraph) -> LayerGraph:
    """The same layers such that each, where it can, comes at once after the one whose result it takes."""
    written = writers(graph)
    takes = [{view.map for view in pair if view} for pair in zip(graph.sources, graph.seconds, strict=True)]
    needs = [set().union(*(written[number] for number in numbers)) for numbers in takes]
    order: list[int] = []
    left, done = list(range(len(graph.layers))), set[int]()
    while left:
        ready = [layer for layer in left if needs[layer] <= done]
        last = graph.targets[order[-1]].map if order else -1
        layer = next((layer for layer in ready if last in takes[layer]), ready[0])
        left.remove(layer)
        order.append(layer)
        done.add(layer)
    return replace(graph, layers=[graph.layers[layer] for layer in order],
                   sources=[graph.sources[layer] for layer in order],
                   targets=[graph.targets[layer] for layer in order],
                   seconds=[graph.seconds[layer] for layer in order])
