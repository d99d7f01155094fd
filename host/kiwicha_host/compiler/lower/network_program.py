"""A network's program for some number of images, and where its data are in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kiwicha import ChipConfig

from ..errors import CompileError
from ..ir.layers import LayerGraph
from ..program.memory_map import MemoryMap, Region
from .conv.plan import ConvPlan
from .emitter import Addresses, Emitter
from .feature_maps import FeatureMaps
from .segments import Plan, Segment

__all__ = ["NetworkProgram", "arranged_inputs", "network_program"]


@dataclass(frozen=True)
class NetworkProgram:
    """A program for some number of images, the layer of each instruction, and where its data are."""
    code: bytes
    layers: np.ndarray
    address: int
    bases: Mapping[int, int]    # of feature maps that are in no other
    outputs: Region             # all maps that the host reads
    memory_bytes: int


def arranged_inputs(graph: LayerGraph, plans: Sequence[Plan], maps: FeatureMaps) -> dict[int, ConvPlan]:
    """For the maps of inputs that the host arranges for one layer, that layer's plan."""
    found = {}
    for item in graph.inputs:
        reader = maps.arranged_for(item.map)
        plan = plans[reader] if reader is not None else None
        if isinstance(plan, ConvPlan):
            found[item.map] = plan
    return found


def network_program(config: ChipConfig, segments: Sequence[Segment], maps: FeatureMaps, weight_bytes: int,
                    arranged: Mapping[int, ConvPlan], images: int) -> NetworkProgram:
    """The program; memory begins with the weights.

    Raises
    ------
    CompileError
        It would be too long, or something of it does not fit an instruction's fields.
    """
    memory = MemoryMap()
    weights = memory.region(weight_bytes)
    sizes = {number: plan.source.image for number, plan in arranged.items()}
    ranges = [range(item.first, item.first + len(item.plans)) for item in segments]
    bases, outputs = maps.allocate(memory, ranges, sizes, images)
    emitter, base = Emitter(), weights.base
    for segment, layers in zip(segments, ranges, strict=True):
        places, plans = list[Addresses](), list[Plan](segment.plans)
        for layer, plan in zip(layers, plans, strict=True):
            places.append(maps.addresses(bases, layer, base))
            base += plan.weight_lines * config.line_bytes
        segment.emit(emitter, images, places)
        emitter.barrier()
    try:
        code = emitter.builder.assemble()
    except CompileError:
        raise
    except ValueError as error:
        raise CompileError(f"the network does not fit an instruction's fields: {error}") from None
    program, layers_of = memory.region(len(code)), np.array(emitter.layers, np.intp)
    return NetworkProgram(code, layers_of, program.base, bases, outputs, memory.size)
