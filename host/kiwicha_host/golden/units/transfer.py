"""LOAD and STORE."""

from typing import Any

import numpy as np

from kiwicha.isa import ErrorCode

from .access import Fault, Lines, Memory, State, astray, at, need, raise_first, walk

__all__ = ["load", "store"]


def _transfer(state: State, memory: Memory, f: dict[str, Any], bus_error: ErrorCode | None):
    """Check a transfer; yields per plane the memory offset of each row and the lines [rows, chunks]."""
    for name in ("row_bytes", "rows", "planes", "chunk_bytes"):
        need(f[name], f[name] >= 1)
    need(f["chunk_bytes"], f["chunk_bytes"] <= state.config.line_bytes)
    chunks = -(-f["row_bytes"] // f["chunk_bytes"])
    counts = [f["planes"], f["rows"], chunks]
    strides = [f["plane_line_stride"], f["row_line_stride"], f["chunk_line_stride"]]
    lines = Lines(ErrorCode.SCRATCHPAD_RANGE, state.config.scratchpad_lines, f["line"], counts, strides)
    faults = []
    # Where one chunk has both faults, LOAD meets the memory first and STORE the scratchpad.
    if bus_error is not None and (fault := _check_rows(memory, f, bus_error)):
        faults.append(((*fault[0], 1 if bus_error == ErrorCode.BUS_READ else 3), fault[1]))
    if index := lines.astray():
        faults.append(((*index, 2), lines.fault(index)))
    raise_first(*faults)
    for plane in range(f["planes"]):
        rows = f["address"] - memory.base + plane * f["plane_stride"] + np.arange(f["rows"]) * f["row_stride"]
        yield rows, walk(f["line"] + plane * strides[0], counts[1:], strides[1:])


def _check_rows(memory: Memory, f: dict[str, Any], bus_error: ErrorCode) -> tuple[tuple[int, ...], Fault] | None:
    """The first byte out of reach, as its plane, row and chunk, and as an error."""
    first, last = memory.reach
    strides = [f["plane_stride"], f["row_stride"]]
    index = astray(f["address"], [f["planes"], f["rows"]], strides, first, last - f["row_bytes"] + 1)
    if index is None:
        return None
    row = at(f["address"], strides, index)
    try:
        memory.check(row, f["row_bytes"], bus_error)
    except Fault as fault:
        return (*index, (fault.address - row) // f["chunk_bytes"]), fault
    raise AssertionError("a row out of reach has a byte out of reach")


def load(state: State, memory: Memory, f: dict[str, Any]) -> None:
    size, chunk = f["row_bytes"], f["chunk_bytes"]
    for rows, lines in _transfer(state, memory, f, None if f["fill_only"] else ErrorCode.BUS_READ):
        if f["fill_only"]:
            state.scratchpad[lines] = f["fill"]
            continue
        data = np.full((len(rows), lines.shape[1] * chunk), f["fill"], np.uint8)
        data[:, :size] = memory.data[rows[:, None] + np.arange(size)]
        whole = np.full((*lines.shape, state.config.line_bytes), f["fill"], np.uint8)
        whole[:, :, :chunk] = data.reshape(*lines.shape, chunk)
        state.scratchpad[lines] = whole


def store(state: State, memory: Memory, f: dict[str, Any]) -> None:
    size, chunk = f["row_bytes"], f["chunk_bytes"]
    for rows, lines in _transfer(state, memory, f, ErrorCode.BUS_WRITE):
        data = state.scratchpad[lines][:, :, :chunk].reshape(len(rows), -1)[:, :size]
        memory.data[rows[:, None] + np.arange(size)] = data
