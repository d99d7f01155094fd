"""Softmax over tiles of positions, in the chip's arithmetic: the largest score is that so far.

M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax" (arXiv 1805.02867). What has been summed
before is multiplied with exp2((the largest before - the largest now) * factor).
"""

from collections.abc import Callable

import numpy as np

from ..golden.functions import exp2, reciprocal
from ..golden.numerics import pairwise_sum

__all__ = ["TILE", "weighted_mean"]

#: Positions of a tile. It is part of what is computed, and so no chip's choice.
TILE = 512


def weighted_mean(scores: np.ndarray, factor: np.float32, weighted: Callable[[np.ndarray, slice], np.ndarray]
                  ) -> np.ndarray:
    """Values weighted by softmax.

    Parameters
    ----------
    scores : float32 [rows, positions]; -infinity for what a row may not see
    factor : what scores are multiplied with before 2 is raised to their power
    weighted : of powers [rows, N] and the slice of their N positions the sums of values, float32 [rows, size]
    """
    sums = results = np.empty(0)
    largest = np.empty(0)
    for start in range(0, scores.shape[1], TILE):
        some = slice(start, min(start + TILE, scores.shape[1]))
        tile = scores[:, some]
        now = tile.max(axis=1) if start == 0 else np.maximum(largest, tile.max(axis=1))
        powers = exp2((tile - now[:, None]) * factor)
        if start == 0:
            sums, results = pairwise_sum(powers), weighted(powers, some)
        else:
            before = exp2((largest - now) * factor)
            sums = sums * before + pairwise_sum(powers)
            results = results * before[:, None] + weighted(powers, some)
        largest = now
    return results * reciprocal(sums)[:, None]
