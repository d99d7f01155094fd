"""Transposes of the batch, alone or with heads, around what is for one image."""

import numpy as np
import pytest
from code_nets import Between, onnxruntime_says
from test_network import CONFIGS

from bench.float_nets import Net
from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.frontend.onnx.reader import read_graph
from kiwicha_host.compiler.ir.onnx_op import to_model
from kiwicha_host.compiler.passes.infer_types import infer_types
from kiwicha_host.compiler.passes.sink_transposes import sink_transposes
from kiwicha_host.compiler.passes.unmerge_axes import unmerge_axes

#: What takes one of three of axis 0, which it may leave.
ONE_OF_THREE = {
    "Gather": lambda net, x, item: net("Gather", x, np.array(item), axis=0),
    "Squeeze": lambda net, x, item: net("Squeeze", net("Slice", x, *np.array([[item], [item + 1], [0]])),
                                        np.array([0]))}


def test_any_permutation():
    """Of what stands behind several, too; axes may be counted from behind."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        perm = rng.permutation(4)
        net, first, last = Net(1, x=[2, 3, 1, 4]), int(perm[0]), int(rng.integers(-4, 4))
        size, moved = (2, 3, 1, 4)[perm[last]], net("Transpose", "x", perm=perm.tolist())
        outputs = [net("Gather", moved, np.array(size - 1), axis=last),
                   net("Gather", moved, np.array([0]), axis=last),
                   net("Slice", moved, np.array([0]), np.array([1]), np.array([last]))]
        outputs += [net("Squeeze", item, np.array([last])) for item in outputs[1:]]
        model = net.model(*outputs, *([moved] if rng.random() < 0.5 else []))
        graph = sink_transposes(read_graph(model)).verify()
        assert first == 0 or not any(op.kind == "Slice" and op.inputs[0] != "x" for op in graph.ops)
        x = {"x": rng.normal(0, 1, (2, 3, 1, 4)).astype(np.float32)}
        for got, expected in zip(onnxruntime_says(to_model(graph), x), onnxruntime_says(model, x), strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("take", ONE_OF_THREE)
def test_attention_of_one_product(take, batch):
    """No host between the product of queries, keys and values and that behind their heads, for any batch."""
    net = Net(2, x=[batch, 6, 16])
    three = net("Reshape", net("MatMul", "x", net.weights(16, 48)), np.array([0, 6, 3, 2, 8]))
    three = net("Transpose", three, perm=[2, 0, 3, 1, 4])
    q, k, v = (ONE_OF_THREE[take](net, three, item) for item in range(3))
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    heads = net("MatMul", net("Softmax", net("Mul", scores, np.float32(8 ** -0.5)), axis=-1), v)
    rows = net("Reshape", net("Transpose", heads, perm=[0, 2, 1, 3]), np.array([0, 6, 16]))
    model = net.model(net("MatMul", rows, net.weights(16, 16)))
    x = net.rng.normal(0, 1, (4, 6, 16)).astype(np.float32)
    made, x = quantize_model(model, {"x": x}), x[:batch if batch != "N" else 3]
    with load_model(made, "wide", "golden", strict=True) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x}).popitem()[1], onnxruntime_says(made, {"x": x})[0])


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_keys_of_all_heads_at_once(batch):
    """As PyTorch's newer exporter transposes them."""
    net, known = Net(3, x=[batch, 6, 16]), batch if batch != "N" else -1
    shape = np.array([known, 6, 2, 8])
    q, k, v = (net("Transpose", net("Reshape", net("MatMul", "x", net.weights(16, 16)), shape), perm=[0, 2, 1, 3])
               for _ in range(3))
    k = net("Transpose", net("Reshape", k, np.array([-1, 6, 8])), perm=[0, 2, 1])
    scores = net("MatMul", q, net("Mul", net("Reshape", k, np.array([known, 2, 8, 6])), np.float32(8 ** -0.5)))
    heads = net("Transpose", net("MatMul", net("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    model = net.model(net("MatMul", net("Reshape", heads, np.array([known, 6, 16])), net.weights(16, 16)))
    x = net.rng.normal(0, 1, (4, 6, 16)).astype(np.float32)
    made, x = quantize_model(model, {"x": x}), x[:batch if batch != "N" else 3]
    with load_model(made, "wide", "golden", strict=True) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x}).popitem()[1], onnxruntime_says(made, {"x": x})[0])


@pytest.mark.parametrize("shape, perm", [
    ([-1, 6, 8], [1, 0, 2]), ([-1, 12, 8], [0, 2, 1]), ([-1, 8, 6], [0, 2, 1])])
def test_other_axes_that_are_one(shape, perm):
    """No Transpose of the whole does the same."""
    net = Net(4, x=["N", 2, 6, 8])
    moved = net("Transpose", net("Reshape", "x", np.array(shape)), perm=perm)
    graph = unmerge_axes(infer_types(read_graph(net.model(net("Reshape", moved, np.array([-1, 2, 8, 6]))))))
    assert [op.kind for op in graph.ops] == ["Reshape", "Transpose", "Reshape"]


def test_axes_that_come_and_go():
    net = Between(np.uint8, x=["N", 3, 5])
    first = net.codes(net("Unsqueeze", net.numbers("x"), np.array([0])), 0.05, 3)
    moved = net.codes(net("Squeeze", net.numbers(first), np.array([0])), 0.05, 3)
    model = net.model(net.codes(net("Abs", net.numbers(moved))))
    x = np.random.default_rng(3).integers(0, 256, (2, 3, 5)).astype(np.uint8)
    with load_model(model, CONFIGS["tiny"], "golden", strict=True) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x}).popitem()[1], onnxruntime_says(model, {"x": x})[0])
