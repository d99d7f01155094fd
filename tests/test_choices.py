"""ArgMax, ArgMin and TopK of codes as layers: ONNX Runtime's results, to the bit."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from layer_reference import run_layers

from bench.cycles import chip
from bench.float_nets import Net, random_inputs
from kiwicha_host import load_model, open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.ir.row_layers import TopLayer
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize

#: Shapes, and an axis: of classes, of rows, of channels of an image, and of one without height.
CASES = [((10,), 1), ((3, 33), -1), ((2, 5, 9), 3), ((21, 4, 5), 1), ((150, 2, 2), 1), ((9, 7), 1)]
CHIPS = [chip("tiny+functions+top_k"), chip("small"), chip("wide"), replace(
    chip("small"), name="one_lane", vector_lanes=1)]


def typed(model, *elements):
    for output, element in zip(model.graph.output, elements, strict=True):
        output.type.CopyFrom(onnx.helper.make_tensor_type_proto(element, None))
    return model


def arg(dtype, shape, op="ArgMax", **attributes):
    net = Between(dtype, x=["N", *shape])
    return typed(net.model(net(op, net.numbers("x"), **attributes)), onnx.TensorProto.INT64)


def top(dtype, shape, count, codes=False, **attributes):
    """Of codes, or of numbers, which become codes again."""
    net = Between(dtype, x=["N", *shape])
    values, places = net("TopK", net.numbers("x"), np.array([count]), outputs=2, **attributes)
    values, kind = (net.codes(values, 0.05, 3), np.dtype(dtype)) if codes else (values, np.dtype(np.float32))
    return typed(net.model(values, places), onnx.helper.np_dtype_to_tensor_dtype(kind), onnx.TensorProto.INT64)


def few(dtype, shape, seed=0):
    """Codes of which many are equal, the ends of their range among them."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    return rng.choice(np.array([info.min, info.min + 1, 3, 4, info.max], dtype), (3, *shape))


def check(model, x, config="wide", **options):
    with load_model(model, config, "golden", **{"strict": True, **options}) as loaded:
        for got, expected in zip(loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x}), strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
        return loaded.placement


@DTYPES
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("shape, axis", CASES, ids=str)
def test_the_place_of_the_largest(shape, axis, keepdims, op, dtype):
    """Of equal ones the first."""
    model, x = arg(dtype, shape, op, axis=axis, keepdims=keepdims), few(dtype, shape)
    layers = to_layers(optimize(model))
    assert [type(layer) for layer in layers.layers] == [TopLayer]
    np.testing.assert_array_equal(*run_layers(layers, {"x": x}).values(), onnxruntime_says(model, {"x": x})[0])
    check(model, x)


@DTYPES
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("shape, axis", CASES, ids=str)
def test_the_largest(shape, axis, count, codes, largest, dtype):
    """In descending order, of equal ones the first before the second."""
    check(top(dtype, shape, count, codes, axis=axis, largest=largest), few(dtype, shape, count))


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
def test_on_chips_of_many_shapes(config):
    for shape, axis in ((700,), 1), ((60, 40), 2), ((40, 9, 11), 1):
        check(top(np.int8, shape, 5, axis=axis), few(np.int8, shape), config)


def test_on_the_compiled_chip():
    """What waits for what shows there alone."""
    with open_device("verilated", config=CHIPS[0], latency=30) as device:
        for shape, axis in ((10,), 1), ((3, 33), 2), ((17, 4, 5), 1):
            model, x = top(np.uint8, shape, 3, axis=axis), few(np.uint8, shape)
            with load_model(model, device=device, strict=True) as loaded:
                for got, expected in zip(loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x}),
                                         strict=True):
                    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("size", [4, 16])
def test_of_a_network(size):
    """Classes of an image's places, as the quantizer leaves them, behind layers that go together."""
    net = Net(3, x=["N", 5, size, size])
    y = net.conv(net.conv("x", 24, 5, 1), 19, 24, 1, act=None)
    value = onnx.helper.make_tensor_value_info
    made = [net("ArgMax", y, axis=1, keepdims=0), *net("TopK", y, np.array([2]), axis=1, outputs=2)]
    graph = onnx.helper.make_graph(
        net._nodes, "net", [value("x", onnx.TensorProto.FLOAT, net.shapes["x"])], [value(name, kind, None) for (
            name, kind) in zip(made, (7, 1, 7), strict=True)], net._constants)
    model = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, ir_version=8, opset_imports=[
        onnx.helper.make_opsetid("", 17)]))
    inputs = random_inputs(model, np.random.default_rng(0), 3)
    check(onnx.load_from_string(quantize_model(model, inputs)), inputs["x"])


def test_what_the_host_does_with_it():
    """A shape, a part, and another type of integers; indices of which nobody needs the values."""
    net = Between(np.uint8, x=["N", 4, 6])
    y = net("Reshape", net("ArgMax", net.numbers("x"), axis=2), np.array([0, 2, 2]))
    y = net("Cast", net("Slice", y, np.array([1]), np.array([2]), np.array([1])), to=onnx.TensorProto.INT32)
    _, places = net("TopK", net.numbers("x"), np.array([2]), outputs=2)
    x = few(np.uint8, (4, 6))
    model = typed(net.model(y, places), onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    rows = check(model, x, strict=False)
    assert [row.op for row in rows if row.place == "host"] == ["Cast"]


@pytest.mark.parametrize("op, attributes, message", [
    ("ArgMax", {"axis": 2}, "takes the last of several axes, or that of channels, not 2 of 4"),
    ("ArgMax", {"axis": 0}, "not 0 of 4"), ("ArgMax", {"select_last_index": 1, "axis": 1}, "select_last_index"),
    ("TopK", {"count": 9, "axis": 3}, "finds 1 to 8 of at least as many, not 9 of 9"),
    ("TopK", {"count": 5, "axis": 1}, "not 5 of 4"), ("TopK", {"count": 2, "sorted": 0}, "sorted must be 1")])
def test_what_is_the_hosts(op, attributes, message):
    shape = (4, 3, 9)
    model = top(np.uint8, shape, **attributes) if op == "TopK" else arg(np.uint8, shape, **attributes)
    if attributes.get("count") != 5:
        check(model, few(np.uint8, shape), strict=False)
    with pytest.raises(CompileError, match=message):
        load_model(model, "wide", "golden", strict=True)


def test_a_chip_without_it():
    model = arg(np.uint8, (4, 9), axis=2)
    with pytest.raises(CompileError, match="needs a chip with top_k; configuration 'tiny' has none"):
        load_model(model, "tiny", "golden", strict=True)
    check(model, few(np.uint8, (4, 9)), "tiny", strict=False)


def test_numbers_that_codes_do_not_tell_apart():
    """With such a scale all but a few are infinite."""
    net = Between(np.uint8, x=["N", 9])
    model = typed(net.model(net("ArgMax", net.numbers("x", 2e38, 0), axis=1)), onnx.TensorProto.INT64)
    assert optimize(model).ops[0].kind == "DequantizeLinear"
    check(model, few(np.uint8, (9,)), strict=False)
