"""The program of a GEMM: its tiles' loads, products, epilogues and stores."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import numpy as np

from kiwicha.formats import FORMATS
from kiwicha.isa import ScaleRule, Unit

from ...program.builder import ProgramBuilder
from ...program.memory_map import Region, ceil_div
from ..product.schedule import Load, Order, Product, Ring, Step
from ..product.spans import Span, falling, split, split_units
from .placement import Placement

__all__ = ["emit"]

#: Parts of the results' region that are written and stored independently.
_OUTPUT_BUFFERS = 16


def emit(place: Placement) -> bytes:
    """The program; the last tile is computed in pieces along N, each half of what is left."""
    steps, loads = _order(place).plan()
    builder = ProgramBuilder()
    _Matrices(builder, place, steps).run(steps, loads)
    return builder.assemble()


def _order(place: Placement) -> Order:
    shape, tiling = place.shape, place.tiling
    m_parts = split(shape.m, tiling.m)
    n_parts = split_units(shape.n_blocks, tiling.n, shape.out_parts)
    tiles = ([(m, n) for n in n_parts for m in m_parts] if tiling.n_outer else
             [(m, n) for m in m_parts for n in n_parts])
    return Order(tiles, split_units(shape.k_blocks, tiling.k, shape.block_tiles), tiling.a_slots, tiling.w_slots,
                 acc_slots=2, pieces=list(tiling.pieces), a_whole=tiling.a_whole, a_of_k=True,
                 last=falling(tiles[-1][1][1], shape.out_parts))


class _Buffers:
    """The keys of slots and accumulators: one for each piece that the first or the last tile is cut into."""

    def __init__(self, steps: list[Step]):
        self._k_starts = sorted({step.k_piece[0] for step in steps})
        self._n_starts = sorted({step.n_piece[0] for step in steps})
        #: Rows of a slot that are beyond B and have been written once.
        self.padded: set[Hashable] = set()

    def loaded(self, operand: str, slot: int, piece: Span, whole: int) -> list[Hashable]:
        """A piece along K of a tile of `whole` blocks."""
        return [(operand, slot, start) for start in (self._k_starts if piece[1] == whole else piece[:1])]

    def accumulators(self, step: Step) -> list[Hashable]:
        starts = self._n_starts if step.n_piece[1] == step.n[1] else step.n_piece[:1]
        return [("acc", step.slot, start) for start in starts]


class _Matrices(Product):
    """The instructions for A and B as they are in memory."""

    def __init__(self, builder: ProgramBuilder, place: Placement, steps: list[Step]):
        self._builder, self._place, self._buffers = builder, place, _Buffers(steps)
        self._results = _Results(builder, place, self._buffers)

    def results(self, step: Step) -> list[Callable[[], None]]:
        return self._results.of(step)

    def load(self, load: Load) -> None:
        """A tile of A as lines (vector, row block), or of B as lines (column block, row), and its scales."""
        (self._load_a if load.operand == "a" else self._load_b)(load)

    def _load_a(self, load: Load) -> None:
        builder, place, shape = self._builder, self._place, self._place.shape
        (m, vectors), (k, blocks) = load.rows, load.columns
        rows, (within, count) = place.config.rows, load.piece or (0, blocks)
        keys = self._buffers.loaded("a", load.slot, (within, count), blocks)
        k += within
        first = k * rows // shape.a_per_byte
        last = min(shape.a_row_bytes, (k + count) * rows // shape.a_per_byte)
        _emit_rows(builder, keys, place.a.base + m * shape.a_row_bytes + first, vectors, shape.a_row_bytes,
                   last - first, rows // shape.a_per_byte, place.a_line(load.slot) + within, 1, blocks)
        if shape.block:
            lines = ceil_div(vectors, place.config.line_bytes)
            _emit_rows(builder, keys, place.a_scale.base + k // shape.block_tiles * shape.m + m,
                       shape.scales_of(count), shape.m, vectors, place.config.line_bytes,
                       place.a_scale_line(load.slot) + within // shape.block_tiles * lines, 1, lines)

    def _load_b(self, load: Load) -> None:
        builder, place, shape = self._builder, self._place, self._place.shape
        (k, k_blocks), (n, blocks) = load.rows, load.columns
        rows, columns, (within, count) = place.config.rows, place.config.columns, load.piece or (0, k_blocks)
        keys = self._buffers.loaded("w", load.slot, (within, count), k_blocks)
        k += within
        # The array multiplies rows beyond B with zeros; whatever they are, but never what no one has written.
        beyond = (k + count) * rows - shape.b_rows
        padding = (load.slot, within + count, k_blocks, blocks)
        if beyond > 0 and padding not in self._buffers.padded:
            self._buffers.padded.add(padding)
            builder.add(Unit.LOAD, writes=keys, fill_only=1, segment_bytes=1, address=0, row_bytes=blocks,
                        rows=beyond, planes=1, line=place.w_line(load.slot) + (within + count) * rows - beyond,
                        segment_line_stride=k_blocks * rows, row_line_stride=1)
        first = n * columns // shape.b_per_byte
        last = min(shape.b_row_bytes, (n + blocks) * columns // shape.b_per_byte)
        _emit_rows(builder, keys, place.b.base + k * rows * shape.b_row_bytes + first,
                   min(shape.b_rows, (k + count) * rows) - k * rows, shape.b_row_bytes, last - first,
                   columns // shape.b_per_byte, place.w_line(load.slot) + within * rows, k_blocks * rows, 1)
        if shape.block:
            _emit_rows(builder, keys, place.b_scale.base + k // shape.block_tiles * shape.n + n * columns,
                       shape.scales_of(count), shape.n, min(shape.n, (n + blocks) * columns) - n * columns,
                       columns, place.w_line(load.slot) + blocks * k_blocks * rows + within // shape.block_tiles,
                       shape.scales_of(k_blocks), 1)

    def multiply(self, step: Step) -> None:
        """Vectors innermost, then row blocks (a reduction), then column blocks."""
        place, buffers, spec, rows = self._place, self._buffers, self._place.spec, self._place.config.rows
        (_, m), (k_start, k) = step.m, step.k
        (k_first, k_count), (n_first, n_count) = step.k_piece, step.n_piece
        reads = [key for name, index in (("a", step.a_slot), ("w", step.w_slot))
                 for key in buffers.loaded(name, index, step.k_piece, k)]
        self._builder.add(
            Unit.MATMUL, reads=reads, writes=buffers.accumulators(step), accumulate=int(k_start + k_first > 0),
            a_format=FORMATS[spec.a_format].code, w_format=FORMATS[spec.b_format].code,
            count0=m, count1=1, count2=k_count, count3=n_count,
            a_line=place.a_line(step.a_slot) + k_first, a_stride0=k, a_stride2=1,
            w_line=place.w_line(step.w_slot) + (n_first * k + k_first) * rows, w_stride2=rows, w_stride3=k * rows,
            acc_line=place.accumulator_line(step.slot) + n_first * m, acc_stride0=1, acc_stride3=m,
            **self._scales(step))

    def _scales(self, step: Step) -> dict[str, int]:
        """Where a block-scaled product's scales are."""
        place, shape = self._place, self._place.shape
        if not shape.block:
            return {}
        (_, m), (_, n), (_, k) = step.m, step.n, step.k
        lines, of_column = ceil_div(m, place.config.line_bytes), shape.scales_of(k)
        scale = step.k_piece[0] // shape.block_tiles
        return {"scaled": 1, "block_tiles": shape.block_tiles,
                "a_scale_line": place.a_scale_line(step.a_slot) + scale * lines, "a_scale_stride2": lines,
                "w_scale_line": (place.w_line(step.w_slot) + n * k * place.config.rows
                                 + step.n_piece[0] * of_column + scale),
                "w_scale_stride2": 1, "w_scale_stride3": of_column}


def _emit_rows(builder: ProgramBuilder, keys: list[Hashable], address: int, rows: int, stride: int, row_bytes: int,
               segment: int, line: int, segment_lines: int, row_lines: int) -> None:
    """LOAD of `rows` rows of `row_bytes` bytes, `stride` bytes apart, in segments."""
    builder.add(Unit.LOAD, writes=keys, address=address, row_bytes=row_bytes, rows=rows, row_stride=stride,
                planes=1, segment_bytes=segment, line=line, segment_line_stride=segment_lines,
                row_line_stride=row_lines)


@dataclass(frozen=True)
class _Room:
    """Scratchpad lines for results, and the buffers that they are."""
    line: int
    keys: list[Hashable]


class _OutputRing:
    """Gives out the results' region in turn. So little results wait for little: only for those that were there."""

    def __init__(self, region: Region):
        self._region = region
        self._unit = max(1, region.size // _OUTPUT_BUFFERS)
        self._next = 0

    def take(self, lines: int) -> _Room:
        """Room for `lines` lines, at most half of the region."""
        count, first = ceil_div(lines, self._unit), self._next
        if (first + count) * self._unit > self._region.size:
            first = 0
        self._next = first + count
        return _Room(self._region.base + first * self._unit, [("out", first + i) for i in range(count)])


class _Results:
    """Emits what follows a tile's last MATMUL: its parameters, VECTORs and STOREs."""

    def __init__(self, builder: ProgramBuilder, place: Placement, buffers: _Buffers):
        self.builder, self.place, self.buffers = builder, place, buffers
        self._output = _OutputRing(place.plan.where.out)
        self._params = Ring("params", 2)

    def of(self, step: Step) -> list[Callable[[], None]]:
        """One action per VECTOR or STORE, to be called in order."""
        params = self._load_params(step) if self.place.param_lines else 0
        actions: list[Callable[[], None]] = []
        parts = self.place.shape.out_parts
        # Unless they have parameters or scales, one VECTOR does for all column blocks.
        alike = not self.place.param_lines and not self.place.shape.out_block
        for start, size in split_units(step.n_piece[1], self.place.tiling.group, parts):
            start += step.n_piece[0]
            room = self._output.take(self.place.shape.out_lines(step.m[1], size))
            actions += [partial(self._epilogue, step, params, start, block, size, room, size if alike else 1)
                        for block in range(0, size, size if alike else parts)]
            actions.append(partial(self._store, step, start, size, room))
        return actions

    def _load_params(self, step: Step) -> int:
        """Bring the column tile's parameters unless they are there; returns their slot."""
        place = self.place
        loads: list[Load] = []
        index = self._params.take(step.tile, step.n, step.n, loads)
        if loads:
            lines, line_bytes = step.n[1] * place.param_lines, place.config.line_bytes
            self.builder.add(Unit.LOAD, writes=[("params", index)], rows=1, planes=1, segment_line_stride=1,
                             address=place.params.base + step.n[0] * place.param_lines * line_bytes,
                             row_bytes=lines * line_bytes, segment_bytes=line_bytes, line=place.param_line(index))
        return index

    def _scale_line(self, step: Step, size: int, room: _Room, block: int) -> int:
        """Where the dynamic scales of column block `block` of `size` in their room are: behind the results."""
        shape, m = self.place.shape, step.m[1]
        return (room.line + m * size * shape.result_lines
                + block // shape.out_parts * ceil_div(m, shape.config.line_bytes))

    def _epilogue(self, step: Step, params: int, start: int, block: int, size: int, room: _Room,
                  alike: int) -> None:
        """For column block `block` of `size` in their room, and those that are alike."""
        place, spec, shape = self.place, self.place.spec, self.place.shape
        m, column_block, lines = step.m[1], start + block, shape.result_lines
        extra: dict[str, int] = {}
        if isinstance(spec.scale, float):
            extra["scale"] = int(np.float32(spec.scale).view(np.uint32))
        if spec.relu:
            # The largest int32, and above every FP32 number and NaN in total order.
            extra |= {"clamp": 1, "clamp_low": 0, "clamp_high": 0x7FFF_FFFF}
        if spec.out_block:
            extra |= {"parts": min(shape.out_parts, size - block), "part_stride": m,
                      "scale_rule": ScaleRule[spec.scale_rule.upper()].value,
                      "scale_line": self._scale_line(step, size, room, block)}
        self.builder.add(
            Unit.VECTOR, reads=[*self.buffers.accumulators(step), ("params", params)], writes=room.keys,
            out_format=spec.out_format, float=int(spec.block > 0), bias=int(spec.bias),
            scale_mode=place.scale_mode, zero_point=spec.zero_point, count0=1, count1=1, count2=m, a_stride2=1,
            count3=alike, a_stride3=m, out_stride3=lines,
            a_line=place.accumulator_line(step.slot) + column_block * m,
            out_line=room.line + block * lines, out_stride2=size * lines, out_step=1,
            param_line=self.place.param_line(params) + column_block * place.param_lines, **extra)

    def _store(self, step: Step, start: int, size: int, room: _Room) -> None:
        place, shape, config = self.place, self.place.shape, self.place.config
        row, first = shape.c_row_bytes, (step.n[0] + start) * shape.block_bytes
        self.builder.add(
            Unit.STORE, reads=room.keys, address=place.c.base + step.m[0] * row + first,
            row_bytes=min(row, first + size * shape.block_bytes) - first, rows=step.m[1], row_stride=row, planes=1,
            segment_bytes=min(config.line_bytes, shape.block_bytes),
            line=room.line, segment_line_stride=1, row_line_stride=size * shape.result_lines)
        if shape.out_block:
            scales, first = ceil_div(size, shape.out_parts), (step.n[0] + start) // shape.out_parts
            self.builder.add(
                Unit.STORE, reads=room.keys, row_bytes=step.m[1], rows=scales, row_stride=shape.m,
                planes=1, address=place.c_scale.base + first * shape.m + step.m[0],
                segment_bytes=config.line_bytes, line=self._scale_line(step, size, room, 0), segment_line_stride=1,
                row_line_stride=ceil_div(step.m[1], config.line_bytes))
