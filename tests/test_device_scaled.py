"""Chips with block scaling, compiled: random programs against the golden machine, GEMMs against the definition."""

import itertools
import random

import numpy as np
import pytest

from bench.campaign import cases, differing_bits, random_elements, random_scales
from kiwicha import ChipConfig
from kiwicha.formats import FORMATS
from kiwicha_host.devices import open_device
from kiwicha_host.golden import gemm_block, quantize_block, to_bf16
from kiwicha_host.job import Job
from tb.chip.programs import random_job

pytestmark = pytest.mark.usefixtures("any_tiling")
SEED = 3
SMALL = {"bus_width": 64, "vector_lanes": 2, "bank_lines": 512, "accumulator_lines": 256, "queue_depth": 2,
         "reads_in_flight": 4, "writes_in_flight": 4}
CHIPS = [
    ChipConfig(name="all_formats", rows=4, columns=8, formats=tuple(FORMATS), **SMALL),
    # Operands of 8 bits: two products in a multiplier, and a taller array.
    ChipConfig(name="packed", rows=8, columns=4, formats=("int8", "int4", "e2m3", "e2m1"),
               multiplier="ecp5_packed", **SMALL),
]


@pytest.fixture(scope="module", params=CHIPS, ids=lambda config: config.name)
def device(request):
    with open_device("verilated", config=request.param) as device:
        yield device


def test_random_programs_leave_the_golden_memory(device):
    with open_device("golden", config=device.config) as golden:
        for number in range(60):
            job = random_job(device.config, random.Random(f"{SEED}/{number}"), 40)
            expected = Job(job.memory.copy(), job.program_address, job.program_count, job.window)
            golden.run(expected)
            result = device.run(job)
            assert (job.memory == expected.memory).all(), f"program {SEED}/{number} differs"
            for unit, counts in result.counters.items():
                assert sum(counts.values()) == result.cycles, (unit, counts, result.cycles)


def test_no_bit_differs(device):
    """The small version of `make campaign`: every pair of formats, scales from 2^-127 to 2^127, NaN, any K."""
    for a_format, b_format in itertools.product(device.config.formats, repeat=2):
        rng = np.random.default_rng([SEED, FORMATS[a_format].code.value, FORMATS[b_format].code.value])
        for case in cases(rng, a_format, b_format, 4000, 300):
            assert differing_bits(device, case) == 0, (a_format, b_format, case)


def operands(config, m, n, k, block):
    rng = np.random.default_rng(m + n + k)
    name = config.formats[-1]
    blocks = -(-k // block)
    a, b = random_elements(rng, (m, k), name), random_elements(rng, (k, n), config.formats[2])
    scales = {"a_scale": random_scales(rng, (m, blocks)), "b_scale": random_scales(rng, (blocks, n))}
    return a, b, {"block": block, **scales}


@pytest.mark.parametrize("relu", [False, True])
def test_bf16_and_bias(device, relu):
    a, b, options = operands(device.config, 19, 21, 70, 32)
    bias = np.random.default_rng(1).standard_normal(21).astype(np.float32)
    c = device.gemm(a, b, **options, bias=bias, out="bf16", out_scale=0.75, relu=relu)
    with np.errstate(all="ignore"):
        expected = (gemm_block(a, b, options["a_scale"], options["b_scale"], 32) + bias) * np.float32(0.75)
    if relu:
        expected = np.where(expected > 0, expected, np.where(np.isnan(expected), expected, np.float32(0)))
    assert (c.view(np.uint16) == to_bf16(expected)).all()


@pytest.mark.parametrize("rule", ["rceil", "floor"])
@pytest.mark.parametrize("out", ["e4m3", "e2m1", "mxint8"])
@pytest.mark.parametrize("size", [(19, 45, 70, 32), (5, 300, 40, 128), (1, 1, 1, 32), (40, 128, 33, 128)])
def test_dynamic_scales(device, out, rule, size):
    m, n, k, out_block = size
    a, b, options = operands(device.config, m, n, k, 16)
    c, scale = device.gemm(a, b, **options, out=out, out_block=out_block, scale_rule=rule)
    exact = gemm_block(a, b, options["a_scale"], options["b_scale"], 16)
    codes, scales = quantize_block(exact, out.replace("mxint8", "int8"), out_block, rule)
    assert (scale == scales).all() and (c.view(np.uint8) == codes).all()


def test_one_layer_feeds_the_next(device):
    """A result with its dynamic scales is the next product's operand as it is."""
    if "e2m1" not in device.config.formats:
        pytest.skip("the chip cannot read its own results")
    a, b, options = operands(device.config, 12, 64, 48, 16)
    hidden, scale = device.gemm(a, b, **options, out="e2m1", out_block=32)
    rng = np.random.default_rng(8)
    weights, weight_scale = random_elements(rng, (64, 10), "int8"), random_scales(rng, (2, 10))
    c = device.gemm(hidden, weights, block=32, a_scale=scale, b_scale=weight_scale)
    expected = gemm_block(hidden, weights, scale, weight_scale, 32)
    assert (c.view(np.uint32) == expected.view(np.uint32)).all()


def test_the_same_bytes_from_both_arrays_and_in_every_batch():
    """The shape of the array, the tiling and the other rows of a batch do not touch a row's result.

    tests/test_gemm_scaled.py says the same of more shapes, on the golden device.
    """
    m, n, k, block = 21, 40, 300, 32
    rng = np.random.default_rng(6)
    a, b = (random_elements(rng, shape, "e2m3") for shape in ((m, k), (k, n)))
    a_scale, b_scale = (rng.integers(67, 187, shape).astype(np.uint8) for shape in ((m, 10), (10, n)))
    results = {gemm_block(a, b, a_scale, b_scale, block).tobytes()}
    for config in CHIPS:
        with open_device("verilated", config=config) as device:
            results.add(device.gemm(a, b, block=block, a_scale=a_scale, b_scale=b_scale).tobytes())
            batches = [device.gemm(a[i:i + 5], b, block=block, a_scale=a_scale[i:i + 5], b_scale=b_scale)
                       for i in range(0, m, 5)]
            results.add(np.concatenate(batches).tobytes())
    assert len(results) == 1
