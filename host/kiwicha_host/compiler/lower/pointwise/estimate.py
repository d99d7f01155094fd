"""About how many cycles layers of places take: says which of them go together, in groups of how many places."""

from collections.abc import Sequence

from kiwicha import ChipConfig

from ...program.memory_map import ceil_div
from ..conv.plan import ConvPlan
from ..vector.plan import VectorPlan
from ..vector.tiles import ROW_RESULT
from .stages import Stages

__all__ = ["alone", "cycles"]

#: Cycles of a step besides its work, of a VECTOR, of a table.
_STEP, _VECTOR, _TABLE = 200, 8, 380
#: Cycles of a segment besides the work of its layers and transfers.
_SEGMENT = 400


def cycles(config: ChipConfig, plans: Sequence[ConvPlan | VectorPlan], stages: Stages, size: int,
           streamed: bool) -> float:
    """Of groups of `size` places: of each step, those of the unit that has more to do.

    With `streamed` weights LOAD brings them in each step.
    """
    places = plans[0].layer.out_size[0] * plans[0].layer.out_size[1]
    groups = ceil_div(places, size)
    array, vector, loads = ([0] * stages.count for _ in range(3))
    for plan, stage in zip(plans, stages.of, strict=True):
        array[stage] += _array(plan, size)
        vector[stage] += _vector(config, plan, size)
        if streamed and isinstance(plan, ConvPlan):
            loads[stage] += plan.weight_lines * config.line_bytes // config.bus_bytes
    total = float(_SEGMENT)
    for step in range(groups + stages.count - 1):
        now = range(max(0, step - groups + 1), min(stages.count, step + 1))
        total += max(sum(unit[stage] for stage in now) for unit in (array, vector, loads)) + _STEP
    return total


def alone(config: ChipConfig, plan: ConvPlan | VectorPlan) -> float:
    """Of a layer by itself, whose operands and results go through memory."""
    places = plan.layer.out_size[0] * plan.layer.out_size[1]
    if isinstance(plan, VectorPlan):
        return _vector(config, plan, places) + _SEGMENT
    return _array(plan, places) + places * (plan.segments + plan.blocks) + plan.block_lines + _SEGMENT


def _array(plan: ConvPlan | VectorPlan, places: int) -> int:
    return plan.blocks * plan.product_cycles(places) if isinstance(plan, ConvPlan) else 0


def _vector(config: ChipConfig, plan: ConvPlan | VectorPlan, places: int) -> int:
    steps = ceil_div(config.columns, config.vector_lanes)
    if isinstance(plan, ConvPlan):
        return plan.blocks * (places * steps + _VECTOR)
    box, tables = plan.image, 1 + (plan.layer.b_table is not None)
    return (places * ceil_div(plan.layer.channels, config.columns) * steps * box.passes + _TABLE * tables
            + box.row_results * ROW_RESULT)
