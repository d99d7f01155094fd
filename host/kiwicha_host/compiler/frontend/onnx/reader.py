"""ONNX models to graphs."""

from collections.abc import Iterable, Mapping
from typing import Any

from ....extras import extra

with extra("onnx"):
    import onnx
    from onnx import numpy_helper

from ...errors import CompileError, one_line
from ...ir.graph import Graph, GraphError, Type, unique_names
from ...ir.onnx_op import from_node, type_of_info
from .model_file import read_model

__all__ = ["graph_of", "read_graph"]


def read_graph(model: Any) -> Graph:
    """The graph of an ONNX file, of its bytes, or of an ``onnx.ModelProto``.

    A node without a name, or with another one's, gets one.

    Raises
    ------
    TypeError
        `model` is none of these.
    CompileError
        The file is unreadable or no valid ONNX model, or data are missing; in one line.
    """
    return graph_of(read_model(model))


def graph_of(proto: onnx.ModelProto) -> Graph:
    """The graph of what :func:`.read_model` has made; it shares the data."""
    names = unique_names(node.name or next(filter(None, node.output), node.op_type) for node in proto.graph.node)
    for sparse in proto.graph.sparse_initializer:
        raise CompileError(f"the constant {sparse.values.name!r} is sparse, which is not supported")
    try:
        constants = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
        ops = tuple(map(from_node, proto.graph.node, names))
    except Exception as error:  # onnx's and NumPy's, for data of a wrong size or an unknown type
        raise CompileError(f"the model's constants are damaged: {one_line(error)}") from None
    # Of several that tell of one tensor the last counts: the model's inputs.
    declared = (*proto.graph.value_info, *proto.graph.output, *proto.graph.input)
    graph = Graph(
        inputs=tuple(item.name for item in proto.graph.input if item.name not in constants),
        outputs=tuple(item.name for item in proto.graph.output),
        ops=ops,
        constants=constants,
        types=_types(declared, {item.name for item in proto.graph.input}, constants),
        opsets={"" if item.domain == "ai.onnx" else item.domain: item.version for item in proto.opset_import})
    try:
        return graph.verify()
    except GraphError as error:
        raise CompileError(f"the model contradicts itself: {error}") from None


def _types(declared: Iterable[Any], inputs: set[str], constants: Mapping[str, Any]) -> dict[str, Type]:
    """Types by name; an input's dimension without a name gets one that says where it is."""
    types = {}
    for item in declared:
        type_ = type_of_info(item)
        if type_ is None or item.name in constants:
            continue
        if item.name in inputs and type_.shape is not None:
            type_ = Type(type_.element, tuple(f"{item.name}[{axis}]" if dim == "?" else dim
                                              for axis, dim in enumerate(type_.shape)))
        types[item.name] = type_
    return types
