"""What a network does between products, of FP32 rows, as instructions: a page of numpy says what it makes."""

from dataclasses import replace

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
from kiwicha.timing import word_lines
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
        self.builder.add(Unit.VECTOR, reads=[*names[:2], *reads], writes=names[2:], a_source=Source.WORDS, float=1,
                         out_format=OutFormat.FP32, count0=1, count1=1, count3=1, a_stride2=self.words, out_step=1,
                         **lines | fields)

    def load(self, name, address, line):
        self.builder.add(Unit.LOAD, writes=[name], address=address, row_bytes=4 * self.size, line=line,
                         **self._whole)

    def run(self, device, row, factors=None):
        self.builder.add(Unit.STORE, reads=["row"], address=RESULT_AT, row_bytes=4 * self.size, line=0,
                         **self._whole)
        memory, program = np.zeros(SIZE, np.uint8), self.builder.assemble()
        for start, content in ((0, row), (FACTORS_AT, factors), (PROGRAM_AT, np.frombuffer(program, np.uint8))):
            if content is not None:
                raw = content.view(np.uint8)
                memory[start:start + len(raw)] = raw
        job = Job(memory, PROGRAM_AT, len(program) // INSTRUCTION_BYTES)
        device.run(job)
        return job.memory[RESULT_AT:RESULT_AT + 4 * self.size].view(np.float32)


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
