"""Leave out what no output needs."""

from ..ir.graph import Graph

__all__ = ["remove_dead"]


def remove_dead(graph: Graph) -> Graph:
    """The graph without the operators, constants and types that no output hangs on."""
    wanted, kept = set(graph.outputs), []
    for op in reversed(graph.ops):
        if wanted.intersection(op.outputs):
            wanted.update(op.reads)
            kept.append(op)
    return graph.with_ops(tuple(reversed(kept)))
