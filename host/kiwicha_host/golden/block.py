"""Block-scaled arithmetic in numpy: dot products with E8M0 scales, and the quantizer that makes them.

Elements and scales are read by ``ml_dtypes``; nothing here knows how the hardware decodes them. Everything is
exact in float64 until the one place where the contract rounds.

Sources: OCP Microscaling Formats (MX) v1.0, sections 5 and 6.3; for scales that never saturate, the quantizer
of DeepSeek-V3 (arXiv 2412.19437, section 3.3) with its scales rounded up to powers of two.
"""

import ml_dtypes
import numpy as np

from ..operands import FORMATS, check_block_scales
from .numerics import CANONICAL_NAN

__all__ = ["RULES", "block_scales", "decode", "decode_scales", "gemm_block", "quantize_block", "round_elements",
           "spread"]

#: How a block's scale follows from its largest magnitude: see :func:`block_scales`.
RULES = ("rceil", "floor")
#: Per format, the largest finite magnitude; the integers use a symmetric range.
_LARGEST = {"int8": 127 / 64, "int4": 7., "e4m3": 448., "e2m1": 6., "e2m3": 7.5, "e3m2": 28.}
#: The value of an integer element of 1; MXINT8 has 6 fractional bits.
_STEP = {"int8": 2. ** -6, "int4": 1.}


def decode(elements: np.ndarray) -> np.ndarray:
    """Values of elements in any of the six formats, as float64; int8 counts sixty-fourths."""
    if elements.dtype not in FORMATS.values():
        raise ValueError(f"elements must be of type {', '.join(map(str, FORMATS.values()))}, not {elements.dtype}")
    values = elements.astype(np.float64)
    return values * _STEP["int8"] if elements.dtype == np.int8 else values


def decode_scales(codes: np.ndarray) -> np.ndarray:
    """Values 2^(code - 127) of E8M0 codes (uint8), as float64; 255 is NaN."""
    return codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)


def spread(scales: np.ndarray, shape: tuple[int, ...], block: int) -> np.ndarray:
    """One scale per element of a matrix of `shape`, from scales that are per block along one axis or both."""
    for axis, size in enumerate(shape):
        if scales.shape[axis] != size:
            scales = scales.repeat(block, axis).take(range(size), axis)
    return scales


def gemm_block(a: np.ndarray, b: np.ndarray, a_scale: np.ndarray, b_scale: np.ndarray, block: int,
               acc: np.ndarray | None = None) -> np.ndarray:
    """C = acc + A . B with scales: each block's dot product is exact, then rounded once; blocks add up in order.

    Parameters
    ----------
    a : [M, K] in any of the six formats; int8 means sixty-fourths
    b : [K, N] likewise
    a_scale : uint8 [M, ceil(K / block)], E8M0 codes
    b_scale : uint8 [ceil(K / block), N], or [ceil(K / block), ceil(N / block)] for square blocks
    block : elements along K that share a scale; the last block may be shorter
    acc : float32 [M, N] to start from, else +0

    Returns
    -------
    float32 [M, N]; canonical NaN where an element or a scale is NaN, and for infinity minus infinity
    """
    check_block_scales(a, b, block, a_scale, b_scale)
    x, y = decode(a), decode(b)
    p, q = decode_scales(a_scale), spread(decode_scales(b_scale), (len(b_scale), b.shape[1]), block)
    c = np.zeros((len(a), b.shape[1]), np.float32) if acc is None else np.asarray(acc, np.float32)
    with np.errstate(all="ignore"):
        for i, start in enumerate(range(0, a.shape[1], block)):
            # Integers below 2^44 times a power of two: no sum or product here is rounded in float64.
            # A sum of zero is +0, whatever the signs of its terms.
            d = x[:, start:start + block] @ y[start:start + block] + 0.
            c = c + (d * p[:, i, None] * q[i]).astype(np.float32)
    return np.where(np.isnan(c), CANONICAL_NAN, c)


def block_scales(amax: np.ndarray, fmt: str, rule: str = "rceil") -> np.ndarray:
    """E8M0 codes (uint8) for blocks whose largest magnitudes are `amax`.

    With 2^emax the leading power of two of the format's largest value (448: 8; 6: 2), "rceil" is the smallest
    power of two by which that value is not exceeded, and "floor" is 2^(floor(log2 amax) - emax), as in OCP MX
    v1.0. The exponent is limited to -127..127; zero gives code 0; NaN and infinity give 255, NaN.
    """
    largest, power = np.frexp(_LARGEST[fmt])
    fraction, exponent = np.frexp(np.where(np.isfinite(amax), amax, 0).astype(np.float64))
    exponent = exponent - power + (fraction > largest if rule == "rceil" else 0)
    codes = np.where(fraction == 0, 0, np.clip(exponent + 127, 0, 254))
    return np.where(np.isfinite(amax), codes, 255).astype(np.uint8)


def round_elements(x: np.ndarray, scales: np.ndarray, fmt: str) -> np.ndarray:
    """float32 `x` over the scales of E8M0 codes, one per element: rounded to nearest even, saturated.

    The sign of a zero is kept. Where the scale is NaN, elements are +0. The result has the format's numpy type.
    """
    valid = scales != 255
    y = np.where(valid, x, 0).astype(np.float64) / np.where(valid, decode_scales(scales), 1)
    y = np.clip(y, -_LARGEST[fmt], _LARGEST[fmt])
    return (np.rint(y / _STEP[fmt]) if fmt in _STEP else y).astype(FORMATS[fmt])


def quantize_block(x: np.ndarray, fmt: str, block: int, rule: str = "rceil") -> tuple[np.ndarray, np.ndarray]:
    """FP32 to a narrow format, with a dynamic scale for each `block` consecutive columns of a row.

    Parameters
    ----------
    x : float32 [..., N]
    fmt : name of the element format; the chip writes "e4m3" and "e2m1"
    block : columns that share a scale; the last block may be shorter
    rule : "rceil" or "floor", see :func:`block_scales`

    Returns
    -------
    (codes, scales) : uint8 [..., N], one element per item, and uint8 [..., ceil(N / block)]
    """
    x = np.asarray(x, np.float32)
    rows = x.reshape(-1, x.shape[-1])
    # NaN is the maximum of whatever it is in.
    scales = block_scales(np.maximum.reduceat(np.abs(rows), range(0, rows.shape[1], block), axis=1), fmt, rule)
    codes = round_elements(rows, spread(scales, rows.shape, block), fmt).view(np.uint8)
    return codes.reshape(x.shape), scales.reshape(*x.shape[:-1], -1)
