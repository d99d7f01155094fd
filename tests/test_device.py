"""The compiled device against the golden machine: same bytes in, same bytes out, and no hang on a bad bus."""

import dataclasses
import random
from operator import attrgetter

import numpy as np
import pytest
from machine_jobs import load, make_job, store

from kiwicha import ChipConfig
from kiwicha.isa import ErrorCode, Unit
from kiwicha_host.compiler import GemmSpec, compile_gemm
from kiwicha_host.devices import compiled_chip, open_device, serial
from kiwicha_host.devices.registers import LinkError
from kiwicha_host.job import DeviceError, Job, Result
from tb.chip.programs import random_job

TINY = ChipConfig.preset("tiny")
SEED = 7


@pytest.fixture(scope="module")
def device():
    with open_device("verilated", config=TINY) as device:
        yield device


def copy(job: Job) -> Job:
    return Job(job.memory.copy(), job.program_address, job.program_count, job.window)


def gemm_job(m=33, n=18, k=29, *, config=TINY):
    rng = np.random.default_rng(m)
    a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((m, k), (k, n)))
    gemm = compile_gemm(config, GemmSpec(m=m, n=n, k=k))
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


def test_a_program_that_races_ends_like_any_other(device):
    """STORE reads the line that LOAD writes, without a semaphore: undefined data, but no end of the process."""
    line = {"row_bytes": 8, "segment_bytes": 8, "rows": 2000, "planes": 1}
    job = make_job(load(address=0, row_stride=0, **line), store(address=0x4000, row_stride=0, **line))
    assert device.run(job).cycles > 2000


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (64, 64, 64), (33, 65, 127)])
def test_gemms(device, shape):
    m, n, k = shape
    rng = np.random.default_rng(k)
    a, b = (rng.integers(-128, 128, size, dtype=np.int8) for size in ((m, k), (k, n)))
    assert (device.gemm(a, b) == a.astype(np.int32) @ b.astype(np.int32)).all()
    assert device.last_result.cycles >= m * n * k / TINY.peak_macs_per_cycle


def test_a_chip_is_exported_once(device, monkeypatch):
    """Not each time that one is opened: it takes longer than most jobs."""
    monkeypatch.setattr(compiled_chip, "to_verilog", lambda *arguments: pytest.fail("exported again"))
    open_device("verilated", config=dataclasses.replace(TINY)).close()


@pytest.mark.parametrize("latency", [0, 7, 200])
def test_memory_latency_changes_cycles_only(latency):
    gemm, job, expected = gemm_job()
    with open_device("verilated", config=TINY, latency=latency) as slow:
        cycles = slow.run(job).cycles
    assert (gemm.output(job) == expected).all()
    with open_device("verilated", config=TINY, latency=latency) as again:
        assert again.run(job).cycles == cycles


@pytest.mark.parametrize(("operand", "code", "unit"), [
    ("placement.a", ErrorCode.BUS_READ, Unit.LOAD), ("_program", ErrorCode.BUS_READ, Unit.FETCH),
    ("placement.c", ErrorCode.BUS_WRITE, Unit.STORE)])
def test_a_bus_error_names_the_unit_and_the_next_job_is_right(device, operand, code, unit):
    gemm, job, expected = gemm_job()
    region = attrgetter(operand)(gemm)
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


class SilentBoard:
    """A board whose chip is the compiled one, as :class:`Uartbone` shows it; the chip's own memory is silent."""

    def __init__(self, chip):
        self.chip = chip
        self.memory = np.zeros(1 << 14, np.uint8)
        chip.inject_fault(silent=True)

    def read_words(self, address, count):
        if address >= 0xF000_0000:
            return np.array([self.chip._read(address - 0xF000_0000 + 4 * i) for i in range(count)], np.uint32)
        words = self.memory[address:address + 4 * count].view("<u4")
        return words if len(words) else np.full(count, 0xFFFF_FFFF, np.uint32)

    def write_words(self, address, words):
        if address >= 0xF000_0000:
            self.chip._write(address - 0xF000_0000, int(words[0]))
        elif address < len(self.memory):
            data = np.asarray(words, "<u4").view(np.uint8)
            self.memory[address:address + len(data)] = data

    def close(self):
        pass


def test_a_board_keeps_the_weights(monkeypatch):
    """What the program only reads is written once, and never read."""
    written, read = [], []

    class Board(SilentBoard):
        def write_words(self, address, words):
            written.append(range(address, address + 4 * len(words)))
            super().write_words(address, words)

        def read_words(self, address, count):
            read.append(range(address, address + 4 * count))
            return super().read_words(address, count)

    with open_device("verilated", config=TINY) as chip:
        monkeypatch.setattr(serial, "Uartbone", lambda *arguments: Board(chip))
        board = serial.SerialDevice(TINY, "/dev/ttyFAKE")
        for name, value in (("start", None), ("ended", True), ("finish", Result())):
            monkeypatch.setattr(board.registers, name, lambda *job, value=value, **wall_s: value)
        memory = np.random.default_rng(0).integers(1, 256, 1 << 13, np.uint8)
        for run in range(2):
            written.clear()
            read.clear()
            memory[5001:5009] += 1
            job = Job(memory.copy(), 0, 0, constant=4099)
            board.run(job)
            assert (board._link.memory[:len(memory)] == memory).all() and (job.memory == memory).all()
            assert min(item.start for item in read if item.start < 1 << 28) == 4096
            # Whole messages are written.
            assert (min(item.start for item in written if item.start < 1 << 28) > 3000) == (run == 1)


@pytest.fixture
def silent_board(monkeypatch):
    """A board at a serial port, and its chip, whose memory never answers."""
    with open_device("verilated", config=TINY) as chip:
        chip.registers.write("WATCHDOG", 2000)
        monkeypatch.setattr(serial, "Uartbone", lambda *arguments: SilentBoard(chip))
        yield serial.SerialDevice(TINY, "/dev/ttyFAKE", run_limit_s=20), chip


def test_a_board_whose_bus_stays_dead_says_so_at_once(silent_board):
    board, chip = silent_board
    _, job, _ = gemm_job(2, 2, 2)
    with pytest.raises(DeviceError) as caught:
        board.run(copy(job))
    assert (caught.value.code, caught.value.unit, caught.value.index) == (ErrorCode.WATCHDOG, Unit.FETCH, 0)
    assert str(caught.value).startswith("WATCHDOG: instruction 0 of FETCH made no progress until the watchdog "
                                        "ended it; the memory does not answer, so the chip stays busy: check the "
                                        "memory and reset the chip (")
    assert not chip.registers.finished()
    # Nor does the next one wait, or the next session.
    says = (r"the chip cannot stop: its memory does not answer since instruction 0 of FETCH \(WATCHDOG\); "
            r"check the memory and reset the chip")
    with pytest.raises(LinkError, match=says):
        board.run(copy(job))
    with pytest.raises(LinkError, match=says):
        serial.SerialDevice(TINY, "/dev/ttyFAKE")


def test_a_board_without_watchdog_is_given_up_with_the_instruction(silent_board):
    board, chip = silent_board
    chip.registers.write("WATCHDOG", 0)
    board._run_limit_s = 0.1
    _, job, _ = gemm_job(2, 2, 2)
    with pytest.raises(LinkError, match=r"did not end within 0.1 s and was aborted; give a longer run_limit_s; "
                                        r"ABORTED: instruction 0 of FETCH was aborted by the host; the memory "
                                        r"does not answer"):
        board.run(copy(job))


def test_a_simulation_without_watchdog_is_given_up_with_the_instruction():
    with open_device("verilated", config=TINY, max_cycles=3000) as chip:
        chip.registers.write("WATCHDOG", 0)
        chip.inject_fault(silent=True)
        gemm, job, expected = gemm_job(2, 2, 2)
        with pytest.raises(TimeoutError, match=r"no end after 3000 cycles; is the watchdog off\? "
                                               r"ABORTED: instruction 0"):
            chip.run(copy(job))
        with pytest.raises(LinkError, match="the chip cannot stop"):
            chip.run(copy(job))
        # Once its bus answers, the chip goes on as if nothing had been.
        chip.inject_fault()
        chip.run(job)
        assert (gemm.output(job) == expected).all()


def test_a_wave_form_is_written(tmp_path):
    # Code that writes wave forms takes long to compile.
    small = dataclasses.replace(TINY, name="waves", rows=2, columns=2, vector_lanes=1, queue_depth=1)
    _, job, _ = gemm_job(2, 2, 2, config=small)
    path = tmp_path / "run.vcd"
    with open_device("verilated", config=small, waves=str(path)) as device:
        device.run(job)
    assert "$enddefinitions" in path.read_text(encoding="utf-8")
