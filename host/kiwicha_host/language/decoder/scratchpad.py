"""Where the rows of a step of a Llama decoder are in the scratchpad."""

import dataclasses

from kiwicha import ChipConfig

from .attention import shared_heads
from .heads import check_accumulators
from .layers import Shared
from .lines import Lines, chunk_lines
from .shape import DecoderShape
from .step import Step

__all__ = ["Scratchpad", "ring_chunk"]


def ring_chunk(config: ChipConfig, shape: DecoderShape) -> int:
    """Lines that are loaded at once: at least one scale block of everything."""
    return chunk_lines(config, max(shape.numbers.block + 1, shared_heads(shape).least_chunk))


class Scratchpad:
    """Lines for a step, but for those of attention. Words lie row by row, block of columns by block.

    Raises
    ------
    CompileError
        The chip's accumulators are too few.
    """

    def __init__(self, lines: Lines, shape: DecoderShape, step: Step, relay: int, accumulators: int):
        check_accumulators(lines.config, step, shared_heads(shape), shape.numbers, accumulators)
        rows, words, numbers = step.rows, lines.words, shape.numbers
        attended = shape.model.heads * shape.value_head
        self.one, self.epsilon = (lines.take(words) for _ in range(2))
        self.unit_scale = lines.take(1)
        self.x = lines.rows(rows, shape.width)
        # What is multiplied by a matrix: normalized, and attended or gated.
        self.normed = lines.codes(rows, shape.width, numbers)
        both = lines.codes(rows, max(attended, shape.ffn), numbers)
        self.attended, self.gated = (dataclasses.replace(both, size=size) for size in (attended, shape.ffn))
        widest = max(shape.q + shape.k + shape.v, attended, shape.width)
        self.work_lines = max(rows * widest // lines.columns * words, lines.table)
        self.work = lines.take(self.work_lines)
        self.shared = Shared(one=self.one, results=lines.take(2 * rows * words), work=self.work,
                             chunk=ring_chunk(lines.config, shape), relay=relay)
