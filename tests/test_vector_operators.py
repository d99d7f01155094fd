"""Sums, products and functions of codes as layers: ONNX Runtime's numbers, to the bit."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, check, onnxruntime_says
from layer_reference import run_layers
from onnx import helper
from test_layer_graphs import RandomGraph
from test_network import CONFIGS

from bench import one_step
from kiwicha_host import load_model
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.host import HostPart
from kiwicha_host.compiler.ir.graph import Type
from kiwicha_host.compiler.legalize import tables
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.compiler.partition import LayerSubgraph, partition


class RandomVectors(RandomGraph):
    """With what the vector unit does."""
    KINDS = ("conv", "add", "add", "mul", "mul", "scaled", "average", "mean", "sigmoid", "leaky", "concat",
             "slice", "pool", "clip", "resize", "space")

    def ends(self, *operands):
        """Names of codes, scales and zero points, the result's last, and what the result is like."""
        like = None, None, self.rng.uniform(0.05, 0.5), self._zero()
        names = [part for item in operands for part in (
            item[0], self.constant(item[2], np.float32), self.constant(item[3], self.dtype))]
        return [*names, self.constant(like[2], np.float32), self.constant(like[3], self.dtype)], like

    def pair(self, op):
        first = self.pick()
        others = [item for item in self.tensors if item[1] == first[1]]
        names, like = self.ends(first, others[self.rng.integers(len(others))])
        self.add(op, names, [first[1]], like, "com.microsoft")

    # The base class's `add` makes a node; as a kind of its own it is a sum.
    def add(self, op=None, *rest, **attributes):
        if op is None:
            return self.pair("QLinearAdd")
        return super().add(op, *rest, **attributes)

    def mul(self):
        self.pair("QLinearMul")

    def scaled(self):
        """One number for each channel, on either side."""
        big = self.pick()
        self.mean(big)
        operands = [big, self.tensors[-1]]
        names, like = self.ends(*(operands if self.rng.random() < 0.5 else operands[::-1]))
        self.add(str(self.rng.choice(["QLinearMul", "QLinearAdd"])), names, [big[1]], like, "com.microsoft")

    def mean(self, item=None):
        item = item or self.pick()
        names, like = self.ends(item)
        self.add("QLinearGlobalAveragePool", names, [(item[1][0], 1, 1)], like, "com.microsoft", channels_last=0)

    def average(self):
        item, rng = self.pick(), self.rng
        c, h, w = item[1]
        kernel, stride = [int(rng.integers(1, min(4, size) + 1)) for size in (h, w)], int(rng.integers(1, 3))
        pads = [int(rng.integers(0, (kernel[i % 2] + 1) // 2)) for i in range(4)]
        size = [(side + pads[i] + pads[i + 2] - kernel[i]) // stride + 1 for i, side in enumerate((h, w))]
        names, like = self.ends(item)
        self.add("QLinearAveragePool", names, [(c, *size)], like, "com.microsoft", kernel_shape=kernel,
                 strides=[stride] * 2, pads=pads, count_include_pad=int(rng.integers(2)), channels_last=0)

    def function(self, op, **attributes):
        item = self.pick()
        names, like = self.ends(item)
        self.add(op, names, [item[1]], like, "com.microsoft", **attributes)

    def sigmoid(self):
        self.function("QLinearSigmoid")

    def leaky(self):
        self.function("QLinearLeakyRelu", alpha=float(self.rng.uniform(0, 1)))


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed):
    graph = RandomVectors(seed)
    model, values = graph.model(), graph.arrays(2)
    expected = onnxruntime_says(model, values)
    for part in partition(optimize(model)):
        values |= run_layers(part.layers, values) if isinstance(part, LayerSubgraph) else HostPart(
            part.graph, {name: Type.of(array) for name, array in values.items()}).run(values)
    for item, wanted in zip(model.graph.output, expected, strict=True):
        np.testing.assert_array_equal(values[item.name], wanted, err_msg=f"{item.name}, seed {seed}")


@pytest.mark.parametrize("seed", range(40, 58))
def test_random_graphs_as_programs(seed):
    graph = RandomVectors(seed)
    model, values = graph.model(), graph.arrays(2)
    with load_model(model, list(CONFIGS.values())[seed % len(CONFIGS)], "golden") as loaded:
        for (name, got), wanted in zip(loaded.run(values).items(), onnxruntime_says(model, values), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=f"{name}, seed {seed}")
        assert any(row.place == "chip" for row in loaded.placement)


def all_codes(dtype):
    """[1, 1, 16, 16]: each code."""
    codes = np.arange(256).astype(np.uint8).view(dtype)
    return codes.reshape(1, 1, 16, 16)


FUNCTIONS = {
    **{op: lambda net, x, op=op: net(op, x) for op in (
        "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "HardSigmoid", "Elu", "Selu", "Softplus", "Gelu", "Erf",
        "Mish", "Abs", "Neg", "Exp", "Sqrt", "Reciprocal", "Relu", "Identity")},
    "requantized": lambda net, x: x,
    "Pow": lambda net, x: net("Pow", x, np.float32(2)),
    "Div": lambda net, x: net("Div", np.float32([[[1.5]]]), x),
    "Clip": lambda net, x: net("Clip", x, np.float32(-1), np.float32(0.7)),
    "swish": lambda net, x: net("Mul", x, net("Sigmoid", x)),
    "codes between": lambda net, x: net("Mul", x, net.numbers(
        net.codes(net("HardSigmoid", x), 0.004, 0), 0.004, 0)),
    "codes of both": lambda net, x: net("Add", *(net.numbers(net.codes(net(op, x), 0.03, 1), 0.03, 1)
                                                 for op in ("Tanh", "Elu"))),
    "square": lambda net, x: net("Mul", x, x),
    "chain": lambda net, x: net("Sub", net("Add", net("Tanh", x), np.float32(1)), np.float32(0.3)),
    "gelu": lambda net, x: net("Mul", net("Mul", x, np.float32(0.5)), net("Add", net("Erf", net(
        "Div", x, np.float32(2 ** 0.5))), np.float32(1))),
    "moved": lambda net, x: net("Flatten", net("Transpose", net("HardSwish", x), perm=[0, 2, 3, 1])),
    "requantized and moved": lambda net, x: net("Reshape", x, np.array([0, 16, 16])),
    "quantized constant": lambda net, x: net("Add", x, net("DequantizeLinear", net.dtype(7), np.float32(0.1),
                                                           net.dtype(0)))}


@DTYPES
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions(function, dtype):
    """Each code's result is what ONNX Runtime's own operators in floating point make of it."""
    net = Between(dtype, x=["N", 1, 16, 16])
    model = net.model(net.codes(FUNCTIONS[function](net, net.numbers("x"))))
    [layer] = check(model, {"x": all_codes(dtype)}).layers
    assert layer.b_table is None


@DTYPES
def test_moved_results_that_are_needed_elsewhere(dtype):
    """The numbers of a function whose codes are moved, too; and two that move the same numbers."""
    net = Between(dtype, x=["N", 1, 16, 16])
    moved = net("Flatten", net("HardSwish", net.numbers("x")))
    model = net.model(net.codes(moved), net.codes(net("Reshape", moved, np.array([0, 2, 128])), 0.03, 1),
                      net.codes(net("Softmax", moved), 0.004, 0))
    inputs = {"x": all_codes(dtype)}
    for got, expected in zip(load_model(model, config="tiny", device="golden").run(inputs).values(),
                             onnxruntime_says(model, inputs), strict=True):
        np.testing.assert_array_equal(got, expected)


@DTYPES
def test_functions_without_codes_behind_them(dtype):
    """The chip runs these operators, but not between numbers: the reason says so."""
    net = Between(dtype, x=["N", 1, 16, 16])
    model = net.model(net.codes(net("GlobalAveragePool", net("HardSwish", net.numbers("x")))))
    with load_model(model, config="tiny", device="golden") as loaded:
        whys = {row.op: row.why for row in loaded.placement}
    assert whys["HardSwish"] == "no QuantizeLinear stands behind it"
    assert whys["GlobalAveragePool"] == "computes in floating point; the chip needs codes"


JOINS = {
    "Add": lambda net, a, b: net("Add", a, b), "Sub": lambda net, a, b: net("Sub", a, b),
    "Mul": lambda net, a, b: net("Mul", a, b), "Sum": lambda net, a, b: net("Sum", a, b),
    "Relu": lambda net, a, b: net("Relu", net("Add", a, b)),
    "Clip": lambda net, a, b: net("Clip", net("Sub", a, b), np.float32(-1), np.float32(2))}


@DTYPES
@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("shapes", [((4, 16, 16), (4, 16, 16)), ((4, 16, 16), (4, 1, 1)), ((5, 1, 1), (5, 3, 2)),
                                    ((6,), (6,)), ((3, 20), (3, 1))])
def test_two_operands(shapes, join, dtype):
    rng, info = np.random.default_rng(0), np.iinfo(dtype)
    net = Between(dtype, **{name: ["N", *shape] for name, shape in zip("xy", shapes, strict=True)})
    operands = net.numbers("x", 0.031, 40), net.numbers("y", 0.057, 9)
    model = net.model(net.codes(JOINS[join](net, *operands), 0.1, 90))
    arrays = {name: rng.integers(info.min, info.max, (2, *shape), dtype, endpoint=True)
              for name, shape in zip("xy", shapes, strict=True)}
    layers = check(model, arrays)
    assert [layer.op for layer in layers.layers] == [
        join if join in ("Add", "Sub", "Mul", "Sum") else f"{'Add' if join == 'Relu' else 'Sub'}+{join}"]


def test_sums_are_onnxruntimes(monkeypatch):
    """Fixed point alone makes one of these 65,536 sums the code next to ONNX Runtime's."""
    ends = [(np.float32(scale), np.uint8(zero)) for scale, zero in (
        (0.018568153, 143), (1.3324527, 239), (0.021664677, 71))]
    net = Between(np.uint8, x=["N", 16, 64, 64], y=["N", 16, 64, 64])
    model = net.model(net("QLinearAdd", "x", *ends[0], "y", *ends[1], *ends[2], domain="com.microsoft"))
    codes = np.arange(256).astype(np.uint8)
    arrays = {"x": np.repeat(codes, 256).reshape(1, 16, 64, 64), "y": np.tile(codes, 256).reshape(1, 16, 64, 64)}
    check(model, arrays)
    monkeypatch.setattr(tables, "_ROUNDS", 0)
    [plain] = run_layers(to_layers(optimize(model)), arrays).values()
    assert (plain != onnxruntime_says(model, arrays)[0]).sum() == 1


@pytest.mark.parametrize("shape", [(256, 1, 256), (256, 256, 1)])
def test_sums_with_a_number_for_each_channel(shape):
    """ONNX Runtime adds such a number in another order, wherever the channel's elements are."""
    ends = [(np.float32(scale), np.int8(zero)) for scale, zero in ((0.3, 23), (0.8, 43), (1, 3))]
    net = Between(np.int8, x=["N", *shape], y=["N", 256, 1, 1])
    model = net.model(net("QLinearAdd", "y", *ends[1], "x", *ends[0], *ends[2], domain="com.microsoft"))
    codes = np.arange(256).astype(np.uint8).view(np.int8)
    check(model, {"x": np.tile(codes, 256).reshape(1, *shape), "y": codes.reshape(1, 256, 1, 1)})


#: Shapes of one image of an operand that has one element for several of another, (4, 6, 5).
PARTS = [(4, 1, 5), (4, 6, 1), (1, 6, 5), (1, 1, 5), (1, 6, 1), (1, 1, 1), (4, 1, 1)]


@DTYPES
@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("shape", PARTS)
def test_one_element_for_several(shape, join, dtype):
    """On either side, from a layer or from the host, or a constant."""
    rng, info = np.random.default_rng(0), np.iinfo(dtype)
    net = Between(dtype, x=["N", 4, 6, 5], y=["N", *shape])
    arrays = {name: rng.integers(info.min, info.max, (2, *size[1:]), dtype, endpoint=True)
              for name, size in net.shapes.items()}
    x, y = net.numbers("x", 0.031, 40), net.numbers("y", 0.057, 9)
    made = net.numbers(net("MaxPool", "y", kernel_shape=[1, 1]), 0.057, 9)
    known = net.numbers(rng.integers(info.min, info.max, shape, dtype, endpoint=True), 0.049, 11)
    operands = [(x, y), (y, x), (x, made), (x, known), (known, x)]
    model = net.model(*(net.codes(JOINS[join](net, *pair), 0.1, 90) for pair in operands))
    layers = check(model, arrays)
    copies = [layer for layer in layers.layers if layer.op == "Copy"]
    assert len(layers.layers) == 6 + len(copies) and len(copies) == (1 if shape[0] == 1 else 0)


@pytest.mark.parametrize("first, second", [
    ((1, 256, 256), (1, 256, 1)), ((1, 256, 256), (1, 1, 256)), ((256, 256, 1), (1, 256, 1)),
    ((256, 1, 256), (1, 1, 256)), ((256, 256, 1), (256, 1, 1))])
def test_sums_with_one_element_for_several(first, second):
    """In whatever order ONNX Runtime adds, which hangs on whether it is one for all of a row."""
    ends = [(np.float32(scale), np.int8(zero)) for scale, zero in ((0.3, 23), (0.8, 43), (1, 3))]
    net = Between(np.int8, x=["N", *first], y=["N", *second])
    model = net.model(net("QLinearAdd", "y", *ends[1], "x", *ends[0], *ends[2], domain="com.microsoft"))
    codes = np.arange(256).astype(np.uint8).view(np.int8)
    (axis,) = (axis for axis in range(3) if first[axis] > 1 and second[axis] == 1)
    shape = [256 if each == axis else 1 for each in range(3)]
    check(model, {"x": np.broadcast_to(codes.reshape(shape), (1, *first)), "y": codes.reshape(1, *second)})


@pytest.mark.parametrize("seed", range(20))
def test_one_element_for_several_as_programs(seed):
    """In tiles of all kinds."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    shape = tuple(int(item) for item in rng.choice([2, 3, 9, 20, 33], 3))
    small = [size if rng.random() < 0.5 else 1 for size in shape]
    net = Between(np.uint8, x=["N", *shape], y=["N", *small])
    ends = np.float32(rng.uniform(0.1, 0.5)), np.uint8(77)
    joined = net(str(rng.choice(["QLinearAdd", "QLinearMul"])), "x", *ends, net(
        "MaxPool", "y", kernel_shape=[1, 1]), *ends, np.float32(0.7), np.uint8(8), domain="com.microsoft")
    model = net.model(joined)
    arrays = {name: rng.integers(0, 256, (3, *size[1:]), np.uint8) for name, size in net.shapes.items()}
    with load_model(model, list(CONFIGS.values())[seed % len(CONFIGS)], "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run(arrays).values(), onnxruntime_says(model, arrays)[0])
        assert {row.place for row in loaded.placement} == {"chip"}


def all_pairs(first, second):
    """[1, 16, 64, 64] each: all pairs of codes."""
    codes = np.arange(256).astype(np.uint8)
    return {"x": np.repeat(codes, 256).view(first).reshape(1, 16, 64, 64),
            "y": np.tile(codes, 256).view(second).reshape(1, 16, 64, 64)}


@DTYPES
@pytest.mark.parametrize("zero", [4, 5])
def test_sums_of_codes_of_two_types(zero, dtype):
    """Numbers for ONNX Runtime, which adds the zero point after it has rounded: a half goes to the even number."""
    net = Between(dtype, x=["N", 16, 64, 64], y=["N", 16, 64, 64])
    model = net.model(net("QuantizeLinear", net("Add", net.numbers("x", 0.25, 7), net.numbers("y", 0.5, 9)),
                          np.float32(0.5), (np.int8, np.uint8)[dtype == np.int8](zero)))
    model.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(
        np.dtype((np.int8, np.uint8)[dtype == np.int8]))
    check(model, all_pairs(dtype, dtype))


@pytest.mark.parametrize("op, scales", [("Add", (1, 1, 1e-30)), ("Mul", (1e3, 1e3, 1e-3)), ("Mul", (1, 1, 1e-38))])
def test_results_beyond_integers(op, scales):
    """ONNX Runtime's conversions overflow there: no tables make its results, and the host computes them."""
    net = Between(np.int8, x=["N", 16, 64, 64], y=["N", 16, 64, 64])
    ends = [(np.float32(scale), np.int8(3)) for scale in scales]
    made = net(f"QLinear{op}", "x", *ends[0], "y", *ends[1], *ends[2], domain="com.microsoft")
    model = net.model(net("MaxPool", made, kernel_shape=[1, 1]))
    with pytest.raises(CompileError, match="scales .* are too large for the result's"):
        to_layers(optimize(model))
    arrays = all_pairs(np.int8, np.int8)
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run(arrays).values(), onnxruntime_says(model, arrays)[0])


@pytest.mark.parametrize("name, kind, differ", [
    ("sum", "simple", False), ("global average of 7x7", "simple", False), ("product", "simple", True),
    ("sum", "equal", False), ("batch normalization", "random", False)])
def test_how_much_differs(name, kind, differ):
    """Products at halves, with an odd zero point, are what may."""
    found = one_step.share(name, 4, kind)
    assert (found.codes == 1 and 0 < found.largest < 0.03) if differ else found.codes == 0


@DTYPES
def test_the_same_tensor_twice(dtype):
    """One operand, whose table is the diagonal of that of two."""
    ends = np.float32(0.03), dtype(7)
    net = Between(dtype, x=["N", 1, 16, 16])
    model = net.model(net("QLinearMul", "x", *ends, "x", *ends, np.float32(0.1), dtype(2), domain="com.microsoft"))
    [layer] = check(model, {"x": all_codes(dtype)}).layers
    assert layer.b_table is None


@DTYPES
def test_constant_operands(dtype):
    for op in ("QLinearAdd", "QLinearMul"):
        for swapped in (False, True):
            net, operands = Between(dtype, x=["N", 1, 16, 16]), [("x", np.float32(0.03), dtype(7)),
                                                                 (dtype(9), np.float32(0.4), dtype(1))]
            net_inputs = [part for item in (operands[::-1] if swapped else operands) for part in item]
            model = net.model(net(op, *net_inputs, np.float32(0.1), dtype(2), domain="com.microsoft"))
            assert len(check(model, {"x": all_codes(dtype)}).layers) == 1


@DTYPES
@pytest.mark.parametrize("form", ["operators", "pairs"])
@pytest.mark.parametrize("shape, constant", [
    ((5, 4, 3), (5, 1, 1)), ((5, 4, 3), (1, 5, 1, 1)), ((5, 4, 3), (1, 5, 4, 3)), ((7,), (7,)), ((7,), (1, 7))])
def test_constants_of_several_elements(shape, constant, form, dtype):
    """A number for each channel, or for each element, is an input of the chip's that never changes."""
    rng, info = np.random.default_rng(0), np.iinfo(dtype)
    known = rng.integers(info.min, info.max, constant, dtype, endpoint=True)
    net, ends = Between(dtype, x=["N", *shape]), (np.float32(0.0317), dtype(7))
    made = net.codes(net("Sub", net.numbers(known, *ends), net.numbers("x", 0.0531))) if form == "pairs" else net(
        "QLinearMul", "x", *ends, known, *ends, np.float32(0.1), dtype(2), domain="com.microsoft")
    layers = check(net.model(made), {"x": rng.integers(info.min, info.max, (3, *shape), dtype, endpoint=True)})
    assert len(layers.layers) == 1 and len(layers.inputs) == 2


@pytest.mark.parametrize("constant", [(2, 5, 4, 3), (1, 1, 5, 4, 3), (1, 5, 4, 2)])
def test_constants_that_do_not_fit(constant):
    net, ends = Between(np.int8, x=["N", 5, 4, 3]), (np.float32(0.03), np.int8(7))
    made = net("QLinearMul", "x", *ends, np.ones(constant, np.int8), *ends, *ends, domain="com.microsoft")
    model = net.model(made)
    with pytest.raises(CompileError, match="its constant operand .* does not fit|at other places") as caught:
        to_layers(optimize(model))
    assert "\n" not in str(caught.value)


def test_the_bias_of_a_product_in_numbers():
    """As exporters write a layer: MatMul, whose sum with a row is in other codes."""
    net, rng, ends = Between(np.uint8, x=["N", 6, 5]), np.random.default_rng(0), (np.float32(0.1), np.uint8(3))
    weights = net("DequantizeLinear", rng.integers(-128, 128, (5, 8), np.int8), np.float32(0.02), np.int8(0))
    product = net.numbers(net.codes(net("MatMul", net.numbers("x"), weights), *ends), *ends)
    row = net.numbers(rng.integers(0, 256, 8, np.uint8), 0.02, 100)
    model = net.model(net.codes(net("Add", product, row), 0.13, 77))
    layers = check(model, {"x": rng.integers(0, 256, (2, 6, 5), np.uint8)})
    assert [layer.op for layer in layers.layers] == ["QLinearMatMul", "Add"]


def test_an_operand_that_the_host_makes():
    """Its codes are put where those of the other operand are: a product has places before channels."""
    rng, ends = np.random.default_rng(0), (np.float32(0.1), np.int8(3))
    net = Between(np.int8, x=["N", 6, 5], y=["N", 6, 8])
    product = net("QLinearMatMul", "x", *ends, rng.integers(-9, 9, (5, 8), np.int8), np.float32(0.05), np.int8(0),
                  *ends)
    model = net.model(net("QLinearAdd", product, *ends, "y", *ends, *ends, domain="com.microsoft"))
    arrays = {"x": rng.integers(-128, 128, (2, 6, 5), np.int8), "y": rng.integers(-128, 128, (2, 6, 8), np.int8)}
    assert len(check(model, arrays).layers) == 2


@pytest.mark.parametrize("form", ["operators", "pairs"])
@pytest.mark.parametrize("op, changes, why", [
    ("Add", {"x": ["N", 3, 4, 1], "y": ["N", 3, 1, 4]}, "its operands' elements are at other places"),
    ("Add", {"y": [1, 3, 4, 4]}, "its operands must have as many dimensions and images each")])
def test_operands_that_do_not_fit(op, changes, why, form):
    shapes = {"x": ["N", 3, 4, 4], "y": ["N", 3, 4, 4]} | changes
    net = Between(np.int8, **shapes)
    ends = np.float32(0.1), np.int8(2)
    made = net.codes(net(op, net.numbers("x"), net.numbers("y"))) if form == "pairs" else net(
        f"QLinear{op}", "x", *ends, "y", *ends, *ends, domain="com.microsoft")
    model = net.model(net("MaxPool", made, kernel_shape=[2, 2]))
    with pytest.raises(CompileError, match=why) as caught:
        to_layers(optimize(model))
    assert "\n" not in str(caught.value)


#: Operators of codes: of which tensors they take codes, scale and zero point, in order; of the result, "y", the
#: latter two.
ALONE = {
    "QLinearAdd": (("a", "b", "y"), {}), "QLinearMul": (("a", "b", "y"), {}),
    "QLinearConcat": (("y", "a", "b"), {"axis": 1}), "QLinearLeakyRelu": (("a", "y"), {"alpha": 0.1}),
    "QLinearSigmoid": (("a", "y"), {}), "QLinearAveragePool": (("a", "y"), {"kernel_shape": [3, 3]}),
    "QLinearGlobalAveragePool": (("a", "y"), {})}


@DTYPES
@pytest.mark.parametrize("op", ALONE)
def test_a_model_of_one_operator(op, dtype):
    """It needs no product beside it to be the chip's."""
    names, attributes = ALONE[op]
    net, info = Between(dtype, **{name: ["N", 4, 7, 5] for name in names if name != "y"}), np.iinfo(dtype)
    ends = {name: (np.float32(scale), dtype(zero)) for name, scale, zero in (
        ("a", 0.05, 3), ("b", 0.031, 7), ("y", 0.06, 5))}
    operands = [item for name in names for item in ((name, *ends[name]) if name != "y" else ends[name])]
    model = net.model(net(op, *operands, domain="com.microsoft", **attributes))
    arrays = {name: np.random.default_rng(0).integers(info.min, info.max, (2, 4, 7, 5), dtype, endpoint=True)
              for name in net.shapes}
    with load_model(model, "tiny", "golden", strict=True) as loaded:
        np.testing.assert_array_equal(*loaded.run(arrays).values(), onnxruntime_says(model, arrays)[0])
        assert [row.place for row in loaded.placement] == ["chip"]


HOSTS = {
    "three axes": ((3, 4, 5, 6), lambda net, x: net("GlobalAveragePool", x), "not 5 dimensions"),
    "an axis more": ((3, 5), lambda net, x: net("Mul", x, np.float32([[[[1.5]]]])), "its result would be"),
    "channels": ((3, 9, 6), lambda net, x: net("ReduceMean", x, np.array([1])), "its axes must be those of")}


@DTYPES
@pytest.mark.parametrize("case", HOSTS)
def test_what_stays_the_hosts(case, dtype):
    """The host runs what the model has, between codes."""
    shape, function, why = HOSTS[case]
    net, info = Between(dtype, x=["N", *shape]), np.iinfo(dtype)
    model = net.model(net.codes(function(net, net.numbers("x")), 0.0713))
    x = np.random.default_rng(0).integers(info.min, info.max, (2, *shape), dtype, endpoint=True)
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), onnxruntime_says(model, {"x": x})[0])
        assert [row.place for row in loaded.placement] == ["host"] and why in loaded.placement[0].why


def test_what_only_moves_codes_is_the_hosts():
    """There is nothing to compute, and so no program."""
    net = Between(np.uint8, x=["N", 3, 5, 4])
    model = net.model(net.codes(net("Transpose", net.numbers("x", 0.05, 3), perm=[0, 2, 3, 1]), 0.05, 3))
    x = net.rng.integers(0, 256, (2, 3, 5, 4), np.uint8)
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(*loaded.run({"x": x}).values(), x.transpose(0, 2, 3, 1))
        assert [row.why for row in loaded.placement] == ["nothing that it leads to is for the chip"]
