"""Random programs without races, for comparing the chip with the golden machine.

The scratchpad, the accumulators and the results' memory are cut into segments; each instruction walks at
random inside segments, and :class:`kiwicha_host.compiler.program.builder.ProgramBuilder` orders instructions that
share one. In the end everything is stored, so that equal memory images mean equal machines.
"""

import random

import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS, MAX_BLOCK
from kiwicha.isa import (
    INSTRUCTION_BYTES,
    TABLE_WORDS,
    OperandUse,
    OutFormat,
    Reduce,
    ResultFunction,
    ScaleMode,
    ScaleRule,
    SecondSource,
    Source,
    Unit,
)
from kiwicha_host.compiler.program.builder import ProgramBuilder
from kiwicha_host.compiler.program.memory_map import MemoryMap, Region, ceil_div
from kiwicha_host.job import Job
from tb.vector.model import DYNAMIC_SCALE, formats, takes_bf16

__all__ = ["random_job"]

_SEGMENT = 64           # scratchpad lines
_SOURCE = 4096          # bytes of random source data
_START = 64             # of which the first loads skip fewer than so many
_RESULT = 2048          # bytes per result segment in memory
_RESULTS = 4
#: In a chip with indices, all of them are less.
_INDICES = 8
#: FP32 values that have gone wrong somewhere: signed zeros, subnormals, infinities, NaNs, the largest.
_SPECIAL = (0, 0x8000_0000, 1, 0x8000_0001, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0x7F80_0000, 0xFF80_0000,
            0x7FC0_0000, 0x7F80_0001, 0x3F80_0000, 0xBF80_0000, 0x3F00_0000)


def visited(base: int, counts: list[int], strides: list[int]) -> list[int]:
    """The lines that loops visit, in order."""
    lines = [base]
    for count, stride in zip(counts, strides, strict=False):
        lines = [line + i * stride for i in range(count) for line in lines]
    return lines


def shortened(region: Region, lines: int) -> Region:
    """Where the first of so many lines may be, if they are to lie in `region`."""
    return Region(region.base, region.size - max(0, lines - 1))


class _Generator:
    def __init__(self, config: ChipConfig, rng: random.Random):
        self.config, self.rng = config, rng
        self.builder = ProgramBuilder()
        lines = min(_SEGMENT, config.scratchpad_lines // 8)
        spread = config.scratchpad_lines // 8
        self.pads = [Region(i * spread, lines) for i in range(7)]
        # Parameters and tables; as much as one LOAD fills from the source.
        self.params = Region(7 * spread, min(spread, (_SOURCE - _START) // config.line_bytes))
        self.table_lines = 4 * TABLE_WORDS // config.line_bytes
        self.has_tables = self.table_lines <= self.params.size
        acc = min(32, config.accumulator_lines // 4)
        self.accs = [Region(i * (config.accumulator_lines // 4), acc) for i in range(4)]
        self.memory = MemoryMap()
        self.source = self.memory.region(_SOURCE)
        self.results = [self.memory.region(_RESULT) for _ in range(_RESULTS)]
        words = ceil_div(4 * config.columns, config.line_bytes)
        self.has_indices = config.indices and lines + 2 * words <= spread
        if self.has_indices:
            # Behind the first pad; drawn apart, so that a program is the same but for its indices.
            self.indices = Region(lines, 2 * words)
            self.index_source = self.memory.region(4 * words * config.line_bytes)
            self.index_rng = random.Random(str(rng.getstate()))
        self.top_rng = random.Random(f"top {rng.getstate()}")
        self.bf16_rng = random.Random(f"bf16 {rng.getstate()}")

    def walk(self, region: Region, counts: list[int], low: int = -9, high: int = 9) -> tuple[int, list[int]]:
        """A base and random strides that stay inside `region` for `counts` iterations."""
        while True:
            strides = [self.rng.choice((0, 1, -1, self.rng.randint(low, high))) for _ in counts]
            reach = [stride * (count - 1) for stride, count in zip(strides, counts, strict=True)]
            span = sum(map(abs, reach))
            if span < region.size:
                base = region.base + self.rng.randrange(region.size - span) - sum(r for r in reach if r < 0)
                return base, strides
            low, high = low // 2, high // 2

    def counts(self, levels: int, most: int) -> list[int]:
        while True:
            counts = [self.rng.choice((1, 1, 2, 3, self.rng.randint(1, most))) for _ in range(levels)]
            if np.prod(counts) <= most:
                return counts

    def transfer(self, unit: Unit, memory: Region, pad: Region) -> dict:
        rng, config = self.rng, self.config
        segment = rng.choice((config.line_bytes, rng.randint(1, config.line_bytes)))
        while True:
            rows, planes = self.counts(2, 12)
            row_bytes = rng.choice((segment, rng.randint(1, 4 * segment)))
            contiguous = rng.random() < 0.4
            row_stride = row_bytes if contiguous else rng.randint(-150, 150)
            plane_stride = rng.randint(-300, 300)
            # Rows that a STORE writes twice would depend on the order inside one instruction: it is in order.
            reach = [row_stride * (rows - 1), plane_stride * (planes - 1)]
            span = sum(map(abs, reach)) + row_bytes
            if span <= memory.size:
                break
        address = memory.base + rng.randrange(memory.size - span + 1) - sum(r for r in reach if r < 0)
        line, strides = self.walk(pad, [ceil_div(row_bytes, segment), rows, planes])
        return {"address": address, "row_bytes": row_bytes, "rows": rows, "planes": planes,
                "row_stride": row_stride, "plane_stride": plane_stride, "segment_bytes": segment, "line": line,
                "segment_line_stride": strides[0], "row_line_stride": strides[1],
                "plane_line_stride": strides[2]}

    def load(self) -> None:
        pad = self.rng.choice([*self.pads, self.params])
        memory = self.rng.choice([self.source, self.source, *self.results])
        fields = {"fill": self.rng.randrange(256), "fill_only": int(self.rng.random() < 0.15),
                  **self.transfer(Unit.LOAD, memory, pad)}
        self.builder.add(Unit.LOAD, reads=[memory, *self.index(memory, fields)], writes=[pad], **fields)

    def store(self) -> None:
        pad, memory = self.rng.choice(self.pads), self.rng.choice(self.results)
        fields = self.transfer(Unit.STORE, memory, pad)
        self.builder.add(Unit.STORE, reads=[pad, *self.index(memory, fields)], writes=[memory], **fields)

    def index(self, memory: Region, fields: dict) -> list[Region]:
        """Give a transfer an index, or not; what it reads then. It stays in `memory`, whatever the index."""
        if not self.has_indices or fields.get("fill_only") or self.index_rng.random() < 0.4:
            return []
        rng = self.index_rng
        if rng.random() < 0.4:
            self.write_indices()
        reach = [fields[f"{name}_stride"] * (fields[f"{name}s"] - 1) for name in ("row", "plane")]
        low = sum(min(0, item) for item in reach)
        room = memory.size - (sum(max(0, item) for item in reach) + fields["row_bytes"] - low)
        most = room // (_INDICES - 1)
        stride = rng.randint(-most, most)
        span = (_INDICES - 1) * stride
        address = memory.base - low - min(0, span) + rng.randrange(room - abs(span) + 1)
        fields |= {"address": address, "indexed": 1, "index_stride": stride,
                   "index_bound": rng.choice((_INDICES, _INDICES + 1, 1000, (1 << 32) - 1)),
                   "index_line": self.indices.base + rng.randrange(self.indices.size),
                   "index_word": rng.randrange(self.config.line_bytes // 4)}
        return [self.indices]

    def write_indices(self) -> None:
        """Others: from memory, or what VECTOR computes."""
        rng, size = self.index_rng, self.indices.size * self.config.line_bytes
        if rng.random() < 0.5:
            start = 4 * rng.randrange((self.index_source.size - size) // 4 + 1)
            self.builder.add(Unit.LOAD, reads=[self.index_source], writes=[self.indices], rows=1, planes=1,
                             row_bytes=size, segment_bytes=self.config.line_bytes, segment_line_stride=1,
                             line=self.indices.base, address=self.index_source.base + start)
            return
        acc = rng.choice(self.accs)
        self.builder.add(Unit.VECTOR, reads=[acc], writes=[self.indices], out_format=OutFormat.INT32, clamp=1,
                         clamp_low=0, clamp_high=_INDICES - 1, count0=1, count1=1, count2=2, count3=1, a_stride2=1,
                         a_line=acc.base + rng.randrange(acc.size - 1), out_line=self.indices.base,
                         out_stride2=self.indices.size // 2, out_step=1)

    def matmul(self) -> None:
        a, w, acc = self.rng.choice(self.pads), self.rng.choice(self.pads), self.rng.choice(self.accs)
        counts = self.counts(4, 60)
        a_line, a_strides = self.walk(a, counts)
        acc_line, acc_strides = self.walk(acc, counts)
        tiles = Region(w.base, w.size - self.config.rows + 1)
        w_line, w_strides = self.walk(tiles, counts[2:])
        reads, extra = [a, w], self.integer_formats()
        own = len(set(visited(acc_line, counts[:2], acc_strides))) == counts[0] * counts[1]
        if self.config.block_scaled and own and self.rng.random() < 0.7:
            acc_strides[2] = 0
            reads, extra = self.scaled(reads, counts)
        self.builder.add(
            Unit.MATMUL, reads=reads, writes=[acc], accumulate=self.rng.randrange(2), **extra,
            a_line=a_line, w_line=w_line, acc_line=acc_line,
            **{f"count{i}": value for i, value in enumerate(counts)},
            **{f"a_stride{i}": value for i, value in enumerate(a_strides)},
            **{f"acc_stride{i}": value for i, value in enumerate(acc_strides)},
            w_stride2=w_strides[0], w_stride3=w_strides[1])

    def integer_formats(self) -> dict:
        names = [name for name in self.config.formats if not FORMATS[name].is_float]
        return {f"{operand}_format": FORMATS[self.rng.choice(names)].code for operand in "aw"}

    def scaled(self, reads: list, counts: list[int]) -> tuple[list, dict]:
        """What makes a MATMUL block-scaled: what it reads, and its fields."""
        rng, config = self.rng, self.config
        tiles = rng.randint(1, min(128 // config.rows, 3))
        fields = {"scaled": 1, "block_tiles": tiles}
        for operand, lines in (("a", ceil_div(counts[0] * counts[1], config.line_bytes)), ("w", 1)):
            pad = rng.choice(self.pads)
            reads = [*reads, pad]
            line, strides = self.walk(Region(pad.base, pad.size - lines + 1),
                                      [ceil_div(counts[2], tiles), counts[3]])
            fields |= {f"{operand}_format": FORMATS[rng.choice(config.formats)].code,
                       f"{operand}_scale_line": line, f"{operand}_scale_stride2": strides[0],
                       f"{operand}_scale_stride3": strides[1]}
        return list(dict.fromkeys(reads)), fields

    def vector(self, out_format: OutFormat | None = None) -> None:
        rng, config = self.rng, self.config
        if out_format is None:
            wanted = config.top_k and self.top_rng.random() < 0.25
            out_format = OutFormat.FP32 if wanted else rng.choice(formats(config))
        dynamic_scale = out_format in DYNAMIC_SCALE
        parts = rng.choice((1, 2, rng.randint(1, min(MAX_BLOCK // config.columns, 16)))) if dynamic_scale else 1
        size = {OutFormat.INT8: 1, OutFormat.BF16: 2}.get(out_format, 4)
        lines = parts if dynamic_scale else ceil_div(size * config.columns, config.line_bytes)
        counts = [*self.counts(2, 6), *self.counts(2, 24 if dynamic_scale else 8)]
        # Results go where this instruction reads nothing; sometimes they are what later ones take as parameters.
        pad, scale_pad, *others = rng.sample(self.pads, len(self.pads))
        reads, operands = self.operands(others, out_format, counts, parts)
        top = self.top(operands, out_format, counts[2])
        self.bf16(operands)
        pad = self.params if self.params not in reads and rng.random() < 0.3 else pad
        scale_pad = rng.choice((pad, scale_pad))
        out_line, out_strides = self.walk(pad, [2 * top or counts[2], counts[3], lines])
        scale_lines = ceil_div(counts[2] * counts[3], config.line_bytes)
        scaled = {"scale_rule": rng.choice(list(ScaleRule)), "parts": parts,
                  "scale_line": scale_pad.base + rng.randrange(scale_pad.size - scale_lines + 1)}
        bounds = [self.float_bits() for _ in range(2)]
        self.builder.add(
            Unit.VECTOR, reads=reads, writes=dict.fromkeys((pad, scale_pad)) if dynamic_scale else [pad],
            out_format=out_format, clamp=rng.randrange(2), zero_point=rng.randint(-128, 127), out_line=out_line,
            **operands, **{f"count{i}": value for i, value in enumerate(counts)},
            out_stride2=out_strides[0], out_stride3=out_strides[1], out_step=out_strides[2],
            scale=self.float_bits(), clamp_low=bounds[0], clamp_high=bounds[1],
            **(scaled if config.block_scaled else {}))

    def operands(self, pads: list[Region], out_format: OutFormat, counts: list[int],
                 parts: int) -> tuple[list, dict]:
        """Operands, parameters and tables of a VECTOR: what it reads, some of `pads`, and its fields."""
        rng, config = self.rng, self.config
        source, b_use, reduce, fields = Source.ACCUMULATOR, OperandUse.NONE, Reduce.MAXIMUM, {}
        float_row = False
        if self.has_tables and rng.random() < 0.7:
            sources = [Source.ACCUMULATOR, Source.TABLE]
            uses = [OperandUse.NONE, OperandUse.ADD, OperandUse.MULTIPLY]
            if config.functions:
                sources, uses, fields = list(Source), list(OperandUse), self.functions(out_format)
                float_row = bool(fields.get("row")) and out_format == OutFormat.FP32
            source, b_use, reduce = (rng.choice(choices) for choices in (sources, uses, list(Reduce)))
            if float_row and not config.float_row_sums:
                reduce = Reduce.MAXIMUM
            elif float_row and reduce == Reduce.SUM and rng.random() < 0.7:
                counts[:2] = [1, 1]     # with `float` there is no window
            itself = fields.get("b_source") == SecondSource.A
            if b_use == OperandUse.INDEX and (source != Source.TABLE or itself):
                b_use = OperandUse.NONE
            if itself and reduce == Reduce.SUM and b_use != OperandUse.NONE:
                counts[:2] = [1, 1]
            loads = rng.choice((0, 0, 1, 2, 3))
            if 0 < loads.bit_count() * self.table_lines <= self.params.size:
                fields |= self.tables(loads)
        # The same for all columns, or each part's own.
        any_parts = fields.get("b_source") in (SecondSource.ROW, SecondSource.A)
        if (parts > 1 and not any_parts) or (b_use == OperandUse.MULTIPLY and out_format == OutFormat.INT32):
            b_use = OperandUse.NONE
        bias = rng.randrange(2) if parts == 1 and b_use != OperandUse.ADD else 0
        modes = [mode for mode in ScaleMode if mode == ScaleMode.NONE or not (
            out_format == OutFormat.INT32 or (b_use == OperandUse.MULTIPLY and not config.functions)
            or (mode == ScaleMode.COLUMN and parts > 1))]
        mode = rng.choice(modes)
        a, b = rng.choice(self.accs if source == Source.ACCUMULATOR else pads), rng.choice(pads)
        words = ceil_div(4 * config.columns, config.line_bytes)
        a_line, a_strides = self.walk(shortened(a, words * (source == Source.WORDS)), [*counts, parts])
        b_words = words * (fields.get("b_source") == SecondSource.WORDS)
        b_line, b_strides = self.walk(shortened(b, b_words), counts[2:])
        needed = words * (bias + (mode == ScaleMode.COLUMN))
        fields |= {
            "a_source": source, "b_use": b_use, "reduce": reduce, "bias": bias, "scale_mode": mode,
            "param_line": self.params.base + rng.randrange(self.params.size - needed + 1), "a_line": a_line,
            **{f"a_stride{i}": value for i, value in enumerate(a_strides[:4])}, "part_stride": a_strides[4],
            "b_line": b_line, "b_stride2": b_strides[0], "b_stride3": b_strides[1],
            "float": int(config.vector_floats and source != Source.BYTES and out_format != OutFormat.INT32
                         and (reduce != Reduce.SUM or (float_row and counts[0] == counts[1] == 1))
                         and rng.random() < 0.7)}
        has_second = b_use != OperandUse.NONE and fields.get("b_source") != SecondSource.A
        reads = [(a, True), (b, has_second), (self.params, needed or "table_line" in fields)]
        return list(dict.fromkeys(region for region, is_read in reads if is_read)), fields

    def functions(self, out_format: OutFormat) -> dict:
        """Fields of a VECTOR that only a chip with functions has."""
        rng, fields = self.rng, {"b_source": self.rng.choice(list(SecondSource))}
        if out_format in (OutFormat.INT32, OutFormat.FP32) and rng.random() < 0.5:
            fields |= {"row": 1, "tail": rng.randint(0, self.config.columns)}
        if out_format == OutFormat.FP32 and rng.random() < 0.6:
            fields["function"] = rng.choice(list(ResultFunction))
        return fields

    def top(self, fields: dict, out_format: OutFormat, iterations: int) -> int:
        """How many of the largest of a row of so many iterations a VECTOR finds; nothing else then comes of it."""
        rng, config = self.top_rng, self.config
        if not (config.top_k and fields.get("row") and out_format == OutFormat.FP32 and rng.random() < 0.7):
            return 0
        length = (iterations - 1) * config.columns + (fields["tail"] or config.columns)
        top = rng.randint(1, min(8, length))
        fields |= {"top": top, "reduce": Reduce.MAXIMUM, "function": ResultFunction.NONE}
        return top

    def bf16(self, fields: dict) -> None:
        """Operands that may be BF16 are sometimes; their lines are among those of words."""
        rng = self.bf16_rng
        takes_a = fields["a_source"] == Source.WORDS and fields["float"]
        takes_b = "b_source" in fields and takes_bf16(fields)
        fields |= {"a_bf16": int(takes_a and rng.random() < 0.7), "b_bf16": int(takes_b and rng.random() < 0.7)}

    def tables(self, loads: int) -> dict:
        """Fields of a VECTOR that loads table A (bit 0 of `loads`), B (bit 1) or both."""
        size = loads.bit_count() * self.table_lines
        return {"load_a": loads & 1, "load_b": loads >> 1,
                "table_line": self.params.base + self.rng.randrange(self.params.size - size + 1)}

    def float_bits(self) -> int:
        choice = self.rng.random()
        if choice < 0.3:
            return self.rng.choice(_SPECIAL)
        if choice < 0.6:
            return self.rng.getrandbits(32)
        value = np.float32(self.rng.uniform(-2, 2) * 2.0 ** self.rng.randint(-20, 4))
        return int(value.view(np.uint32))

    def dump(self) -> None:
        """Store every segment, accumulators too, to memory of its own."""
        config, line = self.config, self.config.line_bytes
        lines = ceil_div(4 * config.columns, line)
        for acc in self.accs:
            for start in range(0, acc.size, self.pads[0].size // lines):
                size = min(self.pads[0].size // lines, acc.size - start)
                self.builder.add(Unit.VECTOR, reads=[acc], writes=["dump"], out_format=OutFormat.INT32,
                                 count0=1, count1=1, count2=size, count3=1, a_line=acc.base + start,
                                 a_stride2=1, out_line=self.params.base, out_stride2=lines, out_step=1)
                self.dump_lines(Region(self.params.base, size * lines), "dump")
        for pad in self.pads:
            self.dump_lines(pad, pad)

    def dump_lines(self, pad: Region, key) -> None:
        line = self.config.line_bytes
        memory = self.memory.region(pad.size * line)
        self.builder.add(Unit.STORE, reads=[key], writes=[memory], address=memory.base, rows=1, planes=1,
                         row_bytes=pad.size * line, segment_bytes=line, line=pad.base, segment_line_stride=1)


def random_job(config: ChipConfig, rng: random.Random, instructions: int) -> Job:
    """A race-free random program of about `instructions` and the memory it works on."""
    generator = _Generator(config, rng)
    for pad in [*generator.pads, generator.params]:     # nothing is read before it was written
        generator.builder.add(
            Unit.LOAD, reads=[generator.source], writes=[pad], rows=1, planes=1, segment_line_stride=1,
            address=generator.source.base + rng.randrange(_START), segment_bytes=config.line_bytes, line=pad.base,
            row_bytes=min(pad.size * config.line_bytes, _SOURCE - _START))
    if generator.has_indices:
        region = generator.indices
        generator.builder.add(Unit.LOAD, reads=[generator.index_source], writes=[region], rows=1, planes=1,
                              row_bytes=region.size * config.line_bytes, segment_bytes=config.line_bytes,
                              segment_line_stride=1, line=region.base, address=generator.index_source.base)
    for acc in generator.accs:
        generator.builder.add(Unit.MATMUL, reads=[generator.pads[0]], writes=[acc], count0=acc.size, count1=1,
                              count2=1, count3=1, acc_line=acc.base, acc_stride0=1,
                              a_line=generator.pads[0].base, w_line=generator.pads[0].base)
    for loads in (1, 2) if generator.has_tables else ():
        generator.builder.add(Unit.VECTOR, reads=[generator.params, generator.accs[0]], writes=[generator.pads[0]],
                              count0=1, count1=1, count2=1, count3=1, a_line=generator.accs[0].base,
                              out_line=generator.pads[0].base, **generator.tables(loads))
    kinds = (generator.load, generator.matmul, generator.vector, generator.store)
    for _ in range(instructions):
        rng.choice(kinds)()
    # The dump reuses the parameters' segment, after every reader of it.
    generator.builder.add(Unit.LOAD, reads=[], writes=[generator.params, "dump"], fill_only=1, rows=1, planes=1,
                          row_bytes=1, segment_bytes=1, line=generator.params.base)
    generator.dump()
    program = generator.builder.assemble()
    where = generator.memory.region(len(program))
    memory = np.zeros(generator.memory.size, np.uint8)
    memory[:_SOURCE] = np.frombuffer(rng.randbytes(_SOURCE), np.uint8)
    for start in range(0, _SOURCE // 2, 4):     # parameters and operands that look like floats, too
        memory[start:start + 4] = np.array([generator.float_bits()], np.uint32).view(np.uint8)
    if generator.has_indices:
        region = generator.index_source
        memory[region.base:region.end].view("<u4")[:] = [generator.index_rng.randrange(_INDICES)
                                                         for _ in range(region.size // 4)]
    memory[where.base:where.end] = np.frombuffer(program, np.uint8)
    return Job(memory=memory, program_address=where.base, program_count=len(program) // INSTRUCTION_BYTES,
               window=(0, len(memory) - 1))
