"""The compiled device against the golden machine: same bytes in, same bytes out, and no hang on a bad bus."""

import random

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.isa import ErrorCode, Unit
from kiwicha_host.compiler import GemmSpec, compile_gemm
from kiwicha_host.devices import open_device
from kiwicha_host.job import DeviceError, Job
from tb.chip.programs import random_job

TINY = ChipConfig.preset("tiny")
SEED = 7


@pytest.fixture(scope="module")
def device():
    with open_device("verilated", config=TINY) as device:
        yield device


def copy(job: Job) -> Job:
    return Job(job.memory.copy(), job.program_address, job.program_count, job.window)


def gemm_job(m=33, n=18, k=29):
    rng = np.random.default_rng(m)
    a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((m, k), (k, n)))
    gemm = compile_gemm(TINY, GemmSpec(m=m, n=n, k=k))
    return gemm, gemm.job(a, b), a.astype(np.int32) @ b.astype(np.int32)


def test_random_programs_leave_the_golden_memory(device):
    with open_device("golden", config=TINY) as golden:
        for number in range(150):
            job = random_job(TINY, random.Random(f"{SEED}/{number}"), 40)
            expected = copy(job)
            golden.run(expected)
            result = device.run(job)
            assert (job.memory == expected.memory).all(), f"program {SEED}/{number} differs"
            for unit, counts in result.counters.items():
                assert sum(counts.values()) == result.cycles, (unit, counts, result.cycles)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (64, 64, 64), (33, 65, 127)])
def test_gemms(device, shape):
    m, n, k = shape
    rng = np.random.default_rng(k)
    a, b = (rng.integers(-128, 128, size, dtype=np.int8) for size in ((m, k), (k, n)))
    assert (device.gemm(a, b) == a.astype(np.int32) @ b.astype(np.int32)).all()
    assert device.last_result.cycles >= m * n * k / TINY.peak_macs_per_cycle


@pytest.mark.parametrize("latency", [0, 7, 200])
def test_memory_latency_changes_cycles_only(latency):
    gemm, job, expected = gemm_job()
    with open_device("verilated", config=TINY, latency=latency) as slow:
        cycles = slow.run(job).cycles
    assert (gemm.output(job) == expected).all()
    with open_device("verilated", config=TINY, latency=latency) as again:
        assert again.run(job).cycles == cycles


@pytest.mark.parametrize(("operand", "code", "unit"), [
    ("a", ErrorCode.BUS_READ, Unit.LOAD), ("_program", ErrorCode.BUS_READ, Unit.FETCH),
    ("c", ErrorCode.BUS_WRITE, Unit.STORE)])
def test_a_bus_error_names_the_unit_and_the_next_job_is_right(device, operand, code, unit):
    gemm, job, expected = gemm_job()
    region = getattr(gemm, operand)
    device.inject_fault(region.base + region.size // 2, region.base + region.size // 2)
    with pytest.raises(DeviceError) as caught:
        device.run(copy(job))
    assert (caught.value.code, caught.value.unit) == (code, unit)
    device.inject_fault()
    device.run(job)
    assert (gemm.output(job) == expected).all()


def test_a_silent_memory_ends_in_the_watchdog(device):
    gemm, job, expected = gemm_job()
    device.registers.write("WATCHDOG", 2000)
    device.inject_fault(silent=True)
    with pytest.raises(DeviceError) as caught:
        device.run(copy(job))
    assert (caught.value.code, caught.value.unit) == (ErrorCode.WATCHDOG, Unit.FETCH)
    device.inject_fault()
    device.run(job)
    assert (gemm.output(job) == expected).all()


def test_a_wave_form_is_written(tmp_path):
    _, job, _ = gemm_job(2, 2, 2)
    path = tmp_path / "run.vcd"
    with open_device("verilated", config=TINY, waves=str(path)) as device:
        device.run(job)
    assert "$enddefinitions" in path.read_text()
