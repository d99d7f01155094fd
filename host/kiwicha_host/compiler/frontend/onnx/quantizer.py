"""Float models to quantized ones, by ONNX Runtime's own tool."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....extras import extra

with extra("onnx"):
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

from ...errors import CompileError, one_line
from ...ir.onnx_op import type_of_info
from ...passes.codes import Work
from ...passes.norms import norm_of
from .model_file import read_model
from .quantizable import in_order, quantizable
from .reader import graph_of

__all__ = ["model_inputs", "quantize_model"]

#: The first version of ONNX's operators whose scales can go along an axis.
_PER_CHANNEL = 13


def model_inputs(model: Any) -> list[str]:
    """The names of a model's inputs; :exc:`CompileError` if it cannot be read."""
    graph = read_model(model).graph
    constants = {item.name for item in graph.initializer}
    return [item.name for item in graph.input if item.name not in constants]


def quantize_model(model: Any, calibration: Mapping[str, np.ndarray], dims: Mapping[str, int] | None = None
                   ) -> bytes:
    """A model with QuantizeLinear and DequantizeLinear around its operators: uint8 activations, int8 weights.

    Of signed activations ONNX Runtime computes some convolutions in floating point, on x86 at least, and a sum
    that lies within its rounding error of a half may become another code than by integers.

    Parameters
    ----------
    model : an ONNX file, its bytes, or an ``onnx.ModelProto``
    calibration : arrays for each input; along their first axis, as many samples as there are
    dims : sizes of dimensions that have a name in the model

    Raises
    ------
    CompileError
        The model is unreadable or quantized already, an input has no array, or ONNX Runtime cannot do it.
    """
    proto = read_model(model)
    if any("QuantizeLinear" in node.op_type or node.op_type.startswith("QLinear") for node in proto.graph.node):
        raise CompileError("the model is quantized already: run it without --quantize")
    samples = list(_samples(proto, calibration, dims or {}))
    with tempfile.TemporaryDirectory(prefix="kiwicha-") as folder, _quiet():
        before, ready, after = (Path(folder) / f"{name}.onnx" for name in ("before", "ready", "after"))
        try:
            if any(item.domain == "" and item.version < _PER_CHANNEL for item in proto.opset_import):
                proto = onnx.version_converter.convert_version(proto, _PER_CHANNEL)
            onnx.save(proto, before)
            quant_pre_process(before, ready, skip_symbolic_shape=True)
            proto = quantizable(onnx.load(ready))
            quantization.quantize_static(
                proto, after, _Reader(samples), per_channel=True, nodes_to_exclude=_parts_of_norms(proto),
                quant_format=quantization.QuantFormat.QDQ, activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"TensorQuantOverrides": _with_one_scale(proto)})
            return in_order(onnx.load(after)).SerializeToString()
        except Exception as error:  # onnx's and ONNX Runtime's, of many kinds
            raise CompileError(f"ONNX Runtime cannot quantize the model: {one_line(error)}") from None


class _Reader(quantization.CalibrationDataReader):
    def __init__(self, samples: list[dict[str, np.ndarray]]):
        self._samples = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._samples, None)


def _samples(proto: onnx.ModelProto, calibration: Mapping[str, np.ndarray], dims: Mapping[str, int]
             ) -> Iterator[dict[str, np.ndarray]]:
    """What the model takes at once, one after the other: as many along the first axis as it asks for."""
    pieces: dict[str, list[np.ndarray]] = {}
    for item in proto.graph.input:
        if item.name in {constant.name for constant in proto.graph.initializer}:
            continue
        if item.name not in calibration:
            raise CompileError(f"--quantize needs arrays for the input {item.name!r} too")
        array = calibration[item.name]
        wanted = type_of_info(item)
        if wanted is not None and array.dtype.name != wanted.element:
            raise CompileError(f"the calibration of input {item.name!r} must be {wanted.element}, "
                               f"not {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CompileError(f"the calibration of input {item.name!r} holds NaN or infinity")
        shape = item.type.tensor_type.shape.dim
        if len(shape) != array.ndim or not array.size:
            raise CompileError(f"the calibration of input {item.name!r} must have {len(shape)} dimensions and "
                               f"elements, not {list(array.shape)}")
        size = (shape[0].dim_value or dims.get(shape[0].dim_param, 1)) if shape else 1
        if shape and len(array) % size:
            raise CompileError(f"the calibration of input {item.name!r} must be a multiple of {size} long, "
                               f"not {len(array)}")
        pieces[item.name] = [array[i:i + size] for i in range(0, len(array), size)] if shape else [array]
    count = max(map(len, pieces.values()), default=0)
    for name, found in pieces.items():
        if len(found) not in (1, count):
            raise CompileError(f"the calibration of input {name!r} has {len(found)} samples, another {count}")
    for i in range(count):
        yield {name: found[i if len(found) > 1 else 0] for name, found in pieces.items()}


def _with_one_scale(proto: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """For ONNX Runtime's tool, constants of which it takes the wrong axis for that of the outputs.

    That is axis 1, of a MatMul's first operand or of a stack of matrices, too; and the results of a ConvTranspose
    in groups are more than it has.
    """
    ranks = {item.name: len(item.dims) for item in proto.graph.initializer}
    found = set[str]()
    for node in proto.graph.node:
        if node.op_type == "MatMul":
            found |= {node.input[0]} | {name for name in node.input[1:] if ranks.get(name, 0) > 2}
        elif node.op_type == "ConvTranspose" and any(
                item.name == "group" and item.i > 1 for item in node.attribute):
            found.add(node.input[1])
    return {name: [{"quant_type": quantization.QuantType.QInt8}] for name in sorted(found & ranks.keys())}


def _parts_of_norms(proto: onnx.ModelProto) -> list[str]:
    """Names of nodes that are one normalization: numbers between them, squares above all, need more than codes.

    All nodes have names then.
    """
    graph = graph_of(proto)
    for node, op in zip(proto.graph.node, graph.ops, strict=True):
        node.name = op.name
    work = Work(graph)
    norms = (norm_of(work, name) for op in graph.ops for name in op.outputs)
    return [*dict.fromkeys(op.name for norm in norms if norm is not None for op in norm.ops)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice, which is about the calls made here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
