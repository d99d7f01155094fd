"""Rotary positions: in single operators, as exporters write them, and as an operator."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from code_nets import check as check_layers
from layer_reference import run_layers

from bench.cycles import chip
from bench.float_nets import Net, random_inputs
from kiwicha_host import load_model, open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.ir.layers import Layer
from kiwicha_host.compiler.ir.row_layers import RotaryLayer
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


def test_a_sum_with_other_places():
    """A copy puts channels in order, but no places: the sum is a program of its own."""
    net = Between(np.uint8, x=["N", 4, 3, 3])
    x = net("MaxPool", net.numbers("x"), kernel_shape=[1, 1])
    x = net.numbers(net.codes(x, 0.05, 3))
    turned = net.numbers(net.codes(net("Transpose", x, perm=[0, 1, 3, 2]), 0.05, 3))
    model, codes = net.model(net.codes(net("Add", x, turned))), net.rng.integers(0, 256, (2, 4, 3, 3), np.uint8)
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": codes}).values(), onnxruntime_says(model, {"x": codes})[0])
        assert {row.place for row in loaded.placement} == {"chip"}
        assert len(loaded.compiled.networks) == 2


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


# The operator.

CHIPS = [chip("tiny+functions"), chip("small"), replace(chip("small"), name="one_lane", vector_lanes=1),
         chip("wide")]


def tables(rng, *shape):
    turns = rng.uniform(-9, 9, shape)
    return np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)


def operator(dtype, shape, rng, *, ends=(0.05, 3, 0.0617, 7), positions=None, own=False, width=None, images=1,
             **given):
    """Of codes [N, heads, tokens, width], or [N, tokens, features]; ONNX's operator, or ONNX Runtime's own."""
    net, cache = Between(dtype, x=["N", *shape]), 20
    tokens, width = shape[-2], (width or shape[-1] // given.get("num_heads", 1)) // 2
    x = net.numbers("x", *ends[:2])
    if positions is None:
        made = net("RotaryEmbedding", x, *(np.repeat(item, images, axis=0) for item in tables(
            rng, 1, tokens, width)), **given)
    elif own:
        made = net("RotaryEmbedding", x, positions, *tables(rng, cache, width), domain="com.microsoft", **given)
    else:
        made = net("RotaryEmbedding", x, *tables(rng, cache, width), positions, **given)
    return net.model(net.codes(made, *ends[2:]), opset=23)


def agrees(model, x, config="wide", device="golden"):
    """As a page of numpy says, and hardly ever the code next to ONNX Runtime's."""
    layers = to_layers(optimize(model))
    assert isinstance(layers.layers[-1], RotaryLayer)
    [expected] = run_layers(layers, {"x": x}).values()
    options = {"device": device} if device != "golden" else {"config": config, "device": device}
    with load_model(model, strict=True, **options) as loaded:
        [got] = loaded.run({"x": x}).values()
    np.testing.assert_array_equal(got, expected)
    off = np.abs(got.astype(int) - onnxruntime_says(model, {"x": x})[0])
    assert off.max() <= 1 and off.sum() <= 1 + off.size * 0.001, (off.sum(), off.size)


def random_codes(rng, dtype, shape, images=1):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, (images, *shape), dtype, endpoint=True)


@DTYPES
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("shape, given", [
    ((3, 7, 8), {}), ((2, 5, 34), {}), ((1, 9, 64), {"rotary_embedding_dim": 32, "width": 32}),
    ((6, 24), {"num_heads": 3}), ((12, 192), {"num_heads": 3})], ids=str)
def test_the_operator(shape, given, interleaved, dtype):
    rng = np.random.default_rng(7)
    model = operator(dtype, shape, rng, interleaved=interleaved, images=3, **given)
    agrees(model, random_codes(rng, dtype, shape, 3))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("positions", [np.arange(6)[None], np.array([[4, 9, 0, 1, 19, 2]])], ids=["row", "any"])
def test_positions(positions, own):
    rng = np.random.default_rng(8)
    model = operator(np.uint8, (6, 24), rng, num_heads=3, positions=positions, own=own)
    agrees(model, random_codes(rng, np.uint8, (6, 24)))


def test_a_first_position():
    """ONNX Runtime's operator counts from it on."""
    rng = np.random.default_rng(9)
    model = operator(np.uint8, (6, 24), rng, num_heads=3, positions=np.array([5]), own=True)
    agrees(model, random_codes(rng, np.uint8, (6, 24), 2))


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
def test_on_chips_of_many_shapes(config):
    rng = np.random.default_rng(10)
    for shape, given in ((3, 7, 8), {}), ((100, 36), {"num_heads": 2}), ((2, 40, 16), {"interleaved": 1}):
        agrees(operator(np.int8, shape, rng, **given), random_codes(rng, np.int8, shape), config)


def test_on_the_compiled_chip():
    """What waits for what shows there alone."""
    rng = np.random.default_rng(11)
    with open_device("verilated", config=CHIPS[0], latency=30) as device:
        for shape, given in ((3, 4, 8), {}), ((40, 36), {"num_heads": 2}):
            agrees(operator(np.uint8, shape, rng, **given), random_codes(rng, np.uint8, shape), device=device)


def test_heads_of_a_product():
    """Between a product and another one, as the quantizer leaves it."""
    net, features = Net(5, x=["N", TOKENS, HEADS * WIDTH]), HEADS * WIDTH
    x = net("MatMul", "x", net.weights(features, features))
    x = net("Transpose", net("Reshape", x, np.array([0, TOKENS, HEADS, WIDTH])), perm=[0, 2, 1, 3])
    model = net.model(rows(net, net("RotaryEmbedding", x, *tables(net.rng, 1, TOKENS, WIDTH // 2))), opset=23)
    data = quantize_model(model, random_inputs(model, np.random.default_rng(0), 8))
    inputs = random_inputs(model, np.random.default_rng(1))
    with load_model(data, "wide", "golden", strict=True) as loaded:
        [got] = loaded.run(inputs).values()
    expected = onnxruntime_says(onnx.load_from_string(data), inputs)[0]
    assert np.abs(got - expected).max() <= np.abs(expected).max() / 60


@pytest.mark.parametrize("shape, given, message", [
    ((6, 24), {"num_heads": 3, "ends": (3e38, 3, 1e-3, 7)}, "is too large for its output's"),
    ((2, 5, 8), {"config": "tiny"}, "needs a chip with functions; configuration 'tiny' has none"),
    ((6, 24), {"num_heads": 3, "positions": np.arange(12).reshape(2, 6)}, "the chip does not run|floating point")])
def test_what_is_the_hosts(shape, given, message):
    rng, config = np.random.default_rng(12), given.pop("config", "wide")
    model, x = operator(np.uint8, shape, rng, images=2, **given), random_codes(rng, np.uint8, shape, 2)
    with pytest.raises(CompileError, match=message):
        load_model(model, config, "golden", strict=True)
    with load_model(model, config, "golden") as loaded, np.errstate(all="ignore"):
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x})[0])
