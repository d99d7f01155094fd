"""How a size is cut into parts."""

from ...program.memory_map import ceil_div

__all__ = ["Span", "falling", "rising", "split", "split_units"]

#: A part of something: its start and its size.
Span = tuple[int, int]


def split(total: int, limit: int) -> list[Span]:
    """(start, size) of the fewest parts of at most `limit`, as even as they can be."""
    parts = ceil_div(total, limit)
    base, extra = divmod(total, parts)
    sizes = [base + 1] * extra + [base] * (parts - extra)
    starts = [sum(sizes[:i]) for i in range(parts)]
    return list(zip(starts, sizes, strict=True))


def rising(total: int, unit: int, ratio: float = 2.0) -> list[Span]:
    """Pieces of `total`, cut at multiples of `unit`: each arrives while those before it are used.

    Using takes `ratio` times as long as arriving; so a piece may be as long as the first, and longer by what using
    all before it took more than their arriving.
    """
    pieces, start, size = [], 0, unit
    while start < total:
        size = min(size, total - start)
        pieces.append((start, size))
        start += size
        size = unit * (1 + max(0, int((ratio - 1) * start / unit)))
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
