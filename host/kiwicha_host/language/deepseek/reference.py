"""The DeepSeek decoder in plain numpy and float32: what the chip's answers are compared with.

Attention has two forms that compute the same. Naive: each head's keys and values are made of the latent vectors
and kept. Absorbed: the latent vectors themselves are kept, one of kv_rank + rope_size numbers a position for all
heads; what would have made keys and values of them is multiplied into queries and results instead.
"""

from typing import Any

import numpy as np

from ... import arguments
from ..reference import rms_norm, silu, softmax
from .config import DeepSeekConfig
from .model import Attention, DeepSeekModel, FeedForward, Layer, Mixture
from .routing import chosen_experts

__all__ = ["Decoder", "turn"]


def turn(x: np.ndarray, start: int, config: DeepSeekConfig) -> np.ndarray:
    """x [..., n, rope_size] of the positions from `start` on: dimensions 2i and 2i + 1 turned by their angle.

    In float32 two products, each rounded, and their difference or sum.
    """
    angles = (start + np.arange(x.shape[-2]))[:, None] * config.rope_frequencies
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    turned = np.empty_like(x)
    turned[..., ::2] = x[..., ::2] * cos - x[..., 1::2] * sin
    turned[..., 1::2] = x[..., ::2] * sin + x[..., 1::2] * cos
    return turned


class Decoder:
    """Reads tokens, one after the other or several at once, and says what may come next.

    Parameters
    ----------
    model : DeepSeekModel
        Its weights are used as float32.
    absorbed : bool
        The form of attention.
    """

    #: There is no chip, which would take cycles and move bytes.
    cycles = bytes = compulsory_bytes = 0

    def __init__(self, model: DeepSeekModel, absorbed: bool = True):
        self._model = arguments.instance("model", model, DeepSeekModel).dequantized
        self._attend = self._absorbed if arguments.boolean("absorbed", absorbed) else self._naive
        self._config, self._layers = model.config, self._model.layers
        self._caches: list[tuple[np.ndarray, ...]] = [()] * model.config.layers
        self._length = 0

    def prefill(self, tokens: Any) -> np.ndarray:
        """float32 [..., vocabulary]: the logits after the last of `tokens` [..., n]."""
        return self.logits(tokens, last_only=True)[..., 0, :]

    def step(self, token: Any) -> np.ndarray:
        """float32 [..., vocabulary]: the logits after one more token, of each sequence."""
        return self.prefill(np.asarray(token)[..., None])

    def logits(self, tokens: Any, last_only: bool = False) -> np.ndarray:
        """The logits after each of `tokens`, or after the last.

        Parameters
        ----------
        tokens : int [n], or [..., n] for several sequences, as many in each call
        last_only : bool

        Returns
        -------
        float32 [..., n, vocabulary], or [..., 1, vocabulary]
        """
        x, eps = self._model.embed(tokens), self._config.norm_epsilon
        arguments.integer("the number of positions", self._length + x.shape[-2], 1, self._config.context)
        for number, layer in enumerate(self._layers):
            x = x + self._attention(number, layer.attention, rms_norm(x, layer.attn_norm, eps))
            x = x + self._ffn(layer, rms_norm(x, layer.ffn_norm, eps))
        self._length += x.shape[-2]
        x = rms_norm(x[..., -1:, :] if last_only else x, self._model.tensors["norm"], eps)
        return x @ self._model.tensors["head"].T

    def close(self) -> None:
        """Nothing is held but memory."""

    def _attention(self, number: int, w: Attention, x: np.ndarray) -> np.ndarray:
        """x [..., n, width] to the same shape; what later positions need joins the cache."""
        c = self._config
        q = rms_norm(x @ w.wq_a.T, w.q_norm, c.norm_epsilon) @ w.wq_b.T
        q = q.reshape(*q.shape[:-1], c.heads, -1).swapaxes(-2, -3)                  # [..., heads, n, size]
        q_nope, q_rope = q[..., :c.nope_size], turn(q[..., c.nope_size:], self._length, c)
        latent, k_rope = np.split(x @ w.wkv_a.T, [c.kv_rank], axis=-1)
        latent = rms_norm(latent, w.kv_norm, c.norm_epsilon)
        k_rope = turn(k_rope, self._length, c)
        w_k, w_v = np.split(w.wkv_b.reshape(c.heads, -1, c.kv_rank), [c.nope_size], axis=1)
        values = self._attend(number, q_nope, q_rope, latent, k_rope, w_k, w_v)     # [..., heads, n, value_size]
        return values.swapaxes(-2, -3).reshape(*x.shape[:-1], -1) @ w.wo.T

    def _naive(self, number: int, q_nope: np.ndarray, q_rope: np.ndarray, latent: np.ndarray,
               k_rope: np.ndarray, w_k: np.ndarray, w_v: np.ndarray) -> np.ndarray:
        k_nope = latent[..., None, :, :] @ w_k.swapaxes(-1, -2)                     # [..., heads, n, nope_size]
        shared = np.broadcast_to(k_rope[..., None, :, :], (*k_nope.shape[:-1], k_rope.shape[-1]))
        keys, values = self._joined(number, np.concatenate([k_nope, shared], axis=-1),
                                    latent[..., None, :, :] @ w_v.swapaxes(-1, -2))
        return self._weights(np.concatenate([q_nope, q_rope], axis=-1), keys) @ values

    def _absorbed(self, number: int, q_nope: np.ndarray, q_rope: np.ndarray, latent: np.ndarray,
                  k_rope: np.ndarray, w_k: np.ndarray, w_v: np.ndarray) -> np.ndarray:
        cache, = self._joined(number, np.concatenate([latent, k_rope], axis=-1)[..., None, :, :])
        weights = self._weights(np.concatenate([q_nope @ w_k, q_rope], axis=-1), cache)
        return weights @ cache[..., :self._config.kv_rank] @ w_v.swapaxes(-1, -2)

    def _joined(self, number: int, *new: np.ndarray) -> tuple[np.ndarray, ...]:
        """What the cache of a layer holds, with the `new` positions along the axis before the last."""
        if self._length:
            new = tuple(np.concatenate(pair, axis=-2) for pair in zip(self._caches[number], new, strict=True))
        self._caches[number] = new
        return new

    def _weights(self, query: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """How much each of the last positions [..., n] takes of itself and those before [..., n, positions]."""
        scores = query @ keys.swapaxes(-1, -2) * np.float32(self._config.softmax_scale)
        n, positions = scores.shape[-2:]
        seen = np.arange(positions) <= self._length + np.arange(n)[:, None]
        return softmax(np.where(seen, scores, np.float32(-np.inf)))

    def _ffn(self, layer: Layer, x: np.ndarray) -> np.ndarray:
        if isinstance(layer.ffn, FeedForward):
            return _gated(x, layer.ffn)
        return self._mixture(layer.ffn, x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def _mixture(self, mixture: Mixture, x: np.ndarray) -> np.ndarray:
        """x [tokens, width]: the shared expert's result, and those of each token's experts times their weights."""
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-(x @ mixture.gate.T)))
        chosen = chosen_experts(scores + mixture.bias, self._config)
        weights = np.where(chosen, scores, 0)
        weights = weights / weights.sum(axis=-1, keepdims=True) * np.float32(self._config.route_scale)
        out = _gated(x, mixture.shared)
        for expert in map(int, np.flatnonzero(chosen.any(axis=0))):
            rows = chosen[:, expert]
            out[rows] += _gated(x[rows], mixture.experts[expert]) * weights[rows, expert, None]
        return out


def _gated(x: np.ndarray, w: FeedForward) -> np.ndarray:
    """SwiGLU."""
    return (silu(x @ w.w1.T) * (x @ w.w3.T)) @ w.w2.T
