"""What the reference machine keeps between the tiles of a scale block."""

import numpy as np

from kiwicha import ChipConfig, formats
from kiwicha.formats import ElementFormat

from ..operands import FORMATS
from .block import decode
from .numerics import CANONICAL_NAN

__all__ = ["PartialSums", "add_fp32", "decode_elements", "decode_integers",
           "scaled_terms"]


def decode_elements(lines: np.ndarray, code: ElementFormat, count: int) -> np.ndarray:
    """The first `count` elements of each line of bytes: ml_dtypes or int8 [..., count]."""
    name = code.name.lower()
    about = formats.FORMATS[name]
    if about.per_byte == 2:
        lines = np.stack([lines, lines >> 4], axis=-1).reshape(*lines.shape[:-1], -1)
    elements = np.ascontiguousarray(lines[..., :count]) & (1 << about.bits) - 1
    if about.is_float or about.bits == 8:
        return elements.view(FORMATS[name])
    sign = 1 << about.bits - 1
    return ((elements ^ sign).astype(np.int8) - sign).astype(FORMATS[name])


def decode_integers(lines: np.ndarray, code: ElementFormat, count: int) -> np.ndarray:
    """The same of an integer format, as int8."""
    return decode_elements(lines, code, count).astype(np.int8, copy=False)


def add_fp32(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """FP32 sums, rounded to nearest even, with the one NaN that we have."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = a + b
    total[np.isnan(total)] = CANONICAL_NAN
    return total


class PartialSums:
    """The exact sum of each accumulator's block so far, as a real number, and whether a NaN took part."""

    def __init__(self, config: ChipConfig):
        shape = config.accumulator_lines, config.columns
        self.sums = np.zeros(shape)
        self.nans = np.zeros(shape, bool)

    def add(self, lines: np.ndarray, vectors: np.ndarray, tile: np.ndarray, begins: bool) -> None:
        """The products of `vectors` [V, rows] and `tile` [rows, columns]; `begins` a block, or goes on with it."""
        a, w = decode(vectors), decode(tile)
        nans = np.isnan(a).any(axis=1)[:, None] | np.isnan(w).any(axis=0)
        # Whole numbers of one small unit, far fewer than 2^53: exact in any order.
        sums = np.nan_to_num(a) @ np.nan_to_num(w)
        self.sums[lines] = sums if begins else self.sums[lines] + sums
        self.nans[lines] = nans if begins else self.nans[lines] | nans

    def scaled(self, lines: np.ndarray, a_scale: np.ndarray, w_scale: np.ndarray) -> np.ndarray:
        """The sums of `lines` times both scales (E8M0 codes [V] and [columns]): float32, rounded once."""
        terms = scaled_terms(self.sums[lines], a_scale, w_scale)
        return np.where(self.nans[lines], np.float32(np.nan), terms)


def scaled_terms(sums: np.ndarray, a_scale: np.ndarray, w_scale: np.ndarray) -> np.ndarray:
    """Exact sums [..., V, columns] times both scales (E8M0 codes [..., V] and [..., columns]): float32, rounded
    once.
    """
    exponents = a_scale.astype(np.int32)[..., :, None] + w_scale.astype(np.int32)[..., None, :] - 254
    with np.errstate(over="ignore", under="ignore"):
        terms = np.ldexp(sums, exponents).astype(np.float32)
    if (a_scale == 255).any() or (w_scale == 255).any():
        terms[(a_scale == 255)[..., :, None] | (w_scale == 255)[..., None, :]] = np.nan
    return terms
