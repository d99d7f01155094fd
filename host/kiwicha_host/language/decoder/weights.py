"""A model's matrices as the chip multiplies by them: quantized, padded to whole blocks."""

from collections.abc import Iterator

import numpy as np

from ...golden import quantize_block
from ..model import Layer, LlamaModel
from .numbers import Numbers
from .packed import Matrix
from .shape import DecoderShape

__all__ = ["head_matrix", "layer_matrices", "quantized"]

#: Rows that are quantized at a time, for memory's sake.
_AT_ONCE = 4096


def quantized(numbers: Numbers, rows: np.ndarray) -> Matrix:
    """Of float32 [N, K]; scales are rounded up, so that no weight saturates."""
    codes = np.empty(rows.shape, np.uint8)
    scales = np.empty((len(rows), numbers.blocks(rows.shape[1])), np.uint8)
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        made, scales[some] = quantize_block(np.ascontiguousarray(rows[some]), numbers.weights.name, numbers.block,
                                            "rceil")
        codes[some] = made.view(np.uint8)
    return Matrix(codes, scales)


def layer_matrices(shape: DecoderShape, layer: Layer) -> Iterator[Matrix]:
    """Q; K and V in one; the output projection; gate and up in one; down."""
    model = shape.model
    halves = _halves(shape)
    q, k = (_heads(rows, heads)[:, halves].reshape(heads * model.head_size, -1)
            for rows, heads in ((layer.q, model.heads), (layer.k, model.kv_heads)))
    q, k = (_padded(rows.reshape(2 * heads, model.head_size // 2, -1), shape.half_head, shape.width)
            for rows, heads in ((q, model.heads), (k, model.kv_heads)))
    v = _padded(_heads(layer.v, model.kv_heads), shape.value_head, shape.width)
    yield quantized(shape.numbers, q)
    yield quantized(shape.numbers, np.concatenate([k, v]))
    o = _padded(np.ascontiguousarray(_heads(layer.o.T, model.heads)), shape.value_head, model.width).T
    yield quantized(shape.numbers, _padded(o[None], shape.width, o.shape[1]))
    gate, up = (_padded(rows[None], shape.ffn, shape.width) for rows in (layer.gate, layer.up))
    yield quantized(shape.numbers, np.concatenate([gate, up]))
    yield quantized(shape.numbers, _padded(layer.down[None], shape.width, shape.ffn))


def head_matrix(shape: DecoderShape, model: LlamaModel) -> Matrix:
    return quantized(shape.numbers, _padded(model.head[None], shape.vocabulary, shape.width))


def _heads(rows: np.ndarray, heads: int) -> np.ndarray:
    return rows.reshape(heads, -1, rows.shape[-1])


def _halves(shape: DecoderShape) -> np.ndarray:
    """A head's dimensions, first one of each pair that RoPE turns, then the others."""
    order = np.arange(shape.model.head_size)
    return order.reshape(-1, 2).T.reshape(-1) if shape.model.rope_pairs == "neighbours" else order


def _padded(parts: np.ndarray, rows: int, width: int) -> np.ndarray:
    """[parts, R, W] with zeros up to `rows` and `width`, as [parts * rows, width]."""
    count, size, inner = parts.shape
    padded = np.zeros((count, rows, width), np.float32)
    padded[:, :size, :inner] = parts
    return padded.reshape(count * rows, width)
