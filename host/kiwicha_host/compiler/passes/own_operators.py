"""Operators of ONNX Runtime's own domain become ONNX's, of which its optimizer has made them.

So the products of a model that ONNX Runtime has optimized are the chip's, as they were before. What else it fuses
is the host's where it has numbers, and stays as it is; the quantizer takes it apart, to have codes in between.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..ir.graph import Graph, Op, with_unique_names
from .codes import Work

__all__ = ["own_operators", "own_products"]

_DOMAIN = "com.microsoft."
#: The first version of ONNX that has all that products are made of: DynamicQuantizeLinear came last.
_SINCE = 11
#: ONNX's number for the type of numbers.
_FLOAT = 1
#: The epsilon of norms of sums, unless they say it.
_EPSILON = 1e-12


def own_products(graph: Graph) -> Graph:
    """The graph without products of codes that become numbers, of that domain."""
    return _without(graph, _PRODUCTS)


def own_operators(graph: Graph) -> Graph:
    """The graph without such products, norms of sums, and functions after a bias, of that domain. What makes more
    than ONNX's operators do stays."""
    return _without(graph, {**_PRODUCTS, **_OTHERS})


def _without(graph: Graph, rules: Mapping[str, Callable[..., list[Op] | None]]) -> Graph:
    work, ops = Work(graph), list[Op]()
    for op in graph.ops:
        rule = rules.get(op.kind) if work.opset >= _SINCE else None
        ops += [op] if rule is None else rule(_Parts(work, op), *op.inputs) or [op]
    if len(ops) == len(graph.ops):
        return graph
    return with_unique_names(graph.with_ops(tuple(ops), work.constants))


class _Parts:
    """What comes in the place of `op`: operators, one after the other."""

    def __init__(self, work: Work, op: Op):
        self.work, self.op, self._ops = work, op, list[Op]()

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One more of one output, without empty inputs at its end; the name of its output."""
        [output] = self.several(1, kind, *inputs, **attributes)
        return output

    def several(self, count: int, kind: str, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """One more of `count` outputs, their names."""
        outputs = tuple(self.work.fresh(f"{self.op.outputs[0]}:{kind}{index or ''}") for index in range(count))
        while not inputs[-1]:
            inputs = inputs[:-1]
        name = self.op.name if kind.startswith("MatMul") else f"{self.op.name}:{kind}"
        self._ops.append(Op(name, kind, inputs, outputs, attributes))
        return outputs

    def finished(self) -> list[Op]:
        """All of them; the last makes the first result of `op`."""
        return [*self._ops[:-1], replace(self._ops[-1], outputs=self.op.outputs[:1])]


def _numbers(parts: _Parts, a: str, b: str, a_scale: str, b_scale: str, a_zero: str = "", b_zero: str = "",
             bias: str = "") -> list[Op]:
    """MatMulIntegerToFloat: a MatMul of numbers, if scales and zero points are known as DequantizeLinear's are."""
    work = parts.work
    scale, scales = work.scalar(a_scale), work.array(b_scale)
    if scale is not None and scales is not None and scales.ndim < 2 and all(
            work.array(zero) is not None for zero in (a_zero, b_zero) if zero):
        along = {"axis": -1} if scales.size > 1 else {}
        product = parts("MatMul", parts("DequantizeLinear", a, a_scale, a_zero),
                        parts("DequantizeLinear", b, b_scale, b_zero, **along))
    else:
        sums = parts("Cast", parts("MatMulInteger", a, b, a_zero, b_zero), to=_FLOAT)
        product = parts("Mul", sums, parts("Mul", a_scale, b_scale))
    if bias:
        parts("Add", product, bias)
    return parts.finished()


def _of_numbers(parts: _Parts, a: str, b: str, b_scale: str, b_zero: str = "", bias: str = "") -> list[Op]:
    """DynamicQuantizeMatMul."""
    codes, scale, zero = parts.several(3, "DynamicQuantizeLinear", a)
    return _numbers(parts, codes, b, scale, b_scale, zero, b_zero, bias)


def _norm(parts: _Parts, x: str, other: str, gain: str, beta: str = "", bias: str = "") -> list[Op] | None:
    """SkipLayerNormalization, if nothing needs its mean and variance."""
    return _of_sum(parts, "LayerNormalization", x, other, bias, gain, beta)


def _simplified_norm(parts: _Parts, x: str, other: str, gain: str, bias: str = "") -> list[Op] | None:
    """SkipSimplifiedLayerNormalization, of that kind."""
    return _of_sum(parts, "SimplifiedLayerNormalization", x, other, bias, gain)


def _of_sum(parts: _Parts, kind: str, x: str, other: str, bias: str, *factors: str) -> list[Op] | None:
    gain, made = parts.work.array(factors[0]), (*parts.op.outputs, "", "", "")
    if gain is None or gain.dtype != np.float32 or any(made[1:3]):
        return None
    total = parts("Add", x, other)
    if bias:
        total = parts("Add", total, bias)
    parts(kind, total, *factors, axis=-1, epsilon=parts.op.attributes.get("epsilon", _EPSILON))
    ops = parts.finished()
    return [op.renamed({total: made[3]}) if op is ops[-1] else
            replace(op, outputs=(made[3],)) if op is ops[-2] else op for op in ops] if made[3] else ops


def _after_bias(kind: str) -> Callable[..., list[Op] | None]:
    def rule(parts: _Parts, x: str, bias: str = "") -> list[Op] | None:
        if not bias:
            return None
        parts(kind, parts("Add", x, bias))
        return parts.finished()
    return rule


#: By kind, what makes operators of an operator's inputs; None if it stays.
_PRODUCTS: dict[str, Callable[..., list[Op] | None]] = {
    _DOMAIN + "DynamicQuantizeMatMul": _of_numbers,
    _DOMAIN + "MatMulIntegerToFloat": _numbers,
}
_OTHERS: dict[str, Callable[..., list[Op] | None]] = {
    _DOMAIN + "BiasGelu": _after_bias(_DOMAIN + "Gelu"),
    _DOMAIN + "FastGelu": _after_bias(_DOMAIN + "FastGelu"),
    _DOMAIN + "SkipLayerNormalization": _norm,
    _DOMAIN + "SkipSimplifiedLayerNormalization": _simplified_norm,
}
