"""Products whose places were made the batch: places stay places, and the results are ONNX Runtime's."""

from dataclasses import replace

import numpy as np
import pytest
from code_nets import Between, onnxruntime_says

from bench.cycles import chip
from bench.float_nets import Net, class_token, random_inputs
from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.host import HostPart
from kiwicha_host.compiler.ir.graph import Type
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.compiler.partition import partition
from kiwicha_host.compiler.passes.keep_batch import PLACES_GEMM


def products(source):
    return [op.kind for op in optimize(source).ops if "Gemm" in op.kind]


def check(source, inputs, *hosts, config="tiny"):
    """ONNX Runtime's results, to the bit, with these kinds of operators on the host alone."""
    with load_model(source, config, "golden") as model:
        for (name, got), expected in zip(model.run(inputs).items(), onnxruntime_says(source, inputs), strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected, err_msg=name)
        assert [row.op for row in model.placement if row.place == "host"] == [*hosts]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("places", [(9,), (3, 4), (2, 1, 5)], ids=str)
def test_what_the_quantizer_makes(places, batch, tmp_path):
    """Of a block that adds what two linear layers make of each place."""
    net = Net(2, x=[batch, *places, 8])
    y = net("Relu", net("Add", net("MatMul", "x", net.weights(8, 12)), net.weights(12)))
    y = net("Add", net.weights(8), net("MatMul", y, net.weights(12, 8)))
    model, rng = net.model(net("Add", "x", y)), np.random.default_rng(3)
    data = quantize_model(model, {"x": random_inputs(model, rng)["x"].repeat(4, axis=0) * rng.normal(
        1, 0.3, (4 * batch, *[1] * len(places), 8)).astype(np.float32)})
    (tmp_path / "model.onnx").write_bytes(data)
    assert products(data) == [PLACES_GEMM] * 2
    check(tmp_path / "model.onnx", random_inputs(model, rng))


def test_a_whole_transformer():
    """All of it on the chip, as when the tool had left its products alone."""
    model = class_token()
    data = quantize_model(model, random_inputs(model, np.random.default_rng(1)))
    assert products(data) == [PLACES_GEMM] * 6 + ["com.microsoft.QGemm"]
    load_model(data, chip("tiny+functions"), "golden", strict=True).close()


def rows(net, x, width):
    """Places as the batch, as exporters of linear layers write it, and then as a pair of codes."""
    return net.numbers(net.codes(net("Reshape", x, np.array([-1, width])), 0.05))


def gemm(net, x, inputs, outputs, scale=0.05, **attributes):
    weights = net("DequantizeLinear", net.rng.integers(-90, 90, (inputs, outputs)).astype(np.int8),
                  np.float32(0.01), np.int8(0))
    bias = net("DequantizeLinear", net.rng.integers(-900, 900, outputs).astype(np.int32), np.float32(
        0.01 * scale), np.int32(0))
    return net.codes(net("Gemm", x, weights, bias, **attributes), 0.05, 120)


@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_what_looks_at_rows_alone(batch):
    """Products, functions, sums, also with a row of constants; then places again, and something for these."""
    net = Between(np.uint8, x=[batch, 4, 6, 10])
    x = rows(net, net.numbers("x", zero=5), 10)
    y = net.numbers(gemm(net, x, 10, 12), 0.05, 120)
    y = net.numbers(net.codes(net("Mul", y, net("Sigmoid", y)), 0.03, 10), 0.03, 10)
    y = net.numbers(gemm(net, y, 12, 10, 0.03), 0.05, 120)
    y = net.numbers(net.codes(net("Add", y, x), 0.08, 120), 0.08, 120)
    row = net("DequantizeLinear", net.rng.integers(0, 255, 10).astype(np.uint8), np.float32(0.02), np.uint8(90))
    y = net.numbers(net.codes(net("Add", y, row), 0.08, 120), 0.08, 120)
    y = net.codes(net("Reshape", y, np.array([-1, 4, 6, 10])), 0.08, 120)
    y = net("Transpose", net.numbers(y, 0.08, 120), perm=[0, 3, 1, 2])
    y = net.codes(net("MaxPool", y, kernel_shape=[2, 2]), 0.08, 120)
    model = net.model(y)
    assert products(model) == [PLACES_GEMM] * 2
    check(model, {"x": net.rng.integers(0, 256, (3 if batch == "N" else batch, 4, 6, 10)).astype(np.uint8)})


def test_softmax_and_norms_of_rows():
    net = Between(np.uint8, x=[2, 5, 6])
    y = net.numbers(gemm(net, rows(net, net.numbers("x", zero=5), 6), 6, 8), 0.05, 120)
    y = net("LayerNormalization", y, net.weights(8), net.weights(8), axis=-1)
    y = net("RMSNormalization", net.numbers(net.codes(y, 0.03, 120), 0.03, 120), net.weights(8), axis=-1)
    y = net("Softmax", net.numbers(net.codes(y, 0.03, 120), 0.03, 120), axis=-1)
    y = net("Reshape", net.numbers(net.codes(y, 1 / 256, 0), 1 / 256, 0), np.array([2, 5, 8]))
    model = net.model(net.codes(y, 1 / 256, 0), opset=23)
    load_model(model, "wide", "golden", strict=True).close()
    check(model, {"x": net.rng.integers(0, 256, (2, 5, 6)).astype(np.uint8)}, config="wide")


def test_what_looks_at_more_than_rows():
    """Rows that change places with columns, constants for each row, and rows that the user asked for."""
    net = Between(np.uint8, x=[2, 5, 6])
    x = rows(net, net.numbers("x", zero=5), 6)
    y = gemm(net, x, 6, 7)
    numbers = net.numbers(y, 0.05, 120)
    turned = net.codes(net("Transpose", numbers, perm=[1, 0]), 0.05, 120)
    constant = net("DequantizeLinear", net.rng.integers(0, 255, (10, 7)).astype(np.uint8), np.float32(0.02),
                   np.uint8(90))
    added = net.codes(net("Add", numbers, constant), 0.08, 120)
    model, x = net.model(y, turned, added), net.rng.integers(0, 256, (2, 5, 6)).astype(np.uint8)
    assert products(model) == [PLACES_GEMM]
    with load_model(model, "tiny", "golden") as loaded:
        for got, expected in zip(loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x}), strict=True):
            np.testing.assert_array_equal(got, expected)
        assert {row.op for row in loaded.placement if row.place == "chip"} >= {"QGemm"}


def test_what_is_no_batch():
    """Two inputs for different numbers of images, and rows that are parts of several images."""
    net = Between(np.uint8, x=[2, 5, 6], other=[3, 4])
    net_ = Between(np.uint8, x=[3, 5, 4])
    models = [net.model(gemm(net, rows(net, net.numbers("x", zero=5), 6), 6, 7), net.codes(net.numbers("other"))),
              net_.model(gemm(net_, rows(net_, net_.numbers("x", zero=5), 12), 12, 7))]
    for model in models:
        assert products(model) == ["com.microsoft.QGemm"]


def test_the_host_has_onnx_runtimes_operator():
    """Where the chip cannot be had."""
    net = Between(np.uint8, x=[2, 5, 6])
    y = net.numbers(gemm(net, rows(net, net.numbers("x", zero=5), 6), 6, 7), 0.05, 120)
    model = net.model(net.codes(net("Reshape", y, np.array([2, 5, 7])), 0.05, 120))
    graph, x = optimize(model), net.rng.integers(0, 256, (2, 5, 6)).astype(np.uint8)
    assert PLACES_GEMM in {op.kind for op in graph.ops}
    [subgraph] = partition(replace(graph, types={name: Type(type_.element, None)
                                               for name, type_ in graph.types.items()}))
    assert {*subgraph.why} == {op.name for op in graph.ops}
    [got] = HostPart(subgraph.graph).run({"x": x}).values()
    np.testing.assert_array_equal(got, onnxruntime_says(model, {"x": x})[0])
