"""What the chip does not run: ONNX Runtime does."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..extras import extra

with extra("onnx"):
    import onnx
    import onnxruntime
    from onnx.reference import ReferenceEvaluator

from .errors import CompileError, one_line
from .ir.graph import Graph, Type
from .ir.onnx_op import session_types, to_model

__all__ = ["HostPart"]


class HostPart:
    """A graph, or a whole model, in ONNX Runtime, on one thread, so that its results are the same everywhere.

    What ONNX Runtime has no kernel for, or no way to take from Python, ONNX's own reference computes, slowly.

    Parameters
    ----------
    graph : Graph or onnx.ModelProto
    types : of the graph's inputs, where it does not know them itself
    whole : the model is as it came; otherwise :mod:`.passes.double_pairs` has been there already, and what it left
        has other neighbours now
    shared : constants of the graph that something outside of it takes too, and no rule may count on

    Attributes
    ----------
    inputs, outputs : names of tensors

    Raises
    ------
    CompileError
        ONNX Runtime does not take it.
    """

    def __init__(self, graph: Graph | onnx.ModelProto, types: Mapping[str, Type] | None = None, *,
                 whole: bool = False, shared: Collection[str] = ()):
        try:
            model = graph if isinstance(graph, onnx.ModelProto) else to_model(
                _typed(graph, types or {}), defaults=shared)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"],
                disabled_optimizers=[] if whole else _NOT_IN_PARTS)
            self._engine = self._session if _is_for_python(self._session) else _reference(model)
        except Exception as error:  # ONNX Runtime's own, protobuf's, and those of unknown types
            if isinstance(error, CompileError):
                raise
            if not isinstance(error, _NOT_IMPLEMENTED) and "not a registered function/op" not in str(error):
                raise CompileError("ONNX Runtime does not take what is left for the host: "
                                   f"{one_line(error)}") from None
            self._session, self._engine = None, _reference(model)
        constants = {item.name for item in model.graph.initializer}
        self.inputs = tuple(item.name for item in model.graph.input if item.name not in constants)
        self.outputs = tuple(item.name for item in model.graph.output)

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name.

        Raises
        ------
        CompileError
            ONNX Runtime finds an input wrong.
        """
        try:
            results = self._engine.run(None, {name: values[name] for name in self.inputs if name in values})
        except Exception as error:
            raise CompileError(f"the host's part of the model cannot be computed: {one_line(error)}") from None
        return dict(zip(self.outputs, results, strict=True))

    @property
    def types(self) -> dict[str, Type]:
        """Of the outputs, as far as they are tensors."""
        return {} if self._session is None else dict(session_types(self._session))


#: ONNX Runtime's optimizers that a part does without. The last two may quantize a tensor that is Transposed and
#: quantized then, also where it is a result of the part.
_NOT_IN_PARTS = ["DoubleQDQPairsRemover", "TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"]
_NOT_IMPLEMENTED = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented


def _is_for_python(session: onnxruntime.InferenceSession) -> bool:
    """Whether Python's arrays can be its inputs and outputs: those of the newer small formats cannot."""
    return not any(kind in item.type for item in (*session.get_inputs(), *session.get_outputs())
                   for kind in ("float8", "float4", "int4", "int2", "bfloat16"))


def _reference(model: onnx.ModelProto) -> ReferenceEvaluator:
    """ONNX's reference, for what it computes as the standard says."""
    kinds = {node.op_type for node in model.graph.node}
    try:
        if kinds & {"Loop", "Scan"}:
            raise NotImplementedError("a Loop or Scan with such types")
        return ReferenceEvaluator(model)
    except Exception as error:
        raise CompileError(f"nothing here can compute a part of the model: {one_line(error)}") from None


def _typed(graph: Graph, types: Mapping[str, Type]) -> Graph:
    """With the types of the inputs alone: ONNX Runtime finds the others, and minds those that it would not."""
    known = {name: graph.types.get(name) or types.get(name) for name in graph.inputs}
    return replace(graph, types={name: type_ for name, type_ in known.items() if type_ is not None})
