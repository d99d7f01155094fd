"""What the chip does not run: ONNX Runtime does."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..extras import extra

with extra("onnx"):
    import onnx
    import onnxruntime

from .errors import CompileError, one_line
from .ir.graph import Graph, Type
from .ir.onnx_op import to_model

__all__ = ["HostPart"]


class HostPart:
    """A graph, or a whole model, in ONNX Runtime, on one thread, so that its results are the same everywhere.

    Parameters
    ----------
    graph : Graph or onnx.ModelProto
    types : of the graph's inputs, where it does not know them itself

    Attributes
    ----------
    inputs, outputs : names of tensors

    Raises
    ------
    CompileError
        ONNX Runtime does not take it.
    """

    def __init__(self, graph: Graph | onnx.ModelProto, types: Mapping[str, Type] | None = None):
        try:
            model = graph if isinstance(graph, onnx.ModelProto) else to_model(_typed(graph, types or {}))
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                                         providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own, protobuf's, and those of unknown types
            raise CompileError("ONNX Runtime does not take what is left for the host: "
                               f"{one_line(error)}") from None
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name.

        Raises
        ------
        CompileError
            ONNX Runtime finds an input wrong.
        """
        try:
            results = self._session.run(None, {name: values[name] for name in self.inputs})
        except Exception as error:
            raise CompileError(f"ONNX Runtime: {one_line(error)}") from None
        return dict(zip(self.outputs, results, strict=True))

    @property
    def types(self) -> dict[str, Type]:
        """Of the outputs, as far as they are tensors."""
        found = {}
        for item in self._session.get_outputs():
            element = _ELEMENTS.get(item.type.removeprefix("tensor(").removesuffix(")"))
            if element is not None:
                found[item.name] = Type(element, None)
        return found


#: NumPy's names for ONNX Runtime's.
_ELEMENTS = {"float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool",
             "string": "object", **{name: name for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32",
                                                            "int64", "uint64")}}


def _typed(graph: Graph, types: Mapping[str, Type]) -> Graph:
    missing = {name: types[name] for name in graph.inputs if name not in graph.types and name in types}
    return replace(graph, types={**graph.types, **missing})
