"""Networks on the golden machine, bit for bit against ONNX Runtime; what the compiler refuses, and how."""

import random
import re

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import ModelBuilder, run_onnxruntime
from schedules import UNITS, legal_order, reordered

from kiwicha import ChipConfig
from kiwicha.config import PRESETS
from kiwicha.isa import Unit
from kiwicha_host import models, open_device
from kiwicha_host.assembler import decode
from kiwicha_host.compiler import CompileError, compile_onnx
from kiwicha_host.compiler.lower.conv.images import Room
from kiwicha_host.compiler.model import compile_model
from kiwicha_host.compiler.program.memory_map import Region
from kiwicha_host.models import reference

#: Presets, arrays that are not square, and chips so small that hardly anything fits.
CONFIGS = {name: ChipConfig.preset(name) for name in ("tiny", "small", "ulx3s_85f")} | {
    "odd": ChipConfig(name="odd", rows=3, columns=5, bus_width=64, bank_lines=256, accumulator_lines=64,
                      vector_lanes=2),
    "wide_rows": ChipConfig(name="wide_rows", rows=16, columns=8, bank_lines=256, accumulator_lines=32),
    "cramped": ChipConfig(name="cramped", rows=4, columns=4, bus_width=64, scratchpad_banks=2, bank_lines=256,
                          accumulator_lines=64, vector_lanes=2, queue_depth=1),
}
ON_CONFIGS = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
FILES = pytest.mark.parametrize("file", [models.DIGITS_CONV, models.DIGITS_MLP], ids=lambda f: f.stem)


def run_network(config, model, inputs):
    network = compile_onnx(config, model)
    job = network.batch_job(inputs)
    with open_device("golden", config) as device:
        device.run(job)
    return network, job, network.outputs(job)


def random_network(rng: np.random.Generator) -> ModelBuilder:
    """One to three convolutions with what may come between and after them."""
    channels = int(rng.choice([1, 2, 3, 4, 5, 8, 16, 17, 33, 70]))
    size = tuple(int(i) for i in rng.integers(1, 12, 2))
    dtype = np.uint8 if rng.random() < 0.3 else np.int8
    builder = ModelBuilder(rng, (channels, *size), dtype, quantize=bool(rng.random() < 0.3))
    for _ in range(rng.integers(1, 4)):
        random_conv(rng, builder)
        for op in rng.permutation(["Relu", "Clip", "Max", "MaxPool", "MaxPool", ""])[:rng.integers(0, 4)]:
            random_follower(rng, builder, str(op))
    if rng.random() < 0.4:
        if rng.random() < 0.3:
            c, h, w = builder.shape
            builder.append("Transpose", perm=[0, 2, 3, 1])
            builder.shape = h, w, c
        builder.flatten()
        for _ in range(rng.integers(1, 3)):
            builder.matmul(int(rng.integers(1, 40)))
    return builder


def random_window(rng, builder, most):
    """Kernel, strides, pads and dilations that fit the tensor."""
    kernel, strides, dilations, pads = [], [], [], [0] * 4
    for axis, size in enumerate(builder.shape[1:]):
        kernel.append(int(rng.integers(1, most + 1)))
        dilations.append(int(rng.choice([1, 1, 2, 3])) if kernel[-1] > 1 else 1)
        strides.append(int(rng.choice([1, 1, 2, 3])))
        for side in (axis, axis + 2):
            pads[side] = int(rng.integers(0, kernel[-1]))
        if (kernel[-1] - 1) * dilations[-1] + 1 > size + pads[axis] + pads[axis + 2]:
            kernel[-1] = dilations[-1] = 1
            pads[axis] = pads[axis + 2] = 0
    return tuple(kernel), tuple(strides), tuple(pads), tuple(dilations)


def random_conv(rng, builder):
    channels = builder.shape[0]
    group = int(rng.choice([g for g in (1, 1, 1, 2, channels) if channels % g == 0]))
    outputs = group * int(rng.integers(1, max(2, 40 // group)))
    builder.conv(outputs, *random_window(rng, builder, 4), group=group)


def random_follower(rng, builder, op):
    info = np.iinfo(builder.dtype)
    low, high = sorted(rng.integers(info.min, info.max + 1, 2, builder.dtype))
    match op:
        case "MaxPool":
            kernel, strides, pads, dilations = random_window(rng, builder, 3)
            if max(dilations) > 1:
                pads = (0, 0, 0, 0)     # no window may lie in the padding alone
                if any((k - 1) * d >= s for k, d, s in zip(kernel, dilations, builder.shape[1:], strict=True)):
                    return
            builder.pool(kernel, strides, pads, dilations, ceil_mode=int(rng.random() < 0.2))
        case "Relu" if builder.dtype == np.int8:
            builder.append("Relu")
        case "Clip":
            builder.append("Clip", builder.constant(low), builder.constant(high))
        case "Max":
            builder.append("Max", builder.constant(low))


@ON_CONFIGS
@pytest.mark.parametrize("seed", range(20))
def test_random_networks(config, seed):
    rng = np.random.default_rng(seed)
    builder = random_network(rng)
    model = builder.build(dequantize=bool(rng.random() < 0.3))
    inputs = builder.inputs(int(rng.integers(1, 3)))
    expected = run_onnxruntime(model, inputs)
    try:
        _, _, outputs = run_network(config, model, inputs)
    except CompileError as error:
        assert config.name in ("odd", "wide_rows", "cramped")
        assert re.fullmatch(r"layer '.*' needs \d+ .* lines .*; configuration '.*' has \d+", str(error))
        return
    assert outputs.dtype == expected.dtype
    np.testing.assert_array_equal(outputs, expected)


@ON_CONFIGS
@FILES
def test_digits(config, file):
    images = models.digits_test()[0][:13 if config.name in PRESETS else 3]
    network, _, outputs = run_network(config, file, images)
    np.testing.assert_array_equal(outputs, reference.run(onnx.load(file), images)["logits"])
    if file == models.DIGITS_CONV:
        assert network.macs(1) == 452_864
        assert [layer.shape for layer in network.layers] == [(8, 8, 16), (4, 4, 32), (2, 2, 32), (1, 1, 10)]


@ON_CONFIGS
@pytest.mark.parametrize("seed", range(3))
def test_any_order(config, seed):
    """Any order that queues and semaphores allow gives the same result."""
    rng = np.random.default_rng(100 + seed)
    builder = random_network(rng)
    try:
        network = compile_onnx(config, builder.build())
    except CompileError:
        pytest.skip("does not fit this chip")
    check_any_order(config, network, builder.inputs(5), seed)


@pytest.mark.parametrize("name, file, count", [("small", models.DIGITS_CONV, 6), ("tiny", models.DIGITS_CONV, 3),
                                               ("tiny", models.DIGITS_MLP, 40), ("odd", models.DIGITS_MLP, 40)])
def test_any_order_of_groups(name, file, count):
    """The same for several groups of images that are under way at once."""
    network = compile_onnx(CONFIGS[name], file)
    assert count > network.segments[0][2] > 0
    check_any_order(CONFIGS[name], network, models.digits_test()[0][:count], 1)


def test_any_order_of_pieces():
    """The same where a layer's weights come in several pieces, of different sizes."""
    builder = ModelBuilder(np.random.default_rng(4), (40, 3, 3))
    builder.conv(130, (2, 2))
    builder.conv(9, (1, 1))
    network = compile_onnx(CONFIGS["small"], builder.build())
    [segment] = network._segments
    assert len({count for _, count in segment._pieces[0]}) == 2 and len(segment._pieces[0]) > 3
    check_any_order(CONFIGS["small"], network, builder.inputs(3), 1)


def test_weights_that_come_in_two_pieces():
    """The array begins when the first is there, and the slot is free when both have been used.

    Who waits for the second, or for all, need not know the first: LOAD and MATMUL run in order.
    """
    builder = ModelBuilder(np.random.default_rng(4), (64, 12, 12))
    builder.conv(24, (3, 3))
    config = CONFIGS["odd"]
    network, inputs = compile_onnx(config, builder.build()), builder.inputs(1)
    [segment], plan = network._segments, network.plans[0]
    part = segment._parts[0]
    assert part[1] > 8 and len(segment._parts) > segment._slots     # pieces, and a slot that is used again
    room = Room(0, plan, 1, *[Region(0, config.scratchpad_lines)] * 3, part_lines=0)
    first, second, whole = (room.weights(0, part, piece).key for piece in ((0, 8), (8, part[1] - 8), (0, part[1])))
    assert first != second == whole
    assert len({first, second, *(room.weights(1, part, piece).key for piece in ((0, 8), part))}) == 4

    job = network.batch_job(inputs)
    program = b"".join(job.instruction(i) for i in range(job.program_count))
    order = legal_order(program, random.Random(1), config.queue_depth, last=Unit.LOAD)
    assert [decode(job.instruction(i))[0] for i in order[:3]] == [Unit.LOAD, Unit.LOAD, Unit.MATMUL]
    check_any_order(config, network, inputs, 1)


def test_layers_that_differ_in_numbers_only():
    """They share the choice of a program; a pool, a limit or another stride makes another layer of one."""
    def geometry(seed, then=None, **options):
        builder = ModelBuilder(np.random.default_rng(seed), (9, 8, 8))
        builder.conv(20, (3, 3), **options)
        if then == "pool":
            builder.pool((3, 3), pads=(1, 1, 1, 1))
        elif then:
            builder.append(then)
        return compile_onnx(CONFIGS["small"], builder.build()).plans[0].geometry
    assert geometry(0) == geometry(1)
    different = [geometry(0), geometry(0, "pool"), geometry(0, "Relu"), geometry(0, strides=(2, 1)),
                 geometry(0, pads=(1, 1, 1, 1)), geometry(0, dilations=(2, 1)), geometry(0, pads=(0, 0, 1, 0))]
    assert len(set(different)) == len(different)


def check_any_order(config, network, inputs, seed):
    job = network.batch_job(inputs)
    before = job.memory.copy()
    program = b"".join(job.instruction(i) for i in range(job.program_count))
    expected = None
    for options in (None, {}, *({kind: unit} for kind in ("favourite", "last") for unit in UNITS)):
        job.memory[:] = before
        order = range(job.program_count) if options is None else legal_order(
            program, random.Random(seed), config.queue_depth, **options)
        changed = reordered(job, list(order))
        # A device of its own: what another run has left in the scratchpad would do for what is not there yet.
        with open_device("golden", config) as device:
            device.run(changed)
        job.memory[:] = changed.memory
        expected = network.codes(job) if expected is None else expected
        np.testing.assert_array_equal(network.codes(job), expected)


def test_batch_sizes():
    """Any number of images, and in several jobs where memory is scarce."""
    images = models.digits_test()[0][:40]
    network = compile_onnx(CONFIGS["small"], models.DIGITS_MLP)
    expected = reference.run(onnx.load(models.DIGITS_MLP), images)["logits"]
    with open_device("golden", CONFIGS["small"]) as device:
        for count in (1, 2, 39, 40):
            job = network.batch_job(images[:count])
            device.run(job)
            np.testing.assert_array_equal(network.outputs(job), expected[:count])
    assert network.images_per_job(40, None) == 40
    assert network.images_per_job(40, network.memory_bytes(40)) == 40
    assert network.images_per_job(400, network.memory_bytes(100)) < 400
    with pytest.raises(CompileError, match=r"needs \d+ bytes of memory for one image; the device has 4096"):
        network.images_per_job(40, 4096)


def refused(model, pattern, config=CONFIGS["small"]):
    with pytest.raises(CompileError, match=pattern) as caught:
        compile_onnx(config, model)
    assert "\n" not in str(caught.value)


def conv_model(**changes):
    """A valid QLinearConv on [N, 3, 5, 5], with some of its constants or attributes replaced."""
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5))
    builder.conv(4, (3, 3))
    for name, value in changes.items():
        if name.startswith("c"):
            builder.constants[int(name[1:])].CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), name))
        else:
            builder.nodes[0].attribute.append(helper.make_attribute(name, value))
    return builder.build()


def test_unreadable_files(tmp_path):
    path = tmp_path / "model.onnx"
    refused(path, "cannot read .*model.onnx: No such file")
    refused(tmp_path, "cannot read .*: Is a directory")
    for content in (b"", b"garbage", bytes(range(256)) * 20, models.DIGITS_MLP.read_bytes()[:-3000]):
        path.write_bytes(content)
        refused(path, "is not an ONNX model|is not a valid ONNX model")


def test_flipped_bits(tmp_path):
    """Whatever a damaged file holds: a network, or one line that says what is wrong."""
    rng, path = np.random.default_rng(5), tmp_path / "model.onnx"
    good = np.frombuffer(models.DIGITS_MLP.read_bytes(), np.uint8)
    for _ in range(60):
        bad = good.copy()
        for position in rng.integers(0, len(bad), rng.integers(1, 20)):
            bad[position] ^= 1 << rng.integers(8)
        path.write_bytes(bad.tobytes())
        for compile_ in (compile_onnx, compile_model):
            try:
                compile_(CONFIGS["small"], path)
            except CompileError as error:
                assert "\n" not in str(error)


def test_unsupported_models():
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5), quantize=True)
    builder.append("Softplus")
    refused(builder.build(), "Softplus 'softplus1': not supported; the chip runs QuantizeLinear, QLinearConv")
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5), quantize=True)
    builder.append("Sigmoid")
    refused(builder.build(), "Sigmoid 'sigmoid1': computes with numbers of a product's, not with codes; between")
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5), quantize=True)
    builder.append("DequantizeLinear", builder.constant(builder.scale), builder.constant(builder.zero))
    builder.append("Relu")
    refused(builder.build(dequantize=True), "Relu 'relu2': takes numbers, not codes; between")
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5), quantize=True)
    refused(builder.build(dequantize=True), "no layer for the chip")


def test_bad_constants():
    # Constants of the node: 0 x_scale, 1 x_zero, 2 w, 3 w_scale, 4 w_zero, 5 y_scale, 6 y_zero, 7 bias.
    for changes, pattern in (
            ({"c0": np.float32(-1)}, "QLinearConv 'qlinearconv0': the input's scale must be a positive float32"),
            ({"c5": np.float32(np.nan)}, "the output's scale must be a positive float32, not nan"),
            ({"c1": np.uint8(3)}, "its input is int8, its zero point uint8"),
            ({"c2": np.zeros((4, 3, 3, 3), np.uint8)}, "weights and their zero point must be int8 or uint8, both"),
            ({"c2": np.zeros((4, 2, 3, 3), np.int8)}, "do not fit 3 channels"),
            ({"c2": np.zeros((4, 3, 3), np.int8)}, "the weights must have 4 dimensions, not 3"),
            ({"c3": np.ones(3, np.float32)}, "scale must be float32, one or 4 numbers"),
            ({"c3": np.zeros(4, np.float32)}, "must be positive and finite"),
            ({"c4": np.zeros(3, np.int8)}, "the weights' zero point must be one number or 4, not 3"),
            ({"auto_pad": "SOMEHOW"}, "auto_pad 'SOMEHOW' does not exist")):
        refused(conv_model(**changes), pattern)


@ON_CONFIGS
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_weights_with_zero_points(config, dtype):
    """Less its zero point, a weight has nine bits: it is the sum of two of eight, or of three."""
    info = np.iinfo(dtype)
    for zeros in ([info.min] * 4, [info.max] * 4, [3, 90, info.min, info.max]):
        builder = ModelBuilder(np.random.default_rng(3), (3, 5, 5), dtype)
        builder.conv(4, (3, 3))
        weights = builder.rng.integers(info.min, info.max + 1, (4, 3, 3, 3), dtype)
        weights[:, 0, 0] = info.min, info.max, zeros[2]
        one_for_all = len(set(zeros)) == 1
        for number, value in ((3, weights), (4, np.full(() if one_for_all else 4, 0.01, np.float32)),
                              (5, np.array(zeros[0] if one_for_all else zeros, dtype))):
            name = builder.nodes[0].input[number]
            builder.constants[int(name[1:])].CopyFrom(onnx.numpy_helper.from_array(value, name))
        model, inputs = builder.build(), builder.inputs(2)
        try:
            outputs = run_network(config, model, inputs)[2]
        except CompileError as error:
            assert config.name == "cramped" and "scratchpad lines" in str(error)
            continue
        np.testing.assert_array_equal(outputs, run_onnxruntime(model, inputs))


@pytest.mark.parametrize("group, outputs", [(40, 40), (40, 80), (5, 40), (2, 6)])
def test_groups_skip_what_is_zero(group, outputs):
    """A block of output channels has only the weight tiles of its own groups' segments."""
    builder = ModelBuilder(np.random.default_rng(1), (40, 6, 5))
    builder.conv(outputs, (3, 2), group=group)
    model, inputs = builder.build(), builder.inputs(2)
    network, _, result = run_network(CONFIGS["small"], model, inputs)
    np.testing.assert_array_equal(result, run_onnxruntime(model, inputs))
    plan = network.plans[0]
    width = 40 // group
    starts = [out * group // outputs * width for out in range(outputs)]
    segments = max(len({(start + i) // 8 for start in starts[first:first + 8] for i in range(width)})
                   for first in range(0, outputs, 8))
    assert plan.weight_tiles == 6 * segments
    assert segments < plan.segments or group < 5


@pytest.mark.parametrize("channels, together", [(3, True), (4, False)])
def test_layers_that_stay_on_an_array_that_is_not_square(channels, together):
    """Three rows and five columns: results stay in the scratchpad if a line holds all channels of either."""
    builder = ModelBuilder(np.random.default_rng(0), (2, 6, 6))
    for outputs in (channels, channels, 2):
        builder.conv(outputs, (3, 3), pads=(1, 1, 1, 1))
    model = builder.build()
    inputs = np.random.default_rng(1).integers(-128, 128, (3, 2, 6, 6), np.int8)
    network, _, outputs = run_network(CONFIGS["odd"], model, inputs)
    np.testing.assert_array_equal(outputs, run_onnxruntime(model, inputs))
    assert (len(network.segments) == 1) == together


def test_all_weights_zero():
    model = conv_model(c2=np.zeros((4, 3, 3, 3), np.int8))
    inputs = np.random.default_rng(0).integers(-128, 128, (2, 3, 5, 5), np.int8)
    np.testing.assert_array_equal(run_network(CONFIGS["tiny"], model, inputs)[2], run_onnxruntime(model, inputs))


def test_branches():
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5))
    builder.conv(4, (1, 1))
    builder.nodes.append(helper.make_node("Relu", ["input"], ["elsewhere"], name="branch"))
    builder.append("Max", "elsewhere")
    refused(builder.build(), "Max 'max2': must take one tensor that is computed, not 'qlinearconv0, elsewhere'")


def test_shapes():
    builder = ModelBuilder(np.random.default_rng(0), (3, 5, 5))
    builder.append("Flatten")
    builder.shape = (75,)
    model = builder.build()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    refused(model, "input 'input': its dimension 'H' has no size; give it one, for instance --dim H=64")
    network = compile_onnx(CONFIGS["small"], conv_model())
    for images, pattern in ((np.zeros((2, 3, 5, 4), np.int8), r"takes \[N, 3, 5, 5\], not \[2, 3, 5, 4\]"),
                            (np.zeros((0, 3, 5, 5), np.int8), r"not \[0, 3, 5, 5\]"),
                            (np.zeros((1, 3, 5, 5)), "takes int8, not float64")):
        with pytest.raises(CompileError, match=pattern):
            network.batch_job(images)
    with pytest.raises(CompileError, match="NaN"):
        compile_onnx(CONFIGS["small"], models.DIGITS_MLP).batch_job(np.full((1, 1, 8, 8), np.nan, np.float32))


def test_too_large():
    builder = ModelBuilder(np.random.default_rng(0), (70, 9, 9))
    builder.conv(3, (7, 7))
    refused(builder.build(), r"layer 'qlinearconv0' needs \d+ scratchpad lines for input for one pixel "
            r"of its result; configuration 'cramped' has \d+", CONFIGS["cramped"])


def test_standalone_operators():
    """Pooling and clamping without a layer before them."""
    for ops in (["MaxPool"], ["Relu"], ["Relu", "MaxPool", "MaxPool"]):
        builder = ModelBuilder(np.random.default_rng(len(ops)), (5, 9, 8))
        for op in ops:
            if op == "MaxPool":
                builder.pool((3, 2), (2, 1), (1, 0, 1, 1))
            else:
                builder.append(op)
        model, inputs = builder.build(), builder.inputs(3)
        network, _, outputs = run_network(CONFIGS["tiny"], model, inputs)
        np.testing.assert_array_equal(outputs, run_onnxruntime(model, inputs))
        assert network.macs(1) == 0
