"""The tilings of a GEMM that fit the chip, by an estimate of their cycles."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product

from ...errors import CompileError
from ...program.memory_map import ScratchpadMap, ceil_div
from .estimate import MemoryTime, estimate, first_pieces
from .shape import Shape
from .tiling import Tiling

__all__ = ["tilings"]


def _part(total: int, limit: int) -> int:
    """Size of the largest part that :func:`split` makes."""
    return ceil_div(total, ceil_div(total, limit))


def _sizes(total: int, most: int) -> list[int]:
    """Candidate part sizes of `total`, at most `most`: even splits into 1, 2, 3, 4, 6, 8 ... parts."""
    parts = [p * f for p in (1 << i for i in range(17)) for f in (2, 3)] + [1]
    return sorted({_part(total, ceil_div(total, p)) for p in parts if ceil_div(total, p) <= most})


def _unit_sizes(total: int, most: int, unit: int) -> list[int]:
    """As :func:`_sizes`, multiples of `unit` or the whole."""
    units = ceil_div(total, unit)
    return [min(size * unit, total) for size in _sizes(units, units if total <= most else most // unit)]


@lru_cache(maxsize=8)
def tilings(shape: Shape, where: ScratchpadMap, most_n: int, memory_latency: int) -> tuple[Tiling, ...]:
    """All tilings of `shape`, the fewest estimated cycles first; at most `most_n` column blocks a tile.

    Raises
    ------
    CompileError
        Not even the smallest tile fits the scratchpad.
    """
    # A tile of each operand is loaded while another is used, unless there is room for one only.
    memory = MemoryTime(shape, memory_latency)
    found = list(_fitting(memory, where, most_n, 2)) or list(_fitting(memory, where, most_n, 1))
    if not found:
        config = shape.config
        raise CompileError(f"no tile of a {shape.m}x{shape.n}x{shape.k} GEMM fits configuration {config.name!r}: "
                           f"it has {config.scratchpad_lines} scratchpad lines and {config.accumulator_lines} "
                           "accumulator lines")
    return tuple(sorted(found, key=lambda tiling: tiling.cycles))


def _fitting(memory: MemoryTime, where: ScratchpadMap, most_n: int, slots: int) -> Iterator[Tiling]:
    """The tilings that have at least `slots` tiles of each operand in the scratchpad."""
    shape = memory.shape
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
            for a_whole in (False, True) if tile_k > shape.block_tiles else (False,):
                tiling = Tiling(tile_m, tile_n, tile_k, n_outer, group, *room, pieces=(), a_whole=a_whole)
                tiling = replace(tiling, pieces=first_pieces(memory, tiling))
                yield replace(tiling, cycles=estimate(memory, tiling))


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
