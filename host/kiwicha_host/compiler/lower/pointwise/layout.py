"""What is where in the scratchpad, so that the array and the vector unit read different banks."""

from collections.abc import Hashable, Sequence

from kiwicha import ChipConfig

from ...program.memory_map import ceil_div
from ..conv.plan import ConvPlan
from ..product.spans import Span, split
from ..vector.plan import VectorPlan
from .stages import Stages

__all__ = ["Layout", "blocks_together", "pieces"]

#: Weights of so many lines or more come in pieces, so that the array need not wait for all; but in few, for the
#: instructions behind them wait until LOAD has taken them.
_PIECE_LINES, _MOST_PIECES = 512, 4
#: The array's cycles for blocks of output channels that go together.
_BATCH = 2048
#: Of weights that do not stay there are those that come, those that the array has, and parameters of its last.
_SLOTS = 3


class Layout:
    """First what the array multiplies, for which it needs all of its banks' time; then what the vector unit reads;
    then weights, each from a bank of its own on. Weights that are `streamed` have a ring of slots there.

    Attributes
    ----------
    rows : int
        First line of results of rows, which the layers that have such use in turn.
    constants : list of int
        First lines of layers' weights or tables; of weights that stay.
    fits : bool
        Whether there are as many lines, and accumulators.
    """

    def __init__(self, config: ChipConfig, plans: Sequence[ConvPlan | VectorPlan], stages: Stages, size: int,
                 streamed: bool):
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
        line += size * max(plan.image.row_lines for plan in plans if isinstance(plan, VectorPlan))
        for layer, plan in enumerate(plans):
            if isinstance(plan, VectorPlan):
                self.constants[layer] = line
                line += plan.weight_lines
        self._ring = line = self._next_bank(line)
        products = [(layer, plan) for layer, plan in enumerate(plans) if isinstance(plan, ConvPlan)]
        self._slot_lines = max(plan.block_lines * blocks_together(plan, size) for _, plan in products)
        for layer, plan in products if not streamed else ():
            self.constants[layer] = line
            line += plan.weight_lines
        line += _SLOTS * self._slot_lines if streamed else 0
        self.fits = line <= config.scratchpad_lines and size <= config.accumulator_lines // 2

    def _next_bank(self, line: int) -> int:
        return ceil_div(line, self._bank) * self._bank

    def place(self, number: int, group: int) -> tuple[int, Hashable]:
        """First line of a group's places in buffer `number`, and their key."""
        slot = group % self._buffers[number].slots
        return self._base[number] + slot * self._lines[number], ("places", number, slot)


    def slot(self, number: int) -> tuple[int, Hashable]:
        """First line and key of the slot that streamed weights come into as number `number`."""
        return self._ring + number % _SLOTS * self._slot_lines, ("slot", number % _SLOTS)


def blocks_together(plan: ConvPlan, size: int) -> int:
    """Blocks of output channels whose products of `size` places are in one half of the accumulators together."""
    most = plan.config.accumulator_lines // 2 // size
    return max(1, min(most, plan.blocks, _BATCH // plan.product_cycles(size)))


def pieces(plan: ConvPlan) -> list[Span]:
    """The blocks whose weights come at once."""
    count = min(_MOST_PIECES, max(1, plan.weight_lines // _PIECE_LINES))
    return split(plan.blocks, ceil_div(plan.blocks, count))
