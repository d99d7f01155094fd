"""The DeepSeek decoder in the chip's arithmetic: the same bits as every chip's, in plain numpy.

Each operation is one of ``docs/numerics.md``. What is multiplied by a matrix is quantized to E4M3 first, in
blocks of 128 with an E8M0 scale of their own (DeepSeek's act_quant), or of 32 for the experts, whose weights are
E2M1. Sums in a block are exact; those of blocks, and all else, are FP32. Attention is absorbed. The gate is not
quantized: it is an FP32 product and a sum of a row for each expert.

A latent vector's scales belong to positions. As keys they are scales of columns; as values they are factors of the
weights of positions, before those are quantized along the positions. So what is kept is never quantized twice.
"""

from typing import Any, NamedTuple

import numpy as np

from ... import arguments
from ...golden import gemm_block, quantize_block
from ...golden.functions import exp2, reciprocal, rsqrt
from ...golden.numerics import pairwise_sum
from ...operands import FORMATS
from ..running import weighted_mean
from .config import DeepSeekConfig
from .model import Attention, DeepSeekModel, FeedForward, Mixture, Quantized
from .reference import turn
from .routing import ranked_experts
from .stored import BLOCKS, format_of

__all__ = ["ExactDecoder"]

_BLOCK = 128
_LOG2_E = 1.4426950408889634


class _Codes(NamedTuple):
    """E4M3 elements [rows, K] and their scales [rows, blocks]."""
    elements: np.ndarray
    scales: np.ndarray


class ExactDecoder:
    """As :class:`.reference.Decoder` with absorbed attention, to the bit as chips do it. A sequence's results
    depend neither on other sequences nor on how many tokens are read at once.

    Parameters
    ----------
    model : DeepSeekModel
        As :func:`.stored.load` gives it: matrices are quantized.

    Raises
    ------
    ValueError
        nope_size, value_size or kv_rank is not a multiple of 128, or a matrix is not quantized.
    """

    cycles = bytes = compulsory_bytes = 0

    def __init__(self, model: DeepSeekModel):
        config = self._config = arguments.instance("model", model, DeepSeekModel).config
        for name in ("nope_size", "value_size", "kv_rank"):
            if getattr(config, name) % _BLOCK:
                raise ValueError(f"{name} must be a multiple of {_BLOCK}, not {getattr(config, name)}")
        for name, tensor in model.tensors.items():
            if format_of(name) in BLOCKS and not isinstance(tensor, Quantized):
                raise ValueError(f"tensor {name!r} must be quantized, not float32")
        self._model, self._layers = model, model.layers
        self._caches: list[_Codes | None] = [None] * config.layers
        self._length = 0

    def prefill(self, tokens: Any) -> np.ndarray:
        """float32 [..., vocabulary]: the logits after the last of `tokens` [..., n]."""
        return self.logits(tokens, last_only=True)[..., 0, :]

    def step(self, token: Any) -> np.ndarray:
        """float32 [..., vocabulary]: the logits after one more token, of each sequence."""
        return self.prefill(np.asarray(token)[..., None])

    def logits(self, tokens: Any, last_only: bool = False) -> np.ndarray:
        """float32 [..., n, vocabulary], or [..., 1, vocabulary], of `tokens` [..., n]."""
        shape = np.shape(tokens)
        x = self._model.embed(np.reshape(tokens, (-1, shape[-1])))
        arguments.integer("the number of positions", self._length + shape[-1], 1, self._config.context)
        sequences, n, width = x.shape
        x = x.reshape(-1, width)
        with np.errstate(over="ignore", invalid="ignore"):
            for number, layer in enumerate(self._layers):
                x = x + self._attention(number, layer.attention, self._norm(x, layer.attn_norm), n)
                y = self._norm(x, layer.ffn_norm)
                ffn = layer.ffn
                x = x + (_gated(y, ffn) if isinstance(ffn, FeedForward) else self._mixture(ffn, y))
            self._length += n
            if last_only:
                x = x.reshape(sequences, n, width)[:, -1]
            y = _product(_quantized(self._norm(x, self._model.tensors["norm"])), self._model.tensors["head"])
        return y.reshape(*shape[:-1], -1, self._config.vocabulary)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """RMSNorm of rows."""
        width = x.shape[-1]
        squares = pairwise_sum(x * x) + np.float32(self._config.norm_epsilon * width)
        return x * weight * rsqrt(squares * np.float32(1 / width))[:, None]

    def _attention(self, number: int, w: Attention, x: np.ndarray, n: int) -> np.ndarray:
        """x [sequences * n, width] to the same shape; the last `n` positions join the cache."""
        c = self._config
        a = _quantized(x)
        q = _product(_quantized(self._norm(_product(a, w.wq_a), w.q_norm)), w.wq_b)
        q = q.reshape(-1, n, c.heads, c.nope_size + c.rope_size).swapaxes(1, 2)     # [sequences, heads, n, size]
        latent, k_rope = np.split(_product(a, w.wkv_a), [c.kv_rank], axis=-1)
        k_rope = turn(k_rope.reshape(-1, n, c.rope_size), self._length, c).reshape(len(x), -1)
        kept = self._kept(number, np.concatenate([self._norm(latent, w.kv_norm), k_rope], axis=-1), n)
        q_rope = turn(q[..., c.nope_size:], self._length, c)
        heads = [self._head(w.wkv_b, head, q[:, head, :, :c.nope_size], q_rope[:, head], kept)
                 for head in range(c.heads)]
        return _product(_quantized(np.concatenate(heads, axis=-1)), w.wo)

    def _kept(self, number: int, rows: np.ndarray, n: int) -> _Codes:
        """What a layer keeps, [sequences, positions, kv_rank + rope_size], with the new latent vectors and rotated
        keys [sequences * n, kv_rank + rope_size].
        """
        new = _Codes(*(part.reshape(-1, n, part.shape[-1]) for part in _quantized(rows)))
        old = self._caches[number]
        if old is not None:
            new = _Codes(*(np.concatenate(pair, axis=1) for pair in zip(old, new, strict=True)))
        self._caches[number] = new
        return new

    def _head(self, wkv_b: Quantized, head: int, q_nope: np.ndarray, q_rope: np.ndarray, kept: _Codes
              ) -> np.ndarray:
        """What a head takes of the values, [sequences * n, value_size]: queries are [sequences, n, size]."""
        c, (sequences, n, size) = self._config, q_nope.shape
        first = head * (c.nope_size + c.value_size)
        w_k, w_v = (_rows(wkv_b, start, stop) for start, stop in (
            (first, first + c.nope_size), (first + c.nope_size, first + c.nope_size + c.value_size)))
        a = _quantized(q_nope.reshape(-1, size))
        q = gemm_block(a.elements, w_k.elements, a.scales, w_k.scales, _BLOCK).reshape(sequences, n, -1)
        queries = np.concatenate([q, q_rope], axis=-1)
        mixed = [_mixed(_quantized(query), _Codes(*each), self._length, c)
                 for query, *each in zip(queries, *kept, strict=True)]
        return _product(_quantized(np.concatenate(mixed)), w_v)

    def _mixture(self, mixture: Mixture, x: np.ndarray) -> np.ndarray:
        """x [tokens, width]: the shared expert's result, and to that, from the best expert on, the weighted
        others.
        """
        c = self._config
        scores = _sigmoid(pairwise_sum(x[:, None] * mixture.gate))
        chosen = ranked_experts(scores + mixture.bias, c)
        weights = np.take_along_axis(scores, chosen, axis=1)
        weights = weights * (reciprocal(pairwise_sum(weights)) * np.float32(c.route_scale))[:, None]
        out = _gated(x, mixture.shared)
        for experts, weight in zip(chosen.T, weights.T, strict=True):
            for expert in map(int, np.unique(experts)):
                rows = experts == expert
                out[rows] = out[rows] + _gated(x[rows], mixture.experts[expert]) * weight[rows, None]
        return out


def _mixed(query: _Codes, kept: _Codes, start: int, config: DeepSeekConfig) -> np.ndarray:
    """Latent vectors weighted by softmax, [n, kv_rank], for the queries [n, kv_rank + rope_size] of the
    positions from `start` on.
    """
    scores = gemm_block(query.elements, kept.elements.T, query.scales, kept.scales.T, _BLOCK)
    seen = np.arange(len(kept.elements)) <= start + np.arange(len(scores))[:, None]
    scores = np.where(seen, scores, np.float32(-np.inf))

    def weighted(powers: np.ndarray, some: slice) -> np.ndarray:
        return np.concatenate([
            _weighted(powers, kept.scales[some, block], kept.elements[some, _BLOCK * block:_BLOCK * (block + 1)])
            for block in range(config.kv_rank // _BLOCK)], axis=1)

    return weighted_mean(scores, np.float32(config.softmax_scale * _LOG2_E), weighted)


def _weighted(powers: np.ndarray, scales: np.ndarray, values: np.ndarray) -> np.ndarray:
    """powers [n, positions] times values [positions, 128] with a scale for each position."""
    factors = np.ldexp(np.float32(1), scales.astype(int) - 127).astype(np.float32)
    factors[scales == 0], factors[scales == 255] = 0, np.nan
    p = _quantized(powers * factors)
    ones = np.full((p.scales.shape[1], values.shape[1]), 127, np.uint8)
    return gemm_block(p.elements, values, p.scales, ones, _BLOCK)


def _gated(x: np.ndarray, w: FeedForward) -> np.ndarray:
    """SwiGLU of rows."""
    a = _quantized(x, w.w1.block)
    gate = _product(a, w.w1)
    return _product(_quantized(gate * _sigmoid(gate) * _product(a, w.w3), w.w2.block), w.w2)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return reciprocal(exp2(x * np.float32(-_LOG2_E)) + np.float32(1))


def _quantized(x: np.ndarray, block: int = _BLOCK) -> _Codes:
    codes, scales = quantize_block(x, "e4m3", block, "rceil")
    return _Codes(codes.view(FORMATS["e4m3"]), scales)


def _product(a: _Codes, w: Quantized) -> np.ndarray:
    """a [rows, K] times the transpose of w [N, K]."""
    return gemm_block(a.elements, w.elements.T, a.scales, w.scales.T, w.block)


def _rows(w: Quantized, start: int, stop: int) -> Quantized:
    """Rows of a matrix with square blocks, both ends at a block's."""
    return Quantized(w.elements[start:stop], w.scales[start // w.block:stop // w.block], w.block)
