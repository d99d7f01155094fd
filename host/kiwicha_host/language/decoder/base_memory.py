"""What every decoder has in memory: matrices, tables of positions and scales, and logits."""

from typing import Any

import numpy as np

from kiwicha import ChipConfig

from ...compiler.program.memory_map import MemoryMap, Region
from .numbers import PADDING, Numbers
from .packed import Matrix, PackedMatrix, Table, matrix_bytes
from .positions import PositionTables

__all__ = ["BaseMemory"]


class BaseMemory:
    """A memory map that grows, and the image of its constant part.

    Parameters
    ----------
    context, sequences : positions of each of so many sequences
    chunk_lines : scratchpad lines that are loaded at once, at most

    Attributes
    ----------
    constant : so many bytes no program writes
    positions : PositionTables
    scale_table : FP32 of each E8M0 code
    constants, indices, embedding : FP32 numbers that programs need, a step's indices, and a row of each token;
        a decoder's memory says where
    logits, tokens : Table
        Of each run of a step: logits of its last token, and the number of the largest, if the chip finds it.
    """

    def __init__(self, config: ChipConfig, context: int, sequences: int, chunk_lines: int):
        self.context, self.sequences = context, sequences
        self._map = MemoryMap()
        self._columns, self._chunk_lines = config.columns, chunk_lines
        self.constant = 0
        self.constants: Region
        self.indices: Region
        self.embedding: Table

    def region(self, size: int) -> Region:
        """More memory."""
        return self._map.region(size)

    @property
    def bytes(self) -> int:
        return self._map.size

    def matrix(self, k: int, n: int, numbers: Numbers) -> PackedMatrix:
        """Room for a matrix of padded sizes."""
        return PackedMatrix(k, n, numbers, self._columns, self._chunk_lines,
                            self.region(matrix_bytes(numbers, k, n)))

    def table(self, rows: int, width: int) -> Table:
        return Table(self.region(4 * rows * width), 4 * width)

    def tables(self, half: int) -> None:
        """Room for the tables; `half` is half a head, padded."""
        zeros = self.context + PADDING
        cosines, sines, less_sines = (self.table(self.context, half) for _ in range(3))
        self.positions = PositionTables(cosines, sines, less_sines, self.table(1, 2 * zeros), zeros)
        self.scale_table = self.region(1024)

    def end_constants(self, vocabulary: int) -> None:
        """Room for the first column of each block of columns of the logits."""
        self.firsts = self.table(vocabulary // self._columns, 1)

    def end_room(self, vocabulary: int) -> None:
        """Room for logits, for the largest ones of groups of columns and their places, and for tokens."""
        self.logits = self.table(self.sequences, vocabulary)
        self.largest, self.places = (self.table(self.sequences, vocabulary // self._columns) for _ in range(2))
        self.tokens = self.table(self.sequences, 1)

    def image(self) -> np.ndarray:
        """Zeros, as many bytes as are constant."""
        return np.zeros(self.constant, np.uint8)

    @staticmethod
    def put(image: np.ndarray, region: Region, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        image[region.base:region.base + len(data)] = data

    def put_matrix(self, image: np.ndarray, packed: PackedMatrix, matrix: Matrix, pairs: bool = False) -> None:
        """With `pairs`, blocks of columns of the first half and of the second come in turn."""
        blocks = packed.n // self._columns
        order = np.arange(blocks).reshape(2, -1).T.reshape(-1) if pairs else None
        self.put(image, packed.region, packed.image(matrix, order))

    def put_rows(self, image: np.ndarray, table: Table, rows: Any) -> None:
        """Rows of FP32, filled up with zeros."""
        rows = np.atleast_2d(rows)
        filled = np.zeros((len(rows), table.row_bytes // 4), np.float32)
        filled[:, :rows.shape[1]] = rows
        self.put(image, table.region, filled)

    def put_tables(self, image: np.ndarray, frequencies: np.ndarray) -> None:
        """All but weights; `frequencies` : radians from one position to the next, of each pair that RoPE turns."""
        tables = self.positions
        angles = np.arange(self.context)[:, None] * frequencies
        for table, values in ((tables.cosines, np.cos(angles)), (tables.sines, np.sin(angles)),
                              (tables.less_sines, -np.sin(angles))):
            self.put_rows(image, table, values)
        blocks = self.firsts.region.size // 4
        self.put(image, self.firsts.region, np.arange(blocks, dtype=np.uint32) * self._columns)
        mask = np.zeros(2 * tables.mask_zero, np.float32)
        mask[tables.mask_zero:] = -np.inf
        self.put(image, tables.mask.region, mask)
        # E8M0; zero for 0, which is the scale of a value that is not there yet, and of one that is zero.
        scales = np.ldexp(1., np.arange(256) - 127)
        scales[0], scales[255] = 0, np.nan
        self.put(image, self.scale_table, scales.astype(np.float32))
