"""Layers that make each place of the same place alone, as a pipeline of groups of places."""

import random
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from code_nets import Between
from layer_reference import run_layers
from schedules import UNITS, legal_order, reordered
from test_vector_layers import Graph, random_layer

from bench.cycles import chip
from kiwicha import ChipConfig
from kiwicha.isa import OperandUse, Unit
from kiwicha_host import load_model, open_device
from kiwicha_host.assembler import decode
from kiwicha_host.compiler.ir.layers import Layer, Output
from kiwicha_host.compiler.legalize.to_layers import to_layers
from kiwicha_host.compiler.lower import segments
from kiwicha_host.compiler.lower.pointwise.interleave import Batch, Recorded, interleaved
from kiwicha_host.compiler.lower.pointwise.segment import Pointwise
from kiwicha_host.compiler.network import CompiledNetwork
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.cycles import predict

CONFIGS = [ChipConfig.preset(name) for name in ("tiny", "small", "ulx3s_85f", "wide")] + [
    ChipConfig(name="banked", rows=4, columns=4, bus_width=64, scratchpad_banks=8, bank_lines=128,
               accumulator_lines=64, vector_lanes=2, queue_depth=2)]
BANKED = CONFIGS[-1]


def pointwise(network):
    """Those of a network's segments."""
    return [item for item in network._segments if isinstance(item, Pointwise)]


def conv(rng, channels, outputs, size):
    weights = rng.integers(-128, 128, (outputs, channels, 1, 1), np.int8)
    return Layer("conv", "Conv", weights, rng.integers(-999, 999, outputs, np.int32),
                 rng.uniform(0.001, 0.01, outputs).astype(np.float32), 0, int(rng.integers(-9, 9)), size, size,
                 real_macs=1)


def feed_forward(graph, width, inner, size, more=0):
    """Two products, each with a sum of one place for all, a function and a sum of what both began with."""
    rng, x = graph.rng, graph.taken(width, size, plain=True)
    begin = graph.add(conv(rng, width, width, size), x)
    begin = graph.add(random_layer(rng, width, size, OperandUse.ADD), begin, graph.taken(width, (1, 1), True))
    y = graph.add(conv(rng, width, inner, size), begin)
    y = graph.add(random_layer(rng, inner, size, OperandUse.NONE), y)
    y = graph.add(conv(rng, inner, width, size), y)
    y = graph.add(random_layer(rng, width, size, OperandUse.MULTIPLY), y, y)
    for _ in range(more):
        y = graph.add(random_layer(rng, width, size, OperandUse.NONE), y)
    return begin, graph.add(random_layer(rng, width, size, OperandUse.ADD), y, begin)


@pytest.mark.parametrize("seed", range(80))
def test_random_layers(seed):
    """Whatever takes what, in whatever map it is; results that the host reads, and several images."""
    print(f"seed {seed}")
    rng = np.random.default_rng(5000 + seed)
    graph = Graph(rng, int(rng.integers(1, 4)))
    if seed % 3:
        graph.made = graph.graph.new_map        # nothing is a part of something else
    size = tuple(int(item) for item in rng.choice([1, 4, 7, 12], 2))
    views = [graph.taken(int(rng.choice([1, 5, 16, 33])), size, plain=True)]
    for _ in range(int(rng.integers(2, 10))):
        source = views[-1 if rng.random() < 0.7 else rng.integers(len(views))]
        use = OperandUse(int(rng.integers(3)))
        like = [view for view in views if view.channels == source.channels]
        second = (None if use == OperandUse.NONE else graph.taken(source.channels, (1, 1)) if rng.random() < 0.4
                  else like[rng.integers(len(like))])
        views.append(graph.add(conv(rng, source.channels, int(rng.integers(1, 40)), size), source)
                     if rng.random() < 0.5 else
                     graph.add(random_layer(rng, source.channels, size, use), source, second))
    graph.check(CONFIGS[seed % len(CONFIGS)], views[-1], views[rng.integers(1, len(views))])


@pytest.mark.parametrize("name, size", [("small", (8, 5)), ("ulx3s_85f", (13, 7)), ("wide", (13, 7))])
def test_feed_forward(name, size):
    """A segment, of which only what begins and ends it is in memory."""
    config, graph = ChipConfig.preset(name), Graph(np.random.default_rng(1), 2)
    graph.made = graph.graph.new_map
    begin, result = feed_forward(graph, 12, 20, size)
    network = graph.check(config, result)
    [segment] = pointwise(network)
    count = len(segment.plans)
    assert count >= 5 and segment.first + count == 7 and segment._stages.stored == [False] * (count - 1) + [True]
    assert count < 7 or segment._stages.of == [0, 1, 2, 3, 4, 5, 5]
    job = network.batch_job(graph.inputs)
    stored = [fields for unit, fields in (decode(job.instruction(i)) for i in range(job.program_count))
              if unit == Unit.STORE]
    assert sum(fields["row_bytes"] * fields["rows"] * fields["planes"] for fields in stored) == (
        2 * size[0] * size[1] * 12 * len(network.segments))
    # What the pipeline ends with may be needed elsewhere, too.
    graph.graph.outputs = []
    graph.check(config, begin, result)


@pytest.mark.parametrize("seed, streamed", [(seed, seed % 2 == 0) for seed in range(6)])
def test_any_order(seed, streamed):
    """Any order that queues and semaphores allow gives the same result, with several groups under way, and weights
    that stay, or come for each.
    """
    print(f"seed {seed}")
    graph = Graph(np.random.default_rng(seed), 1 + seed % 2)
    graph.made = graph.graph.new_map
    config = replace(BANKED, bank_lines=256)
    begin, result = feed_forward(graph, *((24, 60) if streamed else (9, 14)), (13, 7), more=seed % 3)
    network = graph.check(config, begin, result)
    assert pointwise(network)[0]._streamed == streamed and pointwise(network)[0]._size < 13 * 7 / 2
    job = network.batch_job(graph.inputs)
    before = job.memory.copy()
    program = b"".join(job.instruction(index) for index in range(job.program_count))
    for options in ({}, *({kind: unit} for kind in ("favourite", "last") for unit in UNITS)):
        job.memory[:] = before
        changed = reordered(job, list(legal_order(program, random.Random(seed), config.queue_depth, **options)))
        with open_device("golden", config) as device:
            device.run(changed)
        job.memory[:] = changed.memory
        for view, got in zip((begin, result), network.results(job).values(), strict=True):
            np.testing.assert_array_equal(got.transpose(0, 2, 3, 1), graph.values[view.map])


def tokens(rng, count, width):
    """A norm, three products of it, sums, a residual, another norm; between codes."""
    net = Between(np.uint8, x=[1, count, width])

    def product(x, outputs):
        weights = net("DequantizeLinear", rng.integers(-128, 128, (net.width, outputs), np.int8), np.float32(0.01),
                      np.int8(0))
        y = net.numbers(net.codes(net("MatMul", net.numbers(x), weights), 0.05, 120), 0.05, 120)
        bias = net("DequantizeLinear", rng.integers(0, 256, outputs, np.uint8), np.float32(0.02), np.uint8(90))
        return net.codes(net("Add", y, bias), 0.05, 130)

    def norm(x):
        factors = (rng.normal(1, 0.3, width).astype(np.float32), rng.normal(0, 0.3, width).astype(np.float32))
        return net.codes(net("LayerNormalization", net.numbers(x), *factors), 0.03, 5)

    net.width = width
    normed = norm("x")
    q, k, v = (product(normed, width) for _ in range(3))
    inner = product(norm(net.codes(net("Add", net.numbers(q), net.numbers("x")), 0.08, 100)), 3 * width)
    net.width = 3 * width
    return net.model(product(inner, width), k, v)


def test_on_the_compiled_chip():
    """What waits for what shows there alone: the golden machine runs one instruction after the other."""
    with open_device("verilated", config=chip("tiny+functions+indices"), latency=30) as device:
        for count, width, layers in ((33, 20, 3), (17, 8, 11), (24, 12, 9)):
            model = tokens(np.random.default_rng(3), count, width)
            x = np.random.default_rng(4).integers(0, 256, (1, count, width)).astype(np.uint8)
            expected = run_layers(to_layers(optimize(model)), {"x": x})
            with load_model(model, device=device, strict=True) as loaded:
                got = loaded.run({"x": x})
                assert sum(len(item.plans) for item in pointwise(loaded.compiled.networks[0])) >= layers
            for name, codes in got.items():
                np.testing.assert_array_equal(codes, expected[name], err_msg=f"{name}, {count} x {width}")
        for inner, streamed in ((60, True), (20, False)):
            graph = Graph(np.random.default_rng(inner), 2)
            graph.made = graph.graph.new_map
            begin, result = feed_forward(graph, 24, inner, (9, 7))
            network = graph.check(device.config, begin, result)
            assert pointwise(network)[0]._streamed == streamed
            job = network.batch_job(graph.inputs)
            device.run(job)
            for view, codes in zip((begin, result), network.results(job).values(), strict=True):
                np.testing.assert_array_equal(codes.transpose(0, 2, 3, 1), graph.values[view.map])


def bottleneck(graph, width, inner, size):
    """As residual networks have it: a product, a sum, and a product of that."""
    y = graph.add(conv(graph.rng, width, inner, size), graph.taken(width, size, plain=True))
    y = graph.add(random_layer(graph.rng, inner, size, OperandUse.ADD), y, graph.taken(inner, size, plain=True))
    return y, graph.add(conv(graph.rng, inner, width, size), y)


@pytest.mark.parametrize("name, layers, shape, most", [
    ("wide", feed_forward, (192, 384, (197, 1)), 0.8), ("wide", bottleneck, (128, 512, (28, 28)), 0.9),
    ("ulx3s_85f", bottleneck, (64, 256, (56, 56)), 0.9)])
def test_fewer_cycles(name, layers, shape, most, monkeypatch):
    """Than the same layers take one by one; also where queues are short, and groups small."""
    config, cycles = ChipConfig.preset(name), []
    for chosen in (segments.pointwise_segments, lambda *_: {}):
        monkeypatch.setattr(segments, "pointwise_segments", chosen)
        graph = Graph(np.random.default_rng(1), 1)
        graph.made = graph.graph.new_map
        graph.graph.outputs = [Output(f"y{number}", view, (), (), False)
                               for number, view in enumerate(layers(graph, *shape))]
        network = CompiledNetwork(config, graph.graph)
        job = network.batch_job(graph.inputs)
        program = b"".join(job.instruction(index) for index in range(job.program_count))
        cycles.append(predict(config, program).cycles)
    print(cycles)
    assert cycles[0] < most * cycles[1]


def test_what_has_other_segments():
    """Images of few places, and products alone."""
    config = ChipConfig.preset("small")
    for size, vectors in (((3, 9), 1), ((9, 9), 0), ((9, 9), 1)):
        graph = Graph(np.random.default_rng(2), 2)
        graph.made = graph.graph.new_map
        y = graph.taken(12, size, plain=True)
        for _ in range(2):
            y = graph.add(conv(graph.rng, 12, 12, size), y)
        for _ in range(vectors):
            y = graph.add(random_layer(graph.rng, 12, size, OperandUse.NONE), y)
        assert bool(pointwise(graph.check(config, y))) == (size == (9, 9) and vectors == 1)


def test_long_instructions_are_cut():
    """The pieces do the same; tables come with the first."""
    config = ChipConfig.preset("wide")
    fields = {"count0": 1, "count1": 1, "count2": 12, "count3": 190, "a_line": 7, "a_stride2": 1, "a_stride3": 12,
              "out_line": 4000, "out_stride2": 1, "out_stride3": 24, "b_line": 9000, "b_stride2": 1,
              "b_stride3": 0, "load_a": 1, "table_line": 3}
    pieces = list(Recorded(0, Unit.VECTOR, (), (), fields).cut(config))

    def lines(item, operand):
        return [item[f"{operand}_line"] + i * item[f"{operand}_stride3"] + j * item[f"{operand}_stride2"]
                for i in range(item["count3"]) for j in range(item["count2"])]

    assert len(pieces) > 5 and [piece.fields["load_a"] for piece in pieces] == [1] + [0] * (len(pieces) - 1)
    for operand in ("a", "b", "out"):
        assert [line for piece in pieces for line in lines(piece.fields, operand)] == lines(fields, operand)
    row = fields | {"row": 1, "count3": 1}
    assert [piece.fields for piece in Recorded(0, Unit.VECTOR, (), (), row).cut(config)] == [row]


def test_weights_come_a_batch_ahead():
    """Those of the first that follows, too, and each once."""
    config = ChipConfig.preset("wide")
    kinds = {unit: Recorded(0, unit, (), (), {"count2": 9}) for unit in UNITS}
    batches = [Batch([kinds[Unit.MATMUL]], [kinds[Unit.VECTOR]], deque([kinds[Unit.LOAD]])) for _ in range(4)]
    steps = [interleaved(config, batches[:2], [], batches[2:]), interleaved(config, batches[2:], [])]
    text = "".join(item.unit.name[0] for step in steps for item in step)
    assert text == "LLMLMVV" + "LMMVV"


def test_others_come_between():
    """VECTOR does other work while the array multiplies, and nothing is lost."""
    config = ChipConfig.preset("wide")
    product = Recorded(0, Unit.MATMUL, (), (), {"count0": 64, "count1": 1, "count2": 12, "count3": 1})
    result = Recorded(0, Unit.VECTOR, (), (), {"count2": 64})
    other = Recorded(1, Unit.VECTOR, (), (), {"count2": 50})
    batches = [Batch([product] * 2, [result] * 2, deque()) for _ in range(3)]
    order = list(interleaved(config, batches, [other] * 12))
    kinds = ["product" if item.unit == Unit.MATMUL else "other" if item.layer else "result" for item in order]
    assert sorted(kinds) == ["other"] * 12 + ["product"] * 6 + ["result"] * 6
    assert kinds[:2] == ["product", "other"]
    first, last = kinds.index("result"), len(kinds) - 1 - kinds[::-1].index("result")
    # Neither unit's instructions come in a bunch, behind which the other's would wait for their turn.
    assert "product" in kinds[first:] and "other" in kinds[first:last]
    assert "product product product" not in " ".join(kinds)
    assert all(kinds[:at].count("product") > kinds[:at].count("result") for at in range(1, last))
