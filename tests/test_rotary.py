"""Rotary position embeddings in single operators, as exporters write them: halves of heads, or neighbours."""

import numpy as np
import onnx
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from code_nets import check as check_layers

from bench.float_nets import Net, random_inputs
from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.ir.layers import Layer
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize

TOKENS, HEADS, WIDTH = 6, 3, 8


def angles(repeat):
    turns = np.arange(TOKENS)[:, None] / 100 ** (np.arange(WIDTH // 2) / (WIDTH // 2))
    turns = np.tile(turns, 2) if repeat == "halves" else np.repeat(turns, 2, axis=1)
    return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)


def part(net, x, start, end, step=1):
    return net("Slice", x, np.array([start]), np.array([end]), np.array([3]), np.array([step]))


def halves(net, x):
    """(-x2, x1)."""
    return net("Concat", net("Neg", part(net, x, WIDTH // 2, 1 << 62)), part(net, x, 0, WIDTH // 2), axis=-1)


def neighbours(net, x):
    """(-x1, x0, -x3, x2, ...)."""
    pairs = [net("Unsqueeze", item, np.array([4])) for item in (
        net("Neg", part(net, x, 1, 1 << 62, 2)), part(net, x, 0, 1 << 62, 2))]
    return net("Reshape", net("Concat", *pairs, axis=4), np.array([0, 0, TOKENS, WIDTH]))


def rotated(turn, tail):
    """Of heads [N, heads, tokens, width] of a product; then what `tail` makes of them."""
    net, features = Net(4, x=["N", TOKENS, HEADS * WIDTH]), HEADS * WIDTH
    cos, sin = angles(turn.__name__)
    x = net("MatMul", "x", net.weights(features, features))
    x = net("Transpose", net("Reshape", x, np.array([0, TOKENS, HEADS, WIDTH])), perm=[0, 2, 1, 3])
    return net.model(tail(net, net("Add", net("Mul", x, cos), net("Mul", turn(net, x), sin))))


def rows(net, x):
    x = net("Reshape", net("Transpose", x, perm=[0, 2, 1, 3]), np.array([0, TOKENS, HEADS * WIDTH]))
    return net("MatMul", x, net.weights(HEADS * WIDTH, 5))


@pytest.mark.parametrize("config", ["tiny", "wide"])
@pytest.mark.parametrize("tail", [lambda net, x: x, rows], ids=["heads", "rows"])
@pytest.mark.parametrize("turn", [halves, neighbours], ids=lambda turn: turn.__name__)
def test_all_of_it_is_the_chips(turn, tail, config):
    model = rotated(turn, tail)
    data = quantize_model(model, random_inputs(model, np.random.default_rng(0), 8))
    inputs = random_inputs(model, np.random.default_rng(1), 2)
    with load_model(data, config, "golden", strict=True) as loaded:
        [got] = loaded.run(inputs).values()
    np.testing.assert_array_equal(got, onnxruntime_says(onnx.load_from_string(data), inputs)[0])


@DTYPES
@pytest.mark.parametrize("start, end, step", [(0, 4, 1), (4, 8, 1), (1, 8, 2), (7, -9, -1), (0, 8, 3)])
def test_channels_that_have_others_between(start, end, step, dtype):
    """A copy of them; a box of channels needs none."""
    net = Between(dtype, x=["N", HEADS * WIDTH, 2, 3])
    x = net("MaxPool", net.numbers("x"), kernel_shape=[1, 2])
    x = net("Reshape", net.numbers(net.codes(x, 0.05, 3)), np.array([0, HEADS, WIDTH, 4]))
    x = net("Slice", x, np.array([start]), np.array([end]), np.array([2]), np.array([step]))
    made = net.codes(net("Sigmoid", net.numbers(net.codes(x, 0.05, 3))), 1 / 256, 0)
    info = np.iinfo(dtype)
    layers = check_layers(net.model(made), {"x": net.rng.integers(
        info.min, info.max, (2, HEADS * WIDTH, 2, 3), dtype, endpoint=True)})
    copies = [layer for layer in layers.layers if isinstance(layer, Layer)]
    assert [layer.op for layer in copies] == ["Copy"] * ((start, step) != (7, -1))


def test_a_sum_with_other_places_is_the_hosts():
    """A copy puts channels in order, but no places."""
    net = Between(np.uint8, x=["N", 4, 3, 3])
    x = net("MaxPool", net.numbers("x"), kernel_shape=[1, 1])
    x = net.numbers(net.codes(x, 0.05, 3))
    turned = net.numbers(net.codes(net("Transpose", x, perm=[0, 1, 3, 2]), 0.05, 3))
    model, codes = net.model(net.codes(net("Add", x, turned))), net.rng.integers(0, 256, (2, 4, 3, 3), np.uint8)
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": codes}).values(), onnxruntime_says(model, {"x": codes})[0])
        assert [row.place for row in loaded.placement if row.op == "Add"] == ["host"]


def test_two_orders_of_channels():
    """Of two tensors whose channels are in different orders, one is copied."""
    net = Between(np.uint8, x=["N", 6, 2, 2])
    x = net.numbers(net.codes(net("MaxPool", net.numbers("x"), kernel_shape=[2, 2]), 0.05, 3))
    shuffled = net("Reshape", net("Transpose", net("Reshape", x, np.array([0, 2, 3, 1])), perm=[0, 2, 1, 3]),
                   np.array([0, 6, 1, 1]))
    made = net.codes(net("Add", net.numbers(net.codes(shuffled, 0.05, 3)), x))
    model = net.model(made)
    layers = check_layers(model, {"x": net.rng.integers(0, 256, (3, 6, 2, 2), np.uint8)})
    assert [layer.op for layer in layers.layers].count("Copy") == 1
    assert to_layers(optimize(model)).seconds[-1] is not None
