"""exp2, reciprocal and rsqrt of FP32 numbers, to the bit, as ``docs/numerics.md`` defines them.

Each is at most one unit of the last place from the exact result, and monotone. The table of coefficients is shared
with the hardware, the arithmetic is not: here float64, in which every FP32 number is a normal one, takes operands
apart.
"""

import numpy as np

from kiwicha.functions import C0_BITS, FRACTION_BITS, OFFSET_BITS, SEGMENTS, SEGMENTS_OF, Curve

from ..operands import as_fp32
from .numerics import CANONICAL_NAN

__all__ = ["exp2", "reciprocal", "rsqrt"]

_C0, _C1, _C2 = np.array(SEGMENTS, np.int64).T.copy()


def exp2(x: np.ndarray) -> np.ndarray:
    """2 to the power of the FP32 numbers `x`: float32. NaN gives the canonical NaN."""
    x = as_fp32("x", x)
    nan = np.isnan(x)
    # From 256 on all is infinity, or zero.
    real = np.clip(np.where(nan, 0, x), -256, 256).astype(np.float64)
    # To a multiple of 2^-25; halves away from zero.
    steps = np.trunc(real * 2. ** FRACTION_BITS + np.copysign(0.5, real)).astype(np.int64)
    values = curve_values(np.int64(Curve.EXP2.value), steps & (1 << FRACTION_BITS) - 1)
    return _result(values, steps >> FRACTION_BITS, np.int64(0), nan)


def reciprocal(x: np.ndarray) -> np.ndarray:
    """1 / x of the FP32 numbers `x`: float32. Zero gives infinity and infinity zero, of the same sign."""
    x = as_fp32("x", x)
    exponent, fraction = _parts(x)
    values = curve_values(np.int64(Curve.RECIPROCAL.value), fraction)
    return _result(values, ~exponent, x.view(np.int32) & np.int64(-1 << 31), np.isnan(x))


def rsqrt(x: np.ndarray) -> np.ndarray:
    """1 / sqrt(x) of the FP32 numbers `x`: float32. Zero gives infinity of its sign; less than zero gives NaN."""
    x = as_fp32("x", x)
    exponent, fraction = _parts(x)
    values = curve_values(np.where(exponent & 1, Curve.RSQRT_ODD.value, Curve.RSQRT_EVEN.value), fraction)
    return _result(values, ~(exponent >> 1), x.view(np.int32) & np.int64(-1 << 31), np.isnan(x) | (x < 0))


def curve_values(curve: np.ndarray | np.int64, fraction: np.ndarray) -> np.ndarray:
    """Values of curves, by their numbers, at `fraction` (int64, in 2^-25): int64, in 2^-28."""
    segment = curve * SEGMENTS_OF + (fraction >> OFFSET_BITS)
    u = fraction & (1 << OFFSET_BITS) - 1
    sign = np.where(curve == Curve.EXP2.value, 1, -1)
    slope = 8 * _C1[segment] + sign * (_C2[segment] * u + (1 << 17) >> 18)
    return (1 << C0_BITS) + _C0[segment] + sign * (slope * u + (1 << 18) >> 19)


def _parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exponent and fraction of the significand, from 1 to below 2, in 2^-25. That of zero is far below the others,
    that of infinity far above."""
    bits = np.where(np.isnan(x), 0, x).astype(np.float64).view(np.int64)
    return (bits >> 52 & 0x7FF) - 1023, bits >> 52 - FRACTION_BITS & (1 << FRACTION_BITS) - 1


def _result(values: np.ndarray, exponent: np.ndarray, sign: np.ndarray | np.int64, nan: np.ndarray) -> np.ndarray:
    """float32 nearest to values * 2^(exponent - 28), ties to even; `sign` is its bit, in int64."""
    field = exponent + 127
    places = C0_BITS - 23 + np.clip(1 - field, 0, 31)
    rounded = values + (1 << places - 1) - 1 + (values >> places & 1) >> places
    # The leading one counts in the exponent's field, and so does a carry.
    bits = np.minimum((np.maximum(field, 1) - 1 << 23) + rounded, 0x7F800000)
    return np.where(nan, CANONICAL_NAN, (bits | sign).astype(np.uint32).view(np.float32))
