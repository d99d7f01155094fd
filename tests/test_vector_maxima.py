"""Largest codes, of windows and of all places: ONNX Runtime's, to the bit."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, check, onnxruntime_says
from test_network import CONFIGS
from test_vector_operators import RandomVectors

from kiwicha_host import load_model

#: By name: what takes numbers, the version of ONNX, and the shape of one image.
MAXIMA = {
    "GlobalMaxPool": (lambda net, x: net("GlobalMaxPool", x), 20, (5, 6, 7)),
    "GlobalMaxPool of rows": (lambda net, x: net("GlobalMaxPool", x), 20, (5, 9)),
    "ReduceMax": (lambda net, x: net("ReduceMax", x, np.array([2, 3])), 20, (5, 6, 7)),
    "ReduceMax backwards": (lambda net, x: net("ReduceMax", x, np.array([-1, -2]), keepdims=0), 20, (5, 6, 7)),
    "ReduceMax of rows": (lambda net, x: net("ReduceMax", x, np.array([2]), keepdims=1), 20, (5, 9)),
    "ReduceMax by attributes": (lambda net, x: net("ReduceMax", x, axes=[2, 3], keepdims=0), 13, (5, 6, 7))}


def codes(net, count=2):
    info = np.iinfo(net.dtype)
    return {name: np.random.default_rng(0).integers(info.min, info.max, (count, *shape[1:]), net.dtype,
                                                    endpoint=True) for name, shape in net.shapes.items()}


def placed(net, *outputs, config="tiny", opset=20):
    """Where the operators run; the results are ONNX Runtime's."""
    model, inputs = net.model(*outputs, opset=opset), codes(net)
    with load_model(model, CONFIGS[config], "golden") as loaded:
        for (name, got), wanted in zip(loaded.run(inputs).items(), onnxruntime_says(model, inputs), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=name)
        return {row.node: row.place for row in loaded.placement}


@DTYPES
@pytest.mark.parametrize("behind", ["codes", "other codes", "a function", "a limit"])
@pytest.mark.parametrize("name", MAXIMA)
def test_of_all_places(name, behind, dtype):
    """One layer: a function's takes the window."""
    take, opset, shape = MAXIMA[name]
    net = Between(dtype, x=["N", *shape])
    numbers = net.numbers("x")
    largest = take(net, net("Tanh", numbers) if behind == "a function" else numbers)
    largest = net("Relu", largest) if behind == "a limit" else largest
    steps = {"other codes": (0.04, 5), "a function": (0.01, 0)}.get(behind, (0.05, 3))
    found = check(net.model(net.codes(largest, *steps), opset=opset), codes(net))
    assert len(found.layers) == 1 and found.layers[0].pool.size == (1, 1)


@DTYPES
@pytest.mark.parametrize("axes", [[1], [3], [1, 2, 3], [0, 2, 3]])
def test_of_other_axes(axes, dtype):
    """The host reduces codes."""
    net = Between(dtype, x=["N", 5, 6, 7])
    made = net("ReduceMax", net("MaxPool", "x", kernel_shape=[2, 2]), np.array(axes))
    where = placed(net, made)
    assert where == {"MaxPool0": "chip", made: "host"}


def test_before_onnx_has_them_for_codes():
    net = Between(np.uint8, x=["N", 5, 6, 7])
    pooled = net.codes(net("MaxPool", net.numbers("x"), kernel_shape=[2, 2]), 0.05, 3)
    made = net("ReduceMax", net.numbers(pooled), axes=[1])
    where = placed(net, net.codes(made, 0.04, 3), opset=11)
    assert where[made] == "host"


@pytest.mark.parametrize("config, size, fits", [("tiny", 8, True), ("tiny", 16, False), ("small", 20, False),
                                                ("cramped", 12, False)])
def test_windows_that_are_too_large_for_a_product(config, size, fits):
    """The sums of a window do not fit the accumulators together: then codes go to the window."""
    net, rng = Between(np.uint8, x=["N", 3, size, size]), np.random.default_rng(0)
    weights = net("DequantizeLinear", rng.integers(-128, 128, (6, 3, 3, 3), np.int8), np.float32(0.01), np.int8(0))
    product = net.codes(net("Conv", net.numbers("x"), weights, pads=[1] * 4), 0.3, 100)
    made = net.codes(net("GlobalMaxPool", net.numbers(product, 0.3, 100)), 0.3, 100)
    model, inputs = net.model(made), codes(net)
    with load_model(model, CONFIGS[config], "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run(inputs).values(), onnxruntime_says(model, inputs)[0])
        assert [row.place for row in loaded.placement] == ["chip"] * 2
        assert len(loaded.compiled.parts) == 1 and len(loaded.last_run.layers) == (1 if fits else 2)


def test_windows_that_are_too_large_for_the_scratchpad():
    """The function whose layer would take it is the chip's all the same."""
    net = Between(np.uint8, x=["N", 1, 80, 80])
    small = net.codes(net("Tanh", net.numbers(net("MaxPool", "x", kernel_shape=[1, 2]))), 0.01, 100)
    large = net("MaxPool", small, kernel_shape=[80, 79])
    where = placed(net, large)
    assert where == {"MaxPool0": "chip", "Tanh2": "chip", large: "host"}


class RandomMaxima(RandomVectors):
    """With the largest codes of all places."""
    KINDS = (*RandomVectors.KINDS, "largest", "largest", "pool")

    def largest(self):
        like = self.pick()
        self.add("ReduceMax", [like[0]], [(like[1][0], 1, 1)], like, axes=[2, 3])


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs(seed):
    print(f"seed {seed}")
    graph = RandomMaxima(seed)
    model, inputs = graph.model(), graph.arrays(2)
    with load_model(model, list(CONFIGS.values())[seed % len(CONFIGS)], "golden") as loaded:
        for (name, got), wanted in zip(loaded.run(inputs).items(), onnxruntime_says(model, inputs), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=f"{name}, seed {seed}")
        assert any(row.place == "chip" for row in loaded.placement)
