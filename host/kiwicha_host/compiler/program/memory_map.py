"""Where things are: regions of memory and of the scratchpad, and what the epilogue's results look like."""

from dataclasses import dataclass

from kiwicha import ChipConfig
from kiwicha.isa import PAGE_BITS

__all__ = ["MemoryMap", "Region", "ScratchpadMap", "ceil_div", "column_parameters", "result_lines"]

#: Memory regions start on such a boundary, so that a burst starts where a page does.
ALIGNMENT = 64
#: Bytes of a window page; nothing shares a page with the host's own memory.
PAGE = 1 << PAGE_BITS


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Region:
    """`size` units from `base`: bytes in memory, lines in the scratchpad."""
    base: int
    size: int

    @property
    def end(self) -> int:
        return self.base + self.size


class MemoryMap:
    """Gives out memory from a base address upwards."""

    def __init__(self, base: int = 0):
        self.base = base
        self._next = base

    def region(self, size: int) -> Region:
        region = Region(self._next, size)
        self._next = self.base + ceil_div(self._next + size - self.base, ALIGNMENT) * ALIGNMENT
        return region

    @property
    def size(self) -> int:
        """Bytes given out so far, in whole pages."""
        return max(1, ceil_div(self._next - self.base, PAGE)) * PAGE


@dataclass(frozen=True)
class ScratchpadMap:
    """The scratchpad's share for each stream; different banks where there are enough."""
    a: Region
    w: Region
    out: Region
    params: Region
    scales: Region

    @classmethod
    def of(cls, config: ChipConfig, param_lines: int, scaled: bool = False) -> "ScratchpadMap":
        """A quarter for A, a quarter for results, half for weights, whose end holds the parameters.

        With `scaled`, A's scales are between weights and parameters; the weights' own are among the weights.
        """
        quarter = config.scratchpad_lines // 4
        scale_lines = quarter // 4 if scaled else 0
        params = 4 * quarter - param_lines
        return cls(a=Region(0, quarter), out=Region(quarter, quarter),
                   w=Region(2 * quarter, params - scale_lines - 2 * quarter),
                   params=Region(params, param_lines), scales=Region(params - scale_lines, scale_lines))


def result_lines(config: ChipConfig, element_bytes: int) -> int:
    """Scratchpad lines of one epilogue result of `columns` elements."""
    return ceil_div(config.columns * element_bytes, config.line_bytes)


def column_parameters(config: ChipConfig, bias: bool, scale: bool) -> int:
    """Scratchpad lines of the epilogue's parameters for one block of columns."""
    return result_lines(config, 4) * (int(bias) + int(scale))
