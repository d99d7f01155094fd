"""Block-scaled arithmetic in numpy: dot products with E8M0 scales, and the quantizer that makes them.

Elements and scales are read by ``ml_dtypes``; nothing here knows how the hardware decodes them. Everything is
exact in float64 until the one place where the contract rounds.

Sources: OCP Microscaling Formats (MX) v1.0, sections 5 and 6.3; for scales that never saturate, the quantizer
of DeepSeek-V3 (arXiv 2412.19437, section 3.3) with its scales rounded up to powers of two.
"""

import ml_dtypes
import numpy as np

from kiwicha import formats

from .. import arguments
from ..operands import (
    FORMATS,
    RULES,
    as_fp32,
    as_operand,
    check_block_scales,
    check_codes,
    check_element_type,
    check_inner,
    is_real,
)
from .numerics import CANONICAL_NAN

__all__ = ["RULES", "block_scales", "decode", "decode_scales", "gemm_block", "quantize_block", "round_elements",
           "spread"]

#: The value of an integer element of 1; MXINT8 has 6 fractional bits.
_STEP = {name: 2. ** item.exponent for name, item in formats.FORMATS.items() if not item.is_float}
#: Per format, the largest finite magnitude; the integers use a symmetric range.
_LARGEST = {name: ml_dtypes.iinfo(dtype).max * _STEP[name] if name in _STEP else float(ml_dtypes.finfo(dtype).max)
            for name, dtype in FORMATS.items()}
#: Results of a part of a product.
_AT_ONCE = 1 << 16


def decode(elements: np.ndarray) -> np.ndarray:
    """Values of elements in any of the formats, as float64; int8 counts sixty-fourths."""
    elements = arguments.array("elements", elements)
    name = check_element_type("elements", elements)
    return elements.astype(np.float64) * _STEP.get(name, 1.)


def decode_scales(codes: np.ndarray) -> np.ndarray:
    """Values 2^(code - 127) of E8M0 codes (uint8), as float64; 255 is NaN."""
    codes = arguments.array("codes", codes)
    if codes.dtype != np.uint8:
        raise ValueError(f"codes must be uint8, not {codes.dtype}")
    return codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)


def spread(scales: np.ndarray, shape: tuple[int, ...], block: int) -> np.ndarray:
    """One scale per element of a matrix of `shape`, from scales that are per block along one axis or both."""
    scales, block = arguments.array("scales", scales), arguments.integer("block", block, 1)
    if not is_real(scales):
        raise ValueError(f"scales must be real numbers, not {arguments.described(scales)}")
    if len(shape) != scales.ndim:
        raise ValueError(f"scales must have the {len(shape)} dimensions of shape, not {list(scales.shape)}")
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
    (a, _), (b, _), block = as_operand("a", a), as_operand("b", b), arguments.integer("block", block, 1)
    check_inner(a, b)
    a_scale, b_scale = check_block_scales((len(a), b.shape[1], a.shape[1]), block, a_scale, b_scale)
    c = np.zeros((len(a), b.shape[1]), np.float32) if acc is None else as_fp32("acc", acc).copy()
    if c.shape != (len(a), b.shape[1]):
        raise ValueError(f"acc must have shape {[len(a), b.shape[1]]}, not {list(c.shape)}")
    x = decode(a) * spread(decode_scales(a_scale), a.shape, block)
    q = spread(decode_scales(b_scale), (len(b_scale), b.shape[1]), block)
    # So many columns at a time stay in a processor's cache.
    size = max(64, _AT_ONCE // len(a))
    for columns in (slice(first, first + size) for first in range(0, b.shape[1], size)):
        y = decode(b[:, columns]) * spread(q[:, columns], b[:, columns].shape, block)
        with np.errstate(all="ignore"):
            for start in range(0, a.shape[1], block):
                # Integers below 2^44 times a power of two: no sum or product here is rounded in float64.
                # A sum of zero is +0, whatever the signs of its terms.
                d = x[:, start:start + block] @ y[start:start + block] + 0.
                c[:, columns] += d.astype(np.float32)
    return np.where(np.isnan(c), CANONICAL_NAN, c)


def block_scales(amax: np.ndarray, fmt: str, rule: str = "rceil") -> np.ndarray:
    """E8M0 codes (uint8) for blocks whose largest magnitudes are `amax`.

    With 2^emax the leading power of two of the format's largest value (448: 8; 6: 2; 127/64: 0), "rceil" is the
    smallest power of two by which that value is not exceeded, and "floor" is 2^(floor(log2 amax) - emax), as in
    OCP MX v1.0. The exponent is limited to -127..127; zero gives code 0; NaN and infinity give 255, NaN.
    """
    largest, power = np.frexp(_LARGEST[arguments.choice("fmt", fmt, FORMATS)])
    arguments.choice("rule", rule, RULES)
    amax = arguments.array("amax", amax)
    if not is_real(amax):
        raise ValueError(f"amax must be real numbers, not {arguments.described(amax)}")
    fraction, exponent = np.frexp(np.where(np.isfinite(amax), amax, 0).astype(np.float64))
    exponent = exponent - power + (fraction > largest if rule == "rceil" else 0)
    codes = np.where(fraction == 0, 0, np.clip(exponent + 127, 0, 254))
    return np.where(np.isfinite(amax), codes, 255).astype(np.uint8)


def round_elements(x: np.ndarray, scales: np.ndarray, fmt: str) -> np.ndarray:
    """float32 `x` over the scales of E8M0 codes, one per element: rounded to nearest even, saturated.

    The sign of a zero is kept. Where the scale is NaN, elements are +0. The result has the format's numpy type.
    """
    arguments.choice("fmt", fmt, FORMATS)
    x = as_fp32("x", x)
    scales = check_codes("scales", scales, x.shape)
    valid = scales != 255
    y = np.where(valid, x, 0).astype(np.float64) / np.where(valid, decode_scales(scales), 1)
    y = np.clip(y, -_LARGEST[fmt], _LARGEST[fmt])
    return (np.rint(y / _STEP[fmt]) if fmt in _STEP else y).astype(FORMATS[fmt])


def quantize_block(x: np.ndarray, fmt: str, block: int, rule: str = "rceil") -> tuple[np.ndarray, np.ndarray]:
    """FP32 to a narrow format, with a dynamic scale for each `block` consecutive columns of a row.

    Parameters
    ----------
    x : float32 [..., N]
    fmt : name of the element format; the chip writes "e4m3", "e2m1" and, as MXINT8, "int8"
    block : columns that share a scale; the last block may be shorter
    rule : "rceil" or "floor", see :func:`block_scales`

    Returns
    -------
    (codes, scales) : uint8 [..., N], one element per item, and uint8 [..., ceil(N / block)]
    """
    block = arguments.integer("block", block, 1)
    x = as_fp32("x", x)
    if x.ndim == 0 or 0 in x.shape:
        raise ValueError(f"x must have at least one row and one column, not shape {list(x.shape)}")
    rows = x.reshape(-1, x.shape[-1])
    # NaN is the maximum of whatever it is in.
    scales = block_scales(np.maximum.reduceat(np.abs(rows), range(0, rows.shape[1], block), axis=1), fmt, rule)
    codes = round_elements(rows, spread(scales, rows.shape, block), fmt).view(np.uint8)
    return codes.reshape(x.shape), scales.reshape(*x.shape[:-1], -1)
