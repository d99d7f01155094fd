"""Block-scaled operands from float arrays, and back: for :meth:`kiwicha_host.Device.gemm` and its reference.

How scales and elements are rounded is documented in docs/numerics.md.
"""

from typing import Any

import numpy as np

from kiwicha.formats import BLOCKS

from . import arguments
from .golden.block import block_scales, decode, decode_scales, round_elements, spread
from .operands import FORMATS, RULES, as_fp32, check_codes, check_element_type, check_shape
from .request import BlockScaled

__all__ = ["dequantize", "quantize", "quantize_weights"]


def quantize(x: Any, fmt: str, block: int, rule: str = "rceil") -> BlockScaled:
    """Activations with a scale for each row and each `block` elements along K.

    Parameters
    ----------
    x : real numbers [M, K], rounded to float32 first; a block with an infinity or NaN has the scale NaN
    fmt : "int8", "int4", "e4m3", "e2m1", "e2m3" or "e3m2"
    block : 16, 32, 64 or 128
    rule : "rceil", by which no element saturates, or "floor", as in OCP MX v1.0

    Returns
    -------
    elements [M, K] of the format's numpy type, and E8M0 codes, uint8 [M, ceil(K / block)]

    Raises
    ------
    TypeError, ValueError
        For a wrong shape or type, a number beyond FP32, or an unknown format, block or rule; the message names it.
    """
    x, block = _check("x", x, fmt, block, rule)
    return _quantize(x, fmt, (1, block), rule)


def quantize_weights(w: Any, fmt: str, block: int, square: bool = False,
                     rule: str = "rceil") -> BlockScaled:
    """Weights [K, N] with a scale for each `block` elements along K, per column or per `block` columns.

    As :func:`quantize`; the scales are uint8 [ceil(K / block), N], or [ceil(K / block), ceil(N / block)] for
    square blocks.
    """
    square = arguments.boolean("square", square)
    w, block = _check("w", w, fmt, block, rule)
    return _quantize(w, fmt, (block, block if square else 1), rule)


def dequantize(elements: np.ndarray, scales: np.ndarray, block: int) -> np.ndarray:
    """Values of block-scaled elements as float32 [R, C]: element times scale, exact unless it overflows.

    Parameters
    ----------
    elements : [R, C] in any of the six formats; int8 counts sixty-fourths
    scales : E8M0 codes, uint8 [R, ceil(C / block)] for activations, [ceil(R / block), C] for weights, or
        [ceil(R / block), ceil(C / block)] for square blocks
    """
    elements, block = arguments.array("elements", elements), _check_block(block)
    check_element_type("elements", elements)
    check_shape("elements", elements)
    (rows, columns), down, across = elements.shape, -(-elements.shape[0] // block), -(-elements.shape[1] // block)
    scales = check_codes("scales", scales, (rows, across), (down, columns), (down, across))
    with np.errstate(over="ignore"):
        return (decode(elements) * spread(decode_scales(scales), elements.shape, block)).astype(np.float32)


def _quantize(x: np.ndarray, fmt: str, tile: tuple[int, int], rule: str) -> BlockScaled:
    """One scale for each `tile` of rows and columns."""
    amax = np.abs(x)
    for axis, size in enumerate(tile):
        # NaN is the maximum of whatever it is in.
        amax = np.maximum.reduceat(amax, range(0, x.shape[axis], size), axis)
    scales = block_scales(amax, fmt, rule)
    return BlockScaled(round_elements(x, spread(scales, x.shape, max(tile)), fmt), scales)


def _check(name: str, x: Any, fmt: str, block: int, rule: str) -> tuple[np.ndarray, int]:
    arguments.choice("fmt", fmt, FORMATS)
    arguments.choice("rule", rule, RULES)
    array = as_fp32(name, x)
    check_shape(name, array)
    return array, _check_block(block)


def _check_block(block: int) -> int:
    block = arguments.integer("block", block)
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {', '.join(map(str, BLOCKS))}, not {block}")
    return block
