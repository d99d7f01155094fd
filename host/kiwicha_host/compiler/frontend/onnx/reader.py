"""ONNX models to graphs."""

from typing import Any

from ....extras import extra

with extra("onnx"):
    import onnx
    from onnx import helper, numpy_helper

from ...errors import CompileError, one_line
from ...ir.graph import Graph, GraphError, Type, unique_names
from ...ir.onnx_op import from_node
from .model_file import read_model

__all__ = ["read_graph"]


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
    proto = read_model(model)
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
        types={item.name: type_ for item in declared if (type_ := _type(item)) and item.name not in constants},
        opsets={"" if item.domain == "ai.onnx" else item.domain: item.version for item in proto.opset_import})
    try:
        return graph.verify()
    except GraphError as error:
        raise CompileError(f"the model contradicts itself: {error}") from None


def _type(value: onnx.ValueInfoProto) -> Type | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type == onnx.TensorProto.UNDEFINED:
        return None
    try:
        element = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        raise CompileError(f"{value.name!r} has elements of an unknown type, {tensor.elem_type}") from None
    if not tensor.HasField("shape"):
        return Type(element, None)
    # A size of 0, which some files have, is one that is not known.
    dims = (dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in tensor.shape.dim)
    return Type(element, tuple(dims))
