"""Between graphs and ONNX's models; the graph's kinds of operators are ONNX's."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx
    from onnx import helper, numpy_helper

from ..errors import CompileError
from .graph import Graph, Op, Type

__all__ = ["from_node", "session_types", "to_model", "to_node", "type_of_info"]

#: The names of ONNX's own domain.
_OWN = ("", "ai.onnx")


def from_node(node: onnx.NodeProto, name: str) -> Op:
    """The operator `name` that `node` is."""
    kind = node.op_type if node.domain in _OWN else f"{node.domain}.{node.op_type}"
    attributes = {item.name: _value(helper.get_attribute_value(item)) for item in node.attribute}
    captures = dict.fromkeys(name for item in node.attribute for graph in (item.g, *item.graphs)
                             for name in _captured(graph, ()))
    return Op(name, kind, tuple(node.input), tuple(node.output), attributes, tuple(captures))


def _captured(graph: onnx.GraphProto, known: tuple[str, ...]) -> Iterator[str]:
    """Names that a graph takes from around it."""
    defined = {*known, *(item.name for item in (*graph.input, *graph.initializer)),
               *(item.values.name for item in graph.sparse_initializer)}
    for node in graph.node:
        yield from (name for name in node.input if name and name not in defined)
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                yield from _captured(inner, tuple(defined))
        defined.update(node.output)
    yield from (item.name for item in graph.output if item.name not in defined)


def to_model(graph: Graph, *, largest: int | None = None, defaults: Collection[str] = ()) -> onnx.ModelProto:
    """The model that `graph` is.

    Constants of more than `largest` bytes are inputs instead, without their data: enough to look at types. Those
    in `defaults` are inputs that need not be given.

    Raises
    ------
    ValueError, TypeError
        Something is of no type that ONNX has.
    """
    here = {name: array for name, array in graph.constants.items() if largest is None or array.nbytes <= largest}
    elsewhere = [_info(name, Type.of(array)) for name, array in graph.constants.items()
                 if name not in here or name in defaults]
    made = {name for op in graph.ops for name in op.outputs if name}
    inner = [_info(name, type_) for name, type_ in graph.types.items()
             if name in made and name not in graph.outputs]
    proto = helper.make_graph(
        [to_node(op, graph.opsets) for op in graph.ops], "part",
        [_info(name, graph.types.get(name)) for name in graph.inputs] + elsewhere,
        [_info(name, graph.types.get(name)) for name in graph.outputs],
        [numpy_helper.from_array(array, name) for name, array in here.items()], value_info=inner)
    return helper.make_model(proto, ir_version=min(10, onnx.IR_VERSION), opset_imports=[
        helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()])


def type_of_info(value: onnx.ValueInfoProto) -> Type | None:
    """The type of a tensor that a model tells of.

    Raises
    ------
    CompileError
        Its elements are of no type that ONNX has.
    """
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type == onnx.TensorProto.UNDEFINED:
        return None
    try:
        element = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        raise CompileError(f"{value.name!r} has elements of an unknown type, {tensor.elem_type}") from None
    if not tensor.HasField("shape"):
        return Type(element, None)
    return Type(element, tuple(_dim(dim, axis) for axis, dim in enumerate(tensor.shape.dim)))


def session_types(session: Any) -> Iterator[tuple[str, Type]]:
    """The types of the outputs of an ONNX Runtime session, as far as they are tensors."""
    for item in session.get_outputs():
        element = _ELEMENTS.get(item.type.removeprefix("tensor(").removesuffix(")"))
        if element is not None:
            # It does not tell a tensor without dimensions from one of which it knows none.
            yield item.name, Type(element, tuple("?" if dim is None else dim for dim in item.shape) or None)


#: NumPy's names for ONNX Runtime's.
_ELEMENTS = {"float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool",
             "string": "object", **{name: name for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32",
                                                            "int64", "uint64")}}


def _dim(dim: Any, axis: int) -> int | str:
    """A size; a batch of 0, or a size of -1, which some files have, is one that is not known."""
    if dim.HasField("dim_value") and dim.dim_value >= (axis == 0):
        return int(dim.dim_value)
    return dim.dim_param or "?"


def _info(name: str, type_: Type | None) -> onnx.ValueInfoProto:
    if type_ is None:
        return onnx.ValueInfoProto(name=name)
    shape = None if type_.shape is None else [None if dim == "?" else dim for dim in type_.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(_dtype(type_.element)), shape)


def _dtype(element: str) -> np.dtype:
    """ONNX has types that NumPy has not."""
    return np.dtype(getattr(ml_dtypes, element, element))


def to_node(op: Op, opsets: Mapping[str, int]) -> onnx.NodeProto:
    """The node that `op` is, in these versions of the domains.

    Raises
    ------
    ValueError, TypeError
        An attribute is of no type that ONNX has.
    """
    domain, _, kind = op.kind.rpartition(".")
    node = helper.make_node(kind, op.inputs, op.outputs, name=op.name, domain=domain or None)
    for name, value in op.attributes.items():
        value = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        # An empty list does not say what it is a list of.
        known = _type(kind, domain, opsets.get(domain, 1), name) if value == [] else None
        node.attribute.append(helper.make_attribute(name, value, attr_type=known))
    return node


def _type(kind: str, domain: str, version: int, name: str) -> int:
    """ONNX's number for the type of an attribute; a list of integers if onnx does not know the operator."""
    try:
        schema: Any = onnx.defs.get_schema(kind, version, domain)
        return int(schema.attributes[name].type)
    except (onnx.defs.SchemaError, KeyError):
        return onnx.AttributeProto.INTS


def _value(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return list(map(_value, value)) if isinstance(value, (list, tuple)) else value
