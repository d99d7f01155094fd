"""Block-scaled operands from float arrays, and back: for :meth:`kiwicha_host.Device.gemm` and its reference.

How scales and elements are rounded is documented in docs/numerics.md.
"""

from typing import Any

import numpy as np

from kiwicha.formats import BLOCKS

from .golden.block import RULES, block_scales, decode, decode_scales, round_elements, spread
from .operands import FORMATS

__all__ = ["dequantize", "quantize", "quantize_weights"]


def quantize(x: Any, fmt: str, block: int, rule: str = "rceil") -> tuple[np.ndarray, np.ndarray]:
    """Activations with a scale for each row and each `block` elements along K.

    Parameters
    ----------
    x : real numbers [M, K], rounded to float32 first
    fmt : "int8", "int4", "e4m3", "e2m1", "e2m3" or "e3m2"
    block : 16, 32, 64 or 128
    rule : "rceil", by which no element saturates, or "floor", as in OCP MX v1.0

    Returns
    -------
    elements [M, K] of the format's numpy type, and E8M0 codes, uint8 [M, ceil(K / block)]

    Raises
    ------
    ValueError
        For a wrong shape or type, or an unknown format, block or rule; the message names it.
    """
    return _quantize(_check(x, "activations", fmt, block, rule), fmt, (1, block), rule)


def quantize_weights(w: Any, fmt: str, block: int, square: bool = False,
                     rule: str = "rceil") -> tuple[np.ndarray, np.ndarray]:
    """Weights [K, N] with a scale for each `block` elements along K, per column or per `block` columns.

    As :func:`quantize`; the scales are uint8 [ceil(K / block), N], or [ceil(K / block), ceil(N / block)] for
    square blocks.
    """
    return _quantize(_check(w, "weights", fmt, block, rule), fmt, (block, block if square else 1), rule)


def dequantize(elements: np.ndarray, scales: np.ndarray, block: int) -> np.ndarray:
    """Values of block-scaled elements as float32 [R, C]: element times scale, exact unless it overflows.

    Parameters
    ----------
    elements : [R, C] in any of the six formats; int8 counts sixty-fourths
    scales : E8M0 codes, uint8 [R, ceil(C / block)] for activations, [ceil(R / block), C] for weights, or
        [ceil(R / block), ceil(C / block)] for square blocks
    """
    elements, scales = np.asarray(elements), np.asarray(scales)
    _check_block(block)
    if elements.ndim != 2 or 0 in elements.shape or elements.dtype not in FORMATS.values():
        raise ValueError(f"elements must be a matrix of {', '.join(map(str, FORMATS.values()))}, "
                         f"not {elements.dtype} {list(elements.shape)}")
    (rows, columns), down, across = elements.shape, -(-elements.shape[0] // block), -(-elements.shape[1] // block)
    shapes = [(rows, across), (down, columns), (down, across)]
    if scales.dtype != np.uint8 or scales.shape not in shapes:
        raise ValueError(f"scales must be uint8 {' or '.join(str(list(shape)) for shape in shapes)}, "
                         f"not {scales.dtype} {list(scales.shape)}")
    with np.errstate(over="ignore"):
        return (decode(elements) * spread(decode_scales(scales), elements.shape, block)).astype(np.float32)


def _quantize(x: np.ndarray, fmt: str, tile: tuple[int, int], rule: str) -> tuple[np.ndarray, np.ndarray]:
    """One scale for each `tile` of rows and columns."""
    amax = np.abs(x)
    for axis, size in enumerate(tile):
        # NaN is the maximum of whatever it is in.
        amax = np.maximum.reduceat(amax, range(0, x.shape[axis], size), axis)
    scales = block_scales(amax, fmt, rule)
    return round_elements(x, spread(scales, x.shape, max(tile)), fmt), scales


def _check(x: Any, name: str, fmt: str, block: int, rule: str) -> np.ndarray:
    if fmt not in FORMATS:
        raise ValueError(f"element format {fmt!r} does not exist; use {', '.join(FORMATS)}")
    _check_block(block)
    if rule not in RULES:
        raise ValueError(f"scale rule {rule!r} does not exist; use {' or '.join(RULES)}")
    array = np.asarray(x)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have 2 dimensions of at least 1 each, not shape {list(array.shape)}")
    try:
        # Whole numbers and ml_dtypes' floats too; not complex numbers, text or objects.
        if array.dtype.kind not in "fiuV":
            raise TypeError
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be real numbers, not {array.dtype}") from None


def _check_block(block: int) -> None:
    if block not in BLOCKS:
        raise ValueError(f"block must be {', '.join(map(str, BLOCKS[:-1]))} or {BLOCKS[-1]}, not {block!r}")
