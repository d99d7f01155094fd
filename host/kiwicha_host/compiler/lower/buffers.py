"""Where the feature maps of a network are in memory: those that are not alive together share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ..program.memory_map import ALIGNMENT, Region, ceil_div

__all__ = ["Lifetime", "allocate"]


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes that is written first by segment `birth` and read last by segment `death`."""
    size: int
    birth: int
    death: int


def allocate(lifetimes: Mapping[int, Lifetime]) -> tuple[dict[int, int], int]:
    """Offsets of buffers, and the size of all, such that none that are alive in the same segment overlap.

    The largest come first, each to the lowest place that is free while it is alive: greedy by size, as in
    Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020.
    """
    placed: list[tuple[Lifetime, Region]] = []
    offsets: dict[int, int] = {}
    for number, own in sorted(lifetimes.items(), key=lambda item: -item[1].size):
        size = ceil_div(own.size, ALIGNMENT) * ALIGNMENT
        taken = sorted((region for other, region in placed
                        if own.birth <= other.death and other.birth <= own.death), key=lambda region: region.base)
        offset = _gap(taken, size)
        offsets[number] = offset
        placed.append((own, Region(offset, size)))
    return offsets, max((region.end for _, region in placed), default=0)


def _gap(taken: Sequence[Region], size: int) -> int:
    """The lowest place between regions in the order of their bases that has room for so much."""
    ends = [0, *accumulate((region.end for region in taken), max)]
    return next(end for end, region in zip(ends, [*taken, None], strict=True)
                if region is None or end + size <= region.base)
