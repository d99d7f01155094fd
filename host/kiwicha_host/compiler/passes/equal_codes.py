"""The same numbers, quantized several times by equal constants, are the same codes.

TensorRT's and other tools' models have a QuantizeLinear for each operator that takes a tensor.
"""

from dataclasses import replace

from ..ir.graph import Graph, Op

__all__ = ["equal_codes"]


def equal_codes(graph: Graph) -> Graph:
    """The graph with one QuantizeLinear of those that make the same codes."""
    values = {name: (array.dtype, array.item()) for name, array in graph.constants.items() if array.size == 1}
    fixed = {*graph.outputs, *(name for op in graph.ops for name in op.captures)}
    same, made, ops = dict[str, str](), dict[tuple, str](), list[Op]()
    for op in graph.ops:
        op = replace(op, inputs=tuple(same.get(name, name) for name in op.inputs))
        [*_, result] = op.outputs
        if op.kind == "QuantizeLinear" and result not in fixed:
            known = tuple(values.get(name, name) for name in op.inputs), repr(sorted(op.attributes.items()))
            same[result] = made.setdefault(known, result)
        if same.get(result, result) == result:
            ops.append(op)
    return graph.with_ops(tuple(ops)) if len(ops) < len(graph.ops) else graph
