"""Programs of layers: their instructions in order, and what those of all kinds of layers have in common."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import LOAD, OutFormat, Unit
from kiwicha.timing import word_lines

from ..errors import CompileError
from ..ir.layers import Layer, VectorLayer
from ..program.builder import ProgramBuilder
from ..program.loops import Dim, nests
from ..program.memory_map import ceil_div

__all__ = ["Addresses", "Emitter", "TooLarge", "element_lines", "is_clamped", "load_lines", "result_fields",
           "transfer", "transfer_channels"]

_FORMATS = {"int8": OutFormat.INT8, "int32": OutFormat.INT32, "float32": OutFormat.FP32}
_MAX_ROW_BYTES = next(field.limits[1] for field in LOAD.fields if field.name == "row_bytes")


class TooLarge(CompileError):
    """The layer called `layer` needs `needed` of something of which there is `there`."""

    def __init__(self, config: ChipConfig, layer: Layer | VectorLayer, needed: int, there: int, what: str):
        self.layer, self.excess = layer.name, needed / max(1, there)
        super().__init__(f"layer {layer.name!r} needs {needed} {what}; configuration {config.name!r} has {there}")


@dataclass(frozen=True)
class Addresses:
    """Where a layer's weights are in memory, and what it reads and writes of the first image.

    What never is in memory has no address, but zero.
    """
    weights: int
    source: int
    target: int
    second: int = 0


class Emitter:
    """A program builder that knows which buffers were used, so that a new phase can wait for all of them.

    Attributes
    ----------
    layer : int
        The network's layer that the next instructions are for.
    layers : list of int
        The layer of each instruction.
    """

    def __init__(self) -> None:
        self.builder = ProgramBuilder()
        self.layer = 0
        self.layers: list[int] = []
        self._used: set[Hashable] = set()
        self._phase: set[Hashable] = set()

    def add(self, unit: Unit, *, reads: Iterable[Hashable] = (), writes: Iterable[Hashable] = (),
            **fields) -> None:
        reads, writes = list(reads), list(writes)
        if self._phase and unit == Unit.LOAD:
            writes += self._phase
            self._phase = set()
        self._used.update(reads, writes)
        self.layers.append(self.layer)
        self.builder.add(unit, reads=dict.fromkeys(reads), writes=dict.fromkeys(writes), **fields)

    def barrier(self) -> None:
        """The next LOAD waits for all that was emitted, and all that follows for it."""
        self._phase, self._used = self._used, set()


def load_lines(emitter: Emitter, config: ChipConfig, address: int, line: int, lines: int, key: Hashable) -> None:
    """Bring whole lines, one after the other in memory and in the scratchpad."""
    emitter.add(Unit.LOAD, writes=[key], address=address, row_bytes=lines * config.line_bytes, rows=1, planes=1,
                segment_bytes=config.line_bytes, line=line, segment_line_stride=1)


def transfer(emitter: Emitter, unit: Unit, address: int, line: int, keys: Sequence[Hashable], row_bytes: int,
             segment: int, dims: Sequence[Dim], apart: int = 1) -> None:
    """LOAD or STORE rows of `row_bytes` bytes, cut into segments of at most `segment`, of which each has a line,
    `apart` lines after the one before.

    `dims` are counts, innermost first, each with bytes and lines from one row to the next; rows that follow each
    other on both sides become one.
    """
    segment = min(segment, row_bytes)
    lines = ceil_div(row_bytes, segment) * apart
    dims = list(dims)
    while dims and row_bytes % segment == 0:
        count, (bytes_apart, lines_apart) = dims[0]
        if count > 1 and ((bytes_apart, lines_apart) != (row_bytes, lines) or row_bytes * count > _MAX_ROW_BYTES):
            break
        row_bytes, lines = row_bytes * count, lines * count
        dims.pop(0)
    for nest in nests(dims or [(1, (0, 0))], 2):
        (rows, (row_stride, row_lines)), (planes, (plane_stride, plane_lines)) = nest.dims
        emitter.add(unit, **{"writes" if unit == Unit.LOAD else "reads": keys},
                    address=address + nest.offsets[0], line=line + nest.offsets[1],
                    row_bytes=row_bytes, segment_bytes=segment, segment_line_stride=apart,
                    rows=rows, row_stride=row_stride, row_line_stride=row_lines,
                    planes=planes, plane_stride=plane_stride, plane_line_stride=plane_lines)


def element_lines(config: ChipConfig, element: str) -> int:
    """Scratchpad lines of `columns` elements: codes, or words."""
    return 1 if element == "int8" else word_lines(config)


def _row_parts(config: ChipConfig, channels: int, element: str) -> Iterator[tuple[int, int, int]]:
    """Of each transfer its first block of columns, bytes, and bytes of a line."""
    size = np.dtype(element).itemsize
    block, line = config.columns * size, config.line_bytes
    if block <= line or block % line == 0:
        yield 0, channels * size, min(block, line)
        return
    for number in range(ceil_div(channels, config.columns)):
        yield number, min(block, (channels - number * config.columns) * size), line


def transfer_channels(emitter: Emitter, unit: Unit, config: ChipConfig, address: int, line: int,
                      keys: Sequence[Hashable], channels: int, element: str, dims: Sequence[Dim]) -> None:
    """LOAD or STORE so many channels of each place, block by block of columns to lines of their own; `dims` as
    those of :func:`transfer`."""
    size = config.columns * np.dtype(element).itemsize
    for block, row_bytes, segment in _row_parts(config, channels, element):
        transfer(emitter, unit, address + block * size, line + block * element_lines(config, element), keys,
                 row_bytes, segment, dims)


def is_clamped(layer: Layer | VectorLayer) -> bool:
    """Whether there are limits besides those of the results' type."""
    return layer.clamp != ((-128, 127) if layer.element == "int8" else (-np.inf, np.inf))


def result_fields(layer: Layer | VectorLayer) -> dict[str, int]:
    """What of a VECTOR says which codes or numbers the results of a layer become."""
    low, high = (int(np.float32(limit - layer.y_zero).view(np.uint32)) for limit in layer.clamp)
    fields = {"out_format": _FORMATS[layer.element], "zero_point": layer.y_zero, "clamp": int(is_clamped(layer)),
              "clamp_low": low, "clamp_high": high}
    return fields if layer.element == "int8" else fields | {"out_step": 1}
