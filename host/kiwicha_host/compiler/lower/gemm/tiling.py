"""A GEMM's tile sizes and loop order."""

from dataclasses import dataclass

from ..product.spans import Span

__all__ = ["Tiling"]


@dataclass(frozen=True)
class Tiling:
    """Tile sizes in vectors (`m`), column blocks (`n`) and row blocks (`k`), and what is outermost.

    `n_outer` loops over column tiles outside and row tiles inside, and so keeps weights; otherwise the
    reverse. `group` column blocks are stored by one instruction. The first tiles come in `pieces` along K, but
    that of A at once with `a_whole`: whole rows are read faster than short ones. `cycles` is the estimate.
    """
    m: int
    n: int
    k: int
    n_outer: bool
    group: int
    a_slots: int
    w_slots: int
    pieces: tuple[Span, ...]
    a_whole: bool = False
    cycles: float = 0.0
