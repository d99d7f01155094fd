"""Layers of the vector unit on the golden machine, bit for bit against their definition in numpy."""

import random
import re

import numpy as np
import pytest
from onnx_models import ModelBuilder
from schedules import UNITS, legal_order, reordered

from kiwicha import ChipConfig
from kiwicha.isa import OperandUse, Reduce, Unit
from kiwicha_host import open_device
from kiwicha_host.assembler import decode
from kiwicha_host.compiler import CompileError
from kiwicha_host.compiler.ir.layers import FeatureMap, Input, Layer, LayerGraph, Output, Pool, VectorLayer, View
from kiwicha_host.compiler.lower.segments import check_layer
from kiwicha_host.compiler.network import CompiledNetwork
from kiwicha_host.compiler.optimize import optimize
from kiwicha_host.compiler.partition import HostSubgraph, LayerSubgraph, partition
from kiwicha_host.compiler.program.loops import nests

CONFIGS = {name: ChipConfig.preset(name) for name in ("tiny", "small", "ulx3s_85f", "wide")} | {
    "odd": ChipConfig(name="odd", rows=3, columns=5, bus_width=64, bank_lines=256, accumulator_lines=64,
                      vector_lanes=2),
    "wide_rows": ChipConfig(name="wide_rows", rows=16, columns=8, bank_lines=256, accumulator_lines=32),
    "cramped": ChipConfig(name="cramped", rows=4, columns=4, bus_width=64, scratchpad_banks=2, bank_lines=256,
                          accumulator_lines=64, vector_lanes=2, queue_depth=1),
}
NAMES = list(CONFIGS)
TOO_LARGE = r"layer '.*' needs \d+ scratchpad lines .*; configuration '.*' has \d+"


# What a layer is, place by place.

def rounded(values: np.ndarray, layer: VectorLayer | Layer) -> np.ndarray:
    """Codes from float32."""
    codes = np.rint(values.astype(np.float64)) + layer.y_zero
    return np.clip(codes, *layer.clamp).astype(np.int8)


def expected(layer: VectorLayer, a: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """[N, H, W, C] from int8 arrays of that form."""
    words = layer.a_table[a.view(np.uint8)]
    others = None if b is None else layer.b_table[b.view(np.uint8)]
    if layer.pool is not None:
        return rounded(pooled(layer, words), layer)
    if layer.b_use == OperandUse.MULTIPLY:
        return rounded(words.astype(np.float32) * others, layer)
    if layer.b_use == OperandUse.ADD:
        words = words + others
    return rounded(words.astype(np.float32) * layer.factor[-1], layer)


def pooled(layer: VectorLayer, words: np.ndarray) -> np.ndarray:
    pool, (height, width) = layer.pool, layer.size
    out = np.zeros((len(words), *pool.size, layer.channels), np.float32)
    for y, x in np.ndindex(*pool.size):
        rows, columns = (np.arange(pool.kernel[i]) * pool.dilations[i] + at * pool.strides[i] - pool.pads[i]
                         for i, at in enumerate((y, x)))
        rows, columns = rows[(rows >= 0) & (rows < height)], columns[(columns >= 0) & (columns < width)]
        window = words[:, rows][:, :, columns].reshape(len(words), -1, layer.channels)
        if layer.reduce == Reduce.SUM:
            out[:, y, x] = window.sum(1, dtype=np.int32).astype(np.float32) * layer.factor[window.shape[1]]
        else:
            out[:, y, x] = window.max(1).astype(np.float32) * layer.factor[-1]
    return out


def convolved(layer: Layer, x: np.ndarray) -> np.ndarray:
    """A convolution with a kernel of one place."""
    sums = x.astype(np.int64) @ layer.weights[:, :, 0, 0].T.astype(np.int64) + layer.bias
    return rounded(sums.astype(np.float32) * layer.scale, layer)


# Random layers.

def random_layer(rng: np.random.Generator, channels: int, size: tuple[int, int], use: OperandUse,
                 pool: Pool | None = None) -> VectorLayer:
    places = int(np.prod(pool.kernel)) if pool else 0
    low, high = sorted(int(item) for item in rng.integers(-128, 128, 2))
    tables = [rng.integers(-(1 << 20), 1 << 20, 256, np.int32) for _ in range(2)]
    factor = (rng.uniform(1, 90, places + 1) / (1 << 20)).astype(np.float32)
    if use == OperandUse.MULTIPLY:
        tables[0] >>= 12
        tables[1] = rng.normal(0, 0.3, 256).astype(np.float32)
    if rng.random() < 0.2:
        tables[0], factor = rng.integers(-100, 100, 256, np.int32), np.ones(places + 1, np.float32)
        tables[1] = tables[1] >> 14 if use == OperandUse.ADD else tables[1]
    return VectorLayer(
        name="layer", op="Vector", channels=channels, size=size, a_table=tables[0],
        b_table=None if use == OperandUse.NONE else tables[1], pool=pool, factor=factor,
        reduce=Reduce.SUM if rng.random() < 0.5 else Reduce.MAXIMUM, y_zero=int(rng.integers(-128, 128)),
        clamp=(low, high) if rng.random() < 0.4 else (-128, 127))


def random_pool(rng: np.random.Generator, size: tuple[int, int]) -> Pool:
    """A window each of whose places has something of the input, perhaps all of it."""
    if rng.random() < 0.2:
        return Pool(size, (1, 1), (1, 1), (0, 0), (1, 1))
    kernel, strides, dilations, pads, out = ([0, 0] for _ in range(5))
    for axis in range(2):
        kernel[axis] = int(rng.integers(1, min(5, size[axis]) + 1))
        strides[axis] = int(rng.integers(1, 4))
        dilations[axis] = int(rng.integers(1, 3)) if 2 * (kernel[axis] - 1) < size[axis] else 1
        # The first of a window's places may be in the padding, and the last, but neither all.
        pads[axis] = int(rng.integers(0, kernel[axis])) if dilations[axis] == 1 else 0
        last = size[axis] - 1 if dilations[axis] == 1 else size[axis] - 1 - (kernel[axis] - 1) * dilations[axis]
        out[axis] = (last + pads[axis]) // strides[axis] + 1
    return Pool(*map(tuple, (kernel, strides, dilations, pads, out)))


def random_shape(rng: np.random.Generator) -> tuple[int, tuple[int, int]]:
    """Channels and size; little of one if there is much of the other."""
    channels = int(rng.choice([1, 2, 3, 4, 5, 8, 16, 17, 33, 70]))
    height, width = (int(item) for item in rng.choice([1, 2, 3, 5, 8, 13, 33, 40], 2))
    while height * width * channels > 9000:
        height, width = max(1, height // 2), max(1, width // 2)
    return channels, (height, width)


class Graph:
    """A network of views of maps that are the host's, and what is in them."""

    def __init__(self, rng: np.random.Generator, images: int):
        self.rng, self.images, self.graph = rng, images, LayerGraph()
        self.values: dict[int, np.ndarray] = {}     # by map, [N, H, W, C]
        self.inputs: dict[str, np.ndarray] = {}

    def taken(self, channels: int, size: tuple[int, int], plain: bool = False) -> View:
        """A view of so much of a new input, which has more around it unless `plain`."""
        more = [0] * 5 if plain or self.rng.random() < 0.4 else self.rng.integers(0, 3, 5).tolist()
        step = (1, 1) if plain or self.rng.random() < 0.5 else tuple(self.rng.integers(1, 3, 2).tolist())
        whole = self.graph.new_map(channels + more[0] + more[1], tuple(
            before + (count - 1) * by + 1 for before, count, by in zip(more[2:4], size, step, strict=True)))
        shape = (whole.channels, *whole.size)
        name = f"x{whole.map}"
        self.graph.inputs.append(Input(name, shape, np.dtype(np.int8), (), whole.map))
        self.inputs[name] = self.rng.integers(-128, 128, (self.images, *shape), np.int8)
        self.values[whole.map] = self.inputs[name].transpose(0, 2, 3, 1)
        return View(whole.map, channels, size, more[0], (more[2], more[3]), step)

    def made(self, channels: int, size: tuple[int, int]) -> View:
        """A view to write to, perhaps a member of a larger map; all of the map is an output."""
        if self.rng.random() < 0.4:
            view = self.graph.new_map(channels, size)
        else:
            before, after, y, x = self.rng.integers(0, 4, 4).tolist()
            outer = self.graph.new_map(before + channels + after, (size[0] + y, size[1] + x))
            self.graph.maps.append(FeatureMap(channels, size, View(outer.map, channels, size, before, (y, x))))
            view = self.graph.whole(len(self.graph.maps) - 1)
        return view

    def content(self, view: View) -> np.ndarray:
        (y, x), (dy, dx), (h, w) = view.origin, view.step, view.size
        return self.values[view.map][:, y:y + h * dy:dy, x:x + w * dx:dx][
            ..., view.channel:view.channel + view.channels]

    def add(self, layer: VectorLayer | Layer, source: View, second: View | None = None) -> View:
        target = self.made(layer.out_channels, layer.out_size)
        self.graph.add(layer, source, target, second)
        a = np.ascontiguousarray(self.content(source))
        b = None if second is None else np.ascontiguousarray(self.content(second))
        self.values[target.map] = convolved(layer, a) if isinstance(layer, Layer) else expected(layer, a, b)
        return target

    def vector(self, source: View) -> View:
        """A random layer that takes `source`."""
        rng = self.rng
        if rng.random() < 0.4:
            pool = random_pool(rng, source.size)
            return self.add(random_layer(rng, source.channels, source.size, OperandUse.NONE, pool), source)
        use = OperandUse(int(rng.integers(3)))
        second = None
        if use != OperandUse.NONE:
            like = [view for view in self.graph.targets
                    if (view.channels, view.size) == (source.channels, source.size) and view != source]
            kind = int(rng.integers(5 if like else 4))
            second = (source if kind == 0 else like[rng.integers(len(like))] if kind == 4 else
                      self.taken(source.channels, (1, 1) if kind == 1 else source.size, plain=kind == 2))
        return self.add(random_layer(rng, source.channels, source.size, use), source, second)

    def conv(self, source: View) -> View:
        outputs = int(self.rng.integers(1, 20))
        weights = self.rng.integers(-128, 128, (outputs, source.channels, 1, 1), np.int8)
        bias = self.rng.integers(-999, 999, outputs, np.int32)
        scale = self.rng.uniform(0.001, 0.01, outputs).astype(np.float32)
        return self.add(Layer("conv", "Conv", weights, bias, scale, 0, int(self.rng.integers(-9, 9)), source.size,
                              source.size, real_macs=1), source)

    def check(self, config: ChipConfig, *results: View) -> CompiledNetwork | None:
        """Run it; the network, or None if it does not fit."""
        self.graph.outputs = [Output(f"y{number}", view, (), (), False) for number, view in enumerate(results)]
        try:
            network = CompiledNetwork(config, self.graph)
        except CompileError as error:
            assert re.fullmatch(TOO_LARGE, str(error)) and config.name in ("odd", "wide_rows", "cramped", "tiny")
            return None
        job = network.batch_job(self.inputs)
        with open_device("golden", config) as device:
            device.run(job)
        for view, result in zip(results, network.results(job).values(), strict=True):
            np.testing.assert_array_equal(result.transpose(0, 2, 3, 1), self.values[view.map])
        return network


@pytest.mark.parametrize("seed", range(150))
def test_random_layers(seed):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    graph = Graph(rng, int(rng.integers(1, 4)))
    result = graph.vector(graph.taken(*random_shape(rng)))
    graph.check(CONFIGS[NAMES[seed % len(NAMES)]], result)


@pytest.mark.parametrize("seed", range(70))
def test_operands_that_count_for_several(seed):
    """Along either axis, or both; in small images, of which a tile has several, and in large ones."""
    print(f"seed {seed}")
    rng = np.random.default_rng(2000 + seed)
    graph = Graph(rng, int(rng.integers(1, 6)))
    channels, size = random_shape(rng)
    if rng.random() < 0.5:
        channels, size = min(channels, 9), (min(size[0], 4), min(size[1], 4))
    source = graph.taken(channels, size)
    second = graph.taken(channels, tuple(1 if rng.random() < 0.6 else count for count in size))
    use = OperandUse.ADD if rng.random() < 0.5 else OperandUse.MULTIPLY
    result = graph.add(random_layer(rng, channels, size, use), source, second)
    graph.check(CONFIGS[NAMES[seed % len(NAMES)]], result)


@pytest.mark.parametrize("seed", range(60))
def test_between_convolutions(seed):
    """Also several that take the same, and results that the host reads."""
    print(f"seed {seed}")
    rng = np.random.default_rng(1000 + seed)
    graph = Graph(rng, int(rng.integers(1, 4)))
    channels, size = random_shape(rng)
    views = [graph.taken(channels, (min(size[0], 9), min(size[1], 9)), plain=True)]
    for kind in rng.permutation(["conv", "conv", "vector", "vector", "vector", "vector"]):
        views.append(getattr(graph, kind)(views[-1 if rng.random() < 0.7 else rng.integers(len(views))]))
    graph.check(CONFIGS[NAMES[seed % len(NAMES)]], views[-1], views[rng.integers(1, len(views))])


def test_residuals_outlive_what_is_between():
    """An operand B is kept until it has been read, and its layer waits for it, in whatever order they come."""
    graph = Graph(np.random.default_rng(0), 2)
    x = graph.taken(40, (9, 9), plain=True)
    side = graph.add(random_layer(graph.rng, 40, (9, 9), OperandUse.NONE), x)
    first = last = graph.add(random_layer(graph.rng, 40, (9, 9), OperandUse.NONE), x)
    for _ in range(4):
        last = graph.add(random_layer(graph.rng, 40, (9, 9), OperandUse.NONE), last)
    last = graph.add(random_layer(graph.rng, 40, (9, 9), OperandUse.ADD), last, first)
    result = graph.add(random_layer(graph.rng, 40, (9, 9), OperandUse.ADD), last, side)
    inner = graph.graph
    for views in (inner.layers, inner.sources, inner.seconds, inner.targets):
        views.append(views.pop(0))          # what makes `side` comes last
    network = graph.check(CONFIGS["small"], result)
    assert network.graph.seconds[-1] == side and network.graph.targets[-1] == result


def test_convolutions_whose_result_is_an_operand_b():
    """It is in memory for that, though the next layer takes it as well."""
    graph = Graph(np.random.default_rng(3), 2)
    graph.made = graph.graph.new_map        # nothing is a part of something else
    x = graph.taken(12, (5, 5), plain=True)
    weights = graph.rng.integers(-128, 128, (12, 12, 1, 1), np.int8)
    conv = Layer("conv", "Conv", weights, np.zeros(12, np.int32), np.full(12, 0.004, np.float32), 0, 3, (5, 5),
                 (5, 5), real_macs=1)
    middle = graph.add(conv, x)
    end = graph.add(conv, middle)
    add = random_layer(graph.rng, 12, (5, 5), OperandUse.ADD)
    other = graph.taken(12, (5, 5), plain=True)
    result = graph.add(add, graph.add(add, end, middle), other)
    network = graph.check(CONFIGS["small"], result)
    assert [count for _, count, _ in network.segments] == [1, 1, 1, 1]
    # The last layer's work is its tables, an input of the model, and the output.
    assert network.layer_works(2)[-1].compulsory_bytes == 2048 + 2 * 2 * 12 * 25


def test_members_of_a_concatenation():
    """Layers write next to each other what one then reads whole."""
    rng = np.random.default_rng(1)
    graph = Graph(rng, 2)
    outer = graph.graph.new_map(3 + 7 + 5, (6, 4))
    graph.values[outer.map] = np.zeros((2, 6, 4, 15), np.int8)
    start = 0
    for channels in (3, 7, 5):
        view = View(outer.map, channels, (6, 4), start)
        graph.graph.maps.append(FeatureMap(channels, (6, 4), view))
        target = graph.graph.whole(len(graph.graph.maps) - 1)
        source, layer = graph.taken(channels, (6, 4)), random_layer(rng, channels, (6, 4), OperandUse.NONE)
        graph.graph.add(layer, source, target)
        graph.values[outer.map][..., start:start + channels] = expected(layer, np.ascontiguousarray(
            graph.content(source)), None)
        start += channels
    assert graph.check(CONFIGS["odd"], graph.vector(outer), outer) is not None


@pytest.mark.parametrize("seed", range(6))
def test_any_order(seed):
    """Any order that queues and semaphores allow gives the same result, with several tiles under way."""
    print(f"seed {seed}")
    rng = np.random.default_rng(100 + seed)
    config, graph = CONFIGS["cramped" if seed % 2 else "tiny"], Graph(rng, 2)
    x = graph.taken(17, (17, 13), plain=True)
    pool = Pool((3, 3), (1, 2), (1, 1), (1, 1), (17, 7))
    use = OperandUse(seed % 3)
    second = None if use == OperandUse.NONE else graph.taken(17, (17, 13))
    middle = graph.add(random_layer(rng, 17, (17, 13), use), x, second)
    network = graph.check(config, graph.add(random_layer(rng, 17, (17, 13), OperandUse.NONE, pool), middle))
    job = network.batch_job(graph.inputs)
    before = job.memory.copy()
    program = b"".join(job.instruction(i) for i in range(job.program_count))
    assert sum(decode(job.instruction(i))[0] == Unit.STORE for i in range(job.program_count)) > 4
    for options in ({}, *({kind: unit} for kind in ("favourite", "last") for unit in UNITS)):
        job.memory[:] = before
        changed = reordered(job, list(legal_order(program, random.Random(seed), config.queue_depth, **options)))
        with open_device("golden", config) as device:
            device.run(changed)
        job.memory[:] = changed.memory
        [result] = network.results(job).values()
        np.testing.assert_array_equal(result.transpose(0, 2, 3, 1), graph.values[graph.graph.targets[-1].map])


def program_of(config, images, layer, a, b=None, same=False):
    """Units and fields of a layer whose operands and result are maps of their own."""
    graph = Graph(np.random.default_rng(0), images)
    source = graph.taken(*a, plain=True)
    second = source if same else None if b is None else graph.taken(*b, plain=True)
    target = graph.graph.new_map(layer.out_channels, layer.out_size)
    graph.graph.add(layer, source, target, second)
    graph.graph.outputs = [Output("y", target, (), (), False)]
    network = CompiledNetwork(config, graph.graph)
    job = network.batch_job(graph.inputs)
    return network, [decode(job.instruction(i)) for i in range(job.program_count)]


def test_flat_memory():
    """Without gaps channels do not matter: no line is in part empty but the last."""
    rng, config = np.random.default_rng(0), CONFIGS["small"]
    for channels in (1, 3, 8):
        layer = random_layer(rng, channels, (16, 16), OperandUse.ADD)
        _, program = program_of(config, 3, layer, (channels, (16, 16)), (channels, (16, 16)))
        results = sum(fields["count2"] * fields["count3"] for unit, fields in program if unit == Unit.VECTOR)
        assert results == 3 * 16 * 16 * channels // config.columns
        assert all(fields["rows"] == fields["planes"] == 1 for unit, fields in program if unit != Unit.VECTOR)


def test_tables_and_operands_come_once():
    rng, config = np.random.default_rng(0), CONFIGS["wide"]
    layer = random_layer(rng, 32, (40, 40), OperandUse.MULTIPLY)
    network, program = program_of(config, 2, layer, (32, (40, 40)), same=True)
    vectors = [fields for unit, fields in program if unit == Unit.VECTOR]
    assert len(vectors) > 4
    assert [(fields["load_a"], fields["load_b"]) for fields in vectors] == [(1, 1)] + [(0, 0)] * (len(vectors) - 1)
    loaded = sum(fields["row_bytes"] * fields["rows"] * fields["planes"] for unit, fields in program
                 if unit == Unit.LOAD)
    assert loaded == 2048 + 2 * 40 * 40 * 32
    assert all(fields["b_line"] == fields["a_line"] for fields in vectors)
    # The tables, two tiles or more ahead, and one more for each that is done.
    assert re.fullmatch("LL{2,4}(VSL)*(VS){2,4}", "".join(unit.name[0] for unit, _ in program))
    [info], [work] = network.layers, network.layer_works(3)
    assert (info.weight_bytes, info.macs, info.shape) == (2048, 0, (40, 40, 32))
    assert work.compulsory_bytes == 2048 + 3 * 2 * 40 * 40 * 32 and network.macs(3) == 0


def test_global_windows():
    """Windows as large as the map: a block of channels at a time, if there is no room for more."""
    rng, config = np.random.default_rng(0), CONFIGS["tiny"]
    pool = Pool((25, 40), (1, 1), (1, 1), (0, 0), (1, 1))
    graph = Graph(rng, 2)
    result = graph.add(random_layer(rng, 10, (25, 40), OperandUse.NONE, pool), graph.taken(10, (25, 40)))
    assert graph.check(config, result) is not None
    huge = ChipConfig(name="huge", rows=2, columns=2, bus_width=64, scratchpad_banks=16, bank_lines=4096,
                      vector_lanes=2)
    pool = Pool((200, 200), (1, 1), (1, 1), (0, 0), (1, 1))
    graph = Graph(rng, 1)
    result = graph.add(random_layer(rng, 3, (200, 200), OperandUse.NONE, pool), graph.taken(3, (200, 200)))
    assert graph.check(huge, result) is not None
    pool = Pool((60, 40), (1, 1), (1, 1), (0, 0), (1, 1))
    graph = Graph(rng, 1)
    layer = random_layer(rng, 3, (60, 40), OperandUse.NONE, pool)
    graph.add(layer, graph.taken(3, (60, 40)))
    with pytest.raises(CompileError, match=r"^layer 'layer' needs 2529 scratchpad lines for one block of channels "
                                           r"of one place of its result; configuration 'tiny' has 2048$"):
        CompiledNetwork(config, graph.graph)


def test_few_instructions():
    """Walks in any order are cut along their shortest dimensions."""
    dims = [(2, (1, 1)), (7, (4, 2)), (1, (9, 9)), (8, (56, 14)), (3, (999, 200))]
    cut = list(nests(dims, 2, any_order=True))
    assert len(cut) == 6 < len(list(nests(dims, 2)))
    visited = [{(first + i * a + j * b, other + i * c + j * d) for nest in walk for first, other in [nest.offsets]
                for (n, (a, c)), (m, (b, d)) in [nest.dims] for i in range(n) for j in range(m)}
               for walk in (cut, nests(dims, 2))]
    assert visited[0] == visited[1] and len(visited[0]) == 2 * 7 * 8 * 3
    layer = random_layer(np.random.default_rng(0), 12, (16, 14), OperandUse.NONE,
                         Pool((16, 14), (1, 1), (1, 1), (0, 0), (1, 1)))
    _, program = program_of(CONFIGS["small"], 4, layer, (12, (16, 14)))
    vectors = [unit for unit, _ in program].count(Unit.VECTOR)
    assert vectors == [unit for unit, _ in program].count(Unit.STORE)


def test_what_does_not_fit_is_the_hosts():
    """Layers are checked before it is settled which operators are the chip's."""
    def check(layer):
        checked.append(layer.name)
        if layer.weights.shape[0] == 7:
            check_layer(CONFIGS["tiny"], large)
    large = random_layer(np.random.default_rng(0), 3, (60, 40), OperandUse.NONE,
                         Pool((60, 40), (1, 1), (1, 1), (0, 0), (1, 1)))
    checked = []
    builder = ModelBuilder(np.random.default_rng(0), (3, 9, 9))
    builder.conv(5, (1, 1))
    builder.conv(7, (1, 1))
    first, second = partition(optimize(builder.build()), check)
    assert isinstance(first, LayerSubgraph) and isinstance(second, HostSubgraph)
    [why] = second.why.values()
    assert re.fullmatch(TOO_LARGE, why) and len(checked) >= 2
    check_layer(CONFIGS["small"], large)


def test_a_window_of_padding_alone():
    layer = random_layer(np.random.default_rng(0), 3, (4, 4), OperandUse.NONE,
                         Pool((2, 2), (1, 1), (1, 1), (2, 0), (6, 3)))
    with pytest.raises(CompileError, match="^layer 'layer': a window lies in the padding alone$"):
        program_of(CONFIGS["small"], 1, layer, (3, (4, 4)))
