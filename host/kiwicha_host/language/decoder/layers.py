"""What a decoder's layers are made of: norms, products, gates and what leaves as codes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import OperandUse, Reduce, ResultFunction, ScaleMode, SecondSource

from ...compiler.errors import CompileError
from ...compiler.program.memory_map import ceil_div
from .emitter import ACC_GROUP, Address, Emitter
from .numbers import Numbers, padded
from .packed import Chunk, PackedMatrix
from .script import Script

__all__ = ["Codes", "GROUP_BLOCKS", "LOG2_E", "Layers", "Rows", "Shared", "accumulator_share", "bits"]

#: Blocks of columns whose sums leave the accumulators together, while the next are computed.
GROUP_BLOCKS = 4
LOG2_E = 1.4426950408889634

#: First line of rows' words, lines from one to the next, and how many.
Rows = tuple[int, int, int]


def bits(value: float) -> int:
    """A number's bits, rounded to FP32."""
    return int(np.float32(value).view(np.uint32))


@dataclass(frozen=True)
class Codes:
    """Rows of codes in the scratchpad, which are multiplied by matrices.

    Parameters
    ----------
    line : first line; rows follow each other
    scales : first line of scales; for each block there are lines with a byte for each row
    size : elements of a row
    numbers : Numbers
    """
    line: int
    scales: int
    size: int
    numbers: Numbers


@dataclass(frozen=True)
class Shared:
    """What passes need besides their operands.

    Parameters
    ----------
    one : line of words, this number
    results : first line of two words for each row
    work : first line of words for each row
    chunk : the most lines of the ring that are used at once
    relay : address of memory by which codes get from lines of `columns` to lines of `rows` elements
    """
    one: int
    results: int
    work: int
    chunk: int
    relay: int


def accumulator_share(config: ChipConfig, parts: int) -> int:
    """Accumulator lines of each half that a part has, of so many that are alike."""
    return config.accumulator_lines // 2 // parts // ACC_GROUP * ACC_GROUP


class Layers:
    """Emits passes over rows of words; `share` says which part of how many of the accumulators sums may take."""

    def __init__(self, config: ChipConfig, shared: Shared, emitter: Emitter, script: Script,
                 share: tuple[int, int] = (0, 1)):
        self.config, self._at = config, shared
        self.emit, self.script = emitter, script
        self.columns, self.words = emitter.columns, emitter.words
        #: Bytes of words in a line.
        self.segment = min(config.line_bytes, 4 * config.columns)
        self.chunk = shared.chunk
        (part, parts), half = share, config.accumulator_lines // 2
        size = accumulator_share(config, parts)
        #: For each half of the accumulators, of which VECTOR reads one while MATMUL adds into the other.
        self._sums = [range(start + part * size, start + (part + 1) * size) for start in (0, half)]
        self._next = [lines.start for lines in self._sums]
        self._turn, self._is_ring = 0, parts > 1

    def accumulators(self, count: int) -> int:
        """The first of `count` lines, in one half and then in the other, in turn.

        A step alone always gets the same: so no product is further ahead than one, in the other half. Where two
        halves of a step hide each other's waiting it pays to be further ahead: each half's lines are a ring, from
        which whole groups are given out.
        """
        if count > self.most_accumulators:
            raise CompileError(f"sums need {count} accumulator lines at once; there are {self.most_accumulators}")
        self._turn ^= 1
        lines, first = self._sums[self._turn], self._next[self._turn]
        if first + count > lines.stop:
            first = lines.start
        if self._is_ring:
            self._next[self._turn] = first + ceil_div(count, ACC_GROUP) * ACC_GROUP
        return first

    @property
    def most_accumulators(self) -> int:
        """Lines that there may be at once."""
        return len(self._sums[0])

    # Rows of words.

    def with_factors(self, factors: int, size: int, action: Callable[[int], None]) -> None:
        """Script: `action` is told the first line of `size` words of that address, which are loaded ahead."""
        blocks = padded(size) // self.columns
        self.script.use(blocks * self.words, lambda line: self.emit.load(
            factors, 4 * blocks * self.columns, line, segment=self.segment), action, after=1)

    def norm(self, rows: Rows, size: int, epsilon: int) -> int:
        """The line of a word for each row, 1 / sqrt(mean(x^2) + epsilon).

        Parameters
        ----------
        size : elements of a row, which are filled up with zeros
        epsilon : the line of it, times `size`
        """
        (line, stride, count), words, results = rows, self.words, self._at.results
        blocks = padded(size) // self.columns
        self.emit.vector(
            line, [(blocks, words), (count, stride)], results, (0, words), row=True, reduce=Reduce.SUM,
            b=(OperandUse.MULTIPLY, SecondSource.A, 0, (0, 0)))
        self.emit.vector(
            results, [(1, 0), (count, words)], results, (0, words), row=True, tail=1,
            b=(OperandUse.ADD, SecondSource.ROW, epsilon, (0, 0)), scale_mode=ScaleMode.SCALAR,
            scale=bits(1 / size), function=ResultFunction.RSQRT)
        return results

    def scaled_norm(self, rows: Rows, size: int, factors: int, out: Rows, epsilon: int) -> int:
        """The same as :meth:`norm`; and x times words from line `factors` on as rows `out`."""
        (line, stride, count), words = rows, self.words
        factor, blocks = self.norm(rows, size, epsilon), padded(size) // self.columns
        self.emit.vector(line, [(blocks, words), (count, stride)], out[0], (words, out[1]),
                         b=(OperandUse.MULTIPLY, SecondSource.WORDS, factors, (words, 0)))
        return factor

    def scale_rows(self, rows: Rows, blocks: int, factor: int) -> None:
        """Rows of `blocks` blocks of words, each times its word from line `factor` on."""
        (line, stride, count), words = rows, self.words
        self.emit.vector(line, [(blocks, words), (count, stride)], line, (words, stride),
                         b=(OperandUse.MULTIPLY, SecondSource.ROW, factor, (0, words)))

    def quantize(self, rows: Rows, size: int, codes: Codes, factor: int | None = None, first: int = 0) -> None:
        """Rows of `size` words as elements of `codes` from `first` on, whole blocks; each row times its word from
        line `factor` on.
        """
        (line, stride, count), columns = rows, self.columns
        scale_lines = ceil_div(count, self.config.line_bytes)
        b = None if factor is None else (OperandUse.MULTIPLY, SecondSource.ROW, factor, (0, self.words))
        for start, some in codes.numbers.parts(size):
            self.emit.vector(
                line + start // columns * self.words, [(1, 0), (count, stride)],
                codes.line + (first + start) // columns, (0, codes.size // columns),
                parts=(some // columns, self.words), b=b,
                scales=(codes.numbers, codes.scales + (first + start) // codes.numbers.block * scale_lines))

    def quantize_rows(self, rows: Rows, size: int, codes: Codes, factor: int | None = None) -> None:
        """Script: the same, whole rows, and where these are multiplied from."""
        def action() -> None:
            self.quantize(rows, size, codes, factor)
            self.relay(codes.line, rows[2], size)
        self.script.do(action)

    def relay(self, line: int, rows: int, size: int) -> None:
        """Rows of `size` codes, from lines of `columns` to lines of `rows` of the array."""
        if self.config.rows == self.columns:
            return
        self.emit.store(self._at.relay, size, line, segment=self.columns, rows=rows, row_stride=size,
                        row_lines=size // self.columns, writes=[("relay", self._at.relay)])
        self.emit.load(self._at.relay, size, line, segment=self.config.rows, rows=rows, row_stride=size,
                       row_lines=size // self.config.rows, reads=[("relay", self._at.relay)])

    # Products.

    def product(self, packed: PackedMatrix, rows: int, codes: Codes, group: int,
                post: Callable[[int, int, int], None], *, first: int = 0, after: int = 1,
                place: Callable[[int], Address] = lambda address: address) -> None:
        """Script: rows of codes times a matrix, at most `group` blocks of columns at a time.

        Parameters
        ----------
        post : is told the first block, how many there are, and their first accumulator line
        first : the first element of each row, at a block of scales; as many are taken as the matrix has rows
        after : steps of the script before which nothing is loaded
        place : where in memory an address of `packed` is
        """
        group = min(group, self.most_accumulators // rows)
        ends = packed.n // self.columns
        acc = 0

        def multiply(chunk: Chunk) -> Callable[[int], None]:
            def action(line: int) -> None:
                nonlocal acc
                block, last = chunk.block, chunk.block + chunk.blocks
                while block < last:
                    stop = min(last, (block // group + 1) * group)
                    if block % group == 0 and chunk.k == 0:
                        acc = self.accumulators(min(group, ends - block) * rows)
                    self._multiply(packed, chunk, line, rows, codes, first, block, stop - block,
                                   acc + block % group * rows)
                    if chunk.k + chunk.k_size == packed.k and (stop % group == 0 or stop == ends):
                        start = (stop - 1) // group * group
                        post(start, stop - start, acc)
                    block = stop
            return action

        for chunk in packed.chunks():
            self.script.use(chunk.blocks * packed.lines(chunk.k_size), partial(self._load, packed, chunk, place),
                            multiply(chunk), after=after)

    def _load(self, packed: PackedMatrix, chunk: Chunk, place: Callable[[int], Address], line: int) -> None:
        """Codes, and after them scales; at once where their lines have as many bytes."""
        address = chunk.address
        runs = [(chunk.blocks * lines, size) for lines, size in packed.runs(chunk.k_size)]
        if runs[0][1] == runs[1][1]:
            runs = [(runs[0][0] + runs[1][0], runs[0][1])]
        for lines, size in runs:
            self.emit.load(place(address), lines * size, line, segment=size)
            address, line = address + lines * size, line + lines

    def _multiply(self, packed: PackedMatrix, chunk: Chunk, line: int, rows: int, codes: Codes, first: int,
                  block: int, blocks: int, acc: int) -> None:
        before, scales = block - chunk.block, packed.numbers.blocks(chunk.k_size)
        start, scale_lines = first + chunk.k, ceil_div(rows, self.config.line_bytes)
        self.emit.matmul(packed.numbers, k=chunk.k_size, blocks=blocks,
                         vectors=[(rows, codes.size // self.config.rows), (1, 0)],
                         a=codes.line + start // self.config.rows,
                         a_scale=codes.scales + start // packed.numbers.block * scale_lines,
                         w=line + before * chunk.k_size, w_stride=chunk.k_size,
                         w_scale=line + chunk.blocks * chunk.k_size + before * scales, w_scale_strides=(1, scales),
                         acc=acc, accumulate=chunk.k > 0)

    def copy(self, acc: int, blocks: int, rows: int, out: int, row_lines: int,
             add: int | None = None) -> None:
        """Accumulators of blocks of columns to words, row by row; `add` is the first line of what is added."""
        strides = (self.words, row_lines)
        b = None if add is None else (OperandUse.ADD, SecondSource.WORDS, add, strides)
        self.emit.vector(acc, [(blocks, rows), (rows, 1)], out, strides, acc=True, b=b)

    def gate_group(self, codes: Codes, rows: int, work_blocks: int) -> int:
        """How many blocks of columns :meth:`gate` takes at once, with words for so many of each row."""
        pairs = 2 * codes.numbers.block // self.columns
        return max(pairs, min(2 * work_blocks, GROUP_BLOCKS, self.most_accumulators // rows) // pairs * pairs)

    def gate(self, first: int, blocks: int, acc: int, rows: int, codes: Codes) -> None:
        """silu(gate) * up as `codes`; blocks of both come in turn."""
        count, words, work = blocks // 2, self.words, self._at.work
        loops, strides = [(count, words), (rows, count * words)], (words, count * words)
        in_acc = [(count, 2 * rows), (rows, 1)]
        again = (OperandUse.MULTIPLY, SecondSource.WORDS, work, strides)
        self.emit.vector(acc, in_acc, work, strides, acc=True, scale_mode=ScaleMode.SCALAR, scale=bits(-LOG2_E),
                         function=ResultFunction.EXP2)
        self.emit.vector(work, loops, work, strides, b=(OperandUse.ADD, SecondSource.ROW, self._at.one, (0, 0)),
                         function=ResultFunction.RECIPROCAL)
        self.emit.vector(acc, in_acc, work, strides, acc=True, b=again)
        self.emit.vector(acc + rows, in_acc, work, strides, acc=True, b=again)
        self.quantize((work, count * words, rows), count * self.columns, codes, first=first // 2 * self.columns)
