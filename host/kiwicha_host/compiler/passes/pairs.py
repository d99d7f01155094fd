"""Pairs of QuantizeLinear and DequantizeLinear where ONNX Runtime has them in the end."""

from ..ir.graph import Graph
from .double_pairs import double_pairs
from .pairs_around_moves import pairs_around_moves

__all__ = ["pairs"]

#: ONNX Runtime makes no more.
_ROUNDS = 10


def pairs(graph: Graph) -> Graph:
    """The graph after ONNX Runtime's passes for pairs, in turn as it has them, until they change nothing.

    What nothing needs still counts for them: so this comes before all else.
    """
    constants = {op.outputs[0]: op.attributes["value"] for op in graph.ops
                 if op.kind == "Constant" and "value" in op.attributes}
    if constants:
        ops = tuple(op for op in graph.ops if op.outputs[0] not in constants)
        graph = graph.with_ops(ops, {**graph.constants, **constants})
    for _ in range(_ROUNDS):
        before, graph = graph, pairs_around_moves(double_pairs(graph))
        if graph is before:
            break
    return graph
