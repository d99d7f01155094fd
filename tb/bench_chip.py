"""The whole chip on buses that we did not write: random programs against the golden machine, and bad programs."""

import random

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

import harness
from harness import Bench, bounded, port, rng
from kiwicha import ChipConfig
from kiwicha.array.multiplier import simulation_models
from kiwicha.isa import REGISTERS, Activity, ErrorCode, Unit, counter_address
from kiwicha.top import Top
from kiwicha_host.assembler import encode
from kiwicha_host.compiler.gemm import GemmSpec, compile_gemm
from kiwicha_host.golden.machine import Machine
from kiwicha_host.job import DeviceError, Job
from programs import random_job

_DONE, _ERROR = 2, 4
_BOUND = 200_000


class Host:
    """Drives the chip as a host would, over cocotbext-axi's AXI4-Lite master and memory."""

    def __init__(self, dut, size):
        self.dut = dut
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), port(dut, "clk"), port(dut, "rst"), size=size)
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), port(dut, "clk"), port(dut, "rst"))

    def pause(self, label, p_pause):
        """Stop each channel of the memory in random cycles."""
        ram = self.ram
        for name, channel in (("ar", ram.read_if.ar_channel), ("r", ram.read_if.r_channel),
                              ("aw", ram.write_if.aw_channel), ("w", ram.write_if.w_channel),
                              ("b", ram.write_if.b_channel)):
            channel.set_pause_generator(_pauses(rng(f"{label}/{name}"), p_pause))

    async def read(self, name):
        return int.from_bytes((await self.lite.read(REGISTERS[name].offset, 4)).data, "little")

    async def write(self, name, value):
        await self.lite.write(REGISTERS[name].offset, value.to_bytes(4, "little"))

    async def run(self, job: Job):
        """Run `job` to its interrupt; its memory is changed in place, an error raised as a device's is."""
        self.ram.write(job.base, job.memory.tobytes())
        for name, value in (("PROGRAM", job.program_address), ("WINDOW_FIRST", job.window[0]),
                            ("WINDOW_LAST", job.window[1])):
            await self.write(f"{name}_LOW", value & 0xFFFF_FFFF)
            await self.write(f"{name}_HIGH", value >> 32)
        await self.write("PROGRAM_COUNT", job.program_count)
        await self.write("WATCHDOG", 3000)
        await self.write("IRQ_ENABLE", 3)
        await self.write("CONTROL", 1)
        await bounded(_until(self.dut, "irq"), _BOUND)
        await self.write("IRQ_PENDING", 3)
        for _ in range(1000):
            status = await self.read("STATUS")
            if not status & 1:
                break
        job.memory[:] = np.frombuffer(self.ram.read(job.base, job.memory.size), np.uint8)
        await self.check_counters()
        if status & _ERROR:
            error = await self.read("ERROR")
            raise job.error(ErrorCode(error & 0xFF), Unit(error >> 8), await self.read("ERROR_INSTRUCTION"),
                            await self.read("ERROR_ADDRESS_LOW") | await self.read("ERROR_ADDRESS_HIGH") << 32)
        assert status == _DONE, f"STATUS {status:#x}"

    async def check_counters(self):
        """Each unit was in exactly one activity in each cycle."""
        cycles = await self.read("CYCLES")
        for unit in Unit:
            block = (await self.lite.read(counter_address(unit, Activity.IDLE), 4 * len(Activity))).data
            counts = np.frombuffer(block, "<u4")
            assert counts.sum() == cycles, f"{unit.name}: {dict(zip(Activity, counts, strict=True))} in {cycles}"


async def _until(dut, name):
    while not port(dut, name).value:
        await RisingEdge(port(dut, "clk"))


def _pauses(generator: random.Random, p_pause: float):
    while True:
        yield generator.random() < p_pause


async def _start(dut, size=1 << 18):
    host = Host(dut, size)
    await harness.start(dut)
    return host


@cocotb.test()
async def random_programs(dut):
    """Random programs leave the memory that the golden machine leaves, at any speed of the bus."""
    config = harness.current().params["config"]
    host, machine = await _start(dut), Machine(config)
    for number in range(harness.current().params["programs"]):
        job = random_job(config, rng(f"program {number}"), 30)
        expected = Job(job.memory.copy(), job.program_address, job.program_count, job.window)
        machine.run(expected)
        host.pause(str(number), (0.0, 0.2, 0.7)[number % 3])
        await host.run(job)
        bad = np.flatnonzero(job.memory != expected.memory)
        assert not bad.size, f"program {number}: {bad.size} bytes differ, the first at {bad[0]:#x}"


@cocotb.test()
async def small_gemms(dut):
    """GEMMs whose shapes are no multiple of anything."""
    config = harness.current().params["config"]
    host = await _start(dut)
    values = np.random.default_rng(rng("gemm").getrandbits(32))
    for m, n, k in ((1, 1, 1), (3, 5, 7), (1, 33, 40), (20, 18, 35)):
        a = values.integers(-128, 128, (m, k), np.int8)
        b = values.integers(-128, 128, (k, n), np.int8)
        gemm = compile_gemm(config, GemmSpec(m=m, n=n, k=k))
        job = gemm.job(a, b)
        await host.run(job)
        assert (gemm.output(job) == a.astype(np.int32) @ b.astype(np.int32)).all(), (m, n, k)


def bad_programs(config: ChipConfig) -> dict[str, tuple[Job, ErrorCode, Unit, int]]:
    """Programs of a right first and a wrong second instruction: name -> job, code, unit, address."""
    one = {"count0": 1, "count1": 1, "count2": 1, "count3": 1}
    row = {"rows": 1, "planes": 1, "row_bytes": 4, "chunk_bytes": 4}
    lines, accs = config.scratchpad_lines, config.accumulator_lines
    outside = 1 << 16

    def job(wrong: bytes) -> Job:
        memory = np.zeros(1 << 16, np.uint8)
        program = encode(Unit.LOAD, **row) + wrong
        memory[4096:4096 + len(program)] = np.frombuffer(program, np.uint8)
        return Job(memory, 4096, 2)

    def flip(bit: int) -> bytes:
        word = int.from_bytes(encode(Unit.STORE, address=8192, **row), "little") | 1 << bit
        return word.to_bytes(64, "little")

    scratch, acc = ErrorCode.SCRATCHPAD_RANGE, ErrorCode.ACCUMULATOR_RANGE
    cases = {
        "opcode": (bytes([77]) + bytes(63), ErrorCode.OPCODE, Unit.FETCH, 77),
        "zero": (bytes(64), ErrorCode.OPCODE, Unit.FETCH, 0),
        "reserved": (flip(511), ErrorCode.RESERVED, Unit.STORE, 511),
        "load_window": (encode(Unit.LOAD, address=outside, **row), ErrorCode.WINDOW, Unit.LOAD, outside),
        "store_window": (encode(Unit.STORE, address=outside, **row), ErrorCode.WINDOW, Unit.STORE, outside),
        "rows": (encode(Unit.LOAD, **row | {"rows": 0}), ErrorCode.FIELD, Unit.LOAD, 0),
        "chunk": (encode(Unit.STORE, **row | {"chunk_bytes": config.line_bytes + 1}), ErrorCode.FIELD,
                  Unit.STORE, config.line_bytes + 1),
        "count": (encode(Unit.MATMUL, **one | {"count1": 0}), ErrorCode.FIELD, Unit.MATMUL, 0),
        "matmul_acc": (encode(Unit.MATMUL, **one, acc_line=accs), acc, Unit.MATMUL, accs),
        "epilogue_acc": (encode(Unit.EPILOGUE, **one, acc_line=accs), acc, Unit.EPILOGUE, accs),
        "semaphore": (encode(Unit.LOAD, wait=1 << 7, **row), ErrorCode.WATCHDOG, Unit.LOAD, 0),
    }
    if lines < 1 << 16:
        cases |= {
            "load_line": (encode(Unit.LOAD, line=lines, **row), scratch, Unit.LOAD, lines),
            "store_line": (encode(Unit.STORE, line=lines, address=8192, **row), scratch, Unit.STORE, lines),
            "a_line": (encode(Unit.MATMUL, **one, a_line=lines), scratch, Unit.MATMUL, lines),
            "w_line": (encode(Unit.MATMUL, **one, w_line=lines - 1), scratch, Unit.MATMUL, lines),
            "out_line": (encode(Unit.EPILOGUE, **one, out_line=lines), scratch, Unit.EPILOGUE, lines),
            "param_line": (encode(Unit.EPILOGUE, **one, bias=1, param_line=lines), scratch, Unit.EPILOGUE, lines),
        }
    return {name: (job(wrong), *rest) for name, (wrong, *rest) in cases.items()}


@cocotb.test()
async def bad_programs_end_in_typed_errors(dut):
    """Each names its unit, instruction and address; nothing is written; the next program is right."""
    config = harness.current().params["config"]
    host, machine = await _start(dut), Machine(config)
    after = random_job(config, rng("after"), 6)
    expected = Job(after.memory.copy(), after.program_address, after.program_count, after.window)
    machine.run(expected)
    for name, (job, code, unit, address) in bad_programs(config).items():
        before = job.memory.copy()
        try:
            await host.run(job)
        except DeviceError as error:
            found = (error.code, error.unit, error.index, error.address)
            assert found == (code, unit, 1, address), f"{name}: {error}"
        else:
            raise AssertionError(f"{name}: no error")
        assert (job.memory == before).all(), f"{name}: memory changed"
        following = Job(after.memory.copy(), after.program_address, after.program_count, after.window)
        await host.run(following)
        assert (following.memory == expected.memory).all(), f"after {name}: wrong results"


def _bench(name: str, config: ChipConfig, programs: int) -> Bench:
    return Bench(name=f"chip_{name}", build=lambda: Top(config), params={"config": config, "programs": programs},
                 extra_sources=tuple(map(str, simulation_models(config))), timeout_s=1200)


BENCHES = [
    _bench("tiny", ChipConfig.preset("tiny"), 12),
    _bench("small", ChipConfig.preset("small"), 8),
    _bench("oblong", ChipConfig(name="oblong", rows=3, columns=6, multiplier="ecp5_packed", bus_width=64,
                                scratchpad_banks=2, bank_lines=512, accumulator_lines=64, epilogue_lanes=1,
                                queue_depth=1, reads_in_flight=4, writes_in_flight=2), 8),
    _bench("ulx3s_85f", ChipConfig.preset("ulx3s_85f"), 4),
]
