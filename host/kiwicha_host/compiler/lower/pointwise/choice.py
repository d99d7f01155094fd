"""Which layers in a row go place by place together."""

from collections.abc import Sequence

from kiwicha import ChipConfig

from ..conv.plan import ConvPlan
from ..feature_maps import FeatureMaps
from ..vector.plan import VectorPlan
from .estimate import alone
from .segment import Pointwise

__all__ = ["pointwise_segments"]

#: Layers of a segment, for the time that it takes to look for the best.
_MOST_LAYERS = 24


def pointwise_segments(config: ChipConfig, plans: Sequence[ConvPlan | VectorPlan], maps: FeatureMaps
                       ) -> dict[int, Pointwise]:
    """Those that promise the fewest cycles, by their first layers; other layers are in segments of other kinds."""
    best: list[tuple[float, Pointwise | None]] = [(0.0, None)] * (len(plans) + 1)
    for first in range(len(plans))[::-1]:
        best[first] = alone(config, plans[first]) + best[first + 1][0], None
        for segment in _beginning(config, first, plans, maps):
            cycles = segment.cycles + best[first + len(segment.plans)][0]
            if cycles < best[first][0]:
                best[first] = cycles, segment
    chosen, first = dict[int, Pointwise](), 0
    while first < len(plans):
        _, found = best[first]
        if found is not None:
            chosen[first] = found
        first += 1 if found is None else len(found.plans)
    return chosen


def _beginning(config: ChipConfig, first: int, plans: Sequence[ConvPlan | VectorPlan], maps: FeatureMaps
               ) -> list[Pointwise]:
    """All that can begin with layer `first`."""
    found = []
    for last in range(first, min(first + _MOST_LAYERS, len(plans))):
        plan = plans[last]
        if (not Pointwise.takes(config, plan) or plan.layer.out_size != plans[first].layer.out_size
                or not maps.joins(last, range(first, last))):
            break
        segment = Pointwise.of(config, first, list(plans[first:last + 1]), maps)
        if segment is not None:
            found.append(segment)
    return found
