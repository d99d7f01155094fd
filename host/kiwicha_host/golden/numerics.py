"""The numerics contract in numpy: what each result is, to the bit.

This is the definition that the hardware is held to, and it shares no arithmetic with it. All arrays are
numpy; C has M rows and N columns, and whatever is per column has length N.

FP32 is IEEE 754 binary32 with subnormals, round to nearest even, overflow to infinity, and one NaN,
0x7FC00000. Clamp and maximum compare FP32 by IEEE's totalOrder: -0 is less than +0, NaN more than infinity.
"""

from typing import Any

import ml_dtypes
import numpy as np

from kiwicha.isa import OutFormat

from .. import arguments
from ..operands import is_real

__all__ = ["CANONICAL_NAN", "clamp", "epilogue", "gemm_int", "pairwise_sum", "quantize", "requantize_scale",
           "to_bf16", "to_fp32", "top", "total_order"]

CANONICAL_NAN = np.uint32(0x7FC00000).view(np.float32)


def gemm_int(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C = A . B for integer A [..., M, K] and B [..., K, N]: int32, two's complement, modulo 2^32."""
    a, b = _integers("a", a), _integers("b", b)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"a must have as many columns as b has rows, not {list(a.shape)} and {list(b.shape)}")
    if all(item.dtype in (np.int8, np.uint8) for item in (a, b)) and a.shape[-1] < 1 << 37:
        # Products are below 2^16, so sums of up to 2^37 are exact in float64, whatever their order.
        exact = a.astype(np.float64) @ b.astype(np.float64)
        return exact.astype(np.int64).astype(np.int32)
    with np.errstate(over="ignore"):
        return a.astype(np.int32) @ b.astype(np.int32)


def total_order(x: np.ndarray) -> np.ndarray:
    """int32 keys that sort as the FP32 numbers `x` do in IEEE's totalOrder."""
    bits = np.asarray(_real("x", x), np.float32).view(np.int32)
    return np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _from_order(keys: np.ndarray) -> np.ndarray:
    """Inverse of :func:`total_order`."""
    return np.where(keys < 0, keys ^ 0x7FFFFFFF, keys).astype(np.int32).view(np.float32)


def to_fp32(acc: np.ndarray, scale: np.ndarray | np.float32 | None = None) -> np.ndarray:
    """int32 (or FP32 already) to FP32, times the FP32 `scale`: two roundings, no fused operation."""
    x = _accumulators("acc", acc).astype(np.float32)
    if scale is not None:
        factor = _real("scale", scale)
        with np.errstate(all="ignore"):
            x = x * np.asarray(factor, np.float32)
    return np.where(np.isnan(x), CANONICAL_NAN, x)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """FP32 to BF16 codes (uint16): rounded to nearest even, overflow to infinity; NaN gives 0x7FC0."""
    x = _real("x", x)
    with np.errstate(all="ignore"):
        codes = np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), codes)


def clamp(x: np.ndarray, low, high) -> np.ndarray:
    """min(max(x, low), high): int32 as numbers, FP32 in total order."""
    x, low, high = _accumulators("x", x), _real("low", low), _real("high", high)
    if x.dtype == np.int32:
        return np.minimum(np.maximum(x, np.int32(low)), np.int32(high))
    return _from_order(np.minimum(np.maximum(total_order(x), total_order(low)), total_order(high)))


def quantize(x: np.ndarray, zero_point: int = 0) -> np.ndarray:
    """FP32 to int8: round half to even, add the zero point, saturate; NaN gives the zero point."""
    x, zero_point = _real("x", x), arguments.integer("zero_point", zero_point)
    steps = np.rint(np.where(np.isnan(x), 0, x).astype(np.float64)) + zero_point
    return np.clip(steps, -128, 127).astype(np.int8)


def epilogue(acc: np.ndarray, bias: np.ndarray | None = None, scale: np.ndarray | np.float32 | None = None,
             out_format: OutFormat = OutFormat.INT32, clamp_to: tuple | None = None, zero_point: int = 0,
             window: tuple[int, ...] = (), times: np.ndarray | None = None) -> np.ndarray:
    """Accumulators to results: add bias, to FP32, scale, clamp, maximum over a window, convert.

    Parameters
    ----------
    acc : int32 [..., N], or float32 from a block-scaled GEMM, which has no INT32 output
    bias : [N] of the same type: int32 is added modulo 2^32, float32 in FP32
    scale : FP32 scalar or [N]; INT32 ignores it
    out_format : INT32 stays an integer throughout; for BF16 and block-scaled outputs take FP32, and then
        :func:`to_bf16` or :func:`~kiwicha_host.golden.quantize_block`
    clamp_to : (low, high), int32 for INT32 and else FP32
    zero_point : for INT8
    window : axes of `acc` over which the maximum is taken
    times : [N], FP32: a factor before `scale`

    Returns
    -------
    int8, int32 or float32, of the shape of `acc` without the axes `window`
    """
    x = _accumulators("acc", acc)
    if not isinstance(out_format, OutFormat):
        raise TypeError(f"out_format must be an OutFormat, not {arguments.shown(out_format)}")
    if x.dtype == np.float32 and out_format == OutFormat.INT32:
        raise ValueError("a float32 accumulator has no INT32 output")
    if bias is not None:
        bias = _real("bias", bias)
        with np.errstate(all="ignore"):
            x = x + np.asarray(bias, x.dtype)
    if out_format != OutFormat.INT32:
        x = to_fp32(to_fp32(x, times), scale)
    if clamp_to is not None:
        x = clamp(x, *clamp_to)
    if window:
        x = x.max(axis=window) if out_format == OutFormat.INT32 else maximum(x, window)
    return quantize(x, zero_point) if out_format == OutFormat.INT8 else x


def maximum(x: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    """The maximum of FP32 numbers over the given axes, in total order."""
    return _from_order(total_order(x).max(axis=axis))


def pairwise_sum(x: np.ndarray) -> np.ndarray:
    """The sum of FP32 numbers along the last axis: neighbours are added, then sums of neighbours, and so on.

    A lone number at the end waits for the next level, as if -0, which changes nothing, were added to it. Each
    addition is rounded once; a NaN is the canonical one.
    """
    x = np.asarray(_real("x", x), np.float32)
    if not x.ndim or not x.shape[-1]:
        raise ValueError(f"x must have at least one number along its last axis, not shape {list(x.shape)}")
    with np.errstate(all="ignore"):
        while x.shape[-1] > 1:
            lone = x[..., x.shape[-1] // 2 * 2:]
            x = np.concatenate([x[..., :-1:2] + x[..., 1::2], lone], axis=-1)
    x = x[..., 0]
    return np.where(np.isnan(x), CANONICAL_NAN, x)


def top(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` largest FP32 numbers along the last axis, in total order, and their places there.

    Parameters
    ----------
    x : float32 [..., N]
    count : 1 to N

    Returns
    -------
    float32 and int64 [..., count]: from the largest down; of equal ones that which comes first
    """
    x, count = np.asarray(_real("x", x), np.float32), arguments.integer("count", count)
    if not x.ndim or not 1 <= count <= x.shape[-1]:
        raise ValueError(f"count must be from 1 to the numbers along the last axis of shape {list(x.shape)}, "
                         f"not {count}")
    # From the least key on, and stable: with the signs turned (in more bits) from the largest on.
    places = np.argsort(-total_order(x).astype(np.int64), axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(x, places, axis=-1), places


def requantize_scale(x_scale: np.floating, w_scale: np.floating | np.ndarray, y_scale: np.floating) -> np.ndarray:
    """The factor from an int32 accumulator to the output's integer steps, float32.

    ``(x_scale * w_scale) / y_scale``, in this order, each step rounded to float32: what ONNX
    Runtime's QLinearConv and QLinearMatMul compute. Another order, or one rounding from
    float64, differs in the last bit for some scales and then in some outputs.

    Parameters
    ----------
    x_scale, y_scale : float32 scalars, the scales of input and output
    w_scale : float32 scalar or [outputs], the scale of the weights

    Returns
    -------
    float32, of the shape of ``w_scale``
    """
    x, w, y = (_real(name, value).astype(np.float32) for name, value in (
        ("x_scale", x_scale), ("w_scale", w_scale), ("y_scale", y_scale)))
    return x * w / y


def _real(name: str, value: Any) -> np.ndarray:
    array = arguments.array(name, value)
    if not is_real(array):
        raise ValueError(f"{name} must be real numbers, not {arguments.described(value)}")
    return array


def _integers(name: str, value: Any) -> np.ndarray:
    array = arguments.array(name, value)
    if array.ndim < 2 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be matrices of integers, not {arguments.described(value)}")
    return array


def _accumulators(name: str, value: Any) -> np.ndarray:
    array = arguments.array(name, value)
    if array.dtype not in (np.int32, np.float32):
        raise ValueError(f"{name} must be int32 or float32, not {arguments.described(value)}")
    return array
