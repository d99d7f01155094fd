"""Averages, softmax and norms of numbers that come from codes become those of codes."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from ..ir.graph import Op
from .codes import Codes, Work, is_sound, read
from .norms import Norm, norm_of

__all__ = ["OF_MANY", "SOFTMAX"]

#: Softmax between signed and unsigned codes, in numbers; inputs and attributes are com.microsoft.QLinearSoftmax's.
SOFTMAX = "kiwicha.QLinearSoftmax"


def _ends(work: Work, numbers: str, made: Codes, *, mixed: bool = False) -> tuple[str, ...] | None:
    """Codes, scale and zero point of the operand, and the result's; None if the operand's are none, or, unless
    they may be `mixed`, of another type."""
    maker = work.maker(numbers)
    source = read(maker) if maker is not None and maker.kind == "DequantizeLinear" else None
    if source is None or not is_sound(work.scalar(source.scale), work.scalar(source.zero)):
        return None
    if not mixed and not _are_alike(work, source.zero, made.zero):
        return None
    return source.name, source.scale, source.zero, made.scale, made.zero


def _are_alike(work: Work, first: str, second: str) -> bool:
    """Whether two constants are of one type."""
    return work.constants[first].dtype == work.constants[second].dtype


def _between(work: Work, op: Op, made: Codes, result: str) -> tuple[Op, ...]:
    """What an operator stands for, from codes to codes."""
    last = Op(f"{op.name}:codes", "QuantizeLinear", (op.outputs[0], made.scale, made.zero), (result,))
    return (*filter(None, [work.maker(op.inputs[0])]), op, last)


def _pool(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """ONNX Runtime's operators, which it makes of the pairs too; they know no dilations."""
    ends, attributes = _ends(work, op.inputs[0], made), dict(op.attributes)
    if ends is None or any(item != 1 for item in attributes.pop("dilations", ())):
        return None
    return Op(op.name, f"com.microsoft.QLinear{op.kind}", ends, (result,), attributes)


def _mean(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """ReduceMean along axes that are known."""
    ends, axes = _ends(work, op.inputs[0], made), op.attributes.get("axes")
    if len(op.inputs) > 1 and op.inputs[1]:
        array = work.array(op.inputs[1])
        axes = None if array is None else array.reshape(-1).tolist()
    if ends is None or not axes:
        return None
    return Op(op.name, "kiwicha.QLinearReduceMean", (*ends, *filter(None, op.inputs[1:])), (result,),
              {"axes": list(axes), "keepdims": op.attributes.get("keepdims", 1),
               "ops": _between(work, op, made, result)})


def _softmax(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """ONNX Runtime's operator, which it makes of codes of one type too; of two it computes numbers."""
    ends, opset = _ends(work, op.inputs[0], made, mixed=True), work.opset
    if ends is None or set(op.attributes) - {"axis"}:
        return None
    # Before opset 13 all dimensions from `axis` on were one.
    axis = op.attributes.get("axis", -1 if opset >= 13 else 1)
    attributes = {"axis": axis, "opset": opset}
    if _are_alike(work, ends[2], made.zero):
        return Op(op.name, "com.microsoft.QLinearSoftmax", ends, (result,), attributes)
    return Op(op.name, SOFTMAX, ends, (result,), {**attributes, "ops": _between(work, op, made, result)})


def _layer_norm(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """LayerNormalization whose scale and bias are constants, or codes of constants."""
    _, gain, bias, *_ = *op.inputs, ""
    epsilon, axis = op.attributes.get("epsilon", 1e-5), op.attributes.get("axis", -1)
    return _norm(work, Norm(op.inputs[0], epsilon, axis, (op,), gain, bias, True), made, result, op.attributes)


def _rms_norm(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """RMSNormalization of that kind."""
    epsilon, axis = op.attributes.get("epsilon", 1e-5), op.attributes.get("axis", -1)
    return _norm(work, Norm(op.inputs[0], epsilon, axis, (op,), op.inputs[1]), made, result, op.attributes)


def _norm_in_parts(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """Either of these in single operators, of which this is the last."""
    norm = norm_of(work, op.outputs[0])
    return None if norm is None else _norm(work, norm, made, result, {})


def _norm(work: Work, norm: Norm, made: Codes, result: str, attributes: Mapping[str, Any]) -> Op | None:
    ends, last, rank = _ends(work, norm.source, made), norm.ops[-1], len(work.shape(norm.source) or ())
    gain = norm.gain or work.constant(f"{result}:gain", np.ones(1, np.float32))
    factors = [(name, _numbers(work, name, rank)) for name in (gain, norm.bias) if name]
    if ends is None or any(item is None for _, item in factors) or len([*filter(None, last.outputs)]) > 1:
        return None
    names = [work.constant(f"{name}_numbers", item) for name, item in factors if item is not None]
    makers = [work.maker(name) for op in norm.ops for name in op.reads]
    decoders = {item.name: item for item in makers if item is not None and item.kind == "DequantizeLinear"}
    ops = (*decoders.values(), *norm.ops,
           Op(f"{last.name}:codes", "QuantizeLinear", (last.outputs[0], made.scale, made.zero), (result,)))
    reads = dict.fromkeys(name for op in ops for name in op.inputs if name in work.constants and name not in ends)
    attributes = {**attributes, "axis": norm.axis, "epsilon": norm.epsilon, "ops": ops}
    if norm.is_centered:
        attributes["biased"] = bool(norm.bias)
    kind = "LayerNormalization" if norm.is_centered else "RMSNormalization"
    return Op(last.name, f"kiwicha.QLinear{kind}", (*ends, *names, *reads), (result,), attributes)


def _numbers(work: Work, name: str, rank: int) -> np.ndarray | None:
    """Constants, float32, or what a DequantizeLinear makes of such; a vector, if it goes along the last of `rank`
    axes."""
    maker = work.maker(name)
    if maker is None:
        array = work.array(name)
        if array is None or array.dtype != np.float32:
            return None
        return array.reshape(-1) if array.ndim <= rank and array.size == prod(array.shape[-1:]) else array
    if maker.kind != "DequantizeLinear" or {*maker.attributes} - {"axis"}:
        return None
    codes, scale, *zero = (work.array(item) for item in filter(None, maker.inputs))
    if codes is None or scale is None or scale.dtype != np.float32 or codes.ndim != 1:
        return None
    zeros = np.zeros(1, np.int64) if not zero else zero[0]
    if zeros is None or codes.dtype.kind not in "iu" or zeros.dtype.kind not in "iu":
        return None
    return (codes.astype(np.int64) - zeros.astype(np.int64)).astype(np.float32) * scale


#: By the kind of an operator whose results are each of many elements: the operator on codes that makes the codes
#: `result`, if there is one.
OF_MANY: dict[str, Callable[[Work, Op, Codes, str], Op | None]] = {
    "AveragePool": _pool, "GlobalAveragePool": _pool, "LayerNormalization": _layer_norm, "ReduceMean": _mean,
    "RMSNormalization": _rms_norm, "SimplifiedLayerNormalization": _rms_norm, "Softmax": _softmax,
    **dict.fromkeys(("Add", "Div", "Mul"), _norm_in_parts)}
