"""The cycle model against the compiled chip: a small version of ``python -m bench.cycles``."""

import numpy as np
import pytest

from bench.cycles import MOST_MEAN, MOST_WORST, cases, chip, compare, unit_cases
from kiwicha import ChipConfig
from kiwicha.config import PRESETS
from kiwicha.isa import Unit
from kiwicha.matmul.unit import MatmulUnit
from kiwicha.memory.accumulator import Accumulator
from kiwicha.vector.unit import VectorUnit
from kiwicha_host import open_device
from kiwicha_host.assembler import encode
from kiwicha_host.compiler import GemmSpec, compile_gemm
from kiwicha_host.cycles import NEVER, Deadlock, Timing, cycles_within, predict

SEED = 3
#: (configuration, memory latency, programs); the larger chips are for the campaign.
SMALL = (("tiny", 10, 20), ("tiny", 100, 20), ("ulx3s_85f", 30, 20))


@pytest.mark.parametrize("name", PRESETS)
def test_latencies_are_those_of_the_hardware(name):
    config = PRESETS[name]
    timing, accumulator, vector = Timing.of(config), Accumulator(config), VectorUnit(config)
    assert timing.array == MatmulUnit(config).latency
    assert (timing.accumulate, timing.hazard) == (accumulator.latency, accumulator.hazard)
    assert timing.vector == vector.latency
    if config.block_scaled:
        assert timing.dynamic_scale == vector.dynamic_scale_latency


def test_the_model_predicts_the_chip():
    errors = []
    for name, latency, count in SMALL:
        for case, measured, model, _ in compare(name, latency, cases(name, count, SEED, latency)):
            errors.append(abs(model - measured) / measured)
            assert errors[-1] <= MOST_WORST, (SEED, name, latency, case.kind, case.name, measured, model)
    print(f"seed {SEED}: {len(errors)} programs, mean error {np.mean(errors):.3%}, worst {max(errors):.2%}")
    assert len(errors) >= 55
    assert np.mean(errors) <= MOST_MEAN


@pytest.mark.parametrize("name, latency", [("tiny", 1), ("tiny", 30), ("tiny+functions+indices+top_k", 30),
                                           ("tiny+block_scales", 30)])
def test_single_instructions_are_right_to_the_cycle(name, latency):
    for case, measured, model, _ in compare(name, latency, unit_cases(chip(name))):
        assert abs(model - measured) <= 1, (case.name, measured, model)


def test_busy_cycles_are_the_chips_and_counters_add_up():
    rng = np.random.default_rng(SEED)
    a, b = rng.integers(-128, 128, (40, 50), dtype=np.int8), rng.integers(-128, 128, (50, 30), dtype=np.int8)
    results = []
    for device_name in ("golden", "verilated"):
        with open_device(device_name, config="tiny") as device:
            device.gemm(a, b)
            results.append(device.last_result)
    golden, chip_result = results
    assert golden.predicted and not chip_result.predicted
    assert golden.simulated_cycles_per_second is None
    for unit, counts in golden.counters.items():
        assert sum(counts.values()) == golden.cycles
        assert min(counts.values()) >= 0
        assert counts["BUSY"] == chip_result.counters[unit]["BUSY"], unit


def test_what_cannot_be_predicted():
    config = ChipConfig.preset("tiny")
    with pytest.raises(ValueError, match="must be instructions of 64 bytes, not 3 bytes"):
        predict(config, b"abc")
    with pytest.raises(ValueError, match="latency must be at least 0, not -1"):
        predict(config, b"", latency=-1)
    stuck = encode(Unit.LOAD, wait=1, rows=1, planes=1, row_bytes=8, segment_bytes=8)
    with pytest.raises(Deadlock, match="1 of its 1 instructions"):
        predict(config, stuck)
    with pytest.raises(Deadlock, match="1 of its 1 instructions"):
        cycles_within(NEVER, config, stuck)
    with pytest.raises(ValueError, match="must be instructions of 64 bytes, not 3 bytes"):
        cycles_within(NEVER, config, b"abc")
    with pytest.raises(ValueError, match="limit must be at least 0, not -1"):
        cycles_within(-1, config, b"")
    assert cycles_within(0, config, b"") is None


@pytest.mark.parametrize("latency", [0, 30, 300])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 18, 29), (5, 70, 200)])
def test_a_program_ends_within_its_cycles_and_no_fewer(shape, latency):
    config = ChipConfig.preset("tiny")
    m, n, k = shape
    program = compile_gemm(config, GemmSpec(m=m, n=n, k=k)).program
    cycles = predict(config, program, latency=latency).cycles
    assert [cycles_within(cycles + more, config, program, latency=latency) for more in (-cycles, -1, 0, 1)] == [
        None, None, cycles, cycles]


def test_a_latency_of_few_bits_does_not_overflow():
    config = ChipConfig.preset("tiny")
    program = compile_gemm(config, GemmSpec(m=5, n=7, k=9)).program
    cycles = predict(config, program, latency=200).cycles
    assert predict(config, program, latency=np.uint8(200)).cycles == cycles
    assert cycles_within(cycles, config, program, latency=np.uint8(200)) == cycles
