"""The whole chip on buses that we did not write: its host, and its memory, which can fall silent."""

import random

import numpy as np
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from kiwicha.isa import REGISTERS, Activity, ErrorCode, Unit, counter_address
from kiwicha_host.job import DeviceError, Job
from tb import harness
from tb.harness import bounded, clock, port, rng

__all__ = ["BUSY", "DONE", "ERROR", "Host"]

BUSY, DONE, ERROR = 1, 2, 4
_START, _ABORT = 1, 2
_BOUND = 200_000


class Host:
    """Drives the chip as a host would, over cocotbext-axi's AXI4-Lite master and memory."""

    #: Far longer than a paused memory takes.
    WATCHDOG = 1000

    def __init__(self, dut, size):
        self.dut = dut
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), clock(dut), port(dut, "rst").handle, size=size)
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), clock(dut), port(dut, "rst").handle)
        reads, writes = self.ram.read_if, self.ram.write_if
        self.channels = {"ar": reads.ar_channel, "r": reads.r_channel, "aw": writes.aw_channel,
                         "w": writes.w_channel, "b": writes.b_channel}
        # No byte of it is 0, so that zeros written over it are seen.
        self._pattern = np.random.default_rng(rng("pattern").getrandbits(32)).integers(1, 256, size, np.uint8)

    @classmethod
    async def make(cls, dut, size=1 << 18):
        host = cls(dut, size)
        await harness.start(dut)
        return host

    def pause(self, label, p_pause):
        """Stop each channel of the memory in random cycles."""
        for name, channel in self.channels.items():
            channel.set_pause_generator(_pauses(rng(f"{label}/{name}"), p_pause) if p_pause else None)
            channel.pause = False

    async def fall_silent(self, name, after):
        """After the memory's first answer to a write and `after` more transfers of channel `name`, stop it."""
        await self._transfers("b", 1)
        await self._transfers(name, after)
        self.channels[name].clear_pause_generator()
        self.channels[name].pause = True

    def wake(self):
        """End all pauses."""
        for channel in self.channels.values():
            channel.clear_pause_generator()
            channel.pause = False

    async def _transfers(self, name, count):
        valid, ready = (port(self.dut, f"m_axi_{name}{signal}") for signal in ("valid", "ready"))
        while count:
            await RisingEdge(clock(self.dut))
            count -= int(valid.value == 1 and ready.value == 1)

    async def read(self, name):
        return int.from_bytes((await self.lite.read(REGISTERS[name].offset, 4)).data, "little")

    async def write(self, name, value):
        await self.lite.write(REGISTERS[name].offset, value.to_bytes(4, "little"))

    async def run(self, job: Job):
        """Run `job` to its interrupt; its memory is changed in place, an error raised as a device's is."""
        await self.start(job)
        await self.interrupt()
        await self.idle()
        await self.finish(job)

    async def start(self, job: Job):
        self.ram.write(0, self._pattern.tobytes())
        self.ram.write(job.base, job.memory.tobytes())
        for name, value in (("PROGRAM", job.program_address), ("WINDOW_FIRST", job.window[0]),
                            ("WINDOW_LAST", job.window[1])):
            await self.write(f"{name}_LOW", value & 0xFFFF_FFFF)
            await self.write(f"{name}_HIGH", value >> 32)
        await self.write("PROGRAM_COUNT", job.program_count)
        await self.write("WATCHDOG", self.WATCHDOG)
        await self.write("IRQ_ENABLE", 3)
        await self.write("CONTROL", _START)

    async def interrupt(self, bound=_BOUND):
        await bounded(_until(self.dut, "irq"), bound)
        await self.write("IRQ_PENDING", 3)

    async def idle(self):
        for _ in range(1000):
            if not await self.read("STATUS") & BUSY:
                return
        raise AssertionError("the chip stays busy")

    async def abort(self):
        """End what runs, as the driver does before it starts a program on a busy chip."""
        await self.write("CONTROL", _ABORT)
        await self.idle()

    async def finish(self, job: Job):
        """Fetch the memory and how the program ended."""
        self.fetch(job)
        await self.check_counters()
        status = await self.read("STATUS")
        if status & ERROR:
            raise await self.error(job)
        assert status == DONE, f"STATUS {status:#x}"

    def fetch(self, job: Job):
        """Copy the memory into `job`; nothing was written anywhere else in the RAM."""
        image = np.frombuffer(self.ram.read(0, self._pattern.size), np.uint8)
        inside = slice(job.base, job.base + job.memory.size)
        changed = image != self._pattern
        changed[inside] = False
        bad = np.flatnonzero(changed)
        assert not bad.size, f"{bad.size} bytes were written outside the job's memory, the first at {bad[0]:#x}"
        job.memory[:] = image[inside]

    async def error(self, job: Job) -> DeviceError:
        error = await self.read("ERROR")
        return job.error(ErrorCode(error & 0xFF), Unit(error >> 8), await self.read("ERROR_INSTRUCTION"),
                         await self.read("ERROR_ADDRESS_LOW") | await self.read("ERROR_ADDRESS_HIGH") << 32)

    async def check_counters(self):
        """Each unit was in exactly one activity in each cycle."""
        cycles = await self.read("CYCLES")
        for unit in Unit:
            block = (await self.lite.read(counter_address(unit, Activity.IDLE), 4 * len(Activity))).data
            counts = np.frombuffer(block, "<u4")
            assert counts.sum() == cycles, f"{unit.name}: {dict(zip(Activity, counts, strict=True))} in {cycles}"


async def _until(dut, name):
    if not port(dut, name).value:
        await RisingEdge(port(dut, name).handle)
        await RisingEdge(clock(dut))


def _pauses(generator: random.Random, p_pause: float):
    while True:
        yield generator.random() < p_pause
