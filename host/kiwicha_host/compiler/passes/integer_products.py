"""Products of codes whose results stay numbers: integers on the chip, and the host has their scales and biases.

Such are a model's last layer without a QuantizeLinear behind it, or a residual that is added before one. Sums are
exact, and rounded once or twice when they become float32; ONNX Runtime does the same, or adds up numbers.
"""

from collections.abc import Set
from dataclasses import dataclass, replace

import numpy as np

from ..ir.graph import Graph, Op, with_unique_names
from .biases import bias_of, exact_bias
from .codes import Codes, Work, is_sound
from .fold_qdq import is_plain
from .remove_dead import remove_dead

__all__ = ["BETWEEN", "IN_PLACE", "OF_SUMS", "PRODUCTS", "TRANSPOSED", "integer_products"]

#: What makes numbers of sums: its ``ops`` add a bias, multiply by a scale, or both.
OF_SUMS = "kiwicha.NumbersOfSums"
#: A ConvTranspose of integers. Its inputs are ConvInteger's, and what ``ops`` need.
TRANSPOSED = "kiwicha.ConvTransposeInteger"
#: What moves no number of the chip's from one place of memory to another.
IN_PLACE = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
#: What the chip computes with numbers, if codes become of these.
BETWEEN = ("Add", "Clip", "Concat", "Div", "Exp", "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu",
           "MaxPool", "Mul", "Neg", "Reciprocal", "ReduceMean", "Relu", "Resize", "Sigmoid", "Slice", "Split",
           "Sub", "Swish", "Tanh", "com.microsoft.QuickGelu")
#: Kinds of products, and those of integers.
PRODUCTS = {"Conv": "ConvInteger", "ConvTranspose": TRANSPOSED, "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}
#: Those whose channels are axis 1.
_IMAGES = ("Conv", "ConvTranspose")
#: ONNX's number for the type of sums.
_INT32 = 6
#: The first version of ONNX that has these.
_SINCE = 10
#: ONNX's number for the type of results.
_FLOAT = 1


def integer_products(graph: Graph) -> Graph:
    """The graph with ConvInteger and MatMulInteger in the place of Conv, Gemm and MatMul of codes."""
    work, ops = Work(graph), list[Op]()
    become_codes = _become_codes(work, graph)
    for op in graph.ops:
        product = _read(work, op, become_codes) if op.kind in PRODUCTS and work.opset >= _SINCE else None
        ops += [op] if product is None else _written(work, op, product)
    if len(ops) == len(graph.ops):
        return graph
    return with_unique_names(remove_dead(graph.with_ops(tuple(ops), work.constants)))


@dataclass(frozen=True)
class _Product:
    """Two operands' codes and zero points by name, the product's scale and, "" for none, its bias, which is one of
    integers or of numbers."""
    codes: tuple[str, str]
    zeros: tuple[str, str]
    scale: np.ndarray
    integers: str = ""
    numbers: str = ""


def _read(work: Work, op: Op, become_codes: Set[str]) -> _Product | None:
    """What `op` multiplies; None if that has to be done in numbers."""
    x, w = work.codes(op, 0), work.codes(op, 1)
    known = {"transA": 0, "beta": 1}
    if x is None or w is None or any(op.attributes.get(name, value) != value for name, value in known.items()):
        return None
    weights = work.array(w.name)
    if op.kind in _IMAGES and (weights is None or weights.ndim not in (3, 4)):
        return None
    if op.kind == "ConvTranspose" and not is_plain(op):
        return None
    transposed = op.attributes.get("transB", 0)
    axis = {"Conv": 0, "ConvTranspose": 1}.get(op.kind, 0 if transposed else -1)
    scale, zero = _steps(work, w, axis), work.scalar(x.zero)
    if scale is None or not is_sound(work.scalar(x.scale), zero):
        return None
    if op.kind == "ConvTranspose" and scale.size > 1:
        scale = np.tile(scale, op.attributes.get("group", 1))
    second = w.name
    if transposed:
        if weights is None:
            return None
        second = work.constant(f"{w.name}:transposed", np.ascontiguousarray(weights.T))
    scale = np.asarray(work.constants[x.scale].reshape(()) * scale * np.float32(op.attributes.get("alpha", 1)))
    bias = op.inputs[2] if len(op.inputs) > 2 else ""
    exact = exact_bias(work, bias, scale.reshape(-1)) if bias else ""
    if bias and not exact and "alpha" not in op.attributes and op.outputs[0] in become_codes:
        # As behind a QuantizeLinear; what is far less than a step of the codes is no layer of its own.
        exact = bias_of(work, bias, x, w, axis) or ""
    if op.kind in _IMAGES and bias and not exact and work.numbers(bias) is None:
        return None
    return _Product((x.name, second), (x.zero, _zero(work, w)), scale, exact, "" if exact else bias)


def _become_codes(work: Work, graph: Graph) -> set[str]:
    """The numbers of which the chip makes codes: of all that is computed with them."""
    found = set[str]()
    for name in (name for op in reversed(graph.ops) for name in op.outputs if name):
        readers = work.readers(name)
        inside = sum(item.inputs.count(name) for item in readers)       # not what the user or another graph has
        if readers and inside == work.reads(name) and all(
                item.kind == "QuantizeLinear" or (item.kind in (*BETWEEN, *IN_PLACE) and {*item.outputs} <= found)
                for item in readers):
            found.add(name)
    return found


def _steps(work: Work, w: Codes, axis: int) -> np.ndarray | None:
    """The scales of the second operand, one or one for each output, along `axis`, if there are such."""
    scales, zeros, weights = work.array(w.scale), work.array(w.zero), work.array(w.name)
    if scales is None or zeros is None or scales.shape != zeros.shape or not all(
            is_sound(scale, zeros) for scale in scales.reshape(-1)):
        return None
    if scales.size == 1:
        return scales.reshape(())
    along = (weights is not None and weights.ndim > 1 and scales.ndim == 1
             and w.axis in (axis % weights.ndim, axis % weights.ndim - weights.ndim))
    return scales if along and not (zeros != zeros[0]).any() else None


def _zero(work: Work, w: Codes) -> str:
    """The one zero point of the second operand."""
    zeros = work.constants[w.zero]
    return w.zero if zeros.size == 1 else work.constant(f"{w.zero}:one", zeros[:1].reshape(()))


def _written(work: Work, op: Op, product: _Product) -> list[Op]:
    """The product, and what makes numbers of it."""
    beside = (-1, *[1] * (work.constants[product.codes[1]].ndim - 2)) if op.kind in _IMAGES else (-1,)
    sums = work.fresh(f"{op.outputs[0]}:sums")
    whole = Op(op.name, PRODUCTS[op.kind], (*product.codes, *product.zeros), (sums,),
               op.attributes if op.kind in _IMAGES else {})
    if op.kind == "ConvTranspose":
        whole = _transposed(work, whole)
    inputs, ops = [sums], list[Op]()

    def then(kind: str, operand: str | np.ndarray, **attributes: int) -> None:
        if isinstance(operand, np.ndarray):
            operand = work.constant(f"{sums}:{kind}", operand.reshape(beside if operand.size > 1 else ()))
        taken = (ops[-1].outputs[0] if ops else sums, *filter(None, [operand]))
        inputs.extend(taken[1:])
        ops.append(Op(f"{len(ops)}", kind, taken, (f"{len(ops)}",), attributes))

    if product.integers:
        then("Add", work.constants[product.integers])
    then("Cast", "", to=_FLOAT)
    then("Mul", product.scale)
    if product.numbers:
        numbers = work.numbers(product.numbers)
        then("Add", product.numbers if numbers is None or op.kind not in _IMAGES else numbers)
    ops[-1] = replace(ops[-1], outputs=op.outputs)
    return [whole, Op(f"{op.name}:numbers", OF_SUMS, tuple(inputs), op.outputs, {"ops": tuple(ops)})]


def _transposed(work: Work, op: Op) -> Op:
    """`op` with the operators that it stands for, on numbers, which hold the sums of small ones."""
    one = work.constant(f"{op.outputs[0]}:one", np.array(1, np.float32))
    (x, w, x_zero, w_zero), names = op.inputs, [work.fresh(f"{op.outputs[0]}:{part}") for part in "xwy"]
    ops = (Op("x", "DequantizeLinear", (x, one, x_zero), (names[0],)),
           Op("w", "DequantizeLinear", (w, one, w_zero), (names[1],)),
           Op(op.name, "ConvTranspose", (names[0], names[1]), (names[2],), op.attributes),
           Op("sums", "Cast", (names[2],), op.outputs, {"to": _INT32}))
    return replace(op, inputs=(*op.inputs, one), attributes={**op.attributes, "ops": ops})
