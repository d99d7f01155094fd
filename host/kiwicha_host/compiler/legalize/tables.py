"""Tables with which sums and products of two codes are those of ONNX Runtime, if there are any."""

from collections.abc import Iterator
from math import floor, log2

import numpy as np

__all__ = ["neighbours", "product_table", "sum_tables"]

#: So many of the next larger and smaller factors are tried, for one that rounds as another way of computing does.
_FACTORS = 8
#: Tables of sums are changed so many times at most; more than a few have not been needed.
_ROUNDS = 30
#: More than any sum.
_ANY = 1 << 40


def sum_tables(wanted: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Tables of integers, and the factor for their sums, with which those round to `wanted`.

    Whether a sum rounds to a code says that two words add up to no less than one number and no more than another.
    The tables begin as `a` and `b` in fixed point, and words become smaller until all 65,536 sums are right. If no
    tables do that, the best that was found comes out.

    Parameters
    ----------
    wanted : integers [256, 256], for each pair of codes; the lowest and the highest stand for all beyond
    a, b : float64 [256], what to add, in steps of `wanted`

    Returns
    -------
    int32 [256], int32 [256], float32
    """
    most = max(1.0, np.abs(a).max() + np.abs(b).max())
    bits = floor(log2((1 << 30) / most))
    factor = np.float32(2.0 ** -bits)
    first = _firsts(np.arange(wanted.min(), wanted.max() + 1), factor)
    least, last = first[wanted - wanted.min()], np.append(first[1:] - 1, _ANY)[wanted - wanted.min()]
    least[wanted == wanted.min()] = -_ANY
    a, b = (np.rint(item * 2.0 ** bits).astype(np.int64) for item in (a, b))
    found, wrong = (a, b), _wrong(wanted, a, b, factor)
    for _ in range(_ROUNDS if wrong else 0):
        a = np.minimum(a, (last - b).min(1))
        b = np.maximum(b, (least - a[:, None]).max(0))
        left = _wrong(wanted, a, b, factor)
        if left < wrong and max(np.abs(a).max(), np.abs(b).max()) < 1 << 30:
            found, wrong = (a, b), left
        if not left:
            break
    return found[0].astype(np.int32), found[1].astype(np.int32), factor


def _firsts(codes: np.ndarray, factor: np.float32) -> np.ndarray:
    """The smallest sums that round to `codes` or more."""
    low, high = np.full(len(codes), -1 << 31), np.full(len(codes), (1 << 31) - 1)
    while (low < high).any():
        middle = low + high >> 1
        enough = np.rint(middle.astype(np.float32) * factor) >= codes
        low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
    return low


def _wrong(wanted: np.ndarray, a: np.ndarray, b: np.ndarray, factor: np.float32) -> int:
    found = np.rint((a[:, None] + b).astype(np.float32) * factor)
    return int((found.clip(wanted.min(), wanted.max()) != wanted).sum())


def product_table(wanted: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Factors near `b`, with each of which more of the products with `a` round to `wanted`, or as many.

    Parameters
    ----------
    wanted : integers [256, 256], as for :func:`sum_tables`
    a : integers [256]
    b : float32 [256]

    Returns
    -------
    float32 [256]
    """
    def right(factors: np.ndarray) -> np.ndarray:
        products = np.rint(a.astype(np.float32)[:, None] * factors)
        return (products.clip(wanted.min(), wanted.max()) == wanted).sum(0)

    found, most = b, right(b)
    for candidate in neighbours(b) if most.sum() < wanted.size else ():
        count = right(candidate)
        found, most = np.where(count > most, candidate, found), np.maximum(count, most)
    return found


def neighbours(factor: np.ndarray) -> Iterator[np.ndarray]:
    """The float32 numbers next to `factor`, and those next to them."""
    larger = smaller = factor
    for _ in range(_FACTORS):
        larger, smaller = np.nextafter(larger, np.float32(np.inf)), np.nextafter(smaller, np.float32(-np.inf))
        yield from (larger, smaller)
