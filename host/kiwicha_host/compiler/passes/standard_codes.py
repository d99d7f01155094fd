"""QuantizeLinear and DequantizeLinear of ONNX Runtime's own domain become ONNX's, where both do the same."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op

__all__ = ["standard_codes"]

_DOMAIN = "com.microsoft."
#: Types of codes that ONNX's operators have known from the first; int32 are biases.
_TYPES = {"QuantizeLinear": (np.int8, np.uint8), "DequantizeLinear": (np.int8, np.uint8, np.int32)}
#: The first versions of ONNX's operators, and of those with scales along an axis.
_FIRST, _AXIS = 10, 13


def standard_codes(graph: Graph) -> Graph:
    """The graph with ONNX's operators for codes of 8 bits by constant scales; others stay.

    Some quantizers write those of ONNX Runtime, which knew 16 bits and half precision before ONNX did.
    """
    ops = tuple(_standard(graph, op) for op in graph.ops)
    return graph if ops == graph.ops else graph.with_ops(ops)


def _standard(graph: Graph, op: Op) -> Op:
    kind, version = op.kind.removeprefix(_DOMAIN), graph.opsets.get("", 0)
    if kind == op.kind or kind not in _TYPES or version < _FIRST:
        return op
    scale = graph.constants.get(op.inputs[1])
    zero = next(filter(None, op.inputs[2:]), "")
    codes = graph.type_of(zero or op.inputs[0]) if zero or kind == "DequantizeLinear" else None
    # Without a zero point QuantizeLinear makes uint8.
    known = codes is not None and codes.element in (np.dtype(item).name for item in _TYPES[kind])
    if scale is None or scale.dtype != np.float32 or not (known or (not zero and kind == "QuantizeLinear")):
        return op
    if version >= _AXIS:
        return replace(op, kind=kind)
    attributes = {name: value for name, value in op.attributes.items() if name != "axis"}
    return replace(op, kind=kind, attributes=attributes) if scale.size == 1 else op
