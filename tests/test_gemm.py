"""GEMM programs: any shape on any chip, against numpy, on the golden device."""

import math
from collections import Counter

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, Unit
from kiwicha_host.compiler import CompiledGemm, CompileError, GemmSpec, compile_gemm
from kiwicha_host.compiler.lower.product.spans import falling, rising, split
from kiwicha_host.cycles import predict
from kiwicha_host.devices import open_device
from kiwicha_host.golden import numerics
from kiwicha_host.metrics import gemm_work

CONFIGS = {
    **{name: ChipConfig.preset(name) for name in ("tiny", "small", "ulx3s_85f", "wide")},
    "oblong": ChipConfig(name="oblong", rows=3, columns=5, bus_width=64, scratchpad_banks=2, bank_lines=256,
                         accumulator_lines=64, vector_lanes=1),
    "tall": ChipConfig(name="tall", rows=32, columns=2, bus_width=64, bank_lines=256, accumulator_lines=64),
    "least": ChipConfig(name="least", rows=2, columns=2, bus_width=64, scratchpad_banks=2, bank_lines=16,
                        accumulator_lines=16, vector_lanes=1, queue_depth=1),
}
SHAPES = [(1, 1, 1), (3, 5, 7), (16, 16, 16), (17, 33, 49), (1, 100, 64), (100, 1, 70), (2, 3, 300), (65, 64, 63)]


def operands(rng, m, n, k):
    """Random, with the extremes that overflow naive arithmetic."""
    a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((m, k), (k, n)))
    a[0, :] = -128
    b[:, 0] = -128
    return a, b


@pytest.mark.usefixtures("any_tiling")
@pytest.mark.parametrize(("config", "shape"), [
    pytest.param(config, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name, config in CONFIGS.items() for shape in SHAPES
    # 32,000 instructions on a chip of 2x2, where a tenth of them show the same.
    if name != "least" or math.prod(shape) < 100_000])
def test_any_shape_on_any_chip(config, shape):
    m, n, k = shape
    a, b = operands(np.random.default_rng(m * n * k), m, n, k)
    with open_device("golden", config=config) as device:
        result = device.gemm(a, b)
    assert result.dtype == np.int32
    assert (result == a.astype(np.int32) @ b.astype(np.int32)).all()


@pytest.mark.usefixtures("any_tiling")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("out", "scale"), [("int32", None), ("fp32", None), ("fp32", "one"), ("fp32", "column"),
                                            ("int8", None), ("int8", "one"), ("int8", "column")])
@pytest.mark.parametrize(("relu", "biased"), [(False, True), (True, True), (True, False)])
def test_epilogues(config, out, relu, biased, scale):
    # Several tiles each way, the last ones in part; on the least chip that is little.
    m, n, k = (5, 7, 37) if config.rows == 2 else (21, 37, 40)
    rng = np.random.default_rng(5)
    a, b = operands(rng, m, n, k)
    bias = rng.integers(-(1 << 31), 1 << 31, n, dtype=np.int64).astype(np.int32) if biased else None
    factor = {None: None, "one": 0.0003, "column": rng.random(n, dtype=np.float32) / 1000 + 1e-6}[scale]
    zero_point = -7 if out == "int8" else 0
    with open_device("golden", config=config) as device:
        result = device.gemm(a, b, bias=bias, out=out, out_scale=factor, out_zero_point=zero_point, relu=relu)
    expected = (a.astype(np.int32) @ b.astype(np.int32) + (bias if biased else 0)).astype(np.int32)
    if out != "int32":
        expected = expected.astype(np.float32) * np.float32(1 if factor is None else factor)
    if relu:
        expected = np.maximum(expected, expected.dtype.type(0))
    if out == "int8":
        expected = np.clip(np.rint(expected) + zero_point, -128, 127).astype(np.int8)
    assert result.dtype == expected.dtype
    assert (result == expected).all()


def test_column_blocks_that_are_alike_share_an_epilogue():
    config = ChipConfig.preset("ulx3s_85f")
    for bias in (False, True):
        program = compile_gemm(config, GemmSpec(m=33, n=65, k=127, bias=bias)).program
        units = Counter(program[::INSTRUCTION_BYTES])
        assert (units[Unit.VECTOR.value] == units[Unit.STORE.value]) == (not bias)


def test_the_golden_numerics_agree_with_plain_numpy():
    a, b = operands(np.random.default_rng(9), 9, 8, 2000)
    assert (numerics.gemm_int(a, b) == a.astype(np.int32) @ b.astype(np.int32)).all()


@pytest.mark.parametrize(("total", "limit"), [(1, 1), (10, 3), (10, 10), (7, 100), (1000, 64)])
def test_split_is_even_and_whole(total, limit):
    parts = split(total, limit)
    assert [start for start, _ in parts] == [sum(size for _, size in parts[:i]) for i in range(len(parts))]
    sizes = [size for _, size in parts]
    assert sum(sizes) == total and max(sizes) <= limit and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("cut", [rising, falling])
@pytest.mark.parametrize(("total", "unit"), [(1, 1), (9, 1), (18, 4), (3, 8), (64, 2)])
def test_pieces_are_whole(cut, total, unit):
    pieces = cut(total, unit)
    assert [start for start, _ in pieces] == [sum(size for _, size in pieces[:i]) for i in range(len(pieces))]
    assert sum(size for _, size in pieces) == total
    assert all(size > 0 for _, size in pieces) and all(start % unit == 0 for start, _ in pieces)


@pytest.mark.parametrize(("change", "words"), [
    ({"m": 0}, "m must be at least 1, not 0"),
    ({"out": "fp64"}, "out must be one of int32, fp32, bf16, int8, e4m3, e2m1, mxint8, not 'fp64'"),
    ({"a_format": "e5m2"}, "a_format must be one of int8, int4, e4m3, e3m2, e2m3, e2m1, not 'e5m2'"),
    ({"scale": 0.5}, "an int32 output takes no scale"),
    ({"zero_point": 3}, "a zero point is for int8 outputs, not int32"),
])
def test_bad_specs_name_the_value(change, words):
    with pytest.raises(CompileError, match=words):
        GemmSpec(**{"m": 1, "n": 1, "k": 1, **change})


@pytest.mark.usefixtures("any_tiling")
@pytest.mark.parametrize("config", ["small", "ulx3s_85f", "oblong"])
@pytest.mark.parametrize("options", [{}, {"out": "fp32", "out_scale": 0.25}, {"out": "int8", "out_zero_point": 3}])
def test_operands_are_transposed_where_that_saves_padding(config, options):
    chip = CONFIGS[config]
    m, n, k = 40 * chip.columns, chip.columns + 1, 12 * chip.rows
    a, b = operands(np.random.default_rng(3), m, n, k)
    out = options.get("out", "int32")
    compiled = compile_gemm(chip, GemmSpec(m=m, n=n, k=k, out=out, scale=options.get("out_scale")))
    assert (compiled.spec.m, compiled.spec.n) == (n, m)
    # Parameters of columns keep the columns where they are.
    bias = np.zeros(n, np.int32)
    assert compile_gemm(chip, GemmSpec(m=m, n=n, k=k, out=out, bias=True)).spec.m == m
    with open_device("golden", config=chip) as device:
        assert (device.gemm(a, b, **options) == device.gemm(a, b, bias=bias, **options)).all()


def test_the_program_is_the_one_of_the_fewest_cycles():
    """Of the first tilings, by the cycle model; the estimate alone would take the first."""
    config, spec = CONFIGS["ulx3s_85f"], GemmSpec(m=33, n=65, k=127)
    first, chosen = CompiledGemm(config, spec), compile_gemm(config, spec)
    cycles = [predict(config, item.program).cycles for item in (first, chosen)]
    assert cycles[1] < cycles[0]


def cycles_at(name, spec, latency, compiled_for):
    config = CONFIGS[name]
    return predict(config, compile_gemm(config, spec, memory_latency=compiled_for).program, latency=latency).cycles


def test_tilings_are_chosen_for_the_memory_latency():
    """Short rows are slow where each waits for a slow memory; ragged shapes show it most."""
    spec = GemmSpec(m=33, n=65, k=127)
    assert cycles_at("small", spec, 100, 100) < 0.85 * cycles_at("small", spec, 100, 30)
    assert cycles_at("small", spec, 30, 30) < 0.95 * cycles_at("small", spec, 30, 100)
    bound = gemm_work(33, 65, 127).bound_cycles(CONFIGS["ulx3s_85f"])
    assert bound / cycles_at("ulx3s_85f", spec, 100, 100) > 0.46


def test_ragged_shapes_come_near_the_roofline():
    config, spec = CONFIGS["ulx3s_85f"], GemmSpec(m=61, n=449, k=83)
    for latency in (10, 30):
        assert gemm_work(61, 449, 83).bound_cycles(config) / cycles_at("ulx3s_85f", spec, latency, latency) > 0.8


def test_a_device_compiles_for_its_own_latency(monkeypatch):
    seen = []
    monkeypatch.setattr("kiwicha_host.compiler.lower.gemm.compiled.fastest",
                        lambda config, candidates, latency: seen.append(latency) or next(iter(candidates)))
    for latency in (3, 77):
        with open_device("golden", config=CONFIGS["tiny"], latency=latency) as device:
            assert device.memory_latency == latency
            device.gemm(np.ones((5, 6), np.int8), np.ones((6, 7), np.int8))
    assert seen == [3, 77]


@pytest.mark.parametrize(("latency", "error"), [(-1, ValueError), (2.5, TypeError), ("30", TypeError)])
def test_a_wrong_memory_latency_is_named(latency, error):
    config = CONFIGS["tiny"]
    for wrong in (lambda: compile_gemm(config, GemmSpec(m=1, n=1, k=1), memory_latency=latency),
                  lambda: open_device("golden", config=config, latency=latency)):
        with pytest.raises(error, match="latency must"):
            wrong()


@pytest.mark.parametrize(("total", "unit", "ratio", "sizes"), [
    (8, 1, 2.0, [1, 2, 4, 1]), (8, 1, 0.5, [1] * 8), (9, 2, 3.0, [2, 6, 1]), (5, 8, 4.0, [5])])
def test_pieces_arrive_while_those_before_are_used(total, unit, ratio, sizes):
    pieces = rising(total, unit, ratio)
    assert [size for _, size in pieces] == sizes
    assert [start for start, _ in pieces] == [sum(sizes[:i]) for i in range(len(sizes))]


def test_too_little_memory_is_said():
    with pytest.raises(CompileError, match="needs [0-9]+ bytes of memory; the device has 100"):
        compile_gemm(CONFIGS["tiny"], GemmSpec(m=64, n=64, k=64, out="int8"), memory_limit=100)
