"""Where a step's values are in the scratchpad."""

from dataclasses import dataclass, field

from kiwicha import ChipConfig
from kiwicha.timing import word_lines

from ...compiler.errors import CompileError
from ...compiler.program.memory_map import ceil_div
from .emitter import GROUP
from .script import Ring
from .shape import BLOCK, DecoderShape
from .step import Indices, Step

__all__ = ["Scratchpad", "chunk_lines"]

#: The shares of the scratchpad that a chunk of the ring, and scores, may have.
_CHUNK_SHARE = 16
_SCORES_SHARE = 8
#: Rows whose products with sines and cosines are there at the same time.
_TURNED_ROWS = 4
#: The ring holds this many chunks, at least.
_CHUNKS = 2


def chunk_lines(config: ChipConfig, shape: DecoderShape) -> int:
    """The most lines that are loaded at once: a share of the scratchpad, but one scale block of everything."""
    least = max(BLOCK + 1, shape.head + shape.head // BLOCK, shape.value_head // config.columns * BLOCK)
    return ceil_div(max(least, config.scratchpad_lines // _CHUNK_SHARE), GROUP) * GROUP


@dataclass
class Scratchpad:
    """Lines for a step on a chip of `config`.

    Words of several rows lie row by row, block of columns by block.

    Raises
    ------
    CompileError
        The chip's scratchpad, or its accumulators, are too few.
    """
    config: ChipConfig
    shape: DecoderShape
    step: Step
    _next: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._check_accumulators()
        config, shape, rows = self.config, self.shape, self.step.rows
        columns, words = config.columns, word_lines(config)
        scale_lines = ceil_div(rows, config.line_bytes)
        self.indices = self._take(ceil_div(4 * Indices(self.step, columns).count, config.line_bytes))
        attended = shape.model.heads * shape.value_head
        self.one, self.epsilon, self.trash = (self._take(words) for _ in range(3))
        self.unit_scale = self._take(1)
        self.results = self._take(2 * rows * words)
        self.rope = self._take(3 * rows * shape.half_head // columns * words)
        self.mask_blocks = max(self.step.span(run) // columns - run.position // columns for run in self.step.runs)
        self.mask = self._take(rows * self.mask_blocks * words)
        self.norm = self._take(shape.width // columns * words)
        self.x = self._take(rows * shape.width // columns * words)
        # What is multiplied by a matrix: normalized, and attended or gated.
        sizes = (shape.width, max(attended, shape.ffn))
        self.codes = [self._take(rows * size // min(columns, config.rows)) for size in sizes]
        self.code_scales = [self._take(size // BLOCK * scale_lines) for size in sizes]
        self.qkv_row = (shape.q + shape.k + shape.v) // columns * words
        self.work_lines = rows * max(self.qkv_row, max(attended, shape.width) // columns * words)
        self.work = self._take(self.work_lines)
        self.turned_rows = min(rows, _TURNED_ROWS)
        self.turned = self._take(self.turned_rows * (shape.q + shape.k) // columns * words)
        self.q_codes = self._take(rows * shape.q // min(columns, config.rows))
        self.k_codes = self._take(rows * shape.k // columns)
        self.v_codes = self._take(rows * shape.v // columns)
        self.kv_scales = self._take((shape.k // BLOCK + shape.model.kv_heads) * scale_lines)
        self.bytes = [self._take(shape.k) for _ in range(2)]
        self._attention(words)
        self.ring = self._ring()

    def _check_accumulators(self) -> None:
        """One half must hold what leaves it together: a gate's scale block and its partner's, a head's sums."""
        there, parts = self.config.accumulator_lines, BLOCK // self.config.columns
        needed = 2 * max(2 * parts * self.step.rows, self._head_accumulators)
        if needed > there:
            raise CompileError(f"a step of {self.step.rows} tokens needs {needed} accumulator lines; "
                               f"configuration {self.config.name!r} has {there}: choose one with more")

    @property
    def _head_accumulators(self) -> int:
        """Lines of a token's weighted sums of values, for the heads that share these."""
        return self.shape.group * self.shape.value_head // self.config.columns

    def _attention(self, words: int) -> None:
        """Scores, probabilities and what belongs to them, of as many tokens at a time as a share holds."""
        config, group = self.config, self.shape.group
        span = self.step.most_span
        blocks = span // config.columns
        each = group * blocks * words
        self.at_once = max(1, min(self.step.length, config.scratchpad_lines // _SCORES_SHARE // each,
                                  config.accumulator_lines // 2 // self._head_accumulators))
        vectors = self.at_once * group
        self.v_scales = self._take(blocks)
        self.scores = self._take(self.at_once * each)
        self.p_codes = self._take(vectors * span // min(config.columns, config.rows))
        self.p_scales = self._take(span // BLOCK * ceil_div(vectors, config.line_bytes))
        self.row_results = self._take(2 * vectors * words)
        self.q_scale_lines = self.shape.head // BLOCK * ceil_div(vectors, config.line_bytes)
        batches = len(self.step.runs) * ceil_div(self.step.length, self.at_once)
        self.q_scales = self._take(batches * self.shape.model.kv_heads * self.q_scale_lines)

    def _ring(self) -> Ring:
        """What is left, mostly in banks that little else is in."""
        there, needed = self.config.scratchpad_lines, _CHUNKS * chunk_lines(self.config, self.shape)
        if self._next + needed > there:
            raise CompileError(f"a step of {self.step.rows} tokens at {self.step.most_span} positions needs "
                               f"{self._next + needed} scratchpad lines; configuration {self.config.name!r} has "
                               f"{there}: choose one with more, or a shorter text")
        return Ring(self._next, there - self._next, GROUP)

    def _take(self, lines: int) -> int:
        line, self._next = self._next, self._next + ceil_div(lines, GROUP) * GROUP
        return line
