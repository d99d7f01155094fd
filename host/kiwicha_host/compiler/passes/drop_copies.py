"""Leave out what changes no code: factors by which the result's scale was chosen, such as 1 / 8 of scores, axes
that come and go, and operands of a Concat that have no elements."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op
from .codes import Work
from .fold_elementwise import ELEMENTWISE
from .remove_dead import remove_dead

__all__ = ["drop_copies"]

#: From a whole number, at most: whoever rounds it, and however, comes to that.
_NEAR = 0.25
#: Where the first operand is, and how many inputs each has.
_CONCATS = {"Concat": (0, 1), "com.microsoft.QLinearConcat": (2, 3)}
_NOT_EMPTY = np.zeros(1)


def drop_copies(graph: Graph) -> Graph:
    """The graph without products of codes and one number that are the same codes, and Squeeze that undoes an
    Unsqueeze, but for the graph's outputs; and without constants to put beside others that are empty."""
    same, ops, fixed, added = dict[str, str](), list[Op](), graph.fixed, dict[str, Op]()
    for op in graph.ops:
        op = _without_empty(graph, op.renamed(same))
        before = added.get(op.inputs[0]) if op.kind == "Squeeze" else None
        if op.outputs[0] not in fixed and before is not None and _axes(graph, op) == _axes(graph, before):
            same[op.outputs[0]] = before.inputs[0]
        elif op.outputs[0] not in fixed and op.kind == ELEMENTWISE and _copies(graph, op):
            same[op.outputs[0]] = op.inputs[0]
        else:
            ops.append(op)
        if op.kind == "Unsqueeze" and _axes(graph, op):
            added[op.outputs[0]] = op
    return remove_dead(graph.with_ops(tuple(ops)))


def _axes(graph: Graph, op: Op) -> list[int]:
    """Those of a Squeeze or Unsqueeze, if they are known and counted from the front."""
    given = graph.constants.get(op.inputs[1]) if len(op.inputs) > 1 else op.attributes.get("axes")
    axes = [] if given is None else sorted(int(axis) for axis in np.ravel(given))
    return axes if min(axes, default=0) >= 0 else []


def _without_empty(graph: Graph, op: Op) -> Op:
    """`op`, a Concat without its empty constants, if it has others."""
    first, each = _CONCATS.get(op.kind, (0, 0))
    starts = range(first, len(op.inputs), each) if each else ()
    kept = [start for start in starts if graph.constants.get(op.inputs[start], _NOT_EMPTY).size]
    if not kept or len(kept) == len(starts):
        return op
    operands = (name for start in kept for name in op.inputs[start:start + each])
    return replace(op, inputs=(*op.inputs[:first], *operands))


def _copies(graph: Graph, op: Op) -> bool:
    parts = [part for part in op.attributes["ops"] if part.kind != "DequantizeLinear"]
    if op.attributes["join"] or [part.kind for part in parts] not in (["Mul", "QuantizeLinear"],
                                                                      ["Div", "QuantizeLinear"]):
        return False
    work = Work(replace(graph, ops=op.attributes["ops"]))
    scale, zero, new_scale, new_zero = (work.scalar(name) for name in op.inputs[1:5])
    factors = [number for name in parts[0].inputs if (number := work.number(name)) is not None]
    if scale is None or zero is None or new_scale is None or new_zero is None or len(factors) != 1 or (
            zero.dtype != new_zero.dtype):
        return False
    limits, factor = np.iinfo(zero.dtype), np.float64(factors[0])
    if parts[0].kind == "Div" and (factor == 0 or work.number(parts[0].inputs[0]) is not None):
        return False
    codes = np.arange(limits.min, limits.max + 1)
    ratio = np.float64(scale) / np.float64(new_scale) * (factor if parts[0].kind == "Mul" else 1 / factor)
    return bool((np.abs((codes - int(zero)) * ratio + int(new_zero) - codes) < _NEAR).all())
