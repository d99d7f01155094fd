"""QuantizeLinear and DequantizeLinear without a zero point get the one that they mean: 0, of the codes' type."""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op

__all__ = ["zero_points"]

#: The types of codes by ONNX's numbers; without any, they are uint8.
_TYPES = {0: np.uint8, 2: np.uint8, 3: np.int8}


def zero_points(graph: Graph) -> Graph:
    """The graph with a zero point for all int8 and uint8 codes whose scales are constant."""
    constants, ops = dict(graph.constants), list[Op]()
    taken = {*graph.inputs, *constants, *(name for op in graph.ops for name in op.outputs)}
    elements = {name: type_.element for name, type_ in graph.types.items()}
    elements |= {name: array.dtype.name for name, array in constants.items()}
    for op in graph.ops:
        if op.kind in ("QuantizeLinear", "DequantizeLinear") and not any(op.inputs[2:]):
            dtype = _dtype(op, elements)
            if dtype is not None and op.inputs[1] in constants:
                name = f"{op.name}:zero point"
                while name in taken:
                    name += "_"
                taken.add(name)
                constants[name] = np.zeros_like(constants[op.inputs[1]], dtype)
                op = replace(op, inputs=(*op.inputs[:2], name))
        if op.kind == "QuantizeLinear" and len(op.inputs) > 2 and op.inputs[2] in constants:
            elements[op.outputs[0]] = constants[op.inputs[2]].dtype.name
        ops.append(op)
    return graph.with_ops(tuple(ops), constants)


def _dtype(op: Op, elements: dict[str, str]) -> type | None:
    """The type of an operator's codes, if it is one of these."""
    if op.kind == "QuantizeLinear":
        return _TYPES.get(op.attributes.get("output_dtype", 0))
    return {"int8": np.int8, "uint8": np.uint8}.get(elements.get(op.inputs[0], ""))
