"""Operators of ONNX Runtime's own domain that are several of ONNX's."""

import numpy as np
import onnx
import onnxruntime
import pytest
from code_nets import onnxruntime_says
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from test_model import TINY, check

from bench.float_nets import Net, quantized
from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.frontend.onnx.reader import read_graph
from kiwicha_host.compiler.ir.onnx_op import to_model
from kiwicha_host.compiler.passes.own_operators import own_operators


def products():
    """Of which none has a QuantizeLinear behind it, if MatMul alone is quantized; with and without a bias."""
    net = Net(3, x=["N", 5, 12])
    y = net("Tanh", net("Add", net("MatMul", "x", net.weights(12, 12)), net.weights(12)))
    return net.model(net("Sin", net("MatMul", y, net.weights(12, 4))))


def optimized(path):
    """As ONNX Runtime saves a model that it has optimized."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


@pytest.mark.parametrize("kind", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_products_that_onnxruntime_has_fused(kind, per_channel, tmp_path):
    """They are the chip's, and the same numbers."""
    model = products()
    if kind == "DynamicQuantizeMatMul":
        onnx.save(model, tmp_path / "float.onnx")
        quantize_dynamic(tmp_path / "float.onnx", path := tmp_path / "dynamic.onnx", per_channel=per_channel)
    else:
        path = quantized(model, tmp_path, per_channel=per_channel, op_types_to_quantize=["MatMul"],
                         extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]})
    fused = optimized(path)
    assert [node.op_type for node in fused.graph.node].count(kind) == 2
    x = np.random.default_rng(1).normal(0, 1, (3, 5, 12)).astype(np.float32)
    check(fused, {"x": x}, 1)


def product(kind, inputs, values, computed):
    """A model of one product, y; of `values` by name, those `computed` and the rows of the first are inputs."""
    tensors = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), shape)
               for name, shape in {inputs[0]: ["N", 6], **{name: values[name].shape for name in computed}}.items()]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, ["y"], "p", domain="com.microsoft")], "product", tensors,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(values[name], name) for name in inputs if name not in {inputs[0], *computed}])
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])


@pytest.mark.parametrize("inputs, computed", [
    ("xwst", "s"), ("xwstz", "sz"), ("xwstz", "z"), ("xwstzv", "v"), ("xwstzv", "tzv")])
def test_products_by_scales_and_zeros_that_are_computed(inputs, computed):
    """MatMulIntegerToFloat, of which some come from elsewhere, without more."""
    rng = np.random.default_rng(0)
    values = {"x": rng.integers(0, 256, (4, 6), np.uint8), "w": rng.integers(-128, 128, (6, 3), np.int8),
              "s": np.array(0.02, np.float32), "t": np.float32(rng.uniform(0.01, 0.02, 3)),
              "z": np.array(100, np.uint8), "v": np.array(-3, np.int8)}
    check(product("MatMulIntegerToFloat", [*inputs], values, computed),
          {name: values[name] for name in ("x", *computed)}, 1)


def test_a_product_with_a_name_in_use():
    """The scale and zero point that come with the codes are found, too."""
    rng, x = np.random.default_rng(0), "y:DynamicQuantizeLinear"
    values = {x: np.float32(rng.normal(0, 1, (4, 6))), "w": rng.integers(-128, 128, (6, 3), np.int8),
              "t": np.float32(rng.uniform(0.01, 0.02, 3))}
    check(product("DynamicQuantizeMatMul", [*values], values, ()), {x: values[x]}, 1)


def norm(kind, inputs, outputs, epsilon=None, computed=()):
    """A norm of a sum; `inputs` other than x, y, "" and those `computed` are constants."""
    net = Net(2, x=["N", 3, 8], y=["N", 3, 8], **{name: [8] for name in computed})
    for name in {*inputs} - {"x", "y", "", *computed}:
        net._constants.append(numpy_helper.from_array(net.rng.normal(1, 0.3, 8).astype(np.float32), name))
    net._nodes.append(helper.make_node(kind, inputs, outputs, "norm", domain="com.microsoft",
                                       **({} if epsilon is None else {"epsilon": epsilon})))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(net._nodes, "norm", [value(name, TensorProto.FLOAT, shape)
                                                   for name, shape in net.shapes.items()],
                              [value(name, TensorProto.FLOAT, None) for name in outputs if name], net._constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])


@pytest.mark.parametrize("kind, inputs", [
    ("SkipLayerNormalization", ["x", "y", "g"]), ("SkipLayerNormalization", ["x", "y", "g", "b"]),
    ("SkipLayerNormalization", ["x", "y", "g", "b", "c"]), ("SkipLayerNormalization", ["x", "y", "g", "", "c"]),
    ("SkipSimplifiedLayerNormalization", ["x", "y", "g"]),
    ("SkipSimplifiedLayerNormalization", ["x", "y", "g", "c"])])
@pytest.mark.parametrize("outputs", [["n"], ["n", "", "", "s"]])
@pytest.mark.parametrize("epsilon", [None, 0.5])
def test_norms_of_sums(kind, inputs, outputs, epsilon):
    """ONNX's operators give the same numbers, also of the sum, which has no mean but what its inputs have."""
    model = norm(kind, inputs, outputs, epsilon)
    plain = own_operators(read_graph(model))
    assert [op.kind for op in plain.ops] == ["Add"] * (1 + ("c" in inputs)) + [kind.removeprefix("Skip")]
    values = {name: np.random.default_rng(seed).normal(0, 1, (2, 3, 8)).astype(np.float32)
              for seed, name in enumerate("xy")}
    with load_model(model, TINY, "golden") as loaded:
        whole = loaded.run(values)
    for got, expected in zip(onnxruntime_says(to_model(plain), values), whole.values(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs, computed", [(["n", "m"], ""), (["n"], "g")])
def test_norms_that_stay(outputs, computed):
    """Their mean is a result, or what they multiply by is computed."""
    model = norm("SkipLayerNormalization", ["x", "y", "g"], outputs, computed=computed)
    assert [op.kind for op in own_operators(read_graph(model)).ops] == ["com.microsoft.SkipLayerNormalization"]


def test_quantizing_what_onnxruntime_has_fused():
    """A transformer's block: its products, sums, norms and functions are all the chip's then."""
    net = Net(1, x=["N", 4, 16])
    own = {"domain": "com.microsoft"}
    y = net("MatMul", "x", net.weights(16, 16))
    y = net("SkipLayerNormalization", "x", y, net.weights(16), net.weights(16), net.weights(16), **own)
    y = net("BiasGelu", net("MatMul", y, net.weights(16, 24)), net.weights(24), **own)
    y = net("FastGelu", net("MatMul", y, net.weights(24, 16)), net.weights(16), **own)
    y = net("SkipSimplifiedLayerNormalization", "x", y, net.weights(16), epsilon=1e-5, **own)
    y = net("MatMul", y, net.weights(16, 8))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(net._nodes, "block", [value("x", TensorProto.FLOAT, ["N", 4, 16])],
                              [value(y, TensorProto.FLOAT, None)], net._constants)
    model = helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])
    x = np.random.default_rng(0).normal(0, 1, (8, 4, 16)).astype(np.float32)
    made = quantize_model(model, {"x": x})
    [exact], [got] = (onnxruntime_says(item, {"x": x}) for item in (model, made))
    assert np.abs(got - exact).max() < 0.06 * np.ptp(exact)
    with load_model(made, "wide", "golden", strict=True) as loaded:
        assert np.abs(loaded.run({"x": x})[y] - got).max() < 0.02 * np.ptp(exact)
