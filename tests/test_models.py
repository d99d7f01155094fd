"""The example networks: accuracy, and the integer reference against ONNX Runtime, bit for bit."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from kiwicha_host import models
from kiwicha_host.cli.demo.checks import in_onnxruntime
from kiwicha_host.models import nn, reference, train_digits
from kiwicha_host.models.export import export
from kiwicha_host.models.quantize import quantize

FILES = pytest.mark.parametrize("file", [models.DIGITS_CONV, models.DIGITS_MLP], ids=lambda f: f.stem)
LEVEL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
LEVELS = pytest.mark.parametrize("level", [ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
                                           ort.GraphOptimizationLevel.ORT_ENABLE_ALL],
                                 ids=["plain", "optimised"])
OPERATORS = pytest.mark.parametrize("op", ["QLinearMatMul", "QLinearConv"])
ZERO_POINTS = pytest.mark.parametrize("zero_point", [0, -128, 127])


def run_ort(model, x, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def with_every_tensor(model):
    """A copy of ``model`` that also outputs each of its int8 tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_tensor_value_info(node.output[0], TensorProto.INT8, None)
                             for node in model.graph.node[:-1])
    return copy


@FILES
def test_accuracy(file):
    images, labels = models.digits_test()
    logits = run_ort(onnx.load(file), images, LEVEL)
    assert np.mean(logits.argmax(axis=1) == labels) >= 0.97


def test_the_residual_network_is_better():
    images, labels = models.digits_test()
    logits = [in_onnxruntime(file.read_bytes(), {"image": images}, signed=file != models.DIGITS_RESIDUAL)["logits"]
              for file in (models.DIGITS_MLP, models.DIGITS_CONV, models.DIGITS_RESIDUAL)]
    assert [np.sum(each.argmax(axis=1) == labels) for each in logits] == [494, 496, 497]
    kinds = [node.op_type for node in onnx.load(models.DIGITS_RESIDUAL).graph.node]
    assert kinds.count("Add") == 2 and "QuantizeLinear" in kinds


@FILES
@LEVELS
def test_reference_matches_onnxruntime(file, level):
    model = onnx.load(file)
    images, _ = models.digits_test()
    np.testing.assert_array_equal(reference.run(model, images)["logits"], run_ort(model, images, level))


@FILES
def test_every_tensor_matches_onnxruntime(file):
    model = with_every_tensor(onnx.load(file))
    images = models.digits_test()[0][:50]
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = reference.run(model, images)
    for output in session.get_outputs():
        actual, = session.run([output.name], {"image": images})
        np.testing.assert_array_equal(actual, expected[output.name], err_msg=output.name)


def single(op, x, w, *, x_scale, x_zero, w_scale, y_scale, y_zero):
    """A model of one operator on the codes ``x`` [M, K] and ``w`` [K, N]; the convolution is 1x1."""
    is_conv = op == "QLinearConv"
    columns = w.shape[1]
    constants = {"x_scale": np.float32(x_scale), "x_zero": np.int8(x_zero),
                 "w": w.T[:, :, None, None] if is_conv else w,
                 "w_scale": w_scale, "w_zero": np.zeros(columns, np.int8),
                 "y_scale": np.float32(y_scale), "y_zero": np.int8(y_zero)}
    if is_conv:
        constants["bias"] = np.zeros(columns, np.int32)
    attributes = {"kernel_shape": [1, 1], "pads": [0] * 4} if is_conv else {}
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *constants], ["y"], **attributes)], op,
        [helper.make_tensor_value_info("x", TensorProto.INT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def as_input(op, x):
    return x[:, :, None, None] if op == "QLinearConv" else x


@LEVELS
@OPERATORS
@ZERO_POINTS
def test_extreme_codes_are_exact(op, zero_point, level):
    """No saturating 16-bit step inside ONNX Runtime, and accumulators beyond float32's 24 bits."""
    rng = np.random.default_rng(0)
    for codes in ([-128], [127], [-128, 127], np.arange(-128, 128)):
        x, w = (rng.choice(np.array(codes, np.int8), shape) for shape in ((9, 2100), (2100, 35)))
        x = as_input(op, x)
        acc = abs((x.reshape(9, -1).astype(np.int64) - zero_point) @ w.astype(np.int64)).max()
        model = single(op, x, w, x_scale=0.1, x_zero=zero_point, y_zero=3,
                       w_scale=rng.uniform(0.5, 1, 35).astype(np.float32),
                       y_scale=0.1 * max(acc, 1) / 100)
        np.testing.assert_array_equal(run_ort(model, x, level), reference.run(model, x)["y"])


@OPERATORS
def test_requantisation_near_ties(op):
    """Accumulators half-way between two codes, where one wrong last bit of a scale shows."""
    rng = np.random.default_rng(0)
    other_order_differs = False
    for _ in range(20):
        x = as_input(op, rng.integers(1, 128, (1, 40)).astype(np.int8))
        w = rng.integers(1, 128, (40, 64)).astype(np.int8)
        acc = x.reshape(1, -1).astype(np.int32) @ w
        x_scale, y_scale = rng.uniform(0.01, 0.1, 2).astype(np.float32)
        ties = rng.integers(-100, 100, 64) + 0.5
        w_scale = abs(ties * y_scale / (x_scale * acc[0])).astype(np.float32)
        model = single(op, x, w, x_scale=x_scale, x_zero=0, w_scale=w_scale, y_scale=y_scale, y_zero=-1)
        actual = run_ort(model, x, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
        np.testing.assert_array_equal(actual, reference.run(model, x)["y"])
        other = reference.requantize(acc, x_scale * (w_scale / y_scale), -1)
        other_order_differs |= bool((other != actual.reshape(1, -1)).any())
    assert other_order_differs


def test_requantize_rounds_half_to_even_and_saturates():
    acc = np.array([1, 3, -1, -3, 2 ** 31 - 1, -2 ** 31], np.int32)
    assert reference.requantize(acc, np.float32(0.5), 0).tolist() == [0, 2, 0, -2, 127, -128]
    assert reference.requantize(acc, np.float32(0.5), -128).tolist() == [-128, -126, -128, -128, 127, -128]


def test_committed_test_split():
    _, images, _, labels = train_digits.load_split()
    expected, expected_labels = models.digits_test()
    np.testing.assert_array_equal(images[:, None].astype(np.float32) / 16, expected)
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("build, zero_point", [(train_digits.conv_net, 0), (train_digits.mlp, -128)])
def test_training_is_reproducible(build, zero_point):
    images, _, labels, _ = train_digits.load_split()
    images = images[:256, ..., None].astype(np.float32) / 16
    files = set()
    for _ in range(2):
        rng = np.random.default_rng(7)
        layers = build(rng)
        train_digits.train(layers, images, labels[:256], rng, epochs=2)
        files.add(quantize(layers, images, name="net", input_scale=1 / 16,
                           zero_point=zero_point).SerializeToString())
    assert len(files) == 1


def test_training_with_shifts_is_reproducible():
    images, _, labels, _ = train_digits.load_split()
    images = images[:128, ..., None].astype(np.float32) / 16
    files = set()
    for _ in range(2):
        rng = np.random.default_rng(7)
        layers = train_digits.residual_net(rng)
        train_digits.train(layers, images, labels[:128], rng, epochs=1, decay=0.05, shift=True)
        files.add(export(layers, name="net", shape=(8, 8, 1), classes=10).SerializeToString())
    assert len(files) == 1


def test_shifts_are_by_a_pixel_at_most():
    images = np.random.default_rng(0).random((50, 4, 5, 2)).astype(np.float32) + 1
    moved = train_digits.shifted(images, np.random.default_rng(1))
    seen = set()
    for before, after in zip(images, moved, strict=True):
        around = np.pad(before, ((1, 1), (1, 1), (0, 0)))
        seen |= {(y, x) for y in range(3) for x in range(3) if (around[y:y + 4, x:x + 5] == after).all()}
    assert moved.shape == images.shape and len(seen) == 9


def all_layers(rng):
    """A network with every layer of the trainer; one residual block keeps its channels, one does not."""
    return [nn.Conv(rng, 2, 3, kernel=3, pad=1), nn.Relu(), nn.MaxPool(),
            nn.Residual([nn.Conv(rng, 3, 3, kernel=3, pad=1), nn.Relu()]),
            nn.Residual([nn.Conv(rng, 3, 4, kernel=3, pad=1)], [nn.Conv(rng, 3, 4, kernel=1, pad=0)]),
            nn.Conv(rng, 4, 4, kernel=2, pad=0), nn.Flatten(), nn.Dense(rng, 4, 5)]


def test_export():
    """The float graph computes what the layers do."""
    rng = np.random.default_rng(0)
    layers = all_layers(rng)
    x = rng.standard_normal((6, 4, 4, 2)).astype(np.float32)
    model = export(layers, name="net", shape=x.shape[1:], classes=5)
    logits = run_ort(model, x.transpose(0, 3, 1, 2), LEVEL)
    np.testing.assert_allclose(logits, nn.forward(layers, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="layers must be those of nn, not 'Tanh'"):
        export(["Tanh"], name="net", shape=(4, 4, 2), classes=5)


def test_gradients():
    """Backpropagation against central differences, through every layer of the trainer."""
    rng = np.random.default_rng(0)
    layers = all_layers(rng)
    x = rng.standard_normal((6, 4, 4, 2)).astype(np.float32)
    weights = rng.standard_normal((6, 5))
    nn.forward(layers, x)
    nn.backward(layers, weights.astype(np.float32))
    for layer in layers:
        for p, g in zip(layer.params, layer.grads, strict=True):
            index = np.unravel_index(abs(g).argmax(), g.shape)
            center = p[index]
            loss = []
            for step in (-1e-2, 1e-2):
                p[index] = center + step
                loss.append((nn.forward(layers, x) * weights).sum())
            p[index] = center
            assert (loss[1] - loss[0]) / 2e-2 == pytest.approx(g[index], rel=2e-2)


def test_errors():
    with pytest.raises(ValueError, match="zero_point must be 0 or -128, not 3"):
        quantize([], np.zeros((1, 8, 8, 1), np.float32), name="net", input_scale=1, zero_point=3)
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "net",
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    with pytest.raises(ValueError, match=r"operator must be one of QuantizeLinear, .* not 'Tanh'"):
        reference.run(helper.make_model(graph), np.zeros(1, np.float32))
