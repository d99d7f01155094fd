"""Float models, by ONNX Runtime's quantizer."""

import numpy as np
import onnx
import pytest
from code_nets import onnxruntime_says
from onnx import helper
from test_model import check

from bench.float_nets import NETS, Net
from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model


def test_quantizing(tmp_path):
    model = NETS["resnet"]()
    path, rng = tmp_path / "float.onnx", np.random.default_rng(0)
    onnx.save(model, path)
    data = rng.normal(0, 1, (6, 3, 8, 8)).astype(np.float32)
    made = quantize_model(path, {"x": data})
    check(made, {"x": data[:2]}, 1)
    # Operators of version 11, whose scales had no axis yet, become newer ones.
    net = Net(3, x=["N", 3, 8, 8])
    old = net.model(net.conv(net.conv("x", 4, 3), 5, 4), opset=11)
    check(quantize_model(old, {"x": data}), {"x": data[:2]}, 1)
    for source, calibration, pattern in (
            (made, {"x": data}, "the model is quantized already"),
            (path, {}, "--quantize needs arrays for the input 'x' too"),
            (path, {"x": data[0]}, "must have 4 dimensions and elements, not"),
            (path, {"x": data[:0]}, "must have 4 dimensions and elements, not"),
            (path, {"x": np.full_like(data, np.inf)}, "holds NaN or infinity"),
            (path, {"x": data[:, :2]}, "ONNX Runtime cannot quantize the model: ")):
        with pytest.raises(CompileError, match=pattern) as caught:
            quantize_model(source, calibration)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 1), (1, 5), (4, 1), (4, 5)])
def test_quantizing_biases_of_any_shape(shape, transposed):
    """ONNX Runtime's tool wants vectors; what is no single row becomes a sum."""
    net, rng = Net(4, x=[4, 7]), np.random.default_rng(1)
    bias = net._named(rng.normal(0, 1, shape).astype(np.float32))   # of both
    first = net("Gemm", "x", net.weights(*((5, 7) if transposed else (7, 5))), bias, transB=transposed)
    model = net.model(net("Gemm", first, net.weights(5, 5), bias, beta=0.5))
    x = rng.normal(0, 1, (40, 7)).astype(np.float32)
    made = quantize_model(model, {"x": x})
    [exact], [got] = (onnxruntime_says(item, {"x": x[:4]}) for item in (model.SerializeToString(), made))
    assert np.abs(got - exact).max() < 0.05 * np.ptp(exact)
    check(made, {"x": x[:4]}, 1 if shape == (5,) else 0.5)


def test_quantizing_stacks_and_groups():
    """The tool's axis of outputs is none of theirs."""
    net = Net(5, x=["N", 4, 3, 6])
    y = net("ConvTranspose", "x", net.weights(4, 2, 2, 2), net.weights(4), group=2, strides=[2, 2])
    y = net("MatMul", net.weights(5, 6), net("MatMul", y, net.weights(1, 4, 12, 12)))
    made = quantize_model(net.model(y), {"x": net.rng.normal(0, 1, (6, 4, 3, 6)).astype(np.float32)})
    loaded = check(made, {"x": net.rng.normal(0, 1, (2, 4, 3, 6)).astype(np.float32)}, 1)
    assert [row.place for row in loaded.placement if row.macs] == 3 * ["chip"]


def test_quantizing_beside_graphs_in_nodes():
    """The tool does not see what a branch of an If takes."""
    net = Net(6, x=["N", 4, 5, 5])
    made = net.conv(net.conv("x", 4, 4), 4, 4)
    branches = [helper.make_graph([helper.make_node(kind, [made], [kind])], "branch", [],
                                  [helper.make_tensor_value_info(kind, 1, None)]) for kind in ("Abs", "Tanh")]
    chosen = net("If", net("Greater", net("ReduceSum", "x", keepdims=0), np.float32(0)), then_branch=branches[0],
                 else_branch=branches[1])
    x = net.rng.normal(0, 1, (6, 4, 5, 5)).astype(np.float32)
    check(quantize_model(net.model(net.conv(chosen, 3, 4)), {"x": x}), {"x": x[:2]}, 1)


def test_quantizing_biases_of_several():
    """The tool numbers their copies: one then had the name of the other product's result."""
    net = Net(7, x=["N", 4, 5, 5])
    bias = net._named(net.rng.normal(0, 1, 4).astype(np.float32))
    first, second = (net("Conv", "x", net.weights(4, 4, 3, 3), bias) for _ in range(2))
    model = net.model(net.conv(net("Add", net("Neg", first), net("Neg", second)), 3, 4))
    new = {bias: "bias", first: "bias0", second: "other"}
    for names in (names for node in model.graph.node for names in (node.input, node.output)):
        names[:] = [new.get(item, item) for item in names]
    next(item for item in model.graph.initializer if item.name == bias).name = "bias"
    x = net.rng.normal(0, 1, (6, 4, 5, 5)).astype(np.float32)
    made = quantize_model(model, {"x": x})
    [exact], [got] = (onnxruntime_says(item, {"x": x}) for item in (model.SerializeToString(), made))
    assert np.abs(got - exact).max() < 0.05 * np.ptp(exact)
    check(made, {"x": x[:2]}, 1)


@pytest.mark.parametrize("count", [2, 3])
def test_quantizing_sums(count):
    """The tool leaves a Sum in numbers."""
    net = Net(8, x=["N", 4, 6, 6])
    total = net("Sum", *(net.conv("x", 4, 4, act="") for _ in range(count)))
    model = net.model(net.conv(net("Relu", total), 3, 4))
    x = net.rng.normal(0, 1, (6, 4, 6, 6)).astype(np.float32)
    loaded = check(quantize_model(model, {"x": x}), {"x": x[:2]}, 1)
    assert {row.place for row in loaded.placement} == {"chip"}


@pytest.mark.parametrize("opset", [17, 18])
def test_normalizations_with_a_transpose_inside(opset):
    """ONNX Runtime moves one from before the norm into it; `--quantize` leaves it whole for all that."""
    net = Net(9, x=["N", 8, 5, 5])
    rows = net("Reshape", net.conv("x", 8, 8, act=""), np.array([0, 8, 25]))
    axes, given = ([], {"axes": [1]}) if opset < 18 else ([np.array([1])], {})
    last, of_last = ([], {"axes": [-1]}) if opset < 18 else ([np.array([-1])], {})
    centered = net("Transpose", net("Sub", rows, net("ReduceMean", rows, *axes, **given)), perm=[0, 2, 1])
    variance = net("ReduceMean", net("Pow", centered, np.float32(2)), *last, **of_last)
    norm = net("Div", centered, net("Sqrt", net("Add", variance, np.float32(1e-5))))
    norm = net("Add", net("Mul", norm, net.weights(8)), net.weights(8))
    x = net.rng.normal(0, 1, (6, 8, 5, 5)).astype(np.float32)
    model = net.model(net("MatMul", norm, net.weights(8, 6)), opset=opset)
    made = quantize_model(model, {"x": x})
    with load_model(made, "wide", "golden", strict=True) as loaded:
        [got], [exact] = loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x})
    assert np.abs(got - exact).max() < 0.05 * np.ptp(exact)
