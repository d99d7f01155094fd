"""Signed codes between QuantizeLinear and DequantizeLinear become unsigned ones, which stand for the same numbers.

ONNX Runtime does so too before it makes integer operators of what is around them, some of which round in a way of
their own. Its parts of a model see unsigned codes at their edges, and so do what they would in the whole.
"""

from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op
from .codes import Work

__all__ = ["unsigned_codes"]


def unsigned_codes(graph: Graph) -> Graph:
    """The graph with uint8 in the place of int8 wherever only DequantizeLinear takes the codes.

    But those of a Softmax stay signed where they do in ONNX Runtime: if its codes are of two types then, it has no
    operator on codes for it, which would round the reciprocal of the result's scale down, and computes in numbers.
    """
    work = Work(graph)
    constants, changed = dict(graph.constants), dict[str, Op]()
    taken = {*graph.inputs, *graph.constants, *(name for op in graph.ops for name in op.outputs)}
    for op in graph.ops:
        if op.kind != "QuantizeLinear" or op.outputs[0] in graph.outputs:
            continue
        takers = work.readers(op.outputs[0])
        if _is_of_softmax(work, op, takers) and not work.is_pair(op.outputs[0]):
            continue
        if all(item.kind == "DequantizeLinear" and item.inputs[0] == op.outputs[0] for item in takers) and all(
                _signed(graph, item) for item in (op, *takers)):
            changed |= {item.name: _shifted(item, constants, taken) for item in (op, *takers)}
    made = {op.outputs[0] for op in changed.values() if op.kind == "QuantizeLinear"}
    types = {name: replace(type_, element="uint8") if name in made else type_
             for name, type_ in graph.types.items()}
    ops = tuple(changed.get(op.name, op) for op in graph.ops)
    return replace(graph, types=types).with_ops(ops, constants) if changed else graph


def _is_of_softmax(work: Work, quantize: Op, takers: Sequence[Op]) -> bool:
    """Whether a Softmax makes, or takes, the numbers."""
    beside = work.maker(quantize.inputs[0]), *(op for taker in takers for op in work.readers(taker.outputs[0]))
    return any(op is not None and op.kind == "Softmax" for op in beside)


def _signed(graph: Graph, op: Op) -> bool:
    """Whether its codes are int8 by a constant zero point, and nothing else says of which type they are."""
    zero = graph.constants.get(op.inputs[2]) if len(op.inputs) > 2 else None
    return zero is not None and zero.dtype == np.int8 and not op.attributes.get("output_dtype")


def _shifted(op: Op, constants: dict[str, np.ndarray], taken: Set[str]) -> Op:
    name = f"{op.inputs[2]} + 128"
    while name in taken:
        name += "_"
    constants[name] = (constants[op.inputs[2]].astype(np.int16) + 128).astype(np.uint8)
    return replace(op, inputs=(*op.inputs[:2], name))
