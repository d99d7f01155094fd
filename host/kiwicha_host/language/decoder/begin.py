"""The begin of a step: what every decoder brings to the scratchpad before its first layer."""

from collections.abc import Sequence

from .base_memory import BaseMemory
from .emitter import Emitter
from .layers import Layers
from .step import Indices, Step

__all__ = ["load_constants", "load_embeddings", "load_shared"]


def load_shared(emit: Emitter, memory: BaseMemory, work: int, trash: int, indices: int, index_bytes: int) -> None:
    """Table B, by way of the lines from `work` on, and the step's indices; nothing needs the line `trash`."""
    line_bytes = emit.config.line_bytes
    emit.load(memory.scale_table.base, memory.scale_table.size, work, segment=line_bytes)
    emit.load_table_b(work, trash)
    emit.load(memory.indices.base, index_bytes, indices, segment=line_bytes)


def load_constants(layers: Layers, memory: BaseMemory, words: Sequence[int], unit_scale: int) -> None:
    """The memory's constants, each the first word of a line; and a line of scales of 1."""
    for number, line in enumerate(words):
        layers.emit.load(memory.constants.base + 4 * number, 4, line, segment=4)
    layers.emit.fill(unit_scale, 1, 127)


def load_embeddings(layers: Layers, memory: BaseMemory, step: Step, x: int, row: int) -> None:
    """Each token's row, `row` lines apart."""
    indices = Indices(step, layers.columns)
    for number in range(step.rows):
        layers.emit.load(memory.embedding.indexed(indices.token(number)), memory.embedding.row_bytes,
                         x + number * row, segment=layers.segment)
