"""Tile sizes and loop order of a GEMM, chosen by an estimate of its cycles."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES

from ...program.builder import CompileError
from ...program.memory_map import Region, ScratchpadMap, ceil_div
from .shape import Shape

__all__ = ["Span", "Tiling", "falling", "rising", "slot", "split", "split_units", "tilings"]

#: A part of something: its start and its size.
Span = tuple[int, int]


#: Cycles that an instruction costs beyond its data: a LOAD before its first burst, an EPILOGUE to fetch its
#: parameters, and any instruction for what its dispatch and semaphores do not overlap.
_LOAD_OVERHEAD, _EPILOGUE_OVERHEAD, _INSTRUCTION_OVERHEAD = 8, 30, 2
#: Cycles from a read burst's issue to its end, besides its beats, that tiles are chosen for. Of so slow a memory
#: only so many bursts are read in that time as may be in flight, so short rows are slow.
_LATENCY = 112
#: Slots with which LOAD never waits for the end of a product; with fewer, each load waits, and then for memory.
_ENOUGH_SLOTS = 3


@dataclass(frozen=True)
class Tiling:
    """Tile sizes in vectors (`m`), column blocks (`n`) and row blocks (`k`), and what is outermost.

    `n_outer` loops over column tiles outside and row tiles inside, and so keeps weights; otherwise the
    reverse. `group` column blocks are stored by one instruction. `cycles` is the estimate.
    """
    m: int
    n: int
    k: int
    n_outer: bool
    group: int
    a_slots: int
    w_slots: int
    cycles: float = 0.0


def split(total: int, limit: int) -> list[Span]:
    """(start, size) of the fewest parts of at most `limit`, as even as they can be."""
    parts = ceil_div(total, limit)
    base, extra = divmod(total, parts)
    sizes = [base + 1] * extra + [base] * (parts - extra)
    starts = [sum(sizes[:i]) for i in range(parts)]
    return list(zip(starts, sizes, strict=True))


def _part(total: int, limit: int) -> int:
    """Size of the largest part that :func:`split` makes."""
    return ceil_div(total, ceil_div(total, limit))


def _sizes(total: int, most: int) -> list[int]:
    """Candidate part sizes of `total`, at most `most`: even splits into 1, 2, 3, 4, 6, 8 ... parts."""
    parts = [p * f for p in (1 << i for i in range(17)) for f in (2, 3)] + [1]
    return sorted({_part(total, ceil_div(total, p)) for p in parts if ceil_div(total, p) <= most})


def rising(total: int, unit: int) -> list[Span]:
    """Pieces of `total`, each as long as all before it, cut at multiples of `unit`."""
    pieces, start, size = [], 0, unit
    while start < total:
        size = min(size, total - start)
        pieces.append((start, size))
        start, size = start + size, start + size
    return pieces


def falling(total: int, unit: int) -> list[Span]:
    """Pieces of `total`, each half of what is left, cut at multiples of `unit`."""
    pieces, start = [], 0
    while start < total:
        size = min(ceil_div(ceil_div(total - start, unit), 2) * unit, total - start)
        pieces.append((start, size))
        start += size
    return pieces


def split_units(total: int, limit: int, unit: int) -> list[Span]:
    """As :func:`split`, cut only at multiples of `unit`."""
    parts = split(ceil_div(total, unit), ceil_div(limit, unit))
    return [(start * unit, min(size * unit, total - start * unit)) for start, size in parts]


def _unit_sizes(total: int, most: int, unit: int) -> list[int]:
    """As :func:`_sizes`, multiples of `unit` or the whole."""
    units = ceil_div(total, unit)
    return [min(size * unit, total) for size in _sizes(units, units if total <= most else most // unit)]


def tilings(shape: Shape, where: ScratchpadMap, most_n: int) -> list[Tiling]:
    """All tilings of `shape`, the fewest estimated cycles first; at most `most_n` column blocks a tile.

    Raises
    ------
    CompileError
        Not even the smallest tile fits the scratchpad.
    """
    # A tile of each operand is loaded while another is used, unless there is room for one only.
    found = list(_fitting(shape, where, most_n, 2)) or list(_fitting(shape, where, most_n, 1))
    if not found:
        config = shape.config
        raise CompileError(f"no tile of a {shape.m}x{shape.n}x{shape.k} GEMM fits configuration {config.name!r}: "
                           f"it has {config.scratchpad_lines} scratchpad lines and {config.accumulator_lines} "
                           "accumulator lines")
    return sorted(found, key=lambda tiling: tiling.cycles)


def _fitting(shape: Shape, where: ScratchpadMap, most_n: int, slots: int) -> Iterator[Tiling]:
    """The tilings that have at least `slots` tiles of each operand in the scratchpad."""
    half_out, half_acc = where.out.size // 2, shape.config.accumulator_lines // 2
    for tile_m, tile_n in product(_sizes(shape.m, min(half_acc, half_out // shape.result_lines)),
                                  _unit_sizes(shape.n_blocks, min(half_acc, most_n), shape.out_parts)):
        group = _group(shape, tile_m, tile_n, half_out)
        if tile_m * tile_n > half_acc or not group:
            continue
        most_k = where.a.size // (slots * tile_m)
        for tile_k, n_outer in product(_unit_sizes(shape.k_blocks, most_k, shape.block_tiles), (False, True)):
            room = _slots(shape, where, tile_m, tile_n, tile_k)
            if min(room) < slots:
                continue
            tiling = Tiling(tile_m, tile_n, tile_k, n_outer, group, *room)
            yield replace(tiling, cycles=_cycles(shape, tiling))


def _slots(shape: Shape, where: ScratchpadMap, m: int, n: int, k: int) -> tuple[int, int]:
    """Tiles of A and of B that there is room for."""
    a_slots, scale_lines = where.a.size // shape.a_lines(m, k), shape.a_scale_lines(m, k)
    if scale_lines:
        a_slots = min(a_slots, where.scales.size // scale_lines)
    return a_slots, where.w.size // shape.w_lines(n, k)


def _group(shape: Shape, m: int, n: int, room: int) -> int:
    """Column blocks per STORE: whole lines only, unless each block is stored alone; 0 if there is no room."""
    if shape.out_lines(m, min(n, shape.out_parts)) > room:
        return 0
    size = shape.block_bytes
    if size > shape.config.line_bytes and size % shape.config.line_bytes:
        return 1
    most = room // shape.out_lines(m, shape.out_parts)
    return min(n, _part(ceil_div(n, shape.out_parts), max(1, most)) * shape.out_parts)


def _cycles(shape: Shape, tiling: Tiling) -> float:
    """Estimated cycles: the busiest resource, plus what nothing can overlap with."""
    config, m = shape.config, shape.m
    bus, n_blocks, k_blocks = config.bus_bytes, shape.n_blocks, shape.k_blocks
    m_parts, n_parts, k_parts = (ceil_div(total, part) for total, part in
                                 ((m, tiling.m), (n_blocks, tiling.n), (k_blocks, tiling.k)))
    tile_rows = config.rows + shape.scale_blocks / k_blocks
    compute = n_blocks * k_blocks * sum(max(size, tile_rows) for _, size in split(m, tiling.m))
    k, n = shape.a_row_bytes, shape.b_row_bytes
    a_row, w_row = tiling.k * config.rows // shape.a_per_byte, tiling.n * config.columns // shape.b_per_byte
    a_cycles = m * k_parts * _row_beats(config, min(k, a_row), k_parts == 1, k)
    w_cycles = shape.b_rows * n_parts * _row_beats(config, min(n, w_row), n_parts == 1, n)
    a_cycles, w_cycles = max(a_cycles, m * k_blocks), max(w_cycles, shape.b_rows * n_blocks)
    a_cycles += shape.scale_blocks * ceil_div(m, config.line_bytes)
    w_cycles += shape.scale_blocks * n_blocks
    # A ring of slots keeps a cyclic sequence of tiles only if it holds all of them.
    a_span, w_span = (m_parts * k_parts, k_parts) if tiling.n_outer else (k_parts, n_parts * k_parts)
    a_loads = 1 if a_span <= tiling.a_slots else n_parts
    w_loads = 1 if w_span <= tiling.w_slots else m_parts
    steps = ceil_div(config.columns, config.vector_lanes)
    tiles = m_parts * n_parts
    loads = a_loads * m_parts * k_parts + w_loads * n_parts * k_parts
    # As if every column block had parameters; without, there are fewer EPILOGUEs.
    epilogues, stores = m_parts * n_blocks, tiles * ceil_div(tiling.n, tiling.group)
    instructions = loads + tiles * k_parts + epilogues + stores
    waiting = (a_span > tiling.a_slots < _ENOUGH_SLOTS or w_span > tiling.w_slots < _ENOUGH_SLOTS)
    reads = (a_cycles * a_loads + w_cycles * w_loads + loads * (_LATENCY if waiting else _LOAD_OVERHEAD)
             + instructions * INSTRUCTION_BYTES / bus)
    epilogue = m * n_blocks * steps + epilogues * _EPILOGUE_OVERHEAD
    store = max(ceil_div(m * shape.c_row_bytes, bus), m * n_blocks * shape.result_lines)
    # The first tiles come in pieces along K, the last results leave block by block.
    first = a_cycles / (m_parts * k_parts) + w_cycles / (n_parts * k_parts)
    pieces = ceil_div(tiling.k, shape.block_tiles)
    first = first / pieces + max(0, first - compute / (tiles * k_parts)) / 2
    tail = tiling.m * shape.out_parts * (steps + ceil_div(shape.block_bytes, bus))
    return max(compute, reads, epilogue, store) + first + tail + instructions * _INSTRUCTION_OVERHEAD


def _row_beats(config: ChipConfig, size: int, contiguous: bool, stride: int) -> float:
    """Bus cycles for one row of `size` bytes; rows that are not whole aligned beats touch one more.

    A row is a burst at least, and of bursts only `reads_in_flight` are under way at once.
    """
    if contiguous:
        return size / config.bus_bytes
    ragged = size % config.bus_bytes or stride % config.bus_bytes
    beats = ceil_div(size, config.bus_bytes) + bool(ragged)
    return max(2, beats, (_LATENCY + beats) / config.reads_in_flight)


def slot(region: Region, size: int, index: int) -> int:
    """First line of slot `index` of `size` lines in `region`."""
    return region.base + index * size
