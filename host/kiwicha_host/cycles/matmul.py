"""MATMUL: vectors and rows of weights, one of each in a cycle, tile after tile."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from kiwicha import ChipConfig

from .events import Events
from .issue_queue import Instruction
from .spans import Spans
from .timing import MEASURED, Timing

__all__ = ["MatmulModel"]

#: Vectors that wait between the loops and their issue, and rows of weights.
_VECTORS_AHEAD, _ROWS_AHEAD = 4, 3
#: Vectors of an instruction that are followed one by one if they hinder each other; tiles repeat after that.
_FOLLOWED = 8192


class MatmulModel:
    """Implements :class:`.issue_queue.UnitModel`."""

    def __init__(self, events: Events, config: ChipConfig, timing: Timing):
        self._events, self._config, self._timing = events, config, timing
        self.busy = 0
        self._vectors_ready = self._weights_ready = 0       # the address generators take an instruction
        self._issued: deque[int] = deque([-99] * 5, maxlen=_VECTORS_AHEAD + 1)
        self._swap = -99                # the last tile's first vector
        self._tile = (-99, -99, 0, -1)  # the last tile's first and last vector, reads of A's bank, which that is
        self._scales = -1               # the bank of A's scales that came with its first vector
        self._row = -99                 # the last row of weights
        self._resting: dict[int, int] = {}      # accumulator lines of the last vectors, when they were issued
        #: Uses of the accumulators' halves, which VECTOR reads, and of the scratchpad's banks.
        self.sums, self.reads = Spans(), Spans()

    def offer(self, time: int, item: Instruction, accepted: Callable[[int], None],
              retire: Callable[[int], None]) -> None:
        vectors, weights = max(time, self._vectors_ready), max(time, self._weights_ready)
        self._run(item.fields, vectors, weights)
        self._events.at(max(vectors, weights), accepted)
        self._events.at(self._issued[-1] + self._timing.array + self._timing.accumulate, retire)

    def _run(self, fields: dict[str, Any], vectors: int, weights: int) -> None:
        """Issue all of an instruction whose two address generators took it in cycles `vectors` and `weights`."""
        config = self._config
        counts = [fields[f"count{i}"] for i in range(4)]
        size, tiles = counts[0] * counts[1], counts[2] * counts[3]
        lines = _lines(fields, counts)
        slow = self._collides(lines, fields, counts)
        block = fields["block_tiles"] if fields["scaled"] else 0
        earliest, row = vectors + MEASURED["vector"], weights + MEASURED["weight_row"]
        followed = 0
        rows_total = 0
        for tile in range(tiles):
            third, second = divmod(tile, counts[2])
            ends = bool(block) and (second % block == block - 1 or second == counts[2] - 1)
            rows = config.rows + ends
            rows_total += rows
            w_bank = self._bank(fields["w_line"] + second * fields["w_stride2"] + third * fields["w_stride3"])
            if ends and (w_scales := self._scale_bank("w", fields, second // block, third)) != w_bank:
                self._load(1, row, w_scales)
                rows -= 1
            loaded = self._load(rows, row, w_bank)
            start = max(self._issued[-1] + 1, earliest, loaded)
            shift = second * fields["acc_stride2"] + third * fields["acc_stride3"]
            bank = self._bank(fields["a_line"] + second * fields["a_stride2"] + third * fields["a_stride3"])
            scales = self._scale_bank("a", fields, second // block, third) if ends else None
            if slow and followed < _FOLLOWED:
                followed += size
                start, last = self._follow(start, lines + shift, scales == bank)
            else:
                start, last = self._stream(start, lines, shift, slow, scales == bank)
            reads = size + (self._scale_lines(size) - 1 if scales == bank else 0)
            self._tile = start, last, reads, bank
            self._swap = start
            self.reads.add(bank, start, last, reads)
            self._scales = -1
            if scales is not None and scales != bank:
                self._scales = scales
                self.reads.add(scales, start, last, self._scale_lines(size))
            self._issued.extend(range(max(start, last - _VECTORS_AHEAD), last + 1) if not slow else ())
            if ends or not fields["scaled"]:
                self._use(start, last, size, int(lines[0]) + shift)
        self.busy += size * tiles
        self._vectors_ready = max(vectors + size * tiles, self._issued[-1 - _VECTORS_AHEAD] + 1) + MEASURED["loop"]
        self._weights_ready = max(weights + rows_total, self._row - _ROWS_AHEAD + 1) + MEASURED["loop"]

    def _bank(self, line: int) -> int:
        return line // self._config.bank_lines

    def _load(self, rows: int, earliest: int, bank: int) -> int:
        """Read a tile's weights; returns the first cycle in which a vector may use them."""
        start, last, size, a_bank = self._tile
        first = max(self._swap, earliest, self._row + 1)
        end = first + rows - 1
        if bank == a_bank and first <= last:
            # A goes first; rows come in between its vectors, or after them.
            length = last - start + 1
            free = max(0, length - size)
            gaps = free * (last - first + 1) // length
            end = first + -(-rows * length // free) - 1 if gaps >= rows else last + rows - gaps
        elif bank == self._scales and first == start:
            end += 1
        self._row = end
        self.reads.add(bank, end - rows + 1, end, rows)
        return end + 1

    def _collides(self, lines: np.ndarray, fields: dict[str, Any], counts: list[int]) -> bool:
        """Whether a vector may have to wait for its accumulator line."""
        hazard = self._timing.hazard
        if len(lines) < hazard or len(np.unique(lines)) < len(lines):
            return True
        ends = set(lines[-hazard:].tolist())
        starts = lines[:hazard]
        for level in (2, 3):
            if counts[level] > 1:
                shift = fields[f"acc_stride{level}"]
                if shift and ends & set((starts + shift).tolist()):
                    return True
        return any(line in self._resting for line in starts.tolist())

    def _follow(self, start: int, lines: np.ndarray, scales: bool) -> tuple[int, int]:
        """Issue vector by vector from cycle `start` on; returns when the first and the last went.

        Lines of `scales` from the same bank go before the first of the vectors that use them.
        """
        time, hazard, resting = start, self._timing.hazard, self._resting
        first = -1
        for number, line in enumerate(lines.tolist()):
            time = max(time, resting.get(line, -99) + hazard) + (scales and number % self._config.line_bytes == 0)
            resting[line] = time
            self._issued.append(time)
            if first < 0:
                first = time
            time += 1
        if len(resting) > 64:
            self._resting = {line: when for line, when in resting.items() if when > time - hazard}
        return first, time - 1

    def _stream(self, start: int, lines: np.ndarray, shift: int, slow: bool, scales: bool) -> tuple[int, int]:
        """Issue a tile as fast as can be, or, if it is `slow`, as the one before it; `scales` as above."""
        if slow:
            before, last, _, _ = self._tile
            took = last - before
            self._issued.extend([start + took] * 5)
            return start, start + took
        start += scales
        last = start + len(lines) - 1 + scales * (self._scale_lines(len(lines)) - 1)
        tail = (lines[-self._timing.hazard:] + shift).tolist()
        self._resting = {line: last - len(tail) + 1 + i for i, line in enumerate(tail)}
        return start, last

    def _scale_bank(self, operand: str, fields: dict[str, Any], block: int, third: int) -> int:
        """That of the scales of operand "a" or "w", which go before its lines."""
        line, *strides = (fields[f"{operand}_scale_{name}"] for name in ("line", "stride2", "stride3"))
        return self._bank(line + block * strides[0] + third * strides[1])

    def _scale_lines(self, vectors: int) -> int:
        return -(-vectors // self._config.line_bytes)

    def _use(self, start: int, last: int, count: int, line: int) -> None:
        delay = self._timing.array + self._timing.added
        self.sums.add(line // (self._config.accumulator_lines // 2), start + delay, last + delay, count)


def _lines(fields: dict[str, Any], counts: list[int]) -> np.ndarray:
    """Accumulator lines of a tile's vectors."""
    inner, outer = np.arange(counts[0]) * fields["acc_stride0"], np.arange(counts[1]) * fields["acc_stride1"]
    return fields["acc_line"] + (outer[:, None] + inner).reshape(-1)
