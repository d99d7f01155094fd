"""Compute what takes constants alone, by ONNX Runtime or ONNX's own reference implementation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...extras import extra

with extra("onnx"):
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

from ..errors import CompileError, one_line
from ..ir.graph import Graph, Op
from ..ir.onnx_op import to_model, to_node
from .pairs_around_moves import MOVES

__all__ = ["fold_constants", "results_of"]

#: Those may draw random numbers.
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial",
           "Dropout")
#: ONNX Runtime's operators on codes.
_ON_CODES = ("com.microsoft.QLinear", "com.microsoft.QGemm")


def fold_constants(graph: Graph) -> Graph:
    """The graph with each operator of constants alone replaced by its results.

    What is not folded stays as it is: random numbers, operators with graphs of their own or of other domains than
    ONNX's (but ONNX Runtime's on codes), results that are no tensors, and DequantizeLinear, whose place tells
    which operators are integer ones. But of numbers that are quantized again, whatever is done to them in between,
    the codes are constants.

    Raises
    ------
    CompileError
        An operator cannot be computed; in one line that names it.
    """
    constants, ops, makers = dict(graph.constants), [], dict[str, Op]()     # of numbers of constant codes
    for op in graph.ops:
        results, taken = None, [name for name in op.inputs if name]
        if _folds(op) and all(name in constants for name in taken):
            results = results_of(graph, op, constants)
        elif all(name in constants or name in makers for name in taken):
            if op.kind == "QuantizeLinear":
                results = _codes_of(graph, op, makers, constants)
            elif op.kind == "DequantizeLinear" or _folds(op):
                makers |= dict.fromkeys(op.outputs, op)
        constants |= results or {}
        if results is None:
            ops.append(op)
    return graph.with_ops(tuple(ops), constants)


def _codes_of(graph: Graph, quantize: Op, makers: Mapping[str, Op], constants: dict[str, np.ndarray]
              ) -> dict[str, np.ndarray] | None:
    """The codes that `quantize` makes of numbers of constant codes.

    ONNX Runtime has an operator on codes for some of what is in between, so it computes all at once.
    """
    chain = _chain(quantize, makers)
    if all(op.kind in ("DequantizeLinear", "QuantizeLinear", *MOVES) for op in chain):
        known = dict(constants)
        for op in chain:
            known |= results_of(graph, op, known) or {}
        return {name: known[name] for name in quantize.outputs}
    part = replace(graph.part(tuple(chain), quantize.outputs), types={}, constants={
        name: constants[name] for op in chain for name in op.inputs if name in constants})
    found = _run(to_model(part))
    return None if found is None else dict(zip(quantize.outputs, found, strict=True))


def _chain(quantize: Op, makers: Mapping[str, Op]) -> list[Op]:
    """`quantize` and all that makes its numbers, in the order in which it runs; so are `makers`."""
    wanted, waiting = set[str](), [quantize]
    while waiting:
        found = [makers[name] for name in waiting.pop().inputs if name in makers]
        waiting += [op for op in found if op.name not in wanted]
        wanted |= {op.name for op in found}
    return [*{op.name: op for op in makers.values() if op.name in wanted}.values(), quantize]


def _folds(op: Op) -> bool:
    if "." in op.kind and not op.kind.startswith(_ON_CODES):
        return False
    return op.kind not in (*_RANDOM, "DequantizeLinear") and not any(
        isinstance(value, onnx.GraphProto) for value in op.attributes.values())


def results_of(graph: Graph, op: Op, constants: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    outputs = [onnx.ValueInfoProto(name=name) for name in op.outputs if name]
    versions = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    try:
        if op.kind == "QuantizeLinear":
            _check_range(constants[op.inputs[0]], constants[op.inputs[1]])
        known = [numpy_helper.from_array(constants[name], name) for name in dict.fromkeys(filter(None, op.inputs))]
        model = helper.make_model(helper.make_graph([to_node(op, graph.opsets)], "constants", [], outputs, known),
                                  opset_imports=versions, ir_version=min(10, onnx.IR_VERSION))
        results = _by_onnxruntime(op, model) or ReferenceEvaluator(model).run(None, {})
    except Exception as error:  # whatever NumPy, Python or onnx raise for wrong attributes and shapes
        raise CompileError(f"{op.kind} {op.name!r}: cannot be computed from its constants: "
                           f"{one_line(error)}") from None
    if not all(isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    return {item.name: np.asarray(result) for item, result in zip(outputs, results, strict=True)}


def _by_onnxruntime(op: Op, model: onnx.ModelProto) -> list[Any] | None:
    """Of numbers: what ONNX Runtime would compute if it were left to it; None where it cannot.

    Codes are exact by either, and the reference says what is wrong.
    """
    return None if op.kind == "QuantizeLinear" else _run(model)


def _run(model: onnx.ModelProto) -> list[Any] | None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options,
                                               providers=["CPUExecutionProvider"])
        found = session.run(None, {})
    except Exception:  # of any kind: no kernel, no such type, or a wrong attribute
        return None
    return list(found) if all(isinstance(item, np.ndarray) for item in found) else None


def _check_range(numbers: np.ndarray, scale: np.ndarray) -> None:
    """The reference's quotients go through int32, where too large ones would change their sign."""
    most = np.abs(numbers).max(initial=0).astype(np.float64)
    if not most < scale.min(initial=np.inf).astype(np.float64) * (1 << 30):
        raise ValueError(f"numbers up to {most:g} are too large for their scale")
