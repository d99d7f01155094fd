"""About how many cycles a GEMM takes with a tiling: says which tilings the cycle model has to look at."""

from ...program.memory_map import ceil_div
from ..product.estimate import VECTOR_OVERHEAD, Effort, burst_latency, load_overhead
from ..product.spans import Span, falling, rising
from .shape import Shape
from .tiling import Tiling

__all__ = ["MemoryTime", "estimate", "first_pieces"]

#: Pieces of the first tiles, each of which costs two instructions or three.
_MOST_PIECES = 8


def estimate(memory: "MemoryTime", tiling: Tiling) -> float:
    """Cycles of a GEMM with `tiling`."""
    shape, config = memory.shape, memory.shape.config
    m, n_blocks, k_blocks, bus = shape.m, shape.n_blocks, shape.k_blocks, config.bus_bytes
    m_parts, n_parts, k_parts = _parts(shape, tiling)
    tiles = m_parts * n_parts
    a_cycles, w_cycles = memory.a_cycles(tiling.k, k_parts), memory.b_cycles(tiling.n, n_parts)
    # A ring of slots keeps a cyclic sequence of tiles only if it holds all of them.
    a_span, w_span = (m_parts * k_parts, k_parts) if tiling.n_outer else (k_parts, n_parts * k_parts)
    a_loads = 1 if a_span <= tiling.a_slots else n_parts
    w_loads = 1 if w_span <= tiling.w_slots else m_parts
    loads = a_loads * m_parts * k_parts + w_loads * n_parts * k_parts
    # As if every column block had parameters; without, there are fewer VECTORs.
    epilogues, stores = m_parts * n_blocks, tiles * ceil_div(tiling.n, tiling.group)
    instructions = loads + tiles * k_parts + epilogues + stores
    overhead = load_overhead(memory.latency, (a_span, tiling.a_slots), (w_span, tiling.w_slots))

    size, larger = divmod(m, m_parts)       # as `split` cuts it
    compute = n_blocks * (larger * _product(shape, size + 1, k_blocks)
                          + (m_parts - larger) * _product(shape, size, k_blocks))
    steps = ceil_div(config.columns, config.vector_lanes)
    first_loads, first_products, first = _first_tile(memory, tiling)
    return Effort(
        products=compute, loads=a_cycles * a_loads + w_cycles * w_loads + loads * overhead,
        epilogues=m * n_blocks * steps + epilogues * VECTOR_OVERHEAD,
        stores=max(ceil_div(m * shape.c_row_bytes, bus), m * n_blocks * shape.result_lines),
        instructions=instructions, bus_bytes=bus, first=first, first_loads=first_loads,
        first_products=first_products,
        tail=tiling.m * shape.out_parts * (steps + ceil_div(shape.block_bytes, bus))).cycles


def _product(shape: Shape, vectors: int, tiles: int) -> float:
    """Cycles of `vectors` times so many weight tiles of a column block: rows are shifted in meanwhile."""
    return tiles * max(vectors, shape.config.rows + shape.scale_blocks / shape.k_blocks)


def _parts(shape: Shape, tiling: Tiling) -> tuple[int, int, int]:
    """Tiles along M, N and K."""
    return ceil_div(shape.m, tiling.m), ceil_div(shape.n_blocks, tiling.n), ceil_div(shape.k_blocks, tiling.k)


def first_pieces(memory: "MemoryTime", tiling: Tiling) -> tuple[Span, ...]:
    """Pieces along K of the first tiles: few, and yet the array does not wait for one if it need not."""
    shape = memory.shape
    unit = shape.block_tiles * ceil_div(ceil_div(tiling.k, shape.block_tiles), _MOST_PIECES)
    load = memory.w_tile(tiling, unit) + (0 if tiling.a_whole else tiling.m * memory.a_row(unit, whole=False))
    return tuple(rising(tiling.k, unit, _first_columns(shape, tiling) * _product(shape, tiling.m, unit) / load))


def _first_columns(shape: Shape, tiling: Tiling) -> int:
    """Column blocks that are computed piece after piece; a tile that is alone computes the others after them."""
    m_parts, n_parts, _ = _parts(shape, tiling)
    return tiling.n if m_parts * n_parts > 1 else falling(tiling.n, shape.out_parts)[0][1]


def _first_tile(memory: "MemoryTime", tiling: Tiling) -> tuple[float, float, float]:
    """Cycles of the first tile's loads, of its products, and until both have ended."""
    shape, columns = memory.shape, _first_columns(memory.shape, tiling)
    loaded = computed = products = 0.0
    for start, size in tiling.pieces:
        if not tiling.a_whole:
            loaded += tiling.m * memory.a_row(size, whole=False)
        elif not start:
            loaded += tiling.m * memory.a_row(tiling.k, whole=tiling.k == shape.k_blocks)
        loaded += memory.w_tile(tiling, size)
        piece = columns * _product(shape, tiling.m, size)
        products += piece
        computed = max(computed, loaded) + piece
    return loaded, products, computed


class MemoryTime:
    """Cycles that a GEMM's reads take on the bus, if a read's first data come after `memory_latency` cycles."""

    def __init__(self, shape: Shape, memory_latency: int):
        self.shape = shape
        self.latency, self.burst = memory_latency, burst_latency(memory_latency)

    def a_cycles(self, tile: int, k_parts: int) -> float:
        """All of A once, in tiles of `tile` row blocks, and its scales."""
        shape = self.shape
        scales = shape.scale_blocks * ceil_div(shape.m, self.shape.config.line_bytes)
        return shape.m * k_parts * self.a_row(tile, whole=k_parts == 1) + scales

    def a_row(self, blocks: int, whole: bool) -> float:
        """A vector's part of `blocks` row blocks."""
        stride = self.shape.a_row_bytes
        size = min(stride, blocks * self.shape.config.rows // self.shape.a_per_byte)
        return max(blocks, self._row(size, stride, whole))

    def b_cycles(self, tile: int, n_parts: int) -> float:
        """All of B once, in tiles of `tile` column blocks, and its scales."""
        shape, stride = self.shape, self.shape.b_row_bytes
        size = min(stride, tile * self.shape.config.columns // shape.b_per_byte)
        row = max(n_parts * self._row(size, stride, n_parts == 1), shape.n_blocks)
        return shape.b_rows * row + shape.scale_blocks * shape.n_blocks

    def w_tile(self, tiling: Tiling, blocks: int) -> float:
        """`blocks` row blocks of a tile of B."""
        n_parts = ceil_div(self.shape.n_blocks, tiling.n)
        return self.b_cycles(tiling.n, n_parts) / n_parts * blocks / self.shape.k_blocks

    def _row(self, size: int, stride: int, contiguous: bool) -> float:
        """A row of `size` bytes; rows that are not whole aligned beats touch one more.

        A row is a burst at least, and of bursts only `reads_in_flight` are under way at once.
        """
        bus = self.shape.config.bus_bytes
        if contiguous:
            return size / bus
        beats = ceil_div(size, bus) + bool(size % bus or stride % bus)
        return max(2, beats, (self.burst + beats) / self.shape.config.reads_in_flight)
