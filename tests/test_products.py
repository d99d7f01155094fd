"""Products whose operands are computed: to the bit what ONNX Runtime says, each a GEMM of its own."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from bench.float_nets import NETS, random_inputs
from kiwicha import ChipConfig
from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError

TINY = ChipConfig.preset("tiny")
TYPES = {np.dtype(np.int8): TensorProto.INT8, np.dtype(np.uint8): TensorProto.UINT8,
         np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int32): TensorProto.INT32}


def model_of(op, inputs, result, **attributes):
    """One operator, all of whose inputs are the model's."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node(op, list(inputs), ["y"], **attributes)], "g", [
        value(name, TYPES[array.dtype], array.shape) for name, array in inputs.items()],
        [value("y", TYPES[np.dtype(result)], None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def says(model, inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


def check(model, inputs, expected=None):
    with load_model(model, TINY, "golden") as loaded:
        outputs = loaded.run(inputs)
        for got, wanted in zip(outputs.values(), expected or says(model, inputs), strict=True):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
        return loaded


def codes(rng, dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape, dtype)


@pytest.mark.parametrize("a, b", [((3, 5), (5, 7)), ((2, 3, 5), (5, 7)), ((2, 3, 5), (2, 5, 7)),
                                  ((3, 5), (2, 5, 7)), ((2, 1, 3, 5), (4, 5, 2)), ((1, 1), (1, 1))])
@pytest.mark.parametrize("types", [(np.uint8, np.int8), (np.uint8, np.uint8)])
def test_integer_products(types, a, b):
    rng = np.random.default_rng(len(a) * 10 + len(b))
    inputs = {"a": codes(rng, types[0], *a), "b": codes(rng, types[1], *b), "az": codes(rng, types[0]),
              "bz": codes(rng, types[1])}
    row = check(model_of("MatMulInteger", inputs, np.int32), inputs).last_run
    stack = np.prod(np.broadcast_shapes(a[:-2], b[:-2]), dtype=int)
    assert row.work.macs == stack * a[-2] * a[-1] * b[-1] and row.host_macs == 0
    without = {name: inputs[name] for name in ("a", "b")}
    check(model_of("MatMulInteger", without, np.int32), without)
    scales = {"as": np.float32(0.03), "bs": np.float32(0.02), "ys": np.float32(0.5), "yz": codes(rng, types[0])}
    given = inputs | scales
    ordered = {name: given[name] for name in ("a", "as", "az", "b", "bs", "bz", "ys", "yz")}
    check(model_of("QLinearMatMul", ordered, types[0]), ordered)


def test_zero_points_by_row_and_column():
    """ONNX Runtime has none by row; the sum is that of the differences."""
    rng = np.random.default_rng(0)
    inputs = {"a": codes(rng, np.uint8, 4, 6), "b": codes(rng, np.uint8, 6, 3), "az": codes(rng, np.uint8, 4),
              "bz": codes(rng, np.uint8, 3)}
    wide = {name: array.astype(np.int32) for name, array in inputs.items()}
    check(model_of("MatMulInteger", inputs, np.int32), inputs, [
        (wide["a"] - wide["az"][:, None]) @ (wide["b"] - wide["bz"])])


@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 0, 2, 1]}, {"strides": [2, 1], "dilations": [1, 2]},
                                        {"group": 2}, {"auto_pad": "SAME_UPPER"}])
def test_integer_convolutions(attributes):
    rng = np.random.default_rng(1)
    group = attributes.get("group", 1)
    inputs = {"x": codes(rng, np.uint8, 2, 4, 6, 5), "w": codes(rng, np.uint8, 6, 4 // group, 3, 2),
              "xz": codes(rng, np.uint8), "wz": codes(rng, np.uint8)}
    check(model_of("ConvInteger", inputs, np.int32, **attributes), inputs)
    flat = {"x": codes(rng, np.uint8, 2, 3, 7), "w": codes(rng, np.uint8, 5, 3, 3), "xz": inputs["xz"]}
    check(model_of("ConvInteger", flat, np.int32), flat)


@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8], ids=lambda item: item.name)
@pytest.mark.parametrize("name", ["lenet", "lenet_matmul", "vit", "two_and_two"])
def test_networks_quantized_as_they_run(name, weights, tmp_path):
    """DynamicQuantizeLinear is the host's, the products are the chip's."""
    model = NETS[name]()
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "q.onnx", weight_type=weights)
    inputs = random_inputs(model, np.random.default_rng(2), 2)
    data = (tmp_path / "q.onnx").read_bytes()
    run = check(data, inputs).last_run
    assert run.work.macs > 0.5 * (run.work.macs + run.host_macs)


def test_wrong_operands():
    rng = np.random.default_rng(0)
    good = {"a": codes(rng, np.uint8, 3, 5), "as": np.float32(1), "az": np.uint8(3),
            "b": codes(rng, np.uint8, 5, 2), "bs": np.float32(1), "bz": np.uint8(3),
            "ys": np.float32(1), "yz": np.uint8(0)}
    given = {name: np.asarray(value) for name, value in good.items()}
    with load_model(model_of("QLinearMatMul", given, np.uint8), TINY, "golden") as loaded:
        for name, value in (("ys", 0), ("as", np.nan), ("bs", -1)):
            with pytest.raises(CompileError, match="QLinearMatMul '.*': its scales must be positive and finite"):
                loaded.run({**given, name: np.float32(value)})
