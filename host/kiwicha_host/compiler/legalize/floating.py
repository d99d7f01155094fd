"""Why an operator that the chip has for codes is left in floating point."""

import numpy as np

from ..ir.graph import Op
from ..passes.codes import Codes, Work, read
from ..passes.fold_qdq import is_plain

__all__ = ["why_floating", "why_of_sums"]

#: Of what has codes neither before nor behind it.
_NUMBERS = "computes in floating point; the chip needs codes"
#: Operators with weights, codes that are constant.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")


def why_floating(work: Work, op: Op) -> str:
    """What keeps `op` from being an operator on codes, as far as it is near that."""
    makers = [(name, work.maker(name)) for name in op.inputs if name and work.array(name) is None]
    if not any(maker is not None and maker.kind == "DequantizeLinear" for _, maker in makers):
        return _NUMBERS
    for name, maker in makers:
        if maker is None or maker.kind != "DequantizeLinear":
            return f"its input {name!r} comes from no DequantizeLinear"
        if (why := _why_none(work, name, read(maker))) and name not in op.inputs[2:]:
            return why
    if op.kind in (*_WEIGHTED, "MatMul") and work.array(op.inputs[1]) is not None:
        return f"its weights {op.inputs[1]!r} are numbers, which no DequantizeLinear makes"
    if op.kind in (*_WEIGHTED, "MatMul") and (why := _why_several(work, op)):
        return why
    if op.kind == "Gemm" and op.attributes.get("transA"):
        return "transA must be 0: the batch comes first"
    if op.kind == "ConvTranspose" and not is_plain(op):
        return "its dilations must be 1, and its pads be given as such"
    if op.kind in _WEIGHTED and (weights := work.codes(op, 1)) is not None and work.array(weights.name) is None:
        return f"its weights {op.inputs[1]!r} are not constant"
    if not work.is_quantized(op):
        return "no QuantizeLinear stands behind it"
    if op.kind in _WEIGHTED and len(op.inputs) > 2 and op.inputs[2]:
        return _why_bias(work, op.inputs[2]) or _NUMBERS
    return _NUMBERS


def _why_several(work: Work, op: Op) -> str:
    """Why the chip cannot multiply by the scales of constants, if these have several; else ""."""
    for index, name in enumerate(op.inputs[:2]):
        codes = work.codes(op, index)
        scale, array = (None, None) if codes is None else (work.array(codes.scale), work.array(codes.name))
        if codes is None or scale is None or array is None or scale.size == 1:
            continue
        outputs = {"Conv": 0, "MatMul": array.ndim - 1}.get(op.kind, 1 - op.attributes.get("transB", 0))
        if not index or array.ndim < 2 or codes.axis % array.ndim != outputs:
            return f"{name!r} has several scales, along axis {codes.axis}, which is not that of the results"
    return ""


def _why_none(work: Work, name: str, codes: Codes | None) -> str:
    """Why the numbers `name` of `codes` are none that the chip knows, "" if they are."""
    if codes is None:
        return f"the DequantizeLinear of {name!r} has blocks, or another type than float32"
    zero, scale = work.array(codes.zero), work.array(codes.scale)
    if zero is None or scale is None:
        return f"scale and zero point of {name!r} must be constants"
    if zero.dtype not in (np.int8, np.uint8):
        return f"the codes of {name!r} are {zero.dtype}; the chip takes int8 and uint8"
    if scale.dtype != np.float32:
        return f"the scale of {name!r} must be float32, not {scale.dtype}"
    return f"{name!r} has several scales" if scale.size > 1 and work.array(codes.name) is None else ""


def why_of_sums(work: Work, op: Op) -> str:
    """Why `op` makes numbers of the sums of a product, which is the chip's."""
    bias = "its bias is not constant, beside a factor, or too large for int32 in steps of its sums"
    return ("makes numbers of the chip's sums: "
            + (bias if work.is_quantized(op) else "no QuantizeLinear stands behind the product"))


def _why_bias(work: Work, name: str) -> str:
    numbers = work.numbers(name)
    if numbers is None:
        return f"its bias {name!r} is not constant"
    if numbers.dtype != np.float32:
        return f"its bias {name!r} must be float32, or int32 codes, not {numbers.dtype}"
    return f"its bias {name!r} has another form than its outputs, or is too large for int32 in steps of its sums"
