"""Weights that ONNX Runtime would make part of a product in a part of a model, and does not in the whole."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from .ir.graph import Graph

__all__ = ["shared_weights"]

#: ONNX Runtime makes one of equal constants of up to so many elements.
_SMALL = 8


def shared_weights(graph: Graph) -> set[str]:
    """Constants that are codes of a product's weights, and that something else keeps from becoming part of it.

    Of a product with codes that only it takes ONNX Runtime makes MatMulNBits, which rounds the other operand to
    eight bits: not if something else takes the codes, their scale, or the numbers that they stand for. A part of
    the model may lack what else does.
    """
    makers = {name: op for op in graph.ops for name in op.outputs}
    reads = Counter([*graph.outputs, *(name for op in graph.ops for name in op.reads)])
    equal = Counter[tuple]()
    for name in reads.keys() & graph.constants.keys():
        equal[_value(name, graph.constants)] += reads[name]
    found = set()
    for op in graph.ops:
        if op.kind not in ("MatMul", "Gemm"):
            continue
        first, second = (makers.get(name) for name in op.inputs[:2])
        if second is None or second.kind != "DequantizeLinear" or second.inputs[0] not in graph.constants or (
                first is not None and first.kind == "DequantizeLinear"):
            continue
        codes, scale = second.inputs[:2]
        if reads[codes] > 1 or reads[op.inputs[1]] > 1 or (
                scale in graph.constants and equal[_value(scale, graph.constants)] > 1):
            found.add(codes)
    return found


def _value(name: str, constants: Mapping[str, np.ndarray]) -> tuple:
    array = constants[name]
    return (array.dtype, array.shape, array.tobytes()) if array.size <= _SMALL else (name,)
