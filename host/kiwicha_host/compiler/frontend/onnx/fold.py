"""Nodes that only take constants, computed by ONNX's own reference implementation."""

from collections.abc import Mapping, Sequence

import numpy as np

from ....extras import extra

with extra("onnx"):
    import onnx
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

from .node import Node

__all__ = ["fold"]

#: Those take no input, but are no constants.
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def fold(proto: onnx.NodeProto, node: Node, constants: Mapping[str, np.ndarray],
         opsets: Sequence[onnx.OperatorSetIdProto]) -> dict[str, np.ndarray]:
    """The outputs of `proto`, all of whose inputs are in `constants`, by name.

    Raises
    ------
    CompileError
        It has a graph of its own, draws random numbers, or cannot be computed.
    """
    if any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in proto.attribute):
        raise node.error("takes constants alone, but has a graph of its own; only simple nodes are folded")
    if node.op in _RANDOM:
        raise node.error("draws random numbers; no two runs would be alike")
    known = [numpy_helper.from_array(constants[name], name) for name in dict.fromkeys(filter(None, proto.input))]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = helper.make_graph([proto], "constants", [], outputs, known)
    try:
        model = helper.make_model(graph, opset_imports=list(opsets))
        results = [np.asarray(result) for result in ReferenceEvaluator(model).run(None, {})]
    except Exception as error:  # whatever NumPy, Python or onnx raise for wrong attributes and shapes
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise node.error(f"cannot be computed from its constants: {said}") from None
    return {item.name: result for item, result in zip(outputs, results, strict=True)}
