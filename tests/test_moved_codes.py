"""What moves numbers without pairs of QuantizeLinear and DequantizeLinear around it: ONNX Runtime's results."""

import numpy as np
import pytest
from code_nets import Between, onnxruntime_says
from onnx import TensorProto
from test_double_pairs import Pairs, RandomPairs, agrees, check
from test_network import CONFIGS

from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.reader import read_graph
from kiwicha_host.compiler.passes.pairs import pairs

#: What makes another tensor [N, 5, 6, 6] of one, and no numbers that were not there.
MOVES = {
    "MaxPool": lambda net, x: net("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
    "Transpose": lambda net, x: net("Transpose", x, perm=[0, 1, 3, 2]),
    "Reshape": lambda net, x: net("Reshape", net("Reshape", x, np.array([0, -1])), np.array([0, 5, 6, 6])),
    "Squeeze": lambda net, x: net("Squeeze", net("Unsqueeze", x, np.array([2])), np.array([2])),
    "Slice": lambda net, x: net("Slice", x, np.array([0]), np.array([5]), np.array([1])),
    "two": lambda net, x: net("Transpose", net("MaxPool", x, kernel_shape=[1, 1]), perm=[0, 1, 3, 2]),
    "shuffled": lambda net, x: net("Reshape", net("Transpose", net("Reshape", x, np.array([0, 5, 2, 3, 6])), perm=[
        0, 1, 3, 2, 4]), np.array([0, 5, 6, 6]))}
STEPS = 0.9, np.uint8(120)
BETWEEN = pytest.mark.parametrize("name", MOVES)


@BETWEEN
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_between_codes_and_a_product(name, dtype):
    net, steps = Pairs(), (0.9, dtype(np.iinfo(dtype).min + 120))
    check(net, *net.ended(MOVES[name](net, net.pairs(net.begun(), steps))))


@BETWEEN
@pytest.mark.parametrize("limit", ["", "Relu", "Clip"])
def test_between_a_product_and_codes(name, limit):
    net, limits = Pairs(), [np.float32(0), np.float32(200)] if limit == "Clip" else []
    numbers = net(limit, net.begun(), *limits) if limit else net.begun()
    steps = (0.4, np.uint8(0)) if limit else STEPS
    check(net, *net.ended(net.pairs(MOVES[name](net, numbers), steps)))


@BETWEEN
def test_for_several(name):
    """The numbers before it, and those behind it, are needed elsewhere."""
    net = Pairs()
    numbers = net.pairs(net.begun(), STEPS)
    moved = MOVES[name](net, numbers)
    check(net, *net.ended(moved), *net.ended(moved), *net.ended(numbers))


@BETWEEN
def test_for_a_product_and_other_codes(name):
    """Then the product is ONNX Runtime's, in numbers."""
    net = Pairs()
    moved = MOVES[name](net, net.pairs(net.begun(), STEPS))
    check(net, *net.ended(moved), *net.ended(net.pairs(moved, (0.7, np.uint8(100)))), host=True)


@BETWEEN
def test_numbers_are_an_output(name):
    """Of what the host has to make in any case, nothing is lost."""
    net = Pairs()
    moved = MOVES[name](net, net.pairs(net.begun(), STEPS))
    model, inputs = net.model(*net.ended(moved), moved), net.arrays()
    with load_model(model, CONFIGS["tiny"], "golden") as loaded:
        for (output, got), wanted in zip(loaded.run(inputs).items(), onnxruntime_says(model, inputs), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=output)
        assert {row.place for row in loaded.placement if row.op == "QLinearConv"} == {"chip"}


@BETWEEN
def test_sums_that_something_else_needs(name):
    """Then the product's numbers are ONNX Runtime's."""
    net = Pairs()
    numbers = net.begun()
    check(net, *net.ended(net.pairs(MOVES[name](net, numbers), STEPS)), *net.ended(net.pairs(numbers, STEPS)),
          host=True)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("moves", [["Transpose"], ["Reshape", "Transpose"]])
def test_weights_that_are_moved(moves, again):
    """As exporters write a linear layer; they may become codes once more."""
    net = Pairs(x=["N", 7, 12])
    codes = net.rng.integers(-128, 128, (5, 12), np.int8)
    steps = np.float32(0.02), np.int8(3)
    weights = net.dequantized(codes if moves == ["Transpose"] else codes.reshape(5, 3, 4), *steps)
    for kind in moves:
        weights = net("Transpose", weights, perm=[1, 0]) if kind == "Transpose" else net(
            "Reshape", weights, np.array([5, 12]))
    weights = net.pairs(weights, steps) if again else weights
    check(net, net.quantized(net("MatMul", net.numbers("x"), weights), 0.9, np.uint8(120)))


@pytest.mark.parametrize("moved", [
    lambda net, x: net("Reshape", net("Flatten", x), np.array([0, 5, 6, 6])),
    lambda net, x: net("SpaceToDepth", net("DepthToSpace", x, blocksize=1), blocksize=1)])
def test_what_onnxruntime_leaves_in_numbers(moved):
    """So does the host."""
    net = Pairs()
    check(net, *net.ended(moved(net, net.pairs(net.begun(), STEPS))), host=True)


@BETWEEN
def test_codes_whose_type_is_an_attribute(name):
    """A pair without a zero point would be of uint8."""
    net = Between(np.int8, x=["N", 5, 6, 6])
    moved = MOVES[name](net, net("Neg", net("Softplus", net.numbers("x"))))
    codes = net("QuantizeLinear", moved, np.float32(0.05), output_dtype=TensorProto.INT8)
    model = net.model(codes, opset=21)
    x = {"x": np.random.default_rng(0).integers(-128, 128, (2, 5, 6, 6), np.int8)}
    with load_model(model, "tiny", "golden") as loaded:
        np.testing.assert_array_equal(loaded.run(x)[codes], onnxruntime_says(model, x)[0])


@pytest.mark.parametrize("numbers", [
    lambda net: net("Transpose", net.dequantized("x", [0.1, 0.2, 0.3], np.array([0, 1, 2], np.uint8)), perm=[
        0, 1, 3, 2]),
    lambda net: net("MaxPool", net.dequantized("x", 0.1, np.uint8(3)), kernel_shape=[2, 2], outputs=2)[0],
    lambda net: net("Transpose", net("Neg", "y"), perm=[1, 0])])
def test_what_stays(numbers):
    """Codes of several scales, more outputs than one, and what comes from no codes."""
    net = Pairs(x=["N", 3, 6, 6], y=["N", 4])
    graph = read_graph(net.model(net("Neg", numbers(net))))
    assert pairs(graph) is graph


class RandomMoves(RandomPairs):
    """With none to two moves that have no pair, in any place; ONNX Runtime also removes transposes in a row."""
    KINDS = (*RandomPairs.KINDS, "moved", "moved")

    def move(self, name):
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            kinds = ["MaxPool", "Reshape", "Squeeze"] + ([] if name.startswith("Transpose") else ["Transpose"])
            kind = str(self.rng.choice(kinds))
            if kind == "Transpose":
                name = self(kind, name, perm=[0, 1, 3, 2])
            elif kind == "MaxPool":
                name = self(kind, name, kernel_shape=[3, 3], pads=[1] * 4)
            elif kind == "Reshape":
                name = self(kind, name, np.array([0, 4, 6, 6]))
            else:
                name = self(kind, self("Unsqueeze", name, np.array([1])), np.array([1]))
        return name

    def taken(self):
        name, reach = super().taken()
        return self.move(name), reach

    def done(self, name, reach):
        super().done(self.move(name), reach)

    def moved(self):
        """Numbers without codes behind them."""
        name, reach = super().taken()
        self.ready.append((self.move(name), reach))


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed):
    agrees(RandomMoves(seed), seed)
