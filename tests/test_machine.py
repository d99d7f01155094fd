"""The golden machine against a slow reading of isa.py, one scalar at a time; semaphores."""

import random

import numpy as np
import pytest
from machine_jobs import CONFIG, ROOMY, SCALED, SIZE, error_of, load, make_job, matmul, store, vector

from kiwicha import ChipConfig
from kiwicha.isa import (
    SEMAPHORE_MAX,
    TABLE_WORDS,
    ErrorCode,
    OperandUse,
    OutFormat,
    Reduce,
    ScaleMode,
    ScaleRule,
    Source,
    Unit,
)
from kiwicha_host import DeviceError, open_device
from kiwicha_host.assembler import encode
from kiwicha_host.golden import Machine, numerics, quantize_block

# One instruction, read aloud.

class Slow:
    """isa.py's docstrings in loops over scalars."""

    def __init__(self, machine, memory):
        self.pad = machine.scratchpad.copy()
        self.acc = machine.accumulator.astype(object)
        self.tables = machine.tables.tolist()
        self.memory = memory.copy()

    def load(self, f):
        for p in range(f["planes"]):
            for r in range(f["rows"]):
                for c, start in enumerate(range(0, f["row_bytes"], f["segment_bytes"])):
                    line = (f["line"] + c * f["segment_line_stride"] + r * f["row_line_stride"]
                            + p * f["plane_line_stride"])
                    for i in range(CONFIG.line_bytes):
                        byte = f["fill"]
                        if not f["fill_only"] and i < f["segment_bytes"] and start + i < f["row_bytes"]:
                            byte = self.memory[f["address"] + p * f["plane_stride"] + r * f["row_stride"]
                                               + start + i]
                        self.pad[line, i] = byte

    def store(self, f):
        for p in range(f["planes"]):
            for r in range(f["rows"]):
                for b in range(f["row_bytes"]):
                    c, i = divmod(b, f["segment_bytes"])
                    line = (f["line"] + c * f["segment_line_stride"] + r * f["row_line_stride"]
                            + p * f["plane_line_stride"])
                    self.memory[f["address"] + p * f["plane_stride"] + r * f["row_stride"] + b] = self.pad[line, i]

    def matmul(self, f):
        for i3, i2, i1, i0 in np.ndindex(*(f[f"count{level}"] for level in (3, 2, 1, 0))):
            index = {0: i0, 1: i1, 2: i2, 3: i3}
            a = f["a_line"] + sum(i * f[f"a_stride{level}"] for level, i in index.items())
            acc = f["acc_line"] + sum(i * f[f"acc_stride{level}"] for level, i in index.items())
            w = f["w_line"] + i2 * f["w_stride2"] + i3 * f["w_stride3"]
            first = all(i == 0 for level, i in index.items() if f[f"acc_stride{level}"] == 0)
            for n in range(CONFIG.columns):
                total = sum(int(self.pad[a, k].astype(np.int8)) * int(self.pad[w + k, n].astype(np.int8))
                            for k in range(CONFIG.rows))
                old = 0 if first and not f["accumulate"] else int(self.acc[acc, n])
                self.acc[acc, n] = (old + total + 2 ** 31) % 2 ** 32 - 2 ** 31

    def vector(self, f):
        lines = -(-4 * CONFIG.columns // CONFIG.line_bytes)
        line, parameters = f["param_line"], []
        for wanted, dtype in ((f["bias"], np.int32), (f["scale_mode"] == ScaleMode.COLUMN, np.float32)):
            parameters.append(self.pad[line:line + lines].tobytes() if wanted else None)
            line += lines if wanted else 0
            if wanted:
                parameters[-1] = np.frombuffer(parameters[-1], dtype)[:CONFIG.columns]
        load_tables(f, self.pad, self.tables)
        if f["scale_mode"] == ScaleMode.SCALAR:
            parameters[1] = np.uint32(f["scale"]).view(np.float32)
        clamp_to = None
        if f["clamp"]:
            kind = np.int32 if f["out_format"] == OutFormat.INT32 else np.float32
            clamp_to = tuple(np.array([f["clamp_low"], f["clamp_high"]], np.uint32).view(kind))
        for i3, i2 in np.ndindex(f["count3"], f["count2"]):
            a, bias, scale = operands(f, self.pad, self.acc, self.tables, *parameters, i2, i3)
            data = numerics.epilogue(a, bias, scale, f["out_format"], clamp_to, f["zero_point"],
                                     window=(0,)).tobytes()
            for step, start in enumerate(range(0, len(data), CONFIG.line_bytes)):
                part = data[start:start + CONFIG.line_bytes].ljust(CONFIG.line_bytes, b"\0")
                out = (f["out_line"] + i2 * f["out_stride2"] + i3 * f["out_stride3"] + step * f["out_step"])
                self.pad[out] = np.frombuffer(part, np.uint8)


def load_tables(f, pad, tables):
    """Words of the lines from `table_line` on, table A first: `tables` is two lists of integers."""
    words = [int.from_bytes(pad.reshape(-1)[i:i + 4].tobytes(), "little")
             for i in range(f["table_line"] * pad.shape[1], pad.size, 4)]
    for table, name in enumerate(("load_a", "load_b")):
        if f[name]:
            tables[table], words = words[:TABLE_WORDS], words[TABLE_WORDS:]


def operands(f, pad, acc, tables, bias, scale, i2, i3, part=0):
    """One pixel's A [window, columns], bias and scale, where B has taken its place and the window is summed."""
    columns = acc.shape[1]
    a = [[tables[0][pad[line, n]] if f["a_source"] == Source.TABLE else int(acc[line, n]) for n in range(columns)]
         for i1 in range(f["count1"]) for i0 in range(f["count0"])
         for line in [f["a_line"] + i0 * f["a_stride0"] + i1 * f["a_stride1"] + i2 * f["a_stride2"]
                      + i3 * f["a_stride3"] + part * f.get("part_stride", 0)]]
    if f["reduce"] == Reduce.SUM:
        a = [[sum(column) for column in zip(*a, strict=True)]]
    kind = np.float32 if f.get("float") else np.int32
    a = np.array([[word % 2 ** 32 for word in line] for line in a], np.uint32).view(kind)
    if f["b_use"] != OperandUse.NONE:
        line = f["b_line"] + i2 * f["b_stride2"] + i3 * f["b_stride3"]
        b = np.array([tables[1][pad[line, n]] for n in range(columns)], np.uint32)
        if f["b_use"] == OperandUse.ADD:
            bias = b.view(kind)
        else:
            scale = b.view(np.float32)
    return a, bias, scale


def random_vector_operands(rng, lines):
    """Fields of A, B and the tables; scratchpad operands begin in `lines`, tables anywhere and beyond."""
    f = {"a_source": rng.choice([Source.ACCUMULATOR, Source.TABLE]),
         "b_use": rng.choice([OperandUse.NONE, OperandUse.ADD, OperandUse.MULTIPLY]),
         "reduce": rng.choice(list(Reduce)), "load_a": int(rng.random() < 0.3), "load_b": int(rng.random() < 0.3),
         "table_line": rng.choice([rng.randrange(260), rng.randrange(400), 384 - 128 * rng.randrange(2)]),
         "b_line": rng.choice(lines), "b_stride2": rng.randint(-3, 5), "b_stride3": rng.randint(-3, 5)}
    if f["a_source"] == Source.TABLE:
        f["a_line"] = rng.choice(lines)
    return f


def random_fields(unit, rng):
    """Fields that reach only what there is, except by strides that the caller filters."""
    if unit in (Unit.LOAD, Unit.STORE):
        f = {"segment_bytes": rng.randint(1, 8), "address": rng.randrange(0x1000, 0x3000),
             "row_bytes": rng.randint(1, 20), "rows": rng.randint(1, 4), "planes": rng.randint(1, 3),
             "row_stride": rng.randint(-40, 40), "plane_stride": rng.randint(-80, 80),
             "line": rng.randrange(64), "segment_line_stride": rng.randint(-3, 3),
             "row_line_stride": rng.randint(-6, 6), "plane_line_stride": rng.randint(-8, 8)}
        if unit == Unit.LOAD:
            f |= {"fill_only": int(rng.random() < 0.2), "fill": rng.randrange(256)}
        return f
    f = {f"count{i}": rng.randint(1, 3) for i in range(4)}
    name = "acc" if unit == Unit.MATMUL else "a"
    f |= {f"{name}_stride{i}": rng.choice([0, 0, 1, 2, 3, 4, 6, 9, -1, -5]) for i in range(4)}
    f[f"{name}_line"] = rng.randrange(32)
    if unit == Unit.MATMUL:
        f |= {"accumulate": rng.randrange(2), "a_line": rng.randrange(64), "w_line": rng.randrange(60)}
        f |= {f"a_stride{i}": rng.randint(-5, 5) for i in range(4)}
        f |= {f"w_stride{i}": rng.randint(-5, 5) for i in (2, 3)}
        return f
    # Results are either below or above all that they are made of.
    first_out, lines = rng.choice([(0, range(140, 512)), (448, range(330))])
    f |= random_vector_operands(rng, lines)
    out_format = rng.choice([OutFormat.INT8, OutFormat.INT32, OutFormat.FP32])
    if f["b_use"] == OperandUse.MULTIPLY and out_format == OutFormat.INT32:
        f["b_use"] = OperandUse.NONE
    has_factor = out_format == OutFormat.INT32 or f["b_use"] == OperandUse.MULTIPLY
    mode = ScaleMode.NONE if has_factor else rng.choice(list(ScaleMode))
    special = [0, 0x80000000, 0x3F800000, 0x3DCCCCCD, 0xBF000000, 0x7F800000, 0x7FC00000, 1]
    return f | {"out_format": out_format, "scale_mode": mode, "clamp": rng.randrange(2),
                "bias": rng.randrange(2) if f["b_use"] != OperandUse.ADD else 0,
                "zero_point": rng.randint(-128, 127), "out_line": first_out + rng.randrange(64),
                "param_line": rng.choice([0, 452]) + rng.randrange(58), "out_step": rng.randint(-2, 3),
                "out_stride2": rng.randint(-4, 4), "out_stride3": rng.randint(-9, 9), "scale": rng.choice(special),
                "clamp_low": rng.choice(special), "clamp_high": rng.choice(special)}


def slow_scaled_vector(f, pad, acc, tables):
    """Writes to `pad` what a VECTOR without parameters per column does, one pixel after the other."""
    bits, parts, pixels = [], f["parts"], []
    dynamic_scale = f["out_format"] in (OutFormat.E4M3, OutFormat.E2M1)
    factor = np.uint32(f["scale"]).view(np.float32) if f["scale_mode"] is ScaleMode.SCALAR else None
    load_tables(f, pad, tables)
    for i3, i2, part in np.ndindex(f["count3"], f["count2"], parts if dynamic_scale else 1):
        x, bias, scale = operands(f, pad, acc, tables, None, factor, i2, i3, part)
        if bias is not None:
            with np.errstate(all="ignore"):
                x = x + bias
        x = numerics.to_fp32(x, scale)
        order = numerics.total_order(x).max(axis=0)
        bits.append(np.where(order < 0, order ^ 0x7FFFFFFF, order).astype(np.int32))
        if part == (parts if dynamic_scale else 1) - 1:
            pixels.append((f["out_line"] + i2 * f["out_stride2"] + i3 * f["out_stride3"],
                           np.concatenate(bits).view(np.float32)))
            bits = []
    scales = []
    for out, x in pixels:
        if not dynamic_scale:
            raw = numerics.to_bf16(x).tobytes()
        else:
            name = f["out_format"].name.lower()
            codes, scale = quantize_block(x[None], name, len(x), f["scale_rule"].name.lower())
            raw = bytes(codes[0]) if name == "e4m3" else bytes(codes[0, ::2] | codes[0, 1::2] << 4)
            scales.append(int(scale[0, 0]))
        size = len(raw) // parts if dynamic_scale else pad.shape[1]
        for step, start in enumerate(range(0, len(raw), size)):
            line = raw[start:start + size].ljust(pad.shape[1], b"\0")
            pad[out + step * f["out_step"]] = np.frombuffer(line, np.uint8)
        if scales and (len(scales) == pad.shape[1] or x is pixels[-1][1]):
            pad[f["scale_line"]] = np.frombuffer(bytes(scales).ljust(pad.shape[1], b"\0"), np.uint8)
            scales, f["scale_line"] = [], f["scale_line"] + 1


@pytest.mark.parametrize("seed", range(3))
def test_random_results_of_a_block_scaled_chip(seed):
    rng, data = random.Random(seed), np.random.default_rng(seed)
    machine, good = Machine(SCALED), 0
    while good < 80:
        form = rng.choice([OutFormat.BF16, OutFormat.E4M3, OutFormat.E2M1])
        f = {f"count{i}": rng.choice([1, 1, 2, 3]) for i in range(2)}
        f |= {"count2": rng.choice([1, 3, 11]), "count3": rng.choice([1, 2]), "parts": rng.choice([1, 2, 4, 16])}
        f |= {f"a_stride{i}": rng.choice([0, 1, 2, -1]) for i in range(4)}
        f |= {"part_stride": rng.choice([0, 1, -2]), "a_line": rng.randrange(32), "out_line": rng.randrange(40),
              "out_stride2": rng.randint(-2, 3), "out_stride3": rng.randint(-4, 4), "out_step": rng.randint(-2, 3),
              "scale_line": rng.randrange(40, 64), "scale": rng.choice([0x3DCCCCCD, 1]),
              "out_format": form, "scale_rule": rng.choice(list(ScaleRule))}
        # Results end below line 130.
        f |= random_vector_operands(rng, range(180, 512))
        f["b_use"] = OperandUse.NONE if f["parts"] > 1 else f["b_use"]
        f["float"] = rng.randrange(2) if f["reduce"] != Reduce.SUM else 0
        f["scale_mode"] = (rng.choice([ScaleMode.NONE, ScaleMode.SCALAR]) if f["b_use"] != OperandUse.MULTIPLY
                           else ScaleMode.NONE)
        machine.scratchpad[:] = data.integers(0, 256, machine.scratchpad.shape)
        acc, words = machine.accumulator, machine.scratchpad.view(np.int32)
        # Numbers of one size; now and then everything that there is.
        acc[:] = data.integers(-2 ** 31, 2 ** 31, acc.shape)
        if rng.random() < 0.8:
            for numbers in (acc, words):
                numbers[:] = (numbers & 0x80FFFFFF - 2 ** 32) | 0x3F000000
        pad, tables = machine.scratchpad.copy(), machine.tables.tolist()
        try:
            machine.run(make_job(encode(Unit.VECTOR, **f)))
        except DeviceError as error:
            assert error.code in (ErrorCode.SCRATCHPAD_RANGE, ErrorCode.ACCUMULATOR_RANGE), error
            continue
        slow_scaled_vector(f, pad, acc, tables)
        np.testing.assert_array_equal(machine.scratchpad, pad)
        np.testing.assert_array_equal(machine.tables, tables)
        good += 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unit", [Unit.LOAD, Unit.MATMUL, Unit.VECTOR, Unit.STORE], ids=lambda unit: unit.name)
def test_random_instructions(unit, seed):
    rng, data = random.Random(seed), np.random.default_rng(seed)
    machine, good, bad = Machine(ROOMY if unit is Unit.VECTOR else CONFIG), 0, 0
    while good < 60 or bad < 10:
        assert good + bad < 5000
        f = random_fields(unit, rng)
        machine.scratchpad[:] = data.integers(0, 256, machine.scratchpad.shape)
        machine.accumulator[:] = data.integers(-2 ** 31, 2 ** 31, machine.accumulator.shape)
        job = make_job(encode(unit, **f), memory=data.integers(0, 256, SIZE).astype(np.uint8))
        slow = Slow(machine, job.memory)
        before = machine.scratchpad.copy(), machine.accumulator.copy(), job.memory.copy()
        try:
            machine.run(job)
        except DeviceError as error:
            assert error.code in (ErrorCode.SCRATCHPAD_RANGE, ErrorCode.ACCUMULATOR_RANGE), error
            for old, new in zip(before, (machine.scratchpad, machine.accumulator, job.memory), strict=True):
                np.testing.assert_array_equal(old, new)
            bad += 1
            continue
        getattr(slow, unit.name.lower())(f)
        np.testing.assert_array_equal(machine.scratchpad, slow.pad)
        np.testing.assert_array_equal(machine.accumulator, slow.acc.astype(np.int32))
        np.testing.assert_array_equal(machine.tables, slow.tables)
        np.testing.assert_array_equal(job.memory, slow.memory)
        good += 1


def test_a_large_product_is_one_step():
    config = ChipConfig.preset("wide")
    machine, rng = Machine(config), np.random.default_rng(0)
    machine.scratchpad[:] = rng.integers(0, 256, machine.scratchpad.shape)
    machine.run(make_job(matmul(count0=512, count2=32, a_stride0=32, a_stride2=1, acc_stride0=1, w_line=20000,
                                w_stride2=16)))
    a = machine.scratchpad[:512 * 32].reshape(512, 512).view(np.int8)
    w = machine.scratchpad[20000:20512].view(np.int8)
    np.testing.assert_array_equal(machine.accumulator[:512], a.astype(int) @ w.astype(int))


# Programs.

def test_state_persists_between_programs():
    device = open_device("golden", config=CONFIG)
    memory = np.arange(SIZE).astype(np.uint8)
    device.run(make_job(load(line=5), memory=memory))
    job = make_job(store(line=5, address=0x100))
    device.run(job)
    np.testing.assert_array_equal(job.memory[0x100:0x108], np.arange(8))
    assert device.last_result.predicted and device.last_result.cycles > 0
    with pytest.raises(DeviceError):
        device.run(make_job(load(line=64)))
    assert device.last_result is None
    job = make_job(store(line=5, address=0x100))
    device.run(job)
    np.testing.assert_array_equal(job.memory[0x100:0x108], np.arange(8))


def test_tables_stay_until_they_are_loaded():
    """Over instructions, programs and errors; and each is loaded alone."""
    memory = np.arange(SIZE).astype(np.uint8)
    machine = Machine(ROOMY)
    machine.scratchpad[:256] = np.arange(2 * TABLE_WORDS, dtype=np.uint32).view(np.uint8).reshape(256, 8)
    machine.scratchpad[256:384] = (7000 + np.arange(TABLE_WORDS, dtype=np.uint32)).view(np.uint8).reshape(128, 8)
    machine.scratchpad[400], machine.scratchpad[401] = 3, 200
    add = {"a_source": Source.TABLE, "b_use": OperandUse.ADD, "a_line": 400, "b_line": 401,
           "out_format": OutFormat.INT32, "out_line": 410, "out_step": 1}

    def result(*instructions):
        machine.run(make_job(*instructions, memory=memory))
        return machine.scratchpad[410:413].view(np.int32).ravel().tolist()

    assert result(vector(**add)) == [0] * 6
    assert result(vector(**add, load_a=1, load_b=1)) == [3 + 256 + 200] * 6
    assert result(vector(load_a=1, table_line=256), vector(**add)) == [7003 + 256 + 200] * 6
    assert error_of(vector(load_b=1, table_line=385), machine=machine) == (
        ErrorCode.SCRATCHPAD_RANGE, Unit.VECTOR, 0, 512)
    assert result(vector(**add)) == [7003 + 256 + 200] * 6
    assert result(vector(**add, load_b=1, table_line=256)) == [7003 + 7200] * 6


def test_a_sum_has_one_bias_and_wraps():
    machine = Machine(ROOMY)
    machine.accumulator[:4] = 2 ** 30
    machine.scratchpad[:3] = np.full(6, 5, np.int32).view(np.uint8).reshape(3, 8)
    machine.run(make_job(vector(count0=4, a_stride0=1, bias=1, reduce=Reduce.SUM, out_format=OutFormat.INT32,
                                out_line=8, out_step=1)))
    assert machine.scratchpad[8:11].view(np.int32).ravel().tolist() == [5] * 6


def test_an_empty_program_ends():
    Machine(CONFIG).run(make_job())


def test_semaphores_order_units():
    """STORE comes first in the program and must wait for LOAD; then LOAD waits for STORE."""
    memory = np.arange(SIZE).astype(np.uint8)
    job = make_job(store(line=1, address=0x200, wait=1, signal=2), load(line=1, address=0x10, signal=1),
                   load(line=1, address=0x20, wait=2, signal=1), store(line=1, address=0x208, wait=1),
                   memory=memory)
    Machine(CONFIG).run(job)
    np.testing.assert_array_equal(job.memory[0x200:0x210], [*range(0x10, 0x18), *range(0x20, 0x28)])


def test_semaphores_start_at_zero_and_are_taken_all_at_once():
    machine = Machine(CONFIG)
    machine.run(make_job(load(signal=0xFFFF)))
    assert error_of(load(wait=1), machine=machine)[0] == ErrorCode.WATCHDOG
    # Semaphore 1 never comes: STORE must not keep semaphore 0 from LOAD.
    assert error_of(store(wait=3), matmul(signal=1), load(wait=1), machine=machine) == (
        ErrorCode.WATCHDOG, Unit.STORE, 0, 0)


def test_counting():
    Machine(CONFIG).run(make_job(*[load(signal=1)] * 3, *[store(wait=1)] * 3))
    assert error_of(*[load(signal=1)] * 3, *[store(wait=1)] * 4) == (ErrorCode.WATCHDOG, Unit.STORE, 6, 0)


def test_a_full_semaphore_makes_its_signaller_wait():
    Machine(CONFIG).run(make_job(*[load(signal=1)] * SEMAPHORE_MAX))
    assert error_of(*[load(signal=1)] * (SEMAPHORE_MAX + 1)) == (ErrorCode.WATCHDOG, Unit.LOAD, SEMAPHORE_MAX, 0)
    Machine(CONFIG).run(make_job(*[load(signal=1)] * (SEMAPHORE_MAX + 2), *[store(wait=1)] * 2))
    # All or nothing: semaphore 1 gets nothing while semaphore 0 is full.
    assert error_of(*[load(signal=1)] * SEMAPHORE_MAX, load(signal=3), store(wait=2)) == (
        ErrorCode.WATCHDOG, Unit.LOAD, SEMAPHORE_MAX, 0)


def test_queues_are_as_deep_as_configured():
    """Two wait in the queue, one at its head; a fourth keeps those behind it from their units."""
    stuck = [store(wait=1)] * (CONFIG.queue_depth + 1)
    Machine(CONFIG).run(make_job(*stuck, *[load(signal=1)] * 3))
    assert error_of(*stuck, store(wait=1), *[load(signal=1)] * 4) == (ErrorCode.WATCHDOG, Unit.STORE, 0, 0)
