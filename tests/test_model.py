"""Whole models, on the chip and the host: what ONNX Runtime says, and who does what."""

import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from code_nets import Between, onnxruntime_says
from onnx import TensorProto, helper, numpy_helper
from onnx_models import ModelBuilder
from onnxruntime.quantization import QuantFormat, QuantType

from bench.float_nets import NETS, Net, quantized, random_inputs, separable
from kiwicha import ChipConfig
from kiwicha_host import load_model, models, open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.compiler.partition import partition

TINY = ChipConfig.preset("tiny")


def check(source, inputs, least=0.95, **options):
    """The model is ONNX Runtime's to the bit, with at least so much of its products on the chip."""
    with load_model(source, TINY, "golden", **options) as model:
        outputs = model.run(inputs)
        for got, expected in zip(outputs.values(), onnxruntime_says(source, inputs), strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
        run = model.last_run
        assert run.work.macs >= least * (run.work.macs + run.host_macs) > 0
        assert sum(row.macs for row in model.placement if row.place == "chip") > 0
        return model


FORMS = {"qdq_int8": (QuantFormat.QDQ, False, QuantType.QInt8, QuantType.QInt8),
         "qdq_uint8_channel": (QuantFormat.QDQ, True, QuantType.QUInt8, QuantType.QInt8),
         "qdq_uint8_both": (QuantFormat.QDQ, False, QuantType.QUInt8, QuantType.QUInt8),
         "operators_int8_channel": (QuantFormat.QOperator, True, QuantType.QInt8, QuantType.QInt8),
         "operators_uint8_both": (QuantFormat.QOperator, False, QuantType.QUInt8, QuantType.QUInt8)}


#: Those that need no host.
WHOLE = ("lenet", "lenet_matmul", "resnet", "mobilenet1", "mobilenet2", "swish", "keywords", "fire", "dense",
         "shuffled")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_nets(name, form, tmp_path):
    layout, per_channel, activations, weights = FORMS[form]
    model = NETS[name]()
    path = quantized(model, tmp_path, quant_format=layout, per_channel=per_channel, activation_type=activations,
                     weight_type=weights)
    least = {"unet": 0.8, "vit": 0.5, "class_token": 0.5}.get(name, 1)
    loaded = check(path, random_inputs(model, np.random.default_rng(5), 2), least)
    # ONNX Runtime's operators have none for a ConvTranspose.
    if name in WHOLE or (name == "unet" and layout == QuantFormat.QDQ):
        assert {row.place for row in loaded.placement} == {"chip"}


@pytest.mark.parametrize("name", ["vit", "class_token"])
@pytest.mark.parametrize("config", [ChipConfig.preset("small"),
                                    ChipConfig.preset("wide")], ids=lambda config: config.name)
def test_transformers_need_no_host(name, config, tmp_path):
    """On a chip with functions; a norm's result may be one code off, and what follows from it."""
    model = NETS[name]()
    path, inputs = quantized(model, tmp_path, activation_type=QuantType.QUInt8), random_inputs(
        model, np.random.default_rng(6), 1)
    with load_model(path, config, "golden", strict=True) as loaded:
        [got] = loaded.run(inputs).values()
    [expected] = onnxruntime_says(path, inputs)
    assert np.abs(got - expected).max() <= 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["mobilenet2", "fire"])
def test_codes_without_zero_points(name, tmp_path):
    """Symmetric QDQ whose zero points are left out, as other quantizers write it."""
    path = quantized(NETS[name](), tmp_path, quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8,
                     weight_type=QuantType.QInt8, extra_options={"ActivationSymmetric": True})
    model = onnx.load(path)
    zeros = {item.name for item in model.graph.initializer
             if item.name.endswith("zero_point") and not numpy_helper.to_array(item).any()}
    left_out = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[2] in zeros]
    for node in left_out:
        del node.input[2]
    assert len(left_out) > 20
    check(model.SerializeToString(), random_inputs(model, np.random.default_rng(5), 2), 1)


def test_a_model_stays_loaded(tmp_path):
    """Several runs with batches of several sizes, and two models on one device."""
    model, rng = NETS["resnet"](), np.random.default_rng(1)
    path = quantized(model, tmp_path)
    with open_device("golden", TINY) as device:
        first, second = load_model(path, device=device), load_model(models.DIGITS_MLP, device=device)
        for count in (3, 1, 3):
            inputs = random_inputs(model, rng, count)
            [got] = first.run(inputs).values()
            np.testing.assert_array_equal(got, onnxruntime_says(path, inputs)[0])
            images = models.digits_test()[0][:count]
            np.testing.assert_array_equal(second.run({"image": images})["logits"],
                                          onnxruntime_says(models.DIGITS_MLP, {"image": images})[0])
        first.close()       # the device is not the model's
        assert second.run({"image": images})["logits"].shape == (3, 10)


def test_submitted_runs(tmp_path):
    """Two models on one device at once: each has its own results, in order; errors come where they belong."""
    model, rng = NETS["resnet"](), np.random.default_rng(1)
    path, images = quantized(model, tmp_path), models.digits_test()[0]
    given = [random_inputs(model, rng, count) for count in (1, 3, 2)]
    with open_device("golden", TINY) as device, load_model(path, device=device) as first, \
            load_model(models.DIGITS_MLP, device=device) as second:
        some = [first.submit(inputs) for inputs in given]
        others = [second.submit({"image": images[i:i + 2]}) for i in range(4)]
        for inputs, future in zip(given, some, strict=True):
            np.testing.assert_array_equal(*future.result(60).values(), onnxruntime_says(path, inputs)[0])
        for i, future in enumerate(others):
            np.testing.assert_array_equal(future.result(60)["logits"], onnxruntime_says(
                models.DIGITS_MLP, {"image": images[i:i + 2]})[0])
        with pytest.raises(CompileError, match="the input 'x' is missing"):
            first.submit({})
        device.memory_limit = 1
        with pytest.raises(CompileError, match="the device has 1"):
            first.submit(given[0]).result(60)


def test_memory_that_holds_one_image(tmp_path, monkeypatch):
    """A batch in several jobs, for each part of the chip; between them is a Softmax of the host's."""
    net = Net(3, x=["N", 3, 8, 8])
    model = net.model(net.conv(net("Softmax", net.conv("x", 4, 3), axis=1), 40, 4))
    path, inputs = quantized(model, tmp_path), random_inputs(model, np.random.default_rng(2), 5)
    with open_device("golden", TINY) as device:
        loaded = load_model(path, device=device)
        device.memory_limit = max(network.memory_bytes(1) for network in loaded.compiled.networks)
        np.testing.assert_array_equal(*loaded.run(inputs).values(), onnxruntime_says(path, inputs)[0])
        needs = [network.memory_bytes(1) for network in loaded.compiled.networks]
        device.memory_limit = max(needs) - 1        # the first would fit
        assert needs[0] < max(needs)
        monkeypatch.setattr(device, "execute", lambda job: pytest.fail("something ran"))
        with pytest.raises(CompileError, match=rf"needs {max(needs)} bytes of memory for one image; the device"):
            loaded.run(inputs)


def symbolic():
    net = Net(3, x=["N", 3, "H", "W"])
    return net.model(net("Sigmoid", net.conv(net.conv("x", 4, 3), 2, 4)))


def test_dimensions(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(symbolic(), path)
    data = np.random.default_rng(0).normal(0, 1, (4, 3, 6, 9)).astype(np.float32)
    path.write_bytes(quantize_model(path, {"x": data}))
    check(path, {"x": data[:2]}, dims={"H": 6, "W": 9})
    check(path, {"x": data[:2]}, dims={"H": 6, "W": 9, "N": 2})
    for dims, pattern in (({}, "input 'x': its dimension 'H' has no size; give it one, for instance --dim H=64"),
                          ({"H": 6}, "dimension 'W' has no size"),
                          ({"H": 6, "W": 9, "Q": 1}, "no dimension 'Q'; those without a size are 'H', 'N', 'W'")):
        with pytest.raises(CompileError, match=pattern):
            load_model(path, TINY, "golden", dims=dims)
    with load_model(path, TINY, "golden", dims={"H": 6, "W": 9}) as model, \
            pytest.raises(CompileError, match=r"takes float32\[N, 3, 6, 9\], not \[2, 3, 9, 9\]"):
        model.run({"x": np.zeros((2, 3, 9, 9), np.float32)})


def test_a_shape_that_is_computed(tmp_path):
    """Exporters write Reshape's shape as a computation of the input's."""
    net = Net(3, x=["N", 3, "H", 4])
    x = net.conv("x", 4, 3)
    shape = net("Concat", net("Slice", net("Shape", x), np.array([0]), np.array([1])), np.array([-1]), axis=0)
    model = net.model(net("Gemm", net("Reshape", x, shape), net.weights(80, 6)))
    onnx.save(model, tmp_path / "float.onnx")
    data = np.random.default_rng(0).normal(0, 1, (3, 3, 5, 4)).astype(np.float32)
    path = tmp_path / "model.onnx"
    path.write_bytes(quantize_model(tmp_path / "float.onnx", {"x": data}))
    model = check(path, {"x": data[:1]}, 1, dims={"H": 5, "N": 1})
    assert "Shape" not in {row.op for row in model.placement}


def test_inputs(tmp_path):
    model = NETS["two_and_two"]()
    path = quantized(model, tmp_path)
    good = random_inputs(model, np.random.default_rng(0), 2)
    with load_model(path, TINY, "golden") as loaded:
        assert list(loaded.run(good)) == [item.name for item in model.graph.output]
        for inputs, pattern in (
                ({**good, "up": good["left"]}, "the model has no input 'up'; it takes 'left', 'right'"),
                ({"left": good["left"]}, r"the input 'right' is missing; the model takes float32\[N, 7\]"),
                ({**good, "left": good["left"][:1]}, r"'right': the model takes float32\[N, 7\], not \[2, 7\]"),
                ({**good, "left": good["left"][:, :4]}, r"'left': the model takes float32\[N, 5\], not \[2, 4\]"),
                ({**good, "left": good["left"].astype(float)}, "'left': the model takes float32, not float64"),
                ({**good, "left": np.full((2, 5), np.nan, np.float32)}, "the input holds NaN"),
                ({"left": good["left"][:0], "right": good["right"][:0]}, r"not \[0, 5\]")):
            with pytest.raises(CompileError, match=pattern) as caught:
                loaded.run(inputs)
            assert "\n" not in str(caught.value)
        with pytest.raises(TypeError, match="inputs must be"):
            loaded.run(good["left"])


def test_placement(tmp_path):
    path = quantized(NETS["vgg"](), tmp_path)
    with load_model(path, TINY, "golden") as model:
        rows = {row.op: row for row in model.placement}
        assert rows["QLinearConv"].place == "chip" and rows["QLinearConv"].macs > 0 and not rows["QLinearConv"].why
        softmax = rows["com.microsoft.QLinearSoftmax"]
        assert softmax.place == "host" and softmax.why.endswith(f"functions; configuration {TINY.name!r} has none")
        assert all(why for node, op, place, macs, why in model.placement if place == "host")
    # Not the DequantizeLinear behind it, which is the host's for its sake.
    with pytest.raises(CompileError, match=r"operators would run on the host, the first of them "
                                           r"com.microsoft.QLinearSoftmax '.*': layer '.*' needs a chip with"):
        load_model(path, TINY, "golden", strict=True)
    with load_model(models.DIGITS_CONV, TINY, "golden", strict=True) as model:
        assert {row.place for row in model.placement} == {"chip"}


def test_nothing_for_the_chip(tmp_path):
    """A float model is the host's, all of it, and says so."""
    model = NETS["lenet"]()
    onnx.save(model, tmp_path / "float.onnx")
    inputs = random_inputs(model, np.random.default_rng(0), 2)
    with load_model(tmp_path / "float.onnx", TINY, "golden") as loaded:
        [got] = loaded.run(inputs).values()
        np.testing.assert_array_equal(got, onnxruntime_says(tmp_path / "float.onnx", inputs)[0])
        assert loaded.last_run.work.macs == 0 and loaded.last_run.host_macs == 2 * (
            6 * 25 * 144 + 8 * 54 * 36 + 72 * 20 + 20 * 10)
        whys = {row.op: row.why for row in loaded.placement}
        assert whys["Conv"] == "computes in floating point; the chip needs codes"


def test_outputs_that_are_inputs_or_constants():
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0]),
             helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [2])],
                              [value("y", TensorProto.FLOAT, [2]), value("c", TensorProto.FLOAT, [2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with load_model(model, TINY, "golden") as loaded:
        outputs = loaded.run({"x": np.array([3, 4], np.float32)})
    assert {name: array.tolist() for name, array in outputs.items()} == {"y": [3, 4], "c": [1, 2]}


def test_a_graph_inside_takes_from_around_it(tmp_path):
    """An If's branches need tensors that are none of its inputs."""
    value = helper.make_tensor_value_info
    net = Net(3, x=["N", 5])
    hidden = net("Exp", net.linear("x", 5, 4))
    branches = [helper.make_graph([helper.make_node(op, [hidden], [f"{op}.y"])], op, [],
                                  [value(f"{op}.y", TensorProto.FLOAT, None)]) for op in ("Sigmoid", "Tanh")]
    total = net("ReduceSum", hidden, keepdims=0)
    chosen = net("If", net("Greater", total, np.float32(4)), then_branch=branches[0], else_branch=branches[1])
    model = net.model(net("Mul", chosen, np.float32(2)))
    path = quantized(model, tmp_path)
    for seed in range(4):
        check(path, random_inputs(model, np.random.default_rng(seed), 2), 1)


def test_numbers_that_are_needed_as_numbers_too(tmp_path):
    """A product whose result is not only quantized is computed once: its sums become numbers on the host."""
    net = Net(3, x=["N", 5])
    y = net.linear(net.linear("x", 5, 40), 40, 30)
    model = net.model(net.linear(y, 30, 4), y)
    path = quantized(model, tmp_path, activation_type=QuantType.QUInt8)
    proto = onnx.load(path)
    for node in proto.graph.node:       # the output is what the quantizer has put codes behind
        if node.op_type == "Gemm" and node.name == y:
            node.output[0], numbers = "numbers", node.output[0]
    for node in proto.graph.node:
        node.input[:] = ["numbers" if name == numbers else name for name in node.input]
    proto.graph.output.append(helper.make_tensor_value_info("numbers", TensorProto.FLOAT, None))
    onnx.save(proto, path)
    inputs = random_inputs(model, np.random.default_rng(0), 200)
    with load_model(path, TINY, "golden") as loaded:
        for (name, got), expected in zip(loaded.run(inputs).items(), onnxruntime_says(path, inputs), strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 if name == "numbers" else 0)
        assert loaded.last_run.host_macs == 0
    assert [row.op for row in loaded.placement if row.macs] == [
        "com.microsoft.QGemm", "MatMulInteger", "com.microsoft.QGemm"]


def test_a_decoder_of_a_decoders_scale():
    """Numbers that only another DequantizeLinear takes."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("DequantizeLinear", ["c", "one"], ["s"]),
             helper.make_node("DequantizeLinear", ["x", "s"], ["y"])]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.UINT8, [2]), value("c", TensorProto.UINT8, [])],
                              [value("y", TensorProto.FLOAT, [2])],
                              [onnx.numpy_helper.from_array(np.float32(0.5), "one")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with load_model(model, TINY, "golden") as loaded:
        [got] = loaded.run({"x": np.array([3, 4], np.uint8), "c": np.asarray(np.uint8(6))}).values()
    assert got.tolist() == [9, 12]


def test_sizes_beyond_reason():
    """A convolution with padding for terabytes is refused, before anything is made of it."""
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5))
    builder.conv(4, (3, 3))
    pads = next(item for item in builder.nodes[0].attribute if item.name == "pads")
    pads.ints[:] = [1 << 40, 0, 0, 0]
    graph = optimize(builder.build())
    [subgraph] = partition(graph)
    assert re.fullmatch(r"layer '.*': \d+ elements, places or lines of padding are more than \d+",
                        *subgraph.why.values())


# Figures.

def test_depthwise_layers_are_cheap():
    """A block of 128 channels at 28x28: its depthwise half takes an eighth of what a dense one would."""
    model, rng = separable(), np.random.default_rng(0)
    data = quantize_model(model, random_inputs(model, rng, 2))
    with load_model(data, "ulx3s_85f", "golden") as loaded:
        inputs = random_inputs(model, rng, 1)
        np.testing.assert_array_equal(*loaded.run(inputs).values(), onnxruntime_says(data, inputs)[0])
        assert loaded.last_run.result.cycles <= 130_000


# Transposed convolutions: ONNX Runtime computes them in floating point, between codes.

@pytest.mark.parametrize("shape, weights, attributes", [
    ((4, 5, 6), (4, 3, 2, 2), {"strides": [2, 2]}),
    ((4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ((4, 5, 6), (4, 3, 4, 2), {"strides": [1, 3], "pads": [2, 0, 1, 1]}),
    ((4, 5, 6), (4, 3, 1, 5), {"strides": [3, 1]}),
    ((4, 5, 6), (4, 2, 3, 3), {"group": 2, "strides": [2, 1]}),
    ((4, 5, 6), (4, 1, 2, 3), {"group": 4, "strides": [2, 2], "dilations": [1, 1]}),
    ((5, 7), (5, 4, 4), {"strides": [2], "pads": [1, 1], "output_padding": [1]}),
    ((5, 7), (5, 4, 3), {"strides": [2], "output_padding": [1]}),
    ((1, 1, 1), (1, 1, 1, 1), {})])
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
def test_transposed_convolutions(shape, weights, attributes, per_channel, tmp_path):
    net = Net(3, x=["N", *shape])
    outputs = weights[1] * attributes.get("group", 1)
    y = net("ConvTranspose", "x", net.weights(*weights), net.weights(outputs), **attributes)
    model = net.model(net("Relu", y))
    path = quantized(model, tmp_path, per_channel=per_channel and "group" not in attributes)
    loaded = check(path, random_inputs(model, np.random.default_rng(1), 2), 1)
    assert "QLinearConvTranspose" in {row.op for row in loaded.placement}


def test_transposed_convolutions_that_are_the_hosts(tmp_path):
    """Dilated ones have no rule."""
    net = Net(3, x=["N", 2, 5, 6])
    y = net("ConvTranspose", net.conv("x", 3, 2), net.weights(3, 2, 3, 3), dilations=[2, 1])
    model = net.model(net.conv(y, 2, 2))
    inputs = random_inputs(model, np.random.default_rng(1), 2)
    loaded = check(quantized(model, tmp_path), inputs, 0.1)
    assert "ConvTranspose" in {row.op for row in loaded.placement if row.place == "host"}


def test_a_window_too_wide_for_the_scratchpad():
    """Of a convolution whose feature maps have their places: it alone is the host's."""
    net = Between(np.uint8, x=["N", 8, 2000])
    kernels = [net("DequantizeLinear", net.rng.integers(-100, 100, (8, 8, 3), np.int8), np.float32(0.01),
                   np.int8(0)) for _ in range(2)]
    first = net.numbers(net.codes(net("Conv", net.numbers("x"), kernels[0], pads=[1, 1])), 0.04, 5)
    model = net.model(net.codes(net("Conv", first, kernels[1], dilations=[900], pads=[900, 900])))
    x = net.rng.integers(0, 256, (1, 8, 2000)).astype(np.uint8)
    with load_model(model, TINY, "golden") as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x}).popitem()[1], onnxruntime_says(model, {"x": x})[0])
        assert [row.place for row in loaded.placement] == ["chip", "host"]
        assert re.search("Conv.* needs .* scratchpad lines for input for one pixel", loaded.placement[1].why)
    with pytest.raises(CompileError, match="1 of 2 operators would run on the host, .* scratchpad lines"):
        load_model(model, TINY, "golden", strict=True)


@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_products_of_recurrent_layers_count(kind, gates):
    net = Net(9, x=[6, 2, 5])
    made = net(kind, "x", net.weights(1, gates * 4, 5), net.weights(1, gates * 4, 4), hidden_size=4)
    x = net.rng.normal(0, 1, (6, 2, 5)).astype(np.float32)
    with load_model(net.model(made), TINY, "golden") as loaded:
        loaded.run({"x": x})
        assert loaded.last_run.host_macs == loaded.placement[0].macs == 6 * 2 * gates * 4 * (5 + 4)


_PEAK = """
import sys
from pathlib import Path
from kiwicha import ChipConfig
from kiwicha_host.compiler.model import compile_model

def peak():
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

before = peak()
compile_model(ChipConfig.preset("tiny"), sys.argv[1], strict=True)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_memory_of_compilation(tmp_path):
    """Weights as the model has them, in another order, and in the program; not the model as it came, too."""
    net, size = Between(np.int8, x=["N", 4096]), 8192
    weights = net.rng.integers(-127, 128, (4096, size), np.int8)
    made = net("QLinearMatMul", "x", np.float32(0.1), np.int8(0), weights, np.float32(0.1), np.int8(0),
               np.float32(9), np.int8(0))
    model, path = net.model(made), tmp_path / "large.onnx"
    model.graph.output[0].type.tensor_type.shape.dim.add(dim_param="N")
    model.graph.output[0].type.tensor_type.shape.dim.add(dim_value=size)
    onnx.save(model, path)
    done = subprocess.run([sys.executable, "-c", _PEAK, path], capture_output=True, text=True, encoding="utf-8",
                          timeout=120)
    assert int(done.stdout) < 3.5 * weights.nbytes, done.stdout + done.stderr
