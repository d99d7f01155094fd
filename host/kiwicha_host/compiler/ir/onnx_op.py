"""Between the graph's operators and ONNX's nodes; the graph's kinds of operators are ONNX's."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx
    from onnx import helper, numpy_helper

from .graph import Op

__all__ = ["from_node", "to_node"]

#: The names of ONNX's own domain.
_OWN = ("", "ai.onnx")


def from_node(node: onnx.NodeProto, name: str) -> Op:
    """The operator `name` that `node` is."""
    kind = node.op_type if node.domain in _OWN else f"{node.domain}.{node.op_type}"
    attributes = {item.name: _value(helper.get_attribute_value(item)) for item in node.attribute}
    return Op(name, kind, tuple(node.input), tuple(node.output), attributes)


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
