"""Root mean square normalization of codes."""

import numpy as np

from ..ir.row_layers import RmsNormLayer
from .evaluate import CODES
from .heads import rows_of
from .node import Node
from .pooling import ends
from .value import Value, as_rows

__all__ = ["rms_norm"]

#: Sums of squares stay below it.
_SUMS = 1 << 31


def rms_norm(value: Value, node: Node) -> None:
    """RMSNormalization along the last axis."""
    node.only("axis", "epsilon", "ops", "stash_type")
    node.one_of("stash_type", 1)
    features, shape = value.last_axis(node)
    x_scale, y_scale, x_zero, y_zero = ends(value, node)
    given = node.constant(5, "the scale").astype(np.float32)
    if given.ndim > 1 or given.size not in (1, features):
        raise node.error(f"its scale must be [{features}], not {list(given.shape)}")
    with np.errstate(all="ignore"):
        gain = np.broadcast_to(given, features) / y_scale
        epsilon = np.float32(node.attributes["epsilon"] / np.float64(x_scale) ** 2)
    if not (np.isfinite(gain).all() and 0 < epsilon < np.inf and features * 255 ** 2 < _SUMS):
        raise node.error(f"squares of {features} codes do not fit in 32 bits, its scale is too large for the "
                         f"result's, {y_scale}, or its epsilon is not above zero in squares of the input's scale, "
                         f"{x_scale}")
    size = rows_of(value, node)
    table = np.zeros(256, np.float32)
    table[CODES.view(np.uint8)] = CODES.astype(np.float32) - x_zero
    value.append(RmsNormLayer(node.name, node.label, features, size, table.view(np.int32), y_zero=y_zero,
                              epsilon=float(epsilon), gain=gain),
                 value.unsigned, as_rows(shape, features))
