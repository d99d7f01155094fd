"""Where the chip's multipliers and block RAMs go on an ECP5.

nextpnr's static placer lets them overlap until all else has its place, and then moves them to whatever sites are
left; what they belong to stays behind. With a site for each of them, all else settles around them.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import ceil

from kiwicha.array.multiplier import multiplier_class
from kiwicha.config import ChipConfig

__all__ = ["array_sites", "floorplan", "multiplier_sites", "ram_sites"]

#: Rows (Y) of multiplier blocks and of block RAMs, and the columns (X) of both, of each die, as nextpnr's own
#: placements show.
_BLOCKS = {
    "25F": ((13,), (25, 37), (4, 13, 22, 33, 42, 51, 60)),
    "45F": ((22, 46), (10, 34, 58), (4, 13, 22, 31, 42, 51, 60, 69, 78)),
    "85F": ((10, 34, 58), (22, 46, 70, 82), (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)),
}
#: The four multipliers of a block and its four block RAMs: distance in X, and number.
_MULTIPLIERS = ((0, 0), (1, 1), (4, 4), (5, 5))
_RAMS = ((0, 0), (2, 1), (4, 2), (6, 3))

_CELL = re.compile(r"\.array\.cell_(\d+)_(\d+)\.")
_LANE = re.compile(r"\.vector\.datapath\.lane(\d+)\.multiply\.")
_TABLE = re.compile(r"\.vector\.datapath\.operands\.[ab]_table\.lane(\d+)\.memory\.")
_SCRATCHPAD = re.compile(r"\.scratchpad\.bank(\d+)\.memory\.(\d+)\.(\d+)")
_ACCUMULATOR = re.compile(r"\.accumulator\.bank(\d+)\.slice(\d+)\.memory\.(\d+)\.(\d+)")
_MAIN = re.compile(r"\.ram\.lane(\d+)\.(\d+)\.(\d+)")


def _die(part: str) -> str:
    size = str(part).rpartition("-")[2]
    size = "25F" if size == "12F" else size
    if size not in _BLOCKS:
        raise ValueError(f"part must be an ECP5 12F, 25F, 45F or 85F, not {part!r}")
    return size


def multiplier_sites(part: str) -> list[list[str]]:
    """The multiplier sites of `part`, in nextpnr's spelling: a list per row, from left to right.

    Raises
    ------
    ValueError
        `part` is not an ECP5 of 12F (which is a 25F), 25F, 45F or 85F, with or without "LFE5U-" before it.
    """
    rows, _, columns = _BLOCKS[_die(part)]
    return [[f"X{x + distance}/Y{y}/MULT18_{number}" for x in columns for distance, number in _MULTIPLIERS]
            for y in rows]


def ram_sites(part: str) -> list[list[str]]:
    """The block RAM sites of `part`, as :func:`multiplier_sites` has the others."""
    _, rows, columns = _BLOCKS[_die(part)]
    return [[f"X{x + distance}/Y{y}/EBR{number}" for x in columns for distance, number in _RAMS] for y in rows]


def array_sites(config: ChipConfig, part: str) -> dict[tuple[int, int], str]:
    """A site for each multiplier of the array: ``{(row, cell): site}``.

    The array's rows are cut into as few bands as fit, one per row of blocks; within a band, the multipliers of
    a cell are neighbours, and the next cell's come next. So activations take short steps to the right and sums
    short steps within a cell, but for the one from band to band. What a band leaves free is in its middle, for the
    vector unit's multipliers. An array that is too wide for that follows the rows of blocks to and fro, cell by
    cell. The portable multiplier needs no sites: the answer is empty.

    Raises
    ------
    ValueError
        `part` is unknown, or has too few multipliers.
    """
    bands = multiplier_sites(part)
    if config.multiplier == "portable":
        return {}
    rows, cells = config.rows, config.columns // multiplier_class(config).columns
    total = sum(map(len, bands))
    if rows * cells > total:
        raise ValueError(f"a {rows} x {config.columns} array with multiplier {config.multiplier!r} takes "
                         f"{rows * cells} multipliers; {part} has {total}")
    for count in range(1, len(bands) + 1):
        if ceil(rows / count) * cells <= len(bands[0]):
            return _banded(bands[:count], rows, cells)
    path = [site for index, band in enumerate(bands) for site in (band[::-1] if index % 2 else band)]
    return {(row, cell): path[cell * rows + row] for cell in range(cells) for row in range(rows)}


def _banded(bands: list[list[str]], rows: int, cells: int) -> dict[tuple[int, int], str]:
    placed = {}
    for index, band in enumerate(bands):
        first, end = index * rows // len(bands), (index + 1) * rows // len(bands)
        left = (cells + 1) // 2 * (end - first)
        used = band[:left] + band[len(band) - (cells * (end - first) - left):]
        free = iter(used)
        placed |= {(row, cell): next(free) for cell in range(cells) for row in range(first, end)}
    return placed


def floorplan(cells: Iterable[str], array: dict[tuple[int, int], str], part: str) -> dict[str, str]:
    """A site for each of `cells`, the netlist's multipliers and block RAMs; what is not the chip's stays without.
    Main memory goes to the bottom.

    Block RAMs have a plan on dies with four rows of them only: the 85F.

    Parameters
    ----------
    cells : iterable of str
        Their names, modules joined by dots.
    array : dict
        From :func:`array_sites`.
    part : str
    """
    names = sorted(cells)
    placed = {name: array[key] for key, name in _named(_CELL, names) if key in array}
    taken = set(placed.values())
    lanes = _lanes(names, [[site for site in band if site not in taken] for band in multiplier_sites(part)])
    placed |= lanes
    rows = ram_sites(part)
    if len(rows) != 4:
        return placed
    rams = _memories(names, rows)
    rams |= _tables(names, lanes, [site for row in rows for site in row if site not in set(rams.values())])
    taken = set(rams.values())
    rest = [site for row in (rows[3], rows[2], rows[1], rows[0]) for site in row if site not in taken]
    return placed | rams | dict(zip((name for _, name in _named(_MAIN, names)), rest, strict=False))


def _named(pattern: re.Pattern, names: Iterable[str]) -> list[tuple[tuple[int, ...], str]]:
    """Those of `names` that match, with their numbers and in their order."""
    matches = ((pattern.search(name), name) for name in names)
    return sorted((tuple(map(int, match.groups())), name) for match, name in matches if match)


def _lanes(names: list[str], free: list[list[str]]) -> dict[str, str]:
    """The vector unit's multipliers: a lane's side by side, the lanes where most is free."""
    placed: dict[str, str] = {}
    for _, lane in groupby(_named(_LANE, names), key=lambda item: item[0]):
        mine = [name for _, name in lane]
        band = max(free, key=len)
        placed |= dict(zip(mine, band, strict=False))
        del band[:len(mine)]
    return placed


def _tables(names: list[str], lanes: dict[str, str], free: list[str]) -> dict[str, str]:
    """Each lane's tables on the free sites that are nearest to its multipliers."""
    near = {lane: _place_of(lanes[name]) for (lane,), name in _named(_LANE, names) if name in lanes}
    placed: dict[str, str] = {}
    for (lane,), name in _named(_TABLE, names):
        if lane in near and free:
            x, y = near[lane]
            placed[name] = min(free, key=lambda site: abs(_place_of(site)[0] - x) + abs(_place_of(site)[1] - y))
            free.remove(placed[name])
    return placed


def _place_of(site: str) -> tuple[int, int]:
    x, y, _ = site.split("/")
    return int(x[1:]), int(y[1:])


def _memories(names: list[str], rows: list[list[str]]) -> dict[str, str]:
    """The scratchpad between the array's bands, the accumulators below its last."""
    placed: dict[str, str] = {}
    # What has the same bits in all banks meets in one multiplexer.
    bits = sorted(((tuple(key), bank), name) for (bank, *key), name in _named(_SCRATCHPAD, names))
    slices = [[name for _, name in group] for _, group in groupby(bits, key=lambda item: item[0][0])]
    placed |= _spread(slices[::2], rows[0]) | _spread(slices[1::2], rows[1])
    sums = sorted(((part, *key, bank), name) for (bank, part, *key), name in _named(_ACCUMULATOR, names))
    return placed | _spread([[name for _, name in sums]], rows[2])


def _spread(groups: Sequence[Sequence[str]], row: list[str]) -> dict[str, str]:
    """Groups in the row's middle, if there is room with a site between them; nothing if they do not fit."""
    width = max(map(len, groups), default=0)
    if not width or width * len(groups) > len(row):
        return {}
    pitch = min(len(row) // len(groups), width + 1)
    start = (len(row) - pitch * (len(groups) - 1) - width) // 2
    return {name: row[start + pitch * index + offset]
            for index, group in enumerate(groups) for offset, name in enumerate(group)}
