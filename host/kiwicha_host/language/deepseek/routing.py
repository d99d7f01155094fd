"""Which experts a token goes to: comparisons and one sum of FP32 numbers, the same in every arithmetic.

DeepSeek-V3 (arXiv 2412.19437, section 2.1.2 and its published inference code): groups compete by the sum of
their two best scores, then the experts of the groups that are kept. Of equal scores the one with the lowest
number wins; numbers compare in total order, as on the chip.
"""

import numpy as np

from ...golden.numerics import top
from .config import DeepSeekConfig

__all__ = ["chosen_experts", "ranked_experts"]


def ranked_experts(scores: np.ndarray, config: DeepSeekConfig) -> np.ndarray:
    """int [..., chosen]: experts' numbers from the best on, by `scores` float32 [..., experts] with their bias."""
    groups = scores.reshape(*scores.shape[:-1], config.groups, -1)
    best, _ = top(groups, 2)
    _, kept = top(best[..., 0] + best[..., 1], config.kept_groups)
    left = np.where(_mask(kept, config.groups)[..., None], groups, np.float32(-np.inf))
    return top(left.reshape(scores.shape), config.chosen)[1]


def chosen_experts(scores: np.ndarray, config: DeepSeekConfig) -> np.ndarray:
    """bool [..., experts], `chosen` of them true."""
    return _mask(ranked_experts(scores, config), config.experts)


def _mask(places: np.ndarray, size: int) -> np.ndarray:
    """bool [..., size], true at `places` [..., count]."""
    mask = np.zeros((*places.shape[:-1], size), bool)
    np.put_along_axis(mask, places, True, axis=-1)
    return mask
