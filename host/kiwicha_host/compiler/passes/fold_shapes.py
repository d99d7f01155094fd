"""Shapes that are known become constants."""

import numpy as np

from ..ir.graph import Graph, Op
from .fold_constants import fold_constants
from .infer_types import infer_types

__all__ = ["fold_shapes"]


def fold_shapes(graph: Graph) -> Graph:
    """The graph with the types that follow from those of its inputs, and without operators that compute shapes.

    Exporters write a Reshape's shape as a computation of the input's; with all sizes known, it is a constant.
    """
    while True:
        graph = infer_types(graph)
        shapes: dict[str, np.ndarray] = {}
        for op in graph.ops:
            shapes |= _known(graph, op)
        if not shapes:
            return graph
        ops = tuple(op for op in graph.ops if not set(op.outputs) & set(shapes))
        graph = fold_constants(graph.with_ops(ops, {**graph.constants, **shapes}))


def _known(graph: Graph, op: Op) -> dict[str, np.ndarray]:
    """The result of an operator that asks for a shape which is known."""
    type_ = graph.type_of(op.inputs[0]) if op.kind in ("Shape", "Size") else None
    if type_ is None or type_.shape is None or op.outputs[0] in graph.outputs:
        return {}
    shape = type_.shape
    if op.kind == "Shape":
        shape = shape[slice(op.attributes.get("start", 0), op.attributes.get("end"))]
    if not all(isinstance(dim, int) for dim in shape):
        return {}
    sizes = np.array(shape, np.int64)
    return {op.outputs[0]: sizes if op.kind == "Shape" else sizes.prod(dtype=np.int64)}
