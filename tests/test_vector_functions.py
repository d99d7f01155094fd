"""The golden machine's VECTOR with words, rows and functions, against the benches' model of the unit."""

import random

import numpy as np
import pytest
from machine_jobs import make_job

from kiwicha import ChipConfig
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
from kiwicha_host import DeviceError
from kiwicha_host.assembler import encode
from kiwicha_host.golden import Machine, functions, numerics
from tb.vector.model import expected, float_sum
from tb.vector.programs import errors, instruction

#: Of a line of words each step fills all, or a part; the last line of words is full, or not.
SHAPES = [(4, 2, 64, ("int8",)), (5, 1, 64, ("int8",)), (7, 2, 128, ("int8",)), (32, 8, 64, ("int8",)),
          (8, 2, 64, ("int8", "e4m3", "e2m1")), (16, 4, 128, ("int8", "e2m1")), (8, 2, 64, ("int8", "scales")),
          (4, 1, 64, ("int4", "scales"))]


def chip(columns, lanes, bus_width, formats, **more):
    if formats[-1] == "scales":
        formats, more = formats[:-1], more | {"block_scales": True}
    return ChipConfig(rows=4, columns=columns, vector_lanes=lanes, bus_width=bus_width, formats=formats,
                      scratchpad_banks=2, accumulator_lines=64, **{"bank_lines": 256, "functions": True, **more})


def filled(config, seed):
    """A machine of random numbers, of which many are near 1 as FP32."""
    machine, data = Machine(config), np.random.default_rng(seed)
    words = machine.scratchpad.view(np.uint32)
    for numbers in (words, machine.accumulator.view(np.uint32), machine.tables):
        near_one = data.integers(0, 1 << 32, numbers.shape) & 0x81FFFFFF | 0x3E000000
        small = data.integers(-300, 300, numbers.shape) % (1 << 32)
        any_ = data.integers(0, 1 << 32, numbers.shape)
        kind = data.choice(3, numbers.shape, p=[0.5, 0.4, 0.1])
        numbers[:] = np.choose(kind, [near_one, small, any_])
    return machine


def run(machine, fields):
    """The error that an instruction ends with, or None."""
    try:
        machine.run(make_job(encode(Unit.VECTOR, **{name: value for name, value in fields.items()
                                                    if name != "index"})))
    except DeviceError as error:
        return error.code, error.address
    return None


@pytest.mark.parametrize("top_k", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_instructions(shape, top_k):
    config, seed = chip(*shape, top_k=top_k), 3
    rng = random.Random(seed)
    for number in range(120):
        machine = filled(config, (seed, number))
        fields = instruction(config, rng)
        before = machine.scratchpad.copy()
        tables = machine.tables.copy()
        writes, fault, _ = expected(config, fields, machine.accumulator, before, tables)
        assert fault is None
        for line, data in writes:
            before[line] = np.frombuffer(data, np.uint8)
        assert run(machine, fields) is None
        np.testing.assert_array_equal(machine.scratchpad, before, err_msg=f"instruction {number}: {fields}")
        np.testing.assert_array_equal(machine.tables, tables)


@pytest.mark.parametrize("switches", [{}, {"functions": False}, {"top_k": True}], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errors(shape, switches):
    config = chip(*shape, **switches)
    seen = set()
    for number, fields in enumerate(errors(config, random.Random(4))):
        machine = filled(config, number)
        _, fault, _ = expected(config, fields, machine.accumulator, machine.scratchpad, machine.tables.copy())
        assert fault is not None
        code, address = run(machine, fields)
        assert (code, address) == (fault[0], fault[1] % (1 << 64)), f"error {number}: {fields}"
        seen.add(code)
    assert seen == {ErrorCode.FIELD, ErrorCode.SCRATCHPAD_RANGE, ErrorCode.ACCUMULATOR_RANGE}


def row(machine, values, **fields):
    """The result of a row of FP32 or int32 values, which are to fill whole words lines."""
    columns = machine.config.columns
    machine.scratchpad.reshape(-1)[:4 * len(values)] = values.view(np.uint8)
    lines = 4 * columns // machine.config.line_bytes
    walk = {"count0": 1, "count1": 1, "count2": len(values) // columns, "count3": 1, "a_stride2": lines}
    fields = {"a_source": 2, "row": 1, "out_line": 400, "out_step": 1, **walk, **fields}
    assert run(machine, fields) is None
    return machine.scratchpad[fields["out_line"]:fields["out_line"] + lines].reshape(-1).view(values.dtype).copy()


def test_specials_of_a_row():
    """NaN is above all, so it is the maximum; masked elements are not there at all."""
    machine = Machine(chip(4, 2, 64, ("int8",)))
    fields = {"out_format": OutFormat.FP32, "float": 1}
    values = np.array([1, 2, np.nan, 3, -np.inf, -5, 0, 9], np.float32)
    assert np.isnan(row(machine, values, **fields)).all()
    values[2] = -0.0
    assert (row(machine, values, **fields) == 9).all() and (row(machine, values, **fields, tail=2) == 3).all()
    values[:] = -np.inf
    assert (row(machine, values, **fields) == -np.inf).all()
    sums = fields | {"reduce": Reduce.SUM}
    for numbers, result in (([np.inf, 1, -np.inf], np.nan), ([1, np.nan], np.nan), ([np.inf, 3], np.inf),
                            ([3e38, 3e38, -3e38, -3e38], np.nan), ([3e38, -3e38, 3e38, -3e38], 0),
                            # In pairs: the last two ones meet before they meet the large number.
                            ([1 << 24, 1, 0, 0, 1, 0, 0, 1], (1 << 24) + 2)):
        values[:] = -0.0
        values[:len(numbers)] = numbers
        np.testing.assert_array_equal(row(machine, values, **sums), np.full(4, result, np.float32))
    values[:] = -0.0
    assert np.signbit(row(machine, values, **sums)).all()
    values[0] = 0.0
    assert not np.signbit(row(machine, values, **sums)).any()
    # A lone number goes up as it is, but a NaN is the canonical one.
    values[:4] = np.array([0xFFC12345], np.uint32).view(np.float32)[0]
    assert (row(machine, values[:4], **sums, tail=1).view(np.uint32) == 0x7FC00000).all()
    total = np.full(8, (1 << 31) - 1, np.int32)
    assert (row(machine, total, out_format=OutFormat.INT32, reduce=1) == -8).all()      # modulo 2^32


def words_of(config, use, **fields):
    """Fields of FP32 words from line 100 on, with an operand B, and the lines of each of these."""
    lines = -(-4 * config.columns // config.line_bytes)
    return lines, {"a_source": Source.WORDS, "b_use": use, "out_format": OutFormat.FP32, "float": 1, "count0": 1,
                   "count1": 1, "count2": 9, "count3": 1, "a_line": 100, "a_stride2": lines, "out_line": 2,
                   "out_stride2": lines, "out_step": 1, **fields}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("use", [OperandUse.ADD, OperandUse.MULTIPLY], ids=lambda use: use.name)
def test_operand_a_itself(use, shape):
    """As the same words in the place of operand B; where their lines would be does not matter."""
    config = chip(*shape)
    lines, fields = words_of(config, use)
    rows = [{"row": 1, "reduce": Reduce.SUM, "function": ResultFunction.RSQRT}] if config.float_row_sums else []
    for number, more in enumerate([{}, {"row": 1, "tail": 2}, *rows]):
        results = []
        for second in ({"b_source": SecondSource.WORDS, "b_line": 100, "b_stride2": lines},
                       {"b_source": SecondSource.A, "b_line": 65535, "b_stride2": -32768}):
            machine = filled(config, (6, number))
            assert run(machine, fields | more | second) is None
            results.append(machine.scratchpad)
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("use", [OperandUse.ADD, OperandUse.MULTIPLY], ids=lambda use: use.name)
def test_a_window_of_operand_a_itself(use, shape):
    """Each place has its own word, and a bias goes to A alone."""
    machine = filled(chip(*shape), 7)
    columns, has_bias = machine.config.columns, use == OperandUse.MULTIPLY
    lines, fields = words_of(machine.config, use, b_source=SecondSource.A, count0=2, count2=1)

    def words(line, count):
        part = machine.scratchpad[line:line + count * lines].copy()
        return part.reshape(count, -1).view(np.float32)[:, :columns]
    a, bias = words(100, 2), words(200, 1)
    assert run(machine, fields | {"a_stride0": lines, "bias": has_bias, "param_line": 200}) is None
    with np.errstate(all="ignore"):
        each = (a + bias) * a if has_bias else a + a
    each[np.isnan(each)] = np.nan
    np.testing.assert_array_equal(words(2, 1)[0], numerics.maximum(each, (0,)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", [OutFormat.FP32, OutFormat.INT8], ids=lambda form: form.name)
def test_operand_b_and_then_a_scale(form, shape):
    """Rounded after each of both products: a row's own factor, and one of each column."""
    machine = filled(chip(*shape), 8)
    columns, rng = machine.config.columns, np.random.default_rng(9)
    lines, fields = words_of(machine.config, OperandUse.MULTIPLY, b_source=SecondSource.ROW, b_line=200,
                             out_format=form, scale_mode=ScaleMode.COLUMN, param_line=210, count2=1, count3=9)
    fields |= {"a_stride3": lines, "b_stride3": lines, "out_stride3": lines}

    def words(line, count):
        return machine.scratchpad[line:line + count * lines].reshape(count, -1).view(np.float32)[:, :columns]
    for line, count in ((100, 9), (200, 9), (210, 1)):
        numbers = rng.normal(0, 3, (count, lines * machine.config.line_bytes // 4)).astype(np.float32)
        machine.scratchpad[line:line + count * lines] = numbers.view(np.uint8).reshape(count * lines, -1)
    a, factors, scale = words(100, 9).copy(), words(200, 9)[:, :1].copy(), words(210, 1).copy()
    assert run(machine, fields) is None
    right = (a * factors) * scale
    if form == OutFormat.INT8:
        found = machine.scratchpad[2:2 + 9 * lines:lines, :columns].view(np.int8)
        np.testing.assert_array_equal(found, np.rint(right).clip(-128, 127))
    else:
        np.testing.assert_array_equal(words(2, 9), right)
        assert (right != a * (factors * scale)).any()


def test_sums_do_not_depend_on_the_shape():
    """The same numbers in chips of other columns and lanes, and a function of their sum."""
    data = np.random.default_rng(5)
    for size in (32, 64, 96, 160, 224, 1024, 4064, 4096, 4128):
        values = (data.normal(size=size) * 2.0 ** data.integers(-12, 12, size)).astype(np.float32)
        sums = set()
        for columns, lanes, bus_width in ((2, 1, 64), (4, 2, 64), (4, 4, 128), (12, 4, 128), (32, 8, 64)):
            if size % columns == 0:
                machine = Machine(chip(columns, lanes, bus_width, ("int8",), bank_lines=4096))
                fields = {"out_format": OutFormat.FP32, "float": 1, "reduce": Reduce.SUM, "out_line": 6000}
                total = row(machine, values, **fields)
                inverse = row(machine, values, **fields, function=ResultFunction.RECIPROCAL)
                np.testing.assert_array_equal(inverse, functions.reciprocal(total))
                sums |= {*total.view(np.uint32).tolist()}
        assert len(sums) == 1, f"{size} numbers: {sums}"
        assert sums == {int(float_sum(values.view(np.uint32)))}


@pytest.mark.parametrize("function", list(ResultFunction)[1:], ids=lambda function: function.name)
def test_functions_are_those_of_the_contract(function):
    machine = Machine(chip(4, 2, 64, ("int8",)))
    values = np.array([0.75, -3, 7, np.inf], np.float32)
    machine.scratchpad.reshape(-1)[:16] = values.view(np.uint8)
    fields = {f"count{level}": 1 for level in range(4)} | {"a_source": 2, "float": 1, "function": function}
    assert run(machine, fields | {"out_format": OutFormat.FP32, "out_line": 9, "out_step": 1}) is None
    golden = getattr(functions, function.name.lower())(values)
    np.testing.assert_array_equal(machine.scratchpad[9:11].reshape(-1).view(np.uint32), golden.view(np.uint32))
