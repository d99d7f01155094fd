"""How many multiply-accumulates an operator asks for."""

from collections.abc import Mapping
from math import prod

from .graph import Graph, Op

__all__ = ["macs"]

#: Products, and which of their inputs are the operands; those of convolutions with weights come first.
_CONVOLUTIONS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "ConvTranspose": (0, 1),
                 "kiwicha.QLinearConvTranspose": (0, 3), "kiwicha.ConvTransposeInteger": (0, 1)}
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "Gemm": (0, 1), "QLinearMatMul": (0, 3),
             "com.microsoft.QGemm": (0, 3), "kiwicha.QGemm": (0, 3), "kiwicha.QLinearMatMul": (0, 3)}
#: Recurrent layers, whose inputs 1 and 2 are the weights of their input and of their state, for each direction.
_RECURRENT = ("GRU", "LSTM", "RNN", "com.microsoft.DynamicQuantizeLSTM")


def macs(op: Op, graph: Graph, sizes: Mapping[str, int]) -> int:
    """Multiply-accumulates of a convolution, a matrix product or a recurrent layer; 0 for all else, and where a
    shape is not known.

    A dimension that is only a name has the size that `sizes` gives it, or 1.
    """
    if op.kind in _RECURRENT:
        x, w, r = (_shape(graph, name, sizes) for name in op.inputs[:3])
        return 0 if not x or not w or not r else prod(x[:2]) * (prod(w) + prod(r))
    pair = _CONVOLUTIONS.get(op.kind) or _PRODUCTS.get(op.kind)
    if pair is None:
        return 0
    x, w = (_shape(graph, op.inputs[index], sizes) for index in pair)
    y = _shape(graph, op.outputs[0], sizes)
    if not x or not w or y is None:
        return 0
    if op.kind in _CONVOLUTIONS:
        return prod(x if "ConvTranspose" in op.kind else y) * prod(w[1:])
    return prod(y) * x[0 if op.attributes.get("transA") else -1]


def _shape(graph: Graph, name: str, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    type_ = graph.type_of(name)
    if type_ is None or type_.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in type_.shape)
