"""What LOAD and STORE have in common: a transfer's bursts and segments."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kiwicha import ChipConfig
from kiwicha.timing import INDEX_READ

from .spans import Spans
from .timing import MEASURED

__all__ = ["Bursts", "Transfer"]


@dataclass(slots=True)
class Transfer:
    """One LOAD or STORE, as its two sides see it.

    Attributes
    ----------
    length : int
        Bytes of a run; there are `runs` of them in each of `planes`.
    segments, row_segments : int
        Lines, of the transfer and of each row.
    """
    address: int
    length: int
    runs: int
    planes: int
    row_stride: int
    plane_stride: int
    row_bytes: int
    segment_bytes: int
    row_segments: int
    segments: int
    fill_only: bool
    multiply: int
    fields: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Transfer":
        rows, row_bytes, segment = fields["rows"], fields["row_bytes"], fields["segment_bytes"]
        contiguous = fields["row_stride"] == row_bytes
        row_segments = -(-row_bytes // segment)
        return cls(
            address=fields["address"], length=row_bytes * rows if contiguous else row_bytes,
            runs=1 if contiguous else rows, planes=fields["planes"], row_stride=fields["row_stride"],
            plane_stride=fields["plane_stride"], row_bytes=row_bytes, segment_bytes=segment,
            row_segments=row_segments,
            segments=row_segments * rows * fields["planes"], fill_only=bool(fields.get("fill_only", 0)),
            multiply=max(1, rows.bit_length()) if contiguous else 1, fields=fields)

    def handed_over(self, accepted: int, config: ChipConfig, reads: tuple[Spans, ...]) -> int:
        """When it is handed over to both sides; `reads` are those of the scratchpad that go before an index."""
        time = accepted + MEASURED["transfer"] + self.multiply
        if not self.fields["indexed"]:
            return time
        bank, asked = self.fields["index_line"] // config.bank_lines, accepted + MEASURED["index"]
        late = sum(spans.last_of(bank, asked, 1) - asked for spans in reads)
        return time + INDEX_READ + 1 + self.fields["index_bound"].bit_length() + late

    def run_addresses(self) -> Iterator[int]:
        for plane in range(self.planes):
            base = self.address + plane * self.plane_stride
            for run in range(self.runs):
                yield base + run * self.row_stride

    def segments_in(self, size: int) -> int:
        """Segments that are complete with the first `size` bytes."""
        rows, rest = divmod(size, self.row_bytes)
        return rows * self.row_segments + rest // self.segment_bytes

    def line(self, segment: int) -> int:
        """The scratchpad line of segment number `segment`, from 0."""
        fields = self.fields
        row, at = divmod(segment, self.row_segments)
        plane, row = divmod(row, fields["rows"])
        return (fields["line"] + at * fields["segment_line_stride"] + row * fields["row_line_stride"]
                + plane * fields["plane_line_stride"])

    def end_of(self, segment: int) -> int:
        """Bytes up to the end of segment number `segment`, from 1."""
        row, at = divmod(segment - 1, self.row_segments)
        return row * self.row_bytes + min((at + 1) * self.segment_bytes, self.row_bytes)


class Bursts:
    """A transfer's bursts, in order: (bytes, beats, offset in the first beat, first of its run)."""

    def __init__(self, transfer: Transfer, bus_bytes: int):
        self._bus = bus_bytes
        self._block = 256 * bus_bytes
        self._transfer = transfer

    def __iter__(self) -> Iterator[tuple[int, int, int, bool]]:
        bus, block, length = self._bus, self._block, self._transfer.length
        for start in self._transfer.run_addresses():
            end, first = start + length, True
            while start < end:
                stop = min(end, (start // block + 1) * block)
                offset = start % bus
                yield stop - start, (offset + stop - start + bus - 1) // bus, offset, first
                start, first = stop, False
