"""The epilogue against numpy: random instructions, stalled ports, errors, abort, throughput."""

from collections import deque

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

import harness
from harness import Bench, cycles, port
from kiwicha import ChipConfig
from kiwicha.config import READ_LATENCY
from kiwicha.control.unit import ErrorReport
from kiwicha.epilogue.unit import EpilogueUnit
from kiwicha.isa import Activity, ErrorCode, OutFormat, ScaleMode, ScaleRule, Unit, unit_layout

LAYOUT = unit_layout(Unit.EPILOGUE)
NAN = 0x7FC00000
FLOATS = [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x2F800000, 0x3F800000,
          0xBF800000, 0x3F000000, 0x3EAAAAAB, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, NAN, 0xFFC00001,
          0x40490FDB, 0x358637BD, 0xB58637BD]
INTS = [0, 1, -1, 2, 3, 127, 128, -128, -129, (1 << 24) + 1, -(1 << 24) - 1, (1 << 31) - 1, -(1 << 31),
        (1 << 31) - 64]


# What results are, in numpy; independent of the hardware and of the host's reference.

def order(bits):
    """Keys that sort FP32 bits by totalOrder: through the sign and magnitude, as int64."""
    bits = np.asarray(bits, np.uint32).astype(np.int64)
    magnitude = bits & 0x7FFFFFFF
    return np.where(bits >> 31, -1 - magnitude, magnitude)


def unorder(keys):
    return np.where(keys < 0, (-1 - keys) | 1 << 31, keys).astype(np.uint32)


FRESH = (OutFormat.E4M3, OutFormat.E2M1)
#: The magnitudes of an element format, by code; its sign's bit; its largest exponent; the largest fraction there.
ELEMENTS = {
    OutFormat.E4M3: ([(code % 8 + 8 * (code > 7)) * 2.0 ** (max(code >> 3, 1) - 10) for code in range(127)],
                     7, 8, 1.75),
    OutFormat.E2M1: ([0, 0.5, 1, 1.5, 2, 3, 4, 6], 3, 2, 1.5),
}


def formats(config):
    """What results can be in a chip of `config`."""
    if not config.block_scaled:
        return [OutFormat.INT8, OutFormat.INT32, OutFormat.FP32]
    return [form for form in OutFormat if form not in FRESH or not config.columns & (config.columns - 1)]


def result_lines(config, form):
    """Lines of a result; of one part, if there are parts."""
    size = {OutFormat.INT32: 4, OutFormat.FP32: 4, OutFormat.BF16: 2}.get(form, 1)
    return -(-size * config.columns // config.line_bytes)


def real_sums(f, acc, bias):
    """Accumulators plus bias, as FP32."""
    if not f["float"]:
        total = acc.astype(np.int64) + (bias if f["bias"] else 0)
        return ((total + (1 << 31)) % (1 << 32) - (1 << 31)).astype(np.float32)
    with np.errstate(all="ignore"):
        return acc.view(np.float32) + bias.view(np.float32) if f["bias"] else acc.view(np.float32)


def maxima(f, acc, bias, scale):
    """Results before their conversion, as bits, from a window's accumulators [elements, columns]."""
    low, high = np.uint32(f["clamp_low"]), np.uint32(f["clamp_high"])
    if f["out_format"] == OutFormat.INT32:
        total = acc.astype(np.int64) + (bias if f["bias"] else 0)
        keys = (total + (1 << 31)) % (1 << 32) - (1 << 31)
        bounds = [int(x.view(np.int32)) for x in (low, high)]
    else:
        real = real_sums(f, acc, bias)
        with np.errstate(all="ignore"):
            if f["scale_mode"] == ScaleMode.SCALAR:
                real = real * np.uint32(f["scale"]).view(np.float32)
            elif f["scale_mode"] == ScaleMode.COLUMN:
                real = real * scale
        bits = np.where(np.isnan(real), np.uint32(NAN), real.view(np.uint32))
        keys, bounds = order(bits), [int(order(x)) for x in (low, high)]
    if f["clamp"]:
        keys = np.minimum(np.maximum(keys, bounds[0]), bounds[1])
    keys = keys.max(axis=0)
    return keys.astype(np.int32).view(np.uint32) if f["out_format"] == OutFormat.INT32 else unorder(keys)


def model(config, f, acc, bias, scale):
    """The lines of one pixel, from its window's accumulators [elements, columns]."""
    bits = maxima(f, acc, bias, scale)
    if f["out_format"] == OutFormat.INT8:
        real = bits.view(np.float32).astype(np.float64)
        steps = np.rint(np.clip(np.where(np.isnan(real), 0, real), -1e6, 1e6)) + f["zero_point"]
        raw = np.clip(steps, -128, 127).astype(np.int8).tobytes()
    elif f["out_format"] == OutFormat.BF16:
        wide = bits.astype(np.int64)
        rounded = (wide + 0x7FFF + (wide >> 16 & 1)) >> 16
        raw = np.where(np.isnan(bits.view(np.float32)), 0x7FC0, rounded).astype(np.uint16).tobytes()
    else:
        raw = bits.tobytes()
    raw += bytes(-len(raw) % config.line_bytes)
    return [raw[at:at + config.line_bytes] for at in range(0, len(raw), config.line_bytes)]


def fresh_model(config, f, parts):
    """The lines of one pixel and its scale, from the bits of each part's results."""
    values, sign_bit, largest, fraction = ELEMENTS[f["out_format"]]
    real = np.concatenate(parts).view(np.float32).astype(np.float64)
    if not np.isfinite(real).all():
        scale, codes = 255, np.zeros(real.shape, int)
    else:
        amax = np.abs(real).max()
        exponent = int(np.floor(np.log2(amax))) if amax else -1000
        above = f["scale_rule"] == ScaleRule.RCEIL and amax > fraction * 2.0 ** exponent
        scale = max(0, exponent - largest + above + 127)
        magnitudes = np.abs(real) / 2.0 ** (scale - 127)
        middles = (np.array(values[1:]) + np.array(values[:-1])) / 2
        down, up = (np.searchsorted(middles, magnitudes, side) for side in ("left", "right"))
        codes = np.where(down % 2, up, down) | np.signbit(real) << sign_bit
    if f["out_format"] == OutFormat.E2M1:
        codes = codes[::2] | codes[1::2] << 4
    lines = codes.astype(np.uint8).reshape(len(parts), -1)
    return [line.tobytes().ljust(config.line_bytes, b"\0") for line in lines], scale


class Fault(Exception):
    pass


def expected(config, f, accumulator, scratchpad):
    """Writes (line, bytes) in order; the error, or None; and how many accumulator lines are read."""
    writes, reads = [], 0
    try:
        check_fields(config, f)
        bias, scale = parameters(config, f, scratchpad)
        steps = -(-config.columns // config.epilogue_lanes)
        fresh = f["out_format"] in FRESH
        scales, scale_line = b"", f["scale_line"]
        for i3 in range(f["count3"]):
            for i2 in range(f["count2"]):
                results = []
                for part in range(f["parts"] if fresh else 1):
                    origin = (f["acc_line"] + i2 * f["acc_stride2"] + i3 * f["acc_stride3"]
                              + part * f["part_stride"])
                    lines = [origin + i0 * f["acc_stride0"] + i1 * f["acc_stride1"]
                             for i1 in range(f["count1"]) for i0 in range(f["count0"])]
                    for line in lines:
                        within(line, config.accumulator_lines, ErrorCode.ACCUMULATOR_RANGE)
                    reads += len(lines) * steps
                    first = f["out_line"] + i2 * f["out_stride2"] + i3 * f["out_stride3"]
                    if fresh:
                        line = first + part * f["out_step"]
                        within(line, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
                        results.append((line, maxima(f, accumulator[lines], bias, scale)))
                        continue
                    for number, data in enumerate(model(config, f, accumulator[lines], bias, scale)):
                        line = first + number * f["out_step"]
                        within(line, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
                        writes.append((line, data))
                if not fresh:
                    continue
                # A pixel whose last read cannot be made is not written at all.
                within(scale_line, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
                lines, code = fresh_model(config, f, [bits for _, bits in results])
                writes += [(line, data) for (line, _), data in zip(results, lines, strict=True)]
                scales += bytes([code])
                if len(scales) == config.line_bytes or (i2, i3) == (f["count2"] - 1, f["count3"] - 1):
                    writes.append((scale_line, scales.ljust(config.line_bytes, b"\0")))
                    scales, scale_line = b"", scale_line + 1
    except Fault as fault:
        return writes, fault.args, reads
    return writes, None, reads


def check_fields(config, f):
    form, mode = f["out_format"], f["scale_mode"]
    per_column = f["bias"] or mode == ScaleMode.COLUMN
    for wrong, value in (
            (form not in formats(config), form),
            (not isinstance(mode, ScaleMode) or (form == OutFormat.INT32 and mode != ScaleMode.NONE), mode),
            (f["float"] and (form == OutFormat.INT32 or not config.block_scaled), f["float"]),
            (form in FRESH and (not 1 <= f["parts"] <= 128 // config.columns or (f["parts"] > 1 and per_column)),
             f["parts"]),
            (0 in (f["count0"], f["count1"], f["count2"], f["count3"]), 0)):
        if wrong:
            raise Fault(ErrorCode.FIELD, getattr(value, "value", value))


def within(line, depth, code):
    if not 0 <= line < depth:
        raise Fault(code, line)


def parameters(config, f, scratchpad):
    lines = -(-4 * config.columns // config.line_bytes)
    at, found = f["param_line"], []
    for wanted, kind in ((f["bias"], np.int32), (f["scale_mode"] == ScaleMode.COLUMN, np.float32)):
        if wanted:
            for line in range(at, at + lines):
                within(line, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
            found.append(scratchpad[at:at + lines].reshape(-1)[:4 * config.columns].view(kind))
            at += lines
        else:
            found.append(None)
    return found


# The memories and the control unit around the epilogue.

class Surroundings:
    """Accumulators, scratchpad and control: answers reads, records writes, watches the rules."""

    def __init__(self, dut, config, label):
        self.dut, self.config = dut, config
        self.random = harness.rng(label)
        self.clk = port(dut, "clk")
        self.instructions = deque()
        self.p_acc = self.p_params = self.p_write = self.p_valid = 1.0
        self.accumulator = np.zeros((config.accumulator_lines, config.columns), np.int32)
        self.scratchpad = np.zeros((config.scratchpad_lines, config.line_bytes), np.uint8)
        self.writes, self.retired = [], []      # retired: how many writes there were by then
        self.acc_reads, self.write_cycles = [], []
        self.cycle = 0
        self.activity = []
        self.aborting = self.abort_asked = False
        self.error = None

    def fill(self):
        random = np.random.default_rng(self.random.getrandbits(64))
        for array, edges in ((self.accumulator, INTS), (self.scratchpad.view(np.int32), INTS)):
            shape = array.shape
            values = random.integers(-(1 << 31), 1 << 31, shape) >> random.integers(0, 32, shape)
            array[:] = np.where(random.random(shape) < 0.2, random.choice(edges, shape), values)
        if self.config.block_scaled:
            self.fill_floats(random)
        # Half of the scratchpad's lines hold floats, for scales.
        words = self.scratchpad.view(np.uint32)
        half = words[len(words) // 2:]
        near_one = random.integers(0, 1 << 32, half.shape) & 0x8FFFFFFF | 0x30000000
        half[:] = np.where(random.random(half.shape) < 0.3, random.choice(FLOATS, half.shape), near_one)

    def fill_floats(self, random):
        """Most accumulators as FP32: often small numbers of one size, of which a few are special."""
        shape = self.accumulator.shape
        middle, spread = random.choice([1, 5, 20, 127, 127, 240]), random.choice([1, 3, 30])
        exponents = np.clip(middle + random.integers(-spread, spread + 1, shape), 0, 254)
        bits = random.integers(0, 1 << 32, shape) & 0x807FFFFF | exponents << 23
        # Often those with which rounding decides.
        short = random.random(shape) < 0.5
        bits = np.where(short, bits & (-1 << random.choice([17, 18, 19, 20, 22])), bits)
        special = random.random(shape) < random.choice([0, 0.003, 0.3])
        bits = np.where(special, random.choice(FLOATS, shape), bits)
        zero = random.random((len(bits), 1)) < 0.1
        bits = np.where(zero, bits & 1 << 31, bits)
        lines = random.random((len(bits), 1)) < random.choice([0.5, 1])
        self.accumulator[:] = np.where(lines, bits.astype(np.uint32).view(np.int32), self.accumulator)

    def send(self, instructions):
        self.instructions.extend(harness.pack(LAYOUT, fields) for fields in instructions)

    def start(self):
        cocotb.start_soon(self._run())

    async def _run(self):
        get = {name: port(self.dut, name) for name in (
            "acc__request__valid", "acc__request__payload", "params__request__valid",
            "params__request__payload", "write__request__valid", "write__request__payload", "control__retire",
            "control__error", "control__quiet", "control__activity", "control__progress", "control__i__ready")}
        ready = {name: port(self.dut, f"{name}__request__ready") for name in ("acc", "params", "write")}
        answers = {name: [None] * (READ_LATENCY - 1) for name in ("acc", "params")}
        stores = {"acc": self.accumulator, "params": self.scratchpad}
        held, offered = None, False
        while True:
            self.aborting = self.abort_asked
            port(self.dut, "control__abort").value = int(self.aborting)
            if self.aborting:
                self.instructions.clear()
            offered = bool(self.instructions) and (offered or self.random.random() < self.p_valid)
            port(self.dut, "control__i__valid").value = int(offered)
            port(self.dut, "control__i__payload").value = (
                self.instructions[0] if offered else self.random.getrandbits(LAYOUT.size))
            now = {"acc": self.random.random() < self.p_acc, "params": self.random.random() < self.p_params,
                   "write": self.random.random() < self.p_write}
            for name, value in now.items():
                ready[name].value = int(value)
            await RisingEdge(self.clk)
            self.cycle += 1
            if offered and get["control__i__ready"].value == 1:
                assert not self.aborting, "an instruction taken during abort"
                self.instructions.popleft()
                offered = False
            took = {}
            for name, store in stores.items():
                took[name] = now[name] and get[f"{name}__request__valid"].value == 1
                line = int(get[f"{name}__request__payload"].value) if took[name] else None
                if took[name]:
                    assert line < len(store), f"{name} reads line {line}"
                answer = answers[name].pop(0)
                answers[name].append(line)
                port(self.dut, f"{name}__valid").value = int(answer is not None)
                port(self.dut, f"{name}__data").value = (
                    int.from_bytes(store[answer].tobytes(), "little") if answer is not None
                    else self.random.getrandbits(8 * store[0].nbytes))
            if took["acc"]:
                self.acc_reads.append(self.cycle)
            if get["control__retire"].value == 1:
                self.retired.append(len(self.writes))
            valid = get["write__request__valid"].value == 1
            payload = int(get["write__request__payload"].value) if valid else None
            if held is not None and not self.aborting:
                assert payload == held, "write changed while it waited"
            held = payload if valid and not now["write"] else None
            if valid and now["write"]:
                assert not self.aborting, "a write after abort"
                self.writes.append((payload & 0xFFFF, (payload >> 16).to_bytes(self.config.line_bytes, "little")))
                self.write_cycles.append(self.cycle)
            self._watch(get, took, valid and now["write"])

    def _watch(self, get, took, wrote):
        activity = Activity(int(get["control__activity"].value))
        quiet = get["control__quiet"].value == 1
        self.activity.append(activity)
        assert (activity == Activity.IDLE) == quiet, f"{activity} while quiet is {quiet}"
        assert (activity == Activity.BUSY) == bool(took["acc"]), f"{activity} while reading is {took['acc']}"
        if any(took.values()) or wrote or get["control__retire"].value == 1:
            assert get["control__progress"].value == 1, "progress is low while something moves"
        report = harness.unpack(ErrorReport, int(get["control__error"].value))
        if self.error is not None and not self.aborting:
            assert report == self.error, "the error changed"
        self.error = report if report["valid"] else None

    def until(self, condition, limit):
        async def wait():
            for _ in range(limit):
                if condition():
                    return
                await RisingEdge(self.clk)
            raise AssertionError(f"not done within {limit} cycles")
        return wait()

    async def run(self, instructions, limit=20000):
        """Run instructions to the end of all, or to an error, and check every write; gives the error."""
        self.writes, self.retired, self.acc_reads, self.write_cycles, self.activity = [], [], [], [], []
        first = self.cycle
        want, ends, error, reads = [], [], None, 0
        for fields in instructions:
            writes, fault, read = expected(self.config, fields, self.accumulator, self.scratchpad)
            want += writes
            reads += read
            if fault:
                error = {"valid": 1, "code": fault[0], "index": fields["index"],
                         "address": fault[1] % (1 << 64)}
                break
            ends.append(len(want))
        self.send(instructions)
        await self.until(lambda: self.error is not None or len(self.retired) >= len(instructions), limit)
        await cycles(self.dut, 60 if error else 2)
        names = [f"{line:#x}: {data.hex()}" for line, data in self.writes]
        wanted = [f"{line:#x}: {data.hex()}" for line, data in want]
        for number, (got, right) in enumerate(zip(names, wanted, strict=False)):
            which = next((i for i, end in enumerate(ends) if number < end), len(ends))
            assert got == right, f"write {number}: {got}, not {right}; {instructions[which]}"
        assert len(names) == len(wanted), f"{len(names)} writes, not {len(wanted)}"
        assert self.error == error, f"error {self.error}, not {error}"
        assert self.retired == ends, f"retired at writes {self.retired}, not {ends}"
        if error is None:
            assert len(self.acc_reads) == reads, f"{len(self.acc_reads)} reads, not {reads}"
            assert port(self.dut, "control__quiet").value == 1
        else:
            assert port(self.dut, "control__quiet").value == 0
        self.elapsed = self.cycle - first
        return error

    async def abort(self, limit=100):
        """Abort until quiet; what the driver still offers is dropped as well."""
        self.abort_asked = True
        await cycles(self.dut, 2)
        await self.until(lambda: port(self.dut, "control__quiet").value == 1, limit)
        self.abort_asked = False
        await cycles(self.dut, 2)
        assert self.error is None


async def surround(dut, label):
    config = harness.current().params["config"]
    await harness.start(dut)
    around = Surroundings(dut, config, label)
    around.fill()
    around.start()
    return around


# Instructions.

def instruction(config, random, index=0, **fixed):
    """A random instruction without errors."""
    f = {"index": index, "out_format": random.choice(formats(config)), "bias": random.getrandbits(1),
         "scale_mode": random.choice(list(ScaleMode)), "clamp": random.getrandbits(1),
         "zero_point": random.choice([0, -128, 127, random.randint(-128, 127)]),
         "count0": random.choice([1, 1, 2, 3]), "count1": random.choice([1, 1, 2, 3]),
         "count2": random.choice([1, 2, 3, 7]), "count3": random.choice([1, 1, 2, 3]),
         "float": int(config.block_scaled and random.random() < 0.7), "scale_rule": random.choice(list(ScaleRule)),
         "parts": random.choice([0, 1, 127]), "part_stride": random.randint(-9, 9),
         "scale_line": random.getrandbits(16)}
    f |= fixed
    if f["out_format"] == OutFormat.INT32:
        f["scale_mode"], f["float"] = fixed.get("scale_mode", ScaleMode.NONE), fixed.get("float", 0)
    lines = result_lines(config, f["out_format"])
    small = [0, 1, -1, 2, 3, -5]
    parts = []
    if f["out_format"] in FRESH:
        most = 128 // config.columns
        f["parts"] = lines = fixed.get("parts", random.choice([1, 2, max(1, most // 4), most]))
        # More work a pixel, fewer of them; but often more than one line of scales.
        less = {"count1": 1, "count3": 1} if lines > 4 else {"count2": random.choice([1, 7, 20])}
        f |= {name: count for name, count in less.items() if name not in fixed}
        if lines > 1:
            f["bias"] = fixed.get("bias", 0)
            f["scale_mode"] = fixed.get("scale_mode", random.choice([ScaleMode.NONE, ScaleMode.SCALAR]))
        for name in ("part_stride", "scale_line"):
            if name not in fixed:
                del f[name]
        parts = [("part_stride", lines)]
        place(f, random, "scale_line", config.scratchpad_lines,
              [("", -(-f["count2"] * f["count3"] // config.line_bytes))], [1])
    place(f, random, "acc_line", config.accumulator_lines,
          [(f"acc_stride{level}", f[f"count{level}"]) for level in range(4)] + parts, small)
    place(f, random, "out_line", config.scratchpad_lines,
          [("out_stride2", f["count2"]), ("out_stride3", f["count3"]), ("out_step", lines)], small)
    param = -(-4 * config.columns // config.line_bytes)
    half = config.scratchpad_lines // 2
    f["param_line"] = random.randint(half - 2 * param, config.scratchpad_lines - 2 * param)
    f["scale"] = random.choice([*FLOATS, 0x3F800000, 0x3F800000 - random.getrandbits(27), random.getrandbits(32)])
    if f["out_format"] == OutFormat.INT32:
        bounds = [random.choice([*INTS, random.randint(-1000, 1000)]) & 0xFFFFFFFF for _ in range(2)]
    else:
        bounds = [random.choice([*FLOATS, 0xC2480000, 0x42C80000]) for _ in range(2)]
    if random.random() < 0.9:
        bounds.sort(key=order if f["out_format"] != OutFormat.INT32 else lambda x: x ^ 1 << 31)
    f["clamp_low"], f["clamp_high"] = bounds
    f.pop("", None)
    return f | fixed


def place(f, random, base, depth, levels, strides):
    """Choose strides, and a base with which all lines of the walk exist; often the first or the last."""
    low = high = 0
    for name, count in levels:
        # Of many iterations, with strides that stay inside.
        f.setdefault(name, random.choice([stride for stride in strides if abs(stride) * count < depth // 2]))
        reach = (count - 1) * f[name]
        low, high = low + min(0, reach), high + max(0, reach)
    if base not in f:
        f[base] = random.choice([-low, depth - 1 - high, random.randint(-low, depth - 1 - high)])


@cocotb.test()
@cocotb.parametrize(stalls=["none", "some", "many"])
async def random_instructions(dut, stalls):
    around = await surround(dut, stalls)
    random = harness.rng(f"instructions {stalls}")
    for round_ in range(12):
        if stalls != "none":
            choices = [1, 0.8, 0.5] if stalls == "some" else [0.3, 0.1, 1]
            around.p_acc, around.p_params, around.p_write = (random.choice(choices) for _ in range(3))
        around.p_valid = random.choice([1, 0.3, 0.05])
        batch = [instruction(around.config, random, index=100 * round_ + i) for i in range(12)]
        await around.run(batch, limit=100_000)
        around.fill()


@cocotb.test()
async def extremes(dut):
    """Every edge of the accumulators with every edge of the scales, in every format."""
    around = await surround(dut, "extremes")
    random = harness.rng("extreme instructions")
    columns = around.config.columns
    edges = np.resize(INTS, (-(-len(INTS) // columns), columns))
    around.accumulator[:len(edges)] = edges
    batch = [instruction(around.config, random, index=i, out_format=form, scale_mode=ScaleMode.SCALAR,
                         scale=scale, bias=0, clamp=clamp, acc_line=0, acc_stride2=1, count0=1, count1=1,
                         count2=len(edges), count3=1, out_line=20, out_stride2=4, out_step=1)
             for i, (scale, clamp, form) in enumerate(
                 (scale, clamp, form) for scale in FLOATS for clamp in (0, 1)
                 for form in formats(around.config) if form != OutFormat.INT32)]
    await around.run(batch)


@cocotb.test()
async def like_onnx(dut):
    """Ties of the kind that quantised networks meet: factors with few bits, every zero point's sign."""
    around = await surround(dut, "onnx")
    random = harness.rng("onnx instructions")
    shape = around.accumulator.shape
    around.accumulator[:] = np.arange(shape[0] * shape[1]).reshape(shape) - shape[0] * shape[1] // 2
    batch = [instruction(around.config, random, index=i, out_format=OutFormat.INT8, scale=scale,
                         scale_mode=ScaleMode.SCALAR, zero_point=zero, clamp=0, count0=1, count1=1, count2=20,
                         count3=1, acc_line=shape[0] // 2 - 10, acc_stride2=1)
             for i, (scale, zero) in enumerate((s, z) for s in (0x3F000000, 0x3E800000, 0x3F400000, 0x3F800000)
                                               for z in (0, 1, -128, 127, -7))]
    await around.run(batch)


def run_of(config, random, form, pixels, window=1, **fixed):
    # There are not enough lines for all parts of all pixels.
    lines = 0 if form in FRESH else result_lines(config, form)
    fixed = {"out_line": 0, "out_stride2": lines, "out_step": 1, "part_stride": 1} | fixed
    return instruction(config, random, out_format=form, count0=window, count1=1, count2=pixels, count3=1,
                       acc_line=0, acc_stride0=1, acc_stride2=0, **fixed)


@cocotb.test()
async def one_read_per_cycle(dut):
    around = await surround(dut, "throughput")
    random = harness.rng("throughput instructions")
    config = around.config
    steps = -(-config.columns // config.epilogue_lanes)
    for form in formats(config):
        if form in FRESH:
            continue
        for window in (1, 3):
            pixels = 24
            await around.run([run_of(config, random, form, pixels, window, scale_mode=ScaleMode.NONE)])
            took = around.acc_reads[-1] - around.acc_reads[0] + 1
            assert took == pixels * window * steps, f"{form}: {pixels} pixels took {took} cycles"
            latency = around.write_cycles[-1] - around.acc_reads[-1]
            assert latency == harness.current().params["latency"], f"latency {latency}"
            assert around.activity.count(Activity.BUSY) == took


@cocotb.test()
async def one_read_per_cycle_with_fresh_scales(dut):
    around = await surround(dut, "fresh throughput")
    random = harness.rng("fresh throughput instructions")
    config = around.config
    steps = -(-config.columns // config.epilogue_lanes)
    for form in set(FRESH) & set(formats(config)):
        for window, block in ((1, 32), (1, 128), (2, 32), (1, config.columns)):
            pixels, parts = 24, block // config.columns
            await around.run([run_of(config, random, form, pixels, window, parts=parts,
                                     scale_mode=ScaleMode.NONE)])
            took = around.acc_reads[-1] - around.acc_reads[0] + 1
            assert took == pixels * parts * window * steps, f"{form}: {pixels} pixels took {took} cycles"
            latency = around.write_cycles[-1 - parts] - around.acc_reads[-1]
            assert latency == harness.current().params["fresh_latency"], f"latency {latency}"
            # All lines of the last pixel, and the scales right behind them.
            tail = np.diff(around.write_cycles[-1 - parts:])
            assert (tail == [*[steps] * (parts - 1), 1]).all(), tail
    if not set(FRESH) <= set(formats(config)):
        return
    # From one instruction to the next, of any block's size; and where the datapath must run empty.
    most = 128 // config.columns
    alone = most * steps + harness.current().params["fresh_latency"] + 8
    for forms, gap in (((OutFormat.E4M3, OutFormat.E2M1, OutFormat.E4M3), 2),
                       ((OutFormat.E2M1, OutFormat.BF16, OutFormat.E4M3), alone)):
        batch = [run_of(config, random, form, 24, parts=parts, bias=0,
                        scale_mode=ScaleMode.NONE) for form, parts in zip(forms, (most, 1, 1), strict=True)]
        await around.run(batch)
        assert np.diff(around.acc_reads).max() <= gap


@cocotb.test()
async def bubbles_between_instructions(dut):
    around = await surround(dut, "bubbles")
    random = harness.rng("bubble instructions")
    config = around.config
    lines = -(-4 * config.columns // config.line_bytes)
    # Long ones: the next is prepared meanwhile. Short ones: preparing is all it takes.
    for pixels, most in ((24, 2), (1, 2 * lines + 10)):
        batch = [run_of(config, random, OutFormat.INT8, pixels, 1, bias=1, scale_mode=ScaleMode.COLUMN)
                 for _ in range(10)]
        await around.run(batch)
        reads = np.array(around.acc_reads)
        gaps = np.diff(reads)[len(reads) // 10 - 1::len(reads) // 10]
        assert gaps.max() <= most, f"{pixels} pixels: {gaps} cycles from one instruction to the next"
    # An instruction alone, from its acceptance to its end.
    await around.run(batch[:1])
    steps = -(-config.columns // config.epilogue_lanes)
    assert around.elapsed <= 2 * lines + 10 + steps + harness.current().params["latency"] + 6, around.elapsed


@cocotb.test()
async def stalled_output_keeps_everything(dut):
    """No write for a long while in the middle of a stream: the reads stop in time, nothing is lost."""
    around = await surround(dut, "stalled")
    random = harness.rng("stalled instructions")
    for form in formats(around.config):
        around.p_write = 0
        under_way = harness.current().params["under_way"]
        pixels = min(2 * under_way, around.config.scratchpad_lines // result_lines(around.config, form))
        batch = [run_of(around.config, random, form, pixels, scale_mode=ScaleMode.NONE) for _ in range(2)]
        job = cocotb.start_soon(around.run(batch, limit=100_000))
        steps = -(-around.config.columns // around.config.epilogue_lanes)
        await cycles(dut, 100 + (under_way + 8) * steps)
        assert around.activity[-1] == Activity.QUEUE
        assert not around.writes
        around.p_write = 1
        assert await job is None


def errors(config, random):
    """Instructions with one error each."""
    def make(**fixed):
        return instruction(config, random, index=random.getrandbits(24), **fixed)
    good = {"count0": 2, "count1": 1, "count2": 3, "count3": 2}
    acc, pad = config.accumulator_lines, config.scratchpad_lines
    lines = -(-4 * config.columns // config.line_bytes)
    yield from (make(out_format=value, scale_mode=ScaleMode.NONE) for value in range(8)
                if value not in {form.value for form in formats(config)})
    yield make(float=1, out_format=OutFormat.INT32, scale_mode=ScaleMode.NONE)
    if not config.block_scaled:
        yield from (make(float=1, out_format=form, scale_mode=ScaleMode.NONE) for form in formats(config))
    yield make(scale_mode=3, out_format=OutFormat.INT8)
    yield from (make(out_format=OutFormat.INT32, scale_mode=mode) for mode in (1, 2, 3))
    yield from (make(**(good | {f"count{level}": 0})) for level in range(4))
    yield make(**good, acc_line=acc - 1, acc_stride0=1)
    yield make(**good, acc_line=0, acc_stride0=-1)
    yield make(**good, acc_line=65535, acc_stride0=32767, acc_stride2=32767)
    yield make(**good, acc_line=4, acc_stride0=0, acc_stride1=0, acc_stride2=-1, acc_stride3=-3)
    yield make(**good, acc_line=0, acc_stride0=1, acc_stride2=-32768, acc_stride3=0)
    for form in formats(config):
        mode = {"out_format": form, "scale_mode": ScaleMode.NONE}
        yield make(**good, **mode, out_line=pad - 1, out_stride2=1, out_stride3=0, out_step=0)
        yield make(**good, **mode, out_line=1, out_stride2=-1, out_stride3=0, out_step=0)
        yield make(**good, **mode, out_line=0, out_stride2=0, out_stride3=-1, out_step=0)
        if pad < 1 << 16:
            yield make(**good, **mode, out_line=pad)
            yield make(**good, **mode, out_line=65535)
    if set(FRESH) <= set(formats(config)):
        yield from fresh_errors(config, make)
    if lines > 1:
        yield make(**good, out_format=OutFormat.FP32, out_line=pad - 2, out_stride2=0, out_stride3=0, out_step=2)
        yield make(**good, out_format=OutFormat.INT32, out_line=0, out_stride2=0, out_stride3=0, out_step=-1)
    # The bias fits and the scale does not; then the bias does not.
    mode = {"out_format": OutFormat.FP32, "scale_mode": ScaleMode.COLUMN, "bias": 1}
    yield make(**good, **mode, param_line=pad - lines)
    yield make(**good, **mode, param_line=pad - 1 if lines > 1 else pad)
    yield make(**good, **(mode | {"bias": 0}), param_line=pad - lines + 1)


def fresh_errors(config, make):
    """The same, of fresh scales."""
    most, pad, acc = 128 // config.columns, config.scratchpad_lines, config.accumulator_lines
    plain = {"bias": 0, "scale_mode": ScaleMode.NONE, "count0": 1, "count1": 1, "acc_line": 0}
    for form in FRESH:
        yield from (make(out_format=form, parts=parts, **plain, part_stride=0, out_step=0)
                    for parts in (0, most + 1, 127))
        yield make(out_format=form, **plain | {"bias": 1}, parts=2, part_stride=0)
        yield make(out_format=form, **plain | {"scale_mode": ScaleMode.COLUMN}, parts=2, part_stride=0)
        # In the middle of a pixel: its accumulators, or its lines.
        walk = {"out_format": form, "parts": min(4, most), **plain, "count2": 2 * config.line_bytes, "count3": 1}
        inside = {"acc_stride2": 0, "out_line": 8, "out_stride2": 0, "out_step": 1}
        yield make(**walk | {"acc_line": acc - 2}, part_stride=1, **inside)
        yield make(**walk, part_stride=-1, **inside)
        yield make(**walk, part_stride=0, **inside | {"out_line": pad - 2})
        yield make(**walk, part_stride=0, **inside | {"out_line": config.line_bytes + 1, "out_step": 0,
                                                      "out_stride2": -1})
        # The first line of scales, or the second; the pixel's own line comes before it.
        for line in (pad, 65535):
            if line < 1 << 16:
                yield make(**walk, part_stride=0, scale_line=line, **inside)
        yield make(**walk, part_stride=0, scale_line=pad - 1, **inside)
        yield make(**walk, part_stride=0, scale_line=pad - 1, **inside | {
            "out_line": config.line_bytes - 1, "out_step": 0, "out_stride2": -1})


@cocotb.test()
async def errors_then_a_good_end(dut):
    """Good instructions before an error end; the error is told once, in order; after abort all is well."""
    around = await surround(dut, "errors")
    random = harness.rng("error instructions")
    for bad in errors(around.config, random):
        around.p_acc, around.p_params, around.p_write = (random.choice([1, 1, 0.4]) for _ in range(3))
        before = [instruction(around.config, random, index=i) for i in range(random.randrange(3))]
        after = [instruction(around.config, random, index=50)]
        error = await around.run([*before, bad, *after])
        assert error is not None, f"meant to be an error: {bad}"
        await around.abort()
        await around.run([instruction(around.config, random, index=60)])


@cocotb.test()
async def abort_at_any_time(dut):
    around = await surround(dut, "abort")
    random = harness.rng("abort instructions")
    for delay in [*range(60), *(random.randrange(60, 400) for _ in range(20))]:
        around.p_acc, around.p_params, around.p_write = (random.choice([1, 1, 0.4, 0.02]) for _ in range(3))
        batch = [instruction(around.config, random, index=i) for i in range(5)]
        around.send(batch)
        await cycles(dut, delay)
        await around.abort()
        count = len(around.writes)
        await cycles(dut, random.choice([0, 50]))
        assert len(around.writes) == count
        if delay % 3 == 0:
            around.p_acc = around.p_params = around.p_write = 1
            await around.run([instruction(around.config, random, index=7) for _ in range(2)])


def shape_bench(columns, lanes, bus_width, testcase=(), formats=("int8",), **more):
    config = ChipConfig(name=f"c{columns}e{lanes}", rows=4, columns=columns, bus_width=bus_width,
                        epilogue_lanes=lanes, scratchpad_banks=2, formats=formats,
                        **{"bank_lines": 64, "accumulator_lines": 64, **more})
    name = f"epilogue_{columns}_{lanes}_{config.line_bytes}{'_scaled' if config.block_scaled else ''}"
    unit = EpilogueUnit(config)
    return Bench(name=name, build=lambda: EpilogueUnit(config), testcase=testcase,
                 params={"config": config, "latency": unit.latency, "under_way": unit.lines_under_way,
                         "fresh_latency": unit.fresh_latency})


SCALED = {"formats": ("int8", "e4m3", "e2m1")}

BENCHES = [
    shape_bench(4, 2, 64),
    shape_bench(8, 2, 64),
    shape_bench(16, 4, 128, bank_lines=16384, accumulator_lines=1024),
    shape_bench(5, 1, 64),
    shape_bench(32, 8, 64),
    # Several steps to a line of words, the last one in part; and the deepest column selection.
    shape_bench(7, 2, 128),
    shape_bench(18, 1, 64, testcase=["extremes", "like_onnx", "one_read_per_cycle", "bubbles_between_instructions",
                                     "stalled_output_keeps_everything"]),
    shape_bench(4, 2, 64, **SCALED),
    shape_bench(8, 2, 64, **SCALED),
    shape_bench(16, 4, 128, **SCALED),
    # The most parts, a line of each in every cycle, and lanes beyond the last column; and no fresh scales at all.
    shape_bench(2, 4, 128, testcase=["random_instructions", "extremes", "stalled_output_keeps_everything"],
                **SCALED),
    shape_bench(6, 2, 64, testcase=["random_instructions", "errors_then_a_good_end"], formats=("int8", "e2m1")),
]
