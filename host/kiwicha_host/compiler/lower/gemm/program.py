"""The program of a GEMM: which tiles are loaded when, multiplied, and stored."""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from kiwicha.formats import FORMATS
from kiwicha.isa import ScaleRule, Unit

from ...program.builder import ProgramBuilder
from ...program.memory_map import Region, ceil_div
from .placement import Placement
from .tiling import Span, falling, split, split_units

__all__ = ["emit"]

#: Tiles that LOAD may be ahead of MATMUL in program order.
_LOOKAHEAD = 2
#: Parts of the results' region that are written and stored independently.
_OUTPUT_BUFFERS = 16


@dataclass(frozen=True)
class _Load:
    """A tile that must be in its slot before step `step`; `free` is the last step that uses what was there.

    `piece` is what comes of it, in blocks along K from the tile's start; None is all of it.
    """
    step: int
    free: int
    operand: str
    slot: int
    start: tuple[int, int]
    size: tuple[int, int]
    piece: Span | None = None


@dataclass(frozen=True)
class _Step:
    """One MATMUL instruction: a tile of A times a tile of B. Starts and sizes count vectors and blocks.

    `k_piece` and `n_piece` are the parts of the tiles that it multiplies, from their starts; `half` is that of the
    accumulators. With `ends`, the sums of its columns are complete.
    """
    m: Span
    n: Span
    k: Span
    tile: int
    a_slot: int
    w_slot: int
    k_piece: Span
    n_piece: Span
    half: int
    ends: bool


def emit(place: Placement) -> bytes:
    """The program: loads run ahead, and a tile's results leave while the next tile is computed.

    The first tiles come in pieces along K, so that the array starts early. The
    last tile is computed in pieces along N, each half of what is left, so that little remains after the array.
    """
    builder = ProgramBuilder()
    steps, loads = _plan(place)
    buffers = _Buffers(steps)
    results = _Results(builder, place, buffers)
    pending: deque[Callable[[], None]] = deque()        # epilogues and stores of what is computed
    next_load, next_end = 0, 0
    for i, step in enumerate(steps):
        while next_load < len(loads) and (loads[next_load].step <= i or (
                loads[next_load].step <= i + _LOOKAHEAD and loads[next_load].free < i)):
            _emit_load(builder, place, buffers, loads[next_load])
            next_load += 1
        _emit_matmul(builder, place, buffers, step)
        while next_end < i or not steps[next_end].ends:
            next_end += 1
        for _ in range(ceil_div(len(pending), next_end - i + 1)):
            pending.popleft()()
        if step.ends:
            pending.extend(results.of(step))
    for emit in pending:
        emit()
    return builder.assemble()


def _plan(place: Placement) -> tuple[list[_Step], list[_Load]]:
    """All steps in order, and the loads that bring their tiles into rings of slots."""
    shape, tiling = place.shape, place.tiling
    m_parts = split(shape.m, tiling.m)
    n_parts = split_units(shape.n_blocks, tiling.n, shape.out_parts)
    k_parts = split_units(shape.k_blocks, tiling.k, shape.block_tiles)
    tiles = ([(m, n) for n in n_parts for m in m_parts] if tiling.n_outer else
             [(m, n) for m in m_parts for n in n_parts])
    a_ring, w_ring = _Ring("a", tiling.a_slots), _Ring("w", tiling.w_slots)
    steps: list[_Step] = []
    loads: list[_Load] = []
    for tile, (m, n) in enumerate(tiles):
        for k in k_parts:
            whole = [(0, k[1])]
            k_pieces = whole if steps else list(tiling.pieces)
            last = k == k_parts[-1]
            n_pieces = falling(n[1], shape.out_parts) if last and tile == len(tiles) - 1 else [(0, n[1])]
            for number, n_piece in enumerate(n_pieces):
                # One half is read while the other is added to; but sums stay where those of other parts of K are.
                half = (tile + number if len(k_parts) == 1 else tile) % 2
                for k_piece in k_pieces if number == 0 else whole:
                    slots = a_ring.take(len(steps), m, k, loads), w_ring.take(len(steps), k, n, loads)
                    ends = last and sum(k_piece) == k[1]
                    steps.append(_Step(m, n, k, tile, *slots, k_piece, n_piece, half, ends))
            if k_pieces != whole:
                loads = _in_pieces(loads, k_pieces, tiling.a_whole)
    return steps, loads


def _in_pieces(loads: list[_Load], pieces: list[Span], a_whole: bool) -> list[_Load]:
    """The first tiles' loads, each piece of them before its own step; all of A before the first if it is whole."""
    return [load if a_whole and load.operand == "a" else replace(load, step=step, piece=piece)
            for step, piece in enumerate(pieces) for load in loads
            if not (a_whole and load.operand == "a" and step)]


class _Ring:
    """Slots that are filled in turn; a tile that is still in one is not loaded again."""

    def __init__(self, operand: str, slots: int):
        self.operand = operand
        self._used = [-1] * slots
        self._held: list = [None] * slots
        self._next = 0

    def take(self, step: int, rows: tuple[int, int], columns: tuple[int, int], loads: list[_Load]) -> int:
        key = (rows, columns)
        if key in self._held:
            index = self._held.index(key)
        else:
            index, self._next = self._next, (self._next + 1) % len(self._held)
            loads.append(_Load(step, self._used[index], self.operand, index, *zip(rows, columns, strict=True)))
            self._held[index] = key
        self._used[index] = step
        return index


class _Buffers:
    """The keys of slots and accumulators: one for each piece that the first or the last tile is cut into."""

    def __init__(self, steps: list[_Step]):
        self._k_starts = sorted({step.k_piece[0] for step in steps})
        self._n_starts = sorted({step.n_piece[0] for step in steps})
        #: Rows of a slot that are beyond B and have been written once.
        self.padded: set[Hashable] = set()

    def loaded(self, operand: str, slot: int, piece: Span, whole: int) -> list[Hashable]:
        """A piece along K of a tile of `whole` blocks."""
        return [(operand, slot, start) for start in (self._k_starts if piece[1] == whole else piece[:1])]

    def accumulators(self, step: _Step) -> list[Hashable]:
        starts = self._n_starts if step.n_piece[1] == step.n[1] else step.n_piece[:1]
        return [("acc", step.half, start) for start in starts]


def _emit_load(builder: ProgramBuilder, place: Placement, buffers: _Buffers, load: _Load) -> None:
    """A tile of A as lines (vector, row block), or of B as lines (column block, row), and its scales."""
    config, shape = place.config, place.shape
    rows, columns, line_bytes = config.rows, config.columns, config.line_bytes
    whole = load.size[1] if load.operand == "a" else load.size[0]
    within, count = piece = load.piece or (0, whole)
    keys = buffers.loaded(load.operand, load.slot, piece, whole)
    if load.operand == "a":
        (m, k), (vectors, blocks) = load.start, load.size
        k += within
        first, last = k * rows // shape.a_per_byte, min(shape.a_row_bytes, (k + count) * rows // shape.a_per_byte)
        _emit_rows(builder, keys, place.a.base + m * shape.a_row_bytes + first, vectors, shape.a_row_bytes,
                   last - first, rows // shape.a_per_byte, place.a_line(load.slot) + within, 1, blocks)
        if shape.block:
            lines = ceil_div(vectors, line_bytes)
            _emit_rows(builder, keys, place.a_scale.base + k // shape.block_tiles * shape.m + m,
                       shape.scales_of(count), shape.m, vectors, line_bytes,
                       place.a_scale_line(load.slot) + within // shape.block_tiles * lines, 1, lines)
        return
    (k, n), (k_blocks, blocks) = load.start, load.size
    k += within
    # The array multiplies rows beyond B with zeros; whatever they are, but never what no one has written.
    beyond = (k + count) * rows - shape.b_rows
    padding = (load.slot, within + count, k_blocks, blocks)
    if beyond > 0 and padding not in buffers.padded:
        buffers.padded.add(padding)
        builder.add(Unit.LOAD, writes=keys, fill_only=1, segment_bytes=1, address=0, row_bytes=blocks, rows=beyond,
                    planes=1, line=place.w_line(load.slot) + (within + count) * rows - beyond,
                    segment_line_stride=k_blocks * rows, row_line_stride=1)
    first = n * columns // shape.b_per_byte
    last = min(shape.b_row_bytes, (n + blocks) * columns // shape.b_per_byte)
    _emit_rows(builder, keys, place.b.base + k * rows * shape.b_row_bytes + first,
               min(shape.b_rows, (k + count) * rows) - k * rows, shape.b_row_bytes, last - first,
               columns // shape.b_per_byte, place.w_line(load.slot) + within * rows, k_blocks * rows, 1)
    if shape.block:
        _emit_rows(builder, keys, place.b_scale.base + k // shape.block_tiles * shape.n + n * columns,
                   shape.scales_of(count), shape.n, min(shape.n, (n + blocks) * columns) - n * columns, columns,
                   place.w_line(load.slot) + blocks * k_blocks * rows + within // shape.block_tiles,
                   shape.scales_of(k_blocks), 1)


def _emit_rows(builder: ProgramBuilder, keys: list[Hashable], address: int, rows: int, stride: int, row_bytes: int,
               segment: int, line: int, segment_lines: int, row_lines: int) -> None:
    """LOAD of `rows` rows of `row_bytes` bytes, `stride` bytes apart, in segments."""
    builder.add(Unit.LOAD, writes=keys, address=address, row_bytes=row_bytes, rows=rows, row_stride=stride,
                planes=1, segment_bytes=segment, line=line, segment_line_stride=segment_lines,
                row_line_stride=row_lines)


def _emit_matmul(builder: ProgramBuilder, place: Placement, buffers: _Buffers, step: _Step) -> None:
    """Vectors innermost, then row blocks (a reduction), then column blocks."""
    config, shape, spec = place.config, place.shape, place.spec
    (_, m), (_, n), (k_start, k) = step.m, step.n, step.k
    (k_first, k_count), (n_first, n_count) = step.k_piece, step.n_piece
    scales = {}
    if shape.block:
        lines, scale, of_column = ceil_div(m, config.line_bytes), k_first // shape.block_tiles, shape.scales_of(k)
        scales = {"scaled": 1, "block_tiles": shape.block_tiles,
                  "a_scale_line": place.a_scale_line(step.a_slot) + scale * lines, "a_scale_stride2": lines,
                  "w_scale_line": place.w_line(step.w_slot) + n * k * config.rows + n_first * of_column + scale,
                  "w_scale_stride2": 1, "w_scale_stride3": of_column}
    reads = [key for name, index in (("a", step.a_slot), ("w", step.w_slot))
             for key in buffers.loaded(name, index, step.k_piece, k)]
    builder.add(Unit.MATMUL, reads=reads, writes=buffers.accumulators(step),
                accumulate=int(k_start + k_first > 0), count0=m, count1=1, count2=k_count, count3=n_count,
                a_format=FORMATS[spec.a_format].code, w_format=FORMATS[spec.b_format].code,
                a_line=place.a_line(step.a_slot) + k_first, a_stride0=k, a_stride2=1,
                w_line=place.w_line(step.w_slot) + (n_first * k + k_first) * config.rows,
                w_stride2=config.rows, w_stride3=k * config.rows,
                acc_line=place.accumulator_line(step.half) + n_first * m,
                acc_stride0=1, acc_stride3=m, **scales)


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
    """Emits what follows a tile's last MATMUL: its parameters, EPILOGUEs and STOREs."""

    def __init__(self, builder: ProgramBuilder, place: Placement, buffers: _Buffers):
        self.builder, self.place, self.buffers = builder, place, buffers
        self._output = _OutputRing(place.plan.where.out)
        self._params = _Ring("params", 2)

    def of(self, step: _Step) -> list[Callable[[], None]]:
        """One action per EPILOGUE or STORE, to be called in order."""
        params = self._load_params(step) if self.place.param_lines else 0
        actions: list[Callable[[], None]] = []
        parts = self.place.shape.out_parts
        # Unless they have parameters or scales, one EPILOGUE does for all column blocks.
        alike = not self.place.param_lines and not self.place.shape.out_block
        for start, size in split_units(step.n_piece[1], self.place.tiling.group, parts):
            start += step.n_piece[0]
            room = self._output.take(self.place.shape.out_lines(step.m[1], size))
            actions += [partial(self._epilogue, step, params, start, block, size, room, size if alike else 1)
                        for block in range(0, size, size if alike else parts)]
            actions.append(partial(self._store, step, start, size, room))
        return actions

    def _load_params(self, step: _Step) -> int:
        """Bring the column tile's parameters unless they are there; returns their slot."""
        place = self.place
        loads: list[_Load] = []
        index = self._params.take(step.tile, step.n, step.n, loads)
        if loads:
            lines, line_bytes = step.n[1] * place.param_lines, place.config.line_bytes
            self.builder.add(Unit.LOAD, writes=[("params", index)], rows=1, planes=1, segment_line_stride=1,
                             address=place.params.base + step.n[0] * place.param_lines * line_bytes,
                             row_bytes=lines * line_bytes, segment_bytes=line_bytes, line=place.param_line(index))
        return index

    def _scale_line(self, step: _Step, size: int, room: _Room, block: int) -> int:
        """Where the dynamic scales of column block `block` of `size` in their room are: behind the results."""
        shape, m = self.place.shape, step.m[1]
        return (room.line + m * size * shape.result_lines
                + block // shape.out_parts * ceil_div(m, shape.config.line_bytes))

    def _epilogue(self, step: _Step, params: int, start: int, block: int, size: int, room: _Room,
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
            Unit.EPILOGUE, reads=[*self.buffers.accumulators(step), ("params", params)], writes=room.keys,
            out_format=spec.out_format, float=int(spec.block > 0), bias=int(spec.bias),
            scale_mode=place.scale_mode, zero_point=spec.zero_point, count0=1, count1=1, count2=m, acc_stride2=1,
            count3=alike, acc_stride3=m, out_stride3=lines,
            acc_line=place.accumulator_line(step.half) + column_block * m,
            out_line=room.line + block * lines, out_stride2=size * lines, out_step=1,
            param_line=self.place.param_line(params) + column_block * place.param_lines, **extra)

    def _store(self, step: _Step, start: int, size: int, room: _Room) -> None:
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
