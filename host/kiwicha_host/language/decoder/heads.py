"""Heads that share keys and values, and where these are."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

from kiwicha import ChipConfig

from ...compiler.errors import CompileError
from .numbers import Numbers
from .step import Run, Step

__all__ = ["Batch", "Heads", "Kept", "check_accumulators"]


@dataclass(frozen=True)
class Heads:
    """Heads that share keys and values.

    Parameters
    ----------
    count : int
    key : elements of a key
    values : elements of the parts of a value that have a scale of their own
    numbers : Numbers
    factor : what scores are multiplied with before 2 is raised to their power
    """
    count: int
    key: int
    values: tuple[int, ...]
    numbers: Numbers
    factor: float

    @property
    def value(self) -> int:
        return sum(self.values)

    def accumulators(self, columns: int) -> int:
        """Lines of a row's weighted sums."""
        return self.count * max(self.values) // columns

    @property
    def least_chunk(self) -> int:
        """Lines that are needed at once: of keys a block of positions, of values a scale block of them."""
        block = self.numbers.block
        return max(self.key + self.numbers.blocks(self.key), block)


class Kept(NamedTuple):
    """Keys and values of a sequence in memory: addresses of position 0.

    Parameters
    ----------
    keys, key_scales : a byte for each [dimension, position], and [block, position]; `pitch` from row to row
    pitch : int
    values : a byte for each [position, dimension]; `value_pitch` from row to row
    value_pitch : int
    value_scales : of each part, a byte for each position
    name : what waits for their being written
    """
    keys: int
    key_scales: int
    pitch: int
    values: int
    value_pitch: int
    value_scales: list[int]
    name: Hashable


class Batch(NamedTuple):
    """Rows that are attended for together, `rows` of a run from the step's row `row` on; batches are numbered."""
    run: Run
    row: int
    rows: int
    number: int


def check_accumulators(config: ChipConfig, step: Step, heads: Heads, numbers: Numbers, there: int) -> None:
    """Raise :exc:`CompileError` if half of so many accumulator lines does not hold what leaves it together: a
    gate's scale block and its partner's, the heads' sums.
    """
    needed = 2 * max(2 * numbers.block // config.columns * step.rows, heads.accumulators(config.columns))
    if needed > there:
        raise CompileError(f"a step of {step.rows} tokens needs {needed} accumulator lines; configuration "
                           f"{config.name!r} has {there}: choose one with more")
