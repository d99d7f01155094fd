"""Matrices and tables in memory, as programs stream them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...compiler.program.memory_map import Region, ceil_div
from .emitter import Indexed
from .numbers import Numbers, padded

__all__ = ["Chunk", "Matrix", "PackedMatrix", "Table", "matrix_bytes"]


@dataclass(frozen=True)
class Matrix:
    """A matrix [K, N] that activations [M, K] are multiplied by.

    Attributes
    ----------
    codes : uint8 [N, K], an element each
    scales : uint8 E8M0 [N, ceil(K / block)]
    """
    codes: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """Blocks of columns, and a part of K, that are loaded at once: `address` in memory."""
    address: int
    block: int
    blocks: int
    k: int
    k_size: int


def matrix_bytes(numbers: Numbers, k: int, n: int) -> int:
    """Memory of a packed matrix, K and N padded."""
    k, n = padded(k), padded(n)
    return n * (k // numbers.weights.per_byte + numbers.blocks(k))


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix as it is streamed: for each chunk the lines of codes, then those of scales.

    Parameters
    ----------
    k, n : its size, padded
    numbers : Numbers
    columns : elements of a line
    chunk_lines : lines that a chunk may have
    region : where it is
    """
    k: int
    n: int
    numbers: Numbers
    columns: int
    chunk_lines: int
    region: Region

    @property
    def code_bytes(self) -> int:
        """Bytes of a line of codes."""
        return self.columns // self.numbers.weights.per_byte

    def lines(self, k: int) -> int:
        """Lines of a block of columns and `k` of its rows."""
        return k + self.numbers.blocks(k)

    @property
    def k_parts(self) -> list[tuple[int, int]]:
        """First row and size of parts of K, as even as whole scale blocks allow."""
        block = self.numbers.block
        units, most = self.numbers.blocks(self.k), self.chunk_lines // (block + 1)
        count = ceil_div(units, most)
        edges = [min(self.k, units * i // count * block) for i in range(count + 1)]
        return [(start, end - start) for start, end in pairwise(edges)]

    def chunks(self) -> list[Chunk]:
        """All of them, block by block, the parts of K of each in order."""
        blocks, at_once = self.n // self.columns, max(1, self.chunk_lines // self.lines(self.k))
        chunks, address = [], self.region.base
        for block in range(0, blocks, at_once):
            count = min(at_once, blocks - block)
            for start, size in self.k_parts:
                chunks.append(Chunk(address, block, count, start, size))
                address += count * sum(lines * size for lines, size in self.runs(size))
        return chunks

    def runs(self, k: int) -> list[tuple[int, int]]:
        """How many lines, of how many bytes each, one block of columns has: those of codes, those of scales."""
        return [(k, self.code_bytes), (self.numbers.blocks(k), self.columns)]

    def image(self, matrix: Matrix, order: np.ndarray | None = None) -> np.ndarray:
        """The bytes of `matrix`, its blocks of columns in `order`."""
        codes, scales = (array.reshape(self.n // self.columns, self.columns, -1).transpose(0, 2, 1)
                         for array in (matrix.codes.view(np.uint8), matrix.scales))
        if order is not None:
            codes, scales = codes[order], scales[order]
        if self.numbers.weights.per_byte == 2:
            codes = codes[..., ::2] & 15 | codes[..., 1::2] << 4
        block, parts = self.numbers.block, []
        for chunk in self.chunks():
            some = slice(chunk.block, chunk.block + chunk.blocks)
            end = chunk.k + chunk.k_size
            parts += [codes[some, chunk.k:end], scales[some, chunk.k // block:ceil_div(end, block)]]
        return np.concatenate([part.reshape(-1) for part in parts])


@dataclass(frozen=True)
class Table:
    """Rows of FP32 in memory."""
    region: Region
    row_bytes: int

    def address(self, row: int) -> int:
        return self.region.base + row * self.row_bytes

    def indexed(self, word: int) -> Indexed:
        """The row that an index says."""
        return Indexed(self.region.base, self.row_bytes, word, self.region.size // self.row_bytes)
