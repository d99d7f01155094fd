"""What a Llama decoder has in memory: packed weights, tables, and the cache of keys and values."""

import numpy as np

from kiwicha import ChipConfig

from ..model import LlamaModel
from ..rotation import rotated
from .base_memory import BaseMemory
from .heads import Kept
from .numbers import PADDING
from .shape import KEPT, DecoderShape
from .step import Step
from .weights import head_matrix, layer_matrices

__all__ = ["Cache", "DecoderMemory"]


class Cache:
    """Keys and values of one layer and sequence.

    Keys lie [kv head, dimension, position] with their scales [kv head, block of dimensions, position]; values
    [position, kv head, dimension] with one scale for each [kv head, position].
    """

    def __init__(self, shape: DecoderShape, context: int, base: int):
        heads = shape.model.kv_heads
        self._shape, self._pitch = shape, context + PADDING
        self._k = base
        self._k_scale = self._k + shape.k * self._pitch
        self._v = self._k_scale + KEPT.blocks(shape.k) * self._pitch
        self._v_scale = self._v + context * shape.v
        self.end = self._v_scale + heads * self._pitch

    def kept(self, head: int) -> Kept:
        """Those of a head."""
        shape, pitch = self._shape, self._pitch
        return Kept(keys=self._k + head * shape.head * pitch,
                    key_scales=self._k_scale + head * KEPT.blocks(shape.head) * pitch, pitch=pitch,
                    values=self._v + head * shape.value_head, value_pitch=shape.v,
                    value_scales=[self._v_scale + head * pitch], name=("cache", self._k))


class DecoderMemory(BaseMemory):
    """The memory image of a model for a chip, up to `context` positions of `sequences` sequences.

    Attributes
    ----------
    layers : list of five PackedMatrix each
    head : PackedMatrix
    embedding : Table
    """

    def __init__(self, config: ChipConfig, shape: DecoderShape, context: int, sequences: int, rows: int,
                 chunk_lines: int):
        super().__init__(config, context, sequences, chunk_lines)
        self.shape, numbers = shape, shape.numbers
        attended = shape.model.heads * shape.value_head
        sizes = [(shape.width, shape.q), (shape.width, shape.k + shape.v), (attended, shape.width),
                 (shape.width, 2 * shape.ffn), (shape.ffn, shape.width)]
        self.layers = [[self.matrix(k, n, numbers) for k, n in sizes] for _ in range(shape.model.layers)]
        self.head = self.matrix(shape.width, shape.vocabulary, numbers)
        self.embedding = self.table(shape.model.vocabulary, shape.width)
        self.tables(shape.half_head)
        self.constants = self.region(8)
        self.end_constants(shape.vocabulary)
        self.constant = self.region(0).base
        self.indices = self.region(4 * 3 * max(rows, sequences))
        each = Cache(shape, context, 0).end
        self.caches = [[Cache(shape, context, self.region(each).base) for _ in range(sequences)]
                       for _ in range(shape.model.layers)]
        self.end_room(shape.vocabulary)

    def compulsory_bytes(self, step: Step) -> int:
        """What any schedule would move: weights, embeddings, and keys and values once, as stored, and logits."""
        shape, layers = self.shape, self.shape.model.layers
        position = shape.k + KEPT.blocks(shape.k) + shape.v + shape.model.kv_heads
        seen = sum(run.position + step.length for run in step.runs)
        weights = sum(matrix.region.size for layer in self.layers for matrix in layer)
        head = self.head.region.size + len(step.runs) * self.logits.row_bytes if step.logits else 0
        return weights + step.rows * self.embedding.row_bytes + layers * seen * position + head

    def image_of(self, model: LlamaModel) -> np.ndarray:
        """The constant part, of the rotated model."""
        shape, image, model = self.shape, self.image(), rotated(model)
        for packed, layer in zip(self.layers, model.layers, strict=True):
            for number, matrix in enumerate(layer_matrices(shape, layer)):
                self.put_matrix(image, packed[number], matrix, pairs=number == 3)
        self.put_matrix(image, self.head, head_matrix(shape, model))
        self.put_rows(image, self.embedding, model.embedding)
        self.put_tables(image, shape.model.rope_frequencies)
        self.put(image, self.constants, np.array([1, shape.model.norm_epsilon * shape.model.width], np.float32))
        return image
