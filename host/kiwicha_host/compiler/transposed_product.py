"""Transposed convolutions of codes whose results stay numbers: GEMMs whose results overlap."""

from collections.abc import Callable
from itertools import product

import numpy as np

from .legalize.node import Node

__all__ = ["transposed_convolution"]


def transposed_convolution(node: Node, multiply: Callable[..., np.ndarray], x: np.ndarray,
                           x_zero: np.ndarray | None, w: np.ndarray, w_zero: np.ndarray | None) -> np.ndarray:
    """int32 [N, outputs, height, width] of codes [N, channels, height, width] and [channels, outputs of a group,
    ky, kx], or all without height.

    Parameters
    ----------
    multiply : of [M, groups, K], its zero point, and [groups, K, N] less theirs makes int32 [M, groups, N]
    """
    flat = x.ndim == 3
    if flat:
        x, w = x[:, :, None], w[:, :, None]
    group, strides, (outputs, *kernel) = node.attributes.get("group", 1), node.pair("strides"), w.shape[1:]
    if len(w) != x.shape[1] or len(w) % group or node.pair("kernel_shape", (kernel[0], kernel[1])) != (*kernel,):
        raise ValueError(f"kernels {list(w.shape)} in {group} groups do not fit {list(x.shape)}")
    size = x.shape[2:]
    first, result = node.transposed_window((size[0], size[1]), (kernel[0], kernel[1]))
    reach = [max((size[i] - 1) * strides[i] + kernel[i], first[i] + result[i]) for i in range(2)]
    centred = w.astype(np.int16) - (0 if w_zero is None else w_zero.astype(np.int16))
    made = multiply(x.transpose(0, 2, 3, 1).reshape(-1, group, len(w) // group), x_zero,
                    centred.reshape(group, len(w) // group, -1))
    made = made.reshape(len(x), *size, group * outputs, *kernel)
    whole = np.zeros((len(x), *reach, group * outputs), np.int32)
    for y, x_ in product(*map(range, kernel)):
        whole[:, y:y + (size[0] - 1) * strides[0] + 1:strides[0],
              x_:x_ + (size[1] - 1) * strides[1] + 1:strides[1]] += made[..., y, x_]
    cut = whole[:, first[0]:first[0] + result[0], first[1]:first[1] + result[1]].transpose(0, 3, 1, 2)
    return np.ascontiguousarray(cut[:, :, 0] if flat else cut)
