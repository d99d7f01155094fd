"""A DeepSeek model's matrices as the chip multiplies by them: stored codes, reordered and padded."""

from collections.abc import Sequence

import numpy as np

from ...decoder.numbers import PADDING, padded
from ...decoder.packed import Matrix
from ..config import DeepSeekConfig
from ..model import Attention, FeedForward, Quantized

__all__ = ["attention_matrices", "gated_matrices", "matrix"]


def matrix(weights: Quantized) -> Matrix:
    """Of [N, K], padded."""
    return _stacked([_rows(weights)], weights.shape[1])


def attention_matrices(config: DeepSeekConfig, w: Attention
                       ) -> tuple[Matrix, Matrix, list[Matrix], list[Matrix], Matrix]:
    """Latent queries and what is kept, in one; queries; for each head keys, and values, absorbed; the output."""
    c = config
    wkv_a, wq_b, wkv_b = _rows(w.wkv_a), _rows(w.wq_b), _rows(w.wkv_b)
    latents = _stacked([_rows(w.wq_a), wkv_a.part(0, c.kv_rank), *_halves(wkv_a, c.kv_rank, c)], c.width)
    size, both = c.nope_size + c.rope_size, c.nope_size + c.value_size
    queries = _stacked([part for head in range(c.heads) for part in (
        wq_b.part(head * size, c.nope_size), *_halves(wq_b, head * size + c.nope_size, c))], c.q_rank)
    keys = [_transposed(w.wkv_b, head * both, c.nope_size) for head in range(c.heads)]
    values = [_stacked([wkv_b.part(head * both + c.nope_size, c.value_size)], c.kv_rank)
              for head in range(c.heads)]
    return latents, queries, keys, values, matrix(w.wo)


def gated_matrices(ffn: FeedForward) -> tuple[Matrix, Matrix]:
    """Gate and up in one; down."""
    return _stacked([_rows(ffn.w1), _rows(ffn.w3)], ffn.w1.shape[1]), matrix(ffn.w2)


class _Rows:
    """Codes uint8 [N, K] and scales [N, blocks]."""

    def __init__(self, codes: np.ndarray, scales: np.ndarray):
        self.codes, self.scales = codes, scales

    def part(self, first: int, count: int, step: int = 1) -> "_Rows":
        some = slice(first, first + count * step, step)
        return _Rows(self.codes[some], self.scales[some])


def _rows(weights: Quantized) -> _Rows:
    """With a scale for each row, where the model has one for a square."""
    codes, scales = weights.elements.view(np.uint8), weights.scales
    if len(scales) != len(codes):
        scales = np.repeat(scales, weights.block, axis=0)[:len(codes)]
    return _Rows(codes, scales)


def _halves(rows: _Rows, first: int, config: DeepSeekConfig) -> tuple[_Rows, _Rows]:
    """The first of each pair that RoPE turns, and the second."""
    half = config.rope_size // 2
    return rows.part(first, half, 2), rows.part(first + 1, half, 2)


def _transposed(weights: Quantized, first: int, count: int) -> Matrix:
    """Some rows as K: a square block is one of the transposed matrix, too."""
    block = weights.block
    codes = weights.elements.view(np.uint8)[first:first + count].T
    scales = weights.scales[first // block:(first + count) // block].T
    return _stacked([_Rows(codes, np.repeat(scales, block, axis=0)[:len(codes)])], count)


def _stacked(parts: Sequence[_Rows], k: int) -> Matrix:
    """Rows of all parts, each filled up with zeros, and K too."""
    codes = [np.pad(part.codes, ((0, -len(part.codes) % PADDING), (0, padded(k) - k))) for part in parts]
    scales = [np.pad(part.scales, ((0, -len(part.scales) % PADDING), (0, 0))) for part in parts]
    return Matrix(np.concatenate(codes), np.concatenate(scales))
