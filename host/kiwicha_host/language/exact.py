"""A Llama decoder in the chip's arithmetic: the same bits as every chip's, in plain numpy.

This says what a decoder's program computes, step by step, without instructions, lines and tiles. Weights are those
of the rotated model (``rotation.py``). Each operation is one of ``docs/numerics.md``: block-scaled products, FP32
sums and products that round once, sums of rows in pairs, and the functions' own algorithms. What is multiplied by
a matrix is quantized to `fmt`, in blocks of 32 with an E8M0 scale of their own, and so are weights, keys and
values.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .. import arguments
from ..golden import gemm_block, quantize_block
from ..golden.functions import exp2, reciprocal, rsqrt
from ..golden.numerics import pairwise_sum
from ..operands import FORMATS
from .model import Layer, LlamaConfig, LlamaModel
from .rotation import rotated
from .running import weighted_mean

__all__ = ["ExactDecoder"]

_BLOCK = 32
_LOG2_E = 1.4426950408889634


class _Codes(NamedTuple):
    """Elements [rows, K] and their scales [rows, blocks]."""
    elements: np.ndarray
    scales: np.ndarray


class ExactDecoder:
    """As :class:`.reference.Decoder`, to the bit as chips do it.

    Parameters
    ----------
    model : LlamaModel
    fmt, weights_fmt : names of the formats of what changes, and of the weights; a chip's decoder has int8 for the
        first
    """

    cycles = bytes = compulsory_bytes = 0

    def __init__(self, model: LlamaModel, fmt: str = "int8", weights_fmt: str = "int8"):
        self._config = arguments.instance("model", model, LlamaModel).config
        self._fmt = arguments.choice("fmt", fmt, FORMATS)
        self._weights_fmt = arguments.choice("weights_fmt", weights_fmt, FORMATS)
        self._model = rotated(model)
        self._layers = [self._quantized(layer) for layer in self._model.layers]
        self._head = self._weights(self._model.head)
        self.forget()

    def forget(self) -> None:
        """Be as if no token had been read."""
        self._keys: list[list[np.ndarray]] = [[] for _ in self._layers]
        self._values: list[list[np.ndarray]] = [[] for _ in self._layers]
        self._length = 0

    def _weights(self, rows: np.ndarray) -> _Codes:
        return self._codes(rows, self._weights_fmt)

    def _quantized(self, layer: Layer) -> list[_Codes]:
        """Q and K with the halves of each head apart, V; O; gate, up; down."""
        config = self._config
        order = np.arange(config.head_size)
        if config.rope_pairs == "neighbours":
            order = order.reshape(-1, 2).T.reshape(-1)
        q, k = (rows.reshape(-1, config.head_size, config.width)[:, order].reshape(rows.shape)
                for rows in (layer.q, layer.k))
        o = _spread(layer.o.reshape(config.width, config.heads, -1), config.head_size)
        rows = (q, k, layer.v, o.reshape(config.width, -1), layer.gate, layer.up, layer.down)
        return [self._weights(each) for each in rows]

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        """float32 [vocabulary]: the logits after the last of `tokens`."""
        return self.logits(tokens, last_only=True)[0]

    def step(self, token: int) -> np.ndarray:
        """float32 [vocabulary]: the logits after one more token."""
        return self.prefill([token])

    def logits(self, tokens: Sequence[int], last_only: bool = False) -> np.ndarray:
        """float32 [len(tokens), vocabulary], or [1, vocabulary]."""
        arguments.integer("the number of tokens", len(tokens), 1)
        x = self._model.embed(tokens)
        for number, weights in enumerate(self._layers):
            x = x + _product(self._attention(number, self._norm(x)), weights[3])
            y = self._norm(x)
            gate, up = (_product(y, each) for each in weights[4:6])
            with np.errstate(over="ignore"):
                gate = gate * reciprocal(exp2(gate * np.float32(-_LOG2_E)) + np.float32(1))
            x = x + _product(self._codes(gate * up), weights[6])
        self._length += len(tokens)
        return _product(self._norm(x[-1:] if last_only else x), self._head)

    def close(self) -> None:
        """Nothing is held but memory."""

    def _codes(self, x: np.ndarray, fmt: str | None = None, block: int = _BLOCK) -> _Codes:
        """float32 [rows, K] quantized, K filled up with zeros to whole blocks."""
        fmt = fmt or self._fmt
        padded = np.zeros((len(x), -(-x.shape[1] // block) * block), np.float32)
        padded[:, :x.shape[1]] = x
        codes, scales = quantize_block(padded, fmt, block, "rceil")
        return _Codes(codes.view(FORMATS[fmt]), scales)

    def _norm(self, x: np.ndarray) -> _Codes:
        """x / sqrt(mean(x^2) + epsilon), quantized; a rotated model has no factors."""
        config = self._config
        whole = np.float32(config.norm_epsilon * config.width)
        factor = rsqrt((pairwise_sum(x * x) + whole) * np.float32(1 / config.width))
        return self._codes(x * factor[:, None])

    def _attention(self, number: int, y: _Codes) -> _Codes:
        """What each row takes of its own value and those before, heads side by side in whole blocks."""
        config, rows = self._config, len(y.elements)
        positions = self._length + np.arange(rows)
        q, k, v = (_product(y, weights).reshape(rows, -1, config.head_size)
                   for weights in self._layers[number][:3])
        q, k = (_turned(x, positions, config) for x in (q, k))
        self._keys[number].append(k)
        self._values[number].append(v)
        k, v = (np.concatenate(kept[number]) for kept in (self._keys, self._values))
        seen = np.arange(len(k)) <= positions[:, None]
        group = config.heads // config.kv_heads
        mixed = [self._head_sum(q[:, head], k[:, head // group], v[:, head // group], seen)
                 for head in range(config.heads)]
        return self._codes(_spread(np.stack(mixed, axis=1), config.head_size).reshape(rows, -1))

    def _head_sum(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Softmax of q K^T times V; V has a scale for each position, which goes into the probabilities."""
        size = self._config.head_size
        keys, values = self._codes(_halves(k)), self._codes(v, block=-(-size // _BLOCK) * _BLOCK)
        scores = np.where(seen, _product(self._codes(_halves(q)), keys), np.float32(-np.inf))

        def weighted(powers: np.ndarray, some: slice) -> np.ndarray:
            scales = values.scales[some, 0]
            factors = np.ldexp(np.float32(1), scales.astype(int) - 127) * (scales > 0)
            p = self._codes(powers * factors.astype(np.float32))
            v = np.zeros((p.elements.shape[1], size), values.elements.dtype)
            v[:len(scales)] = values.elements[some, :size]
            ones = np.full((p.scales.shape[1], size), 127, np.uint8)
            return gemm_block(p.elements, v, p.scales, ones, _BLOCK)

        return weighted_mean(scores, np.float32(_LOG2_E / math.sqrt(size)), weighted)


def _product(a: _Codes, w: _Codes) -> np.ndarray:
    return gemm_block(a.elements, np.ascontiguousarray(w.elements.T), a.scales, np.ascontiguousarray(w.scales.T),
                      _BLOCK)


def _turned(x: np.ndarray, positions: np.ndarray, config: LlamaConfig) -> np.ndarray:
    """RoPE of [rows, heads, head_size], whose halves turn with each other."""
    angles = positions[:, None, None] * config.rope_frequencies
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos + second * -sin, second * cos + first * sin], axis=-1)


def _halves(x: np.ndarray) -> np.ndarray:
    """A head's two halves, each in whole blocks: [rows, head_size] to [rows, both]."""
    return _spread(x.reshape(len(x), 2, -1), x.shape[1] // 2).reshape(len(x), -1)


def _spread(parts: np.ndarray, size: int) -> np.ndarray:
    """[rows, parts, size] with each part filled up with zeros to whole blocks."""
    return np.pad(parts, ((0, 0), (0, 0), (0, -size % _BLOCK)))
