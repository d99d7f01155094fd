"""What results of the vector unit are, in numpy; independent of the hardware and of the host's reference.

But for exp2, reciprocal and rsqrt: the benches of :mod:`tb.arith` hold those to the host's.
"""

import ml_dtypes
import numpy as np

from kiwicha.isa import (
    ErrorCode,
    OperandUse,
    OutFormat,
    Reduce,
    ResultFunction,
    ScaleMode,
    ScaleRule,
    SecondSource,
    Source,
)
from kiwicha_host.golden import functions

__all__ = ["DYNAMIC_SCALE", "NAN", "bad_top", "expected", "float_sum", "formats", "largest", "order",
           "result_lines", "takes_bf16"]

NAN = 0x7FC00000
DYNAMIC_SCALE = (OutFormat.E4M3, OutFormat.E2M1, OutFormat.MXINT8)
#: The magnitudes of an element format, by code; its sign's bit, or None if codes are negated; its largest
#: exponent; the largest fraction there.
ELEMENTS = {
    OutFormat.E4M3: ([(code % 8 + 8 * (code > 7)) * 2.0 ** (max(code >> 3, 1) - 10) for code in range(127)],
                     7, 8, 1.75),
    OutFormat.E2M1: ([0, 0.5, 1, 1.5, 2, 3, 4, 6], 3, 2, 1.5),
    OutFormat.MXINT8: ([code / 64 for code in range(128)], None, 0, 127 / 64),
}


def formats(config):
    """What results can be in a chip of `config`."""
    floats = any(name.startswith("e") for name in config.formats)
    has = {OutFormat.BF16: floats or config.block_scales}
    whole_blocks = 128 % config.columns == 0
    has |= dict.fromkeys((OutFormat.E4M3, OutFormat.E2M1), floats and whole_blocks)
    has[OutFormat.MXINT8] = has[OutFormat.BF16] and whole_blocks and "int8" in config.formats
    return [form for form in OutFormat if has.get(form, True)]


def result_lines(config, form):
    """Lines of a result; of one part, if there are parts."""
    size = {OutFormat.INT32: 4, OutFormat.FP32: 4, OutFormat.BF16: 2}.get(form, 1)
    return -(-size * config.columns // config.line_bytes)


def order(bits):
    """Keys that sort FP32 bits by totalOrder: through the sign and magnitude, as int64."""
    bits = np.asarray(bits, np.uint32).astype(np.int64)
    magnitude = bits & 0x7FFFFFFF
    return np.where(bits >> 31, -1 - magnitude, magnitude)


def unorder(keys):
    return np.where(keys < 0, (-1 - keys) | 1 << 31, keys).astype(np.uint32)


def real_sums(f, acc, bias):
    """Operand A plus bias, as FP32."""
    if not f["float"]:
        return sums(f, acc, bias).astype(np.float32)
    with np.errstate(all="ignore"):
        return acc.view(np.float32) + bias.view(np.float32) if bias is not None else acc.view(np.float32)


def sums(f, acc, bias):
    """Operand A plus bias, or a window's sum and once the bias, modulo 2^32."""
    total = acc.astype(np.int64)
    if f["reduce"] == Reduce.SUM:
        total = total.sum(axis=0, keepdims=True)
    total = total + (0 if bias is None else bias)
    return (total + (1 << 31)) % (1 << 32) - (1 << 31)


def maxima(f, acc, bias, times, scale):
    """Results before their conversion, as bits, from a window's accumulators [elements, columns]."""
    low, high = np.uint32(f["clamp_low"]), np.uint32(f["clamp_high"])
    if f["out_format"] == OutFormat.INT32:
        keys = sums(f, acc, bias)
        bounds = [int(x.view(np.int32)) for x in (low, high)]
    else:
        real = real_sums(f, acc, bias)
        with np.errstate(all="ignore"):
            if times is not None:
                real = real * times
            if f["scale_mode"] == ScaleMode.SCALAR:
                real = real * np.uint32(f["scale"]).view(np.float32)
            elif scale is not None:
                real = real * scale
        bits = np.where(np.isnan(real), np.uint32(NAN), real.view(np.uint32))
        keys, bounds = order(bits), [int(order(x)) for x in (low, high)]
    if f["clamp"]:
        keys = np.minimum(np.maximum(keys, bounds[0]), bounds[1])
    keys = keys.max(axis=0)
    return keys.astype(np.int32).view(np.uint32) if f["out_format"] == OutFormat.INT32 else unorder(keys)


def converted(config, f, bits):
    """The lines of one pixel, from the bits of its results."""
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


def dynamic_scale_model(config, f, parts):
    """The lines of one pixel and its scale, from the bits of each part's results."""
    values, sign_bit, largest, fraction = ELEMENTS[f["out_format"]]
    real = np.concatenate(parts).view(np.float32).astype(np.float64)
    if not np.isfinite(real).all():
        scale, codes = 255, np.zeros(real.shape, int)
    else:
        amax = np.abs(real).max()
        exponent = int(np.floor(np.log2(amax))) if amax else -1000
        above = f["scale_rule"] == ScaleRule.RCEIL and amax > fraction * 2.0 ** exponent
        scale = min(max(0, exponent - largest + above + 127), 254)
        magnitudes = np.abs(real) / 2.0 ** (scale - 127)
        middles = (np.array(values[1:]) + np.array(values[:-1])) / 2
        down, up = (np.searchsorted(middles, magnitudes, side) for side in ("left", "right"))
        codes = np.where(down % 2, up, down)
        codes = (codes | np.signbit(real) << sign_bit if sign_bit is not None else
                 np.where(real < 0, -codes, codes) & 255)
    if f["out_format"] == OutFormat.E2M1:
        codes = codes[::2] | codes[1::2] << 4
    lines = codes.astype(np.uint8).reshape(len(parts), -1)
    return [line.tobytes().ljust(config.line_bytes, b"\0") for line in lines], scale


class Fault(Exception):
    pass


def expected(config, f, accumulator, scratchpad, tables):
    """Writes (line, bytes) in order; the error, or None; and how many reads of operand A there are.

    `tables`, uint32 [2, 256], become those that the instruction leaves.
    """
    writes = []
    try:
        check_fields(config, f)
        bias, scale = parameters(config, f, scratchpad)
        load_tables(config, f, scratchpad, tables)
        scales, scale_line = b"", f["scale_line"]
        for i3 in range(f["count3"]):
            row = []
            for i2 in range(f["count2"]):
                results = []
                for part in range(f["parts"] if f["out_format"] in DYNAMIC_SCALE else 1):
                    place = Place(config, f, i2, i3, part)
                    done, fault = place.lines_until_fault()
                    if fault is None or done:
                        stores = scratchpad, accumulator, tables
                        results.append((place.first, maxima(f, *place.operands(*stores, bias, scale))))
                    if f["row"]:
                        row += [bits for _, bits in results]
                        if place.row_ends and fault is None:
                            for number, bits in enumerate(row_bits(config, f, row)):
                                writes += as_lines(config, f, place.first + number * f["out_stride2"], bits)
                    elif f["out_format"] not in DYNAMIC_SCALE:
                        lines = as_lines(config, f, *results[0]) if done else []
                        writes += [lines[number] for number in done]
                    if fault is not None:
                        raise fault
                if f["out_format"] not in DYNAMIC_SCALE:
                    continue
                # A pixel whose last read cannot be made is not written at all.
                within(scale_line, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
                lines, byte = dynamic_scale_model(config, f, [bits for _, bits in results])
                writes += [(line, data) for (line, _), data in zip(results, lines, strict=True)]
                scales += bytes([byte])
                if len(scales) == config.line_bytes or (i2, i3) == (f["count2"] - 1, f["count3"] - 1):
                    writes.append((scale_line, scales.ljust(config.line_bytes, b"\0")))
                    scales, scale_line = b"", scale_line + 1
    except Fault as fault:
        return writes, fault.args, None
    steps = -(-config.columns // config.vector_lanes)
    parts = f["parts"] if f["out_format"] in DYNAMIC_SCALE else 1
    return writes, None, steps * parts * np.prod([f[f"count{level}"] for level in range(4)], dtype=int)


class Place:
    """A pixel, or one of its parts: the lines that it takes, and makes."""

    def __init__(self, config, f, i2, i3, part):
        self.config, self.f = config, f
        origin = f["a_line"] + i2 * f["a_stride2"] + i3 * f["a_stride3"] + part * f["part_stride"]
        self.window = [origin + i0 * f["a_stride0"] + i1 * f["a_stride1"]
                       for i1 in range(f["count1"]) for i0 in range(f["count0"])]
        own_line = f["b_source"] != SecondSource.ROW
        self.second = f["b_line"] + i2 * f["b_stride2"] * own_line + i3 * f["b_stride3"]
        self.row_begins, self.row_ends = i2 == 0, i2 == f["count2"] - 1
        self.first = (f["out_line"] + (0 if f["row"] else i2 * f["out_stride2"]) + i3 * f["out_stride3"]
                      + part * f["out_step"])
        self.words = -(-4 * config.columns // config.line_bytes)

    def lines_until_fault(self):
        """Numbers of result lines that are complete before the first line that does not exist; and that fault.

        Lines of words come in turn: A's, of a window's first place; B's; A's of other places; then results.
        """
        done = []
        try:
            for k in range(self.words):
                self.check_operands(k)
                for number in self.results_with(k):
                    line = self.first + number * self.f["out_step"]
                    within(line, self.config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
                    done.append(number)
        except Fault as fault:
            return done, fault
        return done, None

    def check_operands(self, k):
        f, config = self.f, self.config
        from_scratchpad = f["a_source"] != Source.ACCUMULATOR
        depth, code = ((config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE) if from_scratchpad else
                       (config.accumulator_lines, ErrorCode.ACCUMULATOR_RANGE))
        # Which lines of the operands this one of words comes from: BF16 have one for two.
        a_line, b_line = (k * (f[source] == words) // (1 + f[half]) for source, words, half in (
            ("a_source", Source.WORDS, "a_bf16"), ("b_source", SecondSource.WORDS, "b_bf16")))
        for number, line in enumerate(self.window):
            within(line + a_line, depth, code)
            if number == 0 and f["b_use"] != OperandUse.NONE and f["b_source"] != SecondSource.A:
                within(self.second + b_line, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
            if number == k == 0 and self.row_begins:
                # All lines of the largest of a row.
                for result, step in np.ndindex(2 * f["top"], self.words):
                    within(self.first + result * f["out_stride2"] + step * f["out_step"], config.scratchpad_lines,
                           ErrorCode.SCRATCHPAD_RANGE)

    def results_with(self, k):
        """Lines of results that are complete with the k-th line of words."""
        f, last = self.f, k == self.words - 1
        if f["out_format"] in DYNAMIC_SCALE:
            return [0] if last else []
        if f["row"] and not self.row_ends:
            return []
        size = {OutFormat.INT8: 1, OutFormat.BF16: 2}.get(f["out_format"], 4)
        return range(k * size // 4, result_lines(self.config, f["out_format"]) if last else (k + 1) * size // 4)

    def operands(self, scratchpad, accumulator, tables, bias, scale):
        """A of the window [places, columns], bias, factor and scale."""
        f, columns = self.f, self.config.columns
        index, times = 0, None
        if f["b_source"] == SecondSource.A:
            a = self.first_operand(scratchpad, accumulator, tables, 0)
            return (a, a if f["b_use"] == OperandUse.ADD else bias,
                    a.view(np.float32) if f["b_use"] == OperandUse.MULTIPLY else None, scale)
        if f["b_use"] != OperandUse.NONE:
            words = (tables[1][scratchpad[self.second, :columns]] if f["b_source"] == SecondSource.TABLE else
                     self.words_at(scratchpad, self.second, f["b_bf16"]))
            if f["b_source"] == SecondSource.ROW:
                words = np.full(columns, words[0])
            if f["b_use"] == OperandUse.ADD:
                bias = words.view(np.int32)
            elif f["b_use"] == OperandUse.MULTIPLY:
                times = words.view(np.float32)
            else:
                index = (scratchpad[self.second, :columns] if f["b_source"] == SecondSource.TABLE else
                         words & 255)
        return self.first_operand(scratchpad, accumulator, tables, index), bias, times, scale

    def first_operand(self, scratchpad, accumulator, tables, index):
        """A of the window [places, columns], as int32."""
        if self.f["a_source"] == Source.WORDS:
            return np.array([self.words_at(scratchpad, line, self.f["a_bf16"])
                             for line in self.window]).view(np.int32)
        if self.f["a_source"] == Source.ACCUMULATOR:
            return accumulator[self.window]
        codes = scratchpad[self.window, :self.config.columns]
        if self.f["a_source"] == Source.BYTES:
            return codes.view(np.int8).astype(np.int32)
        return tables[0][(codes.astype(int) - index) % 256].view(np.int32)

    def words_at(self, scratchpad, line, bf16):
        """The words of the lines from `line` on, or FP32 of BF16; anything for those that do not exist."""
        lines = np.clip(np.arange(line, line + self.words), 0, len(scratchpad) - 1)
        raw = scratchpad[lines].reshape(-1)
        if bf16:
            return raw[:2 * self.config.columns].view(ml_dtypes.bfloat16).astype(np.float32).view(np.uint32)
        return raw[:4 * self.config.columns].view(np.uint32)


def row_bits(config, f, row):
    """The results of all lines of a row, one or with `top` more, as bits, for each column."""
    last = row[-1][:f["tail"] or config.columns]
    values = np.concatenate([*row[:-1], last])
    if f["top"]:
        found, places = largest(values, f["top"])
        return [np.full(config.columns, bits, np.uint32) for bits in found + places]
    if f["out_format"] == OutFormat.FP32 and f["reduce"] == Reduce.SUM:
        result = float_sum(values)
    elif f["reduce"] == Reduce.SUM:
        result = np.uint32(int(values.astype(np.int64).sum()) % (1 << 32))
    elif f["out_format"] == OutFormat.INT32:
        result = values.view(np.int32).max().view(np.uint32)
    else:
        result = values[np.argmax(order(values))]
    return [np.full(config.columns, result, np.uint32)]


def largest(bits, count):
    """The bits of the largest FP32 numbers, one after the other, and where the first such is that is left."""
    left, found = {place: int(key) for place, key in enumerate(order(bits))}, []
    for _ in range(count):
        most = max(left.values())
        found.append(next(place for place, key in left.items() if key == most))
        del left[found[-1]]
    return [int(bits[place]) for place in found], found


def float_sum(bits):
    """The bits of an FP32 sum in pairs: so many numbers as a power of two has, and the rest, then both."""
    def of(values):
        if len(values) == 1:
            return values[0]
        first = 1 << (len(values) - 1).bit_length() - 1
        return of(values[:first]) + of(values[first:])
    with np.errstate(all="ignore"):
        result = of(np.asarray(bits, np.uint32).view(np.float32))
    return np.uint32(NAN) if np.isnan(result) else result.view(np.uint32)


def as_lines(config, f, first, bits):
    """A pixel's lines, from the bits of its results."""
    if f["function"] != ResultFunction.NONE:
        function = {ResultFunction.EXP2: functions.exp2, ResultFunction.RECIPROCAL: functions.reciprocal,
                    ResultFunction.RSQRT: functions.rsqrt}[f["function"]]
        bits = function(bits.view(np.float32)).view(np.uint32)
    return [(first + number * f["out_step"], data) for number, data in enumerate(converted(config, f, bits))]


def check_fields(config, f):
    form, mode = f["out_format"], f["scale_mode"]
    use, has_sum = f["b_use"], f["reduce"] == Reduce.SUM
    float_row_sum = has_sum and f["row"] and form == OutFormat.FP32 and config.functions
    itself = use != OperandUse.NONE and f["b_source"] == SecondSource.A
    per_column = (f["bias"] or mode == ScaleMode.COLUMN
                  or (use != OperandUse.NONE and f["b_source"] != SecondSource.ROW and not itself))
    for wrong, value in (
            (form not in formats(config), form),
            (not isinstance(mode, ScaleMode) or (form == OutFormat.INT32 and mode != ScaleMode.NONE), mode),
            (f["float"] and (form == OutFormat.INT32 or not (config.block_scaled or config.functions)
                             or (has_sum and not float_row_sum) or f["a_source"] == Source.BYTES), f["float"]),
            (f["a_source"] not in ({*Source} if config.functions else {Source.ACCUMULATOR, Source.TABLE}),
             f["a_source"]),
            (f["a_bf16"] and not (config.functions and f["a_source"] == Source.WORDS and f["float"]), 1),
            (not isinstance(use, OperandUse) or (use == OperandUse.ADD and f["bias"])
             or (use == OperandUse.MULTIPLY and (form == OutFormat.INT32
                                                 or (mode != ScaleMode.NONE and not config.functions)))
             or (use == OperandUse.INDEX and not (config.functions and f["a_source"] == Source.TABLE)), use),
            (f["b_source"] not in ({*SecondSource} if config.functions else {SecondSource.TABLE})
             or (itself and use == OperandUse.INDEX), f["b_source"]),
            (f["b_bf16"] and not (config.functions and takes_bf16(f)), 1),
            (f["row"] and not (config.functions and form in (OutFormat.INT32, OutFormat.FP32)), f["row"]),
            (float_row_sum and config.columns % config.vector_lanes, f["row"]),
            (f["function"] != ResultFunction.NONE and not (config.functions and form == OutFormat.FP32),
             f["function"]),
            (f["row"] and f["tail"] > config.columns, f["tail"]),
            (bad_top(config, f), f["top"]),
            (form in DYNAMIC_SCALE
             and (not 1 <= f["parts"] <= 128 // config.columns or (f["parts"] > 1 and per_column)),
             f["parts"]),
            ((f["float"] or itself) and has_sum and f["count0"] != 1, f["count0"]),
            ((f["float"] or itself) and has_sum and f["count1"] != 1, f["count1"]),
            (0 in (f["count0"], f["count1"], f["count2"], f["count3"]), 0)):
        if wrong:
            raise Fault(ErrorCode.FIELD, getattr(value, "value", value))


def takes_bf16(f):
    """Whether operand B may be BF16: there are lines of words, and FP32 numbers are made of them."""
    return f["b_source"] == SecondSource.WORDS and (
        f["b_use"] == OperandUse.MULTIPLY or (f["b_use"] == OperandUse.ADD and bool(f["float"])))


def bad_top(config, f):
    """Whether so many of the largest are wanted that there are not, or of what is no row of FP32 numbers."""
    if not f["top"]:
        return False
    good = (config.top_k and f["row"] and f["reduce"] == Reduce.MAXIMUM and f["out_format"] == OutFormat.FP32
            and f["function"] == ResultFunction.NONE)
    there = f["tail"] or config.columns
    if f["count2"] > 1:
        there += config.columns * (f["count2"] - 1)
    # A row without an iteration has another error.
    return not good or f["top"] > 8 or (f["count2"] > 0 and f["top"] > there)


def within(line, depth, code):
    if not 0 <= line < depth:
        raise Fault(code, line)


def load_tables(config, f, scratchpad, tables):
    at, count = f["table_line"], 1024 // config.line_bytes
    for table, name in enumerate(("load_a", "load_b")):
        if f[name]:
            for line in range(at, at + count):
                within(line, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
            tables[table] = np.frombuffer(scratchpad[at:at + count].tobytes(), np.uint32)
            at += count


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
