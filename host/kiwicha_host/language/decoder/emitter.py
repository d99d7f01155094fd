"""Instructions of a decoder's program, in the order in which they would be right one after the other.

What waits for what follows from the lines that each instruction reads and writes, in groups of a few lines, and
from the names of what it reads and writes in memory. So no two uses of the same lines can be forgotten.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kiwicha import ChipConfig
from kiwicha.isa import OperandUse, OutFormat, SecondSource, Source, Unit
from kiwicha.timing import word_lines

from ...compiler.program.memory_map import ceil_div
from .numbers import Numbers

__all__ = ["ACC_GROUP", "Address", "Emitter", "GROUP", "Indexed", "Instruction"]

#: Scratchpad lines, and accumulator lines, that wait for each other together.
GROUP = 32
ACC_GROUP = 8

#: A loop: its count, and lines from one iteration to the next.
_Loop = tuple[int, int]


class Indexed(NamedTuple):
    """An address that each step has another of: `base` plus an index, which is less than `bound`, times `stride`.

    The index is word number `word` of the step's indices; or of the scratchpad line `line`, where the chip has put
    it: only in a chip with `indices`.
    """
    base: int
    stride: int
    word: int
    bound: int
    line: int | None = None


#: Where something is in memory.
Address = int | Indexed


@dataclass(slots=True)
class Instruction:
    """What a unit is to do, less its semaphores.

    Parameters
    ----------
    unit : Unit
    fields : those of the ISA
    reads, writes : keys of the buffers
    cycles : a guess of how long it takes the unit
    place : what each step has to give it as its address
    bytes : what it moves
    part : the part of the model that it belongs to
    """
    unit: Unit
    fields: dict[str, Any]
    reads: Collection[Hashable]
    writes: Collection[Hashable]
    cycles: int
    place: Indexed | None = None
    bytes: int = 0
    part: str = ""


class Emitter:
    """See the module.

    Parameters
    ----------
    indices : first scratchpad line of a step's indices, in a chip that takes such; others are given the addresses

    Attributes
    ----------
    columns, words : int
        The array's, and scratchpad lines of a word for each.
    instructions : list of Instruction
        All so far.
    """

    def __init__(self, config: ChipConfig, indices: int):
        self.config, self.columns, self.words = config, config.columns, word_lines(config)
        self._indices, self._ended = indices, 0
        self.instructions: list[Instruction] = []

    def _pass(self, blocks: int, lines: int, is_serial: bool) -> int:
        """Cycles for blocks of columns, for each of which the operands' port reads so many lines: an element a
        lane and cycle, or, of functions, one a cycle.
        """
        return blocks * max(lines, self.columns // (1 if is_serial else self.config.vector_lanes))

    def end_part(self, name: str) -> None:
        """All instructions that have no part yet belong to this."""
        for instruction in self.instructions[self._ended:]:
            instruction.part = name
        self._ended = len(self.instructions)

    def _add(self, unit: Unit, reads: Collection[Hashable], writes: Collection[Hashable], cycles: int,
             **fields: Any) -> Instruction:
        self.instructions.append(Instruction(unit, fields, reads, writes, cycles))
        return self.instructions[-1]

    def load(self, address: Address, row_bytes: int, line: int, *, segment: int, rows: int = 1,
             row_stride: int = 0, segment_lines: int = 1, row_lines: int = 0,
             reads: Collection[Hashable] = ()) -> None:
        """Rows of bytes, `row_stride` apart, in segments of so many."""
        lines = _lines(line, [(ceil_div(row_bytes, segment), segment_lines), (rows, row_lines)])
        self._transfer(Unit.LOAD, address, reads, lines, row_bytes=row_bytes, rows=rows, row_stride=row_stride,
                       line=line, segment_bytes=segment, segment_line_stride=segment_lines,
                       row_line_stride=row_lines)

    def store(self, address: Address, row_bytes: int, line: int, *, segment: int, rows: int = 1,
              row_stride: int = 0, segment_lines: int = 1, row_lines: int = 0,
              writes: Collection[Hashable] = ()) -> None:
        lines = _lines(line, [(ceil_div(row_bytes, segment), segment_lines), (rows, row_lines)])
        self._transfer(Unit.STORE, address, lines, writes, row_bytes=row_bytes, rows=rows, row_stride=row_stride,
                       line=line, segment_bytes=segment, segment_line_stride=segment_lines,
                       row_line_stride=row_lines)

    def _transfer(self, unit: Unit, address: Address, reads: Collection[Hashable], writes: Collection[Hashable],
                  **fields: int) -> None:
        rows, size, place = fields["rows"], fields["row_bytes"], None
        cycles = rows * max(ceil_div(size, self.config.bus_bytes), ceil_div(size, fields["segment_bytes"]))
        if isinstance(address, int):
            fields |= {"address": address}
        elif self.config.indices:
            line, word = divmod(address.word, self.config.line_bytes // 4)
            line += self._indices if address.line is None else address.line
            reads = [*reads, *_lines(line, [(1, 0)])]
            fields |= {"address": address.base, "indexed": 1, "index_line": line, "index_word": word,
                       "index_stride": address.stride, "index_bound": address.bound}
        else:
            fields |= {"address": 0}
            place = address
        added = self._add(unit, reads, writes, cycles, planes=1, **fields)
        added.place, added.bytes = place, rows * size

    def fill(self, line: int, count: int, byte: int) -> None:
        self._add(Unit.LOAD, (), _lines(line, [(count, 1)]), count, fill_only=1, fill=byte, address=0, row_bytes=1,
                  rows=count, planes=1, line=line, segment_bytes=1, row_line_stride=1)

    def matmul(self, numbers: Numbers, *, k: int, blocks: int, vectors: Sequence[_Loop], a: int, a_scale: int,
               w: int, w_stride: int, w_scale: int, w_scale_strides: tuple[int, int], acc: int,
               accumulate: bool) -> None:
        """Block-scaled: vectors, of each k elements, times `blocks` blocks of columns.

        Parameters
        ----------
        vectors : two loops of A's lines; their accumulator lines follow each other
        a_scale : first of the lines that have a byte for each vector, one after another for each scale block
        w_stride : lines from one block of columns to the next
        w_scale_strides : lines from one scale block to the next, and from one block of columns to the next
        """
        rows, tiles = self.config.rows, k // self.config.rows
        (inner, a0), (outer, a1) = vectors
        count = inner * outer
        scale_lines = ceil_div(count, self.config.line_bytes)
        scales = numbers.blocks(k)
        reads = {*_lines(a, [(tiles, 1), (inner, a0), (outer, a1)]), *_lines(a_scale, [(scales * scale_lines, 1)]),
                 *_lines(w, [(k, 1), (blocks, w_stride)]),
                 *_lines(w_scale, [(scales, w_scale_strides[0]), (blocks, w_scale_strides[1])])}
        self._add(
            Unit.MATMUL, reads, _accumulators(acc, blocks * count), blocks * tiles * max(count, rows),
            accumulate=int(accumulate), scaled=1, a_format=numbers.activations.code, w_format=numbers.weights.code,
            block_tiles=numbers.block // rows, count0=inner, count1=outer, count2=tiles, count3=blocks, a_line=a,
            a_stride0=a0, a_stride1=a1, a_stride2=1, w_line=w, w_stride2=rows, w_stride3=w_stride, acc_line=acc,
            acc_stride0=1, acc_stride1=inner, acc_stride3=count, a_scale_line=a_scale, a_scale_stride2=scale_lines,
            w_scale_line=w_scale, w_scale_stride2=w_scale_strides[0], w_scale_stride3=w_scale_strides[1])

    def vector(self, a: int, loops: Sequence[_Loop], out: int, out_strides: Sequence[int], *, acc: bool = False,
               b: tuple[OperandUse, SecondSource, int, Sequence[int]] | None = None, parts: _Loop = (1, 0),
               scales: tuple[Numbers, int] | None = None, row: bool = False, out_step: int = 1,
               window: _Loop = (1, 0), **fields: int) -> None:
        """FP32 in, and out FP32 or (with `scales`) what products take.

        Parameters
        ----------
        a : first line of operand A, words of the scratchpad or, with `acc`, accumulators
        loops, out_strides : levels 2 and 3, and the result's lines from one iteration to the next
        b : what becomes of operand B, from where, its first line and its strides
        parts : column blocks that share a scale
        scales : how results are quantized, and the first line of their scales
        window : of whose lines the largest counts
        row : one result of all columns and all of level 2; or with `top`, so many and their places
        """
        (count2, stride2), (count3, stride3) = loops
        top = fields.get("top", 0)
        lines = (0 if acc else self.words) + (self.words if b is not None and b[1] == SecondSource.WORDS else 0)
        cycles = self._pass(count2 * count3 * parts[0], lines, not row and "function" in fields)
        out_loops = [((2 * top or 1) if row else count2, out_strides[0]), (count3, out_strides[1])]
        a_loops = [*loops, parts, window]
        reads = set(_accumulators(a, 1 + sum((count - 1) * stride for count, stride in a_loops)) if acc else
                    _lines(a, [*a_loops, (self.words, 1)]))
        writes = set(_lines(out, [*out_loops, (self.words if scales is None else parts[0], out_step)]))
        if b is not None:
            use, source, line, strides = b
            stride = 0 if source == SecondSource.ROW else strides[0]
            if source != SecondSource.A:
                reads |= set(_lines(line, [(count2, stride), (count3, strides[1]), (self.words, 1)]))
            fields |= {"b_use": use, "b_source": source, "b_line": line, "b_stride2": strides[0],
                       "b_stride3": strides[1]}
        if scales is not None:
            writes |= set(_lines(scales[1], [(ceil_div(count2 * count3, self.config.line_bytes), 1)]))
            fields |= {"parts": parts[0], "part_stride": parts[1], "scale_line": scales[1]}
        self._add(
            Unit.VECTOR, reads, writes, cycles, float=1, a_source=Source.ACCUMULATOR if acc else Source.WORDS,
            out_format=OutFormat.FP32 if scales is None else scales[0].out_format, count0=window[0],
            a_stride0=window[1], count1=1, count2=count2, count3=count3, a_line=a, a_stride2=stride2,
            a_stride3=stride3, out_line=out, out_step=out_step,
            out_stride2=0 if row and not top else out_strides[0], out_stride3=out_strides[1], row=int(row),
            **fields)

    def add_integers(self, a: int, b: int, out: int, count: int = 1) -> None:
        """Of `count` lines of words each, modulo 2^32."""
        loop = [(count, self.words), (self.words, 1)]
        self._add(
            Unit.VECTOR, [*_lines(a, loop), *_lines(b, loop)], _lines(out, loop),
            self._pass(count, 2 * self.words, is_serial=False),
            a_source=Source.WORDS, b_use=OperandUse.ADD, b_source=SecondSource.WORDS, out_format=OutFormat.INT32,
            count0=1, count1=1, count2=count, count3=1, a_line=a, a_stride2=self.words, b_line=b,
            b_stride2=self.words, out_line=out, out_stride2=self.words, out_step=1)

    def load_table_b(self, line: int, scratch: int) -> None:
        """Table B from the lines from `line` on; the instruction's one result, at `scratch`, is of no use."""
        lines = ceil_div(1024, self.config.line_bytes)
        self._add(
            Unit.VECTOR, _lines(line, [(lines, 1)]), _lines(scratch, [(self.words, 1)]), lines, load_b=1,
            table_line=line, a_source=Source.WORDS, out_format=OutFormat.INT32, count0=1, count1=1, count2=1,
            count3=1, a_line=line, out_line=scratch, out_step=1)


def _lines(base: int, loops: Iterable[_Loop]) -> list[Hashable]:
    """The groups of lines between the first and the last that the loops visit."""
    first = base + sum(min(0, (count - 1) * stride) for count, stride in loops)
    last = base + sum(max(0, (count - 1) * stride) for count, stride in loops)
    return [("line", group) for group in range(first // GROUP, last // GROUP + 1)]


def _accumulators(base: int, count: int) -> list[Hashable]:
    return [("acc", group) for group in range(base // ACC_GROUP, (base + count - 1) // ACC_GROUP + 1)]
