"""A Gather of one element along an axis becomes a Slice."""

import numpy as np

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Work

__all__ = ["gather_one"]


def gather_one(graph: Graph) -> Graph:
    """The graph with a Slice, and a Squeeze if need be, in the place of each Gather whose index is one constant.

    So a transformer takes its first token.
    """
    work, ops = Work(graph), list[Op]()
    for op in graph.ops:
        ops += _sliced(work, op) if op.kind == "Gather" else [op]
    return with_unique_names(graph.with_ops(tuple(ops), work.constants))


def _sliced(work: Work, op: Op) -> list[Op]:
    index, axis = work.array(op.inputs[1]), op.attributes.get("axis", 0)
    # The inputs of Slice, and of Squeeze, were attributes before.
    if index is None or index.size != 1 or index.ndim > 1 or work.opset < 13 or op.inputs[0] in work.constants:
        return [op]
    first = int(index.reshape(()))
    end = first + 1 if first != -1 else np.iinfo(np.int64).max
    starts, ends, axes = (work.constant(f"{op.name}_{name}", np.array([value], np.int64)) for name, value in
                          (("start", first), ("end", end), ("axis", axis)))
    if index.ndim:
        return [Op(op.name, "Slice", (op.inputs[0], starts, ends, axes), op.outputs)]
    inner = work.fresh(f"{op.outputs[0]}_slice")
    return [Op(op.name, "Slice", (op.inputs[0], starts, ends, axes), (inner,)),
            Op(f"{op.name}_squeeze", "Squeeze", (inner, axes), op.outputs)]
