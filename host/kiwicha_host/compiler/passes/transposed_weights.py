"""A Transpose of numbers that constant codes stand for becomes one of these codes.

PyTorch's linear layers transpose their weights, and with them the axis along which these have scales.
"""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op
from .codes import Work, read
from .remove_dead import remove_dead

__all__ = ["transposed_weights"]


def transposed_weights(graph: Graph) -> Graph:
    """The graph with DequantizeLinear of transposed constants in the place of Transpose of DequantizeLinear."""
    work = Work(graph)
    ops = tuple(_transposed(work, op) for op in graph.ops)
    return remove_dead(graph.with_ops(ops, work.constants)) if ops != graph.ops else graph


def _transposed(work: Work, op: Op) -> Op:
    maker = work.maker(op.inputs[0]) if op.kind == "Transpose" else None
    source = read(maker) if maker is not None and maker.kind == "DequantizeLinear" else None
    codes, scale = (work.array(source.name), work.array(source.scale)) if source else (None, None)
    if maker is None or source is None or codes is None or scale is None:
        return op
    order = op.attributes.get("perm", list(range(codes.ndim))[::-1])
    name = work.constant(f"{op.outputs[0]}_codes", np.ascontiguousarray(codes.transpose(order)))
    axis = {"axis": order.index(source.axis % codes.ndim)} if scale.size > 1 else {}
    return replace(maker, name=op.name, inputs=(name, *maker.inputs[1:]), outputs=op.outputs,
                   attributes={**maker.attributes, **axis})
