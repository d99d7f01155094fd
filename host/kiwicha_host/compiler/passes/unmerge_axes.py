"""A Transpose that has the first two axes as one, by a Reshape before and one behind it, has both.

So PyTorch's newer exporter transposes the keys of attention: of [batch, heads, places, features] by
[batch * heads, places, features].
"""

from ..ir.graph import Graph, Op
from .codes import Work
from .remove_dead import remove_dead

__all__ = ["unmerge_axes"]


def unmerge_axes(graph: Graph) -> Graph:
    """The graph with one Transpose in the place of Reshape, Transpose and Reshape, where that is the same."""
    work = Work(graph)
    return remove_dead(graph.with_ops(tuple(_unmerged(work, op) or op for op in graph.ops)))


def _unmerged(work: Work, op: Op) -> Op | None:
    """What the Reshape `op` is then."""
    transpose = work.maker(op.inputs[0]) if op.kind == "Reshape" else None
    merge = None if transpose is None or transpose.kind != "Transpose" else work.maker(transpose.inputs[0])
    if transpose is None or merge is None or merge.kind != "Reshape":
        return None
    perm = transpose.attributes.get("perm", [1])
    shapes = [work.shape(name) for name in (merge.inputs[0], merge.outputs[0], op.outputs[0])]
    if perm[0] or any(shape is None or not all(isinstance(size, int) and size for size in shape[1:])
                      for shape in shapes):
        return None
    before, merged, after = (shape or () for shape in shapes)
    if len(before) != len(perm) + 1 or before[2:] != merged[1:] or after[1:] != (
            before[1], *(merged[axis] for axis in perm[1:])):
        return None
    whole = [0, 1, *(axis + 1 for axis in perm[1:])]
    return Op(op.name, "Transpose", (merge.inputs[0],), op.outputs, {"perm": whole})
