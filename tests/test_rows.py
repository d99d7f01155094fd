"""What takes rows of features, and what leads to it: elements, sums, concatenations, one element of an axis."""

import numpy as np
import pytest
from code_nets import Between, check, onnxruntime_says

from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize


def weighted(net, x, rng, inputs, outputs):
    weights = net("DequantizeLinear", rng.integers(-100, 100, (inputs, outputs)).astype(np.int8), np.float32(0.01),
                  np.int8(0))
    return net("MatMul", x, weights)


def test_elements_sums_and_concatenations_before_rows():
    """A first row of its own, numbers for all places, a function of elements; then a product: without the host."""
    rng = np.random.default_rng(0)
    net = Between(np.uint8, x=[1, 6, 8])
    first, places = (net("DequantizeLinear", rng.integers(0, 256, shape).astype(np.uint8), np.float32(0.05),
                         np.uint8(3)) for shape in ((1, 1, 8), (1, 7, 8)))
    x = net.numbers(net.codes(net("Concat", first, net.numbers("x"), axis=1), 0.05, 3))
    x = net.numbers(net.codes(net("Add", x, places), 0.08, 9), 0.08, 9)
    x = net.numbers(net.codes(net("Sigmoid", x), 1 / 200, 0), 1 / 200, 0)
    model = net.model(net.codes(weighted(net, x, rng, 8, 5), 0.02, 120))
    x = rng.integers(0, 256, (1, 6, 8)).astype(np.uint8)
    check(model, {"x": x})
    with load_model(model, "tiny", "golden", strict=True) as loaded:
        [got] = loaded.run({"x": x}).values()
    np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])


def test_a_constant_beside_any_number_of_images():
    """ONNX does not repeat it."""
    net = Between(np.uint8, x=["N", 6, 8])
    first = net("DequantizeLinear", np.zeros((1, 1, 8), np.uint8), np.float32(0.05), np.uint8(3))
    model = net.model(net.codes(net("Concat", first, net.numbers("x"), axis=1), 0.05, 3))
    with pytest.raises(CompileError, match="takes constants beside a batch of one only"):
        to_layers(optimize(model))


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("index", [0, 3, -1, [2], [-4]], ids=str)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_one_element_of_an_axis(dtype, index, opset):
    """Of a product's rows, before another product; and of an input, for the host."""
    rng, info = np.random.default_rng(1), np.iinfo(dtype)
    net = Between(dtype, x=["N", 4, 8])
    rows = net.numbers(net.codes(weighted(net, net.numbers("x"), rng, 8, 6), 0.05, 3))
    one = net.numbers(net.codes(net("Gather", rows, np.array(index), axis=1)))
    host = net.codes(net("CumSum", net("Gather", net.numbers("x"), np.array(index), axis=1), np.array(1)), 0.05, 3)
    model = net.model(net.codes(weighted(net, one, rng, 6, 5), 0.03, 5), host, opset=opset)
    x = rng.integers(info.min, info.max, (2, 4, 8), dtype, endpoint=True)
    with load_model(model, "tiny", "golden") as loaded:
        places = {row.op: row.place for row in loaded.placement}
        assert places["QLinearMatMul"] == "chip" and places["CumSum"] == "host"
        for got, expected in zip(loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x}), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("index, axis, wrong", [
    (np.array(0), 0, "must leave the batch alone, and its index 0 be one of 1"),
    (np.array(4), 1, "its index 4 be one of 4"),
    (np.array([0, 1]), 1, r"takes one element along one of 3 axes, not \[2\]")])
def test_other_gathers_are_the_hosts(index, axis, wrong):
    rng = np.random.default_rng(2)
    net = Between(np.uint8, x=["N", 4, 8])
    rows = net.numbers(net.codes(weighted(net, net.numbers("x"), rng, 8, 6), 0.05, 3))
    with pytest.raises(CompileError, match=wrong):
        to_layers(optimize(net.model(net.codes(net("Gather", rows, index, axis=axis)))))


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("moves", [
    [("Transpose", [], {"perm": [2, 0, 3, 1, 4]}), ("Reshape", [np.array([-1, 12, 2])], {})],
    [("Transpose", [], {"perm": [0, 2, 3, 1, 4]}), ("Unsqueeze", [np.array([0])], {}),
     ("Squeeze", [np.array([1, 2])], {})]], ids=["in front", "one more"])
def test_an_axis_of_one_in_the_place_of_one_image(moves, batch):
    """Of any number of images it is the host's."""
    rng = np.random.default_rng(3)
    net = Between(np.uint8, x=[batch, 4, 8])
    rows = net.numbers(net.codes(weighted(net, net.numbers("x"), rng, 8, 6), 0.05, 3), 0.05)
    moved = net("Reshape", rows, np.array([-1, 4, 1, 3, 2]))
    for kind, inputs, attributes in moves:
        moved = net(kind, net.numbers(net.codes(moved, 0.05, 3)), *inputs, **attributes)
    model = net.model(net.codes(weighted(net, net.numbers(net.codes(moved, 0.05, 3)), rng, 2, 5), 0.03, 5))
    x = rng.integers(0, 256, (1, 4, 8)).astype(np.uint8)
    with load_model(model, "tiny", "golden", strict=batch == 1) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x}).popitem()[1], onnxruntime_says(model, {"x": x})[0])
        assert batch == 1 or "batch" in str(loaded.placement)


@pytest.mark.parametrize("shape", [(90, 100, 1), (1, 9000, 1)])
def test_large_concatenations_along_a_last_axis_of_one(shape):
    net = Between(np.uint8, x=["N", *shape], y=["N", *shape])
    rng = np.random.default_rng(4)
    inputs = {name: rng.integers(0, 256, (1, *shape)).astype(np.uint8) for name in "xy"}
    pair = [net.numbers("x"), net.numbers(net.codes(net("Abs", net.numbers("y"))), 0.04, 5)]
    check(net.model(net.codes(net("Concat", *pair, axis=-1))), inputs)


@pytest.mark.parametrize("kind", ["Concat", "QLinearConcat"])
def test_concatenations_with_nothing(kind):
    """Exporters write such operands for paddings that turn out to be 0 wide."""
    net, ends = Between(np.uint8, x=[2, 6, 5]), [(np.float32(scale), np.uint8(3)) for scale in (0.04, 0.05)]
    nothing = np.zeros((2, 0, 5), np.uint8)
    if kind == "Concat":
        made = net.codes(net(kind, net.numbers(nothing), net.numbers("x"), axis=1), 0.04, 3)
    else:
        made = net(kind, *ends[0], nothing, *ends[0], "x", *ends[1], domain="com.microsoft", axis=1)
    model = net.model(net.codes(net("Abs", net.numbers(made, 0.04))))
    x = np.random.default_rng(5).integers(0, 256, (2, 6, 5)).astype(np.uint8)
    with load_model(model, "tiny", "golden", strict=True) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x}).popitem()[1], onnxruntime_says(model, {"x": x})[0])


@pytest.mark.parametrize("shape, pads", [
    ((4, 6), (1, 0, 2, 0)), ((4, 6), (0, 2, 0, 1)), ((5, 4, 3), (1, 0, 0, 2, 3, 0)),
    ((5, 4, 3), (0, 2, 1, 0, 0, 1)), ((5, 4, 3), (1, 1, 1, 0, 0, 2))], ids=str)
def test_pads(shape, pads):
    """Of an input along any axes; of rows, or of an image with its channels in front or last, on the chip."""
    rank = len(shape)
    around = np.array([0, *pads[:rank], 0, *pads[rank:]])
    x = np.random.default_rng(6).integers(0, 256, (2, *shape)).astype(np.uint8)

    def padded(net, codes):
        return net.codes(net("Pad", net.numbers(codes), around, np.float32(0.2)), 0.05, 3)

    net = Between(np.uint8, x=["N", *shape])
    [layer] = check(net.model(net.codes(net("Abs", net.numbers(padded(net, "x"))))), {"x": x}).layers
    assert layer.op == "Abs"
    net = Between(np.uint8, x=["N", shape[-1], *shape[:-1]])
    rows = net("Transpose", net("Abs", net.numbers("x")), perm=[0, *range(2, rank + 1), 1])
    model = net.model(padded(net, net.codes(rows, 0.05, 3)))
    x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    with load_model(model, "tiny", "golden", strict=not pads[rank - 1] + pads[-1]) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x}).popitem()[1], onnxruntime_says(model, {"x": x})[0])
