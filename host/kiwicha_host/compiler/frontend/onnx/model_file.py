"""From an ONNX file to a checked model that holds all its data."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ....extras import extra

with extra("onnx"):
    import onnx
    import onnxruntime
    from onnx import external_data_helper

from .... import arguments
from ...errors import CompileError, one_line

__all__ = ["read_model"]

#: ONNX's domain, and one whose operators its checker lets pass.
_OWN, _OTHERS = ("", "ai.onnx"), "kiwicha.others"


def read_model(model: Any) -> onnx.ModelProto:
    """The model in an ONNX file, in its bytes, or a copy of an ``onnx.ModelProto``, valid by ONNX's own checker.

    Data that a file keeps in other files are found beside it; bytes and a ModelProto have no such place, so
    they must hold everything.

    Raises
    ------
    TypeError
        `model` is none of these.
    CompileError
        The file is unreadable or no ONNX model, or data are missing; in one line.
    """
    parsed, data, where, folder = _parse(model)
    if not parsed.graph.node:
        raise CompileError(f"{where} is not an ONNX model, or has no nodes")
    completed, (changed, shapeless) = _complete(parsed, where, folder), _for_checker(parsed)
    if completed or changed or not data:
        data = parsed.SerializeToString()
    del parsed          # the checker has all weights once more, beside these bytes
    try:
        onnx.checker.check_model(data)
        parsed = onnx.load_model_from_string(data)
        _as_it_came(parsed, shapeless)
        _check_own_operators(parsed.graph)
    except Exception as error:  # ValidationError; in some versions others too
        raise CompileError(f"{where} is not a valid ONNX model: {one_line(error)}") from None
    return parsed


def _parse(model: Any) -> tuple[onnx.ModelProto, bytes, str, Path | None]:
    """The model, its bytes or none, what to call it, and the folder that it is in."""
    if isinstance(model, onnx.ModelProto):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy, b"", "the model", None
    path = None if isinstance(model, bytes) else arguments.path("model", model)
    where = "the model" if path is None else str(path)
    try:
        data = model if path is None else path.read_bytes()
        parsed = onnx.load_model_from_string(data)
    except OSError as error:
        raise CompileError(f"cannot read {where}: {error.strerror or error}") from None
    except Exception:       # protobuf's own exceptions, whichever implementation it uses
        raise CompileError(f"{where} is not an ONNX model") from None
    return parsed, data, where, None if path is None else path.parent


def _complete(model: onnx.ModelProto, where: str, folder: Path | None) -> bool:
    """Fetch data that are in other files, if any are; onnx itself would look for them in the current folder."""
    outside = [tensor.name for tensor in _tensors(model.graph) if external_data_helper.uses_external_data(tensor)]
    if not outside:
        return False
    if folder is None:
        raise CompileError(f"the data of {outside[0]!r} are in another file; give the model's path, or load the "
                           "model with its external data")
    try:
        external_data_helper.load_external_data_for_model(model, str(folder))
    except Exception as error:  # ValidationError, ValueError, OSError
        raise CompileError(f"the external data of {where} cannot be read: {one_line(error)}") from None
    return True


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in _nodes(graph):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.initializer


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of the graph, and of the graphs in these."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _for_checker(model: onnx.ModelProto) -> tuple[bool, list[int]]:
    """Change what ONNX's checker minds and ONNX Runtime does not: constants that are no inputs, which version 3 of
    the format did not know; outputs without a shape; operators that ONNX Runtime alone has in ONNX's own domain,
    or in that version of it, which are of another domain then.

    Returns whether there is such, and the numbers of those outputs.
    """
    if old := model.ir_version == 3:
        model.ir_version = 4
    types = [output.type for output in model.graph.output]
    shapeless = [index for index, type_ in enumerate(types)
                 if type_.HasField("tensor_type") and not type_.tensor_type.HasField("shape")]
    for index in shapeless:
        types[index].tensor_type.shape.SetInParent()
    version = next((item.version for item in model.opset_import if item.domain in _OWN), 1)
    nodes = [node for node in _nodes(model.graph) if node.domain in _OWN and ("", node.op_type) in _own_operators()
             and not onnx.defs.has(node.op_type, max_inclusive_version=version)]
    if nodes:
        model.opset_import.add(domain=_OTHERS, version=1)
    for node in nodes:
        node.domain = _OTHERS
    return old or bool(shapeless or nodes), shapeless


def _as_it_came(model: onnx.ModelProto, shapeless: Sequence[int]) -> None:
    """Undo what :func:`_for_checker` did."""
    for index in shapeless:
        model.graph.output[index].type.tensor_type.ClearField("shape")
    for node in _nodes(model.graph):
        if node.domain == _OTHERS:
            node.domain = ""
    for index in reversed(range(len(model.opset_import))):
        if model.opset_import[index].domain == _OTHERS:
            del model.opset_import[index]


def _check_own_operators(graph: onnx.GraphProto) -> None:
    """ONNX's checker does not know ONNX Runtime's own operators, and that ends the process if an input lacks."""
    for node in _nodes(graph):
        for schema in _own_operators().get((node.domain, node.op_type), ()):
            needed = [index for index, formal in enumerate(schema.inputs) if formal.option.name == "Single"]
            given = {index for index, name in enumerate(node.input) if name}
            if not (schema.min_input <= len(node.input) <= schema.max_input and given.issuperset(needed)
                    and schema.min_output <= len(node.output) <= schema.max_output):
                raise ValueError(f"{node.op_type} {node.name!r} has a wrong number of inputs or outputs")


@cache
def _own_operators() -> dict[tuple[str, str], list[Any]]:
    """ONNX Runtime's, by domain and name: in ONNX's, only first versions that ONNX has not."""
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in onnxruntime.capi.onnxruntime_pybind11_state.get_all_operator_schema():
        if schema.domain == "com.microsoft" or (not schema.domain and not onnx.defs.has(
                schema.name, max_inclusive_version=schema.since_version)):
            found.setdefault((schema.domain, schema.name), []).append(schema)
    return found
