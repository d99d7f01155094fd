"""What a DeepSeek decoder has in memory: packed weights, tables, the cache, and what choosing experts needs."""

from dataclasses import dataclass

import numpy as np

from kiwicha import ChipConfig

from ...decoder.base_memory import BaseMemory
from ...decoder.heads import Kept
from ...decoder.numbers import E4M3, E4M3_E2M1, PADDING, padded
from ...decoder.packed import Matrix, PackedMatrix, Table
from ...decoder.step import Step
from ..model import Attention, DeepSeekModel, FeedForward, Mixture
from .shape import DeepSeekShape
from .weights import attention_matrices, gated_matrices, matrix

__all__ = ["AttentionMemory", "ChoiceMemory", "DeepSeekMemory", "Gated", "LayerMemory", "MixtureMemory"]


@dataclass(frozen=True)
class AttentionMemory:
    """Matrices of :func:`.weights.attention_matrices`, and factors of the norms of the latent vectors."""
    latents: PackedMatrix
    queries: PackedMatrix
    keys: list[PackedMatrix]
    values: list[PackedMatrix]
    output: PackedMatrix
    q_norm: Table
    kv_norm: Table


@dataclass(frozen=True)
class Gated:
    """A gated network: gate and up, whose blocks of columns come in turn, and down. Of several, the first."""
    up: PackedMatrix
    down: PackedMatrix


@dataclass(frozen=True)
class MixtureMemory:
    """gate : a row for each expert; bias : for each group; experts : the first, and bytes from one to the next."""
    gate: Table
    bias: Table
    shared: Gated
    experts: Gated
    expert_bytes: int


@dataclass(frozen=True)
class LayerMemory:
    attn_norm: Table
    attention: AttentionMemory
    ffn_norm: Table
    ffn: Gated | MixtureMemory


@dataclass(frozen=True)
class ChoiceMemory:
    """What is moved through memory to choose experts, FP32 for each row: [experts] or [groups]."""
    scores: Table
    biased: Table
    groups: Table
    left: Table


class DeepSeekMemory(BaseMemory):
    """The memory image of a model, up to `context` positions of `sequences` sequences, `rows` at once."""

    def __init__(self, config: ChipConfig, shape: DeepSeekShape, context: int, sequences: int, rows: int,
                 chunk_lines: int):
        super().__init__(config, context, sequences, chunk_lines)
        self.shape, model = shape, shape.model
        self.layers = [self._layer(number < model.dense_layers) for number in range(model.layers)]
        self.head = self.matrix(shape.width, shape.vocabulary, E4M3)
        self.norm, self.embedding = self.table(1, shape.width), self.table(model.vocabulary, shape.width)
        self.tables(shape.half)
        self.lowest = self.table(1, model.experts)
        #: 1, and epsilon times the elements of each kind of norm.
        self.constants = self.region(16)
        self.end_constants(shape.vocabulary)
        self.constant = self.region(0).base
        self.indices = self.region(4 * 3 * max(rows, sequences))
        self._caches = [[self.region(self._cache_bytes).base for _ in range(sequences)] for _ in self.layers]
        self.choice = ChoiceMemory(*(self.table(rows, size) for size in (model.experts, model.experts,
                                                                         model.groups, model.experts)))
        self.end_room(shape.vocabulary)

    # Room.

    def _layer(self, dense: bool) -> LayerMemory:
        shape, model = self.shape, self.shape.model
        return LayerMemory(self.table(1, shape.width), self._attention(), self.table(1, shape.width),
                           self._gated(model.ffn) if dense else self._mixture())

    def _attention(self) -> AttentionMemory:
        shape, model = self.shape, self.shape.model
        return AttentionMemory(
            self.matrix(shape.width, shape.latents, E4M3),
            self.matrix(shape.q_rank, model.heads * shape.query, E4M3),
            [self.matrix(model.nope_size, model.kv_rank, E4M3) for _ in range(model.heads)],
            [self.matrix(model.kv_rank, model.value_size, E4M3) for _ in range(model.heads)],
            self.matrix(shape.values, shape.width, E4M3),
            self.table(1, shape.q_rank), self.table(1, model.kv_rank))

    def _gated(self, ffn: int) -> Gated:
        return Gated(self.matrix(self.shape.width, 2 * padded(ffn), E4M3),
                     self.matrix(padded(ffn), self.shape.width, E4M3))

    def _mixture(self) -> MixtureMemory:
        shape, model = self.shape, self.shape.model
        ffn = padded(model.expert_ffn)
        gate, bias = self.table(model.experts, shape.width), self.table(model.groups, shape.group_size)
        shared = self._gated(model.shared_ffn)
        experts = [Gated(self.matrix(shape.width, 2 * ffn, E4M3_E2M1), self.matrix(ffn, shape.width, E4M3_E2M1))
                   for _ in range(model.experts)]
        bases = [each.up.region.base for each in experts]
        return MixtureMemory(gate, bias, shared, experts[0], bases[1] - bases[0])

    # The cache: keys [dimension, position] with scales [block, position]; what both are [position, dimension].

    @property
    def _pitch(self) -> int:
        return self.context + PADDING

    @property
    def _cache_bytes(self) -> int:
        key = self.shape.key
        return (key + E4M3.blocks(key)) * self._pitch + self.context * self.shape.model.kv_rank

    def kept(self, layer: int, sequence: int) -> Kept:
        base, pitch, key, rank = (self._caches[layer][sequence], self._pitch, self.shape.key,
                                  self.shape.model.kv_rank)
        scales = base + key * pitch
        return Kept(keys=base, key_scales=scales, pitch=pitch, values=scales + E4M3.blocks(key) * pitch,
                    value_pitch=rank, value_scales=[scales + block * pitch for block in range(rank // E4M3.block)],
                    name=("cache", base))

    # What is there.

    def compulsory_bytes(self, step: Step) -> int:
        """What any schedule would move, if rows chose different experts: weights, embeddings, cache and logits."""
        model, moved = self.shape.model, 0
        for layer in self.layers:
            moved += sum(matrix.region.size for matrix in _matrices(layer))
            if isinstance(layer.ffn, MixtureMemory):
                moved += layer.ffn.gate.region.size + min(
                    step.rows * model.chosen, model.experts) * layer.ffn.expert_bytes
        seen = sum(run.position + step.length for run in step.runs)
        kept = model.kv_rank + model.rope_size + E4M3.blocks(model.kv_rank + model.rope_size)
        head = self.head.region.size + len(step.runs) * self.logits.row_bytes if step.logits else 0
        return moved + step.rows * self.embedding.row_bytes + model.layers * seen * kept + head

    def image_of(self, model: DeepSeekModel) -> np.ndarray:
        """The constant part."""
        image, config = self.image(), model.config
        for packed, layer in zip(self.layers, model.layers, strict=True):
            self.put_rows(image, packed.attn_norm, layer.attn_norm)
            self.put_rows(image, packed.ffn_norm, layer.ffn_norm)
            self._put_attention(image, packed.attention, layer.attention)
            if isinstance(packed.ffn, MixtureMemory) and isinstance(layer.ffn, Mixture):
                self._put_mixture(image, packed.ffn, layer.ffn)
            elif isinstance(packed.ffn, Gated) and isinstance(layer.ffn, FeedForward):
                self._put_gated(image, packed.ffn, layer.ffn)
        self.put_matrix(image, self.head, matrix(model.tensors["head"]))
        self.put_rows(image, self.norm, model.tensors["norm"])
        self.put_rows(image, self.embedding, model.tensors["embed"])
        self.put_tables(image, config.rope_frequencies)
        self.put_rows(image, self.lowest, np.full(config.experts, -np.inf))
        sizes = np.array([config.width, config.q_rank, config.kv_rank])
        self.put(image, self.constants, np.array([1, *(config.norm_epsilon * sizes)], np.float32))
        return image

    def _put_attention(self, image: np.ndarray, packed: AttentionMemory, w: Attention) -> None:
        latents, queries, keys, values, output = attention_matrices(self.shape.model, w)
        pairs: list[tuple[PackedMatrix, Matrix]] = [
            (packed.latents, latents), (packed.queries, queries), (packed.output, output),
            *zip(packed.keys, keys, strict=True), *zip(packed.values, values, strict=True)]
        for place, each in pairs:
            self.put_matrix(image, place, each)
        self.put_rows(image, packed.q_norm, w.q_norm)
        self.put_rows(image, packed.kv_norm, w.kv_norm)

    def _put_mixture(self, image: np.ndarray, packed: MixtureMemory, w: Mixture) -> None:
        self.put_rows(image, packed.gate, w.gate)
        self.put_rows(image, packed.bias, w.bias.reshape(self.shape.model.groups, -1))
        self._put_gated(image, packed.shared, w.shared)
        for number in range(self.shape.model.experts):
            self._put_gated(image, packed.experts, w.experts[number], number * packed.expert_bytes)

    def _put_gated(self, image: np.ndarray, packed: Gated, w: FeedForward, offset: int = 0) -> None:
        up, down = gated_matrices(w)
        for place, each, pairs in ((packed.up, up, True), (packed.down, down, False)):
            # The image from there on, where another one's place is as the first one's.
            self.put_matrix(image[offset:], place, each, pairs)


def _matrices(layer: LayerMemory) -> list[PackedMatrix]:
    """All that every token is multiplied by."""
    a = layer.attention
    gated = layer.ffn.shared if isinstance(layer.ffn, MixtureMemory) else layer.ffn
    return [a.latents, a.queries, *a.keys, *a.values, a.output, gated.up, gated.down]
