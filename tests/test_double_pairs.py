"""Codes that are quantized anew, once or several times in a row: ONNX Runtime's numbers, to the bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from onnx import helper, numpy_helper
from test_network import CONFIGS

from kiwicha_host import load_model
from kiwicha_host.compiler.frontend.onnx.reader import read_graph
from kiwicha_host.compiler.ir.graph import Graph, Op
from kiwicha_host.compiler.passes.pairs import pairs


class Pairs(Between):
    """A net on uint8 codes, with pairs of either type."""

    def __init__(self, rng=None, **shapes):
        super().__init__(np.uint8, **shapes or {"x": ["N", 3, 6, 6]})
        self.rng = np.random.default_rng(0) if rng is None else rng
        self.dtypes = {}        # of what is not numbers

    def quantized(self, x, scale, zero):
        name = self("QuantizeLinear", x, np.float32(scale), *([] if zero is None else [zero]))
        self.dtypes[name] = np.uint8 if zero is None else zero.dtype
        return name

    def dequantized(self, x, scale, zero):
        return self("DequantizeLinear", x, np.float32(scale), *([] if zero is None else [zero]))

    def pairs(self, x, *steps):
        for item in steps:
            x = self.dequantized(self.quantized(x, *item), *item)
        return x

    def convolved(self, x, channels, outputs):
        weights = self.rng.integers(-128, 128, (outputs, channels, 3, 3), np.int8)
        return self("Conv", x, self.dequantized(weights, 0.01, np.int8(0)), pads=[1] * 4)

    def known(self, value):
        """The name of a constant."""
        return self._named(value)

    def begun(self):
        """Numbers of the first product."""
        return self.convolved(self.numbers("x"), 3, 5)

    def ended(self, numbers, channels=5):
        """Codes of the last product."""
        return [self.quantized(self.convolved(numbers, channels, 4), 0.5, np.uint8(128))]

    def model(self, *outputs, opset=20):
        model = super().model(*outputs, opset=opset)
        for item in model.graph.output:
            dtype = np.dtype(self.dtypes.get(item.name, np.float32))
            item.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtype)
        return model

    def arrays(self, count=2):
        return {name: self.rng.integers(0, 256, (count, *shape[1:]), np.uint8)
                for name, shape in self.shapes.items()}


def steps_of(dtype):
    """Three scales and zero points that reach to different numbers."""
    low = np.iinfo(dtype).min
    return [(scale, dtype(low + zero)) for scale, zero in ((0.9, 120), (1.1, 130), (0.7, 100))]


def check(net, *outputs, host=False):
    """The results are ONNX Runtime's, and the chip's alone but if some are the host's."""
    check_model(net.model(*outputs), net.arrays(), host)


def check_model(model, inputs, host=False):
    with load_model(model, CONFIGS["tiny"], "golden") as loaded:
        for (name, got), wanted in zip(loaded.run(inputs).items(), onnxruntime_says(model, inputs), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=name)
        rows = [row for row in loaded.placement if row.place == "host"]
    assert bool(rows) == host, rows


def optimized_by_onnxruntime(model, path):
    """Its graph after what needs no kernels."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(path), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path).graph


@pytest.mark.parametrize("seed", range(24))
def test_one_pair_for_several(seed, tmp_path):
    """Scales and zero points are those that ONNX Runtime computes, whatever the number of pairs."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    net, dtype = Pairs(rng), (np.uint8, np.int8)[seed % 2]
    info = np.iinfo(dtype)
    steps = [(rng.uniform(0.01, 0.1), dtype(rng.integers(info.min, info.max, endpoint=True)))
             for _ in range(rng.integers(2, 6))]
    model = net.model(net("Neg", net.pairs(net("Sqrt", net.numbers("x")), *steps)))
    reference, mine = optimized_by_onnxruntime(model, tmp_path / "model.onnx"), pairs(read_graph(model))
    assert [op.kind for op in mine.ops] == [node.op_type for node in reference.node]
    known = {item.name: numpy_helper.to_array(item) for item in reference.initializer}
    for op, node in zip(mine.ops, reference.node, strict=True):
        for name, other in zip(op.inputs[1:], node.input[1:], strict=True):
            assert mine.constants[name].dtype == known[other].dtype and mine.constants[name] == known[other]


def twice(net, a, b, c):
    """Each of the codes is needed elsewhere, too."""
    steps = [(scale / 80, zero) for scale, zero in (a, b, c)]
    first = net.pairs(net("Tanh", net.numbers("x")), steps[0])
    second = net.pairs(first, steps[1])
    return [net.quantized(net("MaxPool", item, kernel_shape=[2, 2]), *own)
            for item, own in zip((first, second, net.pairs(second, steps[2])), steps, strict=True)]


def codes_for_two(net, a, b, c):
    """Two DequantizeLinear take them; of one, numbers go to two."""
    codes = net.quantized(net.pairs(net.begun(), a), *b)
    first, second = net.dequantized(codes, *b), net.dequantized(codes, *b)
    return [*net.ended(net.pairs(first, c)), *net.ended(second), *net.ended(net.pairs(second, a))]


def outputs(net, a, b, c):
    codes = net.quantized(net.begun(), 0.9, np.uint8(120))
    again = net.quantized(net.dequantized(codes, 0.9, np.uint8(120)), *b)
    return [codes, again, net.quantized(net.dequantized(again, *b), *c)]


def one_for_two(net, a, b, c):
    """The same numbers become the same codes twice, by the same constants."""
    numbers, ends = net.begun(), [net.known(np.float32(a[0])), net.known(a[1])]
    return [item for codes in (net("QuantizeLinear", numbers, *ends), net("QuantizeLinear", numbers, *ends))
            for item in net.ended(net("DequantizeLinear", codes, *ends))]


def weights(net, a, b, c):
    codes = net.rng.integers(-128, 128, (5, 3, 3, 3), np.int8)
    numbers = net.pairs(net.dequantized(codes, 0.02, np.int8(3)), (0.03, a[1]))
    return [net.quantized(net("Conv", net.numbers("x"), numbers), 0.9, np.uint8(120))]


#: Each takes a net and three scales and zero points.
NETS = {
    "two": lambda net, a, b, c: net.ended(net.pairs(net.begun(), a, b)),
    "equal ones": lambda net, a, b, c: net.ended(net.pairs(net.begun(), a, a, a)),
    "three": lambda net, a, b, c: net.ended(net.pairs(net.begun(), a, b, c)),
    "behind the input": lambda net, a, b, c: [net.quantized(net("MaxPool", net("Sigmoid", net.pairs(
        net.numbers("x"), a, b)), kernel_shape=[2, 2]), *c)],
    "before the end": lambda net, a, b, c: [net.quantized(net.pairs(net.begun(), a, b), *c)],
    "with Identity": lambda net, a, b, c: net.ended(net("Identity", net.pairs(net("Identity", net.pairs(
        net.begun(), a)), b))),
    "around MaxPool": lambda net, a, b, c: net.ended(net.pairs(net("MaxPool", net.pairs(
        net.begun(), a, b), kernel_shape=[2, 2]), c)),
    "around a function": lambda net, a, b, c: net.ended(net.pairs(net("Sigmoid", net.pairs(
        net.begun(), a, b)), (1 / 200, c[1]), (1 / 256, b[1]))),
    "around a sum": lambda net, a, b, c: net.ended(net.pairs(net("Add", *(net.pairs(
        net.begun(), *steps) for steps in ((a, b), (c, a)))), c, b)),
    "around Concat": lambda net, a, b, c: net.ended(net.pairs(net("Concat", *(net.pairs(
        net.begun(), *steps) for steps in ((a, b), (c, a))), axis=1), c, b), 10),
    "of codes for several": twice, "of codes for two": codes_for_two, "of outputs": outputs,
    "of numbers for two": one_for_two, "of weights": weights}


@DTYPES
@pytest.mark.parametrize("name", NETS)
def test_networks(name, dtype):
    net = Pairs()
    check(net, *NETS[name](net, *steps_of(dtype)))


def test_constants_that_are_operators():
    """As some exporters write scales."""
    net = Pairs()
    model = net.model(*NETS["two"](net, *steps_of(np.uint8)))
    made = [*(helper.make_node("Constant", [], [item.name], item.name, value=item)
              for item in model.graph.initializer), *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(made)
    check_model(model, net.arrays())


@pytest.mark.parametrize("zeros", [(np.uint8(120), np.int8(3)), (np.int8(3), np.uint8(120)), (None, None),
                                   (None, np.uint8(120)), (np.uint8(120), None), (np.uint8(0), np.uint8(255))])
def test_pairs_that_stay_two(zeros):
    """Codes of two types, without a zero point, or with zero as the only number that both have."""
    net = Pairs()
    check(net, *net.ended(net.pairs(net.begun(), *zip((0.9, 1.1), zeros, strict=True))))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("other", [(0.8, np.uint8(120)), (0.9, np.uint8(121))])
def test_halves_that_are_no_pairs(place, other):
    """One of two pairs does not make the numbers of the codes that it was given."""
    net, steps = Pairs(), [(0.9, np.uint8(120))] * 2 + [(1.1, np.uint8(120))] * 2
    steps[place] = other
    first = net.dequantized(net.quantized(net.begun(), *steps[0]), *steps[1])
    check(net, *net.ended(net.dequantized(net.quantized(first, *steps[2]), *steps[3])))


def test_what_the_host_has_stays_as_it_is():
    """Its part has other codes and zero points than the model: ONNX Runtime would make one pair of two there."""
    net = Pairs()
    numbers = net.pairs(net("Softmax", net.numbers("x")), (0.005, np.uint8(100)), (0.003, np.int8(-20)))
    check(net, net.quantized(net("Softmax", numbers), 0.004, np.uint8(0)), net.quantized(net(
        "MaxPool", net.numbers("x"), kernel_shape=[2, 2]), 0.05, np.uint8(3)), host=True)


@DTYPES
def test_products_that_are_quantized_in_two_ways(dtype):
    """ONNX Runtime has numbers in between; the chip computes each from the codes."""
    net, (a, b, _) = Pairs(), steps_of(dtype)
    numbers = net.begun()
    check(net, *(item for steps in (a, b) for item in net.ended(net.pairs(numbers, steps))))


def test_equal_operators():
    """Of one QuantizeLinear by the same constants only; and what others see under its name stays."""
    net = Pairs()
    ends = net.known(np.float32(0.1)), net.known(np.uint8(3))
    codes = [net("QuantizeLinear", "x", *ends), net("QuantizeLinear", "x", *ends),
             net.quantized("x", 0.1, np.uint8(3)), net("QuantizeLinear", "x", *ends, axis=2)]
    model = net.model(*(net("Neg", net("DequantizeLinear", item, *ends)) for item in codes), codes[1])
    for left in (4, 3):
        found = [op.kind for op in pairs(read_graph(model)).ops]
        assert (found.count("QuantizeLinear"), found.count("DequantizeLinear")) == (left, 4)
        del model.graph.output[-1]


@pytest.mark.parametrize("needed", [False, True])
def test_what_nothing_needs_is_seen(needed):
    """ONNX Runtime does not remove a dead branch before it looks for double pairs, nor after."""
    net, (a, b, _) = Pairs(), steps_of(np.uint8)
    numbers = net.pairs(net.begun(), a)
    more = [net.quantized(net("MaxPool", numbers, kernel_shape=[2, 2]), *a)]
    check(net, *net.ended(net.pairs(numbers, b)), *(more if needed else []))


def test_what_other_graphs_capture_stays():
    captured = Graph(("x",), ("z",), (Op("i", "Identity", ("x",), ("y",)),
                                      Op("loop", "Loop", ("x",), ("z",), {}, ("y",))))
    assert pairs(captured) is captured


class RandomPairs(Pairs):
    """Operators each of which takes what some before it made, through none to three pairs."""
    KINDS = ("convolution", "sum", "joined", "function", "pool", "nothing")

    def __init__(self, seed):
        super().__init__(np.random.default_rng(seed), x=["N", 4, 6, 6], y=["N", 4, 6, 6])
        self.kinds = [[np.uint8], [np.int8], [np.uint8, np.int8]][seed % 3]
        self.ready = [(self.numbers(name), 0.05) for name in "xy"]
        for _ in range(self.rng.integers(4, 9)):
            getattr(self, self.rng.choice(self.KINDS))()
        self.convolution()      # what is for the chip at all

    def steps(self, reach):
        """Numbers to about `reach` have codes."""
        dtype = self.kinds[self.rng.integers(len(self.kinds))]
        low = np.iinfo(dtype).min
        return reach * self.rng.uniform(0.006, 0.012), dtype(low + self.rng.integers(60, 190))

    def taken(self):
        """Numbers from codes, and how far they reach."""
        name, reach = self.ready[self.rng.integers(len(self.ready))]
        return name, reach

    def done(self, name, reach):
        steps = [self.steps(reach) for _ in range(self.rng.choice([1, 1, 2, 3]))]
        steps = [steps[0] if self.rng.random() < 0.2 else item for item in steps]
        self.ready.append((self.pairs(name, *steps), reach))

    def convolution(self):
        name, reach = self.taken()
        self.done(self.convolved(name, 4, 4), 3 * reach)

    def sum(self):
        (a, first), (b, second) = self.taken(), self.taken()
        self.done(self("Add", a, b), first + second)

    def joined(self):
        (a, first), (b, second) = self.taken(), self.taken()
        halves = (self.pairs(self("Slice", name, [start], [start + 2], [1]), self.steps(reach))
                  for start, (name, reach) in enumerate(((a, first), (b, second))))
        self.done(self("Concat", *halves, axis=1), max(first, second))

    def function(self):
        name, _ = self.taken()
        self.done(self(str(self.rng.choice(["Sigmoid", "Tanh"])), name), 1)

    def pool(self):
        name, reach = self.taken()
        self.done(self("MaxPool", name, kernel_shape=[3, 3], pads=[1] * 4), reach)

    def nothing(self):
        self.done(*self.taken())


def agrees(net, seed):
    """Two tensors of a random network are ONNX Runtime's; gives where its operators ran."""
    print(f"seed {seed}")
    outputs = [net.quantized(name, reach / 100, np.uint8(128)) for name, reach in (
        net.ready[-1], net.ready[net.rng.integers(2, len(net.ready))])]
    model, inputs = net.model(*dict.fromkeys(outputs)), net.arrays()
    with load_model(model, list(CONFIGS.values())[seed % len(CONFIGS)], "golden") as loaded:
        for (name, got), wanted in zip(loaded.run(inputs).items(), onnxruntime_says(model, inputs), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=f"{name}, seed {seed}")
        return loaded.placement


@pytest.mark.parametrize("seed", range(48))
def test_random_networks(seed):
    assert any(row.place == "chip" for row in agrees(RandomPairs(seed), seed))
