"""DequantizeLinear and QuantizeLinear around an operator, as ONNX Runtime's quantizer writes them, become an
operator on codes.

Sums are integers, and a bias counts in steps of input scale times weight scale: so the results are those of ONNX
Runtime, to the bit, wherever it fuses too. Where it leaves numbers between the pairs (a ConvTranspose; a Relu or
Clip that the codes' range does not imply; a bias of numbers; a result that is quantized twice; on x86, signed
codes that it has not made unsigned), its sums are rounded, and near a half its code may be the next one.
"""

from dataclasses import replace

import numpy as np

from ..ir.graph import Graph, Op, with_unique_names
from .biases import bias_of
from .codes import Codes, Work, is_sound, read
from .fold_averages import OF_MANY
from .fold_moves import MOVES, moves_before
from .fold_rotary import ROTARY
from .remove_dead import remove_dead

__all__ = ["BIASED", "ON_CODES", "fold_qdq", "is_plain"]

#: How products are called that take codes; their weights' scales go along this axis, a MatMul's along the last.
_PRODUCTS = {"Conv": ("QLinearConv", 0), "MatMul": ("QLinearMatMul", 1), "Gemm": ("com.microsoft.QGemm", 1),
             "ConvTranspose": ("kiwicha.QLinearConvTranspose", 1)}
#: A MatMul of codes and the Add of its bias; its inputs are QLinearMatMul's, the bias, and what ``ops`` need.
BIASED = "kiwicha.QLinearMatMul"
#: The operators that may have a form that works on codes.
ON_CODES = (*_PRODUCTS, *MOVES, *OF_MANY, *ROTARY)
#: The attributes of a ConvTranspose that the chip has a rule for.
_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "pads", "strides")


def fold_qdq(graph: Graph) -> Graph:
    """The graph with QLinearConv, QLinearMatMul and com.microsoft.QGemm in the place of Conv, MatMul and Gemm.

    MaxPool, averages, softmax and what only moves elements work on codes then, and so does a Relu or Clip behind
    any of them. What fits no rule stays as it is.
    """
    work = Work(graph)
    ops: list[Op] = []
    for op in graph.ops:
        ops += (_folded(work, op) or _before_moves(work, op) if op.kind == "QuantizeLinear" else None) or [op]
    opsets = {**{op.kind.rpartition(".")[0]: 1 for op in ops if "." in op.kind}, **graph.opsets}
    folded = remove_dead(replace(graph.with_ops(tuple(ops), work.constants), opsets=opsets))
    return with_unique_names(folded)


def _folded(work: Work, quantize: Op) -> list[Op] | None:
    """What computes the codes that `quantize` makes, if its numbers come from codes."""
    made = read(quantize)
    if made is None or not is_sound(work.scalar(made.scale), work.scalar(made.zero)):
        return None
    limit, op = None, work.maker(made.name)
    if op is not None and op.kind in ("Relu", "Clip"):
        limit, op = op, work.maker(op.inputs[0])
    if op is None or (op.kind in _PRODUCTS and not work.is_quantized(op)):
        return None     # numbers that something else needs too are numbers first
    result = work.fresh(f"{op.outputs[0]}_codes") if limit else quantize.outputs[0]
    fold = _RULES.get(op.kind)
    # Of an operator with several outputs, this is the one.
    inner = fold(work, op, replace(made, name=limit.inputs[0] if limit else made.name), result) if fold else None
    outer = _limit(work, limit, made, result, quantize.outputs) if limit else None
    if inner is None or (outer is None and limit is not None):
        return None
    return [inner] if outer is None else [inner, outer]


def _before_moves(work: Work, quantize: Op) -> list[Op] | None:
    """The same where numbers of many, such as a norm's, change places before they become codes: codes do then.

    ONNX Runtime computes such numbers; of products it makes codes at once, or as :mod:`.pairs` has it.
    """
    made = read(quantize)
    if made is None or not is_sound(work.scalar(made.scale), work.scalar(made.zero)):
        return None
    numbers, codes, moves = moves_before(work, quantize)
    op = work.maker(numbers)
    fold = OF_MANY.get(op.kind) if op is not None and moves else None
    inner = fold(work, op, replace(made, name=numbers), codes) if op is not None and fold is not None else None
    return None if inner is None else [inner, *moves]


def _product(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """Conv, MatMul or Gemm of codes with constant codes."""
    kind, axis = _PRODUCTS[op.kind]
    attributes = dict(op.attributes)
    if op.kind == "Gemm":
        # ONNX Runtime's operator multiplies its bias by alpha, too.
        factors = attributes.get("alpha", 1), attributes.pop("beta", 1)
        if attributes.get("transA", 0) or (any(op.inputs[2:]) and factors != (1, 1)):
            return None
        axis -= attributes.get("transB", 0)
    if op.kind == "ConvTranspose" and not is_plain(op):
        return None
    x, w = work.codes(op, 0), work.codes(op, 1)
    if x is not None and w is not None and work.array(w.name) is None and op.kind == "MatMul":
        return _computed(work, op, x, w, made, result)
    if x is None or w is None or work.scalar(x.scale) is None or work.array(w.name) is None:
        return None
    scales = work.array(w.scale)
    if not is_sound(work.scalar(x.scale), work.scalar(x.zero)):
        return None
    weights = work.constants[w.name]
    if op.kind == "MatMul":
        axis = weights.ndim - 1
    if scales is None or scales.ndim > 1 or (scales.size > 1 and (
            weights.ndim < 2 or w.axis not in (axis, axis - weights.ndim))):
        return None
    bias = bias_of(work, op.inputs[2] if len(op.inputs) > 2 else "", x, w, axis)
    if bias is None:
        return None
    ends = ("", made.scale, made.zero) if op.kind == "Gemm" else (made.scale, made.zero)
    inputs = [x.name, x.scale, x.zero, w.name, w.scale, w.zero, *ends]
    if bias and op.kind == "Gemm":
        inputs[6] = bias
    elif bias:
        inputs.append(bias)
    return Op(op.name, kind, tuple(inputs), (result,), attributes)


def is_plain(op: Op) -> bool:
    """Whether the chip has a rule for all attributes of a ConvTranspose."""
    return not set(op.attributes) - set(_WINDOW) and op.attributes.get("auto_pad") in (None, "NOTSET") and all(
        item == 1 for item in op.attributes.get("dilations", ()))


def _computed(work: Work, op: Op, x: Codes, w: Codes, made: Codes, result: str) -> Op | None:
    """MatMul of codes of which none are constant."""
    if not all(is_sound(work.scalar(item.scale), work.scalar(item.zero)) for item in (x, w)):
        return None
    return Op(op.name, "QLinearMatMul", (x.name, x.scale, x.zero, w.name, w.scale, w.zero, made.scale, made.zero),
              (result,))


def _sum(work: Work, op: Op, made: Codes, result: str) -> Op | None:
    """Add of a constant to a MatMul of codes, which nothing else needs: its bias. Or the last of a norm."""
    for index, name in enumerate(op.inputs if work.is_quantized(op) else ()):
        product = work.maker(name)
        if product is None or product.kind != "MatMul" or work.shared(product):
            continue
        inner, bias = _product(work, product, made, result), op.inputs[1 - index]
        x, w = work.codes(product, 0), work.codes(product, 1)
        weights = None if w is None else work.array(w.name)
        if inner is None or x is None or w is None or weights is None or weights.ndim != 2 or not _is_flat(
                work, bias, name):
            continue
        steps = bias_of(work, bias, x, w, 1)
        if steps is None:
            continue
        makers = [maker for item in (*product.inputs, bias) if (maker := work.maker(item)) is not None]
        last = Op("quantize", "QuantizeLinear", (op.outputs[0], made.scale, made.zero), (result,))
        inputs = (*inner.inputs, steps)
        others = dict.fromkeys(name for item in (*makers, op) for name in item.inputs
                               if name in work.constants and name not in inputs)
        return Op(product.name, BIASED, (*inputs, *others), (result,), {"ops": (*makers, product, op, last)})
    return OF_MANY[op.kind](work, op, made, result)


def _is_flat(work: Work, bias: str, product: str) -> bool:
    """Whether a bias gives the product no more dimensions."""
    numbers, shape = work.numbers(bias), work.shape(product)
    return numbers is not None and numbers.ndim <= max(1, 0 if shape is None else len(shape))


#: By the operator's kind: the operator on codes that makes the codes `result`, if there is one.
_RULES = {**MOVES, **OF_MANY, **ROTARY, **dict.fromkeys(_PRODUCTS, _product), "Add": _sum}


def _limit(work: Work, op: Op, made: Codes, source: str, outputs: tuple[str, ...]) -> Op | None:
    """Relu or Clip on codes: quantizing is monotone, so that limits may be quantized instead."""
    if op.kind == "Relu":
        return Op(op.name, "Max", (source, made.zero), outputs)
    zero, scale = work.constants[made.zero].reshape(()), work.constants[made.scale].reshape(())
    names = []
    for index, name in ((1, "min"), (2, "max")):
        given = op.inputs[index] if index < len(op.inputs) else ""
        number = work.scalar(given) if given else op.attributes.get(name)
        if (given and (number is None or number.dtype != np.float32)) or (number is not None and np.isnan(number)):
            return None
        names.append("" if number is None else work.fresh(f"{op.outputs[0]}_{name}"))
        if number is not None:
            with np.errstate(over="ignore"):
                code = np.rint(np.float32(number) / scale) + np.float32(zero)
            bounds = np.iinfo(zero.dtype)
            work.constants[names[-1]] = np.clip(code, bounds.min, bounds.max).astype(zero.dtype)
    return Op(op.name, "Clip", (source, *names), outputs)

