"""Indices from the scratchpad: embeddings and writes at positions, on the golden machine and the compiled chip."""

from dataclasses import replace

import numpy as np
import pytest
from machine_jobs import CONFIG, SCALED, error_of, load, make_job, store

from bench.cycles import chip
from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, ErrorCode, OutFormat, Unit
from kiwicha_host import DeviceError, Job, open_device
from kiwicha_host.assembler import decode
from kiwicha_host.compiler.program.builder import ProgramBuilder
from kiwicha_host.devices.registers import LinkError
from kiwicha_host.golden import Machine

#: 4 rows and columns, 8 bytes and so 2 words a line.
CHIP = chip("tiny+functions+indices")
VOCABULARY, WIDTH, PITCH = 100, 20, 32          # rows of the table, their bytes, and bytes from one to the next
VECTOR_AT, WEIGHTS_AT, TABLE_AT, CACHE_AT, PROGRAM_AT, SIZE = 0, 64, 4096, 8192, 12288, 16384


def look_up() -> bytes:
    """Four sums, each an index of a row of the table, which goes where the sum says in the cache as well."""
    builder, lines = ProgramBuilder(), -(-WIDTH // CHIP.line_bytes)
    row = {"rows": 1, "planes": 1, "segment_bytes": CHIP.line_bytes, "segment_line_stride": 1}
    small = row | {"row_bytes": 4, "segment_bytes": 4}
    one = {f"count{i}": 1 for i in range(4)}
    builder.add(Unit.LOAD, writes=["a"], address=VECTOR_AT, line=0, **small)
    builder.add(Unit.LOAD, writes=["w"], address=WEIGHTS_AT, line=8, row_stride=4, row_line_stride=1,
                **small | {"rows": 4})
    builder.add(Unit.MATMUL, reads=["a", "w"], writes=["sums"], a_line=0, w_line=8, **one)
    builder.add(Unit.VECTOR, reads=["sums"], writes=["indices"], out_format=OutFormat.INT32, out_line=600,
                out_step=1, **one)
    for number in range(4):
        where = {"indexed": 1, "index_line": 600 + number // 2, "index_word": number % 2,
                 "index_bound": VOCABULARY, "row_bytes": WIDTH, "line": 1024 + lines * number, **row}
        builder.add(Unit.LOAD, reads=["table", "indices"], writes=[number], address=TABLE_AT, index_stride=PITCH,
                    **where)
        builder.add(Unit.STORE, reads=[number, "indices"], writes=["cache"], address=CACHE_AT,
                    index_stride=WIDTH, **where)
    return builder.assemble()


def job(vector: list[int], weights: np.ndarray) -> tuple[Job, np.ndarray]:
    """The job, and the table."""
    memory, program = np.zeros(SIZE, np.uint8), look_up()
    table = np.random.default_rng(1).integers(1, 256, (VOCABULARY, PITCH), np.uint8)
    for start, content in ((VECTOR_AT, np.array(vector, np.int8)), (WEIGHTS_AT, weights.astype(np.int8)),
                           (TABLE_AT, table), (PROGRAM_AT, np.frombuffer(program, np.uint8))):
        raw = content.reshape(-1).view(np.uint8)
        memory[start:start + len(raw)] = raw
    return Job(memory, PROGRAM_AT, len(program) // INSTRUCTION_BYTES), table


@pytest.fixture(scope="module", params=["golden", "verilated"])
def device(request):
    with open_device(request.param, config=CHIP) as opened:
        yield opened


def test_an_embedding_look_up(device):
    weights = np.random.default_rng(2).integers(0, 9, (4, 4))
    for vector in ([1, 2, 3, 4], [0, 0, 0, 0], [3, 0, 3, 0]):
        sums = np.array(vector) @ weights
        assert sums.min() >= 0 and sums.max() < VOCABULARY
        task, table = job(vector, weights)
        expected = task.memory.copy()
        for index in sums:
            expected[CACHE_AT + index * WIDTH:][:WIDTH] = table[index, :WIDTH]
        device.run(task)
        np.testing.assert_array_equal(task.memory, expected)


@pytest.mark.parametrize("vector, address", [([1, 1, 100, 1], 100), ([1, 1, -1, 1], 0xFFFF_FFFF),
                                             ([1, 1, 127, 1], 127)])
def test_an_index_beyond_its_bound(device, vector, address):
    """The third LOAD's; the next job is right."""
    task, _ = job(vector, np.eye(4, dtype=int))
    program = [decode(task.instruction(i)) for i in range(task.program_count)]
    third = [i for i, (unit, fields) in enumerate(program) if unit is Unit.LOAD and fields["indexed"]][2]
    with pytest.raises(DeviceError) as caught:
        device.run(task)
    error = caught.value
    assert (error.code, error.unit, error.index, error.address) == (ErrorCode.INDEX, Unit.LOAD, third, address)
    assert str(error).startswith(
        f"INDEX: instruction {third} of LOAD found the index {address} in the scratchpad, which is not below its "
        "bound; correct the input, or the bound (LOAD indexed=1 ")
    test_an_embedding_look_up(device)


# Of the golden machine alone.

WORDS = replace(SCALED, bus_width=128)      # 4 words a line


def machine(index: int, config: ChipConfig = WORDS) -> Machine:
    """With `index` in word 3 of line 5, and in no other word."""
    made = Machine(config)
    made.scratchpad[5].view("<u4")[3] = index
    return made


def indexed(**fields):
    return {"indexed": 1, "index_line": 5, "index_word": 3, "index_bound": (1 << 32) - 1} | fields


@pytest.mark.parametrize("index, stride", [(3, 256), (3, -256), (0, 12345), (0xFFFF_FFFE, -1 << 31), (1000, 1)])
def test_the_address_is_an_exact_sum(index, stride):
    memory = np.zeros(0x8000, np.uint8)
    memory[0x400:0x408] = np.arange(1, 9)
    made = machine(index)
    code = load(address=0x400 - index * stride, line=9, **indexed(index_stride=stride))
    made.run(make_job(code, memory=memory))
    assert (made.scratchpad[9, :8] == np.arange(1, 9)).all()


@pytest.mark.parametrize("width", [32, 40, 64])
@pytest.mark.parametrize("begin, stride, index", [(0, -8, 1), ((1 << 64) - 8, 16, 1), (8, 1 << 30, 1 << 10),
                                                  (16, (1 << 31) - 1, (1 << 32) - 2)])
def test_sums_do_not_wrap_into_the_window(width, begin, stride, index):
    made = machine(index, replace(WORDS, address_width=width))
    total = begin + index * stride
    for instruction, unit in ((load, Unit.LOAD), (store, Unit.STORE)):
        code = instruction(address=begin, **indexed(index_stride=stride))
        assert error_of(code, machine=made) == (ErrorCode.WINDOW, unit, 0, total % (1 << 64))


def test_the_bound_is_no_index():
    for bound in (1, 2, 1000, (1 << 32) - 1):
        fields = indexed(index_bound=bound)
        machine(bound - 1).run(make_job(load(**fields), store(**fields)))
        for instruction, unit in ((load, Unit.LOAD), (store, Unit.STORE)):
            assert error_of(instruction(**fields), machine=machine(bound)) == (ErrorCode.INDEX, unit, 0, bound)


def test_a_chip_without_indices_says_so():
    assert not CONFIG.indices
    for instruction, unit in ((load, Unit.LOAD), (store, Unit.STORE)):
        code = instruction(indexed=1, index_bound=1)
        assert error_of(code, machine=Machine(CONFIG)) == (ErrorCode.FIELD, unit, 0, 1)


def test_the_register_says_whether_a_chip_has_them():
    with open_device("verilated", config=CHIP) as opened:
        opened.registers.check_identity(CHIP)
        with pytest.raises(LinkError, match="its indices is true, not false; give the configuration"):
            opened.registers.check_identity(replace(CHIP, indices=False))
