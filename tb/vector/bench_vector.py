"""The vector unit against numpy: random instructions, stalled ports, errors, abort, throughput."""

import inspect
from functools import partial

import cocotb
import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import (
    TABLE_WORDS,
    Activity,
    OperandUse,
    OutFormat,
    Reduce,
    ResultFunction,
    ScaleMode,
    SecondSource,
    Source,
)
from kiwicha.timing import READ_LATENCY, late_latency, row_top_gap, sum_levels
from kiwicha.vector.loops import Loops
from kiwicha.vector.unit import VectorUnit
from tb import harness
from tb.harness import Bench, cycles
from tb.mutation import mutated_bench
from tb.vector.environment import surround
from tb.vector.model import DYNAMIC_SCALE, formats, result_lines
from tb.vector.programs import FLOATS, INTS, PLAIN, errors, instruction, run_of


@cocotb.test()
@cocotb.parametrize(stalls=["none", "some", "many"])
async def random_instructions(dut, stalls):
    around = await surround(dut, stalls)
    random = harness.rng(f"instructions {stalls}")
    # A stalled cycle costs as much as one with work in it.
    for round_ in range(6 if stalls == "many" else 12):
        if stalls != "none":
            choices = [1, 0.8, 0.5] if stalls == "some" else [0.3, 0.1, 1]
            around.stall(partial(random.choice, choices))
        around.p_valid = random.choice([1, 0.3, 0.05])
        batch = [instruction(around.config, random, index=100 * round_ + i) for i in range(12)]
        await around.run(batch)
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
                         scale=scale, bias=0, clamp=clamp, **PLAIN, a_line=0, a_stride2=1, count0=1, count1=1,
                         count2=len(edges), count3=1, out_line=20, out_stride2=4, out_step=1)
             for i, (scale, clamp, form) in enumerate(
                 (scale, clamp, form) for scale in FLOATS for clamp in (0, 1)
                 for form in formats(around.config) if form != OutFormat.INT32)]
    await around.run(batch)


@cocotb.test()
async def like_onnx(dut):
    """Ties of the kind that quantized networks meet: factors with few bits, every zero point's sign."""
    around = await surround(dut, "onnx")
    random = harness.rng("onnx instructions")
    shape = around.accumulator.shape
    around.accumulator[:] = np.arange(shape[0] * shape[1]).reshape(shape) - shape[0] * shape[1] // 2
    batch = [instruction(around.config, random, index=i, out_format=OutFormat.INT8, scale=scale,
                         scale_mode=ScaleMode.SCALAR, zero_point=zero, clamp=0, **PLAIN, count0=1, count1=1,
                         count2=20, count3=1, a_line=shape[0] // 2 - 10, a_stride2=1)
             for i, (scale, zero) in enumerate((s, z) for s in (0x3F000000, 0x3E800000, 0x3F400000, 0x3F800000)
                                               for z in (0, 1, -128, 127, -7))]
    await around.run(batch)


@cocotb.test()
async def one_read_per_cycle(dut):
    around = await surround(dut, "throughput")
    random = harness.rng("throughput instructions")
    config = around.config
    steps = -(-config.columns // config.vector_lanes)
    for form in formats(config):
        if form in DYNAMIC_SCALE:
            continue
        for window in (1, 3):
            pixels = 24
            await around.run([run_of(config, random, form, pixels, window, scale_mode=ScaleMode.NONE)])
            took = around.reads[-1] - around.reads[0] + 1
            assert took == pixels * window * steps, f"{form}: {pixels} pixels took {took} cycles"
            latency = around.write_cycles[-1] - around.reads[-1]
            assert latency == around.latency, f"latency {latency}"
            assert around.activity.count(Activity.BUSY) == took


@cocotb.test()
async def one_read_per_cycle_with_dynamic_scales(dut):
    around = await surround(dut, "fresh throughput")
    random = harness.rng("fresh throughput instructions")
    config = around.config
    steps = -(-config.columns // config.vector_lanes)
    own = [form for form in DYNAMIC_SCALE if form in formats(config)]
    for form in own:
        for window, block in ((1, 32), (1, 128), (2, 32), (1, config.columns)):
            pixels, parts = 24, block // config.columns
            await around.run([run_of(config, random, form, pixels, window, parts=parts,
                                     scale_mode=ScaleMode.NONE)])
            took = around.reads[-1] - around.reads[0] + 1
            assert took == pixels * parts * window * steps, f"{form}: {pixels} pixels took {took} cycles"
            latency = around.write_cycles[-1 - parts] - around.reads[-1]
            assert latency == around.dynamic_scale_latency, f"latency {latency}"
            # All lines of the last pixel, and the scales right behind them.
            tail = np.diff(around.write_cycles[-1 - parts:])
            assert (tail == [*[steps] * (parts - 1), 1]).all(), tail
    if not own:
        return
    # From one instruction to the next, of any block's size; and where the datapath must run empty.
    most = 128 // config.columns
    alone = most * steps + around.dynamic_scale_latency + 8
    first = own[0]
    for forms, gap in (walk for other in own[1:] or own for walk in (
            ((first, other, first), 2), ((other, OutFormat.BF16, first), alone))):
        batch = [run_of(config, random, form, 24, parts=parts, bias=0,
                        scale_mode=ScaleMode.NONE) for form, parts in zip(forms, (most, 1, 1), strict=True)]
        await around.run(batch)
        assert np.diff(around.reads).max() <= gap


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
        reads = np.array(around.reads)
        gaps = np.diff(reads)[len(reads) // 10 - 1::len(reads) // 10]
        assert gaps.max() <= most, f"{pixels} pixels: {gaps} cycles from one instruction to the next"
    # An instruction alone, from its acceptance to its end.
    await around.run(batch[:1])
    steps = -(-config.columns // config.vector_lanes)
    assert around.elapsed <= 2 * lines + 10 + steps + around.latency + 6, around.elapsed


@cocotb.test()
async def stalled_output_keeps_everything(dut):
    """No write for a long while in the middle of a stream: the reads stop in time, nothing is lost."""
    around = await surround(dut, "stalled")
    random = harness.rng("stalled instructions")
    await around.run([])        # loads the tables
    for form in formats(around.config):
        around.p_write = 0
        under_way = around.under_way
        pixels = min(2 * under_way, around.config.scratchpad_lines // result_lines(around.config, form))
        batch = [run_of(around.config, random, form, pixels, scale_mode=ScaleMode.NONE) for _ in range(2)]
        task = cocotb.start_soon(around.run(batch))
        steps = -(-around.config.columns // around.config.vector_lanes)
        await cycles(dut, 100 + (under_way + 8) * steps)
        assert around.activity[-1] == Activity.QUEUE
        assert not around.writes
        around.p_write = 1
        assert await task is None


@cocotb.test()
async def errors_then_a_good_end(dut):
    """Good instructions before an error end; the error is told once, in order; after abort all is well."""
    around = await surround(dut, "errors")
    random = harness.rng("error instructions")
    for bad in errors(around.config, random):
        around.stall(lambda: random.choice([1, 1, 0.4]))
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
        around.stall(lambda: random.choice([1, 1, 0.4, 0.02]))
        batch = [instruction(around.config, random, index=i) for i in range(5)]
        around.send(batch)
        await cycles(dut, delay)
        await around.abort()
        count = len(around.writes)
        await cycles(dut, random.choice([0, 50]))
        assert len(around.writes) == count
        if delay % 3 == 0:
            around.stall(lambda: 1)
            await around.run([instruction(around.config, random, index=7) for _ in range(2)])


@cocotb.test()
async def operands_at_full_rate(dut):
    """A read a cycle with operands from the scratchpad, unless more lines than one a cycle are needed."""
    around = await surround(dut, "operands")
    random = harness.rng("operand instructions")
    config, pixels = around.config, 60
    steps = -(-config.columns // config.vector_lanes)
    sources = list(Source) if config.functions else [Source.ACCUMULATOR, Source.TABLE]
    for use in OperandUse if config.functions else (OperandUse.NONE, OperandUse.ADD, OperandUse.MULTIPLY):
        for window in (1, 3):
            reduce = random.choice(list(Reduce)) if window > 1 else Reduce.MAXIMUM
            await around.run([run_of(config, random, OutFormat.INT8, pixels, window, a_source=Source.TABLE,
                                     b_use=use, reduce=reduce, bias=0, float=0, scale_mode=ScaleMode.NONE,
                                     b_stride2=random.choice([0, 1]), b_line=0)])
            fetches = pixels * (1 if window == 1 else window * steps) + pixels * (use != OperandUse.NONE)
            assert len(around.fetches) == fetches, f"{len(around.fetches)} lines, not {fetches}"
            took = around.reads[-1] - around.reads[0] + 1
            # At the start some lines of A are asked for before the first of B is.
            assert took <= max(pixels * window * steps, fetches) + 4, f"{use}, {window}: {took} cycles"
            # B's first line, and A's in the next cycle; a line is there READ_LATENCY + 2 cycles after.
            assert around.reads[0] - around.fetches[0] == READ_LATENCY + 2 + (use != OperandUse.NONE)
    # From an instruction to the next as well, whatever their operands.
    batch = [run_of(config, random, OutFormat.INT8, pixels, a_source=source, b_use=OperandUse.ADD, bias=0,
                    b_stride2=1, b_line=0) for source in sources * 2]
    await around.run(batch)
    assert np.diff(around.reads).max() <= 12, np.diff(around.reads).max()


@cocotb.test()
async def bf16_takes_half_the_lines(dut):
    """Of each operand as many lines as a result of BF16 has, and a read a cycle unless these are more."""
    around = await surround(dut, "bf16")
    random = harness.rng("bf16 operands")
    config, pixels = around.config, 60
    if not config.functions:
        return
    steps = -(-config.columns // config.vector_lanes)
    words, halves = (result_lines(config, form) for form in (OutFormat.FP32, OutFormat.BF16))
    kinds = [(1, "TABLE", 0), (words, "WORDS", 0), (halves, "WORDS", 1)]
    for (a_lines, source, a_bf16), (b_lines, b_source, b_bf16), window in (
            *((a, b, 1) for a in kinds for b in kinds), *((a, kinds[2], 2) for a in kinds)):
        await around.run([run_of(config, random, OutFormat.FP32, pixels, window, a_source=Source[source], float=1,
                                 a_bf16=a_bf16, b_bf16=b_bf16, b_source=SecondSource[b_source],
                                 b_use=random.choice([OperandUse.ADD, OperandUse.MULTIPLY]), bias=0,
                                 scale_mode=ScaleMode.NONE, b_stride2=random.choice([0, -1]),
                                 b_line=config.scratchpad_lines - b_lines)])
        fetches = pixels * (b_lines + (a_lines if window == 1 else window * steps))
        assert len(around.fetches) == fetches, f"{len(around.fetches)} lines, not {fetches}"
        took = around.reads[-1] - around.reads[0] + 1
        # B's lines go before A's, and where they are more A's wait for some of those ahead.
        most = max(fetches, 2 * pixels * b_lines if b_lines > a_lines and window == 1 else 0)
        assert took <= max(pixels * window * steps, most) + 4, f"{a_lines}, {b_lines}, {window}: {took} cycles"
    # Squares: nothing but A's lines, which never are more than its steps.
    await around.run([run_of(config, random, OutFormat.FP32, pixels, a_source=Source.WORDS, float=1, a_bf16=1,
                             b_source=SecondSource.A, b_use=OperandUse.MULTIPLY, scale_mode=ScaleMode.NONE)])
    assert len(around.fetches) == pixels * halves, f"{len(around.fetches)} lines, not {pixels * halves}"
    assert around.reads[-1] - around.reads[0] + 1 == pixels * steps


@cocotb.test()
async def sums_of_rows_at_full_rate(dut):
    """FP32 sums of row after row: a read a cycle, and always as many cycles from the last one to its line."""
    around = await surround(dut, "sums")
    random = harness.rng("sums of rows")
    config = around.config
    if not config.float_row_sums:
        return
    steps, words = config.columns // config.vector_lanes, result_lines(config, OutFormat.FP32)

    def sums(iterations, rows, function, **fixed):
        return instruction(config, random, **PLAIN | {
            "out_format": OutFormat.FP32, "row": 1, "reduce": Reduce.SUM, "float": 1, "function": function,
            "bias": 0, "scale_mode": ScaleMode.NONE, "count0": 1, "count1": 1, "count2": iterations,
            "count3": rows, "a_line": 0, "a_stride2": 1, "a_stride3": iterations, "out_line": 0,
            "out_stride3": words, "out_step": 1, **fixed})

    for iterations in (1, 2, 3, 5, 8, 9, 17, 20, 33, 60):
        function, rows = random.choice(list(ResultFunction)), min(9, config.accumulator_lines // iterations)
        await around.run([sums(iterations, rows, function)])
        took = around.reads[-1] - around.reads[0] + 1
        # Of short rows there are more lines on their way than there is room for.
        if iterations * steps >= 4 * words:
            assert took == iterations * rows * steps, f"{rows} rows of {iterations}: {took} cycles"
        late = around.write_cycles[-1] - around.reads[-1]
        levels = sum_levels(config, iterations)
        assert late == late_latency(config, True, function != ResultFunction.NONE, levels), f"latency {late}"
    # A square each, of words: both operands' lines come from the scratchpad.
    square = {"a_source": Source.WORDS, "b_source": SecondSource.WORDS, "b_use": OperandUse.MULTIPLY, "b_line": 0,
              "a_stride2": words, "b_stride2": words, "a_stride3": 0, "b_stride3": 0, "out_line": 20 * words}
    await around.run([sums(20, 3, ResultFunction.RSQRT, **square)])
    took = around.reads[-1] - around.reads[0] + 1
    assert took <= 60 * max(steps, 2 * words) + 6, f"{took} cycles"
    # With A itself for operand B, there is one line of each.
    await around.run([sums(20, 3, ResultFunction.RSQRT, **square | {"b_source": SecondSource.A})])
    took = around.reads[-1] - around.reads[0] + 1
    assert took == 60 * steps, f"{took} cycles"
    # Of as many levels, one after the other; of other levels, once the last line has been written.
    await around.run([sums(iterations, 2, ResultFunction.NONE) for iterations in (17, 20, 30, 32)])
    assert np.diff(around.reads).max() <= 2
    await around.run([sums(20, 2, ResultFunction.NONE), sums(9, 2, ResultFunction.NONE)])
    assert around.reads[40 * steps] > around.write_cycles[2 * words - 1]


@cocotb.test()
async def largest_of_rows(dut):
    """A cycle for each lane of a step, and the results of a row before the next one is read."""
    around = await surround(dut, "largest")
    random = harness.rng("largest of rows")
    config = around.config
    if not config.top_k:
        return
    lanes, words = config.vector_lanes, result_lines(config, OutFormat.FP32)
    steps, rows = -(-config.columns // lanes), 3

    def row(iterations, top, window=1):
        return instruction(config, random, **PLAIN | {
            "out_format": OutFormat.FP32, "row": 1, "top": top, "count0": window, "count1": 1,
            "count2": iterations, "count3": rows, "a_line": 0, "a_stride0": 1, "a_stride2": 1,
            "a_stride3": iterations, "out_line": 0, "out_stride2": words, "out_stride3": 2 * top * words,
            "out_step": 1, "bias": 0, "scale_mode": ScaleMode.NONE})

    for iterations, top, window in ((1, 1, 1), (1, 2, 1), (4, 8, 1), (9, 3, 1), (20, 8, 1), (6, 4, 3), (2, 1, 2)):
        await around.run([row(iterations, top, window)])
        reads = np.diff(around.reads).reshape(-1)
        step = [*[1] * (window - 1), lanes]
        expected = np.array([*(step * (iterations * steps))[:-1], row_top_gap(config, top)] * rows)[:-1]
        np.testing.assert_array_equal(reads, expected, f"{iterations} iterations, top {top}")
        late = around.write_cycles[-1] - around.reads[-1]
        assert late == late_latency(config, True, False, top=top), f"latency {late}"
    # One after the other the same, and once all is written where results take another way.
    await around.run([row(3, top) for top in (2, 8, 1)])
    gaps = np.diff(around.reads)[3 * steps - 1::3 * steps]
    assert gaps.tolist() == [row_top_gap(config, top) for top in (2, 2, 2, 8, 8, 8, 1, 1)]
    await around.run([row(2, 4), row(2, 4) | {"top": 0}, row(2, 4)])
    assert around.reads[6 * steps] > around.write_cycles[24 * words - 1]
    assert around.reads[12 * steps] > around.write_cycles[27 * words - 1]


@cocotb.test()
async def stalled_output_of_the_largest(dut):
    """No write for a long while: the results of a row wait, whole or in part, and nothing is lost."""
    around = await surround(dut, "stalled largest")
    random = harness.rng("stalled largest")
    config = around.config
    if not config.top_k:
        return
    for top, count2 in ((8, 5), (8, 30), (1, 4), (3, 9)):
        for wait in (50, 1000):
            batch = [instruction(config, random, **PLAIN | {
                "out_format": OutFormat.FP32, "row": 1, "top": top, "count0": 1, "count1": 1, "count2": count2,
                "count3": 9, "a_line": 0, "a_stride2": 1, "a_stride3": 0}) for _ in range(2)]
            around.p_write = 0
            task = cocotb.start_soon(around.run(batch))
            await cycles(dut, wait)
            around.p_write = random.choice([1, 0.1])
            assert await task is None
            around.p_write = 1


@cocotb.test()
async def tables_take_a_word_a_cycle(dut):
    around = await surround(dut, "tables")
    random = harness.rng("table instructions")
    for tables in (("load_a",), ("load_b",), ("load_a", "load_b")):
        await around.run([run_of(around.config, random, OutFormat.INT8, 4, scale_mode=ScaleMode.NONE,
                                 **dict.fromkeys(tables, 1)) for _ in range(2)])
        work = 80 + 4 * -(-around.config.columns // around.config.vector_lanes)
        assert around.elapsed <= 2 * (len(tables) * TABLE_WORDS + work), around.elapsed


def shape_bench(columns, lanes, bus_width, testcase=(), formats=("int8",), **more):
    config = ChipConfig(name=f"c{columns}e{lanes}", columns=columns, bus_width=bus_width, vector_lanes=lanes,
                        scratchpad_banks=2, formats=formats,
                        **{"rows": 4, "bank_lines": 256, "accumulator_lines": 64, **more})
    name = f"vector_{columns}_{lanes}_{config.line_bytes}{'_scaled' if config.block_scaled else ''}"
    name += f"_{'_'.join(formats)}" if config.block_scales else ""
    name += "_functions" if config.functions else ""
    name += "_top" if config.top_k else ""
    return Bench(module=__name__, name=name, build=lambda: VectorUnit(config), testcase=testcase,
                 params={"config": config})


def in_words_bench():
    """Planted bugs of which line of words, or of BF16, a step takes."""
    lines, first = inspect.getsourcelines(Loops._in_words)
    config = ChipConfig(name="words", rows=4, columns=11, bus_width=128, vector_lanes=1, scratchpad_banks=2,
                        bank_lines=256, accumulator_lines=64, functions=True)
    return mutated_bench("vector_in_words", lambda: VectorUnit(config), "loops.py", module=__name__,
                         within=range(first, first + len(lines)), testcase=["bf16_takes_half_the_lines"],
                         params={"config": config})


TOP = ["random_instructions", "errors_then_a_good_end", "abort_at_any_time", "largest_of_rows",
       "stalled_output_of_the_largest"]
BF16 = ["random_instructions", "errors_then_a_good_end", "bf16_takes_half_the_lines"]
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
    shape_bench(4, 2, 64, functions=True),
    shape_bench(32, 8, 64, functions=True),
    shape_bench(5, 1, 64, functions=True, testcase=BF16),
    # No FP32 sums of rows.
    shape_bench(7, 2, 64, functions=True, testcase=BF16),
    # BF16 for all columns in a part of a line, in steps and whole; and, of eight lanes, in exactly a line.
    shape_bench(3, 1, 64, functions=True, testcase=BF16),
    shape_bench(4, 4, 128, functions=True, testcase=BF16),
    shape_bench(16, 8, 64, functions=True, testcase=BF16, rows=32),
    shape_bench(16, 4, 128, functions=True, top_k=True, **SCALED),
    shape_bench(4, 2, 64, functions=True, top_k=True, testcase=TOP),
    shape_bench(7, 2, 64, functions=True, top_k=True, testcase=TOP),
    shape_bench(5, 1, 64, functions=True, top_k=True, testcase=TOP),
    shape_bench(32, 8, 64, functions=True, top_k=True, testcase=TOP),
    # MXINT8 is all that there is, or not even that.
    shape_bench(8, 2, 64, block_scales=True),
    shape_bench(4, 1, 64, block_scales=True, functions=True),
    shape_bench(4, 2, 64, block_scales=True, formats=("int4",),
                testcase=["random_instructions", "errors_then_a_good_end"]),
    # The most parts, a line of each in every cycle, and lanes beyond the last column; and no scales at all.
    shape_bench(2, 4, 128, testcase=["random_instructions", "extremes", "stalled_output_keeps_everything"],
                **SCALED),
    shape_bench(6, 2, 64, testcase=["random_instructions", "errors_then_a_good_end"], formats=("int8", "e2m1")),
    in_words_bench(),
]
