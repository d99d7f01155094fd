"""Types of all tensors, as far as they follow from those of the inputs."""

from collections.abc import Iterator
from dataclasses import replace

from ...extras import extra

with extra("onnx"):
    import onnx
    import onnxruntime

from ..ir.graph import Graph, Type
from ..ir.onnx_op import session_types, to_model, type_of_info
from .unfold import unfold

__all__ = ["infer_types"]

#: Constants of so many bytes may be shapes; larger ones need not be looked into.
_SHAPE_BYTES = 1024


def infer_types(graph: Graph) -> Graph:
    """The graph with what ONNX's inference knows of its types, and ONNX Runtime's of its own operators."""
    types = dict(graph.types)
    whole = replace(graph, ops=tuple(part for op in graph.ops for part in unfold(op)))
    for find in (_by_onnx, _by_onnxruntime):
        for name, type_ in find(replace(whole, types=types)):
            if name not in graph.constants:
                types[name] = _merged(types.get(name), type_)
    return replace(graph, types=types).with_ops(graph.ops)


def _by_onnx(graph: Graph) -> Iterator[tuple[str, Type]]:
    try:
        model = to_model(graph, largest=_SHAPE_BYTES)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # whatever onnx raises: types that are not known stay so
        return
    for item in (*inferred.graph.value_info, *inferred.graph.output):
        if (type_ := type_of_info(item)) is not None:
            yield item.name, type_


def _by_onnxruntime(graph: Graph) -> Iterator[tuple[str, Type]]:
    """Of all tensors, if there are operators of its own, in its domain or in ONNX's."""
    version = graph.opsets.get("", 1)
    if not any(op.kind.startswith("com.microsoft.") or ("." not in op.kind and not onnx.defs.has(
            op.kind, max_inclusive_version=version)) for op in graph.ops):
        return
    made = tuple(name for op in graph.ops for name in op.outputs if name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        model = to_model(replace(graph, outputs=made), largest=_SHAPE_BYTES)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                               providers=["CPUExecutionProvider"])
    except Exception:  # it has no kernel for something, or minds it
        return
    yield from session_types(session)


def _merged(first: Type | None, second: Type) -> Type:
    """What both say; a size that is known counts more than one that is not."""
    if first is None or first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return second if second.shape is not None or first is None else first
    dims = (b if isinstance(b, int) or (b != "?" and not isinstance(a, int)) else a
            for a, b in zip(first.shape, second.shape, strict=True))
    return Type(second.element, tuple(dims))
