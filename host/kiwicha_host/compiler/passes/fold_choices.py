"""The largest of numbers that come from codes are where the largest codes are."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op
from .codes import Codes, Work, is_sound
from .remove_dead import remove_dead

__all__ = ["fold_choices"]

_KINDS = ("ArgMax", "ArgMin", "TopK")


def fold_choices(graph: Graph) -> Graph:
    """The graph with ArgMax, ArgMin and TopK of codes in the place of those of numbers; TopK's values are numbers
    of codes then.
    """
    work, ops = Work(graph), list[Op]()
    for op in graph.ops:
        codes = work.codes(op, 0) if op.kind in _KINDS else None
        ops += [op] if codes is None or not _keeps_order(work, codes) else _on_codes(work, op, codes)
    return remove_dead(graph.with_ops(tuple(ops)))


def _keeps_order(work: Work, codes: Codes) -> bool:
    """Whether different codes stand for different numbers."""
    scale, zero = work.scalar(codes.scale), work.scalar(codes.zero)
    with np.errstate(over="ignore"):
        return scale is not None and is_sound(scale, zero) and bool(np.isfinite(scale * np.float32(255)))


def _on_codes(work: Work, op: Op, codes: Codes) -> list[Op]:
    op = replace(op, inputs=(codes.name, *op.inputs[1:]))
    if op.kind != "TopK" or not op.outputs[0]:
        return [op]
    values, *others = op.outputs
    largest = work.fresh(f"{values}_codes")
    return [replace(op, outputs=(largest, *others)),
            Op(f"{op.name}:numbers", "DequantizeLinear", (largest, codes.scale, codes.zero), (values,))]
