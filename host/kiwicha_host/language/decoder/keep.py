"""A step's keys and values, codes in the scratchpad, into memory, at their positions."""

from functools import partial

from ...compiler.program.memory_map import ceil_div
from .emitter import Indexed
from .heads import Kept
from .layers import Layers
from .lines import Lines
from .numbers import PADDING
from .step import Indices, Step

__all__ = ["Keep"]


class Keep:
    """Emits it for one run after another.

    Parameters
    ----------
    key : elements of all keys of a row
    scales : scales of a row
    context : positions that there is room for
    relay : address of memory, of `key` bytes for each row
    """

    def __init__(self, lines: Lines, layers: Layers, step: Step, *, key: int, scales: int, context: int,
                 relay: int):
        self._script = layers.script
        self._emit, self._step, self._key, self._context, self._relay = layers.emit, step, key, context, relay
        self._relay_name = ("keys", relay)
        self._columns, self._line = layers.columns, layers.config.line_bytes
        self._indices = Indices(step, layers.columns)
        self._bytes = [lines.take(key) for _ in range(2)]
        #: Lines of a scale of all rows of a run, and of zeros.
        self._scale_lines = ceil_div(step.length + PADDING, self._line)
        self._scales, self._scale_count = lines.take(scales * self._scale_lines), scales

    def begin(self) -> None:
        """What is not written later is zero."""
        self._emit.fill(self._scales, self._scale_count * self._scale_lines, 0)

    def scale_line(self, number: int) -> int:
        """Where scale `number` of the rows of a run belongs."""
        return self._scales + number * self._scale_lines

    def _at(self, address: int, run: int, offset: int = 0, stride: int = 1) -> Indexed:
        """`offset` positions, `stride` bytes each, after a run's first."""
        return Indexed(address + offset * stride, stride, self._indices.position(run), self._context - offset)

    def scales(self, run: int, first: int, count: int, address: int, kept: Kept) -> None:
        """Rows of positions' scales, from number `first` on. Those that are still to come have the scale 0 then:
        what an earlier sequence has left there might be NaN.
        """
        self._emit.store(self._at(address, run), self._step.length + PADDING, self.scale_line(first),
                         segment=self._line, rows=count, row_stride=kept.pitch, row_lines=self._scale_lines,
                         writes=[kept.name])

    def values(self, run: int, line: int, row_lines: int, kept: Kept, size: int) -> None:
        """Rows of `size` codes."""
        self._emit.store(self._at(kept.values, run, stride=kept.value_pitch), size, line, segment=self._columns,
                         rows=self._step.length, row_stride=kept.value_pitch, row_lines=row_lines,
                         writes=[kept.name])

    def put_aside(self, run: int, line: int) -> None:
        """Rows of keys, codes, to where :meth:`keys` finds them."""
        size = self._key
        self._emit.store(self._aside(run), size, line, segment=self._columns, rows=self._step.length,
                         row_stride=size, row_lines=size // self._columns, writes=[self._relay_name])

    def _aside(self, run: int, index: int = 0) -> int:
        return self._relay + (run * self._step.length + index) * self._key

    def keys(self, run: int, kept: Kept) -> None:
        """Script: rows of codes become columns: by way of memory, from where each byte gets a line of its own."""
        for index in range(self._step.length):
            self._script.do(partial(self._turn, run, index, kept))

    def _turn(self, run: int, index: int, kept: Kept) -> None:
        """A row of codes to a column."""
        emit, size, through = self._emit, self._key, self._bytes[index % 2]
        emit.load(self._aside(run, index), 1, through, segment=1, rows=size, row_stride=1, row_lines=1,
                  reads=[self._relay_name])
        emit.store(self._at(kept.keys, run, index), 1, through, segment=1, rows=size, row_stride=kept.pitch,
                   row_lines=1, writes=[kept.name])
