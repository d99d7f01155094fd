"""What a GEMM's operands look like to one chip."""

from dataclasses import dataclass

from kiwicha import ChipConfig

from ...program.memory_map import ceil_div

__all__ = ["Shape"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A GEMM on a chip: its sizes, in elements and in what the chip counts.

    Parameters
    ----------
    config : ChipConfig
    m, n, k : int
    a_per_byte, b_per_byte : int
        Elements in a byte of A and of B.
    block : int
        Elements along K that share a scale, a multiple of the array's rows; 0 without scales.
    element_bits : int
        Of a result.
    out_block : int
        Results of a row that share a dynamic scale, a multiple of the array's columns; 0 without such scales.
    """

    config: ChipConfig
    m: int
    n: int
    k: int
    a_per_byte: int = 1
    b_per_byte: int = 1
    block: int = 0
    element_bits: int = 32
    out_block: int = 0

    @property
    def n_blocks(self) -> int:
        """Column blocks: as many columns as the array has."""
        return ceil_div(self.n, self.config.columns)

    @property
    def k_blocks(self) -> int:
        """Row blocks: as many rows as the array has."""
        return ceil_div(self.k, self.config.rows)

    @property
    def block_tiles(self) -> int:
        """Row blocks that share a scale; those along K are cut only between such groups."""
        return self.block // self.config.rows if self.block else 1

    @property
    def scale_blocks(self) -> int:
        """Blocks along K that have a scale; 0 without scales."""
        return self.scales_of(self.k_blocks)

    def scales_of(self, k_blocks: int) -> int:
        """Scales along K of so many row blocks."""
        return ceil_div(k_blocks, self.block_tiles) if self.block else 0

    @property
    def a_row_bytes(self) -> int:
        """Bytes of a row of A in memory."""
        return ceil_div(self.k, self.a_per_byte)

    @property
    def b_row_bytes(self) -> int:
        return ceil_div(self.n, self.b_per_byte)

    @property
    def b_rows(self) -> int:
        """Rows of B in memory. With scales up to whole row blocks, for what is not loaded could be NaN."""
        return self.k_blocks * self.config.rows if self.block else self.k

    @property
    def c_row_bytes(self) -> int:
        return ceil_div(self.n * self.element_bits, 8)

    @property
    def block_bytes(self) -> int:
        """Bytes of a row of a column block's results."""
        return self.config.columns * self.element_bits // 8

    @property
    def result_lines(self) -> int:
        """Scratchpad lines of them."""
        return ceil_div(self.block_bytes, self.config.line_bytes)

    @property
    def out_parts(self) -> int:
        """Column blocks that share a dynamic scale; those along N are cut only between such groups."""
        return self.out_block // self.config.columns if self.out_block else 1

    @property
    def out_blocks(self) -> int:
        """Dynamic scales of a row."""
        return ceil_div(self.n_blocks, self.out_parts) if self.out_block else 0

    def out_lines(self, m: int, n: int) -> int:
        """Scratchpad lines of the results of `m` vectors and `n` column blocks, and of their scales."""
        scales = ceil_div(n, self.out_parts) * ceil_div(m, self.config.line_bytes) if self.out_block else 0
        return m * n * self.result_lines + scales

    # Scratchpad lines of a tile of `m` vectors, `n` column blocks and `k` row blocks.

    def a_lines(self, m: int, k: int) -> int:
        return m * k

    def a_scale_lines(self, m: int, k: int) -> int:
        """Per block along K, a byte for each vector."""
        return self.scales_of(k) * ceil_div(m, self.config.line_bytes)

    def w_lines(self, n: int, k: int) -> int:
        """The tiles, and behind them their scales: per column block and block along K a line."""
        return n * (k * self.config.rows + self.scales_of(k))
