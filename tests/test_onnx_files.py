"""ONNX files as people have them: data beside them, old versions, dead branches; attributes kept or refused."""

import numpy as np
import onnx
import pytest
from code_nets import Between, onnxruntime_says
from onnx import TensorProto, helper
from onnx_models import ModelBuilder, run_onnxruntime

from kiwicha import ChipConfig
from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError, compile_onnx
from kiwicha_host.compiler.frontend.onnx.model_file import read_model
from kiwicha_host.devices import open_device
from kiwicha_host.inference import infer

TINY = ChipConfig.preset("tiny")


def right(model, inputs, source=None):
    """The golden machine says what ONNX Runtime says."""
    network = compile_onnx(TINY, model if source is None else source)
    with open_device("golden", config=TINY) as device:
        outputs, _ = infer(device, network, inputs)
    expected = run_onnxruntime(model, inputs)
    assert outputs.dtype == expected.dtype
    np.testing.assert_array_equal(outputs, expected)


def refused(model, pattern):
    with pytest.raises(CompileError, match=pattern) as caught:
        compile_onnx(TINY, model)
    assert "\n" not in str(caught.value)


def conv(seed=0, **options):
    builder = ModelBuilder(np.random.default_rng(seed), (3, 5, 5), **options)
    builder.conv(4, (3, 3))
    return builder


@pytest.fixture
def stored(tmp_path):
    """A model whose data are in a file beside it, and that model with its data in it."""
    model, path = conv().build(), tmp_path / "model" / "model.onnx"
    path.parent.mkdir()
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path, whole


def test_data_beside_the_file(stored, tmp_path, monkeypatch):
    """From the model's folder, whatever is in the current one."""
    path, whole = stored
    inputs = np.random.default_rng(1).integers(-128, 128, (2, 3, 5, 5), np.int8)
    data = path.with_name("weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(bytes(len(data)))
    monkeypatch.chdir(tmp_path)
    right(whole, inputs, path)
    monkeypatch.chdir(path.parent)
    right(whole, inputs, path.name)


def test_data_that_are_not_there(stored, monkeypatch):
    path, _ = stored
    monkeypatch.chdir(path.parent)
    refused(path.read_bytes(), "the data of 'c0' are in another file; give the model's path")
    refused(onnx.load(path, load_external_data=False), "the data of 'c0' are in another file")
    data = path.with_name("weights.bin")
    data.write_bytes(data.read_bytes()[:70])
    refused(path, "the external data of .*model.onnx cannot be read: .*'c2'")
    data.unlink()
    refused(path, "the external data of .*model.onnx cannot be read: .*weights.bin")


@pytest.mark.parametrize("key, value", [("location", "../weights.bin"), ("location", "/etc/hosts"),
                                        ("offset", "ten"), ("offset", "-5"), ("length", "1000000")])
def test_data_elsewhere(stored, key, value):
    path, _ = stored
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(model.SerializeToString())
    refused(path, "the external data of .*model.onnx cannot be read: ")


def test_a_model_stays_as_it_is():
    model = conv().build()
    model.ir_version = 3
    model.graph.node.append(helper.make_node("Relu", ["input"], ["dead"]))
    before = model.SerializeToString(deterministic=True)
    compile_onnx(TINY, model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("declared", [False, True])
def test_version_3(declared):
    """Constants were inputs too; many files have them only as constants."""
    model = conv().build()
    if declared:
        model.graph.input.extend(helper.make_tensor_value_info(item.name, item.data_type, item.dims)
                                 for item in model.graph.initializer)
    expected = onnx.ModelProto()
    expected.CopyFrom(model)
    model.ir_version = 3
    right(expected, np.ones((1, 3, 5, 5), np.int8), model)


def test_an_output_without_shape():
    model = conv().build()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    right(model, np.ones((1, 3, 5, 5), np.int8))


def test_dead_branches():
    """What no output needs is not looked at, whatever it is."""
    builder = conv()
    end = builder.last
    builder.append("Sigmoid")
    builder.append("Sigmoid")
    builder.last = end
    network = compile_onnx(TINY, builder.build())
    assert [layer.op for layer in network.layers] == ["QLinearConv"]


def quantized(*, zero=None, **attributes):
    """Numbers to codes, through a convolution of int8 or uint8."""
    dtype = np.int8 if attributes.get("output_dtype") == TensorProto.INT8 else np.uint8
    builder = ModelBuilder(np.random.default_rng(3), (3, 5, 5), dtype, quantize=True)
    builder.zero = dtype(0)
    builder.nodes, builder.last = [], "input"
    constants = [builder.constant(builder.scale), *([] if zero is None else [builder.constant(zero)])]
    builder.append("QuantizeLinear", *constants, **attributes)
    builder.conv(4, (3, 3))
    model = builder.build(dequantize=True)
    model.opset_import[0].version = 23
    model.ir_version = 10
    return model


@pytest.mark.parametrize("output_dtype", [TensorProto.UINT8, TensorProto.INT8])
def test_output_dtype(output_dtype):
    model = quantized(output_dtype=output_dtype)
    right(model, np.random.default_rng(4).normal(0, 3, (2, 3, 5, 5)).astype(np.float32))


@pytest.mark.parametrize("options, message", [
    ({"output_dtype": TensorProto.INT16}, "output_dtype must be 0 or 2 or 3, not 5"),
    ({"output_dtype": TensorProto.INT8, "zero": np.uint8(3)}, "the zero point is uint8, output_dtype int8"),
    ({"precision": TensorProto.FLOAT16}, "precision must be 0 or 1, not 10"),
    ({"block_size": 2}, "block_size must be 0, not 2"),
])
def test_attributes_of_quantize(options, message):
    refused(quantized(**options), f"QuantizeLinear 'quantizelinear0': {message}")


def dequantized(**attributes):
    builder = conv()
    constants = [builder.constant(builder.scale), builder.constant(builder.zero)]
    builder.append("DequantizeLinear", *constants, **attributes)
    model = builder.build()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.opset_import[0].version = 23
    model.ir_version = 10
    return model


def test_dequantize():
    inputs = np.random.default_rng(5).integers(-128, 128, (2, 3, 5, 5), np.int8)
    right(dequantized(output_dtype=TensorProto.FLOAT), inputs)
    refused(dequantized(output_dtype=TensorProto.FLOAT16), "output_dtype must be 0 or 1, not 10")
    refused(dequantized(block_size=2), "block_size must be 0, not 2")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_dequantize_without_zero_point(dtype):
    builder = conv(dtype=dtype)
    builder.zero = dtype(0)
    builder.nodes[-1].input[7] = builder.constant(builder.zero)
    builder.append("DequantizeLinear", builder.constant(builder.scale))
    model = builder.build()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    right(model, builder.inputs(2))


@pytest.mark.parametrize("rank", [0, 1, 4, 5])
def test_max_with_a_constant_of_any_rank(rank):
    builder = conv()
    builder.append("Max", builder.constant(np.full((1,) * rank, 7, np.int8)))
    if rank > 4:
        refused(builder.build(), "Max 'max1': its constant must not have more dimensions than its input")
    else:
        right(builder.build(), builder.inputs(2))


def test_what_to_do_about_other_models():
    """Models in floating point, inputs without a batch."""
    value = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "float", [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])]))
    refused(model, "the model computes in floating point; quantize it first, for instance by onnxruntime.quant")
    model = conv().build()
    del model.graph.input[0].type.tensor_type.shape.dim[1:]
    refused(model, r"input 'input': must have a batch and at least one more dimension, not \['N'\]")


def test_constants_of_constants():
    """Whatever computes from constants alone is computed once, by ONNX's own reference."""
    builder = conv()
    half, shape = builder.constant(np.int8(3)), builder.constant(np.array([1, 0], np.int64))
    builder.nodes[:0] = [
        helper.make_node("Add", [half, half], ["six"]),
        helper.make_node("Constant", [], ["axes"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["six", "axes"], ["unsqueezed"]),
        helper.make_node("Split", [shape], ["batch", "rest"], num_outputs=2),
        helper.make_node("Sub", ["rest", "batch"], ["minus"]),
        helper.make_node("Concat", ["rest", "minus"], ["shape"], axis=0)]
    builder.append("Max", "unsqueezed")
    builder.append("Reshape", "shape")
    builder.shape = (36,)
    model = builder.build()
    model.opset_import[0].version = 18
    right(model, builder.inputs(3))


def branches():
    graph = helper.make_graph([helper.make_node("Identity", ["ten"], ["i"])], "g", [],
                              [helper.make_tensor_value_info("i", TensorProto.INT8, [10])])
    return {"then_branch": graph, "else_branch": graph}


@pytest.mark.parametrize("op, inputs, attributes, message", [
    ("Reshape", ["ten", "two"], {}, "cannot be computed from its constants"),
    ("RandomNormal", [], {"shape": [1]}, "not supported"),
    ("If", ["true"], branches(), "not supported")])
def test_constants_that_are_none(op, inputs, attributes, message):
    builder = conv()
    for name, value in (("ten", np.zeros(10, np.int8)), ("two", np.array([2, 2])), ("true", np.bool_(True))):
        builder.constants.append(onnx.numpy_helper.from_array(value, name))
    builder.nodes.insert(0, helper.make_node(op, inputs, ["c"], name="n", **attributes))
    builder.append("Max", "c")
    refused(builder.build(), f"{op} 'n': {message}")


@pytest.mark.parametrize("damage, message", [
    ({"raw_data": bytes(500)}, "the model's constants are damaged: "),
    ({"data_type": 99}, "the model's constants are damaged: 99|not a valid ONNX model")])
def test_damaged_constants(damage, message):
    model = conv().build()
    for name, value in damage.items():
        setattr(model.graph.initializer[2], name, value)
    refused(model, message)


def test_sparse_constants():
    model = conv().build()
    values, indices = (onnx.numpy_helper.from_array(np.array([1], kind)) for kind in (np.int8, np.int64))
    values.name = "few"
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    refused(model, "the constant 'few' is sparse, which is not supported")


def test_other_words_about_the_input():
    """Files repeat inputs among their inner tensors, with less or other things said of them."""
    model = conv().build()
    for element, shape in ((TensorProto.INT8, None), (TensorProto.UINT8, ["N", 9])):
        model.graph.value_info.append(helper.make_tensor_value_info("input", element, shape))
        right(model, np.ones((2, 3, 5, 5), np.int8))


@pytest.mark.parametrize("op, value, message", [
    ("Max", np.float32(np.nan), "the constant must be int8 or uint8, not float32"),
    ("Reshape", np.array([0, np.nan]), "the shape must be integers, not float64|not a valid")])
def test_constants_of_wrong_types(op, value, message):
    builder = conv()
    builder.append(op, builder.constant(value))
    refused(builder.build(), message)


def test_empty_weights():
    model = conv().build()
    for number, value in ((2, np.zeros((0, 3, 3, 3), np.int8)), (4, np.int8(0))):
        model.graph.initializer[number].CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), f"c{number}"))
    refused(model, r"QLinearConv 'qlinearconv0': the weights are empty: \[0, 3, 3, 3\]")


# Operators that ONNX Runtime has in ONNX's own domain, and writes into models that it has optimized.

@pytest.mark.parametrize("op, opset", [("SimplifiedLayerNormalization", 18), ("LayerNormalization", 14)])
def test_operators_that_onnx_does_not_know(op, opset):
    """They are normalizations like others, and what is behind them has a shape."""
    net = Between(np.uint8, x=["N", 4, 6])
    y = net(op, net.numbers("x", 0.05, 120), net.weights(6), axis=-1)
    images = net("Slice", net("Shape", y), np.array([0]), np.array([1]))
    weights = net("DequantizeLinear", net.rng.integers(-90, 90, (6, 5)).astype(np.int8), np.float32(0.01),
                  np.int8(0))
    y = net("MatMul", net("DequantizeLinear", net.codes(y, 0.02, 120), np.float32(0.02), np.uint8(120)), weights)
    y = net("Reshape", y, net("Concat", images, np.array([-1]), axis=0))
    model, x = net.model(net.codes(y, 0.05, 120), opset=opset), net.rng.integers(0, 256, (2, 4, 6), np.uint8)
    for config, options in ("wide", {"strict": True, "dims": {"N": 2}}), ("tiny", {}):
        with load_model(model, config, "golden", **options) as loaded:
            [got] = loaded.run({"x": x}).values()
        off = np.abs(got.astype(int) - onnxruntime_says(model, {"x": x})[0])
        assert off.max() <= (config == "wide")
    assert [(item.domain, item.version) for item in read_model(model).opset_import] == [
        (item.domain, item.version) for item in model.opset_import]


def test_operators_that_nobody_knows():
    for op, message in (("SimplestLayerNormalization", "not a valid ONNX model: .*SimplestLayerNormalization"),
                        ("SimplifiedLayerNormalization", "has a wrong number of inputs or outputs")):
        net = Between(np.uint8, x=["N", 4])
        with pytest.raises(CompileError, match=message):
            read_model(net.model(net(op, net.numbers("x"))))
