"""The largest of a row and their places: the golden machine and the compiled chip against a sort in Python."""

import random
import struct
from dataclasses import replace

import numpy as np
import pytest
from machine_jobs import SIZE, make_job

from kiwicha import ChipConfig, ConfigError
from kiwicha.isa import (
    ErrorCode,
    OperandUse,
    OutFormat,
    Reduce,
    ResultFunction,
    ScaleMode,
    SecondSource,
    Source,
    Unit,
)
from kiwicha_host import DeviceError, open_device
from kiwicha_host.assembler import encode
from kiwicha_host.devices.registers import LinkError
from kiwicha_host.golden import Machine, numerics

#: Columns, lanes and bits of the bus: lines of words are one or several, and their last step is full or not.
SHAPES = [(4, 2, 64), (5, 1, 64), (7, 2, 128), (8, 2, 64), (16, 4, 128), (32, 8, 64)]
#: Zeros, infinities, ones that are not normal, and NaNs, of which only the first is canonical.
SPECIALS = [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x00000001, 0x80000001, 0x7F7FFFFF, 0xFF7FFFFF,
            0x7FC00000, 0xFFC00001, 0x7F800001]
RESULTS = 3000


def chip(columns=4, lanes=2, bus_width=64, **more):
    return ChipConfig(rows=4, columns=columns, vector_lanes=lanes, bus_width=bus_width, scratchpad_banks=2,
                      accumulator_lines=64, **{"bank_lines": 2048, "functions": True, "top_k": True, **more})


def word_lines(config):
    return -(-4 * config.columns // config.line_bytes)


def put(machine, line, words):
    """Words, [lines of words, columns], from `line` on; what is beyond the columns is not zero."""
    config = machine.config
    raw = np.full((len(words), word_lines(config) * config.line_bytes // 4), 0xFFFFFFFF, np.uint32)
    raw[:, :config.columns] = words
    lines = raw.view(np.uint8).reshape(-1, config.line_bytes)
    machine.scratchpad[line:line + len(lines)] = lines


def top_of(config, iterations, rows, top, **more):
    """Fields of the largest of rows of FP32 words at line 0."""
    lines = word_lines(config)
    return {"count0": 1, "count1": 1, "count2": iterations, "count3": rows, "a_source": Source.WORDS, "float": 1,
            "a_stride2": lines, "a_stride3": lines * iterations, "out_format": OutFormat.FP32, "row": 1,
            "top": top, "out_line": RESULTS, "out_stride2": lines, "out_stride3": 2 * top * lines, "out_step": 1,
            **more}


def run(machine, fields):
    """The error that an instruction ends with, or None."""
    try:
        machine.run(make_job(encode(Unit.VECTOR, **fields)))
    except DeviceError as error:
        return error.code, error.address
    return None


def results(machine, fields):
    """Values and places, uint32 [rows, top] each; every column has them, and what is beyond is zero."""
    config, lines = machine.config, word_lines(machine.config)
    count = 2 * fields["top"] * fields["count3"]
    words = machine.scratchpad[RESULTS:RESULTS + count * lines].reshape(count, -1).view(np.uint32)
    assert (words[:, :config.columns] == words[:, :1]).all() and not words[:, config.columns:].any()
    both = words[:, 0].reshape(fields["count3"], 2, fields["top"])
    return both[:, 0], both[:, 1]


def expected(bits, top):
    """Of one row, by sorting signs and magnitudes."""
    def order(bits):
        if bits & 0x7FFFFFFF > 0x7F800000:      # NaN: above all
            return 1 << 40
        return -1 - (bits & 0x7FFFFFFF) if bits >> 31 else bits
    bits = [int(item) for item in bits]
    found = sorted(range(len(bits)), key=lambda place: (-order(bits[place]), place))[:top]
    return [0x7FC00000 if order(bits[place]) == 1 << 40 else bits[place] for place in found], found


def numbers(rng, shape):
    """Words of FP32 numbers: any, few different ones, and specials."""
    pool = [struct.unpack("<I", struct.pack("<f", value))[0] for value in (-2, -1, 1, 2)] + SPECIALS
    any_, few = rng.integers(0, 1 << 32, shape, np.uint32), rng.choice(np.array(pool, np.uint32), shape)
    return np.where(rng.random(shape) < rng.choice([0, 0.5, 1]), any_, few)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows(shape):
    config, seed = chip(*shape), 1
    rng = np.random.default_rng(seed)
    for number in range(60):
        iterations, rows = int(rng.integers(1, 9)), int(rng.integers(1, 4))
        tail = int(rng.integers(config.columns + 1))
        length = (iterations - 1) * config.columns + (tail or config.columns)
        top = int(rng.integers(1, min(8, length) + 1))
        machine, words = Machine(config), numbers(rng, (rows, iterations * config.columns))
        put(machine, 0, words.reshape(-1, config.columns))
        fields = top_of(config, iterations, rows, top, tail=tail)
        assert run(machine, fields) is None
        for row, values, places in zip(words, *results(machine, fields), strict=True):
            said = f"seed {seed}, number {number}: {iterations} iterations, tail {tail}, top {top}"
            assert (values.tolist(), places.tolist()) == expected(row[:length], top), said


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 63, 64, 255, 256, 1000, 4096])
def test_long_rows(length):
    """Of any length, at the end of which the largest are, or at the beginning."""
    config = chip(16, 4, 128)
    rng = np.random.default_rng(length)
    iterations, top = -(-length // 16), min(8, length)
    for words in (np.arange(length, dtype=np.float32), -np.arange(length, dtype=np.float32),
                  rng.standard_normal(length).astype(np.float32), np.ones(length, np.float32)):
        machine, padded = Machine(config), np.full(16 * iterations, np.inf, np.float32)
        padded[:length] = words
        put(machine, 0, padded.view(np.uint32).reshape(-1, 16))
        fields = top_of(config, iterations, 1, top, tail=length % 16)
        assert run(machine, fields) is None
        [values], [places] = results(machine, fields)
        assert (values.tolist(), places.tolist()) == expected(words.view(np.uint32), top)


def test_only_the_lines_of_results_change():
    """Their strides as they are, and backwards; `out_stride2` counts results, not iterations."""
    config = chip()
    for strides in ({"out_stride2": 2, "out_stride3": 20, "out_step": 1},
                    {"out_stride2": -3, "out_stride3": 50, "out_step": -1, "out_line": 3100},
                    {"out_stride2": 7, "out_stride3": -50, "out_step": 3}):
        machine = Machine(config)
        words = numbers(np.random.default_rng(2), (2, 12))
        put(machine, 0, words.reshape(-1, 4))
        before = machine.scratchpad.copy()
        fields = top_of(config, 3, 2, 3, **strides)
        for i3, row in enumerate(words):
            values, places = expected(row, 3)
            for j, word in enumerate(values + places):
                for step in range(2):
                    line = (fields["out_line"] + i3 * strides["out_stride3"] + j * strides["out_stride2"]
                            + step * strides["out_step"])
                    before[line] = np.full(2, word, np.uint32).view(np.uint8)
        assert run(machine, fields) is None
        np.testing.assert_array_equal(machine.scratchpad, before)


#: What is done to elements before they are compared.
PASSES = [
    {"a_source": Source.ACCUMULATOR, "float": 0, "a_line": 3, "a_stride2": 1, "a_stride3": 7},
    {"a_source": Source.BYTES, "float": 0, "a_stride2": 1, "a_stride3": 3, "scale_mode": ScaleMode.SCALAR,
     "scale": 0xC0490FDB},
    {"a_source": Source.TABLE, "load_a": 1, "table_line": 1000, "a_stride2": 1, "count0": 2, "count1": 2,
     "a_stride0": 5, "a_stride1": 20, "bias": 1, "param_line": 1500},
    {"bias": 1, "scale_mode": ScaleMode.COLUMN, "param_line": 1500},
    {"b_use": OperandUse.ADD, "b_source": SecondSource.WORDS, "b_line": 700, "b_stride2": 2, "b_stride3": 9},
    {"b_use": OperandUse.MULTIPLY, "b_source": SecondSource.A},
    {"b_use": OperandUse.MULTIPLY, "b_source": SecondSource.ROW, "b_line": 700, "b_stride3": 2},
    {"clamp": 1, "clamp_low": 0xBF800000, "clamp_high": 0x3F800000},
    # Bounds may be what no result is: a NaN below all else.
    {"clamp": 1, "clamp_low": 0xFFFFFFFF, "clamp_high": 0xFFFFFFFF},
]


@pytest.mark.parametrize("fields", PASSES, ids=range(len(PASSES)))
def test_what_comes_before(fields):
    """The same pass without a row gives the numbers that are compared."""
    config = chip(columns=4)
    machine = Machine(config)
    rng = np.random.default_rng(3)
    for words in (machine.scratchpad[:2000].view(np.uint32), machine.accumulator.view(np.uint32)):
        words[:] = rng.integers(0x3F000000, 0x40000000, words.shape, np.uint32) ^ rng.integers(
            0, 2, words.shape, np.uint32) << 31
    fields = top_of(config, 5, 2, 8) | fields
    plain = {"row": 0, "top": 0, "out_line": 2200, "out_stride2": 2, "out_stride3": 10}
    assert run(machine, fields | plain) is None
    rows = machine.scratchpad[2200:2220].reshape(2, -1).view(np.uint32)
    assert run(machine, fields) is None
    for row, values, places in zip(rows, *results(machine, fields), strict=True):
        keys = numerics.total_order(row.view(np.float32)).tolist()
        found = sorted(range(20), key=lambda place: (-keys[place], place))[:8]
        assert (values.tolist(), places.tolist()) == (row[found].tolist(), found)


#: Fields of a row of two iterations of 4 columns that go wrong, and the value that the error names.
BAD_FIELDS = [
    ({"top": 9}, 9), ({"top": 15}, 15), ({"row": 0}, 2), ({"reduce": Reduce.SUM, "float": 0}, 2),
    ({"reduce": Reduce.SUM}, 2), ({"out_format": OutFormat.INT32, "float": 0}, 2),
    *(({"function": function}, 2) for function in list(ResultFunction)[1:]),
    ({"top": 8, "tail": 3}, 8), ({"top": 6, "tail": 1}, 6), ({"count2": 1, "tail": 1}, 2),
    ({"count2": 1, "top": 5}, 5), ({"count2": 1, "top": 4, "tail": 3}, 4),
    # Other errors come first, or are named instead.
    ({"top": 9, "tail": 5}, 5), ({"top": 9, "count0": 0}, 9), ({"count2": 0}, 0), ({"count3": 0}, 0),
    ({"row": 0, "out_format": OutFormat.INT8}, 2), ({"out_format": OutFormat.INT8}, 1),
]


@pytest.mark.parametrize("fields, address", BAD_FIELDS)
def test_fields_without_meaning(fields, address):
    assert run(Machine(chip()), top_of(chip(), 2, 1, 2) | fields) == (ErrorCode.FIELD, address)


def test_rows_of_just_enough():
    for fields in ({"top": 8}, {"top": 7, "tail": 3}, {"top": 5, "tail": 1}, {"count2": 1, "top": 1, "tail": 1},
                   {"count2": 1, "top": 4}, {"count2": 65535, "a_stride2": 0, "top": 8, "tail": 1}):
        assert run(Machine(chip()), top_of(chip(), 2, 1, 2) | fields) is None


def test_a_chip_without():
    """The field is an error there, a row's maximum is not."""
    config = replace(chip(), top_k=False)
    for top in (1, 2, 8, 15):
        assert run(Machine(config), top_of(config, 2, 1, top)) == (ErrorCode.FIELD, top)
    assert run(Machine(config), top_of(config, 2, 1, 0)) is None
    config = replace(config, functions=False)
    assert run(Machine(config), {"count0": 1, "count1": 1, "count2": 1, "count3": 1, "top": 3}) == (
        ErrorCode.FIELD, 3)
    with pytest.raises(ConfigError, match="^functions must be true with top_k, not false$"):
        replace(config, top_k=True)


#: Of two rows of two iterations, 2 lines of words each, with 4 results: lines that do not exist, of 4096.
BAD_LINES = [
    # The first results are checked after the row's first operands, and before what follows these.
    ({"out_line": 4090}, 4096), ({"out_line": 4095}, 4096), ({"out_line": 4088, "out_stride3": 1}, 4096),
    ({"out_line": 3, "out_stride2": -2}, -1), ({"out_line": 0, "out_step": -1}, -1),
    ({"out_line": 65535, "a_line": 4094}, 65535), ({"out_line": 65535, "a_line": 4095}, 65535),
    ({"out_line": 65535, "a_line": 4096}, 4096), ({"out_line": 65535, "count0": 2, "a_stride0": 5000}, 65535),
    ({"out_line": 4000, "out_stride3": 97}, 4097), ({"out_line": 4000, "out_stride3": 97, "a_line": 4089}, 4097),
    ({"out_line": 4000, "out_stride3": 97, "a_line": 4091}, 4097),
    ({"out_line": 4000, "out_stride3": 97, "a_line": 4092}, 4096),
    ({"out_line": 65535, "b_use": OperandUse.ADD, "b_source": SecondSource.WORDS, "b_line": 5000}, 5000),
    ({"out_line": 65535, "b_use": OperandUse.ADD, "b_source": SecondSource.WORDS, "b_line": 4095}, 65535),
]


@pytest.mark.parametrize("fields, line", BAD_LINES)
def test_lines_that_do_not_exist(fields, line):
    found = run(Machine(chip()), top_of(chip(), 2, 2, 2) | fields)
    assert found == (ErrorCode.SCRATCHPAD_RANGE, line % (1 << 64))


def test_the_reference_itself():
    x = np.array([[1, np.nan, -0.0, 0.0, -np.inf, 1]], np.float32)
    values, places = numerics.top(x, 6)
    assert places.tolist() == [[1, 0, 5, 3, 2, 4]] and np.signbit(values[0, 4])
    assert numerics.top(x[0], 2)[1].tolist() == [1, 0]
    for bad in (0, 7):
        with pytest.raises(ValueError, match=rf"^count must be from 1 to .*\[1, 6\], not {bad}$"):
            numerics.top(x, bad)


def test_random_order_is_found_again():
    """Indices of a permutation of many different numbers are those of the largest, whatever k."""
    config, rng = chip(8, 2, 64), random.Random(5)
    order = list(range(256))
    rng.shuffle(order)
    machine = Machine(config)
    put(machine, 0, np.array(order, np.float32).view(np.uint32).reshape(-1, 8))
    for top in range(1, 9):
        fields = top_of(config, 32, 1, top)
        assert run(machine, fields) is None
        assert results(machine, fields)[1][0].tolist() == [order.index(255 - j) for j in range(top)]


# The compiled chip.

#: With indices, for what takes the largest as such.
CHIP = chip(name="top", indices=True)
ROWS_AT, TABLE_AT, RESULTS_AT, ROOM = 0, 0x1800, 0x2000, 0x2000     # of the memory


@pytest.fixture(scope="module")
def compiled():
    with open_device("verilated", config=CHIP) as device:
        yield device


def job_of(config, bits, passes):
    """Words, [lines of words, columns], are loaded to line 0; then `passes`; then what is from line RESULTS on."""
    machine, line = Machine(config), config.line_bytes
    put(machine, 0, bits)
    count = len(bits) * word_lines(config)
    memory = np.zeros(SIZE, np.uint8)
    memory[ROWS_AT:ROWS_AT + count * line] = machine.scratchpad[:count].reshape(-1)
    whole = {"rows": 1, "planes": 1, "segment_bytes": line, "segment_line_stride": 1}
    instructions = [encode(Unit.LOAD, address=ROWS_AT, row_bytes=count * line, signal=1, **whole)]
    instructions += [encode(Unit.VECTOR, **fields, wait=int(number == 0), signal=2 * (number == len(passes) - 1))
                     for number, fields in enumerate(passes)]
    instructions += [encode(Unit.STORE, address=RESULTS_AT, row_bytes=ROOM, line=RESULTS, wait=2, **whole)]
    return make_job(*instructions, memory=memory)


def check_on_chip(device, config, seed):
    """A random program's results, to the bit."""
    rng = np.random.default_rng(seed)
    rows, iterations, lines = int(rng.integers(1, 4)), int(rng.integers(1, 9)), word_lines(config)
    bits, passes, expectations = numbers(rng, (rows, iterations * config.columns)), [], []
    at = RESULTS
    for _ in range(3):
        tail = int(rng.integers(config.columns + 1))
        length = (iterations - 1) * config.columns + (tail or config.columns)
        top = int(rng.integers(1, min(8, length) + 1))
        if (at + 2 * top * rows * lines - RESULTS) * config.line_bytes > ROOM:
            break
        passes.append(top_of(config, iterations, rows, top, tail=tail, out_line=at))
        expectations += [expected(row[:length], top) for row in bits]
        at += 2 * top * rows * lines
    job = job_of(config, bits.reshape(-1, config.columns), passes)
    device.run(job)
    words = iter(job.memory[RESULTS_AT:].view(np.uint32).reshape(-1, lines * config.line_bytes // 4))
    for values, places in expectations:
        for right in values + places:
            found = next(words)
            assert (found[:config.columns] == right).all() and not found[config.columns:].any(), f"seed {seed}"


def test_rows_on_the_chip(compiled):
    for seed in range(25):
        check_on_chip(compiled, CHIP, seed)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_the_same_bits_with_any_lanes(lanes):
    config = ChipConfig(name=f"top_{lanes}", rows=2, columns=31, vector_lanes=lanes, bus_width=64, bank_lines=2048,
                        scratchpad_banks=2, accumulator_lines=16, functions=True, top_k=True)
    with open_device("verilated", config=config) as device:
        for seed in range(6):
            check_on_chip(device, config, seed)


def test_the_chip_ends_in_the_same_errors(compiled):
    compiled.registers.write("WATCHDOG", 20_000)
    cases = [(fields, ErrorCode.FIELD, address) for fields, address in BAD_FIELDS]
    cases += [({"count3": 2, **fields}, ErrorCode.SCRATCHPAD_RANGE, line) for fields, line in BAD_LINES]
    for number, (fields, code, address) in enumerate(cases):
        with pytest.raises(DeviceError) as caught:
            compiled.run(make_job(encode(Unit.VECTOR, **top_of(CHIP, 2, 1, 2) | fields)))
        assert (caught.value.code, caught.value.address) == (code, address % (1 << 64)), f"{number}: {fields}"
        check_on_chip(compiled, CHIP, number)


def test_the_arg_max_is_an_index(compiled):
    """What has been chosen is loaded, without the host."""
    scores = np.random.default_rng(6).permutation(100).astype(np.float32)
    job = job_of(CHIP, scores.view(np.uint32).reshape(-1, 4), [top_of(CHIP, 25, 1, 1, out_line=500)])
    program = [job.instruction(number) for number in range(job.program_count)]
    program[2:] = [
        encode(Unit.LOAD, address=TABLE_AT, row_bytes=8, rows=1, planes=1, segment_bytes=8, line=RESULTS, wait=2,
               signal=4, indexed=1, index_line=502, index_stride=8, index_bound=100),
        encode(Unit.STORE, address=RESULTS_AT, row_bytes=8, rows=1, planes=1, segment_bytes=8, line=RESULTS,
               wait=4)]
    job.memory[TABLE_AT:TABLE_AT + 800].view(np.uint64)[:] = np.arange(100, dtype=np.uint64) + 1000
    job = make_job(*program, memory=job.memory)
    compiled.run(job)
    assert job.memory[RESULTS_AT:].view(np.uint64)[0] == 1000 + scores.argmax()


def test_the_register_says_whether_a_chip_has_it(compiled):
    compiled.registers.check_identity(CHIP)
    with pytest.raises(LinkError, match="its top_k is true, not false; give the configuration"):
        compiled.registers.check_identity(replace(CHIP, top_k=False))
