"""Leave out factors that change no code, for the result's scale was chosen by them: such as 1 / 8 of scores."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op
from .codes import Work
from .fold_elementwise import ELEMENTWISE

__all__ = ["drop_copies"]

#: From a whole number, at most: whoever rounds it, and however, comes to that.
_NEAR = 0.25


def drop_copies(graph: Graph) -> Graph:
    """The graph without products of codes and one number that are the same codes, but for the graph's outputs."""
    same, ops, fixed = dict[str, str](), list[Op](), graph.fixed
    for op in graph.ops:
        op = op.renamed(same)
        if op.kind == ELEMENTWISE and op.outputs[0] not in fixed and _copies(graph, op):
            same[op.outputs[0]] = op.inputs[0]
        else:
            ops.append(op)
    return graph.with_ops(tuple(ops)) if same else graph


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
