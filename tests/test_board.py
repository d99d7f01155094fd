"""A board from pin to pin: the real driver, over a serial line, on simulated pins."""

import contextlib
import dataclasses
import os
import pty
import threading

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.isa import ErrorCode
from kiwicha_host import DeviceError, open_device
from kiwicha_host.devices.registers import LinkError
from kiwicha_host.devices.serial import SerialDevice, Uartbone
from kiwicha_host.job import Job
from tb.fpga import board_sim

MEMORY = 1 << 14
# The smallest chip there is, so that the simulation is fast.
CONFIG = dataclasses.replace(ChipConfig.preset("tiny"), name="board_test", bank_lines=128, accumulator_lines=64)


@pytest.fixture(scope="module")
def port():
    with board_sim.board(CONFIG, memory_bytes=MEMORY) as name:
        yield name


@pytest.fixture
def device(port):
    with open_device(f"serial:{port}", config=CONFIG, timeout_s=60) as opened:
        yield opened


def test_gemm_from_pin_to_pin(device):
    rng = np.random.default_rng(1)
    assert device.memory_limit == MEMORY
    for m, k, n in ((1, 1, 1), (7, 13, 9), (24, 16, 20)):
        a = rng.integers(-128, 128, (m, k)).astype(np.int8)
        b = rng.integers(-128, 128, (k, n)).astype(np.int8)
        assert np.array_equal(device.gemm(a, b), a.astype(np.int32) @ b.astype(np.int32))
        result = device.last_result
        assert result.cycles > 0
        assert all(sum(row.values()) == result.cycles for row in result.counters.values())


def test_an_error_is_typed_and_the_next_job_runs(device):
    job = Job(np.zeros(4096, np.uint8), 0, 1)
    with pytest.raises(DeviceError) as caught:
        device.run(job)
    assert caught.value.code is ErrorCode.OPCODE
    ones = np.ones((3, 3), np.int8)
    assert np.array_equal(device.gemm(ones, ones), np.full((3, 3), 3))


def test_memory_that_the_board_lacks(device):
    with pytest.raises(ValueError, match="the board has 0x4000 bytes"):
        device.run(Job(np.zeros(MEMORY + 4096, np.uint8), 0, 0))
    with pytest.raises(ValueError):
        device.gemm(np.zeros((200, 200), np.int8), np.zeros((200, 200), np.int8))


def test_another_chip_than_expected(port):
    other = dataclasses.replace(CONFIG, queue_depth=3)
    with pytest.raises(LinkError, match=r"its queue_depth is 2, not 3; give the configuration"):
        SerialDevice(other, port, timeout_s=60)


def test_words_and_addresses_where_nothing_is(port):
    link = Uartbone(port, 1_000_000, 60)
    words = np.random.default_rng(2).integers(0, 1 << 32, 600, dtype=np.uint32)
    link.write_words(0x100, words)
    assert np.array_equal(link.read_words(0x100, 600), words)
    assert link.read_words(0x8000_0000, 2).tolist() == [0xFFFF_FFFF] * 2
    assert link.read_words(0xF000_0000, 1).tolist() == [0x4B49_5749]
    link.close()


def test_a_port_that_is_not_there():
    with pytest.raises(LinkError, match=r"cannot open /dev/ttyNONE: .*; check the name") as caught:
        open_device("serial:/dev/ttyNONE", config=CONFIG)
    assert "\n" not in str(caught.value)


def test_a_port_where_nobody_answers():
    master, slave = pty.openpty()
    with pytest.raises(LinkError, match="does not answer"):
        SerialDevice(CONFIG, os.ttyname(slave), timeout_s=0.2)
    os.close(master)
    os.close(slave)


def test_a_port_where_something_else_answers():
    master, slave = pty.openpty()

    def echo():
        with contextlib.suppress(OSError):
            while data := os.read(master, 6):
                os.write(master, data)

    threading.Thread(target=echo, daemon=True).start()
    with pytest.raises(LinkError, match=r"no Kiwicha chip answers|does not answer"):
        SerialDevice(CONFIG, os.ttyname(slave), timeout_s=0.5)
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("options", [{"baud": 0}, {"timeout_s": 0}, {"run_limit_s": -1}])
def test_parameters_must_be_positive(options):
    with pytest.raises(ValueError, match=r"must be (at least 1|finite and above 0), not"):
        SerialDevice(CONFIG, "/dev/null", **options)
