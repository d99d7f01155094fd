"""Chips of integers alone with block scales: MXINT8 products and results, on the golden and the compiled chip."""

import dataclasses
import itertools
import random

import numpy as np
import pytest
from commands import fails

from bench.campaign import cases, differing_bits, random_elements, random_scales
from kiwicha import ChipConfig
from kiwicha_host import open_device
from kiwicha_host.devices.registers import LinkError
from kiwicha_host.golden import gemm_block, quantize_block
from kiwicha_host.job import Job
from kiwicha_host.quantize import dequantize, quantize, quantize_weights
from tb.chip.programs import random_job

pytestmark = pytest.mark.usefixtures("any_tiling")
SEED = 5


def chip(name, rows, columns, formats=("int8",), **more):
    return ChipConfig(name=name, rows=rows, columns=columns, formats=formats, block_scales=True,
                      **{"bus_width": 64, "vector_lanes": 2, "bank_lines": 2048, "accumulator_lines": 256,
                         "queue_depth": 2, "reads_in_flight": 4, "writes_in_flight": 4} | more)


#: Two products in a multiplier; a row's word for several parts, of which there are many.
LEAN = chip("mxint8", 8, 4, multiplier="ecp5_packed", functions=True)
CHIPS = [LEAN, chip("wide_mxint8", 16, 16, bus_width=128, vector_lanes=4), chip("both", 4, 8, ("int8", "int4")),
         chip("packed_both", 16, 2, ("int4", "int8"), multiplier="ecp5_packed", bus_width=128)]


@pytest.fixture(scope="module")
def lean():
    with open_device("verilated", config=LEAN) as device:
        yield device


def operands(m, n, k, block, seed=SEED):
    rng = np.random.default_rng([seed, m, n, k])
    a, b = random_elements(rng, (m, k), "int8"), random_elements(rng, (k, n), "int8")
    blocks = -(-k // block)
    return a, b, {"block": block, "a_scale": random_scales(rng, (m, blocks)),
                  "b_scale": random_scales(rng, (blocks, n))}


def check(device, size, rule):
    m, n, k, out_block = size
    a, b, options = operands(m, n, k, 32)
    exact = gemm_block(a, b, options["a_scale"], options["b_scale"], 32)
    assert (device.gemm(a, b, **options).view(np.uint32) == exact.view(np.uint32)).all()
    c, scale = device.gemm(a, b, **options, out="mxint8", out_block=out_block, scale_rule=rule)
    codes, scales = quantize_block(exact, "int8", out_block, rule)
    assert c.dtype == np.int8 and (c.view(np.uint8) == codes).all() and (scale == scales).all()


SIZES = list(itertools.product([(19, 45, 70, 32), (5, 300, 40, 128), (1, 1, 1, 32), (40, 128, 33, 128)],
                               ["rceil", "floor"]))


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
def test_products_and_results(config):
    with open_device("golden", config=config) as device:
        for size, rule in SIZES:
            check(device, size, rule)


def test_products_and_results_of_the_compiled_chip(lean):
    for size, rule in SIZES:
        check(lean, size, rule)


def test_no_bit_of_the_compiled_chip_differs(lean):
    rng = np.random.default_rng(SEED)
    for case in cases(rng, "int8", "int8", 20_000, 300):
        assert differing_bits(lean, case) == 0, case


def test_random_programs_leave_the_golden_memory(lean):
    with open_device("golden", config=lean.config) as golden:
        for number in range(60):
            job = random_job(lean.config, random.Random(f"{SEED}/{number}"), 40)
            expected = Job(job.memory.copy(), job.program_address, job.program_count, job.window)
            golden.run(expected)
            lean.run(job)
            assert (job.memory == expected.memory).all(), f"program {SEED}/{number} differs"


@pytest.mark.parametrize("switch", ["block_scales", "functions"])
def test_a_chip_says_what_it_has(lean, switch):
    """Nothing else tells such a chip from one without: its formats are the same."""
    other = dataclasses.replace(LEAN, **{switch: False})
    with pytest.raises(LinkError, match=f"'mxint8': its {switch} is true, not false"):
        lean.registers.check_identity(other)


def test_a_layer_feeds_the_next():
    """The chip's own results are operands; what comes out is near the float32 product."""
    rng = np.random.default_rng(SEED)
    x, v, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((24, 100), (100, 64), (64, 12)))
    with open_device("golden", config=LEAN) as device:
        (a, a_scale), (b, b_scale), (d, d_scale) = (quantize(x, "int8", 32), *(
            quantize_weights(item, "int8", 32) for item in (v, w)))
        hidden, scale = device.gemm(a, b, block=32, a_scale=a_scale, b_scale=b_scale, out="mxint8", out_block=32)
        c = device.gemm(hidden, d, block=32, a_scale=scale, b_scale=d_scale)
    exact = x @ v @ w
    assert np.linalg.norm(c - exact) < 0.02 * np.linalg.norm(exact)
    assert np.linalg.norm(dequantize(hidden, scale, 32) - x @ v) < 0.02 * np.linalg.norm(x @ v)


def test_an_integer_product_has_such_results_too():
    rng = np.random.default_rng(SEED)
    a, b = rng.integers(-128, 128, (9, 50), np.int8), rng.integers(-128, 128, (50, 40), np.int8)
    with open_device("golden", config=CHIPS[2]) as device:
        c, scale = device.gemm(a, b, out="mxint8", out_block=32, out_scale=0.75, relu=True)
    exact = np.maximum((a.astype(np.int32) @ b.astype(np.int32)).astype(np.float32) * np.float32(0.75), 0)
    codes, scales = quantize_block(exact, "int8", 32)
    assert (c.view(np.uint8) == codes).all() and (scale == scales).all()


@pytest.mark.parametrize("config, out, message", [
    (LEAN, "e4m3", "configuration 'mxint8' makes no e4m3, for it has no floating-point format; use mxint8"),
    (LEAN, "e2m1", "configuration 'mxint8' makes no e2m1, for it has no floating-point format; use mxint8"),
    (chip("four", 4, 4, ("int4",)), "mxint8",
     "configuration 'four' makes no mxint8, for it has no format int8; use e4m3 or e2m1"),
    (chip("six", 4, 6), "mxint8", "an output block of 32 needs columns that divide it, not 6"),
    ("tiny", "mxint8", "configuration 'tiny' has no block scaling: it has only the formats int8, int4"),
])
def test_results_that_a_chip_does_not_make(config, out, message):
    a = np.ones((4, 4), np.int8 if config == "tiny" or "int8" in config.formats else quantize(
        np.ones((1, 1)), "int4", 16)[0].dtype)
    with open_device("golden", config=config) as device, pytest.raises(ValueError, match=message):
        device.gemm(a, a, out=out, out_block=32)


@pytest.fixture
def files(run):
    """The command, in a folder with operands a and b, scales sa and sb, and the configuration lean.toml."""
    a, b, options = operands(6, 40, 70, 32)
    for name, array in (("a", a), ("b", b), ("sa", options["a_scale"]), ("sb", options["b_scale"])):
        np.save(f"{name}.npy", array)
    with open("lean.toml", "w", encoding="utf-8") as file:
        file.write(LEAN.to_toml())
    return run


GEMM = ["gemm", "a.npy", "b.npy", "--config", "lean.toml", "--device", "golden", "--a-format", "int8",
        "--b-format", "int8", "--block", "32", "--a-scale", "sa.npy", "--b-scale", "sb.npy"]


@pytest.mark.parametrize("options, block, rule", [([], 32, "rceil"), (["--scale-rule", "floor"], 32, "floor"),
                                                  (["--out-block", "128"], 128, "rceil")])
def test_the_command(files, options, block, rule):
    status, _, err = files(*GEMM, "-o", "c.npy", "--out", "mxint8", *options)
    assert (status, err) == (0, "")
    a, b, given = operands(6, 40, 70, 32)
    codes, scales = quantize_block(gemm_block(a, b, given["a_scale"], given["b_scale"], 32), "int8", block, rule)
    c = np.load("c.npy")
    assert c.dtype == np.int8 and (c.view(np.uint8) == codes).all()
    assert (np.load("c.scale.npy") == scales).all()


def test_the_command_says_what_does_not_go(files):
    fails(files, 1, "makes no e4m3, for it has no floating-point format; use mxint8", *GEMM, "--out", "e4m3")
    fails(files, 1, "has no block scaling", *GEMM, "--out", "mxint8", "--config", "tiny")
    fails(files, 2, "-o - has room for one array", *GEMM, "-o", "-", "--out", "mxint8")
