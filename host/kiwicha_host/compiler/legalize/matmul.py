"""Matrix products with constant operands."""

import numpy as np

from ..ir.layers import Layer
from .constants import bias_of, folded_bias, scales_of, weights_of
from .heads import rows_of
from .node import Node
from .value import Value, as_rows

__all__ = ["qgemm", "qlinear_matmul"]


def qlinear_matmul(value: Value, node: Node) -> None:
    """Also that of ONNX with a bias, input 8."""
    node.only("ops")
    weights = weights_of(node, 2, 1)
    _matmul(value, node, weights, bias_of(node, 8, weights.shape[1]), output=6)


def qgemm(value: Value, node: Node) -> None:
    """ONNX Runtime's matrix product of codes with a bias, in steps of input scale times weight scale.

    That of more dimensions, kiwicha.QGemm, has the result's ``shape``.
    """
    node.only("alpha", "shape", "transA", "transB")
    node.one_of("transA", 0)
    transposed = bool(node.attributes.get("transB", 0))
    weights = weights_of(node, 2, 1 - transposed)
    if transposed:
        weights = weights.T
    if value.where.ndim != 2 and "shape" not in node.attributes:
        raise node.error(f"takes [N, features], not {value.where.ndim} dimensions; flatten before it")
    bias = node.constant(6, "the bias") if node.has(6) else np.zeros((), np.int32)
    try:
        bias = np.broadcast_to(bias, (1, weights.shape[1]))[0]
    except ValueError:
        raise node.error(f"the bias must be int32 [{weights.shape[1]}], not {list(bias.shape)}") from None
    if bias.dtype != np.int32:
        raise node.error(f"the bias must be int32, not {bias.dtype}")
    _matmul(value, node, weights, bias, output=7)


def _matmul(value: Value, node: Node, weights: np.ndarray, bias: np.ndarray, output: int) -> None:
    """The product with `weights`, [features, outputs]; input `output` of the node is the result's scale."""
    if value.where.ndim < 2:
        raise node.error("takes [N, ..., features], not a single dimension")
    features = value.where.shape[-1]
    if len(weights) != features:
        raise node.error(f"weights {list(weights.shape)} do not fit {features} features")
    outputs = weights.shape[1]
    x_zero, unsigned = node.zero_point(2, "the input's zero point")
    value.match(node, unsigned)
    y_zero, y_unsigned = node.zero_point(output + 1, "the output's zero point")
    scale = scales_of(node, outputs, output)
    channels, size, conv_size = features, (1, 1), (1, 1)
    if value.where.ndim > 2:
        # Each row is a place of its own.
        size = conv_size = rows_of(value, node)
        kernels = weights.T[:, :, None, None]
    else:
        # Row i of the weights belongs to element where[i] of the view's [C, H, W].
        if value.view is not None:
            channels, size = value.view.channels, value.view.size
            order = np.argsort(value.where[0])
            if (np.diff(order) != 1).any():
                weights = weights[order]
        kernels = weights.T.reshape(outputs, channels, *size)
    rows = as_rows(value.where.shape[1:-1], outputs)
    value.append(Layer(name=node.name, op=node.op, weights=kernels, bias=folded_bias(bias, kernels, x_zero),
                       scale=scale, x_zero=x_zero, y_zero=y_zero, size=size, conv_size=conv_size,
                       real_macs=weights.size * conv_size[0] * conv_size[1]),
                 unsigned=y_unsigned, shaper=rows)
