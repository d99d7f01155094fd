"""Integer reference of the quantized ONNX operators, in plain numpy.

Bit for bit what ONNX Runtime computes, with the compiler's factors.
"""

from collections.abc import Callable

import numpy as np
from onnx import helper, numpy_helper

from ..golden.numerics import requantize_scale

__all__ = ["requantize", "run"]


def requantize(acc, scale, zero_point):
    """int32 accumulators to int8.

    Convert to float32 (round to nearest even), multiply by ``scale``, round half to even, add
    ``zero_point``, saturate. ``scale`` is a float32 scalar or has the last axis of ``acc``.
    """
    steps = np.rint(acc.astype(np.float32) * scale)
    low, high = -128 - float(zero_point), 127 - float(zero_point)
    return (np.clip(steps, low, high) + float(zero_point)).astype(np.int8)


def _quantize_linear(x, scale, zero_point):
    steps = np.rint(x / scale)
    return np.clip(steps + float(zero_point), -128, 127).astype(np.int8)


def _dequantize_linear(q, scale, zero_point):
    return (q.astype(np.int32) - zero_point.astype(np.int32)).astype(np.float32) * scale


def _linear(a, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias):
    """Rows of codes ``a`` [M, K] by codes ``w`` [K, N], requantized."""
    acc = (a.astype(np.int32) - np.int32(x_zero)) @ (w.astype(np.int32) - w_zero.astype(np.int32))
    return requantize(acc + bias, requantize_scale(x_scale, w_scale, y_scale), y_zero)


def _qlinear_matmul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    return _linear(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero, np.int32(0))


def _qlinear_conv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias,
                  *, kernel_shape, pads):
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=x_zero)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel_shape, axis=(2, 3))
    windows = windows.transpose(0, 2, 3, 1, 4, 5)
    n, h, width = windows.shape[:3]
    y = _linear(windows.reshape(n * h * width, -1), x_scale, x_zero, w.reshape(len(w), -1).T,
                w_scale, w_zero, y_scale, y_zero, bias)
    return y.reshape(n, h, width, -1).transpose(0, 3, 1, 2)


def _max_pool(x, *, kernel_shape, strides):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel_shape, axis=(2, 3))
    return windows[:, :, ::strides[0], ::strides[1]].max(axis=(4, 5))


_OPERATORS: dict[str, Callable] = {
    "QuantizeLinear": _quantize_linear,
    "DequantizeLinear": _dequantize_linear,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "Relu": lambda x: np.maximum(x, 0),
    "MaxPool": _max_pool,
    "Flatten": lambda x: x.reshape(len(x), -1),
}


def run(model, x):
    """Execute a graph that :func:`kiwicha_host.models.quantize.quantize` wrote.

    Parameters
    ----------
    model : onnx.ModelProto with one input
    x : float32 array, its input

    Returns
    -------
    dict from the name of every tensor computed, ``logits`` the last, to its value

    Raises
    ------
    ValueError : the graph has an operator that is not in the subset
    """
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values = {model.graph.input[0].name: x}
    for node in model.graph.node:
        if node.op_type not in _OPERATORS:
            raise ValueError(f"operator must be one of {', '.join(_OPERATORS)}, "
                             f"not {node.op_type!r}")
        operands = [values[i] if i in values else constants[i] for i in node.input]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = _OPERATORS[node.op_type](*operands, **attributes)
    return values
