"""What is where in the scratchpad, so that the array and the vector unit read different banks."""

from collections.abc import Hashable, Sequence

from kiwicha import ChipConfig

from ...program.memory_map import ceil_div
from ..conv.plan import ConvPlan
from ..product.spans import Span, split
from ..vector.plan import VectorPlan
from .stages import Stages

__all__ = ["Layout", "pieces"]

#: Weights of so many lines or more come in pieces, so that the array need not wait for all; but in few, for the
#: instructions behind them wait until LOAD has taken them.
_PIECE_LINES, _MOST_PIECES = 512, 4


class Layout:
    """First what the array multiplies, for which it needs all of its banks' time; then what the vector unit reads;
    then weights, each from a bank of its own on.

    Attributes
    ----------
    rows : int
        First line of results of rows, which the layers that have such use in turn.
    constants : list of int
        First lines of layers' weights or tables.
    fits : bool
        Whether there are as many lines, and accumulators.
    """

    def __init__(self, config: ChipConfig, plans: Sequence[ConvPlan | VectorPlan], stages: Stages, size: int):
        self._buffers, self._bank = stages.buffers, config.bank_lines
        self._lines = [buffer.blocks * (1 if buffer.is_one else size) for buffer in stages.buffers]
        self._base, self.constants, line = [0] * len(self._buffers), [0] * len(plans), 0
        for number, buffer in enumerate(self._buffers):
            if buffer.of_products:
                self._base[number] = line
                line += self._lines[number] * buffer.slots
        line = self._next_bank(line)
        for number, buffer in enumerate(self._buffers):
            if not buffer.of_products:
                self._base[number] = line
                line += self._lines[number] * buffer.slots
        self.rows = line
        line += size * max(plan.box(1).row_lines for plan in plans if isinstance(plan, VectorPlan))
        for kind in (VectorPlan, ConvPlan):
            for layer, plan in enumerate(plans):
                if isinstance(plan, kind):
                    self.constants[layer] = line
                    line += plan.weight_lines
            if kind == VectorPlan:
                line = self._next_bank(line)
        self.fits = line <= config.scratchpad_lines and size <= config.accumulator_lines // 2

    def _next_bank(self, line: int) -> int:
        return ceil_div(line, self._bank) * self._bank

    def place(self, number: int, group: int) -> tuple[int, Hashable]:
        """First line of a group's places in buffer `number`, and their key."""
        slot = group % self._buffers[number].slots
        return self._base[number] + slot * self._lines[number], ("places", number, slot)


def pieces(plan: ConvPlan) -> list[Span]:
    """The blocks whose weights come at once."""
    count = min(_MOST_PIECES, max(1, plan.weight_lines // _PIECE_LINES))
    return split(plan.blocks, ceil_div(plan.blocks, count))
