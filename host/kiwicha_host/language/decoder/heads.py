"""Heads that share keys and values, and where these are."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

from .numbers import Numbers
from .step import Run

__all__ = ["Batch", "Heads", "Kept"]


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
