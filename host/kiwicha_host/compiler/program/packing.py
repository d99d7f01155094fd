"""Elements to bytes, as they are in memory and in the scratchpad, and back."""

import numpy as np

from kiwicha.formats import FORMATS

__all__ = ["int8_parts", "pack_elements", "unpack_elements"]


def pack_elements(array: np.ndarray, name: str) -> np.ndarray:
    """Rows of elements of format `name` (numpy or ml_dtypes) as bytes; those of 4 bits two to a byte.

    A row with an odd number of those ends in a zero nibble.
    """
    array = np.ascontiguousarray(array)
    if FORMATS[name].per_byte == 1:
        return array.view(np.uint8)
    # An integer of 4 bits does not promise its upper ones.
    codes = (array if FORMATS[name].is_float else array.astype(np.int8)).view(np.uint8) & 15
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    return codes[..., ::2] | codes[..., 1::2] << 4


def unpack_elements(data: np.ndarray, count: int) -> np.ndarray:
    """The first `count` codes of 4 bits of each row of bytes."""
    return np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], -1)[..., :count]


def int8_parts(codes: np.ndarray) -> list[np.ndarray]:
    """Codes as a sum of int8 arrays; more than one only where a zero point, taken from them, made them wider."""
    if codes.dtype == np.int8:
        return [codes]
    parts: list[np.ndarray] = []
    rest = codes.astype(np.int32)
    while rest.any() or not parts:
        parts.append(np.clip(rest, -128, 127).astype(np.int8))
        rest -= parts[-1]
    return parts
