"""Products of codes with a bias of numbers, as TensorRT's and other tools' models have it."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, onnxruntime_says

from bench import one_step
from kiwicha import ChipConfig
from kiwicha_host import load_model
from kiwicha_host.compiler.ir.graph import Graph, Op
from kiwicha_host.compiler.passes.equal_codes import equal_codes
from kiwicha_host.compiler.passes.fold_qdq import fold_qdq

TINY = ChipConfig.preset("tiny")
#: Powers of two, so that numbers are exact, whoever computes them.
X, W, Y = 2.0 ** -5, 2.0 ** -6, 2.0 ** -3


class Biased(Between):
    """Products of int8 weights whose biases are whole steps of their sums."""

    def decoded(self, *shape, axis=0, per_channel=True):
        codes = self.rng.integers(-127, 128, shape, np.int8)
        scale = np.float32([W, 2 * W] * (shape[axis] // 2)) if per_channel else np.float32(W)
        return self("DequantizeLinear", codes, scale, np.zeros(scale.shape, np.int8), axis=axis)

    def bias(self, *shape):
        return np.float32(self.rng.integers(-2000, 2000, shape) * 2 * X * W)

    def ended(self, *names):
        """The results of all, for the user."""
        return [self.codes(name, Y, 3) for name in names]


def check(net, *outputs, host=()):
    """To the bit ONNX Runtime's, but for operators of the kinds `host` on the chip."""
    model = net.model(*outputs)
    inputs = {name: net.rng.integers(0, 256, (3, *shape[1:])).astype(np.uint8).view(net.dtype)
              for name, shape in net.shapes.items()}
    with load_model(model, TINY, "golden") as loaded:
        for (name, got), expected in zip(loaded.run(inputs).items(), onnxruntime_says(model, inputs), strict=True):
            np.testing.assert_array_equal(got, expected, err_msg=name)
        assert [row.op for row in loaded.placement if row.place == "host"] == [*host]
        return loaded.placement


@DTYPES
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("act", [None, "Relu"])
@pytest.mark.parametrize("group", [1, 4])
def test_convolutions(dtype, per_channel, act, group):
    net = Biased(dtype, x=["N", 4, 6, 5])
    y = net("Conv", net.numbers("x", X), net.decoded(8, 4 // group, 3, 3, per_channel=per_channel), net.bias(8),
            group=group, pads=[1, 1, 1, 1])
    check(net, *net.ended(net.act(y, act)))


@DTYPES
@pytest.mark.parametrize("shape", [(6,), (1, 6), (1,)])
def test_matrices(dtype, shape):
    net = Biased(dtype, x=["N", 20])
    x = net.numbers("x", X)
    check(net, *net.ended(net("Gemm", x, net.decoded(6, 20), net.bias(*shape), transB=1),
                          net("Gemm", x, net.decoded(20, 6, axis=1, per_channel=False), net.bias(*shape))))


@DTYPES
@pytest.mark.parametrize("rows, shape", [((), (6,)), ((), (1, 6)), ((4,), (6,)), ((4,), (1, 1, 6)), ((4,), ()),
                                         ((2, 3), (1, 6))])
def test_matmul_and_add(dtype, rows, shape):
    net = Biased(dtype, x=["N", *rows, 20])
    x = net.numbers("x", X)
    ended = net.ended(
        net("Add", net("MatMul", x, net.decoded(20, 6, axis=1)), net.bias(*shape)),
        net("Relu", net("Add", net.bias(*shape), net("MatMul", x, net.decoded(20, 6, axis=1, per_channel=False)))))
    rows = check(net, *ended)
    assert [row.op for row in rows if row.macs] == ["MatMul+Add", "MatMul+Add"]


@pytest.mark.parametrize("batch", ["N", 3])
def test_places_that_are_the_batch(batch):
    """Before and behind the product they are places, so that an operator on these can be there."""
    net = Biased(np.uint8, x=[batch, 4, 6, 20])
    rows = net.numbers(net.codes(net("Reshape", net.numbers("x", X), np.array([-1, 20])), X, 3), X)
    [made] = net.ended(net("Add", net("MatMul", rows, net.decoded(20, 6, axis=1)), net.bias(6)))
    places = net.numbers(net.codes(net("Reshape", net.numbers(made, Y), np.array([-1, 4, 6, 6])), Y, 3), Y)
    check(net, *net.ended(net("MaxPool", net("Transpose", places, perm=[0, 3, 1, 2]), kernel_shape=[2, 2])))


@DTYPES
def test_biases_of_other_codes(dtype):
    """int8, in steps of their own."""
    net = Biased(dtype, x=["N", 4, 6, 5])
    bias = net("DequantizeLinear", net.rng.integers(-128, 128, 8, np.int8), np.float32(2 ** -4), np.int8(5))
    check(net, *net.ended(net("Conv", net.numbers("x", X), net.decoded(8, 4, 3, 3), bias)))


@DTYPES
def test_a_result_that_is_quantized_twice(dtype):
    """By equal constants it is once; else the product is computed for each. What else needs numbers has them."""
    net = Biased(dtype, x=["N", 4, 6, 5])
    made = net("Relu", net("Conv", net.numbers("x", X), net.decoded(8, 4, 3, 3), net.bias(8)))
    ended = [*net.ended(made, made), net.codes(made, 2 * Y, 3)]
    again = [net.codes(net("MaxPool", net.numbers(name, Y, 3), kernel_shape=[2, 2]), Y, 3) for name in ended[:2]]
    rows = check(net, *again, ended[2])
    assert [row.op for row in rows if row.macs] == ["QLinearConv", "QLinearConv"]


def product(bias, kind="Gemm", **constants):
    """The graph of codes times codes plus `bias`."""
    constants = {"s": np.float32(0.5), "z": np.int8(3), "w": np.ones((2, 2), np.int8), "ws": np.float32([1, 2]),
                 "wz": np.zeros(2, np.int8), "t": np.float32(0.25), "b": bias} | constants
    ops = [Op("d", "DequantizeLinear", ("x", "s", "z"), ("X",)),
           Op("v", "DequantizeLinear", ("w", "ws", "wz"), ("W",), {"axis": 1})]
    ops += [Op("p", "Gemm", ("X", "W", "b"), ("Y",))] if kind == "Gemm" else [
        Op("p", "MatMul", ("X", "W"), ("P",)), Op("a", "Add", ("P", "b"), ("Y",))]
    ops.append(Op("q", "QuantizeLinear", ("Y", "t", "z"), ("y",)))
    return fold_qdq(Graph(("x",), ("y",), tuple(ops), constants, {}, {"": 17}))


@pytest.mark.parametrize("kind, place", [("Gemm", 6), ("MatMul", 8)])
def test_how_a_bias_is_rounded(kind, place):
    """To the nearest step, at halves to the even one; steps are 0.5 and 1."""
    for numbers, steps in (([0.75, 0.5], [2, 0]), ([1.25, 1.5], [2, 2]), ([-0.26, -1.4], [-1, -1]),
                           ([1e9, -1e9], [2_000_000_000, -1_000_000_000])):
        graph = product(np.float32(numbers), kind)
        found = graph.constants[graph.ops[0].inputs[place]]
        assert len(graph.ops) == 1 and found.dtype == np.int32 and found.tolist() == steps


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
@pytest.mark.parametrize("bias", [
    np.float32([0, 3e9]), np.float32([np.nan, 0]), np.float32([np.inf, 0]), np.zeros(2, np.float16),
    np.zeros(3, np.float32), np.ones((2, 2), np.float32), np.float32([0, 2_147_483_400])])
def test_biases_that_stay(kind, bias):
    """Sums with it would leave int32, or it is of another type or form."""
    assert {"Gemm", "MatMul"} & {op.kind for op in product(bias, kind).ops}


def test_what_else_needs_numbers_has_them():
    net = Biased(np.uint8, x=["N", 20])
    sums = net("MatMul", net.numbers("x", X), net.decoded(20, 6, axis=1))
    added = net("Add", sums, net.bias(6))
    check(net, *net.ended(added), net.codes(net("Add", added, net("Neg", sums)), Y, 3), host=(
        "Add", "QuantizeLinear", "Neg", "Add", "QuantizeLinear"))


def test_equal_codes():
    """One QuantizeLinear for those that make the same codes; results keep their names."""
    ops = [Op(name, "QuantizeLinear", ("x", f"s{name}", "z"), (name,)) for name in "abcd"]
    ops += [Op(f"{name}_", "DequantizeLinear", (name, "sa", "z"), (f"{name}y",)) for name in "abcd"]
    made = Graph(("x",), ("ay", "by", "cy", "dy", "d"), tuple(ops), {
        "sa": np.float32(0.5), "sb": np.float32([0.5]), "sc": np.float32(0.25), "sd": np.float32(0.5),
        "z": np.int8(0)}, {}, {"": 17})
    found = equal_codes(made).verify()
    assert [op.inputs for op in found.ops if op.kind == "DequantizeLinear"] == [
        (name, "sa", "z") for name in "aacd"]
    assert equal_codes(found) is found


@pytest.mark.parametrize("op", ["Gemm", "Conv", "MatMul"])
def test_how_much_differs(op):
    """Next to nothing where ONNX Runtime rounds such a bias, too."""
    found = one_step.share(f"{op} of 144, float bias", 6, "random")
    assert found.codes <= 1 and found.largest < 0.001
