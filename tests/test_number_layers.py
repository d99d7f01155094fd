"""Numbers between codes on the chip: nets with a QuantizeLinear before products alone, and what comes between."""

import numpy as np
import pytest
from code_nets import DTYPES, Between, onnxruntime_says
from layer_reference import run_layers
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType
from test_softmax import CHIPS as OTHERS

from bench import float_nets
from bench.cycles import chip
from kiwicha import ChipConfig
from kiwicha_host import load_model, open_device
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.ir.number_layers import NumberLayer
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.optimize import optimize

#: The second: a block of columns of words is one and a half lines.
CHIPS = [*OTHERS, ChipConfig(name="halves", rows=3, columns=6, bus_width=128, scratchpad_banks=4, bank_lines=512,
                             accumulator_lines=64, vector_lanes=2, functions=True)]
NETS = {"residual": lambda: float_nets.resnet(widths=(8, 12)), "inverted": lambda: float_nets.mobilenet(2),
        "concatenated": float_nets.dense, "fire": float_nets.fire, "plain": lambda: float_nets.vgg(softmax=False)}


def close(got, expected):
    """Equal but for some elements, where a number near a half became the next code."""
    off = np.abs(got - expected) > 1e-5 * np.abs(expected).max()
    assert off.mean() < 0.1 and np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8], ids=lambda kind: kind.name)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_networks_quantized_before_products(net, per_channel, kind, tmp_path):
    """All on the chip, as a page of numpy says, and near ONNX Runtime."""
    model = NETS[net]()
    file = float_nets.quantized_before_products(
        model, tmp_path, activation_type=kind, per_channel=per_channel)
    x = float_nets.random_inputs(model, np.random.default_rng(3), 3)
    [expected] = run_layers(to_layers(optimize(file)), x).values()
    with load_model(file, "wide", "golden", strict=True) as loaded:
        [got] = loaded.run(x).values()
    np.testing.assert_array_equal(got, expected)
    close(got, onnxruntime_says(file, x)[0])


@pytest.mark.parametrize("net", ["plain", "fire"])
def test_moves_of_codes_need_no_functions(net, tmp_path):
    model = NETS[net]()
    file = float_nets.quantized_before_products(model, tmp_path)
    with load_model(file, "tiny", "golden", strict=True) as loaded:
        x = float_nets.random_inputs(model, np.random.default_rng(4), 2)
        close(next(iter(loaded.run(x).values())), onnxruntime_says(file, x)[0])


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
@pytest.mark.parametrize("net", ["residual", "concatenated"])
def test_on_chips_of_many_shapes(net, config, tmp_path):
    model = NETS[net]()
    file = float_nets.quantized_before_products(model, tmp_path, per_channel=True)
    x = float_nets.random_inputs(model, np.random.default_rng(5), 2)
    [expected] = run_layers(to_layers(optimize(file)), x).values()
    with load_model(file, config, "golden", strict=True) as loaded:
        np.testing.assert_array_equal(next(iter(loaded.run(x).values())), expected)


def floats(net, *outputs):
    model = net.model(*outputs)
    for item in model.graph.output:
        item.CopyFrom(helper.make_tensor_value_info(item.name, TensorProto.FLOAT, None))
    return model


class Products(Between):
    """Numbers of products of random codes."""

    def decoded(self, *shape, axis=0):
        scale = np.float32(self.rng.uniform(0.001, 0.01, shape[axis]))
        return self("DequantizeLinear", self.rng.integers(-127, 128, shape, np.int8), scale,
                    np.zeros(shape[axis], np.int8), axis=axis)

    def product(self, name="x", outputs=5, *bias):
        channels = self.shapes[name][1]
        return self("Conv", self.numbers(name), self.decoded(outputs, channels, 3, 3), *bias, pads=[1, 1, 1, 1])

    def ended(self, name):
        """The model that makes codes of numbers, of which they use the whole range."""
        [numbers] = onnxruntime_says(floats(self, name), self.x())
        low, high = min(0, numbers.min()), max(0, numbers.max())
        scale = np.float32((high - low) / 255)
        return self.model(self.codes(name, scale, np.rint(np.iinfo(self.dtype).min - low / scale)))

    def x(self, count=3):
        rng = np.random.default_rng(count)
        return {name: rng.integers(0, 256, (count, *shape[1:])).astype(np.uint8).view(self.dtype)
                for name, shape in self.shapes.items()}


def agrees(net, made, *, config="wide", layers=None):
    """Codes of the numbers `made` are what a page of numpy says, and hardly ever those next to ONNX Runtime's."""
    model, x = net.ended(made), net.x()
    graph = to_layers(optimize(model))
    if layers is not None:
        assert sum(isinstance(layer, NumberLayer) for layer in graph.layers) == layers
    [expected], [says] = run_layers(graph, x).values(), onnxruntime_says(model, x)
    with load_model(model, config, "golden", strict=True) as loaded:
        [got] = loaded.run(x).values()
    np.testing.assert_array_equal(got, expected)
    assert len(np.unique(says)) > min(10, says.size / 8)
    off = np.abs(got.astype(int) - says)
    assert off.max() <= 1 and off.mean() < 0.005, off.mean()


FUNCTIONS = {
    "sigmoid": lambda net, x: net("Sigmoid", x), "tanh": lambda net, x: net("Tanh", x),
    "silu": lambda net, x: net("Mul", x, net("Sigmoid", x)), "hard swish": lambda net, x: net("HardSwish", x),
    "hard sigmoid": lambda net, x: net("HardSigmoid", x, alpha=0.3, beta=0.4),
    "leaky": lambda net, x: net("LeakyRelu", x, alpha=0.2), "neg": lambda net, x: net("Neg", x),
    "exp": lambda net, x: net("Exp", net("Neg", net("Relu", x))), "relu": lambda net, x: net("Relu", x),
    "reciprocal": lambda net, x: net("Reciprocal", net("Clip", x, np.float32(0.5))),
    "clip": lambda net, x: net("Clip", net("Mul", x, x), np.float32(0.25), np.float32(3)),
    "quick gelu": lambda net, x: net("QuickGelu", x, domain="com.microsoft"),
    "constant": lambda net, x: net("Add", np.float32(0.5), net("Mul", x, np.float32(2))),
    "from a constant": lambda net, x: net("Sub", np.float32(1), net("Div", x, np.float32(3))),
    "each channel": lambda net, x: net("Sub", net("Mul", x, net.weights(5, 1, 1)), net.weights(1, 5, 1, 1)),
    "enlarged": lambda net, x: net("Resize", x, "", np.array([1, 1, 2, 3], np.float32)),
    "several": lambda net, x: net("Relu", net("Add", *[net("Resize", item, "", np.array([1, 1, 2, 2], np.float32))
                                                      for item in (net("Tanh", x), net("Neg", x))])),
    "halves": lambda net, x: net("Mul", *net("Split", x, np.array([2, 2, 1]), outputs=3, axis=1)[:2]),
    "sliced": lambda net, x: net("Sigmoid", net("Slice", x, *map(np.array, ([1], [5], [2], [2])))),
    "pooled": lambda net, x: net("MaxPool", net("Sigmoid", x), kernel_shape=[3, 2], strides=[2, 1]),
    "rows": lambda net, x: net("Reshape", net("Transpose", net("Tanh", x), perm=[0, 2, 3, 1]), np.array([0, -1, 5])
                               ),
}


@DTYPES
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_of_products(function, dtype):
    net = Products(dtype, x=["N", 3, 5, 4])
    agrees(net, FUNCTIONS[function](net, net.product()))


@DTYPES
@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul"])
def test_two_tensors(kind, dtype):
    """Both of products, or one of codes; of the latter, also one for all places."""
    for other in ("y", "z"):
        net = Products(dtype, x=["N", 3, 5, 4], y=["N", 5, 5, 4], z=["N", 5, 1, 1])
        agrees(net, net(kind, net.product(), net.numbers(other)))
    net = Products(dtype, x=["N", 3, 5, 4], y=["N", 4, 5, 4])
    agrees(net, net(kind, net.product(), net.product("y")), layers=1 + (kind == "Sub"))
    if kind != "Sub":
        net = Products(dtype, x=["N", 3, 5, 4])
        both = net.product()
        agrees(net, net(kind, both, both), layers=1)


def test_rows_of_the_chips_codes_and_the_hosts():
    """The host arranges its own as the chip has the others."""
    net = Products(np.uint8, x=["N", 7, 6], y=["N", 7, 5])
    products = [net("MatMul", net.numbers("x"), net.decoded(6, 5, axis=1)) for _ in range(2)]
    sums = net("Add", net.numbers(net.codes(products[0], 0.03), 0.03, 5), net.numbers("y"))
    agrees(net, net("Mul", sums, products[1]))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 7), (5, 8), (1, 13)], ids=str)
def test_global_averages(size):
    net = Products(np.uint8, x=["N", 3, *size])
    agrees(net, net("GlobalAveragePool", net.product(outputs=12)))
    for keepdims in (0, 1):
        agrees(net, net("ReduceMean", net.product(outputs=12), np.array([-1, 2]), keepdims=keepdims))


@pytest.mark.parametrize("move", ["slice", "reverse", "transpose"])
def test_constants_of_codes_that_the_host_moves(move):
    """Each channel's constant is that of its channel once moved."""
    net = Products(np.uint8, x=["N", 5, 4, 3] if move == "transpose" else ["N", 3, 5, 4])
    begin, end, step = (1, 3, 1) if move == "slice" else (2, -9, -1)
    moved = net("Transpose", "x", perm=[0, 3, 1, 2]) if move == "transpose" else net(
        "Slice", "x", np.array([begin]), np.array([end]), np.array([1]), np.array([step]))
    channels = 2 if move == "slice" else 3
    constant = np.arange(1, channels + 1, dtype=np.float32).reshape(-1, 1, 1)
    product = net("Conv", net.numbers(moved), net.decoded(channels, channels, 1, 1))
    agrees(net, net("Add", net("Mul", net.numbers(moved), constant), product))


def test_shuffled_channels_of_numbers_are_the_hosts():
    """No layer has numbers for the array, which puts codes' channels into another order."""
    net = Products(np.uint8, x=["N", 3, 5, 4])
    apart = net("Reshape", net("Tanh", net.product(outputs=6)), np.array([0, 2, 3, 20]))
    shuffled = net("Reshape", net("Transpose", apart, perm=[0, 2, 1, 3]), np.array([0, 6, 5, 4]))
    means, largest = net("GlobalAveragePool", shuffled), net("MaxPool", shuffled, kernel_shape=[2, 2])
    model, x = net.ended(net("Add", largest, means)), net.x()
    with load_model(model, "wide", "golden") as loaded:
        [got] = loaded.run(x).values()
    assert (np.abs(got.astype(int) - onnxruntime_says(model, x)[0]) <= 1).all()


@pytest.mark.parametrize("size", [31, 33])
def test_windows_that_fill_the_scratchpad(size):
    """A window's words leave no banks for the results alone, or do not fit at all."""
    net = Products(np.uint8, x=["N", 3, size, size])
    made = net("MaxPool", net("Tanh", net.product()), kernel_shape=[size - 1, size - 1])
    model, x = net.ended(net("Neg", made)), net.x()
    with load_model(model, "small", "golden") as loaded:
        [got] = loaded.run(x).values()
        assert any(row.place == "host" for row in loaded.placement) == (size == 33)
    assert (np.abs(got.astype(int) - onnxruntime_says(model, x)[0]) <= 1).all()


def test_long_chains_of_functions_of_shared_numbers():
    """What is behind shared numbers is looked at once, however many ways lead there."""
    net = Products(np.uint8, x=["N", 3, 1, 1])
    made = net.product("x", 5, net.weights(5))
    for _ in range(64):
        made = net("Mul", made, net("Sigmoid", made))
    to_layers(optimize(net.model(net.codes(made))))


def test_limits_come_after_functions():
    """And a QuantizeLinear after a factor: none joins a layer that has more to do."""
    net = Products(np.uint8, x=["N", 3, 5, 4])
    agrees(net, net("Clip", net("Exp", net("Neg", net("Relu", net.product()))), np.float32(0.3), np.float32(0.7)))


def test_numbers_that_several_need():
    """As numbers and as codes, also of two scales; the model gives both."""
    net = Products(np.int8, x=["N", 3, 5, 4])
    numbers = net("Relu", net.product(outputs=3))
    first, second = net.codes(numbers, 0.02), net.codes(numbers, 0.05, 0)
    third = net.codes(net("Add", numbers, net("DequantizeLinear", first, np.float32(0.02), np.int8(5))), 0.03)
    model, x = net.model(first, second, third), net.x()
    with load_model(model, "wide", "golden", strict=True) as loaded:
        for got, expected in zip(loaded.run(x).values(), onnxruntime_says(model, x), strict=True):
            assert (np.abs(got.astype(int) - expected) <= 1).all() and (got != expected).mean() < 0.01


def test_numbers_of_codes_that_the_host_needs_too():
    """Beside those that a Concat takes on the chip."""
    net = Products(np.uint8, x=["N", 3, 5, 4])
    decoded = net.numbers(net.codes(net.product(), 0.05), 0.05, 5)
    joined = net.codes(net("Neg", net("Concat", decoded, net.product(), axis=1)))
    model, x = net.model(net("Softplus", decoded), joined), net.x()
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with load_model(model, "wide", "golden") as loaded:
        for got, expected in zip(loaded.run(x).values(), onnxruntime_says(model, x), strict=True):
            off = np.abs(got.astype(float) - expected)
            assert off.max() <= 1 and (off > 1e-5).mean() < 0.01
        assert [row.op for row in loaded.placement if row.place == "host"] == ["Softplus"]


@pytest.mark.parametrize("config", ["tiny", "wide"])
def test_numbers_for_the_user(config):
    """A product's last numbers are the chip's, on any chip; what comes behind them is the host's."""
    net = Products(np.uint8, x=["N", 3, 5, 4])
    made = net.product()
    model, x = floats(net, made, net("Softplus", made), net("Add", made, made)), net.x()
    with load_model(model, config, "golden") as loaded:
        for got, expected in zip(loaded.run(x).values(), onnxruntime_says(model, x), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        assert [row.op for row in loaded.placement if row.place == "host"] == ["Softplus", "Add"]


def test_integers_for_the_user():
    net = Products(np.uint8, x=["N", 3, 5, 4])
    sums = net("ConvInteger", "x", net.rng.integers(-128, 128, (5, 3, 2, 2)).astype(np.int8), np.uint8(7))
    model = net.model(sums)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    x = net.x()
    with load_model(model, "tiny", "golden", strict=True) as loaded:
        np.testing.assert_array_equal(loaded.run(x)[sums], onnxruntime_says(model, x)[0])


def test_a_bias_of_numbers_needs_functions():
    net = Products(np.uint8, x=["N", 3, 5, 4])
    model, x = floats(net, net.product("x", 5, net.weights(5))), net.x()
    for config, host in (("wide", []), ("tiny", ["Cast+Mul+Add"])):
        with load_model(model, config, "golden") as loaded:
            [got] = loaded.run(x).values()
            assert [row.op for row in loaded.placement if row.place == "host"] == host
        np.testing.assert_allclose(got, onnxruntime_says(model, x)[0], rtol=1e-5, atol=1e-5)


def test_chips_without_functions_say_so():
    net = Products(np.uint8, x=["N", 3, 5, 4])
    with pytest.raises(CompileError, match="Sigmoid 'Sigmoid3': layer 'Sigmoid3' needs a chip with functions"):
        load_model(net.ended(net("Sigmoid", net.product())), "tiny", "golden", strict=True)


def test_chips_without_functions_say_so_of_numbers_that_the_user_has():
    """The host takes these, but the chip computes them."""
    net = Products(np.uint8, x=["N", 3, 5, 4])
    made = net.product()
    model = net.model(made, net.codes(net("Relu", made)))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with load_model(model, "tiny", "golden") as loaded:
        [why] = {row.why for row in loaded.placement if row.op == "Relu"}
    assert why.startswith("layer 'Relu3' needs a chip with functions")


def test_on_the_compiled_chip(tmp_path):
    """What waits for what shows there alone: the golden machine runs one instruction after the other."""
    net = Products(np.uint8, x=["N", 3, 5, 4], y=["N", 5, 5, 4])
    x = net("Add", net("Mul", net.product(), net("Sigmoid", net.product())), net.numbers("y"))
    models = [(net.ended(x), net.x(2))]
    model = NETS["residual"]()
    models.append((float_nets.quantized_before_products(model, tmp_path),
                   float_nets.random_inputs(model, np.random.default_rng(6), 2)))
    config = chip("tiny+functions+indices")
    with open_device("verilated", config=config, latency=30) as device:
        for model, x in models:
            [expected] = run_layers(to_layers(optimize(model)), x).values()
            with load_model(model, device=device, strict=True) as loaded:
                np.testing.assert_array_equal(next(iter(loaded.run(x).values())), expected)
            with load_model(model, config, "golden") as model_of_cycles:
                model_of_cycles.run(x)
            assert model_of_cycles.last_run.result.cycles == pytest.approx(loaded.last_run.result.cycles, rel=0.01)


def test_moves_of_what_the_host_computes_stay():
    """A QuantizeLinear before a Concat of numbers that are none of the chip's would be one more for the host."""
    net = Products(np.uint8, x=["N", 3, 5, 4])
    odd = net("Softplus", net.numbers("x"))
    model, x = net.ended(net("Concat", net.product(), odd, axis=1)), net.x()
    with load_model(model, "wide", "golden") as loaded:
        close(loaded.run(x)[model.graph.output[0].name].astype(float), onnxruntime_says(model, x)[0].astype(float))
        assert [row.op for row in loaded.placement if row.place == "host"] == [
            "DequantizeLinear", "Softplus", "Concat", "QuantizeLinear"]


def test_a_long_trunk_of_numbers(tmp_path):
    """Hundreds of sums and gates between two sets of codes: found without going down a path twice."""
    net = Products(np.int8, x=["N", 3, 2, 2])
    trunk = net.product(outputs=3)
    for _ in range(300):
        trunk = net("Add", net("Mul", trunk, net("Sigmoid", trunk)), trunk)
    graph = optimize(net.model(net.codes(trunk)))
    assert [op.kind for op in graph.ops][-1] == "QuantizeLinear"
