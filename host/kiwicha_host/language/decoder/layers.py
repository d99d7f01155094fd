"""What a decoder's layers are made of: norms, products, gates and what leaves as codes."""

from collections.abc import Callable

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import OperandUse, Reduce, ResultFunction, ScaleMode, SecondSource

from ...compiler.program.memory_map import ceil_div
from .emitter import Emitter
from .memory import Chunk, PackedMatrix
from .scratchpad import Scratchpad, chunk_lines
from .script import Script
from .shape import BLOCK, DecoderShape

__all__ = ["Layers", "Rows", "bits"]

LOG2_E = 1.4426950408889634

#: First line of rows' words, lines from one to the next, and how many.
Rows = tuple[int, int, int]


def bits(value: float) -> int:
    """A number's bits, rounded to FP32."""
    return int(np.float32(value).view(np.uint32))


class Layers:
    """Emits passes over rows of words.

    Parameters
    ----------
    relay : address of memory by which codes get from lines of `columns` to lines of `rows` elements
    """

    def __init__(self, config: ChipConfig, shape: DecoderShape, scratchpad: Scratchpad, emitter: Emitter,
                 script: Script, relay: int):
        self.config, self.shape, self.at = config, shape, scratchpad
        self.emit, self.script, self._relay = emitter, script, relay
        self.columns, self.words = emitter.columns, emitter.words
        #: Bytes of words in a line.
        self.segment = min(config.line_bytes, 4 * config.columns)
        #: Column blocks that make a scale block.
        self.parts = BLOCK // self.columns
        #: The most lines of the ring that are used at once.
        self.chunk = chunk_lines(config, shape)
        self._half = config.accumulator_lines // 2
        self._turn = 0

    def accumulators(self) -> int:
        """The first line of the half that was not given out last."""
        self._turn ^= 1
        return self._turn * self._half

    @property
    def most_accumulators(self) -> int:
        return self._half

    # Rows of words.

    def norm(self, rows: Rows, factors: int) -> None:
        """x times factors, FP32 at that address, / sqrt(mean(x^2) + epsilon), as codes number 0."""
        (line, stride, count), words, results = rows, self.words, self.at.results
        width, blocks = self.shape.model.width, self.shape.width // self.columns
        self.emit.vector(
            line, [(blocks, words), (count, stride)], results, (0, words), row=True, reduce=Reduce.SUM,
            b=(OperandUse.MULTIPLY, SecondSource.A, 0, (0, 0)))
        self.emit.vector(
            results, [(1, 0), (count, words)], results, (0, words), row=True, tail=1,
            b=(OperandUse.ADD, SecondSource.ROW, self.at.epsilon, (0, 0)), scale_mode=ScaleMode.SCALAR,
            scale=bits(1 / width), function=ResultFunction.RSQRT)
        self.emit.load(factors, 4 * self.shape.width, self.at.norm, segment=self.segment)
        self.emit.vector(line, [(blocks, words), (count, stride)], self.at.work, (words, blocks * words),
                         b=(OperandUse.MULTIPLY, SecondSource.WORDS, self.at.norm, (words, 0)))
        self.quantize((self.at.work, blocks * words, count), self.shape.width, 0, factor=results)

    def quantize(self, rows: Rows, size: int, which: int, factor: int | None = None, first: int = 0,
                 total: int | None = None) -> None:
        """Rows of `size` words as codes number `which`, each row times its word from line `factor` on.

        They are the elements from `first` on, of `total`.
        """
        (line, stride, count), columns = rows, self.columns
        total = total or size
        scale_lines = ceil_div(count, self.config.line_bytes)
        b = None if factor is None else (OperandUse.MULTIPLY, SecondSource.ROW, factor, (0, self.words))
        for block in range(size // BLOCK):
            self.emit.vector(
                line + block * self.parts * self.words, [(1, 0), (count, stride)],
                self.at.codes[which] + first // columns + block * self.parts, (0, total // columns),
                parts=(self.parts, self.words), b=b,
                scale_line=self.at.code_scales[which] + (first // BLOCK + block) * scale_lines)

    def relay(self, line: int, rows: int, size: int) -> None:
        """Rows of `size` codes, from lines of `columns` to lines of `rows` of the array."""
        if self.config.rows == self.columns:
            return
        self.emit.store(self._relay, size, line, segment=self.columns, rows=rows, row_stride=size,
                        row_lines=size // self.columns, writes=["relay"])
        self.emit.load(self._relay, size, line, segment=self.config.rows, rows=rows, row_stride=size,
                       row_lines=size // self.config.rows, reads=["relay"])

    # Products.

    def product(self, packed: PackedMatrix, rows: int, which: int, group: int,
                post: Callable[[int, int, int], None]) -> None:
        """Codes number `which` of `rows` rows times a matrix, at most `group` blocks of columns at a time.

        `post` is told the first block, how many there are, and their first accumulator line.
        """
        group = min(group, self._half // rows)
        ends = packed.n // self.columns
        acc = 0

        def load(chunk: Chunk) -> Callable[[int], None]:
            return lambda line: self.emit.load(chunk.address, chunk.bytes, line, segment=self.columns)

        def multiply(chunk: Chunk) -> Callable[[int], None]:
            def action(line: int) -> None:
                nonlocal acc
                block, last = chunk.block, chunk.block + chunk.blocks
                while block < last:
                    stop = min(last, (block // group + 1) * group)
                    if block % group == 0 and chunk.k == 0:
                        acc = self.accumulators()
                    self._multiply(packed, chunk, line, rows, which, block, stop - block,
                                   acc + block % group * rows)
                    if chunk.k + chunk.k_size == packed.k and (stop % group == 0 or stop == ends):
                        first = (stop - 1) // group * group
                        post(first, stop - first, acc)
                    block = stop
            return action

        for chunk in packed.chunks():
            self.script.use(chunk.bytes // self.columns, load(chunk), multiply(chunk), after=1)

    def _multiply(self, packed: PackedMatrix, chunk: Chunk, line: int, rows: int, which: int, block: int,
                  blocks: int, acc: int) -> None:
        lines = chunk.k_size // BLOCK * (BLOCK + 1)
        w = line + (block - chunk.block) * lines
        tiles, scale_lines = packed.k // self.config.rows, ceil_div(rows, self.config.line_bytes)
        self.emit.matmul(k=chunk.k_size, blocks=blocks, vectors=[(rows, tiles), (1, 0)],
                         a=self.at.codes[which] + chunk.k // self.config.rows,
                         a_scale=self.at.code_scales[which] + chunk.k // BLOCK * scale_lines,
                         w=w, w_stride=lines, w_scale=w + chunk.k_size, w_scale_strides=(1, lines), acc=acc,
                         accumulate=chunk.k > 0)

    def copy(self, acc: int, blocks: int, rows: int, out: int, row_lines: int,
             add: int | None = None) -> None:
        """Accumulators of blocks of columns to words, row by row; `add` is the first line of what is added."""
        strides = (self.words, row_lines)
        b = None if add is None else (OperandUse.ADD, SecondSource.WORDS, add, strides)
        self.emit.vector(acc, [(blocks, rows), (rows, 1)], out, strides, acc=True, b=b)

    def gate(self, first: int, blocks: int, acc: int, rows: int) -> None:
        """silu(gate) * up as codes number 1; blocks of both come in turn."""
        count, words, work = blocks // 2, self.words, self.at.work
        loops, strides = [(count, words), (rows, count * words)], (words, count * words)
        in_acc = [(count, 2 * rows), (rows, 1)]
        again = (OperandUse.MULTIPLY, SecondSource.WORDS, work, strides)
        self.emit.vector(acc, in_acc, work, strides, acc=True, scale_mode=ScaleMode.SCALAR, scale=bits(-LOG2_E),
                         function=ResultFunction.EXP2)
        self.emit.vector(work, loops, work, strides, b=(OperandUse.ADD, SecondSource.ROW, self.at.one, (0, 0)),
                         function=ResultFunction.RECIPROCAL)
        self.emit.vector(acc, in_acc, work, strides, acc=True, b=again)
        self.emit.vector(acc + rows, in_acc, work, strides, acc=True, b=again)
        self.quantize((work, count * words, rows), count * self.columns, 1, first=first // 2 * self.columns,
                      total=self.shape.ffn)
