"""What a decoder has in memory: packed weights, tables, and the cache of keys and values."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kiwicha import ChipConfig

from ...compiler.program.memory_map import MemoryMap, Region
from ..model import LlamaModel
from .emitter import Indexed
from .shape import BLOCK, DecoderShape
from .step import Step
from .weights import Matrix, head_matrix, layer_matrices

__all__ = ["Cache", "Chunk", "DecoderMemory", "PackedMatrix", "Table"]


@dataclass(frozen=True)
class Chunk:
    """Blocks of columns, and a part of K, that are loaded at once: `address` and `bytes` in memory."""
    address: int
    bytes: int
    block: int
    blocks: int
    k: int
    k_size: int


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix as it is streamed: for each block of columns and part of K, the lines of codes, then of scales.

    Parameters
    ----------
    k, n : its size
    columns : elements of a line
    chunk_lines : lines that a chunk may have
    region : where it is
    """
    k: int
    n: int
    columns: int
    chunk_lines: int
    region: Region

    @property
    def k_parts(self) -> list[tuple[int, int]]:
        """Parts of K, as even as whole scale blocks allow."""
        units, most = self.k // BLOCK, self.chunk_lines // (BLOCK + 1)
        count = -(-units // most)
        edges = [units * i // count * BLOCK for i in range(count + 1)]
        return [(start, end - start) for start, end in pairwise(edges)]

    def chunks(self) -> list[Chunk]:
        """All of them, block by block, the parts of K of each in order."""
        parts, blocks = self.k_parts, self.n // self.columns
        lines = self.k // BLOCK * (BLOCK + 1)
        at_once = max(1, self.chunk_lines // lines)
        chunks, address = [], self.region.base
        for block in range(0, blocks, at_once):
            count = min(at_once, blocks - block)
            for start, size in parts:
                length = count * size // BLOCK * (BLOCK + 1) * self.columns
                chunks.append(Chunk(address, length, block, count, start, size))
                address += length
        return chunks

    def image(self, matrix: Matrix, order: np.ndarray | None = None) -> np.ndarray:
        """The bytes of `matrix`, its blocks of columns in `order`."""
        codes, scales = (array.reshape(self.n // self.columns, self.columns, -1).transpose(0, 2, 1)
                         for array in (matrix.codes.view(np.uint8), matrix.scales))
        if order is not None:
            codes, scales = codes[order], scales[order]
        parts = [np.concatenate([codes[:, start:start + size], scales[:, start // BLOCK:(start + size) // BLOCK]],
                                axis=1) for start, size in self.k_parts]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1).reshape(-1)


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


class Cache:
    """Keys and values of one layer and sequence.

    Keys lie [kv head, dimension, position] with their scales [kv head, block of dimensions, position]; values
    [position, kv head, dimension] with one scale for each [kv head, position].
    """

    def __init__(self, shape: DecoderShape, context: int, base: int):
        self.context, heads = context, shape.model.kv_heads
        self._k = base
        self._k_scale = self._k + heads * shape.head * context
        self._v = self._k_scale + heads * shape.head // BLOCK * context
        self._v_scale = self._v + context * shape.v
        self.end = self._v_scale + heads * context
        self._shape = shape

    def k(self, head: int, position: int = 0) -> int:
        """Address of a head's first dimension at a position; the next is `context` bytes further on."""
        return self._k + head * self._shape.head * self.context + position

    def k_scale(self, head: int, position: int = 0) -> int:
        return self._k_scale + head * self._shape.head // BLOCK * self.context + position

    def v(self, position: int, head: int = 0) -> int:
        return self._v + position * self._shape.v + head * self._shape.value_head

    def v_scale(self, head: int) -> int:
        return self._v_scale + head * self.context

    def at(self, address: int, word: int, offset: int = 0, stride: int = 1) -> Indexed:
        """`address`, `offset` positions of `stride` bytes after the one that an index says."""
        return Indexed(address + offset * stride, stride, word, self.context - offset)


class DecoderMemory:
    """The memory image of a model for a chip, up to `context` positions of `sequences` sequences.

    Attributes
    ----------
    layers : list of four PackedMatrix each
    head : PackedMatrix
    norms, embedding, cosines, sines, less_sines, mask : Table
        `norms` are the factors of both norms of each layer, then of the last. `mask` is one row of 0 and then
        -infinity, `mask_zero` of each.
    """

    def __init__(self, config: ChipConfig, shape: DecoderShape, context: int, sequences: int, rows: int,
                 chunk_lines: int):
        self.shape, self.context, self.sequences = shape, context, sequences
        self._map = memory = MemoryMap()
        self._columns, self._chunk_lines = config.columns, chunk_lines
        sizes = [(shape.width, shape.q + shape.k + shape.v), (shape.model.heads * shape.value_head, shape.width),
                 (shape.width, 2 * shape.ffn), (shape.ffn, shape.width)]
        self.layers = [[self._matrix(k, n) for k, n in sizes] for _ in range(shape.model.layers)]
        self.head = self._matrix(shape.width, shape.vocabulary)
        self.norms = self._table(2 * shape.model.layers + 1, shape.width)
        self.embedding = self._table(shape.model.vocabulary, shape.width)
        self.cosines, self.sines, self.less_sines = (self._table(context, shape.half_head) for _ in range(3))
        self.mask_zero = context + BLOCK
        self.mask = self._table(1, 2 * self.mask_zero)
        self.scale_table = memory.region(1024)
        self.constants = memory.region(8)
        #: So many bytes no program writes.
        self.constant = memory.region(0).base
        self.indices = memory.region(4 * 3 * max(rows, sequences))
        each = Cache(shape, context, 0).end
        self.caches = [[Cache(shape, context, memory.region(each).base) for _ in range(sequences)]
                       for _ in range(shape.model.layers)]
        self.logits = Table(memory.region(4 * sequences * shape.vocabulary), 4 * shape.vocabulary)

    def region(self, size: int) -> Region:
        """More memory."""
        return self._map.region(size)

    @property
    def bytes(self) -> int:
        return self._map.size

    def compulsory_bytes(self, step: Step) -> int:
        """What any schedule would move: weights, embeddings, and keys and values once, as stored, and logits."""
        shape, layers = self.shape, self.shape.model.layers
        position = shape.k + shape.k // BLOCK + shape.v + shape.model.kv_heads
        seen = sum(run.position + step.length for run in step.runs)
        weights = self.head.region.size + sum(matrix.region.size for layer in self.layers for matrix in layer)
        return (weights + step.rows * self.embedding.row_bytes + layers * seen * position
                + len(step.runs) * self.logits.row_bytes)

    def _matrix(self, k: int, n: int) -> PackedMatrix:
        return PackedMatrix(k, n, self._columns, self._chunk_lines, self._map.region(n * (k + k // BLOCK)))

    def _table(self, rows: int, width: int) -> Table:
        return Table(self._map.region(4 * rows * width), 4 * width)

    def image(self, model: LlamaModel) -> np.ndarray:
        """The constant part, and zeros up to where it ends."""
        shape, image = self.shape, np.zeros(self.constant, np.uint8)

        def put(region: Region, values: np.ndarray) -> None:
            data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            image[region.base:region.base + len(data)] = data

        norms = np.zeros((2 * shape.model.layers + 1, shape.width), np.float32)
        norms[-1, :shape.model.width] = model.out_norm
        pairs = np.arange(2 * shape.ffn // self._columns).reshape(2, -1).T.reshape(-1)
        for index, (packed, layer) in enumerate(zip(self.layers, model.layers, strict=True)):
            norms[2 * index:2 * index + 2, :shape.model.width] = layer.attn_norm, layer.ffn_norm
            for number, matrix in enumerate(layer_matrices(shape, layer)):
                put(packed[number].region, packed[number].image(matrix, pairs if number == 2 else None))
        put(self.norms.region, norms)
        put(self.head.region, self.head.image(head_matrix(shape, model)))
        embedding = np.zeros((shape.model.vocabulary, shape.width), np.float32)
        embedding[:, :shape.model.width] = model.embedding
        put(self.embedding.region, embedding)
        angles = np.arange(self.context)[:, None] * shape.model.rope_frequencies
        for table, values in ((self.cosines, np.cos(angles)), (self.sines, np.sin(angles)),
                              (self.less_sines, -np.sin(angles))):
            padded = np.zeros((self.context, shape.half_head), np.float32)
            padded[:, :values.shape[1]] = values
            put(table.region, padded)
        mask = np.zeros(2 * self.mask_zero, np.float32)
        mask[self.mask_zero:] = -np.inf
        put(self.mask.region, mask)
        # E8M0; zero for 0, which is the scale of a value that is not there yet, and of one that is zero.
        scales = np.ldexp(1., np.arange(256) - 127)
        scales[0], scales[255] = 0, np.nan
        put(self.scale_table, scales.astype(np.float32))
        put(self.constants, np.array([1, shape.model.norm_epsilon * shape.model.width], np.float32))
        return image
