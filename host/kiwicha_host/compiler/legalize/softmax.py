"""Softmax of codes."""

import numpy as np

from ..ir.row_layers import SoftmaxLayer
from .heads import rows_of
from .node import Node
from .pooling import ends
from .value import Value, as_rows

__all__ = ["qlinear_softmax"]

#: Sums of exponentials stay below 2^31, and each of them below 2^23, as in ONNX Runtime.
_SUMS, _LARGEST = (1 << 31) - 1, (1 << 23) - 1
#: Scales of results, whose reciprocals ONNX Runtime rounds down to integers.
_LEAST_SCALE = 2.0 ** -16
#: From here on, the axis is one alone.
_ONE_AXIS = 13


def qlinear_softmax(value: Value, node: Node) -> None:
    """ONNX Runtime's QLinearSoftmax: exponentials are integers, from a table, and so is the reciprocal of the
    result's scale; but not where it stands for operators on numbers, between codes of two types."""
    node.only("axis", "opset", "ops")
    mixed = "ops" in node.attributes
    rank, axis, opset = value.where.ndim, node.attributes.get("axis", -1), node.attributes.get("opset", 0)
    if not -rank <= axis < rank or axis % rank == 0:
        raise node.error(f"axis {axis} must be one of {rank} dimensions, and not the batch")
    axis %= rank
    if axis != rank - 1 and opset < _ONE_AXIS:
        raise node.error(f"takes the last of several axes, not {axis} of {rank}; before opset 13, all axes from "
                         "there on are one")
    x_scale, y_scale, _, y_zero = ends(value, node, mixed=mixed)
    value.shape_with(node, lambda x: np.moveaxis(x, axis, -1))
    features = value.where.shape[-1]
    if features > _SUMS // 256 or not _LEAST_SCALE <= y_scale <= 1:
        raise node.error(f"{features} elements in a row are too many, or a result's scale of {y_scale} is not "
                         f"from {_LEAST_SCALE} to 1")
    largest = min(_SUMS // features, _LARGEST)
    distances = np.arange(-255, 1)
    table = np.zeros(256, np.int32)
    table[distances & 255] = np.rint(largest * np.exp(distances * np.float64(x_scale)))
    shape = value.where.shape[1:-1]
    size, rows = rows_of(value, node), as_rows(shape, features)
    factor = np.array([y_scale if mixed else 1 / np.floor(np.float32(1) / y_scale)], np.float32)
    value.append(SoftmaxLayer(node.name, node.label, features, size, table, factor=factor, y_zero=y_zero),
                 value.unsigned ^ mixed, lambda x: np.moveaxis(rows(x), -1, axis))
