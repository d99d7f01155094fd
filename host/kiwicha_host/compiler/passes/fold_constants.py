"""Compute what takes constants alone, by ONNX's own reference implementation."""

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

from ..errors import CompileError
from ..ir.graph import Graph, Op
from ..ir.onnx_op import to_node

__all__ = ["fold_constants"]

#: Those take no input, but are no constants.
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def fold_constants(graph: Graph) -> Graph:
    """The graph with each operator of constants alone replaced by its results.

    What is not folded stays as it is: random numbers, operators with graphs of their own or of other domains than
    ONNX's, and DequantizeLinear, whose place tells which operators are integer ones.

    Raises
    ------
    CompileError
        An operator cannot be computed; in one line that names it.
    """
    constants, ops = dict(graph.constants), []
    for op in graph.ops:
        if _folds(op) and all(name in constants for name in filter(None, op.inputs)):
            constants |= _results(graph, op, constants)
        else:
            ops.append(op)
    return graph.with_ops(tuple(ops), constants)


def _folds(op: Op) -> bool:
    return "." not in op.kind and op.kind not in (*_RANDOM, "DequantizeLinear") and not any(
        isinstance(value, onnx.GraphProto) for value in op.attributes.values())


def _results(graph: Graph, op: Op, constants: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    known = [numpy_helper.from_array(constants[name], name) for name in dict.fromkeys(filter(None, op.inputs))]
    outputs = [onnx.ValueInfoProto(name=name) for name in op.outputs if name]
    versions = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    try:
        model = helper.make_model(helper.make_graph([to_node(op, graph.opsets)], "constants", [], outputs, known),
                                  opset_imports=versions)
        results = [np.asarray(result) for result in ReferenceEvaluator(model).run(None, {})]
    except Exception as error:  # whatever NumPy, Python or onnx raise for wrong attributes and shapes
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(f"{op.kind} {op.name!r}: cannot be computed from its constants: {said}") from None
    return {item.name: result for item, result in zip(outputs, results, strict=True)}
