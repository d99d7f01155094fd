"""Which layers run with all their weights and activations in the scratchpad, and which one by one."""

from itertools import accumulate

import numpy as np

from kiwicha import ChipConfig

from ..ir.layers import Layer, LayerGraph, VectorLayer
from .conv.plan import ConvPlan, plan_layer
from .conv.resident import Resident
from .conv.streamed import Streamed
from .feature_maps import FeatureMaps
from .geometry import Strides
from .pointwise.choice import pointwise_segments
from .pointwise.segment import Pointwise
from .vector.kinds import plan_vector
from .vector.plan import VectorPlan
from .vector.streamed import StreamedVector

__all__ = ["Plan", "Segment", "check_layer", "packed_weights", "plans_of", "segments_of"]

#: A layer on one configuration.
Plan = ConvPlan | VectorPlan
Segment = Resident | Streamed | StreamedVector | Pointwise


def check_layer(config: ChipConfig, layer: Layer | VectorLayer) -> None:
    """Raise :exc:`CompileError` for a layer of the vector unit that does not fit, wherever its feature maps are.

    Of convolutions, those with a window count: without one there is nothing else to do for them.
    """
    if isinstance(layer, Layer):
        if layer.pool is not None:
            Streamed.check(config, plan_layer(config, layer, from_host=False))
    else:
        source, target = (Strides.dense(layer.channels, size) for size in (layer.size, layer.out_size))
        second = source if layer.has_second else None
        StreamedVector(config, 0, plan_vector(config, layer, source, second, target), 0)


def plans_of(config: ChipConfig, graph: LayerGraph, maps: FeatureMaps) -> list[Plan]:
    """A plan for each layer."""
    return [plan_layer(config, layer, maps.arranged(number), maps.source(number), maps.target(number))
            if isinstance(layer, Layer) else
            plan_vector(config, layer, maps.source(number), maps.second(number), maps.target(number))
            for number, layer in enumerate(graph.layers)]


def packed_weights(plans: list[Plan]) -> np.ndarray:
    """All weights, parameters and tables, as bytes; one layer at a time, for memory's sake."""
    sizes = [plan.weight_lines * plan.config.line_bytes for plan in plans]
    packed = np.zeros(sum(sizes), np.uint8)
    for plan, size, end in zip(plans, sizes, accumulate(sizes), strict=True):
        place = packed[end - size:end]
        if isinstance(plan, ConvPlan):
            plan.packed(place)
        else:
            place[:] = plan.packed().reshape(-1)
    return packed


def segments_of(config: ChipConfig, plans: list[Plan], maps: FeatureMaps, memory_latency: int, budget: int
                ) -> list[Segment]:
    """Segments: as many layers each as fit the scratchpad together."""
    segments: list[Segment] = []
    first, pointwise = 0, pointwise_segments(config, plans, maps)
    while first < len(plans):
        end = min((item for item in pointwise if item > first), default=len(plans))
        segments.append(pointwise.get(first) or _segment(config, first, plans[:end], maps, memory_latency, budget))
        first += len(segments[-1].plans)
    return segments


def _segment(config: ChipConfig, first: int, plans: list[Plan], maps: FeatureMaps, memory_latency: int, budget: int
             ) -> Segment:
    """The segment that begins with layer `first`."""
    plan = plans[first]
    if isinstance(plan, VectorPlan):
        return StreamedVector(config, first, plan, memory_latency)
    return _resident(config, first, plans, maps) or Streamed.best(config, first, plan, memory_latency, budget)


def _resident(config: ChipConfig, first: int, plans: list[Plan], maps: FeatureMaps) -> Resident | None:
    """As many layers from `first` on as fit the scratchpad together, if any."""
    best, together = None, list[ConvPlan]()
    for number, plan in enumerate(plans[first:], first):
        if not isinstance(plan, ConvPlan) or (
                together and not (maps.leads_to_next(number - 1) and _joins(config, together[-1], plan))):
            break
        together.append(plan)
        fitting = Resident.of(config, first, list(together))
        if fitting is None:
            break
        best = fitting
    return best


def _joins(config: ChipConfig, plan: ConvPlan, following: ConvPlan) -> bool:
    """Whether lines of results are lines of input: in a square array, or if a line holds all channels."""
    return config.rows == config.columns or plan.blocks == following.segments == 1
