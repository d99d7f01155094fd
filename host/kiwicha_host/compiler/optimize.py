"""A model's graph, after all that makes it simpler."""

from collections.abc import Callable, Mapping
from typing import Any

from .frontend.onnx.model_file import read_model
from .frontend.onnx.reader import graph_of
from .ir.graph import Graph
from .passes import PASSES, bind_dims

__all__ = ["STAGES", "improve_graph", "optimize"]

#: What happens to a graph, in this order.
STAGES = ("read", "bind_dims", *(item.__name__ for item in PASSES))


def optimize(model: Any, dims: Mapping[str, int] | None = None,
             watch: Callable[[str, Graph], None] = lambda name, graph: None) -> Graph:
    """The graph of a model after all passes; `watch` is called with it after each of :data:`STAGES`."""
    return improve_graph(graph_of(read_model(model)), dims, watch)


def improve_graph(graph: Graph, dims: Mapping[str, int] | None = None,
                  watch: Callable[[str, Graph], None] = lambda name, graph: None) -> Graph:
    """`graph` after all passes, and what :func:`optimize` says."""
    watch("read", graph)
    graph = bind_dims(graph, dims or {})
    watch("bind_dims", graph)
    for improve in PASSES:
        graph = improve(graph).verify()
        watch(improve.__name__, graph)
    return graph
