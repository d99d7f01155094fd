"""Networks whose layers are no path: random graphs of operators on codes, bit for bit against ONNX Runtime."""

import random
from itertools import combinations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import run_onnxruntime
from test_network import CONFIGS

from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.ir.graph import Graph, Op, Type
from kiwicha_host.compiler.ir.layers import View
from kiwicha_host.compiler.legalize.to_layers import LayerBuilder
from kiwicha_host.compiler.lower.buffers import Lifetime, allocate

SCALES = np.float32([0.5, 0.25, 0.1])


class RandomGraph:
    """Operators on codes [2, channels, height, width], each of which takes what some before it made."""
    KINDS = ("conv", "conv", "concat", "split", "slice", "pad", "pool", "clip", "resize", "depth", "space")

    def __init__(self, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.dtype = np.dtype(rng.choice(["int8", "uint8"]))
        self.nodes, self.constants, self.counts = [], [], {}
        self.tensors = [self._input(name, *rng.integers(1, 9, 3)) for name in ("a", "b")[:rng.integers(1, 3)]]
        self.inputs = list(self.tensors)
        for _ in range(rng.integers(4, 12)):
            getattr(self, rng.choice(self.KINDS))()
        self.conv()     # what is for the chip at all

    def _input(self, name, channels, height, width):
        return name, (int(channels), int(height), int(width)), self.rng.choice(SCALES), self._zero()

    def _zero(self):
        info = np.iinfo(self.dtype)
        return int(self.rng.integers(info.min, info.max, endpoint=True))

    def constant(self, value, dtype):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, op, inputs, shapes, like, domain="", **attributes):
        """A node whose outputs have these shapes, and scale and zero point of `like`."""
        name = f"{op}{len(self.nodes)}"
        outputs = [f"{name}.{number}" for number in range(len(shapes))]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        self.tensors += [(output, tuple(map(int, shape)), *like[2:]) for output, shape in zip(
            outputs, shapes, strict=True)]

    def pick(self):
        return self.tensors[self.rng.integers(len(self.tensors))]

    def conv(self):
        rng, (name, (c, h, w), scale, zero) = self.rng, self.pick()
        kernel = [int(rng.integers(1, min(3, size) + 1)) for size in (h, w)]
        outputs, stride = int(rng.integers(1, 11)), int(rng.integers(1, 3))
        weights = rng.integers(-128, 128, (outputs, c, *kernel))
        like = None, None, rng.choice(SCALES), self._zero()
        # The result spreads over the codes.
        factor = np.float32(like[2] / scale / (30 * np.sqrt(weights[0].size) + 1))
        size = [(h - kernel[0]) // stride + 1, (w - kernel[1]) // stride + 1]
        self.add("QLinearConv", [name, self.constant(scale, np.float32), self.constant(zero, self.dtype),
                                 self.constant(weights, np.int8), self.constant(factor, np.float32),
                                 self.constant(0, np.int8), self.constant(like[2], np.float32),
                                 self.constant(like[3], self.dtype),
                                 self.constant(rng.integers(-3000, 3000, outputs), np.int32)],
                 [(outputs, *size)], like, strides=[stride] * 2, kernel_shape=kernel)

    def concat(self):
        rng, first, axis = self.rng, self.pick(), int(self.rng.integers(3))
        others = [item for item in self.tensors
                  if item[1][:axis] + item[1][axis + 1:] == first[1][:axis] + first[1][axis + 1:]]
        chosen = [first, *(others[rng.integers(len(others))] for _ in range(rng.integers(0, 3)))]
        shape = list(first[1])
        shape[axis] = sum(item[1][axis] for item in chosen)
        if shape[axis] > 40:
            return
        like = None, None, rng.choice(SCALES), self._zero()
        pairs = [self.constant(value, dtype) for item in (like, *chosen) for value, dtype in (
            (item[2], np.float32), (item[3], self.dtype))]
        operands = [part for number, item in enumerate(chosen) for part in (item[0], *pairs[2 * number + 2:][:2])]
        self.add("QLinearConcat", [*pairs[:2], *operands], [shape], like, "com.microsoft", axis=axis + 1)

    def split(self):
        like = self.pick()
        name, shape, axis = like[0], like[1], int(self.rng.integers(3))
        if shape[axis] > 1:
            at = int(self.rng.integers(1, shape[axis]))
            parts = [[*shape], [*shape]]
            parts[0][axis], parts[1][axis] = at, shape[axis] - at
            self.add("Split", [name, self.constant([at, shape[axis] - at], np.int64)], parts, like, axis=axis + 1)

    def slice(self):
        rng, like = self.rng, self.pick()
        axis = int(rng.integers(3))
        size, step = like[1][axis], int(rng.choice([1, 1, 2, 3] if axis else [1]))
        start = int(rng.integers(size))
        end = int(rng.integers(start + 1, size + 1))
        shape = list(like[1])
        shape[axis] = len(range(start, end, step))
        self.add("Slice", [like[0], *(self.constant([value], np.int64) for value in (start, end, axis + 1, step))],
                 [shape], like)

    def pad(self):
        like, pads = self.pick(), [int(item) for item in self.rng.integers(0, 3, 4)]
        c, h, w = like[1]
        self.add("Pad", [like[0], self.constant([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64),
                         self.constant(self._zero(), self.dtype)],
                 [(c, h + pads[0] + pads[2], w + pads[1] + pads[3])], like)

    def pool(self):
        like = self.pick()
        c, h, w = like[1]
        kernel = [min(2, h), min(2, w)]
        self.add("MaxPool", [like[0]], [(c, h - kernel[0] + 1, w - kernel[1] + 1)], like, kernel_shape=kernel)

    def clip(self):
        like, low, high = self.pick(), *sorted([self._zero(), self._zero()])
        self.add("Clip", [like[0], *(self.constant(code, self.dtype) for code in (low, high))], [like[1]], like)

    def resize(self):
        rng, like = self.rng, self.pick()
        c, h, w = like[1]
        y, x = (int(item) for item in rng.integers(1, 4, 2))
        if h * w * x * y < 500:
            mode = str(rng.choice(["asymmetric", "half_pixel", "align_corners"]))
            self.add("Resize", [like[0], "", self.constant([1, 1, y, x], np.float32)], [(c, h * y, w * x)], like,
                     coordinate_transformation_mode=mode, mode="nearest",
                     nearest_mode=str(rng.choice(["floor", "round_prefer_floor", "ceil"])))

    def depth(self):
        like = self.pick()
        c, h, w = like[1]
        if c % 4 == 0 and h * w < 200:
            self.add("DepthToSpace", [like[0]], [(c // 4, 2 * h, 2 * w)], like, blocksize=2,
                     mode=str(self.rng.choice(["DCR", "CRD"])))

    def space(self):
        like = self.pick()
        c, h, w = like[1]
        if h % 2 == w % 2 == 0 and c < 12:
            self.add("SpaceToDepth", [like[0]], [(4 * c, h // 2, w // 2)], like, blocksize=2)

    def model(self):
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        value = helper.make_tensor_value_info
        made = [item for item in self.tensors if item not in self.inputs]
        chosen = {int(item) for item in self.rng.integers(0, len(made), 2)} | {len(made) - 1}
        graph = helper.make_graph(
            self.nodes, "random", [value(name, kind, ["N", *shape]) for name, shape, *_ in self.inputs],
            [value(made[item][0], kind, ["N", *made[item][1]]) for item in sorted(chosen)], self.constants)
        return helper.make_model(graph, ir_version=8, opset_imports=[
            helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])

    def arrays(self, count):
        info = np.iinfo(self.dtype)
        return {name: self.rng.integers(info.min, info.max, (count, *shape), self.dtype, endpoint=True)
                for name, shape, *_ in self.inputs}


@pytest.mark.parametrize("seed", [*range(40), 249])
def test_random_graphs(seed):
    graph = RandomGraph(seed)
    model, inputs = graph.model(), graph.arrays(2)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    expected = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]
                                            ).run(None, inputs)
    config = list(CONFIGS.values())[seed % len(CONFIGS)]
    with load_model(model, config, "golden") as loaded:
        for (name, got), wanted in zip(loaded.run(inputs).items(), expected, strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=f"{name}, seed {seed}")
        assert any(row.place == "chip" for row in loaded.placement)


def box(array, view):
    """What `view` has of an array [channels, height, width]."""
    (y, x), (dy, dx), (h, w) = view.origin, view.step, view.size
    return array[view.channel:view.channel + view.channels, y:y + h * dy:dy, x:x + w * dx:dx]


def random_view(rng, channels, size):
    """It begins at most 3, and has steps of at most 3."""
    return View(7, channels, size, int(rng.integers(4)), tuple(rng.integers(0, 4, 2).tolist()),
                tuple(rng.integers(1, 4, 2).tolist()))


@pytest.mark.parametrize("seed", range(10))
def test_boxes_of_boxes(seed):
    """Wherever they begin, and whatever their steps, they are slices of slices."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    outer, inner = random_view(rng, 9, (16, 17)), random_view(rng, 5, (5, 4))
    array = np.arange(12 * 49 * 52).reshape(12, 49, 52)
    np.testing.assert_array_equal(box(array, inner.of(outer)), box(box(array, outer), inner))


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 7)])
@pytest.mark.parametrize("then", ["MaxPool", "Clip", "nothing", "conv"])
@pytest.mark.parametrize("needed", [False, True])
def test_channels_in_another_order(shape, then, needed):
    """As ShuffleNet has them: one program, also where codes in the old order are needed."""
    rng, window = np.random.default_rng(0), [2] * (len(shape) - 1)
    perm = [0, 2, 1, *range(3, len(shape) + 2)]
    given = {"groups": np.array([0, 2, 3, *shape[1:]]), "whole": np.array([0, *shape]), "scale": np.float32(0.5),
             "factor": np.float32(0.01), "zero": np.int8(3), "none": np.int8(0), "low": np.int8(-50),
             "weights": rng.integers(-128, 128, (4, 6, *window), np.int8)}
    node, ends = helper.make_node, ["scale", "zero"]
    last = {"MaxPool": node("MaxPool", ["s"], ["y"], kernel_shape=window),
            "Clip": node("Clip", ["s", "low"], ["y"]), "nothing": node("Identity", ["s"], ["y"]),
            "conv": node("QLinearConv", ["s", *ends, "weights", "factor", "none", *ends], ["y"])}[then]
    nodes = [node("MaxPool", ["x"], ["p"], kernel_shape=[1] * len(window)),
             node("Reshape", ["p", "groups"], ["g"]), node("Transpose", ["g"], ["t"], perm=perm),
             node("Reshape", ["t", "whole"], ["s"]), last]
    value = helper.make_tensor_value_info
    outputs = [value(name, TensorProto.INT8, None) for name in (["y", "p"] if needed else ["y"])]
    model = helper.make_model(helper.make_graph(
        nodes, "shuffle", [value("x", TensorProto.INT8, ["N", *shape])], outputs,
        [numpy_helper.from_array(np.asarray(item), name) for name, item in given.items()]), ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)])
    x = rng.integers(-128, 128, (2, *shape), np.int8)
    expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x})
    with load_model(model, CONFIGS["tiny"], "golden") as loaded:
        for got, wanted in zip(loaded.run({"x": x}).values(), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert len(loaded.compiled.parts) == 1


@pytest.mark.parametrize("step", [1, 2, -1])
def test_slices_of_channels(step):
    """A view has channels that follow each other; others are copied, and they may be put into another order."""
    given = {"start": 5 if step < 0 else 0, "end": -9 if step < 0 else 5, "axis": 1, "step": step}
    nodes = [helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]),
             helper.make_node("Slice", ["p", *given], ["s"]),
             helper.make_node("MaxPool", ["s"], ["y"], kernel_shape=[2, 2])]
    value = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(
        nodes, "channels", [value("x", TensorProto.INT8, ["N", 6, 4, 4])],
        [value("y", TensorProto.INT8, ["N", "C", 2, 2])],
        [numpy_helper.from_array(np.array([item]), name) for name, item in given.items()]), ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)])
    x = np.random.default_rng(0).integers(-128, 128, (2, 6, 4, 4), np.int8)
    with load_model(model, CONFIGS["tiny"], "golden") as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], run_onnxruntime(model, x))
        assert len(loaded.compiled.parts) == 1


@pytest.mark.parametrize("start, end, step, on_chip", [
    (0, 10, 1, False), (0, 1000, 1, False), (9, -11, -1, False), (-10, 1000, 1, False),
    (0, (1 << 63) - 1, 1, True)])
def test_slices_of_the_batch(start, end, step, on_chip):
    """Only one that leaves any batch as it is can be the chip's."""
    rng, given = np.random.default_rng(0), {"start": start, "end": end, "axis": 0, "step": step}
    integers = [numpy_helper.from_array(np.array([item]), name) for name, item in given.items()]
    nodes = [helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["s"]),
             helper.make_node("MaxPool", ["s"], ["y"], kernel_shape=[2, 2])]
    value = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(
        nodes, "batch", [value("x", TensorProto.INT8, ["N", 3, 4, 4])],
        [value("y", TensorProto.INT8, ["M", 3, 3, 3])], integers), ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)])
    with load_model(model, CONFIGS["tiny"], "golden") as loaded:
        for count in (10, 12):
            inputs = {"x": rng.integers(-128, 128, (count, 3, 4, 4), np.int8)}
            np.testing.assert_array_equal(loaded.run(inputs)["y"], run_onnxruntime(model, inputs["x"]))
        assert all(row.place == "chip" for row in loaded.placement) == on_chip


@pytest.mark.parametrize("seed", range(20))
def test_buffers_do_not_overlap(seed):
    rng = random.Random(seed)
    births = [rng.randrange(12) for _ in range(rng.randrange(1, 20))]
    lifetimes = {number: Lifetime(rng.randrange(1, 2000), birth, birth + rng.randrange(4))
                 for number, birth in enumerate(births)}
    offsets, size = allocate(lifetimes)
    assert offsets.keys() == lifetimes.keys() and not any(offset % 64 for offset in offsets.values())
    assert max(offsets[number] + item.size for number, item in lifetimes.items()) <= size
    for (a, first), (b, second) in combinations(lifetimes.items(), 2):
        if first.birth <= second.death and second.birth <= first.death:
            assert offsets[a] + first.size <= offsets[b] or offsets[b] + second.size <= offsets[a], (a, b)


def test_buffers_share_memory():
    """A chain needs room for the two largest neighbours; a gap that is large enough is used."""
    chain = {number: Lifetime(size, number, number + 1) for number, size in enumerate((640, 1280, 640, 1280))}
    assert allocate(chain)[1] == 1920
    gap = {0: Lifetime(1280, 0, 1), 1: Lifetime(640, 0, 5), 2: Lifetime(1280, 2, 5), 3: Lifetime(128, 0, 5)}
    assert allocate(gap)[1] == 2048
    assert allocate({}) == ({}, 0)


@pytest.mark.parametrize("old, new", [(0.25, 0.5), (0.875, 1.3), (0.1875, 0.21)])
def test_new_steps_are_rounded_as_by_a_division(old, new):
    """ONNX Runtime divides: the plain quotient as a factor does for the first pair alone."""
    codes = np.arange(-128, 128).astype(np.float32)
    quotient = np.rint(codes * np.float32(np.float32(old) / np.float32(new)))
    assert (quotient == np.rint(codes * np.float32(old) / np.float32(new))).all() == (old == 0.25)
    values = {"s": np.float32(new), "t": np.float32(old), "z": np.int8(0)}
    nodes = [helper.make_node("QLinearConcat", ["s", "z", "p", "t", "z", "q", "t", "z"], ["y"], axis=1,
                              domain="com.microsoft"),
             *(helper.make_node("MaxPool", ["x"], [name], kernel_shape=[1, 1]) for name in "pq")]
    value = helper.make_tensor_value_info
    model = helper.make_model(helper.make_graph(
        [*nodes[1:], nodes[0]], "steps", [value("x", TensorProto.INT8, ["N", 1, 16, 16])],
        [value("y", TensorProto.INT8, ["N", 2, 16, 16])],
        [numpy_helper.from_array(np.array(item), name) for name, item in values.items()]), ir_version=8,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 1, 16, 16)
    with load_model(model, CONFIGS["tiny"], "golden") as loaded:
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], run_onnxruntime(model, x))
        assert all(row.place == "chip" for row in loaded.placement)


def test_a_refused_operator_leaves_nothing():
    """Both operands are there already when it turns out that they do not fit each other."""
    types = {name: Type("int8", ("N", *shape)) for name, shape in (("x", (4, 6)), ("y", (3, 2, 6)))}
    constants = {"shape": np.array([0, 2, 2, 6]), "scale": np.float32(1), "zero": np.int8(0)}
    ops = (Op("r", "Reshape", ("x", "shape"), ("z",)),
           Op("c", "com.microsoft.QLinearConcat",
              ("scale", "zero", "z", "half", "zero", "w", "scale", "zero"), ("out",), {"axis": 1}))
    constants |= {"half": np.float32(0.5)}
    graph = Graph(("x", "w"), ("out",), ops, constants, {**types, "w": Type("int8", ("N", 3, 2, 5))}, {"": 17})
    builder = LayerBuilder(graph)
    builder.add(ops[0])
    with pytest.raises(CompileError, match="do not fit each other along axis 1"):
        builder.add(ops[1])
    assert not (builder.layers.layers or builder.layers.maps or builder.layers.inputs or builder.layers.targets)
