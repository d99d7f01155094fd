"""Every error of a program: in the golden machine and, the same, in the compiled chip; and jobs that are none."""

import numpy as np
import pytest
from machine_jobs import CONFIG, PROGRAM, SCALED, SIZE, error_of, load, make_job, matmul, store, vector

from kiwicha.isa import SEMAPHORE_MAX, ErrorCode, OperandUse, OutFormat, Reduce, ScaleMode, Source, Unit
from kiwicha_host import DeviceError, Job, open_device
from kiwicha_host.assembler import disassemble
from kiwicha_host.golden import Machine

ERRORS = [
    (bytes(64), (ErrorCode.OPCODE, Unit.FETCH, 0)),
    (bytes([9]) + bytes(63), (ErrorCode.OPCODE, Unit.FETCH, 9)),
    (load()[:63] + b"\x80", (ErrorCode.RESERVED, Unit.LOAD, 511)),
    (load(segment_bytes=0), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (load(segment_bytes=9), (ErrorCode.FIELD, Unit.LOAD, 9)),
    (load(segment_bytes=9, rows=0), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (load(row_bytes=0, fill_only=1), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (load(planes=0), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (store(rows=0), (ErrorCode.FIELD, Unit.STORE, 0)),
    (store(segment_bytes=255), (ErrorCode.FIELD, Unit.STORE, 255)),
    # This chip has no indices.
    (load(indexed=1, index_bound=1), (ErrorCode.FIELD, Unit.LOAD, 1)),
    (store(indexed=1), (ErrorCode.FIELD, Unit.STORE, 1)),
    (load(indexed=1, segment_bytes=9), (ErrorCode.FIELD, Unit.LOAD, 9)),
    (store(indexed=1, rows=0), (ErrorCode.FIELD, Unit.STORE, 0)),
    *((matmul(**{f"count{i}": 0}), (ErrorCode.FIELD, Unit.MATMUL, 0)) for i in range(4)),
    *((vector(**{f"count{i}": 0}), (ErrorCode.FIELD, Unit.VECTOR, 0)) for i in range(4)),
    *((vector(out_format=i), (ErrorCode.FIELD, Unit.VECTOR, i)) for i in range(3, 8)),
    (vector(float=1), (ErrorCode.FIELD, Unit.VECTOR, 1)),
    (vector(scale_mode=3), (ErrorCode.FIELD, Unit.VECTOR, 3)),
    (vector(out_format=OutFormat.INT32, scale_mode=ScaleMode.COLUMN), (ErrorCode.FIELD, Unit.VECTOR, 2)),
    (load(line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 64)),
    (load(fill_only=1, line=3, rows=3, row_line_stride=-2), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, -1)),
    (load(row_bytes=24, line=62, segment_line_stride=1), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 64)),
    (load(line=60, rows=2, planes=3, row_line_stride=1, plane_line_stride=2),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 64)),
    (load(line=0xFFFF, planes=2, plane_line_stride=0x7FFF), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 0xFFFF)),
    (store(line=63, rows=2, row_line_stride=1), (ErrorCode.SCRATCHPAD_RANGE, Unit.STORE, 64)),
    (matmul(a_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.MATMUL, 64)),
    (matmul(a_line=1, count1=3, a_stride1=-1), (ErrorCode.SCRATCHPAD_RANGE, Unit.MATMUL, -1)),
    (matmul(w_line=62), (ErrorCode.SCRATCHPAD_RANGE, Unit.MATMUL, 64)),
    (matmul(w_line=60, count3=3, w_stride3=-60), (ErrorCode.SCRATCHPAD_RANGE, Unit.MATMUL, -60)),
    (matmul(acc_line=32), (ErrorCode.ACCUMULATOR_RANGE, Unit.MATMUL, 32)),
    (matmul(acc_line=30, count0=2, count1=2, acc_stride0=1, acc_stride1=1),
     (ErrorCode.ACCUMULATOR_RANGE, Unit.MATMUL, 32)),
    # A tile comes before its vectors, but after those of the tile before.
    (matmul(acc_line=32, w_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.MATMUL, 64)),
    (matmul(acc_line=32, count2=2, w_stride2=61), (ErrorCode.ACCUMULATOR_RANGE, Unit.MATMUL, 32)),
    (matmul(acc_line=32, a_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.MATMUL, 64)),
    (vector(a_line=31, count0=2, a_stride0=1), (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, 32)),
    (vector(a_line=0, count3=2, a_stride3=-4), (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, -4)),
    (vector(out_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (vector(out_format=OutFormat.FP32, out_line=62, out_step=1),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (vector(bias=1, param_line=62), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (vector(bias=1, scale_mode=ScaleMode.COLUMN, param_line=60),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (vector(a_line=32, out_line=64), (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, 32)),
    (vector(a_line=31, out_line=64, count2=2, a_stride2=1),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (load(address=0x8000), (ErrorCode.WINDOW, Unit.LOAD, 0x8000)),
    (load(address=0x7FFC), (ErrorCode.WINDOW, Unit.LOAD, 0x8000)),
    (load(address=0x10, rows=3, row_stride=-9), (ErrorCode.WINDOW, Unit.LOAD, -2)),
    (load(address=0xFFFF_FFFF_FFFF_FFF8), (ErrorCode.WINDOW, Unit.LOAD, 0xFFFF_FFFF_FFFF_FFF8)),
    (load(address=1 << 32), (ErrorCode.WINDOW, Unit.LOAD, 1 << 32)),
    (store(address=0x7FFF, row_bytes=2), (ErrorCode.WINDOW, Unit.STORE, 0x8000)),
    (store(address=0x7000, rows=2, planes=2, row_stride=0x800, plane_stride=0x1000),
     (ErrorCode.WINDOW, Unit.STORE, 0x8000)),
    # Where one segment has both, LOAD meets memory first and STORE the scratchpad.
    (load(address=0x8000, line=64), (ErrorCode.WINDOW, Unit.LOAD, 0x8000)),
    (store(address=0x8000, line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.STORE, 64)),
    (load(address=0x7FF8, row_bytes=16, line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 64)),
    (store(address=0x7FF8, row_bytes=24, line=62, segment_line_stride=1), (ErrorCode.WINDOW, Unit.STORE, 0x8000)),
]


def table(**fields):
    return vector(**{"a_source": Source.TABLE} | fields)


def add(**fields):
    return vector(**{"b_use": OperandUse.ADD} | fields)


# Operands from the scratchpad, through tables for which CONFIG has no room.
OPERAND_ERRORS = [
    (vector(b_use=3), (ErrorCode.FIELD, Unit.VECTOR, 3)),
    (add(bias=1), (ErrorCode.FIELD, Unit.VECTOR, 1)),
    *((vector(b_use=OperandUse.MULTIPLY, scale_mode=mode), (ErrorCode.FIELD, Unit.VECTOR, 2))
      for mode in (ScaleMode.SCALAR, ScaleMode.COLUMN)),
    (vector(b_use=OperandUse.MULTIPLY, out_format=OutFormat.INT32), (ErrorCode.FIELD, Unit.VECTOR, 2)),
    # Fields in order: scale_mode, float, b_use, counts.
    (vector(b_use=3, scale_mode=ScaleMode.COLUMN, out_format=OutFormat.INT32), (ErrorCode.FIELD, Unit.VECTOR, 2)),
    (vector(b_use=3, float=1), (ErrorCode.FIELD, Unit.VECTOR, 1)),
    (vector(b_use=3, count0=0), (ErrorCode.FIELD, Unit.VECTOR, 3)),
    (vector(b_use=3, bias=1, param_line=64), (ErrorCode.FIELD, Unit.VECTOR, 3)),
    (table(a_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (table(a_line=2, count0=4, a_stride0=-1), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, -1)),
    (add(b_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (add(b_line=63, count2=3, b_stride2=2), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 65)),
    (vector(b_use=OperandUse.MULTIPLY, b_line=3, count3=2, b_stride3=-5),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, -2)),
    (vector(load_a=1), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (vector(load_b=1, table_line=3), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (vector(load_b=1, table_line=0xFFFF), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 0xFFFF)),
    # Parameters come first, then tables, then operands.
    (vector(bias=1, param_line=62, load_a=1, table_line=80), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (vector(load_a=1, table_line=70, a_line=32), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 70)),
    (add(load_b=1, table_line=70, b_line=65), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 70)),
    # B comes after the first A of a pixel, before the second; the result after both.
    (add(a_line=32, b_line=64), (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, 32)),
    (table(b_use=OperandUse.ADD, a_line=66, b_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 66)),
    (add(a_line=31, count0=2, a_stride0=1, b_line=70), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 70)),
    (add(a_line=31, count1=2, a_stride1=1, b_line=70), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 70)),
    (add(a_line=31, count2=2, a_stride2=1, b_line=63, b_stride2=1),
     (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, 32)),
    (add(b_line=70, out_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 70)),
    (add(b_line=63, count2=2, b_stride2=10, out_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 64)),
    (add(b_line=60, count2=2, b_stride2=10, out_line=63, out_stride2=1),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 70)),
    (table(a_line=63, count1=2, a_stride1=20, out_line=70), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 83)),
    (table(a_line=63, count2=2, a_stride2=20, out_line=70), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 70)),
]


def quant(**fields):
    return vector(**{"out_format": OutFormat.E4M3, "parts": 1} | fields)


# Of a chip with block scaling.
SCALED_ERRORS = [
    (vector(out_format=7), (ErrorCode.FIELD, Unit.VECTOR, 7)),
    (vector(out_format=OutFormat.INT32, float=1), (ErrorCode.FIELD, Unit.VECTOR, 1)),
    *((quant(parts=parts), (ErrorCode.FIELD, Unit.VECTOR, parts)) for parts in (0, 17, 127)),
    (quant(parts=2, bias=1), (ErrorCode.FIELD, Unit.VECTOR, 2)),
    (quant(parts=3, scale_mode=ScaleMode.COLUMN), (ErrorCode.FIELD, Unit.VECTOR, 3)),
    (quant(parts=0, count1=0), (ErrorCode.FIELD, Unit.VECTOR, 0)),
    (vector(out_format=OutFormat.BF16, out_line=511, out_step=1),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    (quant(parts=4, a_line=30, part_stride=1), (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, 32)),
    (quant(parts=4, out_line=2, out_step=-1), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, -1)),
    (quant(scale_line=512), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    (quant(scale_line=511, count2=9), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    # A pixel's parts come one after the other, each its accumulators first, and the scale last.
    (quant(parts=2, a_line=31, part_stride=1, out_line=520), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 520)),
    (quant(parts=2, a_line=31, part_stride=1, scale_line=520), (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, 32)),
    (quant(parts=2, out_line=511, out_step=1, scale_line=520), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    (quant(count2=2, a_line=31, a_stride2=1, scale_line=520), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 520)),
    (quant(count2=9, a_line=24, a_stride2=1, scale_line=511), (ErrorCode.ACCUMULATOR_RANGE, Unit.VECTOR, 32)),
    (quant(count2=9, out_line=8, out_stride2=-1, scale_line=511), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    (vector(float=1, reduce=Reduce.SUM), (ErrorCode.FIELD, Unit.VECTOR, 1)),
    (vector(float=1, reduce=Reduce.SUM, b_use=3), (ErrorCode.FIELD, Unit.VECTOR, 1)),
    (quant(parts=3, b_use=OperandUse.ADD), (ErrorCode.FIELD, Unit.VECTOR, 3)),
    (quant(parts=4, b_use=OperandUse.MULTIPLY), (ErrorCode.FIELD, Unit.VECTOR, 4)),
    (quant(parts=17, count1=0), (ErrorCode.FIELD, Unit.VECTOR, 17)),
    (quant(parts=0, b_use=3), (ErrorCode.FIELD, Unit.VECTOR, 3)),
    (vector(load_a=1, table_line=385), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    (vector(load_b=1, table_line=385), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    (vector(load_a=1, load_b=1, table_line=257), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 512)),
    (quant(parts=2, a_source=Source.TABLE, a_line=511, part_stride=9, out_line=515),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 515)),
    (quant(parts=2, a_source=Source.TABLE, a_line=511, part_stride=9, scale_line=515),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 520)),
    (quant(b_use=OperandUse.ADD, b_line=520, scale_line=515), (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 520)),
    (quant(b_use=OperandUse.ADD, b_line=511, b_stride2=9, count2=2, scale_line=515),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 515)),
]


# Of a chip with indices, all of which are 0 here, and 2 words a line.
INDEX_ERRORS = [
    (load(indexed=1), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (store(indexed=1, segment_bytes=9), (ErrorCode.FIELD, Unit.STORE, 0)),
    (store(indexed=1, segment_bytes=9, index_bound=1), (ErrorCode.FIELD, Unit.STORE, 9)),
    (load(indexed=1, segment_bytes=9, index_bound=1, fill_only=1), (ErrorCode.FIELD, Unit.LOAD, 9)),
    (load(indexed=1, index_bound=1, fill_only=1, index_word=2), (ErrorCode.FIELD, Unit.LOAD, 1)),
    (load(indexed=1, index_bound=1, index_word=2), (ErrorCode.FIELD, Unit.LOAD, 2)),
    (store(indexed=1, index_bound=1, index_word=255, index_line=512), (ErrorCode.FIELD, Unit.STORE, 255)),
    (load(indexed=1, index_bound=1, index_line=512, line=513), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 512)),
    (store(indexed=1, index_bound=1, index_line=0xFFFF, address=0x8000),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.STORE, 0xFFFF)),
    (load(indexed=1, index_bound=1, index_line=511, line=512), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 512)),
    (load(indexed=1, index_bound=1, address=0x8000), (ErrorCode.WINDOW, Unit.LOAD, 0x8000)),
]
SCALED_ERRORS += INDEX_ERRORS


@pytest.mark.parametrize("config, instruction, expected", [
    *((CONFIG, *error) for error in ERRORS + OPERAND_ERRORS), *((SCALED, *error) for error in SCALED_ERRORS)])
def test_every_error(config, instruction, expected):
    code, unit, address = expected
    got = error_of(load(), instruction, load(), machine=Machine(config))
    assert got == (code, unit, 1, address & (1 << 64) - 1)


@pytest.fixture(scope="module")
def chip():
    """The compiled chip, with a watchdog that does not take long."""
    with open_device("verilated", config=CONFIG) as device:
        device.registers.write("WATCHDOG", 20_000)
        yield device


@pytest.fixture(scope="module")
def scaled_chip():
    with open_device("verilated", config=SCALED) as device:
        device.registers.write("WATCHDOG", 20_000)
        yield device


def test_the_chip_ends_in_the_same_errors(chip, scaled_chip):
    for device, instruction, (code, unit, address) in (*((chip, *error) for error in ERRORS + OPERAND_ERRORS),
                                                       *((scaled_chip, *error) for error in SCALED_ERRORS)):
        with pytest.raises(DeviceError) as caught:
            device.run(make_job(load(), instruction, load()))
        error = caught.value
        assert (error.code, error.unit, error.index, error.address) == (code, unit, 1, address & (1 << 64) - 1), \
            disassemble(instruction)


@pytest.mark.parametrize("program", [
    [load(wait=1)], [store(wait=3), matmul(signal=1), load(wait=1)], [load(signal=1)] * 3 + [store(wait=1)] * 4,
    [load(signal=1)] * SEMAPHORE_MAX, [load(signal=1)] * (SEMAPHORE_MAX + 1),
    [load(signal=1)] * (SEMAPHORE_MAX + 2) + [store(wait=1)] * 2,
    [load(signal=1)] * SEMAPHORE_MAX + [load(signal=3), store(wait=2)],
    [store(wait=1)] * (CONFIG.queue_depth + 1) + [load(signal=1)] * 3,
    [store(wait=1)] * (CONFIG.queue_depth + 2) + [load(signal=1)] * 4,
], ids=range(9))
def test_the_chip_stops_where_the_machine_does(chip, program):
    ends = []
    for device in (chip, open_device("golden", config=CONFIG)):
        try:
            device.run(make_job(*program))
            ends.append(None)
        except DeviceError as error:
            ends.append((error.code, error.unit, error.index, error.address))
    assert ends[0] == ends[1]


def test_operand_b_is_not_read_without_use():
    Machine(CONFIG).run(make_job(vector(b_line=64), vector(table_line=64)))


def test_fill_only_reads_no_memory():
    machine = Machine(CONFIG)
    machine.run(make_job(load(fill_only=1, fill=7, address=0xFFFF_0000_0000, line=3)))
    assert (machine.scratchpad[3] == 7).all() and not machine.scratchpad[4].any()


def test_the_window():
    window = (0x1000, 0x4FFF)
    assert error_of(load(address=0xFFC), window=window) == (ErrorCode.WINDOW, Unit.LOAD, 0, 0xFFC)
    assert error_of(store(address=0x4FFF), window=window) == (ErrorCode.WINDOW, Unit.STORE, 0, 0x5000)
    assert error_of(load(), window=(0x5000, 0x5FFF)) == (ErrorCode.WINDOW, Unit.FETCH, 0, PROGRAM)
    Machine(CONFIG).run(make_job(load(address=0x1000), store(address=0x4FF8), window=window))


def test_the_bus():
    window = (0, 0xFFFF)
    assert error_of(load(address=0x7FFC), window=window) == (ErrorCode.BUS_READ, Unit.LOAD, 0, 0x8000)
    assert error_of(store(address=0x9004), window=window) == (ErrorCode.BUS_WRITE, Unit.STORE, 0, 0x9004)
    assert error_of(load(address=0xFFFC, rows=2), window=(0, SIZE - 1))[0] == ErrorCode.WINDOW
    job = Job(memory=np.zeros(4096, np.uint8), program_address=0x2000, program_count=1, window=window)
    with pytest.raises(DeviceError) as caught:
        Machine(CONFIG).run(job)
    assert (caught.value.code, caught.value.unit) == (ErrorCode.BUS_READ, Unit.FETCH)


def test_a_base_address():
    memory = np.arange(SIZE).astype(np.uint8)
    code = np.frombuffer(load(address=0x10010) + store(address=0x10100), np.uint8)
    memory[PROGRAM:PROGRAM + len(code)] = code
    job = Job(memory=memory, program_address=0x10000 + PROGRAM, program_count=2, base=0x10000)
    Machine(CONFIG).run(job)
    np.testing.assert_array_equal(memory[0x100:0x108], np.arange(0x10, 0x18))
    assert job.window == (0x10000, 0x17FFF)


def test_the_message_says_all():
    with pytest.raises(DeviceError) as caught:
        Machine(CONFIG).run(make_job(load(), load(line=3, rows=3, row_line_stride=-2, signal=4)))
    assert str(caught.value) == (
        "SCRATCHPAD_RANGE: instruction 1 of LOAD uses scratchpad line -1, which does not exist; compile for this "
        "configuration (LOAD segment_bytes=8 row_bytes=8 rows=3 planes=1 line=3 row_line_stride=-2 signal={2})")


@pytest.mark.parametrize("fields, message", [
    ({"memory": np.zeros(8, np.int8)}, "memory must be a uint8 array of one dimension, not int8"),
    ({"memory": b"abc"}, "memory must be a plain numpy array, not b'abc'"),
    ({"memory": np.zeros((2, 2), np.uint8)}, "memory must be a uint8 array of one dimension"),
    ({"memory": np.zeros(8, np.uint8)[::2]}, "memory must be writeable and contiguous"),
    ({"memory": np.broadcast_to(np.uint8(0), 4096)}, "memory must be writeable and contiguous"),
    ({"program_address": 32}, "program_address must be a multiple of 64, not 32"),
    ({"program_count": -1}, "program_count must be from 0 to 16777215, not -1"),
    ({"program_count": 1 << 24}, "program_count must be from 0 to 16777215, not 16777216"),
    ({"base": 64}, "base must be a multiple of 4096, not 64"),
    ({"window": (0, 4096)}, "window must be whole pages of 4096 bytes, not 0x0 to 0x1000"),
    ({"window": (4096, 4095)}, "window must be whole pages of 4096 bytes, not 0x1000 to 0xfff"),
])
def test_bad_jobs(fields, message):
    good = {"memory": np.zeros(4096, np.uint8), "program_address": 0, "program_count": 0}
    with pytest.raises((TypeError, ValueError), match=message):
        Job(**good | fields)
