"""What a network does between products, of FP32 rows, as instructions: a page of numpy says what it makes."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.isa import (
    INSTRUCTION_BYTES,
    OperandUse,
    OutFormat,
    Reduce,
    ResultFunction,
    ScaleMode,
    SecondSource,
    Source,
    Unit,
)
from kiwicha.timing import half_lines, word_lines
from kiwicha_host import Job, open_device
from kiwicha_host.assembler import encode
from kiwicha_host.compiler.program.builder import ProgramBuilder
from kiwicha_host.golden import Machine, functions, numerics

#: 8 columns, 8 bytes a line.
CHIP = ChipConfig.preset("small")
LENGTHS = [1, 7, 8, 513, 4096]
LOG2_E = np.float32(1.4426950408889634)
FACTORS_AT, RESULT_AT, PROGRAM_AT, SIZE = 0x8000, 0x10000, 0x18000, 0x20000    # of the memory; the row is at 0


class Row:
    """Passes over a row of `size` FP32 words, which are loaded before the first and stored after the last one."""

    def __init__(self, config, size):
        self.config, self.size, self.words = config, size, word_lines(config)
        self.blocks, self.tail = -(-size // config.columns), size % config.columns
        #: Lines of the row, then of results of rows.
        self.results = self.blocks * self.words
        self.builder = ProgramBuilder()
        self._whole = {"rows": 1, "planes": 1, "segment_bytes": config.line_bytes, "segment_line_stride": 1}
        self.load("row", 0, 0)

    def result(self, number):
        return self.results + number * self.words

    def each(self, result=None, of=None, by=None, reads=(), **fields):
        """The row's words, or the one of result `of`, to the same place, or to one word, `result`."""
        lines = {"a_line": 0, "count2": self.blocks, "tail": self.tail} if of is None else {
            "a_line": self.result(of), "count2": 1, "tail": 1}
        if by is not None:
            lines |= {"b_source": SecondSource.ROW, "b_line": self.result(by)}
        lines |= {"row": 1, "out_line": self.result(result)} if result is not None else {
            "out_line": 0, "out_stride2": self.words}
        names = ["row" if item is None else item for item in (of, by, result)]
        lines |= {"out_format": OutFormat.FP32, "a_stride2": self.words}
        self.builder.add(Unit.VECTOR, reads=[*names[:2], *reads], writes=names[2:], a_source=Source.WORDS, float=1,
                         count0=1, count1=1, count3=1, out_step=1, **lines | fields)

    def load(self, name, address, line):
        self.builder.add(Unit.LOAD, writes=[name], address=address, row_bytes=4 * self.size, line=line,
                         **self._whole)

    def store(self, address, line, count, name="row", width=4):
        """So many numbers of `width` bytes, of which a line has those of all columns or is full."""
        segment = min(self.config.line_bytes, width * self.config.columns)
        self.builder.add(Unit.STORE, reads=[name], address=address, row_bytes=width * count, line=line,
                         **self._whole | {"segment_bytes": segment})

    def run(self, device, row, factors=None):
        self.store(RESULT_AT, 0, self.size)
        return self.memory(device, row, factors)[RESULT_AT:RESULT_AT + 4 * self.size].view(np.float32)

    def memory(self, device, row, factors=None):
        """The memory that the program leaves."""
        memory, program = np.zeros(SIZE, np.uint8), self.builder.assemble()
        for start, content in ((0, row), (FACTORS_AT, factors), (PROGRAM_AT, np.frombuffer(program, np.uint8))):
            if content is not None:
                raw = content.view(np.uint8)
                memory[start:start + len(raw)] = raw
        job = Job(memory, PROGRAM_AT, len(program) // INSTRUCTION_BYTES)
        device.run(job)
        return job.memory


def bits(value):
    return int(np.float32(value).view(np.uint32))


def softmax(device, x, config=CHIP):
    row = Row(config, len(x))
    row.each(0)
    row.each(0, of=0, scale_mode=ScaleMode.SCALAR, scale=bits(-1))
    row.each(by=0, b_use=OperandUse.ADD, scale_mode=ScaleMode.SCALAR, scale=bits(LOG2_E),
             function=ResultFunction.EXP2)
    row.each(1, reduce=Reduce.SUM, function=ResultFunction.RECIPROCAL)
    row.each(by=1, b_use=OperandUse.MULTIPLY)
    return row.run(device, x)


def softmax_in_numpy(x):
    with np.errstate(all="ignore"):
        powers = functions.exp2((x - numerics.maximum(x, (0,))) * LOG2_E)
        return powers * functions.reciprocal(numerics.pairwise_sum(powers))


def rms_norm(device, x, factors, config=CHIP):
    """A pass for the sum of squares; one for results, block by block: times the row's factor, then columns'."""
    row = Row(config, len(x))
    row.load("factors", FACTORS_AT, row.result(1))
    row.each(0, reduce=Reduce.SUM, b_use=OperandUse.MULTIPLY, b_source=SecondSource.A)
    row.each(0, of=0, scale_mode=ScaleMode.SCALAR, scale=bits(1 / len(x)), function=ResultFunction.RSQRT)
    for block in range(row.blocks):
        row.each(by=0, reads=["factors"], b_use=OperandUse.MULTIPLY, scale_mode=ScaleMode.COLUMN, count2=1,
                 a_line=block * row.words, param_line=row.result(1) + block * row.words,
                 out_line=block * row.words)
    return row.run(device, x, factors)


def rms_norm_in_numpy(x, factors):
    mean = numerics.pairwise_sum(x * x) * np.float32(1 / len(x))
    return x * functions.rsqrt(mean) * factors


@pytest.fixture(scope="module", params=["golden", "verilated"])
def device(request):
    with open_device(request.param, config=CHIP) as opened:
        yield opened


def same(found, right):
    """To the bit; a NaN is the canonical one."""
    right = np.where(np.isnan(right), numerics.CANONICAL_NAN, right)
    np.testing.assert_array_equal(found.view(np.uint32), right.view(np.uint32))


@pytest.mark.parametrize("length", LENGTHS)
def test_softmax(device, length):
    x = np.random.default_rng(length).normal(0, 4, length).astype(np.float32)
    found = softmax(device, x)
    same(found, softmax_in_numpy(x))
    exact = np.exp(x.astype(np.float64) - x.max())
    np.testing.assert_allclose(found, exact / exact.sum(), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("length", LENGTHS)
def test_softmax_of_what_has_none(device, length):
    """A NaN, or infinity, makes all of its row NaN, and one of masked elements alone is NaN; the next is right."""
    rng = np.random.default_rng(length)
    for special in (np.nan, np.inf):
        x = rng.normal(0, 4, length).astype(np.float32)
        x[rng.integers(length)] = special
        same(softmax(device, x), np.full(length, np.nan, np.float32))
    same(softmax(device, np.full(length, -np.inf, np.float32)), np.full(length, np.nan, np.float32))
    x = rng.normal(0, 4, length).astype(np.float32)
    x[1::2] = -np.inf       # masked elements are 0 beside others
    found = softmax(device, x)
    same(found, softmax_in_numpy(x))
    assert (found[1::2] == 0).all() and found[0] > 0


@pytest.mark.parametrize("length", LENGTHS[:-1])
def test_rms_norm(device, length):
    rng = np.random.default_rng(length)
    x, factors = rng.normal(0, 3, length).astype(np.float32), rng.normal(1, 0.3, length).astype(np.float32)
    same(rms_norm(device, x, factors), rms_norm_in_numpy(x, factors))


@pytest.mark.parametrize("size, columns, lanes", [(4, 4, 1), (4, 4, 2), (4, 4, 4), (8, 8, 1), (8, 8, 4),
                                                  (16, 16, 1), (16, 16, 2), (16, 16, 4), (2, 4, 4),
                                                  (16, 32, 8), (32, 32, 8)])
def test_the_same_bits_on_chips_of_all_shapes(size, columns, lanes):
    config = replace(CHIP, name="any", rows=size, columns=columns, vector_lanes=lanes, bus_width=128,
                     bank_lines=2048)
    rng = np.random.default_rng(3)
    x, factors = rng.normal(0, 4, 500).astype(np.float32), rng.normal(1, 0.3, 500).astype(np.float32)
    same(softmax(Machine(config), x, config), softmax_in_numpy(x))
    same(rms_norm(Machine(config), x, factors, config), rms_norm_in_numpy(x, factors))


class Bf16Row(Row):
    """Passes of which some leave BF16 numbers, one area of lines each, and take those of others."""

    def __init__(self, config, size):
        super().__init__(config, size)
        self.halves = half_lines(config)
        self.load("factors", FACTORS_AT, self.area(0))

    def area(self, number):
        """The first line of an area; area 0 is that of the factors, FP32."""
        return self.result(1) + number * self.blocks * self.words

    def a(self, number):
        return {"a_bf16": 1, "a_line": self.area(number), "a_stride2": self.halves}

    def b(self, use, number):
        """BF16 numbers, or the factors, for operand B."""
        lines = {"b_bf16": 1, "b_stride2": self.halves} if number else {"b_stride2": self.words}
        return {"b_use": use, "b_source": SecondSource.WORDS, "b_line": self.area(number), **lines}

    def out(self, number):
        return {"out_format": OutFormat.BF16, "out_line": self.area(number), "out_stride2": self.halves}


def bf16_passes(device, x, y, config=CHIP):
    """Results of BF16 as operand A, as operand B, as both, and their squares' sum; each result as its bits."""
    row, size = Bf16Row(config, len(x)), len(x)
    row.each(reads=["factors"], **row.out(1))
    row.each(reads=["factors"], **row.a(1), **row.b(OperandUse.ADD, 0), **row.out(2))
    row.each(**row.a(1), **row.b(OperandUse.MULTIPLY, 2), **row.out(3))
    row.each(0, **row.a(2) | {"b_use": OperandUse.MULTIPLY, "b_source": SecondSource.A, "reduce": Reduce.SUM})
    row.each(**row.b(OperandUse.MULTIPLY, 2))
    at = [RESULT_AT + 0x1000 * number for number in range(5)]
    for number in (1, 2, 3):
        row.store(at[number], row.area(number), size, width=2)
    row.store(at[0], 0, size)
    row.store(at[4], row.result(0), 1, name=0)
    memory = row.memory(device, x, y)
    return [memory[where:where + width * count].view(f"u{width}") for where, width, count in zip(
        at, (4, 2, 2, 2, 4), (size, size, size, size, 1), strict=True)]


def bf16_passes_in_numpy(x, y):
    def narrow(numbers):
        return numbers.astype(ml_dtypes.bfloat16)
    with np.errstate(all="ignore"):
        first = narrow(x)
        second = narrow(first.astype(np.float32) + y)
        wide = second.astype(np.float32)
        third, product = narrow(first.astype(np.float32) * wide), x * wide
        total = np.full(1 << (len(x) - 1).bit_length(), -0.0, np.float32)
        total[:len(x)] = wide * wide
        while len(total) > 1:
            total = total[::2] + total[1::2]
    return [numbers.view(f"u{numbers.itemsize}") for numbers in (product, first, second, third, total)]


@pytest.mark.parametrize("length", LENGTHS[:-1])
def test_bf16_results_are_operands_again(device, length):
    rng = np.random.default_rng(length)
    x, y = ((rng.normal(size=length) * 2.0 ** rng.integers(-9, 9, length)).astype(np.float32) for _ in range(2))
    for found, right in zip(bf16_passes(device, x, y), bf16_passes_in_numpy(x, y), strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("size, columns, lanes", [(4, 4, 1), (4, 4, 4), (8, 8, 2), (16, 16, 4), (2, 4, 2),
                                                  (32, 16, 8), (32, 32, 8)])
def test_bf16_on_chips_of_all_shapes(size, columns, lanes):
    """Of BF16 a line has the numbers of half the columns, of all, or of more."""
    config = replace(CHIP, name="any", rows=size, columns=columns, vector_lanes=lanes, bus_width=128)
    rng = np.random.default_rng(5)
    x, y = (rng.normal(0, 4, 500).astype(np.float32) for _ in range(2))
    special = [np.inf, -np.inf, -0.0, 1e-40, -1e-39, 3.4e38]
    x[7:7 + len(special)] = y[40:40 + len(special)] = special
    results = zip(bf16_passes(Machine(config), x, y, config), bf16_passes_in_numpy(x, y), strict=True)
    for found, right in list(results)[:-1]:
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("rows, columns, size", [(5, 7, 1), (16, 16, 1), (3, 20, 2), (9, 4, 4), (1, 40, 1)])
def test_a_transposing_move(device, rows, columns, size):
    """An element a line: LOAD takes a matrix's elements apart, and STORE gathers a column of them for each row."""
    elements = {"planes": 1, "segment_bytes": size}
    x = np.random.default_rng(4).integers(0, 256, (rows, columns, size), np.uint8)
    code = [encode(Unit.LOAD, address=0, row_bytes=rows * columns * size, rows=1, line=3, segment_line_stride=1,
                   signal=1, **elements),
            encode(Unit.STORE, address=RESULT_AT, row_bytes=rows * size, rows=columns, row_stride=rows * size,
                   line=3, segment_line_stride=columns, row_line_stride=1, wait=1, **elements)]
    memory = np.zeros(SIZE, np.uint8)
    memory[:x.size] = x.reshape(-1)
    memory[PROGRAM_AT:PROGRAM_AT + 2 * INSTRUCTION_BYTES] = np.frombuffer(b"".join(code), np.uint8)
    expected = memory.copy()
    expected[RESULT_AT:RESULT_AT + x.size] = x.transpose(1, 0, 2).reshape(-1)
    job = Job(memory, PROGRAM_AT, 2)
    device.run(job)
    np.testing.assert_array_equal(job.memory, expected)
