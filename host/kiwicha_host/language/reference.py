"""A Llama decoder in plain numpy and float32: what a chip's answers are compared with.

Nothing is fused, blocked or quantized, so that each line is one of the model's own steps.
"""

from collections.abc import Sequence

import numpy as np

from .. import arguments
from .model import LlamaConfig, LlamaModel

__all__ = ["Decoder", "attention", "rms_norm", "rope", "silu", "softmax"]


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """x [..., width] over the root of its mean square, times weight [width]."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(epsilon)) * weight


def silu(x: np.ndarray) -> np.ndarray:
    """x times the logistic function of x."""
    with np.errstate(over="ignore"):        # by infinity, the quotient is the zero that it should be
        return x / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x) over its sum along the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def rope(x: np.ndarray, positions: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """x [positions, heads, head_size] with each pair of a head's dimensions turned by its angle."""
    angles = positions[:, None, None] * config.rope_frequencies
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    half = config.head_size // 2
    neighbours = config.rope_pairs == "neighbours"
    first, second = (slice(0, None, 2), slice(1, None, 2)) if neighbours else (slice(0, half), slice(half, None))
    turned = np.empty_like(x)
    turned[..., first] = x[..., first] * cos - x[..., second] * sin
    turned[..., second] = x[..., first] * sin + x[..., second] * cos
    return turned


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, start: int) -> np.ndarray:
    """What positions from `start` on take from themselves and those before: q [n, heads, head_size],
    k and v [start + n, kv_heads, head_size]; returns [n, heads * head_size].
    """
    n, heads, size = q.shape
    seen = np.arange(len(k)) <= start + np.arange(n)[:, None]
    groups = q.reshape(n, k.shape[1], -1, size).transpose(1, 2, 0, 3)           # [kv_heads, group, n, head_size]
    scores = groups @ k.transpose(1, 2, 0)[:, None] / np.float32(np.sqrt(size)) # [kv_heads, group, n, len(k)]
    mixed = softmax(np.where(seen, scores, np.float32(-np.inf))) @ v.transpose(1, 0, 2)[:, None]
    return mixed.transpose(2, 0, 1, 3).reshape(n, heads * size)


class Decoder:
    """Reads tokens, one after the other or several at once, and says what may come next.

    Parameters
    ----------
    model : LlamaModel
        All of its weights are kept as float32: 540 MB for 135 million.
    """

    #: There is no chip, which would take cycles and move bytes.
    cycles = bytes = compulsory_bytes = 0

    def __init__(self, model: LlamaModel):
        self._config = arguments.instance("model", model, LlamaModel).config
        self._model, self._layers = model, list(model.layers)
        self._out_norm, self._head = model.out_norm, model.head
        self.forget()

    def forget(self) -> None:
        """Be as if no token had been read."""
        nothing = np.zeros((0, self._config.kv_heads, self._config.head_size), np.float32)
        self._cache = [(nothing, nothing)] * self._config.layers

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [vocabulary]: the logits after the last of `tokens`."""
        return self.logits(tokens, last_only=True)[0]

    def step(self, token: int | Sequence[int]) -> np.ndarray:
        """float32 [vocabulary]: the logits after one more token, or several."""
        return self.prefill([token] if isinstance(token, int | np.integer) else token)

    def logits(self, tokens: Sequence[int], last_only: bool = False) -> np.ndarray:
        """float32 [len(tokens), vocabulary]: the logits after each of `tokens`; or [1, vocabulary], after the
        last.
        """
        start = len(self._cache[0][0])
        arguments.integer("the number of tokens", len(tokens), 1)
        arguments.integer("the number of positions", start + len(tokens), 1, self._config.context)
        x = self._model.embed(tokens)
        for number in range(self._config.layers):
            x = self._layer(number, x, start)
        x = rms_norm(x[-1:] if last_only else x, self._out_norm, self._config.norm_epsilon)
        return self._linear(x, self._head)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _linear(self, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """x [n, in] times weights [out, in]: the one thing that a format changes."""
        return x @ weights.T

    def _layer(self, number: int, x: np.ndarray, start: int) -> np.ndarray:
        """x [n, width] after a layer, whose keys and values join the cache."""
        config, layer, n = self._config, self._layers[number], len(x)
        positions = np.arange(start, start + n)
        y = rms_norm(x, layer.attn_norm, config.norm_epsilon)
        q = rope(self._linear(y, layer.q).reshape(n, config.heads, -1), positions, config)
        k = rope(self._linear(y, layer.k).reshape(n, config.kv_heads, -1), positions, config)
        v = self._linear(y, layer.v).reshape(n, config.kv_heads, -1)
        k, v = (np.concatenate(pair) for pair in zip(self._cache[number], (k, v), strict=True))
        self._cache[number] = k, v
        x = x + self._linear(attention(q, k, v, start), layer.o)
        y = rms_norm(x, layer.ffn_norm, config.norm_epsilon)
        gated = silu(self._linear(y, layer.gate)) * self._linear(y, layer.up)
        return x + self._linear(gated, layer.down)
