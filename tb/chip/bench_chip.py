"""The whole chip on buses that we did not write: random and bad programs, and a memory that falls silent."""


import cocotb
import numpy as np

from kiwicha import ChipConfig
from kiwicha.array.multiplier import simulation_models
from kiwicha.isa import ErrorCode, Unit
from kiwicha.top import Top
from kiwicha_host.assembler import encode
from kiwicha_host.compiler.lower.gemm.compiled import GemmSpec, compile_gemm
from kiwicha_host.golden.machine import Machine
from kiwicha_host.job import DeviceError, Job
from tb import harness
from tb.chip.environment import BUSY, ERROR, Host
from tb.chip.programs import random_job
from tb.harness import Bench, cycles, rng


def outcome(config: ChipConfig, job: Job, instructions: int | None = None) -> np.ndarray:
    """The memory that the golden machine leaves after `job`, or after its first `instructions`."""
    count = job.program_count if instructions is None else instructions
    golden = Job(job.memory.copy(), job.program_address, count, job.window)
    Machine(config).run(golden)
    return golden.memory


async def check_run(host: Host, job: Job, expected: np.ndarray, label: str):
    """A copy of `job` leaves the memory `expected`."""
    own = Job(job.memory.copy(), job.program_address, job.program_count, job.window)
    await host.run(own)
    bad = np.flatnonzero(own.memory != expected)
    assert not bad.size, f"{label}: {bad.size} bytes differ, the first at {bad[0]:#x}"


@cocotb.test()
async def random_programs(dut):
    """Random programs leave the memory that the golden machine leaves, at any speed of the bus."""
    config = harness.current().params["config"]
    host = await Host.make(dut)
    for number in range(harness.current().params["programs"]):
        job = random_job(config, rng(f"program {number}"), 30)
        host.pause(str(number), (0.0, 0.2, 0.7)[number % 3])
        await check_run(host, job, outcome(config, job), f"program {number}")


@cocotb.test()
async def small_gemms(dut):
    """GEMMs whose shapes are no multiple of anything."""
    config = harness.current().params["config"]
    host = await Host.make(dut)
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
    row = {"rows": 1, "planes": 1, "row_bytes": 4, "segment_bytes": 4}
    lines, accs = config.scratchpad_lines, config.accumulator_lines
    outside = 1 << 16

    def job(wrong: bytes, before: dict = row) -> Job:
        memory = np.zeros(1 << 16, np.uint8)
        program = encode(Unit.LOAD, **before) + wrong
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
        "segment": (encode(Unit.STORE, **row | {"segment_bytes": config.line_bytes + 1}), ErrorCode.FIELD,
                  Unit.STORE, config.line_bytes + 1),
        "count": (encode(Unit.MATMUL, **one | {"count1": 0}), ErrorCode.FIELD, Unit.MATMUL, 0),
        "matmul_acc": (encode(Unit.MATMUL, **one, acc_line=accs), acc, Unit.MATMUL, accs),
        "vector_acc": (encode(Unit.VECTOR, **one, a_line=accs), acc, Unit.VECTOR, accs),
        "semaphore": (encode(Unit.LOAD, wait=1 << 7, **row), ErrorCode.WATCHDOG, Unit.LOAD, 0),
    }
    if lines < 1 << 16:
        cases |= {
            "load_line": (encode(Unit.LOAD, line=lines, **row), scratch, Unit.LOAD, lines),
            "store_line": (encode(Unit.STORE, line=lines, address=8192, **row), scratch, Unit.STORE, lines),
            "a_line": (encode(Unit.MATMUL, **one, a_line=lines), scratch, Unit.MATMUL, lines),
            "w_line": (encode(Unit.MATMUL, **one, w_line=lines - 1), scratch, Unit.MATMUL, lines),
            "out_line": (encode(Unit.VECTOR, **one, out_line=lines), scratch, Unit.VECTOR, lines),
            "param_line": (encode(Unit.VECTOR, **one, bias=1, param_line=lines), scratch, Unit.VECTOR, lines),
        }
    jobs = {name: (job(wrong), *rest) for name, (wrong, *rest) in cases.items()}
    for unit in (Unit.LOAD, Unit.STORE):
        # All words of line 0 are 0x01010101, and what has an index waits for them.
        one = {**row, "wait": 1, "address": 8192, "indexed": 1, "index_bound": 0x01010101, "index_stride": 4}
        filled = {**row, "fill_only": 1, "fill": 1, "signal": 1}
        wrong = {"index": ({}, ErrorCode.INDEX, 0x01010101),
                 "index_word": ({"index_word": 99}, ErrorCode.FIELD, 99),
                 "index_bound": ({"index_bound": 0}, ErrorCode.FIELD, 0),
                 "index_window": ({"index_bound": 0x01010102}, ErrorCode.WINDOW, 8192 + 4 * 0x01010101),
                 "index_below": ({"index_bound": 0x01010102, "index_stride": -1 << 31}, ErrorCode.WINDOW,
                                 (8192 - (0x01010101 << 31)) % (1 << 64))}
        if not config.indices:
            wrong = {"indexed": ({}, ErrorCode.FIELD, 1)}
        elif lines < 1 << 16:
            wrong["index_line"] = {"index_line": lines}, scratch, lines
        jobs |= {f"{unit.name}_{name}": (job(encode(unit, **one | fields), filled), code, unit, address)
                 for name, (fields, code, address) in wrong.items()}
    return jobs


@cocotb.test()
async def bad_programs_end_in_typed_errors(dut):
    """Each names its unit, instruction and address; no byte of the RAM is written; the next program is right."""
    config = harness.current().params["config"]
    host = await Host.make(dut)
    after = random_job(config, rng("after"), 6)
    expected = outcome(config, after)
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
        await check_run(host, after, expected, f"after {name}")


def copying(config: ChipConfig) -> Job:
    """Copies a few bytes, then twelve rows, each in a burst of its own; one LOAD or STORE at a time."""
    line, source, target = config.line_bytes, 0, 8192
    few = {"rows": 1, "planes": 1, "row_bytes": 4, "segment_bytes": 4}
    rows = {"rows": 12, "planes": 1, "row_bytes": line, "segment_bytes": line, "row_stride": 2 * line,
            "row_line_stride": 1, "line": 1}
    program = b"".join([
        encode(Unit.LOAD, address=source, signal=1, **few),
        encode(Unit.STORE, address=target, wait=1, signal=2, **few),
        encode(Unit.LOAD, address=source + 64, wait=2, signal=4, **rows),
        encode(Unit.STORE, address=target + 64, wait=4, signal=8, **rows),
        # Waits all the time: younger than what hangs, hence never to blame.
        encode(Unit.MATMUL, wait=8, count0=1, count1=1, count2=1, count3=1),
    ])
    memory = np.frombuffer(rng("copying").randbytes(3 * 4096), np.uint8).copy()
    memory[4096:4096 + len(program)] = np.frombuffer(program, np.uint8)
    return Job(memory, 4096, 5)


#: A channel, and whose instruction of :func:`copying` hangs when it falls silent after the first STORE.
_HANGS = {"ar": (Unit.LOAD, 2), "r": (Unit.LOAD, 2), "aw": (Unit.STORE, 3), "w": (Unit.STORE, 3),
          "b": (Unit.STORE, 3)}


@cocotb.test()
@cocotb.parametrize(channel=list(_HANGS))
async def a_silent_channel_ends_in_the_watchdog(dut, channel):
    """It names unit and instruction; the chip is busy until the memory works; the next program is right."""
    config = harness.current().params["config"]
    unit, index = _HANGS[channel]
    host = await Host.make(dut)
    again, after = copying(config), random_job(config, rng("after"), 6)
    right = outcome(config, again), outcome(config, after)
    possible = outcome(config, again, index), outcome(config, again, index + 1)
    for number, passing in enumerate((0, rng(f"{channel} passing").randint(1, 8))):
        host.pause(f"{channel} {number}", 0.2 * number)
        job = copying(config)
        silence = cocotb.start_soon(host.fall_silent(channel, passing))
        await host.start(job)
        await host.interrupt(2 * Host.WATCHDOG)
        assert silence.done(), f"{channel}, {passing} passing: it ended before the silence"
        for _ in range(2):
            assert await host.read("STATUS") == BUSY | ERROR
            error = await host.error(job)
            found = (error.code, error.unit, error.index, error.address)
            assert found == (ErrorCode.WATCHDOG, unit, index, 0), f"{channel}, {passing} passing: {error}"
            await cycles(dut, 200)
        ending = cocotb.start_soon(host.abort())
        await cycles(dut, 100)
        assert not ending.done()
        host.wake()
        await ending
        host.fetch(job)
        # What the instruction has not written is as it was, and so is all else.
        assert ((job.memory == possible[0]) | (job.memory == possible[1])).all(), f"{channel}: wrong bytes"
        await check_run(host, after, right[1], f"after {channel}, {passing} passing")
        await check_run(host, again, right[0], f"{channel} again")


def _bench(name: str, config: ChipConfig, programs: int) -> Bench:
    return Bench(module=__name__, name=f"chip_{name}", build=lambda: Top(config),
                 params={"config": config, "programs": programs},
                 extra_sources=tuple(map(str, simulation_models(config))), timeout_s=1200)


BENCHES = [
    _bench("tiny", ChipConfig.preset("tiny"), 12),
    _bench("small", ChipConfig.preset("small"), 8),
    _bench("oblong", ChipConfig(name="oblong", rows=3, columns=6, multiplier="ecp5_packed", bus_width=64,
                                scratchpad_banks=2, bank_lines=512, accumulator_lines=64, vector_lanes=1,
                                functions=True, indices=True, top_k=True, queue_depth=1, reads_in_flight=4,
                                writes_in_flight=2), 8),
    _bench("ulx3s_85f", ChipConfig.preset("ulx3s_85f"), 4),
]
