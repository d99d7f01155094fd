"""Block-scaled GEMMs of any shape and pair of formats: programs on the golden machine against the definition."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.formats import BLOCKS, FORMATS
from kiwicha_host import open_device
from kiwicha_host.compiler import GemmSpec, compile_gemm
from kiwicha_host.golden import gemm_block

pytestmark = pytest.mark.usefixtures("any_tiling")
TYPES = {"int8": np.int8, "int4": ml_dtypes.int4, "e4m3": ml_dtypes.float8_e4m3fn,
         "e3m2": ml_dtypes.float6_e3m2fn, "e2m3": ml_dtypes.float6_e2m3fn, "e2m1": ml_dtypes.float4_e2m1fn}
PAIRS = list(itertools.product(TYPES, repeat=2))


def chip(rows, columns, formats=tuple(TYPES), **parameters):
    parameters = {"bus_width": 64, "vector_lanes": 2, "bank_lines": 512, "accumulator_lines": 256} | parameters
    return ChipConfig(name=f"c{rows}x{columns}", rows=rows, columns=columns, formats=formats, **parameters)


CHIPS = [chip(4, 4), chip(8, 4), chip(4, 16), chip(16, 8, bus_width=128), chip(16, 16, vector_lanes=4)]


def elements(rng, shape, name, nan=0.0):
    """Any codes; with probability `nan`, those of E4M3 that are NaN stay."""
    codes = rng.integers(0, 1 << FORMATS[name].bits, shape).astype(np.uint8)
    if name == "e4m3":
        codes[((codes & 127) == 127) & (rng.random(shape) >= nan)] ^= 1
    if name == "int4":
        return (codes.astype(np.int8) - 8).astype(ml_dtypes.int4)
    return codes.view(TYPES[name])


def scales(rng, shape, spread=20, nan=0.0):
    codes = rng.integers(127 - spread, 128 + spread, shape).astype(np.uint8)
    codes[rng.random(shape) < nan] = 255
    return codes


def bits(array):
    return np.ascontiguousarray(array).view(np.uint32)


@pytest.mark.parametrize("config", CHIPS, ids=lambda config: config.name)
def test_every_pair_of_formats(config):
    rng = np.random.default_rng(11)
    with open_device("golden", config=config) as device:
        for (a_format, b_format), block in zip(PAIRS, itertools.cycle(BLOCKS)):
            m, n, k = (int(size) for size in rng.integers(1, [20, 24, 200]))
            a, b = elements(rng, (m, k), a_format, 0.02), elements(rng, (k, n), b_format, 0.02)
            blocks = -(-k // block)
            a_scale, b_scale = scales(rng, (m, blocks), nan=0.01), scales(rng, (blocks, n), 120, nan=0.01)
            c = device.gemm(a, b, block=block, a_scale=a_scale, b_scale=b_scale)
            expected = gemm_block(a, b, a_scale, b_scale, block)
            assert (bits(c) == bits(expected)).all(), f"{a_format} x {b_format}, {m}x{n}x{k}, block {block}"


@pytest.mark.parametrize("config", CHIPS[2:4], ids=lambda config: config.name)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 129), (3, 5, 16), (70, 33, 257), (1, 130, 600), (300, 1, 40)])
def test_awkward_shapes(config, size):
    m, n, k = size
    rng = np.random.default_rng(m + n + k)
    a, b = elements(rng, (m, k), "e4m3"), elements(rng, (k, n), "e2m1")
    for block in BLOCKS:
        blocks, squares = -(-k // block), -(-n // block)
        a_scale, b_scale = scales(rng, (m, blocks)), scales(rng, (blocks, squares))
        with open_device("golden", config=config) as device:
            c = device.gemm(a, b, block=block, a_scale=a_scale, b_scale=b_scale)
        assert (bits(c) == bits(gemm_block(a, b, a_scale, b_scale, block))).all()


def test_integer_formats_without_scales():
    rng = np.random.default_rng(4)
    for a_format, b_format in itertools.product(("int8", "int4"), repeat=2):
        a, b = elements(rng, (9, 37), a_format), elements(rng, (37, 21), b_format)
        for config in (chip(4, 6, ("int8", "int4")), CHIPS[3]):
            with open_device("golden", config=config) as device:
                assert (device.gemm(a, b) == a.astype(np.int32) @ b.astype(np.int32)).all()


def test_the_same_bytes_on_every_chip_and_in_every_batch():
    """The shape of the array, the tiling and the other rows of a batch do not touch a row's result."""
    rng = np.random.default_rng(5)
    m, n, k, block = 37, 50, 700, 32
    a, b = elements(rng, (m, k), "e4m3"), elements(rng, (k, n), "e4m3")
    a_scale, b_scale = scales(rng, (m, 22), 60), scales(rng, (22, n), 60)
    results = []
    for config in CHIPS:
        with open_device("golden", config=config) as device:
            results.append(device.gemm(a, b, block=block, a_scale=a_scale, b_scale=b_scale))
            rows = [device.gemm(a[i:i + 5], b, block=block, a_scale=a_scale[i:i + 5], b_scale=b_scale)
                    for i in range(0, m, 5)]
            results.append(np.concatenate(rows))
    assert len({result.tobytes() for result in results}) == 1


@pytest.mark.parametrize("square", [False, True])
def test_transposed_operands_change_no_bit(square):
    rng = np.random.default_rng(6)
    m, n, k, block = 320, 17, 290, 32
    a, b = elements(rng, (m, k), "e4m3"), elements(rng, (k, n), "e2m1")
    a_scale, b_scale = scales(rng, (m, 10), 60), scales(rng, (10, 1 if square else n), 60)
    spec = GemmSpec(m=m, n=n, k=k, a_format="e4m3", b_format="e2m1", block=block, out="fp32")
    assert compile_gemm(CHIPS[-1], spec).spec.m == n
    with open_device("golden", config=CHIPS[-1]) as device:
        c = device.gemm(a, b, block=block, a_scale=a_scale, b_scale=b_scale)
    per_column = np.repeat(b_scale, n, axis=1) if square else b_scale
    assert (bits(c) == bits(gemm_block(a, b, a_scale, per_column, block))).all()


SMALL = {"a": np.ones((3, 40), np.int8), "b": np.ones((40, 5), np.int8), "block": 32,
         "a_scale": np.full((3, 2), 127, np.uint8), "b_scale": np.full((2, 5), 127, np.uint8)}


@pytest.mark.parametrize("change, message", [
    ({"block": 48}, "block must be 0 or one of 16, 32, 64, 128, not 48"),
    ({"a_scale": SMALL["a_scale"][:, :1]}, r"a_scale must be uint8 \[3, 2\], not uint8 \[3, 1\]"),
    ({"a_scale": SMALL["a_scale"].astype(np.int16)}, r"a_scale must be uint8 \[3, 2\], not int16"),
    ({"b_scale": np.ones((2, 2), np.uint8)}, r"b_scale must be uint8 \[2, 5\] or \[2, 1\], not uint8 \[2, 2\]"),
    ({"b_scale": None}, "a block of 32 elements needs scales of A and of B"),
    ({"block": 0}, "block scales need a block of 16, 32, 64 or 128 elements, not 0"),
    ({"out": "int32"}, "a block-scaled GEMM has no int32 output; use fp32"),
    ({"out": "fp16"}, "out must be one of int32, fp32, bf16, int8, e4m3, e2m1, mxint8, not 'fp16'"),
    ({"out": "e4m3"}, "an e4m3 output needs a scale block of 32 or 128 columns, not 0"),
    ({"out": "e4m3", "out_block": 64}, "an e4m3 output needs a scale block of 32 or 128 columns, not 64"),
    ({"out": "mxint8"}, "an mxint8 output needs a scale block of 32 or 128 columns, not 0"),
    ({"scale_rule": "floor"}, "a scale rule is for e4m3, e2m1, mxint8 outputs, not fp32"),
    ({"out": "bf16", "out_block": 32}, "an output of bf16 has no scale blocks"),
    ({"out": "e2m1", "out_block": 32, "scale_rule": "up"}, "scale_rule must be one of rceil, floor, not 'up'"),
    ({"bias": np.zeros(5, np.int32)}, r"bias must be float32 \[5\], not int32 \[5\]"),
    ({"a": SMALL["a"].astype(np.float32)}, "A must be of type int8, .*, not float32"),
    ({"out_zero_point": 3}, "a zero point is for int8 outputs, not fp32"),
])
def test_bad_requests(change, message):
    with open_device("golden", config=CHIPS[0]) as device, pytest.raises(ValueError, match=message):
        device.gemm(**SMALL | change)


def test_what_a_chip_cannot_do():
    a, b = np.ones((2, 16), ml_dtypes.float8_e4m3fn), np.ones((16, 2), np.int8)
    ones = np.full((2, 1), 127, np.uint8), np.full((1, 2), 127, np.uint8)
    with open_device("golden", config="tiny") as device:
        with pytest.raises(ValueError, match="format e4m3 is not in the hardware of configuration"):
            device.gemm(a, b, block=16, a_scale=ones[0], b_scale=ones[1])
        with pytest.raises(ValueError, match="configuration 'tiny' has no block scaling: it has only the formats"):
            device.gemm(b.T, b, block=16, a_scale=ones[0], b_scale=ones[1])
        with pytest.raises(ValueError, match="configuration 'tiny' has no block scaling"):
            device.gemm(b.T, b, out="bf16")
    with open_device("golden", config=CHIPS[0]) as device:
        with pytest.raises(ValueError, match="format e4m3 needs a scale block of 16, 32, 64, 128 elements"):
            device.gemm(a, b)
    tall = chip(32, 8, bus_width=128)
    with open_device("golden", config=tall) as device:
        with pytest.raises(ValueError, match="block must be at least the array's 32 rows, not 16"):
            device.gemm(a, b, block=16, a_scale=ones[0], b_scale=ones[1])
