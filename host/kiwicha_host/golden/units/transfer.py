"""LOAD and STORE."""

from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import ErrorCode

from .access import Fault, Lines, Memory, State, astray, at, need, raise_first, walk

__all__ = ["load", "store"]


def _transfer(state: State, memory: Memory, f: dict[str, Any], bus_error: ErrorCode | None):
    """Check a transfer; yields per plane the memory offset of each row and the lines [rows, segments]."""
    _check_fields(state.config, f)
    if f["indexed"]:
        f = f | {"address": f["address"] + _index(state, f) * f["index_stride"]}
    segments = -(-f["row_bytes"] // f["segment_bytes"])
    counts = [f["planes"], f["rows"], segments]
    strides = [f["plane_line_stride"], f["row_line_stride"], f["segment_line_stride"]]
    lines = Lines(ErrorCode.SCRATCHPAD_RANGE, state.config.scratchpad_lines, f["line"], counts, strides)
    faults = []
    # Where one segment has both faults, LOAD meets the memory first and STORE the scratchpad.
    if bus_error is not None and (fault := _check_rows(memory, f, bus_error)):
        faults.append(((*fault[0], 1 if bus_error == ErrorCode.BUS_READ else 3), fault[1]))
    if index := lines.astray():
        faults.append(((*index, 2), lines.fault(index)))
    raise_first(*faults)
    for plane in range(f["planes"]):
        rows = f["address"] - memory.base + plane * f["plane_stride"] + np.arange(f["rows"]) * f["row_stride"]
        yield rows, walk(f["line"] + plane * strides[0], counts[1:], strides[1:])


def _check_fields(config: ChipConfig, f: dict[str, Any]) -> None:
    """FIELD for what has no meaning, or none on this chip."""
    indexed = f["indexed"] and config.indices
    for name in ("row_bytes", "rows", "planes", "segment_bytes", *(["index_bound"] if indexed else [])):
        need(f[name], f[name] >= 1)
    need(f["segment_bytes"], f["segment_bytes"] <= config.line_bytes)
    need(f["indexed"], not f["indexed"] or (config.indices and not f.get("fill_only")))
    if indexed:
        need(f["index_word"], f["index_word"] < config.line_bytes // 4)


def _index(state: State, f: dict[str, Any]) -> int:
    """The index of a transfer that has one."""
    if f["index_line"] >= state.config.scratchpad_lines:
        raise Fault(ErrorCode.SCRATCHPAD_RANGE, f["index_line"])
    at = 4 * f["index_word"]
    index = int.from_bytes(state.scratchpad[f["index_line"], at:at + 4].tobytes(), "little")
    if index >= f["index_bound"]:
        raise Fault(ErrorCode.INDEX, index)
    return index


def _check_rows(memory: Memory, f: dict[str, Any], bus_error: ErrorCode) -> tuple[tuple[int, ...], Fault] | None:
    """The first byte out of reach, as its plane, row and segment, and as an error."""
    first, last = memory.reach
    strides = [f["plane_stride"], f["row_stride"]]
    index = astray(f["address"], [f["planes"], f["rows"]], strides, first, last - f["row_bytes"] + 1)
    if index is None:
        return None
    row = at(f["address"], strides, index)
    try:
        memory.check(row, f["row_bytes"], bus_error)
    except Fault as fault:
        return (*index, (fault.address - row) // f["segment_bytes"]), fault
    raise AssertionError("a row out of reach has a byte out of reach")


def load(state: State, memory: Memory, f: dict[str, Any]) -> None:
    size, segment = f["row_bytes"], f["segment_bytes"]
    for rows, lines in _transfer(state, memory, f, None if f["fill_only"] else ErrorCode.BUS_READ):
        if f["fill_only"]:
            state.scratchpad[lines] = f["fill"]
            continue
        data = np.full((len(rows), lines.shape[1] * segment), f["fill"], np.uint8)
        data[:, :size] = memory.data[rows[:, None] + np.arange(size)]
        whole = np.full((*lines.shape, state.config.line_bytes), f["fill"], np.uint8)
        whole[:, :, :segment] = data.reshape(*lines.shape, segment)
        state.scratchpad[lines] = whole


def store(state: State, memory: Memory, f: dict[str, Any]) -> None:
    size, segment = f["row_bytes"], f["segment_bytes"]
    for rows, lines in _transfer(state, memory, f, ErrorCode.BUS_WRITE):
        data = state.scratchpad[lines][:, :, :segment].reshape(len(rows), -1)[:, :size]
        memory.data[rows[:, None] + np.arange(size)] = data
