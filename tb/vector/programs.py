"""Instructions for the vector unit: random ones, ones with an error, and the values at which results turn."""

from kiwicha.isa import OperandUse, OutFormat, Reduce, ResultFunction, ScaleMode, ScaleRule, SecondSource, Source
from tb.vector.model import DYNAMIC_SCALE, NAN, bad_top, formats, order, result_lines, takes_bf16

__all__ = ["FLOATS", "INTS", "PLAIN", "errors", "instruction", "run_of"]

#: Accumulators, and nothing of what came with operands from the scratchpad.
PLAIN = {"a_source": Source.ACCUMULATOR, "b_use": OperandUse.NONE, "reduce": Reduce.MAXIMUM, "load_a": 0,
         "load_b": 0, "b_source": SecondSource.TABLE, "row": 0, "function": ResultFunction.NONE, "tail": 0,
         "top": 0, "a_bf16": 0, "b_bf16": 0}

FLOATS = [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x2F800000, 0x3F800000,
          0xBF800000, 0x3F000000, 0x3EAAAAAB, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, NAN, 0xFFC00001,
          0x40490FDB, 0x358637BD, 0xB58637BD]
INTS = [0, 1, -1, 2, 3, 127, 128, -128, -129, (1 << 24) + 1, -(1 << 24) - 1, (1 << 31) - 1, -(1 << 31),
        (1 << 31) - 64]


def instruction(config, random, index=0, **fixed):
    """A random instruction without errors."""
    f = {"index": index, "out_format": random.choice(formats(config)), "bias": random.getrandbits(1),
         "scale_mode": random.choice(list(ScaleMode)), "clamp": random.getrandbits(1),
         "zero_point": random.choice([0, -128, 127, random.randint(-128, 127)]),
         "count0": random.choice([1, 1, 2, 3]), "count1": random.choice([1, 1, 2, 3]),
         "count2": random.choice([1, 2, 3, 7]), "count3": random.choice([1, 1, 2, 3]),
         "float": int(config.block_scaled and random.random() < 0.7), "scale_rule": random.choice(list(ScaleRule)),
         "parts": random.choice([0, 1, 127]), "part_stride": random.randint(-9, 9),
         "scale_line": random.getrandbits(16), "a_source": random.choice([Source.ACCUMULATOR, Source.TABLE]),
         "b_use": random.choice([OperandUse.NONE, OperandUse.NONE, OperandUse.ADD, OperandUse.MULTIPLY]),
         "reduce": random.choice(list(Reduce)), "load_a": int(random.random() < 0.1),
         "load_b": int(random.random() < 0.1), "b_source": SecondSource.TABLE, "row": 0,
         "function": ResultFunction.NONE, "tail": random.getrandbits(6), "top": 0,
         "a_bf16": 0, "b_bf16": 0}
    if config.functions:
        f |= with_functions(config, random, fixed)
    f |= fixed
    if f["out_format"] == OutFormat.INT32:
        f["scale_mode"], f["float"] = fixed.get("scale_mode", ScaleMode.NONE), fixed.get("float", 0)
    operands(config, f, fixed)
    lines = result_lines(config, f["out_format"])
    small = [0, 1, -1, 2, 3, -5]
    parts = []
    if f["out_format"] in DYNAMIC_SCALE:
        most = 128 // config.columns
        f["parts"] = lines = fixed.get("parts", random.choice([1, 2, max(1, most // 4), most]))
        # More work a pixel, fewer of them; but often more than one line of scales.
        less = {"count1": 1, "count3": 1} if lines > 4 else {"count2": random.choice([1, 7, 20])}
        f |= {name: count for name, count in less.items() if name not in fixed}
        if lines > 1:
            f["bias"] = fixed.get("bias", 0)
            f["scale_mode"] = fixed.get("scale_mode", random.choice([ScaleMode.NONE, ScaleMode.SCALAR]))
            if f["b_source"] not in (SecondSource.ROW, SecondSource.A):
                f["b_use"] = fixed.get("b_use", OperandUse.NONE)
        for name in ("part_stride", "scale_line"):
            if name not in fixed:
                del f[name]
        parts = [("part_stride", lines)]
        place(f, random, "scale_line", config.scratchpad_lines,
              [("", -(-f["count2"] * f["count3"] // config.line_bytes))], [1])
    depth = config.accumulator_lines if f["a_source"] == Source.ACCUMULATOR else config.scratchpad_lines
    if not takes_bf16(f):
        f["b_bf16"] = fixed.get("b_bf16", 0)
    place(f, random, "a_line", depth - (f["a_source"] == Source.WORDS) * more_lines(config, f["a_bf16"]),
          [(f"a_stride{level}", f[f"count{level}"]) for level in range(4)] + parts, small)
    if f["b_source"] == SecondSource.ROW:
        f.setdefault("b_stride2", random.randint(-1 << 15, (1 << 15) - 1))
    if f["row"] and not f["top"]:
        f |= {"out_stride2": random.randint(-1 << 15, (1 << 15) - 1)}
    results = 2 * f["top"] or (1 if f["row"] else f["count2"])
    place(f, random, "out_line", config.scratchpad_lines,
          [("out_stride2", results), ("out_stride3", f["count3"]), ("out_step", lines)], small)
    if f["b_use"] == OperandUse.NONE or f["b_source"] == SecondSource.A:    # what nobody looks at may be anything
        f |= {"b_line": random.getrandbits(16), "b_stride2": random.randint(-1 << 15, (1 << 15) - 1),
              "b_stride3": random.randint(-1 << 15, (1 << 15) - 1)}
    else:
        more = (f["b_source"] == SecondSource.WORDS) * more_lines(config, f["b_bf16"])
        place(f, random, "b_line", config.scratchpad_lines - more,
              [("b_stride2", 1 if f["b_source"] == SecondSource.ROW else f["count2"]), ("b_stride3", f["count3"])],
              small)
    loads = f["load_a"] + f["load_b"]
    f["table_line"] = (random.randint(0, config.scratchpad_lines - 1024 // config.line_bytes * loads) if loads else
                       random.getrandbits(16))
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


def more_lines(config, bf16):
    """Lines beyond the first of words, or of BF16 numbers."""
    return result_lines(config, OutFormat.BF16 if bf16 else OutFormat.FP32) - 1


def with_functions(config, random, fixed):
    """Fields of what only a chip with functions has."""
    form = fixed.get("out_format", random.choice([*formats(config), OutFormat.INT32, OutFormat.FP32]))
    f = {"out_format": form, "a_source": random.choice(list(Source)), "b_use": random.choice(list(OperandUse)),
         "reduce": random.choice(list(Reduce)), "float": int(random.random() < 0.6),
         "b_source": random.choice(list(SecondSource))}
    if random.random() < 0.2:
        f |= {"a_source": Source.WORDS, "float": 1, "a_bf16": 1}
    if random.random() < 0.2:
        f |= {"b_source": SecondSource.WORDS, "b_use": random.choice([OperandUse.ADD, OperandUse.MULTIPLY]),
              "b_bf16": 1}
    if form in (OutFormat.INT32, OutFormat.FP32) and random.random() < 0.5:
        f |= {"row": 1, "tail": random.choice([0, 1, config.columns, random.randint(0, config.columns)])}
    if form == OutFormat.FP32 and random.random() < 0.5:
        f["function"] = random.choice(list(ResultFunction))
    if config.top_k and "row" in f and form == OutFormat.FP32 and random.random() < 0.6:
        f |= {"top": random.randint(1, 8), "reduce": Reduce.MAXIMUM, "function": ResultFunction.NONE}
    return f


def operands(config, f, fixed):
    """Leave out what does not go together, unless it is `fixed`."""
    if f["out_format"] == OutFormat.INT32 and f["b_use"] == OperandUse.MULTIPLY:
        f["b_use"] = fixed.get("b_use", OperandUse.ADD)
    if f["b_use"] == OperandUse.INDEX and (f["a_source"] != Source.TABLE or f["b_source"] == SecondSource.A):
        f["b_use"] = fixed.get("b_use", OperandUse.NONE)
    if f["b_use"] == OperandUse.ADD:
        f["bias"] = fixed.get("bias", 0)
    if f["b_use"] == OperandUse.MULTIPLY and not config.functions:
        f["scale_mode"] = fixed.get("scale_mode", ScaleMode.NONE)
    if f["a_source"] == Source.BYTES:
        f["float"] = fixed.get("float", 0)
    if f["a_source"] != Source.WORDS or not f["float"]:
        f["a_bf16"] = fixed.get("a_bf16", 0)
    float_row = f["row"] and f["out_format"] == OutFormat.FP32
    if (f["float"] and not float_row) or (float_row and not config.float_row_sums):
        f["reduce"] = fixed.get("reduce", Reduce.MAXIMUM)
    itself = f["b_source"] == SecondSource.A and f["b_use"] != OperandUse.NONE
    if (f["float"] or itself) and f["reduce"] == Reduce.SUM:
        f |= {name: fixed.get(name, 1) for name in ("count0", "count1")}
    if bad_top(config, f):
        f["top"] = fixed.get("top", 0)


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


def run_of(config, random, form, pixels, window=1, **fixed):
    # There are not enough lines for all parts of all pixels.
    lines = 0 if form in DYNAMIC_SCALE else result_lines(config, form)
    fixed = PLAIN | {"out_line": 0, "out_stride2": lines, "out_step": 1, "part_stride": 1} | fixed
    return instruction(config, random, out_format=form, count0=window, count1=1, count2=pixels, count3=1,
                       a_line=0, a_stride0=1, a_stride2=0, **fixed)


def errors(config, random):
    """Instructions with one error each."""
    def make(**fixed):
        return instruction(config, random, index=random.getrandbits(24), **PLAIN | fixed)
    good = {"count0": 2, "count1": 1, "count2": 3, "count3": 2}
    acc, pad = config.accumulator_lines, config.scratchpad_lines
    lines = -(-4 * config.columns // config.line_bytes)
    yield from (make(out_format=value, scale_mode=ScaleMode.NONE) for value in range(8)
                if value not in {form.value for form in formats(config)})
    yield make(float=1, out_format=OutFormat.INT32, scale_mode=ScaleMode.NONE)
    if not config.block_scaled:
        yield from (make(float=1, out_format=form, scale_mode=ScaleMode.NONE) for form in formats(config)
                    if form == OutFormat.INT32 or not config.functions)
    yield make(scale_mode=3, out_format=OutFormat.INT8)
    yield from (make(out_format=OutFormat.INT32, scale_mode=mode) for mode in (1, 2, 3))
    yield from (make(**(good | {f"count{level}": 0})) for level in range(4))
    yield make(**good, a_line=acc - 1, a_stride0=1)
    yield make(**good, a_line=0, a_stride0=-1)
    yield make(**good, a_line=65535, a_stride0=32767, a_stride2=32767)
    yield make(**good, a_line=4, a_stride0=0, a_stride1=0, a_stride2=-1, a_stride3=-3)
    yield make(**good, a_line=0, a_stride0=1, a_stride2=-32768, a_stride3=0)
    for form in formats(config):
        mode = {"out_format": form, "scale_mode": ScaleMode.NONE}
        yield make(**good, **mode, out_line=pad - 1, out_stride2=1, out_stride3=0, out_step=0)
        yield make(**good, **mode, out_line=1, out_stride2=-1, out_stride3=0, out_step=0)
        yield make(**good, **mode, out_line=0, out_stride2=0, out_stride3=-1, out_step=0)
        if pad < 1 << 16:
            yield make(**good, **mode, out_line=pad)
            yield make(**good, **mode, out_line=65535)
    if set(DYNAMIC_SCALE) & set(formats(config)):
        yield from dynamic_scale_errors(config, make)
    if lines > 1:
        yield make(**good, out_format=OutFormat.FP32, out_line=pad - 2, out_stride2=0, out_stride3=0, out_step=2)
        yield make(**good, out_format=OutFormat.INT32, out_line=0, out_stride2=0, out_stride3=0, out_step=-1)
    yield from operand_errors(config, make)
    if config.functions:
        yield from function_errors(config, make)
    # The bias fits and the scale does not; then the bias does not.
    mode = {"out_format": OutFormat.FP32, "scale_mode": ScaleMode.COLUMN, "bias": 1}
    yield make(**good, **mode, param_line=pad - lines)
    yield make(**good, **mode, param_line=pad - 1 if lines > 1 else pad)
    yield make(**good, **(mode | {"bias": 0}), param_line=pad - lines + 1)


def operand_errors(config, make):
    """Uses of operand B that do not go together; lines of A, of B and of tables that do not exist."""
    pad, int8 = config.scratchpad_lines, {"out_format": OutFormat.INT8, "scale_mode": ScaleMode.NONE, "bias": 0}
    table = 1024 // config.line_bytes
    if not config.functions:
        yield make(**int8, b_use=OperandUse.INDEX)
        yield from (make(**int8, float=0, a_source=source) for source in (Source.WORDS, Source.BYTES))
        yield from (make(**int8, b_source=source) for source in list(SecondSource)[1:])
        yield make(**int8, a_bf16=1)
        yield make(**int8, b_use=OperandUse.MULTIPLY, b_bf16=1)
        yield make(**int8 | {"out_format": OutFormat.INT32}, row=1)
        yield from (make(**int8 | {"scale_mode": mode}, b_use=OperandUse.MULTIPLY)
                    for mode in (ScaleMode.SCALAR, ScaleMode.COLUMN))
        yield from (make(**int8 | {"out_format": OutFormat.FP32}, function=function)
                    for function in list(ResultFunction)[1:])
    if not config.top_k:
        yield from (make(**int8 | {"out_format": OutFormat.FP32}, row=config.functions, top=top) for top in (1, 8))
    yield make(**int8 | {"bias": 1}, b_use=OperandUse.ADD)
    yield make(**int8 | {"out_format": OutFormat.INT32}, b_use=OperandUse.MULTIPLY)
    if config.block_scaled:
        yield make(**int8, float=1, reduce=Reduce.SUM)
    good = int8 | {"count0": 2, "count1": 1, "count2": 3, "count3": 2, "a_source": Source.TABLE}
    second = {"b_use": OperandUse.ADD, "b_stride2": 0, "b_stride3": 0}
    yield make(**good, a_line=pad - 1, a_stride0=1)
    yield make(**good, a_line=4, a_stride0=0, a_stride1=0, a_stride2=-1, a_stride3=-3)
    yield make(**good, a_line=0, a_stride0=0, a_stride2=1, a_stride3=0, **second | {"b_line": 2, "b_stride2": -2})
    yield make(**good, a_line=0, a_stride0=0, a_stride2=0, a_stride3=0, **second | {"b_line": 2, "b_stride3": -3})
    yield make(**good | {"a_source": Source.ACCUMULATOR}, **second | {"b_line": pad - 2, "b_stride2": 1})
    # B, and the second place of the window: B comes first; and the first place, which comes before it.
    yield make(**good, a_line=pad - 1, a_stride0=1, **second | {"b_line": 0, "b_stride2": -1})
    yield make(**good, a_line=0, a_stride0=1, a_stride2=-1, **second | {"b_line": 0, "b_stride2": -2})
    yield make(**good, a_line=1, a_stride0=-1, a_stride2=0, a_stride3=0, out_line=0, out_stride2=-1,
               **second | {"b_line": 1, "b_stride2": -2})
    for loads, line in (({"load_a": 1}, pad - table + 1), ({"load_b": 1}, pad - 1),
                        ({"load_a": 1, "load_b": 1}, pad - table)):
        yield make(**int8, **loads, table_line=line)


def function_errors(config, make):
    """The same, of what only a chip with functions has."""
    pad, lines = config.scratchpad_lines, result_lines(config, OutFormat.INT32)
    int32 = {"out_format": OutFormat.INT32, "scale_mode": ScaleMode.NONE, "bias": 0}
    fp32 = int32 | {"out_format": OutFormat.FP32}
    yield make(**fp32, a_source=Source.BYTES, float=1)
    yield make(**fp32, a_source=Source.TABLE, b_source=SecondSource.A, b_use=OperandUse.INDEX)
    yield from (make(**fp32 | form, reduce=Reduce.SUM, b_source=SecondSource.A, b_use=OperandUse.ADD, **count)
                for form in ({}, int32, {"row": config.float_row_sums})
                for count in ({"count0": 2}, {"count0": 1, "count1": 3}))
    yield from (make(**int32, a_source=source, b_use=OperandUse.INDEX) for source in (Source.ACCUMULATOR,
                                                                                      Source.WORDS))
    yield from (make(**int32 | {"out_format": form}, row=1) for form in formats(config)
                if form not in (OutFormat.INT32, OutFormat.FP32))
    yield from (make(**int32 | {"out_format": form}, function=ResultFunction.RSQRT) for form in formats(config)
                if form != OutFormat.FP32)
    yield make(**int32, row=1, tail=config.columns + 1)
    yield from bf16_errors(config, make)
    good = fp32 | {"count0": 2, "count1": 1, "count2": 3, "count3": 2}
    words = good | {"a_source": Source.WORDS, "a_stride0": 0, "a_stride1": 0, "a_stride2": 0, "a_stride3": 0}
    second = {"b_use": OperandUse.ADD, "b_source": SecondSource.WORDS, "b_stride2": 0, "b_stride3": 0}
    yield make(**words | {"a_line": pad - lines + 1})
    yield make(**words | {"a_line": pad - lines - 1, "a_stride2": 1})
    yield make(**good, **second | {"b_line": pad - lines + 1})
    yield make(**words, a_line=pad - lines + 1, **second | {"b_line": pad - lines + 1})
    # In the last iteration of a row, and in the middle of the second one.
    row = words | {"row": 1, "a_line": 8}
    yield make(**row | {"out_line": pad - 1, "out_stride3": 1, "out_step": 1})
    yield make(**row | {"out_line": pad - lines + 1, "out_stride3": 0, "out_step": 1})
    yield make(**row | {"a_stride3": -8, "a_stride2": -1})
    if config.top_k:
        yield from top_errors(config, make, row)
    sums = fp32 | {"row": 1, "reduce": Reduce.SUM}
    if not config.float_row_sums:
        yield from (make(**sums, float=value) for value in (0, 1))
        return
    sums |= {"float": 1, "a_source": Source.WORDS}
    yield from (make(**sums | {"row": 0}, count0=count) for count in (1, 2))
    yield make(**sums | {"out_format": OutFormat.INT8})
    yield from (make(**sums | {"count0": 1, "count1": 1} | counts) for counts in (
        {"count0": 2}, {"count1": 3}, {"count0": 0, "count1": 2}, {"count0": 65535, "count2": 0}, {"count2": 0},
        {"count3": 0}, {"count1": 2, "tail": config.columns + 1}))


def bf16_errors(config, make):
    """The same, of operands in BF16: what has none, or makes no FP32 number of it; lines that do not exist."""
    pad, lines, words = (config.scratchpad_lines, result_lines(config, OutFormat.BF16),
                         result_lines(config, OutFormat.FP32))
    fp32 = {"out_format": OutFormat.FP32, "scale_mode": ScaleMode.NONE, "bias": 0, "reduce": Reduce.MAXIMUM}
    yield from (make(**fp32, a_source=source, float=1, a_bf16=1) for source in (Source.ACCUMULATOR, Source.TABLE))
    yield from (make(**fp32 | {"out_format": form}, a_source=Source.WORDS, float=0, a_bf16=1)
                for form in (OutFormat.FP32, OutFormat.INT32, OutFormat.INT8))
    yield make(**fp32, a_source=Source.BYTES, float=0, a_bf16=1)
    yield from (make(**fp32, b_use=use, float=1, b_source=source, b_bf16=1)
                for use in (OperandUse.ADD, OperandUse.MULTIPLY) for source in SecondSource
                if source != SecondSource.WORDS)
    second = {"b_source": SecondSource.WORDS, "b_bf16": 1}
    yield from (make(**fp32, **second, float=value, b_use=OperandUse.NONE) for value in (0, 1))
    yield make(**fp32, **second, float=0, b_use=OperandUse.ADD)
    yield make(**fp32 | {"out_format": OutFormat.INT32}, **second, float=0, b_use=OperandUse.ADD)
    yield make(**fp32, **second, float=0, a_source=Source.TABLE, b_use=OperandUse.INDEX)
    good = fp32 | {"float": 1, "count0": 2, "count1": 1, "count2": 3, "count3": 2, "a_source": Source.WORDS,
                   "a_stride0": 0, "a_stride1": 0, "a_stride2": 0, "a_stride3": 0, "a_line": pad - lines,
                   "a_bf16": 1}
    second |= {"b_use": OperandUse.MULTIPLY, "b_stride2": 0, "b_stride3": 0, "b_line": pad - lines}
    yield make(**good | {"a_line": pad - lines + 1})
    yield make(**good | {"a_line": pad - lines - 1, "a_stride2": 1})
    yield make(**good, **second | {"b_line": pad - lines + 1})
    yield make(**good | {"a_line": pad - lines + 1}, **second | {"b_line": pad - lines + 1})
    # One operand of words beside the other: which of them comes first to what does not exist.
    for a_bf16, b_bf16 in ((0, 1), (1, 0)):
        yield make(**good | {"a_bf16": a_bf16, "a_line": pad - (lines if a_bf16 else words) + 1},
                   **second | {"b_bf16": b_bf16, "b_line": pad - (lines if b_bf16 else words) + 1})
    # Results before them: of a pixel that has some but not all, and of none.
    yield make(**good | {"a_line": pad - lines + 1, "out_line": pad - words + 1, "out_step": 1, "out_stride2": 0,
                         "out_stride3": 0})


def top_errors(config, make, row):
    """The same, of the largest of rows; `row` is one of three iterations, without an error."""
    pad, lines, columns = config.scratchpad_lines, result_lines(config, OutFormat.FP32), config.columns
    row |= {"float": 1, "top": 3}
    yield from (make(**row | {"top": top}) for top in (9, 15))
    yield from (make(**row | wrong) for wrong in (
        {"row": 0}, {"reduce": Reduce.SUM, "float": 0}, {"out_format": OutFormat.INT32, "float": 0},
        {"out_format": OutFormat.INT8, "row": 0}, {"tail": columns + 1},
        *({f"count{level}": 0} for level in range(4)),
        *({"function": function} for function in list(ResultFunction)[1:])))
    # One more than there are, of a row of one iteration and of some more.
    for top in range(2, 9):
        iterations, tail = divmod(top - 1, columns)
        yield make(**row | {"top": top, "count2": iterations + (tail > 0), "tail": tail})
    # The last line of all, which is looked at after the row's first operands and before all others.
    last = {"out_stride2": lines, "out_step": 1, "out_stride3": 1, "count0": 2}
    for more in ({}, {"a_stride0": -9}, {"a_stride2": -9}, {"a_line": pad - lines + 1}):
        yield make(**row | last | more | {"out_line": pad - 6 * lines + 1})
    yield make(**row | last | {"out_line": pad - 6 * lines})
    yield make(**row | last | {"out_line": pad - 6 * lines + 1, "a_line": pad})
    yield make(**row | last | {"out_line": 4, "out_stride2": -1})
    yield make(**row | last | {"out_line": pad - 6 * lines + 1, "b_use": OperandUse.ADD, "b_line": pad - lines,
                               "b_source": SecondSource.WORDS, "b_stride2": 1, "b_stride3": 0})
    yield make(**row | last | {"out_line": pad - 6 * lines, "out_stride3": 0, "a_stride3": -20})


def dynamic_scale_errors(config, make):
    """The same, of dynamic scales."""
    most, pad, acc = 128 // config.columns, config.scratchpad_lines, config.accumulator_lines
    plain = {"bias": 0, "scale_mode": ScaleMode.NONE, "count0": 1, "count1": 1, "a_line": 0}
    row = {"b_source": SecondSource.ROW, "b_use": OperandUse.ADD, "b_stride3": 0}
    for form in DYNAMIC_SCALE:
        if form not in formats(config):
            continue
        yield from (make(out_format=form, parts=parts, **plain, part_stride=0, out_step=0)
                    for parts in (0, most + 1, 127))
        yield make(out_format=form, **plain | {"bias": 1}, parts=2, part_stride=0)
        yield make(out_format=form, **plain | {"scale_mode": ScaleMode.COLUMN}, parts=2, part_stride=0)
        yield from (make(out_format=form, **plain, b_use=use, parts=2, part_stride=0)
                    for use in (OperandUse.ADD, OperandUse.MULTIPLY))
        if config.functions:
            yield make(out_format=form, **plain, **row | {"b_source": SecondSource.WORDS}, parts=2, part_stride=0)
            yield make(out_format=form, **plain, **row, parts=most, part_stride=0, b_line=pad)
        # In the middle of a pixel: its accumulators, or its lines.
        walk = {"out_format": form, "parts": min(4, most), **plain, "count2": 2 * config.line_bytes, "count3": 1}
        inside = {"a_stride2": 0, "out_line": 8, "out_stride2": 0, "out_step": 1}
        yield make(**walk | {"a_line": acc - 2}, part_stride=1, **inside)
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
