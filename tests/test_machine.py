"""The golden machine against a slow reading of isa.py, one scalar at a time; semaphores; every error."""

import random

import numpy as np
import pytest

from kiwicha import ChipConfig
from kiwicha.isa import SEMAPHORE_MAX, ErrorCode, OutFormat, ScaleMode, ScaleRule, Unit
from kiwicha_host import DeviceError, Job, open_device
from kiwicha_host.assembler import disassemble, encode
from kiwicha_host.golden import Machine, numerics, quantize_block

# Odd on purpose: rows, columns and lines all differ, and 32-bit results take several lines.
CONFIG = ChipConfig(name="odd", rows=3, columns=6, bus_width=64, scratchpad_banks=4, bank_lines=16,
                    accumulator_lines=32, epilogue_lanes=1, queue_depth=2)
PROGRAM = 0x4000
SIZE = 0x8000


def make_job(*instructions, memory=None, **options):
    code = np.frombuffer(b"".join(instructions), np.uint8)
    data = np.zeros(SIZE, np.uint8) if memory is None else memory.copy()
    data[PROGRAM:PROGRAM + len(code)] = code
    return Job(memory=data, program_address=PROGRAM, program_count=len(instructions), **options)


def error_of(*instructions, machine=None, **options):
    with pytest.raises(DeviceError) as caught:
        (machine or Machine(CONFIG)).run(make_job(*instructions, **options))
    error = caught.value
    assert "\n" not in str(error) and error.code.name in str(error)
    return error.code, error.unit, error.index, error.address


def load(**fields):
    return encode(Unit.LOAD, **{"row_bytes": 8, "rows": 1, "planes": 1, "chunk_bytes": 8} | fields)


def store(**fields):
    return encode(Unit.STORE, **{"row_bytes": 8, "rows": 1, "planes": 1, "chunk_bytes": 8} | fields)


def matmul(**fields):
    return encode(Unit.MATMUL, **{f"count{i}": 1 for i in range(4)} | fields)


def epilogue(**fields):
    return encode(Unit.EPILOGUE, **{f"count{i}": 1 for i in range(4)} | fields)


# One instruction, read aloud.

class Slow:
    """isa.py's docstrings in loops over scalars."""

    def __init__(self, machine, memory):
        self.pad = machine.scratchpad.copy()
        self.acc = machine.accumulator.astype(object)
        self.memory = memory.copy()

    def load(self, f):
        for p in range(f["planes"]):
            for r in range(f["rows"]):
                for c, start in enumerate(range(0, f["row_bytes"], f["chunk_bytes"])):
                    line = (f["line"] + c * f["chunk_line_stride"] + r * f["row_line_stride"]
                            + p * f["plane_line_stride"])
                    for i in range(CONFIG.line_bytes):
                        byte = f["fill"]
                        if not f["fill_only"] and i < f["chunk_bytes"] and start + i < f["row_bytes"]:
                            byte = self.memory[f["address"] + p * f["plane_stride"] + r * f["row_stride"]
                                               + start + i]
                        self.pad[line, i] = byte

    def store(self, f):
        for p in range(f["planes"]):
            for r in range(f["rows"]):
                for b in range(f["row_bytes"]):
                    c, i = divmod(b, f["chunk_bytes"])
                    line = (f["line"] + c * f["chunk_line_stride"] + r * f["row_line_stride"]
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

    def epilogue(self, f):
        lines = -(-4 * CONFIG.columns // CONFIG.line_bytes)
        line, parameters = f["param_line"], []
        for wanted, dtype in ((f["bias"], np.int32), (f["scale_mode"] == ScaleMode.COLUMN, np.float32)):
            parameters.append(self.pad[line:line + lines].tobytes() if wanted else None)
            line += lines if wanted else 0
            if wanted:
                parameters[-1] = np.frombuffer(parameters[-1], dtype)[:CONFIG.columns]
        bias, scale = parameters
        if f["scale_mode"] == ScaleMode.SCALAR:
            scale = np.uint32(f["scale"]).view(np.float32)
        clamp_to = None
        if f["clamp"]:
            kind = np.int32 if f["out_format"] == OutFormat.INT32 else np.float32
            clamp_to = tuple(np.array([f["clamp_low"], f["clamp_high"]], np.uint32).view(kind))
        for i3, i2 in np.ndindex(f["count3"], f["count2"]):
            window = [f["acc_line"] + i0 * f["acc_stride0"] + i1 * f["acc_stride1"] + i2 * f["acc_stride2"]
                      + i3 * f["acc_stride3"] for i1 in range(f["count1"]) for i0 in range(f["count0"])]
            data = numerics.epilogue(self.acc[window].astype(np.int32), bias, scale, f["out_format"], clamp_to,
                                     f["zero_point"], window=(0,)).tobytes()
            for step, start in enumerate(range(0, len(data), CONFIG.line_bytes)):
                part = data[start:start + CONFIG.line_bytes].ljust(CONFIG.line_bytes, b"\0")
                out = (f["out_line"] + i2 * f["out_stride2"] + i3 * f["out_stride3"] + step * f["out_step"])
                self.pad[out] = np.frombuffer(part, np.uint8)


def random_fields(unit, rng):
    """Fields that reach only what there is, except by strides that the caller filters."""
    if unit in (Unit.LOAD, Unit.STORE):
        f = {"chunk_bytes": rng.randint(1, 8), "address": rng.randrange(0x1000, 0x3000),
             "row_bytes": rng.randint(1, 20), "rows": rng.randint(1, 4), "planes": rng.randint(1, 3),
             "row_stride": rng.randint(-40, 40), "plane_stride": rng.randint(-80, 80),
             "line": rng.randrange(64), "chunk_line_stride": rng.randint(-3, 3),
             "row_line_stride": rng.randint(-6, 6), "plane_line_stride": rng.randint(-8, 8)}
        if unit == Unit.LOAD:
            f |= {"fill_only": int(rng.random() < 0.2), "fill": rng.randrange(256)}
        return f
    f = {f"count{i}": rng.randint(1, 3) for i in range(4)}
    f |= {f"acc_stride{i}": rng.choice([0, 0, 1, 2, 3, 4, 6, 9, -1, -5]) for i in range(4)}
    f["acc_line"] = rng.randrange(32)
    if unit == Unit.MATMUL:
        f |= {"accumulate": rng.randrange(2), "a_line": rng.randrange(64), "w_line": rng.randrange(60)}
        f |= {f"a_stride{i}": rng.randint(-5, 5) for i in range(4)}
        f |= {f"w_stride{i}": rng.randint(-5, 5) for i in (2, 3)}
        return f
    out_format = rng.choice([OutFormat.INT8, OutFormat.INT32, OutFormat.FP32])
    mode = ScaleMode.NONE if out_format == OutFormat.INT32 else rng.choice(list(ScaleMode))
    special = [0, 0x80000000, 0x3F800000, 0x3DCCCCCD, 0xBF000000, 0x7F800000, 0x7FC00000, 1]
    return f | {"out_format": out_format, "scale_mode": mode, "bias": rng.randrange(2), "clamp": rng.randrange(2),
                "zero_point": rng.randint(-128, 127), "out_line": rng.randrange(64),
                "param_line": rng.randrange(58), "out_step": rng.randint(-2, 3),
                "out_stride2": rng.randint(-4, 4), "out_stride3": rng.randint(-9, 9), "scale": rng.choice(special),
                "clamp_low": rng.choice(special), "clamp_high": rng.choice(special)}


#: A chip with every output format, whose results take two lines as BF16 and E2M1 fills half of one.
SCALED = ChipConfig(name="scaled", rows=4, columns=8, bus_width=64, scratchpad_banks=4, bank_lines=16,
                    accumulator_lines=32, epilogue_lanes=1, queue_depth=2, formats=("int8", "e2m1"))


def slow_scaled_epilogue(f, pad, acc):
    """Writes to `pad` what an EPILOGUE without parameters per column does, one pixel after the other."""
    bits, parts, pixels = [], f["parts"], []
    fresh = f["out_format"] in (OutFormat.E4M3, OutFormat.E2M1)
    for i3, i2, part in np.ndindex(f["count3"], f["count2"], parts if fresh else 1):
        window = [f["acc_line"] + i0 * f["acc_stride0"] + i1 * f["acc_stride1"] + i2 * f["acc_stride2"]
                  + i3 * f["acc_stride3"] + part * f["part_stride"]
                  for i1 in range(f["count1"]) for i0 in range(f["count0"])]
        x = acc[window]
        x = x.view(np.float32) if f["float"] else x.astype(np.float32)
        scale = np.uint32(f["scale"]).view(np.float32) if f["scale_mode"] is ScaleMode.SCALAR else None
        x = numerics.to_fp32(x, scale)
        order = numerics.total_order(x).max(axis=0)
        bits.append(np.where(order < 0, order ^ 0x7FFFFFFF, order).astype(np.int32))
        if part == (parts if fresh else 1) - 1:
            pixels.append((f["out_line"] + i2 * f["out_stride2"] + i3 * f["out_stride3"],
                           np.concatenate(bits).view(np.float32)))
            bits = []
    scales = []
    for out, x in pixels:
        if not fresh:
            raw = numerics.to_bf16(x).tobytes()
        else:
            name = f["out_format"].name.lower()
            codes, scale = quantize_block(x[None], name, len(x), f["scale_rule"].name.lower())
            raw = bytes(codes[0]) if name == "e4m3" else bytes(codes[0, ::2] | codes[0, 1::2] << 4)
            scales.append(int(scale[0, 0]))
        size = len(raw) // parts if fresh else SCALED.line_bytes
        for step, start in enumerate(range(0, len(raw), size)):
            line = raw[start:start + size].ljust(SCALED.line_bytes, b"\0")
            pad[out + step * f["out_step"]] = np.frombuffer(line, np.uint8)
        if scales and (len(scales) == SCALED.line_bytes or x is pixels[-1][1]):
            pad[f["scale_line"]] = np.frombuffer(bytes(scales).ljust(SCALED.line_bytes, b"\0"), np.uint8)
            scales, f["scale_line"] = [], f["scale_line"] + 1


@pytest.mark.parametrize("seed", range(3))
def test_random_results_of_a_block_scaled_chip(seed):
    rng, data = random.Random(seed), np.random.default_rng(seed)
    machine, good = Machine(SCALED), 0
    while good < 80:
        form = rng.choice([OutFormat.BF16, OutFormat.E4M3, OutFormat.E2M1])
        f = {f"count{i}": rng.choice([1, 1, 2, 3]) for i in range(2)}
        f |= {"count2": rng.choice([1, 3, 11]), "count3": rng.choice([1, 2]), "parts": rng.choice([1, 2, 4, 16])}
        f |= {f"acc_stride{i}": rng.choice([0, 1, 2, -1]) for i in range(4)}
        f |= {"part_stride": rng.choice([0, 1, -2]), "acc_line": rng.randrange(32), "out_line": rng.randrange(40),
              "out_stride2": rng.randint(-2, 3), "out_stride3": rng.randint(-4, 4), "out_step": rng.randint(-2, 3),
              "scale_line": rng.randrange(40, 64), "float": rng.randrange(2), "scale": rng.choice([0x3DCCCCCD, 1]),
              "scale_mode": rng.choice([ScaleMode.NONE, ScaleMode.SCALAR]), "out_format": form,
              "scale_rule": rng.choice(list(ScaleRule))}
        machine.scratchpad[:] = data.integers(0, 256, machine.scratchpad.shape)
        acc = machine.accumulator
        # Numbers of one size; now and then everything that there is.
        acc[:] = data.integers(-2 ** 31, 2 ** 31, acc.shape)
        if rng.random() < 0.8:
            acc[:] = (acc & 0x80FFFFFF - 2 ** 32) | 0x3F000000
        pad = machine.scratchpad.copy()
        try:
            machine.run(make_job(encode(Unit.EPILOGUE, **f)))
        except DeviceError as error:
            assert error.code in (ErrorCode.SCRATCHPAD_RANGE, ErrorCode.ACCUMULATOR_RANGE), error
            continue
        slow_scaled_epilogue(f, pad, acc)
        np.testing.assert_array_equal(machine.scratchpad, pad)
        good += 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unit", [Unit.LOAD, Unit.MATMUL, Unit.EPILOGUE, Unit.STORE], ids=lambda unit: unit.name)
def test_random_instructions(unit, seed):
    rng, data = random.Random(seed), np.random.default_rng(seed)
    machine, good, bad = Machine(CONFIG), 0, 0
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


# Errors.

ERRORS = [
    (bytes(64), (ErrorCode.OPCODE, Unit.FETCH, 0)),
    (bytes([9]) + bytes(63), (ErrorCode.OPCODE, Unit.FETCH, 9)),
    (load()[:63] + b"\x80", (ErrorCode.RESERVED, Unit.LOAD, 511)),
    (load(chunk_bytes=0), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (load(chunk_bytes=9), (ErrorCode.FIELD, Unit.LOAD, 9)),
    (load(chunk_bytes=9, rows=0), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (load(row_bytes=0, fill_only=1), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (load(planes=0), (ErrorCode.FIELD, Unit.LOAD, 0)),
    (store(rows=0), (ErrorCode.FIELD, Unit.STORE, 0)),
    (store(chunk_bytes=255), (ErrorCode.FIELD, Unit.STORE, 255)),
    *((matmul(**{f"count{i}": 0}), (ErrorCode.FIELD, Unit.MATMUL, 0)) for i in range(4)),
    *((epilogue(**{f"count{i}": 0}), (ErrorCode.FIELD, Unit.EPILOGUE, 0)) for i in range(4)),
    *((epilogue(out_format=i), (ErrorCode.FIELD, Unit.EPILOGUE, i)) for i in range(3, 8)),
    (epilogue(float=1), (ErrorCode.FIELD, Unit.EPILOGUE, 1)),
    (epilogue(scale_mode=3), (ErrorCode.FIELD, Unit.EPILOGUE, 3)),
    (epilogue(out_format=OutFormat.INT32, scale_mode=ScaleMode.COLUMN), (ErrorCode.FIELD, Unit.EPILOGUE, 2)),
    (load(line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 64)),
    (load(fill_only=1, line=3, rows=3, row_line_stride=-2), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, -1)),
    (load(row_bytes=24, line=62, chunk_line_stride=1), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 64)),
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
    (epilogue(acc_line=31, count0=2, acc_stride0=1), (ErrorCode.ACCUMULATOR_RANGE, Unit.EPILOGUE, 32)),
    (epilogue(acc_line=0, count3=2, acc_stride3=-4), (ErrorCode.ACCUMULATOR_RANGE, Unit.EPILOGUE, -4)),
    (epilogue(out_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (epilogue(out_format=OutFormat.FP32, out_line=62, out_step=1),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (epilogue(bias=1, param_line=62), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (epilogue(bias=1, scale_mode=ScaleMode.COLUMN, param_line=60),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (epilogue(acc_line=32, out_line=64), (ErrorCode.ACCUMULATOR_RANGE, Unit.EPILOGUE, 32)),
    (epilogue(acc_line=31, out_line=64, count2=2, acc_stride2=1),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (load(address=0x8000), (ErrorCode.WINDOW, Unit.LOAD, 0x8000)),
    (load(address=0x7FFC), (ErrorCode.WINDOW, Unit.LOAD, 0x8000)),
    (load(address=0x10, rows=3, row_stride=-9), (ErrorCode.WINDOW, Unit.LOAD, -2)),
    (load(address=0xFFFF_FFFF_FFFF_FFF8), (ErrorCode.WINDOW, Unit.LOAD, 0xFFFF_FFFF_FFFF_FFF8)),
    (load(address=1 << 32), (ErrorCode.WINDOW, Unit.LOAD, 1 << 32)),
    (store(address=0x7FFF, row_bytes=2), (ErrorCode.WINDOW, Unit.STORE, 0x8000)),
    (store(address=0x7000, rows=2, planes=2, row_stride=0x800, plane_stride=0x1000),
     (ErrorCode.WINDOW, Unit.STORE, 0x8000)),
    # Where one chunk has both, LOAD meets memory first and STORE the scratchpad.
    (load(address=0x8000, line=64), (ErrorCode.WINDOW, Unit.LOAD, 0x8000)),
    (store(address=0x8000, line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.STORE, 64)),
    (load(address=0x7FF8, row_bytes=16, line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.LOAD, 64)),
    (store(address=0x7FF8, row_bytes=24, line=62, chunk_line_stride=1), (ErrorCode.WINDOW, Unit.STORE, 0x8000)),
]


def fresh(**fields):
    return epilogue(**{"out_format": OutFormat.E4M3, "parts": 1} | fields)


# Of a chip with block scaling.
SCALED_ERRORS = [
    (epilogue(out_format=6), (ErrorCode.FIELD, Unit.EPILOGUE, 6)),
    (epilogue(out_format=OutFormat.INT32, float=1), (ErrorCode.FIELD, Unit.EPILOGUE, 1)),
    *((fresh(parts=parts), (ErrorCode.FIELD, Unit.EPILOGUE, parts)) for parts in (0, 17, 127)),
    (fresh(parts=2, bias=1), (ErrorCode.FIELD, Unit.EPILOGUE, 2)),
    (fresh(parts=3, scale_mode=ScaleMode.COLUMN), (ErrorCode.FIELD, Unit.EPILOGUE, 3)),
    (fresh(parts=0, count1=0), (ErrorCode.FIELD, Unit.EPILOGUE, 0)),
    (epilogue(out_format=OutFormat.BF16, out_line=63, out_step=1),
     (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (fresh(parts=4, acc_line=30, part_stride=1), (ErrorCode.ACCUMULATOR_RANGE, Unit.EPILOGUE, 32)),
    (fresh(parts=4, out_line=2, out_step=-1), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, -1)),
    (fresh(scale_line=64), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (fresh(scale_line=63, count2=9), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    # A pixel's parts come one after the other, each its accumulators first, and the scale last.
    (fresh(parts=2, acc_line=31, part_stride=1, out_line=80), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 80)),
    (fresh(parts=2, acc_line=31, part_stride=1, scale_line=80), (ErrorCode.ACCUMULATOR_RANGE, Unit.EPILOGUE, 32)),
    (fresh(parts=2, out_line=63, out_step=1, scale_line=80), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
    (fresh(count2=2, acc_line=31, acc_stride2=1, scale_line=80), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 80)),
    (fresh(count2=9, acc_line=24, acc_stride2=1, scale_line=63), (ErrorCode.ACCUMULATOR_RANGE, Unit.EPILOGUE, 32)),
    (fresh(count2=9, out_line=8, out_stride2=-1, scale_line=63), (ErrorCode.SCRATCHPAD_RANGE, Unit.EPILOGUE, 64)),
]


@pytest.mark.parametrize("config, instruction, expected", [
    *((CONFIG, *error) for error in ERRORS), *((SCALED, *error) for error in SCALED_ERRORS)])
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
    for device, instruction, (code, unit, address) in (*((chip, *error) for error in ERRORS),
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
        "configuration (LOAD chunk_bytes=8 row_bytes=8 rows=3 planes=1 line=3 row_line_stride=-2 signal={2})")


@pytest.mark.parametrize("fields, message", [
    ({"memory": np.zeros(8, np.int8)}, "memory must be a uint8 array of one dimension, not int8"),
    ({"memory": b"abc"}, "memory must be a uint8 array of one dimension, not bytes"),
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
    with pytest.raises(ValueError, match=message):
        Job(**good | fields)
