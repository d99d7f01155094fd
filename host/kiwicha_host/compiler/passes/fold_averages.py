"""Averages, softmax and norms of numbers that come from codes become those of codes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..ir.graph import Op
from .codes import Codes, Work, is_sound, read
from .norms import RmsNorm, rms_norm_of

__all__ = ["OF_MANY"]


def _ends(work: Work, numbers: str, made: Codes) -> tuple[str, ...] | None:
    """Codes, scale and zero point of the operand, and the result's; None if the operand's are none."""
    maker = work.maker(numbers)
    source = read(maker) if maker is not None and maker.kind == "DequantizeLinear" else None
    if source is None or not is_sound(work.scalar(source.scale), work.scalar(source.zero)):
        return None
    if work.constants[source.zero].dtype != work.constants[made.zero].dtype:
        return None
    return source.name, source.scale, source.zero, made.scale, made.zero


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
    source = work.maker(op.inputs[0])
    if ends is None or not axes or source is None:
        return None
    ops = source, op, Op(f"{op.name}:codes", "QuantizeLinear", (op.outputs[0], made.scale, made.zero), (result,))
    return Op(op.name, "kiwicha.QLinearReduceMean", (*ends, *filter(None, op.inputs[1:])), (result,),
              {"axes": list(axes), "keepdims": op.attributes.get("keepdims", 1), "ops": ops})


def _softmax(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """ONNX Runtime's operator, which it makes of the pair too."""
    ends, opset = _ends(work, op.inputs[0], made), work.opset
    if ends is None or set(op.attributes) - {"axis"}:
        return None
    # Before opset 13 all dimensions from `axis` on were one.
    axis = op.attributes.get("axis", -1 if opset >= 13 else 1)
    return Op(op.name, "com.microsoft.QLinearSoftmax", ends, (result,), {"axis": axis, "opset": opset})


def _layer_norm(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """LayerNormalization whose scale and bias are constants, or codes of constants."""
    factors = [*filter(None, op.inputs[1:])]
    return _norm(work, (op,), op.inputs[0], factors, made, Op(
        op.name, "kiwicha.QLinearLayerNormalization", (), (result,),
        {"axis": -1, **op.attributes, "biased": len(factors) > 1}))


def _rms_norm(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """RMSNormalization, or what makes one in single operators, whose scale is a constant, or codes of one."""
    if op.kind == "RMSNormalization":
        axis, epsilon = op.attributes.get("axis", -1), op.attributes.get("epsilon", 1e-5)
        norm = RmsNorm(op.inputs[0], epsilon, axis, (op,), op.inputs[1])
    elif (found := rms_norm_of(work, op.outputs[0])) is not None:
        norm = found
    else:
        return None
    attributes = op.attributes if op.kind == "RMSNormalization" else {}
    gain = norm.gain or work.constant(f"{result}:gain", np.ones(1, np.float32))
    return _norm(work, norm.ops, norm.source, [gain], made, Op(
        op.name, "kiwicha.QLinearRMSNormalization", (), (result,),
        {**attributes, "axis": norm.axis, "epsilon": norm.epsilon}))


def _norm(work: Work, ops: Sequence[Op], source: str, factors: Sequence[str], made: Codes, norm: Op) -> Op | None:
    """`norm` with its inputs, and what it stands for: `ops`, which take the numbers `source`, and constants."""
    ends, maker = _ends(work, source, made), work.maker(source)
    numbers = [item for name in factors if (item := _numbers(work, name)) is not None]
    if ends is None or maker is None or len(numbers) < len(factors) or len([*filter(None, ops[-1].outputs)]) > 1:
        return None
    names = [work.constant(f"{name}_numbers", item) for name, item in zip(factors, numbers, strict=True)]
    decoders = {found.name: found for op in ops for name in op.reads if (found := work.maker(name)) is not None
                and found.kind == "DequantizeLinear"}
    whole = (*decoders.values(), *ops,
             Op(f"{norm.name}:codes", "QuantizeLinear", (ops[-1].outputs[0], made.scale, made.zero), norm.outputs))
    reads = dict.fromkeys(name for item in whole for name in item.inputs if name in work.constants
                          and name not in ends)
    return replace(norm, inputs=(*ends, *names, *reads), attributes={**norm.attributes, "ops": whole})


def _numbers(work: Work, name: str) -> np.ndarray | None:
    """A vector of constants, float32, or what a DequantizeLinear makes of one."""
    maker = work.maker(name)
    if maker is None:
        array = work.array(name)
        return array if array is not None and array.dtype == np.float32 else None
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
    "Softmax": _softmax, **dict.fromkeys(("RMSNormalization", "Mul", "Div"), _rms_norm)}
