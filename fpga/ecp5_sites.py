"""Where the array's multipliers go on an ECP5: nextpnr's placer does not finish without being told."""

from math import ceil

from kiwicha.array.multiplier import multiplier_class
from kiwicha.config import ChipConfig

__all__ = ["lock_sites", "sites"]

#: Rows of multiplier blocks (Y), and the blocks' columns (X), of each die, as nextpnr's own placements show.
_BLOCKS = {
    "25F": ((13,), (4, 13, 22, 33, 42, 51, 60)),
    "45F": ((22, 46), (4, 13, 22, 31, 42, 51, 60, 69, 78)),
    "85F": ((10, 34, 58), (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)),
}
#: The four multipliers of a block: distance in X, and number.
_IN_BLOCK = ((0, 0), (1, 1), (4, 4), (5, 5))


def sites(part: str) -> list[list[str]]:
    """The multiplier sites of `part`, in nextpnr's spelling: a list per row, from left to right.

    Raises
    ------
    ValueError
        `part` is not an ECP5 of 12F (which is a 25F), 25F, 45F or 85F, with or without "LFE5U-" before it.
    """
    size = str(part).rpartition("-")[2]
    size = "25F" if size == "12F" else size
    if size not in _BLOCKS:
        raise ValueError(f"part must be an ECP5 12F, 25F, 45F or 85F, not {part!r}")
    rows, columns = _BLOCKS[size]
    return [[f"X{x + distance}/Y{y}/MULT18_{number}" for x in columns for distance, number in _IN_BLOCK]
            for y in rows]


def lock_sites(config: ChipConfig, part: str) -> dict[tuple[int, int], str]:
    """A site for each multiplier of the array: ``{(row, cell): site}``, as ``SystolicArray`` takes it.

    The array's rows are cut into as few bands as fit, one per row of blocks; within a band, the multipliers of
    a cell are neighbours, and the next cell's come next. So activations take short steps to the right and sums
    short steps within a cell, but for the one from band to band. An array that is too wide for that follows
    the rows of blocks to and fro, cell by cell. The portable multiplier needs no sites: the answer is empty.

    Raises
    ------
    ValueError
        `part` is unknown, or has too few multipliers.
    """
    bands = sites(part)
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
        free = iter(band)
        placed |= {(row, cell): next(free) for cell in range(cells) for row in range(first, end)}
    return placed
