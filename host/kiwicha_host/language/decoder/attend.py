"""Heads that share keys and values: scores, softmax, and the weighted sum of values.

Keys stand still in the array for the scores, values for their sum; both come from memory through the same ring as
weights. Values have a scale for each position, which goes into the probabilities before these get their own.
"""

from collections.abc import Iterator

from ...compiler.program.memory_map import ceil_div
from .heads import Batch, Heads, Kept
from .layers import Layers
from .lines import Lines
from .numbers import TILE
from .positions import Positions, Vectors
from .step import Step
from .tile import Tile, TileLines

__all__ = ["Attend"]

#: The share of the scratchpad that scores may have, and the most lines.
_SCORES_SHARE, _SCORES_LINES = 8, 1536


class Attend:
    """Emits it for any number of such groups of heads, one after another, in a step.

    Attributes
    ----------
    at_once : rows of a batch, at most
    q_scale_lines : lines of scales of a batch's queries
    """

    def __init__(self, lines: Lines, layers: Layers, positions: Positions, step: Step, heads: Heads,
                 unit_scale: int):
        self._layers, self._positions = layers, positions
        self._step, self._heads = step, heads
        words, config = layers.words, layers.config
        tile = min(step.most_span, TILE)
        each = heads.count * (tile // layers.columns) * words
        most = min(_SCORES_LINES, config.scratchpad_lines // _SCORES_SHARE)
        self.at_once = max(1, min(step.length, most // each,
                                  layers.most_accumulators // heads.accumulators(config.columns)))
        vectors = self.at_once * heads.count
        scale_lines = ceil_div(vectors, config.line_bytes)
        scores = lines.take(self.at_once * each)
        # Values' scales differ: powers are needed once for each part.
        weighted = scores if len(heads.values) == 1 else lines.take(self.at_once * each)
        p_codes, p_scales = lines.code_lines(vectors, tile), lines.take(heads.numbers.blocks(tile) * scale_lines)
        largest = lines.take(2 * vectors * words)
        results, factor, sums, tile_sums = (lines.take(vectors * words) for _ in range(4))
        self._at = TileLines(scores, weighted, p_codes, p_scales, largest, results, factor, sums, tile_sums,
                             unit_scale)
        self.q_scale_lines = heads.numbers.blocks(heads.key) * scale_lines

    def batches(self) -> Iterator[Batch]:
        number = 0
        for index, run in enumerate(self._step.runs):
            for first in range(0, self._step.length, self.at_once):
                yield Batch(run, index * self._step.length + first, min(self.at_once, self._step.length - first),
                            number)
                number += 1

    def script(self, batch: Batch, kept: Kept, queries: Vectors, scales: int, out: Vectors) -> None:
        """Script: from queries, codes with scales from line `scales` on, to attended values, words."""
        here, span = self._layers.script.here, self._step.span(batch.run)
        for start in range(0, span, TILE):
            tile = Tile(self._layers, self._positions, self._heads, self._at, batch, kept, start,
                        min(TILE, span - start), start + TILE >= span)
            tile.script(queries, scales, out, here)
