"""A model's graph, after all that makes it simpler."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .frontend.onnx.reader import read_graph
from .ir.graph import Graph
from .passes import PASSES, bind_dims

__all__ = ["STAGES", "optimize"]

#: What happens to a graph, in this order.
STAGES = ("read", "bind_dims", *(item.__name__ for item in PASSES))


def optimize(model: Any, dims: Mapping[str, int] | None = None,
             watch: Callable[[str, Graph], None] = lambda name, graph: None) -> Graph:
    """The graph of a model after all passes; `watch` is called with it after each of :data:`STAGES`."""
    graph = read_graph(model)
    watch("read", graph)
    for improve in (partial(bind_dims, dims=dims or {}), *PASSES):
        graph = improve(graph)
        watch(getattr(improve, "__name__", "bind_dims"), graph)
    return graph
