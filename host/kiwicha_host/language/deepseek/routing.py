"""Which experts a token goes to: comparisons and one sum of FP32 numbers, the same in every arithmetic.

DeepSeek-V3 (arXiv 2412.19437, section 2.1.2 and its published inference code): groups compete by the sum of
their two best scores, then the experts of the groups that are kept. Of equal scores the one with the lowest
number wins.
"""

import numpy as np

from .config import DeepSeekConfig

__all__ = ["chosen_experts", "largest"]


def chosen_experts(scores: np.ndarray, config: DeepSeekConfig) -> np.ndarray:
    """bool [..., experts], `chosen` of them true, by `scores` float32 [..., experts] with their bias."""
    groups = scores.reshape(*scores.shape[:-1], config.groups, -1)
    best = np.sort(groups, axis=-1)[..., -2:]
    kept = largest(best[..., 1] + best[..., 0], config.kept_groups)
    return largest(np.where(kept[..., None], groups, -np.inf).reshape(scores.shape), config.chosen)


def largest(x: np.ndarray, count: int) -> np.ndarray:
    """bool, of the shape of x: the `count` largest numbers along the last axis, the first of equal ones."""
    order = np.argsort(-x, axis=-1, kind="stable")
    mask = np.zeros(x.shape, bool)
    np.put_along_axis(mask, order[..., :count], True, axis=-1)
    return mask
