"""Shapes that a model computes from a batch without a size."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from commands import fails
from onnx import TensorProto, helper, numpy_helper

from bench.float_nets import Net
from kiwicha import ChipConfig
from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.quantizer import quantize_model
from kiwicha_host.compiler.frontend.onnx.reader import read_graph
from kiwicha_host.compiler.ir.graph import Graph, Op, Type
from kiwicha_host.compiler.passes.fold_constants import fold_constants
from kiwicha_host.compiler.passes.fold_shapes import fold_shapes
from kiwicha_host.compiler.passes.infer_types import infer_types
from kiwicha_host.compiler.passes.sizes import Sizes

CONFIGS = {"tiny": ChipConfig.preset("tiny"), "wide": ChipConfig.preset("wide")}


def session(model, outputs=()):
    value = helper.make_tensor_value_info
    model.graph.output.extend(value(name, TensorProto.INT64, None) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


# Integers of a batch.

def at(net, source, axis):
    return net("Unsqueeze", net("Gather", source, np.int64(axis), axis=0), np.array([0]))


def integers():
    """A net of x, [N, 3, 4], with many integers that are computed from its shape."""
    net = Net(0, x=["N", 3, 4])
    shape = net("Shape", "x")
    ones = net("ConstantOfShape", np.array([3]), value=numpy_helper.from_array(np.array([1])))
    wide = net("Concat", at(net, shape, 0), np.array([-1, -1]), axis=0)
    narrow = net("Cast", shape, to=TensorProto.INT32)
    back = net("Cast", net("Slice", narrow, np.array([0]), np.array([2])), to=TensorProto.INT64)
    known = [
        shape, back, net("Size", "x"), net("Squeeze", net("Slice", shape, np.array([-3]), np.array([1]))),
        net("Where", net("Equal", wide, net("Mul", ones, np.array(-1))), ones, wide),
        net("Concat", np.array([0]), shape, np.array([-5, 1 << 20]), axis=0),
        net("Mul", shape, np.array([2, 3, 0])),
        net("Reshape", net("Concat", shape, shape, axis=0), np.array([2, 3]))]
    batch = at(net, shape, 0)
    unknown = [
        net("Mul", batch, batch), net("Div", batch, np.array([2])), net("Div", np.array([12]), batch),
        net("Add", batch, np.array([1])), net("Sub", batch, batch), net("Mod", batch, np.array([2])),
        net("Min", batch, np.array([8])), net("Cast", net("Equal", batch, np.array([1])), to=TensorProto.INT64),
        net("Mul", batch, np.array([1 << 31])),
        net("Mul", net("Mul", batch, np.array([1 << 14])), np.array([1 << 50])),
        net("Mul", net("Cast", batch, to=TensorProto.INT32), np.int32([4])),
        net("Slice", np.arange(9), np.array([0]), batch), net("Gather", np.arange(9), batch)]
    return net.model(net("Identity", "x")), known, unknown


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_multiples_of_the_batch(size):
    """What is said of all sizes is so for each."""
    model, known, unknown = integers()
    sizes = Sizes(infer_types(fold_constants(read_graph(model))))
    results = session(model, known).run(known, {"x": np.zeros((size, 3, 4), np.float32)})
    for name, result in zip(known, results, strict=True):
        items = [number * (size if dim == "N" else 1) for number, dim in sizes.items(name)]
        assert items == result.reshape(-1).tolist() and {dim for _, dim in sizes.items(name)} <= {"", "N"}
    assert sizes.is_known(known[-1]) is False and not set(unknown) & sizes.arrays.keys()


def test_shapes_with_a_batch():
    """0 where it stays, -1 where it follows from the rest, 1 where nothing has to be repeated."""
    made = Graph(("x",), ("y", "z", "u"), (
        Op("shape", "Shape", ("x",), ("s",)), Op("batch", "Gather", ("s", "zero"), ("n",)),
        Op("flat", "Concat", ("n", "rest"), ("t",), {"axis": 0}), Op("a", "Reshape", ("x", "t"), ("f",)),
        Op("twice", "Mul", ("n", "two"), ("m",)), Op("rows", "Concat", ("m", "six"), ("v",), {"axis": 0}),
        Op("b", "Reshape", ("f", "v"), ("y",)),
        Op("all", "Concat", ("three", "s"), ("w",), {"axis": 0}), Op("c", "Expand", ("x", "w"), ("z",)),
        Op("half", "Concat", ("n", "rest"), ("q",), {"axis": 0}), Op("d", "Expand", ("one", "v"), ("u",)),
    ), {"zero": np.array([0]), "rest": np.array([-1]), "two": np.array([2]), "six": np.array([6]),
        "three": np.array([3]), "one": np.ones((1, 6), np.float32) / 2},
        {"x": Type("float32", ("N", 3, 4))}, {"": 17})
    assert fold_shapes(made).dump() == """\
graph(x: float32[N, 3, 4]) -> (y: float32[unk__0, 6], z: float32[3, N, 3, 4], u: float32[unk__1, 6])
  one: float32[1, 6] = [[0.5, 0.5, 0.5, 0.5, 0.5, 0.5]]
  t:shape: int64[2] = [0, -1]
  v:shape: int64[2] = [-1, 6]
  w:shape: int64[4] = [3, 1, 3, 4]
  v:factors: int64[2] = [2, 0]
  v:numbers: int64[2] = [0, 6]
  v:first: int64[] = 0
  v:Shape: int64[3] = Shape 'v:Shape' (x)
  v:Gather: int64[] = Gather 'v:Gather' (v:Shape, v:first)
  v:Mul: int64[2] = Mul 'v:Mul' (v:Gather, v:factors)
  v:Add: int64[2] = Add 'v:Add' (v:Mul, v:numbers)
  f: float32[N, 12] = Reshape 'a' (x, t:shape)
  y: float32[unk__0, 6] = Reshape 'b' (f, v:shape)
  z: float32[3, N, 3, 4] = Expand 'c' (x, w:shape)
  u: float32[unk__1, 6] = Expand 'd' (one, v:Add)
"""
    old = replace(made, opsets={"": 6})     # a number times a list is not ONNX yet
    assert "twice" in {op.name for op in fold_shapes(old).ops}


def test_two_unknown_dimensions():
    """Each input's batch is its own; a shape that takes both is left alone."""
    made = Graph(("a", "b"), ("y",), (
        Op("first", "Shape", ("a",), ("s",), {"end": 1}), Op("second", "Shape", ("b",), ("t",), {"end": 1}),
        Op("both", "Concat", ("s", "t"), ("u",), {"axis": 0}), Op("join", "Expand", ("c", "u"), ("y",)),
    ), {"c": np.zeros((1, 1), np.float32)}, {"a": Type("float32", ("a[0]", 2)), "b": Type("float32", ("b[0]", 2))},
        {"": 17})
    assert [op.name for op in fold_shapes(made).ops] == ["first", "second", "both", "join"]


# Whole models, as torch's exporter writes them.

def flattened():
    """view(x.size(0), -1)"""
    net = Net(3, x=["N", 3, 5, 4])
    x = net.conv("x", 4, 3)
    shape = net("Concat", at(net, net("Shape", x), 0), np.array([-1]), axis=0)
    return net.model(net("Gemm", net("Reshape", x, shape), net.weights(80, 6)))


def shuffled():
    """view(batch, 2, channels // 2, height, width), transposed, view(batch, channels, height, width)"""
    net = Net(4, x=["N", 8, 4, 4])
    x = net.conv("x", 8, 8)
    shape = net("Shape", x)
    n, c, h, w = (at(net, shape, axis) for axis in range(4))
    x = net("Reshape", x, net("Concat", n, np.array([2]), net("Div", c, np.array([2])), h, w, axis=0))
    x = net("Reshape", net("Transpose", x, perm=[0, 2, 1, 3, 4]), net("Concat", n, c, h, w, axis=0))
    return net.model(net.conv(x, 8, 8))


def enlarged():
    """interpolate(y, size=x.shape[2:])"""
    net = Net(5, x=["N", 4, 8, 8])
    x = net.conv("x", 4, 4)
    y = net.conv(x, 4, 4, stride=2)
    sizes = net("Concat", net("Slice", net("Shape", y), np.array([0]), np.array([2])),
                net("Slice", net("Shape", x), np.array([2]), np.array([4])), axis=0)
    y = net("Resize", y, "", "", sizes, coordinate_transformation_mode="asymmetric", mode="nearest",
            nearest_mode="floor")
    return net.model(net.conv(net("Add", x, y), 4, 4))


def attention():
    """view(batch, -1, heads, features)"""
    net = Net(6, x=["N", 6, 16])
    batch = at(net, net("Shape", "x"), 0)
    query, key, value = (
        net("Transpose", net("Reshape", net("MatMul", "x", net.weights(16, 16)), net(
            "Concat", batch, np.array([-1, 2, 8]), axis=0)), perm=perm) for perm in (
                [0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    y = net("MatMul", net("Softmax", net("MatMul", query, key), axis=-1), value)
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net("Concat", batch, np.array([-1, 16]), axis=0))
    return net.model(net("MatMul", y, net.weights(16, 16)))


def class_token(how):
    """cat([token.expand(batch, -1, -1), patches], 1), in three ways."""
    net = Net(7, x=["N", 3, 8, 8])
    x = net.conv("x", 16, 3, kernel=4, stride=4, act=None, pad=0)
    shape = net("Concat", at(net, net("Shape", x), 0), np.array([16, -1]), axis=0)
    x, token = net("Transpose", net("Reshape", x, shape), perm=[0, 2, 1]), net.weights(1, 1, 16)
    batch = at(net, net("Shape", x), 0)
    if how == "expand":
        token = net("Expand", token, net("Concat", batch, np.array([1, 16]), axis=0))
    elif how == "where":
        wanted, ones = net("Concat", batch, np.array([-1, -1]), axis=0), np.array([1, 1, 1])
        token = net("Expand", token, net("Where", net("Equal", wanted, -ones), ones, wanted))
    else:
        token = net("Tile", token, net("Concat", batch, np.array([1, 1]), axis=0))
    x = net("Add", net("Concat", token, x, axis=1), net.weights(1, 5, 16))
    x = net("Add", x, net("MatMul", x, net.weights(16, 16)))
    return net.model(net.linear(net("Gather", x, np.int64(0), axis=1), 16, 4))


def check(path, config, batches=(1, 3)):
    """As ONNX Runtime says, for any batch, and all products on the chip; the model's operators on the host."""
    shape = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    with load_model(path, CONFIGS[config], "golden") as model:
        for batch in batches:
            inputs = {"x": np.random.default_rng(batch).normal(0, 1, (batch, *shape[1:])).astype(np.float32)}
            for got, expected in zip(model.run(inputs).values(), session(onnx.load(path)).run(None, inputs),
                                     strict=True):
                np.testing.assert_array_equal(got, expected)
            assert model.last_run.host_macs == 0 < model.last_run.work.macs
        return [row.op for row in model.placement if row.place == "host"]


def quantize(model, path):
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    data = {"x": np.random.default_rng(0).normal(0, 1, (6, *shape[1:])).astype(np.float32)}
    onnx.save(model, path.with_suffix(".float"))
    path.write_bytes(quantize_model(path.with_suffix(".float"), data))
    return path


@pytest.mark.parametrize("made", [flattened, shuffled, enlarged, attention])
def test_views(made, tmp_path):
    assert not check(quantize(made(), tmp_path / "model.onnx"), "wide")


@pytest.mark.parametrize("how", ["expand", "where", "tile"])
def test_class_token(how, tmp_path):
    """What is the same for each of the batch needs no host, nor a shape in between."""
    assert not check(quantize(class_token(how), tmp_path / "model.onnx"), "tiny")


# What needs a size.

def clamped():
    """view(min(batch, 8), -1): nobody knows what that is."""
    net = Net(8, x=["N", 3, 4, 4])
    x = net.conv("x", 4, 3)
    x = net("Reshape", x, net("Concat", net("Min", at(net, net("Shape", x), 0), np.array([8])), np.array([-1]),
                              axis=0))
    return net.model(net.linear(x, 64, 4))


def test_the_cure(run, tmp_path, no_device):
    """Where the batch cannot be left open, the reason says what to do, and that works."""
    path = quantize(clamped(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 4, 4), np.float32))
    with load_model(path, CONFIGS["tiny"], "golden") as model:
        why = {row.op: row.why for row in model.placement if row.place == "host"}
    cure = "dimension 'N', which has no size; try --dim N=1"
    assert why["Shape"] == why["Min"] == why["Concat"] == f"computes with {cure}"
    assert why["Reshape"].startswith("takes 'Concat") and why["Reshape"].endswith(f"', which depends on {cure}")
    for option in ("--strict",), ("--emit-c", str(tmp_path / "c")):
        fails(run, 1, cure, "run", str(path), str(tmp_path / "x.npy"), "--config", "tiny", *option)
    with load_model(path, CONFIGS["tiny"], "golden", dims={"N": 1}, strict=True):
        pass
