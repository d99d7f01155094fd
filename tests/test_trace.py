"""The trace of a run: every cycle of every unit once, as counted, and every instruction in its turn."""

import itertools
import random

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.export import port_table, to_verilog
from kiwicha.isa import INSTRUCTION_BYTES, Activity, Unit
from kiwicha.top import Top
from kiwicha_host.assembler import decode
from kiwicha_host.compiler import GemmSpec, compile_gemm
from kiwicha_host.devices import open_device
from kiwicha_host.devices.registers import LinkError
from kiwicha_host.job import DeviceError, Job
from kiwicha_host.trace import SPAN, Trace
from tb.chip.programs import random_job

TINY = ChipConfig.preset("tiny")
SEED = 11


@pytest.fixture(scope="module")
def device():
    with open_device("verilated", config=TINY, trace=True) as device:
        yield device


def gemm_job(m=33, n=18, k=29):
    rng = np.random.default_rng(m)
    a, b = (rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((m, k), (k, n)))
    return compile_gemm(TINY, GemmSpec(m=m, n=n, k=k)).job(a, b)


def check(trace: Trace, job_program: bytes) -> None:
    """What holds for any trace, found without the trace's own methods where that is possible."""
    assert trace.program == job_program
    opcodes = [job_program[i] for i in range(0, len(job_program), INSTRUCTION_BYTES)]
    for unit in Unit:
        spans = [row for row in trace.spans.tolist() if row[0] == unit.value]
        assert spans[0][3] == 0 and spans[-1][4] == trace.covered
        for before, after in itertools.pairwise(spans):
            assert before[4] == after[3], f"{unit.name}: {before} then {after}"
            assert before[1:3] != after[1:3], f"{unit.name}: {before} and {after} are one"
        assert all(start < end for *_, start, end in spans)
        order = [instruction for _, _, instruction, *_ in spans if instruction >= 0]
        order = [number for i, number in enumerate(order) if i == 0 or order[i - 1] != number]
        expected = [i for i, code in enumerate(opcodes) if unit == Unit.FETCH or code == unit.value]
        assert order == (expected if trace.complete else expected[:len(order)]), unit.name
        assert trace.instructions(unit)["instruction"].tolist() == order
        for _, activity, instruction, *_ in spans:
            if activity not in (Activity.IDLE.value, Activity.MEMORY.value):
                assert instruction >= 0, f"{unit.name} is {Activity(activity).name} for nothing"


def test_random_programs(device):
    for number in range(60):
        job = random_job(TINY, random.Random(f"{SEED}/{number}"), 40)
        program = b"".join(map(job.instruction, range(job.program_count)))
        result = device.run(job)
        trace = result.trace
        assert trace.complete and trace.cycles == result.cycles
        check(trace, program)
        sums = {unit.name: dict.fromkeys((activity.name for activity in Activity), 0) for unit in Unit}
        for unit, _, activity, start, end in trace:
            sums[unit.name][activity.name] += end - start
        assert sums == result.counters == trace.counters, f"program {SEED}/{number}"


def test_a_trace_changes_nothing_and_is_the_same_again(device):
    job = gemm_job()
    first, second = device.run(job), device.run(gemm_job())
    assert (first.trace.spans == second.trace.spans).all()
    with open_device("verilated", config=TINY) as plain:
        result = plain.run(gemm_job())
    assert result.trace is None
    assert (result.cycles, result.counters) == (first.cycles, first.counters)


def test_a_trace_after_an_error_is_of_its_own_run(device):
    job = gemm_job()
    expected = device.run(job).trace
    for wrong in (3, job.program_count // 2):
        bad = gemm_job()
        bad.memory[bad.program_address + wrong * INSTRUCTION_BYTES] = 77
        with pytest.raises(DeviceError):
            device.run(bad)
        again = device.run(gemm_job()).trace
        # The first reads of a run may find the memory's pipeline in another state, the order never.
        assert again.complete
        check(again, expected.program)


def test_busy_is_as_long_as_the_work(device):
    """A MATMUL takes a vector per cycle; the next one begins while the last sums of one are on their way."""
    job = gemm_job(8, 4, 4)
    trace = device.run(job).trace
    numbers = np.flatnonzero(trace.units() == Unit.MATMUL.value)
    counts = [[decode(trace.instruction(number))[1][f"count{level}"] for level in range(4)] for number in numbers]
    assert trace.counters["MATMUL"]["BUSY"] == np.prod(counts, axis=1).sum()
    fetch = trace.of(Unit.FETCH)
    busy = fetch[fetch["activity"] == Activity.BUSY.value]
    assert (busy["end"] - busy["start"] == 1).all() and len(busy) == job.program_count
    store = trace.instructions(Unit.STORE)
    vector = trace.instructions(Unit.VECTOR)
    assert store["end"][-1] > vector["end"][-1] > trace.instructions(Unit.MATMUL)["end"][0]


@pytest.mark.parametrize("limit", [5, 6, 100, 101])
def test_a_full_trace_says_how_far_it_reaches(device, limit):
    whole = device.run(gemm_job()).trace
    with open_device("verilated", config=TINY, trace=True, trace_limit=limit) as small:
        result = small.run(gemm_job())
    trace = result.trace
    assert not trace.complete and trace.cycles == result.cycles == whole.cycles
    assert len(trace.spans) <= limit and trace.covered > 0
    check(trace, whole.program)
    # The same as the whole, cut at `covered`.
    cut = whole.spans[whole.spans["start"] < trace.covered].copy()
    cut["end"] = np.minimum(cut["end"], trace.covered)
    assert (trace.spans == cut).all()
    assert all(sum(row.values()) == trace.covered for row in trace.counters.values())


def test_a_limit_too_small_for_one_cycle(device):
    with open_device("verilated", config=TINY, trace=True, trace_limit=1) as small:
        trace = small.run(gemm_job()).trace
    assert (len(trace.spans), trace.covered, trace.complete) == (0, 0, False)
    assert sum(trace.counters["LOAD"].values()) == 0 and len(trace.instructions(Unit.LOAD)) == 0


def test_an_empty_program(device):
    trace = device.run(Job(np.zeros(4096, np.uint8), 0, 0)).trace
    check(trace, b"")
    assert trace.complete and (trace.spans["instruction"] == -1).all()


def test_options():
    with pytest.raises(TypeError, match="trace must be True or False, not 'run.vcd'; for a wave form use waves"):
        open_device("verilated", config=TINY, trace="run.vcd")
    with pytest.raises(ValueError, match="trace_limit must be at least 1, not 0"):
        open_device("verilated", config=TINY, trace=True, trace_limit=0)


def test_spans_by_unit():
    trace = Trace.from_starts(np.array([0, 4, 0, 4]), np.array([3, 0, 1, 1]), np.array([0, -1, 0, 1]),
                              np.array([0, 0, 2, 5]), covered=9, cycles=10, program=b"\4" * 128)
    assert trace.spans.dtype == SPAN
    assert trace.spans.tolist() == [(0, 3, 0, 0, 2), (0, 1, 0, 2, 9), (4, 0, -1, 0, 5), (4, 1, 1, 5, 9)]
    assert list(trace)[3] == (Unit.STORE, 1, Activity.BUSY, 5, 9)
    assert trace.counters["FETCH"]["BUSY"] == 7 and not trace.complete


def test_the_exported_chip_has_no_probe():
    assert not any("probe" in name for name in port_table(Top(TINY)))
    text, names = to_verilog(Top(TINY), "exported")
    assert "probe" not in text and not any("probe" in name for name in names)
    assert {"probe_counted", "probe_units"} <= set(port_table(Top(TINY, probe=True)))


def test_counters_that_do_not_add_up_are_an_error(device):
    """Asserted in every run on a chip, well ended or not: here for registers that lie."""
    job = gemm_job(1, 1, 1)
    device.run(job)
    registers = device.registers
    read, off = registers._read, 1
    registers._read_block = lambda address, count: [read(address + 4 * i) + (i == 9) * off for i in range(count)]
    try:
        with pytest.raises(LinkError, match="the counters of LOAD add up to"):
            registers.measured()
        off = 1 << 32       # they wrap
        registers.measured()
    finally:
        registers._read_block = lambda address, count: [read(address + 4 * i) for i in range(count)]
