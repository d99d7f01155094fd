"""VECTOR."""

from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import MAX_BLOCK
from kiwicha.isa import (
    TABLE_WORDS,
    TOP_MOST,
    ErrorCode,
    OperandUse,
    OutFormat,
    Reduce,
    ResultFunction,
    ScaleMode,
    SecondSource,
    Source,
)

from .. import functions, numerics
from ..block import quantize_block
from .access import Fault, Memory, State, need
from .vector_lines import DYNAMIC_SCALE, VectorLines

__all__ = ["vector"]

_FUNCTIONS = {ResultFunction.EXP2: functions.exp2, ResultFunction.RECIPROCAL: functions.reciprocal,
              ResultFunction.RSQRT: functions.rsqrt}


def vector(state: State, memory: Memory, f: dict[str, Any]) -> None:
    config, out_format = state.config, f["out_format"]
    _check(config, f)
    bias, scale = _parameters(state, f)
    _load_tables(state, f)
    lines = VectorLines(config, f)
    lines.check()
    clamp_to = None
    if f["clamp"]:
        bounds = np.array([f["clamp_low"], f["clamp_high"]], np.uint32)
        clamp_to = tuple(bounds.view(np.int32 if out_format == OutFormat.INT32 else np.float32))
    a_lines, b_lines, out_lines = lines.a(), lines.b(), lines.out()
    row = f["count2"] if f["row"] else 1
    # So many pixels at a time, for memory's sake: whole rows, and their scales fill whole lines.
    pixels = row * config.line_bytes * max(1, (1 << 20) // (a_lines[0].size * row * config.columns
                                                            * config.line_bytes))
    for start in range(0, len(a_lines), pixels):
        some = slice(start, start + pixels)
        b = _second(state, f, b_lines[some]) if lines.has_second else np.zeros((1, 1, 1, 1), np.uint32)
        a = _operand(state, f, a_lines[some], b)
        if f["b_source"] == SecondSource.A:
            b = a.view(np.uint32)
        if f["b_use"] == OperandUse.ADD:
            bias = b.view(np.float32 if f["float"] else np.int32)
        times = b.view(np.float32) if f["b_use"] == OperandUse.MULTIPLY else None
        if f["reduce"] == Reduce.SUM and not f["float"]:
            a = a.sum(axis=2, keepdims=True, dtype=np.int32)
        result = numerics.epilogue(a, bias, scale, out_format, clamp_to, f["zero_point"], window=(2,),
                                   times=times)
        if f["row"]:
            result = _reduced(config, f, result.reshape(-1, row, config.columns))
        if f["function"] != ResultFunction.NONE:
            result = _FUNCTIONS[f["function"]](result)
        _write(state, f, start, out_lines[start * lines.results // row:(start + pixels) * lines.results // row],
               result)


def _write(state: State, f: dict[str, Any], start: int, lines: np.ndarray, result: np.ndarray) -> None:
    """Results of the pixels from number `start` on to `lines`, [pixels, lines]."""
    config, steps, where = state.config, lines.shape[1], lines.reshape(-1)
    if f["out_format"] in DYNAMIC_SCALE:
        data, scales = _dynamic_scale(config, f, result)
        # A line of scales follows the last pixel that it is about.
        after = np.minimum(np.arange(1, len(scales) + 1) * config.line_bytes, len(result)) * steps
        where = np.insert(where, after, f["scale_line"] + start // config.line_bytes + np.arange(len(scales)))
        data = np.insert(data, after, scales, axis=0)
    else:
        raw = numerics.to_bf16(result) if f["out_format"] == OutFormat.BF16 else result
        data = _pad(raw, steps * config.line_bytes).reshape(-1, config.line_bytes)
    state.scratchpad[where] = data


def _second(state: State, f: dict[str, Any], lines: np.ndarray) -> np.ndarray:
    """B of the given lines [pixels, word lines]: uint32 [pixels, 1, 1, columns]."""
    if f["b_source"] == SecondSource.ROW:
        words = _words(state, lines)[..., :1].repeat(state.config.columns, axis=-1)
    elif f["b_source"] == SecondSource.WORDS:
        words = _words(state, lines, f["b_bf16"])
    else:
        words = state.scratchpad[lines[:, 0], :state.config.columns]
        if f["b_use"] != OperandUse.INDEX:
            words = state.tables[1][words]
    return words.astype(np.uint32)[:, None, None]


def _operand(state: State, f: dict[str, Any], lines: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A of `lines` [pixels, parts, word lines, window]: int32 or float32 [pixels, parts, window, columns]."""
    columns = state.config.columns
    if f["a_source"] == Source.TABLE:
        index = state.scratchpad[lines[:, :, 0], :columns]
        if f["b_use"] == OperandUse.INDEX:
            index = index - b.astype(np.uint8)
        words = state.tables[0][index].view(np.int32)
    elif f["a_source"] == Source.BYTES:
        words = state.scratchpad[lines[:, :, 0], :columns].view(np.int8).astype(np.int32)
    elif f["a_source"] == Source.WORDS:
        words = _words(state, lines.transpose(0, 1, 3, 2), f["a_bf16"]).view(np.int32)
    else:
        words = state.accumulator[lines[:, :, 0]]
    return words.view(np.float32) if f["float"] else words


def _words(state: State, lines: np.ndarray, bf16: int = 0) -> np.ndarray:
    """The words of the given lines [..., word lines], FP32 of BF16 if they are that: uint32 [..., columns]."""
    raw = np.ascontiguousarray(state.scratchpad[lines]).reshape(*lines.shape[:-1], -1)
    if bf16:
        return raw.view(np.uint16)[..., :state.config.columns].astype(np.uint32) << 16
    return raw.view(np.uint32)[..., :state.config.columns]


def _reduced(config: ChipConfig, f: dict[str, Any], result: np.ndarray) -> np.ndarray:
    """Results of rows, int32 or float32 [rows, pixels, columns], to those of each row: [rows, columns].

    With `top`, [2 * rows * top, columns], as the bits of all: of each row the largest, and then their places.
    """
    counts = np.ones(result.shape[1:], bool)
    counts[-1, f["tail"] or config.columns:] = False
    values = result[:, counts]
    if f["top"]:
        largest, places = numerics.top(values, f["top"])
        reduced = np.concatenate([largest.view(np.uint32), places.astype(np.uint32)], axis=1).reshape(-1)
    elif result.dtype == np.int32:
        reduced = values.sum(axis=1, dtype=np.int32) if f["reduce"] == Reduce.SUM else values.max(axis=1)
    elif f["reduce"] == Reduce.SUM:
        reduced = numerics.pairwise_sum(values)
    else:
        reduced = numerics.maximum(values, axis=(1,))
    return np.repeat(reduced[:, None], config.columns, axis=1)


def _load_tables(state: State, f: dict[str, Any]) -> None:
    line, count = f["table_line"], 4 * TABLE_WORDS // state.config.line_bytes
    for table, wanted in enumerate((f["load_a"], f["load_b"])):
        if wanted:
            if line + count > state.config.scratchpad_lines:
                raise Fault(ErrorCode.SCRATCHPAD_RANGE, max(line, state.config.scratchpad_lines))
            state.tables[table] = state.scratchpad[line:line + count].reshape(-1).view(np.uint32)
            line += count


def _check(config: ChipConfig, f: dict[str, Any]) -> None:
    """FIELD for what has no meaning, or none on this chip."""
    form, scale_mode = f["out_format"], f["scale_mode"]
    dynamic_scale, columns = form in DYNAMIC_SCALE, config.columns
    has_sum, is_integer, is_fp32 = (f["reduce"] == Reduce.SUM, form == OutFormat.INT32, form == OutFormat.FP32)
    has_row = config.functions and (is_integer or is_fp32)
    _need_known(form, OutFormat, {OutFormat.BF16: config.block_scaled, OutFormat.E4M3: config.has_float_results,
                                  OutFormat.E2M1: config.has_float_results,
                                  OutFormat.MXINT8: config.has_mxint8_results}.get(form, True))
    _need_known(scale_mode, ScaleMode, not is_integer or scale_mode == ScaleMode.NONE)
    need(f["float"], not f["float"] or (config.vector_floats and not is_integer and f["a_source"] != Source.BYTES
                                        and not (has_sum and not (has_row and f["row"]))))
    _need_known(f["a_source"], Source, config.functions or f["a_source"] not in (Source.WORDS, Source.BYTES))
    need(f["a_bf16"], not f["a_bf16"] or (config.functions and f["float"] and f["a_source"] == Source.WORDS))
    _check_second(config, f)
    need(f["row"], not f["row"] or (has_row and (is_integer or not has_sum or config.float_row_sums)))
    _need_known(f["function"], ResultFunction,
                f["function"] == ResultFunction.NONE or (config.functions and is_fp32))
    need(f["tail"], not f["row"] or f["tail"] <= columns)
    need(f["top"], not f["top"] or (config.top_k and bool(f["row"]) and is_fp32 and not has_sum
                                    and f["function"] == ResultFunction.NONE
                                    and f["top"] <= min(TOP_MOST, _row_length(config, f))))
    if dynamic_scale:
        has_second = f["b_use"] != OperandUse.NONE and f["b_source"] in (SecondSource.TABLE, SecondSource.WORDS)
        per_column = bool(f["bias"]) or scale_mode == ScaleMode.COLUMN or has_second
        need(f["parts"], 1 <= f["parts"] <= MAX_BLOCK // columns and not (f["parts"] > 1 and per_column))
    itself = f["b_use"] != OperandUse.NONE and f["b_source"] == SecondSource.A
    for level in range(2):
        need(f[f"count{level}"], not (has_sum and (f["float"] or itself)) or f[f"count{level}"] == 1)
    for level in range(4):
        need(f[f"count{level}"], f[f"count{level}"] >= 1)


def _row_length(config: ChipConfig, f: dict[str, Any]) -> int:
    """Elements that count; of no iterations, which is another field's error, as many as of most."""
    return ((f["count2"] or 1 << 16) - 1) * config.columns + (f["tail"] or config.columns)


def _check_second(config: ChipConfig, f: dict[str, Any]) -> None:
    """The same of what says where operand B comes from and what becomes of it."""
    use = f["b_use"]
    taken = {OperandUse.ADD: bool(f["bias"]),
             OperandUse.MULTIPLY: (f["scale_mode"] != ScaleMode.NONE and not config.functions)
             or f["out_format"] == OutFormat.INT32,
             OperandUse.INDEX: not config.functions or f["a_source"] != Source.TABLE}
    _need_known(use, OperandUse, not taken.get(use))
    _need_known(f["b_source"], SecondSource, f["b_source"] == SecondSource.TABLE or (
        config.functions and not (f["b_source"] == SecondSource.A and use == OperandUse.INDEX)))
    takes_fp32 = use == OperandUse.MULTIPLY or (use == OperandUse.ADD and f["float"])
    need(f["b_bf16"], not f["b_bf16"] or (config.functions and takes_fp32 and f["b_source"] == SecondSource.WORDS))


def _need_known(value: Any, kind: type, good: bool) -> None:
    """A member of an enumeration, which is good here."""
    need(getattr(value, "value", value), isinstance(value, kind) and good)


def _dynamic_scale(config: ChipConfig, f: dict[str, Any], result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [pixels, parts, columns] to lines of elements and lines of the scales of all pixels."""
    pixels, parts, columns = result.shape
    codes, scales = quantize_block(result.reshape(pixels, -1), DYNAMIC_SCALE[f["out_format"]], parts * columns,
                                   f["scale_rule"].name.lower())
    if f["out_format"] == OutFormat.E2M1:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    scales = _pad(scales.reshape(1, -1), -(-pixels // config.line_bytes) * config.line_bytes)
    return _pad(codes.reshape(pixels * parts, -1), config.line_bytes), scales.reshape(-1, config.line_bytes)


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Each row's bytes, and zeros up to `size` bytes."""
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    padded = np.zeros((len(raw), size), np.uint8)
    padded[:, :raw.shape[1]] = raw
    return padded


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
