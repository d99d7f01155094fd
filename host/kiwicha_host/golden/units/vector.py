"""VECTOR."""

from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import MAX_BLOCK
from kiwicha.isa import TABLE_WORDS, ErrorCode, OperandUse, OutFormat, Reduce, ScaleMode, Source

from .. import numerics
from ..block import quantize_block
from .access import Fault, Lines, Memory, State, need, raise_first, walk

__all__ = ["vector"]

#: Results of so few bits that they take a dynamic scale.
_DYNAMIC_SCALE = {OutFormat.E4M3: "e4m3", OutFormat.E2M1: "e2m1"}


def vector(state: State, memory: Memory, f: dict[str, Any]) -> None:
    config, out_format = state.config, f["out_format"]
    counts, a_strides = ([f[f"{name}{level}"] for level in (3, 2, 1, 0)] for name in ("count", "a_stride"))
    _check(config, f, counts)
    dynamic_scale = out_format in _DYNAMIC_SCALE
    parts = f["parts"] if dynamic_scale else 1
    size = {OutFormat.INT8: 1, OutFormat.BF16: 2}.get(out_format, 4)
    steps = parts if dynamic_scale else -(-size * config.columns // config.line_bytes)
    pixel_counts, counts = counts[:2], [*counts[:2], parts, *counts[2:]]
    a_strides = [*a_strides[:2], f["part_stride"], *a_strides[2:]]
    out_counts, out_strides = [*pixel_counts, steps], [f["out_stride3"], f["out_stride2"], f["out_step"]]
    b_strides = [f["b_stride3"], f["b_stride2"]]

    bias, scale = _parameters(state, f)
    _load_tables(state, f)
    scratchpad = ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines
    reads = Lines(*(scratchpad if f["a_source"] == Source.TABLE else
                    (ErrorCode.ACCUMULATOR_RANGE, config.accumulator_lines)), f["a_line"], counts, a_strides)
    seconds = Lines(*scratchpad, f["b_line"], pixel_counts, b_strides)
    writes = Lines(*scratchpad, f["out_line"], out_counts, out_strides)
    # A pixel's (or part's) whole window comes before its result, and its B with the first of A.
    raise_first(*(((*index, 0), reads.fault(index)) for index in (reads.astray(),) if index),
                *(((*index, 0, 0, 0, 1), seconds.fault(index)) for index in (seconds.astray(),)
                  if index and f["b_use"] != OperandUse.NONE),
                *(((*index[:2], dynamic_scale * index[2], 1 << 32), writes.fault(index))
                  for index in (writes.astray(),) if index),
                *(_astray_dynamic_scale(config, f, parts) if dynamic_scale else ()))

    clamp_to = None
    if f["clamp"]:
        bounds = np.array([f["clamp_low"], f["clamp_high"]], np.uint32)
        clamp_to = tuple(bounds.view(np.int32 if out_format == OutFormat.INT32 else np.float32))
    lines = walk(f["out_line"], out_counts, out_strides).reshape(-1, steps)
    origins = walk(f["a_line"], counts[:3], a_strides[:3]).reshape(-1, parts)
    b_lines = walk(f["b_line"], pixel_counts, b_strides).reshape(-1)
    window = walk(0, counts[3:], a_strides[3:]).reshape(-1)
    # So many pixels at a time, for memory's sake; their scales fill whole lines.
    pixels = config.line_bytes * max(1, (1 << 20) // (parts * len(window) * config.columns * config.line_bytes))
    for start in range(0, len(origins), pixels):
        a = _operand(state, f, origins[start:start + pixels, :, None] + window)
        if f["b_use"] != OperandUse.NONE:
            b = state.tables[1][state.scratchpad[b_lines[start:start + pixels, None, None], :config.columns]]
            if f["b_use"] == OperandUse.ADD:
                bias = b.view(np.float32 if f["float"] else np.int32)
            else:
                scale = b.view(np.float32)
        if f["reduce"] == Reduce.SUM:
            a = a.sum(axis=2, keepdims=True, dtype=np.int32)
        result = numerics.epilogue(a, bias, scale, out_format, clamp_to, f["zero_point"], window=(2,))
        where = lines[start:start + pixels].reshape(-1)
        if dynamic_scale:
            data, scales = _dynamic_scale(config, f, result)
            # A line of scales follows the last pixel that it is about.
            after = np.minimum(np.arange(1, len(scales) + 1) * config.line_bytes, len(result)) * parts
            where = np.insert(where, after, f["scale_line"] + start // config.line_bytes + np.arange(len(scales)))
            data = np.insert(data, after, scales, axis=0)
        else:
            raw = numerics.to_bf16(result) if out_format == OutFormat.BF16 else result
            data = _pad(raw, steps * config.line_bytes).reshape(-1, config.line_bytes)
        state.scratchpad[where] = data


def _operand(state: State, f: dict[str, Any], lines: np.ndarray) -> np.ndarray:
    """A of the given lines: int32 or float32 [..., columns]."""
    if f["a_source"] == Source.TABLE:
        words = state.tables[0][state.scratchpad[lines, :state.config.columns]].view(np.int32)
    else:
        words = state.accumulator[lines]
    return words.view(np.float32) if f["float"] else words


def _load_tables(state: State, f: dict[str, Any]) -> None:
    line, count = f["table_line"], 4 * TABLE_WORDS // state.config.line_bytes
    for table, wanted in enumerate((f["load_a"], f["load_b"])):
        if wanted:
            if line + count > state.config.scratchpad_lines:
                raise Fault(ErrorCode.SCRATCHPAD_RANGE, max(line, state.config.scratchpad_lines))
            state.tables[table] = state.scratchpad[line:line + count].reshape(-1).view(np.uint32)
            line += count


def _check(config: ChipConfig, f: dict[str, Any], counts: list[int]) -> None:
    """FIELD for what has no meaning, or none on this chip."""
    form, scale_mode = f["out_format"], f["scale_mode"]
    dynamic_scale, columns = form in _DYNAMIC_SCALE, config.columns
    need(getattr(form, "value", form), isinstance(form, OutFormat)
          and (config.block_scaled or form not in (OutFormat.BF16, *_DYNAMIC_SCALE))
          and not (dynamic_scale and columns & (columns - 1)))
    number = getattr(scale_mode, "value", scale_mode)
    need(number, isinstance(scale_mode, ScaleMode) and (form != OutFormat.INT32 or number == 0))
    b_use, has_sum = f["b_use"], f["reduce"] == Reduce.SUM
    need(f["float"], not f["float"] or (config.block_scaled and form != OutFormat.INT32 and not has_sum))
    need(getattr(b_use, "value", b_use), isinstance(b_use, OperandUse)
         and not (b_use == OperandUse.ADD and f["bias"])
         and not (b_use == OperandUse.MULTIPLY and (number or form == OutFormat.INT32)))
    if dynamic_scale:
        per_column = bool(f["bias"]) or scale_mode == ScaleMode.COLUMN or b_use != OperandUse.NONE
        need(f["parts"], 1 <= f["parts"] <= MAX_BLOCK // columns and not (f["parts"] > 1 and per_column))
    for count in reversed(counts):
        need(count, count >= 1)


def _astray_dynamic_scale(config: ChipConfig, f: dict[str, Any], parts: int):
    """The first line of dynamic scales that does not exist, as its place in the order and as an error."""
    last = f["scale_line"] + (f["count2"] * f["count3"] - 1) // config.line_bytes
    line = max(f["scale_line"], config.scratchpad_lines)
    if line <= last:
        # It is met with the first pixel whose scale goes there, after that pixel's own lines.
        pixel = divmod((line - f["scale_line"]) * config.line_bytes, f["count2"])
        yield (*pixel, parts, 0), Fault(ErrorCode.SCRATCHPAD_RANGE, line)


def _dynamic_scale(config: ChipConfig, f: dict[str, Any], result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [pixels, parts, columns] to lines of elements and lines of the scales of all pixels."""
    pixels, parts, columns = result.shape
    codes, scales = quantize_block(result.reshape(pixels, -1), _DYNAMIC_SCALE[f["out_format"]], parts * columns,
                                   f["scale_rule"].name.lower())
    if f["out_format"] == OutFormat.E2M1:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    scales = _pad(scales.reshape(1, -1), -(-pixels // config.line_bytes) * config.line_bytes)
    return _pad(codes.reshape(pixels * parts, -1), config.line_bytes), scales.reshape(-1, config.line_bytes)


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Each row's bytes, and zeros up to `size` bytes."""
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    return np.pad(raw, ((0, 0), (0, size - raw.shape[1])))


def _parameters(state: State, f: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray | np.float32 | None]:
    """Bias and scale: from parameter lines, or the scale from the instruction."""
    size = 4 * state.config.columns
    lines = -(-size // state.config.line_bytes)
    line = f["param_line"]
    read: list[Any] = []
    for wanted, dtype in ((f["bias"], np.float32 if f["float"] else np.int32),
                          (f["scale_mode"] == ScaleMode.COLUMN, np.float32)):
        if not wanted:
            read.append(None)
            continue
        for each in range(line, line + lines):
            if each >= state.config.scratchpad_lines:
                raise Fault(ErrorCode.SCRATCHPAD_RANGE, each)
        read.append(state.scratchpad[line:line + lines].reshape(-1)[:size].view(dtype))
        line += lines
    bias, scale = read
    if f["scale_mode"] == ScaleMode.SCALAR:
        scale = np.array(f["scale"], np.uint32).view(np.float32)
    return bias, scale
