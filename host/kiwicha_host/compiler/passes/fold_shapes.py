"""Types of all tensors, and shapes that are known become constants."""

from dataclasses import replace

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx

from ..ir.graph import Graph, Op, Type
from ..ir.onnx_op import to_model, type_of_info
from .fold_constants import fold_constants

__all__ = ["fold_shapes", "infer_types"]

#: Constants of so many bytes may be shapes; larger ones need not be looked into.
_SHAPE_BYTES = 1024


def fold_shapes(graph: Graph) -> Graph:
    """The graph with the types that follow from those of its inputs, and without operators that compute shapes.

    Exporters write a Reshape's shape as a computation of the input's; with all sizes known, it is a constant.
    """
    while True:
        graph = infer_types(graph)
        shapes: dict[str, np.ndarray] = {}
        for op in graph.ops:
            shapes |= _known(graph, op)
        if not shapes:
            return graph
        ops = tuple(op for op in graph.ops if not set(op.outputs) & set(shapes))
        graph = fold_constants(graph.with_ops(ops, {**graph.constants, **shapes}))


def infer_types(graph: Graph) -> Graph:
    """The graph with what ONNX's own inference knows of its tensors' types."""
    try:
        model = to_model(graph, largest=_SHAPE_BYTES)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # whatever onnx raises: types that are not known stay so
        return graph
    types = dict(graph.types)
    for item in (*inferred.graph.value_info, *inferred.graph.output):
        type_ = type_of_info(item)
        if type_ is not None and item.name not in graph.constants:
            types[item.name] = _merged(graph.types.get(item.name), type_)
    return replace(graph, types=types).with_ops(graph.ops)


def _merged(first: Type | None, second: Type) -> Type:
    """What both say; a size that is known counts more than one that is not."""
    if first is None or first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return second if second.shape is not None or first is None else first
    dims = (b if isinstance(b, int) or (b != "?" and not isinstance(a, int)) else a
            for a, b in zip(first.shape, second.shape, strict=True))
    return Type(second.element, tuple(dims))


def _known(graph: Graph, op: Op) -> dict[str, np.ndarray]:
    """The result of an operator that asks for a shape which is known."""
    type_ = graph.type_of(op.inputs[0]) if op.kind in ("Shape", "Size") else None
    if type_ is None or type_.shape is None or op.outputs[0] in graph.outputs:
        return {}
    shape = type_.shape
    if op.kind == "Shape":
        shape = shape[slice(op.attributes.get("start", 0), op.attributes.get("end"))]
    if not all(isinstance(dim, int) for dim in shape):
        return {}
    sizes = np.array(shape, np.int64)
    return {op.outputs[0]: sizes if op.kind == "Shape" else sizes.prod(dtype=np.int64)}
