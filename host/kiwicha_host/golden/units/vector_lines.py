"""Which lines a VECTOR reads and writes, in which order, and the first of them that does not exist."""

from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import ErrorCode, OperandUse, OutFormat, SecondSource, Source

from .access import Fault, Lines, raise_first, walk

__all__ = ["DYNAMIC_SCALE", "VectorLines"]

#: Results of so few bits that they take a dynamic scale.
DYNAMIC_SCALE = {OutFormat.E4M3: "e4m3", OutFormat.E2M1: "e2m1", OutFormat.MXINT8: "int8"}


class VectorLines:
    """The lines of an instruction `f` on a chip of `config`.

    A pixel's are read part by part, of each the first line of words (of which bytes and accumulators have but
    one) with its whole window, then the next; one of BF16 goes with two of words. A row's pixels are those of
    level 2.
    """

    def __init__(self, config: ChipConfig, f: dict[str, Any]):
        self._config, self._f = config, f
        self.dynamic_scale = f["out_format"] in DYNAMIC_SCALE
        self.parts = f["parts"] if self.dynamic_scale else 1
        self.pixel_counts, self.window_counts = ([f[f"count{level}"] for level in levels] for levels in
                                                 ((3, 2), (1, 0)))
        self.word_lines, half_lines = (-(-size * config.columns // config.line_bytes) for size in (4, 2))
        a_words, b_words = (half_lines if f[name] else self.word_lines for name in ("a_bf16", "b_bf16"))
        self.a_lines = a_words if f["a_source"] == Source.WORDS else 1
        self.b_lines = b_words if f["b_source"] == SecondSource.WORDS else 1
        self._b_strides = [f["b_stride3"], 0 if f["b_source"] == SecondSource.ROW else f["b_stride2"], 1]
        size = {OutFormat.INT8: 1, OutFormat.BF16: 2}.get(f["out_format"], 4)
        #: Whether operand B has lines of its own.
        self.has_second = f["b_use"] != OperandUse.NONE and f["b_source"] != SecondSource.A
        #: Lines of a pixel's results, or of a row's.
        self.steps = self.parts if self.dynamic_scale else -(-size * config.columns // config.line_bytes)
        #: Lines of words with the last of which each of these is complete.
        self._complete = ([self.word_lines - 1] * self.steps if self.dynamic_scale else
                          [min((line + 1) * 4 // size, self.word_lines) - 1 for line in range(self.steps)])
        #: Results that are a row's or, without rows, a pixel's.
        self.results = 2 * f["top"] or 1
        self._out_counts = [self.pixel_counts[0], self.results if f["row"] else self.pixel_counts[1]]

    def a(self) -> np.ndarray:
        """[pixels, parts, word lines, window]"""
        f = self._f
        lines = walk(f["a_line"], self._a_counts, self._a_strides)
        return lines.reshape(-1, self.parts, self.a_lines, f["count1"] * f["count0"])

    def b(self) -> np.ndarray:
        """[pixels, word lines]"""
        lines = walk(self._f["b_line"], [*self.pixel_counts, self.b_lines], self._b_strides)
        return lines.reshape(-1, self.b_lines)

    def out(self) -> np.ndarray:
        """[pixels or results of rows, lines]"""
        lines = walk(self._f["out_line"], [*self._out_counts, self.steps], self._out_strides)
        return lines.reshape(-1, self.steps)

    @property
    def _a_counts(self) -> list[int]:
        return [*self.pixel_counts, self.parts, self.a_lines, *self.window_counts]

    @property
    def _a_strides(self) -> list[int]:
        f = self._f
        return [f["a_stride3"], f["a_stride2"], f["part_stride"], 1, f["a_stride1"], f["a_stride0"]]

    @property
    def _out_strides(self) -> list[int]:
        return [self._f["out_stride3"], self._f["out_stride2"], self._f["out_step"]]

    def check(self) -> None:
        """Raise the fault of the line that is met first."""
        f, scratchpad = self._f, (ErrorCode.SCRATCHPAD_RANGE, self._config.scratchpad_lines)
        reads = Lines(*(scratchpad if f["a_source"] != Source.ACCUMULATOR else
                        (ErrorCode.ACCUMULATOR_RANGE, self._config.accumulator_lines)),
                      f["a_line"], self._a_counts, self._a_strides)
        seconds = Lines(*scratchpad, f["b_line"], [*self.pixel_counts, self.b_lines], self._b_strides)
        writes = Lines(*scratchpad, f["out_line"], [*self._out_counts, self.steps], self._out_strides)
        # Places in the order are (level 3, level 2, part, line of words, ...): B comes with the first of a line's
        # window, and a result when the last line is read that it is made of; the largest of a row with its first.
        a_each, b_each = 1 + f["a_bf16"], 1 + f["b_bf16"]       # lines of words that one line goes with
        faults = [((*index[:3], index[3] * a_each, *index[4:], 0), reads.fault(index))
                  for index in (reads.astray(),) if index]
        if self.has_second:
            faults += [((*index[:2], 0, index[2] * b_each, 0, 0, 1), seconds.fault(index))
                       for index in (seconds.astray(),) if index]
        for index in (writes.astray(),):
            if index:
                last = f["count2"] - 1 if f["row"] else index[1]
                part = index[2] if self.dynamic_scale else 0
                place = ((index[0], 0, 0, 0, 0, 0, 2) if f["top"] else
                         (index[0], last, part, self._complete[index[2]], 1 << 32))
                faults.append((place, writes.fault(index)))
        raise_first(*faults, *(self._astray_scale() if self.dynamic_scale else ()))

    def _astray_scale(self):
        """The first line of dynamic scales that does not exist, as its place in the order and as an error."""
        f, config = self._f, self._config
        last = f["scale_line"] + (f["count2"] * f["count3"] - 1) // config.line_bytes
        line = max(f["scale_line"], config.scratchpad_lines)
        if line <= last:
            # It is met with the first pixel whose scale goes there, after that pixel's own lines.
            pixel = divmod((line - f["scale_line"]) * config.line_bytes, f["count2"])
            yield (*pixel, self.parts, 0), Fault(ErrorCode.SCRATCHPAD_RANGE, line)
