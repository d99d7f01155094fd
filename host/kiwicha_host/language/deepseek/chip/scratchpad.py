"""Where the rows of a step of a DeepSeek decoder are in the scratchpad."""

from kiwicha import ChipConfig
from kiwicha.timing import word_lines

from ...decoder.heads import check_accumulators
from ...decoder.layers import Shared
from ...decoder.lines import Lines, chunk_lines
from ...decoder.numbers import E4M3, padded
from ...decoder.step import Step
from .shape import DeepSeekShape

__all__ = ["Scratchpad", "ring_chunk"]


def ring_chunk(config: ChipConfig, shape: DeepSeekShape) -> int:
    """Lines that are loaded at once: at least one scale block of everything, factors of a norm, a gate's row."""
    factors = max(shape.width, shape.q_rank, shape.model.kv_rank) // config.columns * word_lines(config)
    return chunk_lines(config, max(E4M3.block + 1, shape.heads.least_chunk, factors))


class Scratchpad:
    """Lines for a step, but for those of attention and of the choice of experts. Words lie row by row, block of
    columns by block.

    Raises
    ------
    CompileError
        The chip's accumulators are too few.
    """

    def __init__(self, lines: Lines, shape: DeepSeekShape, step: Step, relay: int):
        check_accumulators(lines.config, step, shape.heads, E4M3, lines.config.accumulator_lines)
        rows, words, model = step.rows, lines.words, shape.model
        self.one, self.trash = (lines.take(words) for _ in range(2))
        #: Epsilon times the elements of a row, of a latent query, of what is kept.
        self.epsilons = [lines.take(words) for _ in range(3)]
        self.unit_scale = lines.take(1)
        self.x, self.y, self.out = (lines.rows(rows, shape.width) for _ in range(3))
        self.normed = lines.codes(rows, shape.width, E4M3)
        self.attended = lines.codes(rows, shape.values, E4M3)
        widest = max(shape.width, model.heads * max(shape.key, model.kv_rank))
        self.work_lines = max(rows * widest // lines.columns * words, lines.table)
        self.work = lines.take(self.work_lines)
        self.shared = Shared(one=self.one, results=lines.take(2 * rows * words), work=self.work,
                             chunk=ring_chunk(lines.config, shape), relay=relay)
        self.ffn = max(padded(model.ffn) if model.dense_layers else 0,
                       padded(model.shared_ffn) if model.dense_layers < model.layers else 0)
        self.gated = lines.codes(rows, self.ffn, E4M3)
