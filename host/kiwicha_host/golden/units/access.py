"""What the units touch, in which order, and what they may not touch."""

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import TABLE_WORDS, ErrorCode

from ... import arguments
from ...job import Job
from ..scaled import PartialSums

__all__ = ["Fault", "Lines", "Memory", "State", "astray", "at", "need", "raise_first", "walk"]


class Fault(Exception):
    """An instruction's typed error, before it is known which instruction it was."""

    def __init__(self, code: ErrorCode, address: int):
        self.code, self.address = code, address


class State:
    """A chip's scratchpad, accumulators and tables; they start as zeros."""

    def __init__(self, config: ChipConfig):
        self.config = arguments.chip(config)
        self.scratchpad = np.zeros((config.scratchpad_lines, config.line_bytes), np.uint8)
        #: int32, or FP32 as its bits.
        self.accumulator = np.zeros((config.accumulator_lines, config.columns), np.int32)
        #: The vector unit's tables A and B, as the words' bits.
        self.tables = np.zeros((2, TABLE_WORDS), np.uint32)
        #: Sums over part of a block, per accumulator, and whether a NaN took part.
        self.partial = PartialSums(config)


class Memory:
    """The job's memory behind the chip's window."""

    def __init__(self, config: ChipConfig, job: Job):
        self.bus_bytes = config.bus_bytes
        self.data = job.memory
        self.base = job.base
        first, last = job.window
        self.first, self.last = first, min(last, (1 << config.address_width) - 1)

    @property
    def reach(self) -> tuple[int, int]:
        """First and last byte that are in the window and in the memory."""
        return max(self.first, self.base), min(self.last, self.base + len(self.data) - 1)

    def check(self, address: int, size: int, bus_error: ErrorCode) -> None:
        """The first of `size` bytes that is not in reach is an error: WINDOW, or else `bus_error`."""
        first, last = self.reach
        if address < first or address + size - 1 > last:
            byte = max(address, last + 1) if address >= first else address
            raise Fault(bus_error if self.first <= byte <= self.last else ErrorCode.WINDOW, byte)


def walk(base: int, counts: list[int], strides: list[int]) -> np.ndarray:
    """`base` plus index times stride over loops of `counts`, the first the outermost: int64 [counts...]."""
    address = np.array(base, np.int64)
    for count, stride in zip(counts, strides, strict=True):
        address = address[..., None] + np.arange(count, dtype=np.int64) * stride
    return address


def astray(base: int, counts: list[int], strides: list[int], first: int, last: int) -> tuple[int, ...] | None:
    """Indices of the walk's first address that is not in `first` .. `last`, if there is one."""
    if _inside(base, counts, strides, first, last):
        return None
    index: list[int] = []
    for level, (count, stride) in enumerate(zip(counts, strides, strict=True)):
        # The lowest index at which something further inside goes astray.
        inner = counts[level + 1:], strides[level + 1:]
        index.append(next(i for i in range(count) if not _inside(base + i * stride, *inner, first, last)))
        base += index[-1] * stride
    return tuple(index)


def _inside(base: int, counts: list[int], strides: list[int], first: int, last: int) -> bool:
    ends = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
    low, high = sum(min(0, item) for item in ends), sum(max(0, item) for item in ends)
    return first <= base + low and base + high <= last


def at(base: int, strides: list[int], index: tuple[int, ...]) -> int:
    return base + sum(i * stride for i, stride in zip(index, strides, strict=True))


class Lines:
    """Line addresses of a loop nest, outermost first, with the error that a line out of range is."""

    def __init__(self, code: ErrorCode, depth: int, base: int, counts: list[int], strides: list[int]):
        self.code, self.depth, self.base, self.counts, self.strides = code, depth, base, counts, strides

    def astray(self) -> tuple[int, ...] | None:
        return astray(self.base, self.counts, self.strides, 0, self.depth - 1)

    def fault(self, index: tuple[int, ...]) -> Fault:
        return Fault(self.code, at(self.base, self.strides, index))


def raise_first(*faults: tuple[tuple[int, ...], Fault]) -> None:
    """Raise the fault that execution one access after the other meets first."""
    if faults:
        raise min(faults, key=lambda item: item[0])[1]


def need(value: int, good: bool) -> None:
    if not good:
        raise Fault(ErrorCode.FIELD, value)
