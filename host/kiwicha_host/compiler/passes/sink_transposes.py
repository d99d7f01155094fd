"""What takes a part of an axis that a Transpose has put to the batch's place takes it before the Transpose.

So attention's queries, keys and values, parts of one product: exporters transpose [batch, places, 3, heads,
features] to [3, batch, heads, places, features], and take one of three.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Work
from .remove_dead import remove_dead

__all__ = ["sink_transposes"]


def sink_transposes(graph: Graph) -> Graph:
    """The graph with Gather, Slice and Squeeze before each Transpose that does not leave the first axis alone."""
    work, made, ops = Work(graph), dict[str, Op](), list[Op]()
    for op in graph.ops:
        before = made.get(op.inputs[0]) if op.inputs and op.kind in _RULES else None
        found = _RULES[op.kind](work, op, before.attributes["perm"]) if before is not None else None
        if before is None or found is None:
            ops.append(op)
        else:
            moved, perm = found
            part = work.fresh(f"{op.outputs[0]}:part")
            ops += [replace(moved, inputs=(before.inputs[0], *moved.inputs[1:]), outputs=(part,)),
                    Op(before.name, "Transpose", (part,), op.outputs, {"perm": perm})]
        last = ops[-1]
        if last.kind == "Transpose" and last.attributes.get("perm", [0])[0]:
            made[last.outputs[0]] = last
    return with_unique_names(remove_dead(graph.with_ops(tuple(ops), work.constants)))


#: What an operator is before a Transpose with that permutation, and the permutation then.
_Rule = Callable[[Work, Op, Sequence[int]], tuple[Op, list[int]] | None]


def _gather(work: Work, op: Op, perm: Sequence[int]) -> tuple[Op, list[int]] | None:
    """Of one element, or of several in a row."""
    index, axis = work.array(op.inputs[1]), op.attributes.get("axis", 0)
    if index is None or index.ndim > 1 or not -len(perm) <= axis < len(perm):
        return None
    axis %= len(perm)
    moved = replace(op, attributes={**op.attributes, "axis": perm[axis]})
    return moved, list(perm) if index.ndim else _without(perm, [axis])


def _slice(work: Work, op: Op, perm: Sequence[int]) -> tuple[Op, list[int]] | None:
    given = work.array(op.inputs[3]) if len(op.inputs) > 3 and op.inputs[3] else None
    axes = None if given is None else np.ravel(given)
    if axes is None or not (np.abs(axes + 0.5) < len(perm)).all():
        return None
    return _with_axes(work, op, 3, [perm[axis] for axis in axes]), list(perm)


def _squeeze(work: Work, op: Op, perm: Sequence[int]) -> tuple[Op, list[int]] | None:
    given = work.array(op.inputs[1]) if len(op.inputs) > 1 else op.attributes.get("axes")
    axes = None if given is None else np.ravel(given)
    if axes is None or not (np.abs(axes + 0.5) < len(perm)).all():
        return None
    return _with_axes(work, op, 1, [perm[axis] for axis in axes]), _without(perm, axes.tolist())


_RULES: dict[str, _Rule] = {"Gather": _gather, "Slice": _slice, "Squeeze": _squeeze}


def _with_axes(work: Work, op: Op, index: int, axes: Sequence[int]) -> Op:
    """`op` along other axes, an attribute of its or its input `index`."""
    if "axes" in op.attributes:
        return replace(op, attributes={**op.attributes, "axes": list(axes)})
    name = work.constant(f"{op.outputs[0]}:axes", np.array(axes, np.int64))
    return replace(op, inputs=(*op.inputs[:index], name, *op.inputs[index + 1:]))


def _without(perm: Sequence[int], axes: Sequence[int]) -> list[int]:
    """The permutation of what is left without the axes `axes` of the result."""
    gone = {axis % len(perm) for axis in axes}
    kept = [source for axis, source in enumerate(perm) if axis not in gone]
    return [sorted(kept).index(source) for source in kept]
