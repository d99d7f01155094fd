"""Layers as a page of numpy says them: what the chip's programs must make of a LayerGraph."""

import numpy as np

from kiwicha.isa import OperandUse, Reduce, ResultFunction
from kiwicha_host.compiler.ir.layers import Layer
from kiwicha_host.compiler.ir.number_layers import NumberLayer
from kiwicha_host.compiler.ir.row_layers import LayerNormLayer, RmsNormLayer, RotaryLayer, SoftmaxLayer, TopLayer
from kiwicha_host.golden.functions import exp2, reciprocal, rsqrt


def run_layers(graph, arrays):
    """The outputs of `graph` by name; `arrays` are its inputs by name, as the model takes them."""
    images = len(next(iter(arrays.values())))
    maps = [None if item.place else np.zeros((images, *item.size, item.channels), item.dtype)
            for item in graph.maps]

    def box(view):
        view = graph.rooted(view)
        (y, x), (dy, dx), (h, w) = view.origin, view.step, view.size
        return maps[view.map][:, y:y + h * dy:dy, x:x + w * dx:dx, view.channel:view.channel + view.channels]

    for item in graph.inputs:
        box(graph.whole(item.map))[:] = graph.encode(item, arrays[item.name])
    for layer, *views in zip(graph.layers, graph.sources, graph.targets, graph.seconds, strict=True):
        source, target, second = views
        a = box(source)
        assert a.shape[1:] == (*layer.size, layer.channels)
        b = None if second is None else box(second)
        of_rows = {SoftmaxLayer: _softmax, LayerNormLayer: _layer_norm, RmsNormLayer: _rms_norm,
                   TopLayer: _top}.get(type(layer))
        if isinstance(layer, RotaryLayer):
            box(target)[:] = _rotary(layer, a, b)
            continue
        if isinstance(layer, NumberLayer):
            box(target)[:] = _numbers(layer, a, b)
            continue
        box(target)[:] = (_convolution(layer, a) if isinstance(layer, Layer) else
                          _vector(layer, a, b) if of_rows is None else of_rows(layer, a))
    return {item.name: item.decode(box(item.view)) for item in graph.outputs}


def _taps(x, pool_or_layer, kernel, size, outside):
    """[N, y, x, channels, places of the window], `outside` where that is not in the image."""
    (h, w), strides, dilations = x.shape[1:3], pool_or_layer.strides, pool_or_layer.dilations
    rows, columns = ((np.arange(size[i])[:, None] * strides[i] - pool_or_layer.pads[i]
                      + np.arange(kernel[i]) * dilations[i]) for i in range(2))
    inside = ((rows >= 0) & (rows < h))[:, None, :, None] & ((columns >= 0) & (columns < w))[None, :, None, :]
    taken = x[:, rows.clip(0, h - 1)[:, None, :, None], columns.clip(0, w - 1)[None, :, None, :]]
    taken = np.where(inside[None, ..., None], taken, outside)
    return np.moveaxis(taken.reshape(*taken.shape[:3], -1, taken.shape[-1]), 3, 4), inside.sum((2, 3))


def _rounded(x, zero, clamp):
    return (np.rint(x.astype(np.float32)) + np.float32(zero)).clip(*clamp).astype(np.int8)


def _convolution(layer, a):
    taps, _ = _taps(a.astype(np.int64), layer, layer.kernel, layer.conv_size, layer.x_zero)
    sums = np.einsum("nyxcp,ocp->nyxo", taps, layer.weights.reshape(*layer.weights.shape[:2], -1).astype(np.int64))
    sums = (sums + layer.bias).astype(np.int32)
    if layer.element != "int8":
        assert layer.pool is None
        numbers = sums.astype(np.float32) * layer.scale
        return sums if layer.element == "int32" else numbers.clip(*map(np.float32, layer.clamp))
    codes = _rounded(sums.astype(np.float32) * layer.scale, layer.y_zero, layer.clamp)
    pool = layer.pool
    return codes if pool is None else _taps(codes, pool, pool.kernel, pool.size, -128)[0].max(-1)


def _numbers(layer, a, b):
    """`b` is None, too, where it is `a`."""
    a_table, b_table = (table if table is not None and table.size else None
                        for table in (layer.a_table, layer.b_table))
    b = a if b is None else b
    if layer.constant.size:
        assert b_table is None and layer.constant.dtype == np.float32
        b = layer.constant
    assert {item.dtype for item in (layer.a_table, layer.factor)} == {np.dtype(np.float32)}
    first, second = (x if table is None else table[x.view(np.uint8)] for x, table in ((a, a_table), (b, b_table)))
    assert {first.dtype, second.dtype} <= {np.dtype(np.float32), np.dtype(np.int8)}
    if layer.use != OperandUse.NONE:
        first = first + second if layer.use == OperandUse.ADD else first * second
    numbers = first * layer.factor[-1]
    if layer.pool is not None:
        assert layer.use == OperandUse.NONE and layer.reduce == Reduce.MAXIMUM
        numbers = _taps(numbers, layer.pool, layer.pool.kernel, layer.pool.size, -np.inf)[0].max(-1)
    if layer.element == "int8":
        return _rounded(numbers, layer.y_zero, layer.clamp)
    numbers = numbers.clip(*map(np.float32, layer.clamp))
    return {ResultFunction.NONE: np.float32, ResultFunction.EXP2: exp2, ResultFunction.RECIPROCAL: reciprocal,
            ResultFunction.RSQRT: rsqrt}[layer.function](numbers)


def _softmax(layer, a):
    distances = a.astype(int) - a.max(axis=-1, keepdims=True)
    words = layer.a_table.astype(np.int64)[distances % 256]
    total = words.sum(axis=-1, keepdims=True)
    assert layer.a_table.min() >= 0 and total.max() < 1 << 31
    each = reciprocal(total.astype(np.float32) * layer.factor[-1])
    return _rounded(words.astype(np.float32) * each, layer.y_zero, layer.clamp)


def _layer_norm(layer, a):
    codes = a.astype(np.int64) - a.max(axis=-1, keepdims=True)
    total, squares = (values.sum(axis=-1, keepdims=True) for values in (codes, codes ** 2 * layer.square_unit))
    squares = squares + round(layer.epsilon * layer.channels * layer.square_unit)
    assert squares.max() < 1 << 31
    less_mean = total.astype(np.float32) * np.float32(-1 / layer.channels)
    less_mean_square = squares.astype(np.float32) * np.float32(-1 / (layer.channels * layer.square_unit))
    variance = (less_mean_square + less_mean * less_mean) * np.float32(-1)
    inverse = rsqrt(np.maximum(variance, np.float32(max(layer.epsilon, 0.25 / layer.channels))))
    numbers = (codes.astype(np.float32) + less_mean) * inverse
    return _rounded((numbers + layer.shift) * layer.gain, layer.y_zero, layer.clamp)


def _rms_norm(layer, a):
    numbers = layer.a_table.view(np.float32)[a.view(np.uint8)]
    squares = (numbers.astype(np.int64) ** 2).sum(axis=-1, keepdims=True)
    assert squares.max() < 1 << 31
    inverse = rsqrt(squares.astype(np.float32) * np.float32(1 / layer.channels) + np.float32(layer.epsilon))
    return _rounded(numbers * inverse * layer.gain, layer.y_zero, layer.clamp)


def _rotary(layer, a, b):
    first, second = (layer.a_table.view(np.float32)[codes.view(np.uint8)] for codes in (a, b))
    cos, sin = (factors.reshape(*layer.size, -1) for factors in (layer.cos, layer.sin))
    return _rounded(first * cos + second * sin, layer.y_zero, layer.clamp)


def _top(layer, a):
    numbers = a.astype(np.float32) * layer.factor[-1]
    places = np.argsort(-numbers, axis=-1, kind="stable")[..., :layer.count]
    words = np.concatenate([np.take_along_axis(numbers, places, -1).view(np.uint32), places.astype(np.uint32)], -1)
    return words.view(np.int8)


def _vector(layer, a, b):
    words = layer.a_table.astype(np.int64)[a.view(np.uint8)]
    assert layer.a_table.dtype == np.int32 and layer.factor.dtype == np.float32
    factor = layer.factor[-1]
    if layer.pool is not None:
        assert b is None and len(layer.factor) == 1 + np.prod(layer.pool.kernel) * (layer.reduce == Reduce.SUM)
        summed = layer.reduce == Reduce.SUM
        taps, inside = _taps(words, layer.pool, layer.pool.kernel, layer.pool.size, 0 if summed else -1 << 40)
        words, factor = (taps.sum(-1), layer.factor[inside][..., None]) if summed else (taps.max(-1), factor)
    if layer.b_table is not None:
        assert b.shape[::3] == a.shape[::3] and np.broadcast_shapes(a.shape, b.shape) == a.shape
        second = layer.b_table[b.view(np.uint8)]
        if layer.b_use == OperandUse.ADD:
            words = words + second
        else:
            assert second.dtype == np.float32
            factor = second
    assert np.abs(words).max() < 1 << 31
    return _rounded(words.astype(np.float32) * factor, layer.y_zero, layer.clamp)
