"""What is left for the host: ONNX Runtime computes of a part what it computes of the whole model."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from code_nets import onnxruntime_says
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, quantize_dynamic
from test_model import TINY, check

from bench.float_nets import NETS, Net, quantized, random_inputs
from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.host import HostPart
from kiwicha_host.compiler.ir.graph import Type
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.compiler.partition import partition


def tied(shared):
    """An embedding, a product of codes, and a product of numbers with the embedding's weights."""
    net, rng = Net(0, x=["N", 3, 32]), np.random.default_rng(0)
    step, zero, one = np.float32(0.02), np.uint8(128), np.float32(0.01)

    def pair(name):
        return net("DequantizeLinear", net("QuantizeLinear", name, step, zero), step, zero)

    weights, other = (rng.integers(-128, 128, (32, 32)).astype(np.int8) for _ in range(2))
    weights, scale = (net._named(item) for item in (weights, one))
    again = {"scale": scale, "equal scale": one}.get(shared, np.float32(0.03))
    ids = net("Cast", net("ReduceMax", "x", axes=[-1], keepdims=0), to=TensorProto.INT64)
    embedded = net("DequantizeLinear", net("Gather", weights, ids), scale)
    product = pair(net("MatMul", pair(embedded), net("DequantizeLinear", other, np.float32(0.011))))
    weights = weights if shared == "weights" else net("Transpose", weights, perm=[1, 0])
    last = net("DequantizeLinear", weights, again)
    if shared == "numbers":
        product = net("Add", product, net("MatMul", "x", last))
    return net.model(net("MatMul", net("Tanh", product), last))


@pytest.mark.parametrize("shared", ["scale", "equal scale", "weights", "numbers", "nothing"])
def test_weights_that_a_part_shares_with_another(shared):
    """What keeps ONNX Runtime from packing weights does so too where it is in another part."""
    model = tied(shared).SerializeToString()
    x = np.random.default_rng(1).uniform(0, 32, (2, 3, 32)).astype(np.float32)
    with load_model(model, TINY, "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), *onnxruntime_says(model, {"x": x}))
        assert {row.place for row in loaded.placement if "MatMul" in row.op} == {"chip", "host"}


def test_results_of_a_part_that_it_quantizes_too():
    """ONNX Runtime moves the Transpose, and would leave numbers of the codes to the other part."""
    net, step, zero = Net(0, x=["N", 16, 8, 8]), np.float32(0.03), np.uint8(128)

    def pair(name):
        return net("DequantizeLinear", net("QuantizeLinear", name, step, zero), step, zero)

    weights = net("DequantizeLinear", net.rng.integers(-128, 128, (16, 16, 1, 1), np.int8), np.float32(0.01))
    rows = net("Transpose", pair(net("Conv", pair("x"), weights)), perm=[0, 2, 3, 1])
    rows = net("LayerNormalization", rows, net.weights(16), net.weights(16))
    y = pair(net("Conv", pair(net("Transpose", rows, perm=[0, 3, 1, 2])), weights))
    model = net.model(net("Add", net("Tanh", net("Transpose", y, perm=[0, 2, 3, 1])), rows)).SerializeToString()
    x = np.random.default_rng(1).normal(0, 1, (2, 16, 8, 8)).astype(np.float32)
    with load_model(model, TINY, "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), *onnxruntime_says(model, {"x": x}))
        assert [row.place for row in loaded.placement if row.macs] == ["chip", "chip"]


def dynamic_lstm(tmp_path):
    """An LSTM without a bias through ONNX Runtime's dynamic quantization."""
    rng, value = np.random.default_rng(0), helper.make_tensor_value_info
    weights = [numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name)
               for name, shape in (("w", (1, 16, 3)), ("r", (1, 16, 4)))]
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)], "lstm",
        [value("x", TensorProto.FLOAT, [5, "N", 3])], [value("y", TensorProto.FLOAT, None)], weights)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]),
              tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx", op_types_to_quantize=["LSTM"])
    return onnx.load(tmp_path / "dynamic.onnx")


def test_own_operators_with_optional_inputs_between(tmp_path):
    """DynamicQuantizeLSTM needs its last inputs, and not those in the middle."""
    model = dynamic_lstm(tmp_path)
    [node] = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    assert [bool(name) for name in node.input] == 3 * [True] + 5 * [False] + 4 * [True]
    x = np.random.default_rng(1).normal(0, 1, (5, 2, 3)).astype(np.float32)
    with load_model(model, TINY, "golden", dims={"N": 2}) as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x})["y"],
                                      onnxruntime_says(model.SerializeToString(), {"x": x})[0])
    node.input[9] = ""
    with pytest.raises(CompileError, match="DynamicQuantizeLSTM '.*' has a wrong number of inputs"):
        load_model(model, TINY, "golden", dims={"N": 2})


def test_own_operators_without_their_inputs(tmp_path):
    """ONNX Runtime would end the process."""
    model = onnx.load(quantized(NETS["two_and_two"](), tmp_path, quant_format=QuantFormat.QOperator))
    node = next(node for node in model.graph.node if node.op_type == "QGemm")
    del node.input[4:]
    with pytest.raises(CompileError, match="QGemm '.*' has a wrong number of inputs or outputs"):
        load_model(model, TINY, "golden")


def with_branch(node):
    """Takes `node`, of x and s to z, or x."""
    value = helper.make_tensor_value_info
    branches = {f"{name}_branch": helper.make_graph(
        [item], name, [], [value(item.output[0], TensorProto.FLOAT, None)])
        for name, item in (("then", node), ("else", helper.make_node("Identity", ["x"], ["w"])))}
    graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], **branches)], "branches",
                              [value("x", TensorProto.FLOAT, [2]), value("c", TensorProto.BOOL, [])],
                              [value("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(np.float32([1, 2]), "s")])
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])


def test_own_operators_in_branches():
    """They are checked as those outside are, and are as welcome in ONNX's own domain."""
    inputs = {"x": np.float32([3, 4]), "c": np.array(True)}
    model = with_branch(helper.make_node("SimplifiedLayerNormalization", ["x", "s"], ["z"]))
    with load_model(model, TINY, "golden") as loaded:
        np.testing.assert_array_equal(loaded.run(inputs)["y"], onnxruntime_says(model, inputs)[0])
    with pytest.raises(CompileError, match="QLinearAdd 'a' has a wrong number of inputs or outputs"):
        load_model(with_branch(helper.make_node("QLinearAdd", ["x", "s"], ["z"], "a", domain="com.microsoft")),
                   TINY, "golden")


def test_types_of_operators_that_onnx_does_not_know(tmp_path):
    """Without the types that the quantizer leaves in the file, ONNX Runtime knows those of its own operators."""
    model = NETS["two_and_two"]()
    path = quantized(model, tmp_path, quant_format=QuantFormat.QOperator, per_channel=True)
    bare = onnx.load(path)
    assert "QGemm" in {node.op_type for node in bare.graph.node}
    del bare.graph.value_info[:]
    onnx.save(bare, path)
    loaded = check(path, random_inputs(model, np.random.default_rng(0), 2), 1)
    assert [row.place for row in loaded.placement if row.op == "com.microsoft.QGemm"] == ["chip"] * 4


def test_the_chips_own_operators_become_onnx_again(tmp_path):
    """Where shapes are not known, the host has what the chip would have had."""
    net = Net(3, x=["N", 2, 5, 6])
    model = net.model(net("ConvTranspose", "x", net.weights(2, 4, 3, 3), net.weights(4), strides=[2, 2]))
    path = quantized(model, tmp_path, per_channel=True)
    graph = optimize(path)
    assert "kiwicha.QLinearConvTranspose" in {op.kind for op in graph.ops}
    [subgraph] = partition(replace(graph, types={name: Type(type_.element, None)
                                               for name, type_ in graph.types.items()}))
    inputs = random_inputs(model, np.random.default_rng(1), 2)
    assert list(subgraph.why) == [op.name for op in graph.ops]
    [got] = HostPart(subgraph.graph).run(inputs).values()
    np.testing.assert_array_equal(got, onnxruntime_says(path, inputs)[0])
