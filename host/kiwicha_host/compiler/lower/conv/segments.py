"""Which layers run with all their weights and activations in the scratchpad, and which one by one."""

from itertools import accumulate

import numpy as np

from kiwicha import ChipConfig

from .feature_maps import FeatureMaps
from .plan import ConvPlan
from .resident import Resident
from .streamed import Streamed

__all__ = ["packed_weights", "segments_of"]


def packed_weights(plans: list[ConvPlan]) -> np.ndarray:
    """All weights and parameters, as bytes; one layer at a time, for memory's sake."""
    sizes = [plan.weight_lines * plan.config.line_bytes for plan in plans]
    packed = np.empty(sum(sizes), np.uint8)
    for plan, size, end in zip(plans, sizes, accumulate(sizes), strict=True):
        packed[end - size:end] = plan.packed().reshape(-1)
    return packed


def _joins(config: ChipConfig, plan: ConvPlan, following: ConvPlan) -> bool:
    """Whether lines of results are lines of input: in a square array, or if a line holds all channels."""
    return config.rows == config.columns or plan.blocks == following.segments == 1


def segments_of(config: ChipConfig, plans: list[ConvPlan], maps: FeatureMaps, memory_latency: int, budget: int
         ) -> list["Resident | Streamed"]:
    """Segments: as many layers each as fit the scratchpad together."""
    segments: list[Resident | Streamed] = []
    first = 0
    while first < len(plans):
        best = None
        for last in range(first + 1, len(plans) + 1):
            if last - first > 1 and not (maps.leads_to_next(last - 2) and _joins(config, *plans[last - 2:last])):
                break
            fitting = Resident.of(config, first, plans[first:last])
            if fitting is None:
                break
            best = fitting
        segment = best or Streamed.best(config, first, plans[first], memory_latency, budget)
        segments.append(segment)
        first += len(segment.plans)
    return segments
