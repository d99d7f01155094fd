"""The reference machine: runs any program on a memory image, without time.

Instructions run one at a time: always the oldest whose semaphores can be taken, each unit in its own order.
For a program without races this gives the same memory as any other order that the semaphores allow. Where
several instructions are at fault, this machine names the first it meets in that order.
"""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, SEMAPHORE_MAX, SEMAPHORES, ErrorCode, OutFormat, ScaleMode, Unit

from ..assembler import DecodeError, decode
from ..job import Job, Result
from . import numerics

__all__ = ["Machine"]


class _Fault(Exception):
    """An instruction's typed error, before it is known which instruction it was."""

    def __init__(self, code: ErrorCode, address: int):
        self.code, self.address = code, address


@dataclass
class _Waiting:
    """A decoded instruction in its unit's queue."""
    index: int
    fields: dict[str, Any]


class Machine:
    """A chip of `config`: its scratchpad, accumulators and semaphores.

    The scratchpad and the accumulators start as zeros and keep their contents from one program to the next,
    also after an error.
    """

    def __init__(self, config: ChipConfig):
        self.config = config
        self.scratchpad = np.zeros((config.scratchpad_lines, config.line_bytes), np.uint8)
        self.accumulator = np.zeros((config.accumulator_lines, config.columns), np.int32)

    def run(self, job: Job) -> Result:
        """Run the job's program; changes ``job.memory``.

        Raises
        ------
        DeviceError
            As :class:`kiwicha.isa.ErrorCode` documents; a deadlock is WATCHDOG at the oldest instruction
            that cannot end.
        """
        start = time.perf_counter()
        _Run(self, job).all()
        return Result(wall_s=time.perf_counter() - start)


class _Run:
    """One program: which instruction is next, and the semaphores."""

    def __init__(self, machine: Machine, job: Job):
        self.machine = machine
        self.job = job
        self.memory = _Memory(machine.config, job)
        self.semaphores = [0] * SEMAPHORES
        self.queues: dict[Unit, deque[_Waiting]] = {unit: deque() for unit in _EXECUTE}
        #: Signals not given yet, because their semaphore is full: (index, unit, mask).
        self.unsent: deque[tuple[int, Unit, int]] = deque()
        self.fetched = 0

    def all(self) -> None:
        while True:
            ready = [(queue[0].index, unit) for unit, queue in self.queues.items()
                     if queue and self._can_take(queue[0].fields["wait"])]
            if ready:
                self._execute(min(ready, key=lambda item: item[0])[1])
            elif self.fetched < self.job.program_count:
                self._fetch()
            else:
                break
        left = [(queue[0].index, unit) for unit, queue in self.queues.items() if queue]
        left += [(index, unit) for index, unit, _ in self.unsent]
        if left:
            index, unit = min(left, key=lambda item: item[0])
            raise self.job.error(ErrorCode.WATCHDOG, unit, index)

    def _fetch(self) -> None:
        index = self.fetched
        self.fetched += 1
        address = self.job.program_address + index * INSTRUCTION_BYTES
        try:
            self.memory.check(address, INSTRUCTION_BYTES, ErrorCode.BUS_READ)
        except _Fault as fault:
            raise self.job.error(fault.code, Unit.FETCH, index, fault.address) from None
        try:
            unit, fields = decode(self.job.instruction(index))
        except DecodeError as error:
            raise self.job.error(error.code, Unit.FETCH, index, error.address) from None
        self.queues[unit].append(_Waiting(index, fields))

    def _can_take(self, mask: int) -> bool:
        return all(self.semaphores[i] for i in range(SEMAPHORES) if mask >> i & 1)

    def _execute(self, unit: Unit) -> None:
        head = self.queues[unit].popleft()
        for i in range(SEMAPHORES):
            self.semaphores[i] -= head.fields["wait"] >> i & 1
        try:
            _EXECUTE[unit](self.machine, self.memory, head.fields)
        except _Fault as fault:
            raise self.job.error(fault.code, unit, head.index, fault.address) from None
        self.unsent.append((head.index, unit, head.fields["signal"]))
        self._send()

    def _send(self) -> None:
        """Give every signal that its semaphore has room for."""
        rest: deque[tuple[int, Unit, int]] = deque()
        for index, unit, mask in self.unsent:
            for i in range(SEMAPHORES):
                if mask >> i & 1 and self.semaphores[i] < SEMAPHORE_MAX:
                    self.semaphores[i] += 1
                    mask &= ~(1 << i)
            if mask:
                rest.append((index, unit, mask))
        self.unsent = rest


class _Memory:
    """The job's memory behind the chip's window."""

    def __init__(self, config: ChipConfig, job: Job):
        self.bus_bytes = config.bus_bytes
        self.data = job.memory
        self.base = job.base
        first, last = job.window
        self.first, self.last = first, min(last, (1 << config.address_width) - 1)

    def check(self, address: int, size: int, bus_error: ErrorCode) -> None:
        """All of `size` bytes must be in the window, and then in the memory.

        The address of the error is that of the first burst outside: bursts begin at a multiple of the bus
        width and never cross a page of 4096 bytes.
        """
        for first, last, code in ((self.first, self.last, ErrorCode.WINDOW),
                                  (self.base, self.base + len(self.data) - 1, bus_error)):
            if address < first or address > last:
                raise _Fault(code, address // self.bus_bytes * self.bus_bytes)
            if address + size - 1 > last:
                raise _Fault(code, (last + 1) // self.bus_bytes * self.bus_bytes)


# Addresses that loops walk.

def _walk(base: int, counts: list[int], strides: list[int]) -> np.ndarray:
    """`base` plus index times stride over loops of `counts`, the first the outermost: int64 [counts...]."""
    address = np.array(base, np.int64)
    for count, stride in zip(counts, strides, strict=True):
        address = address[..., None] + np.arange(count, dtype=np.int64) * stride
    return address


def _check_lines(base: int, counts: list[int], strides: list[int], depth: int, code: ErrorCode) -> None:
    """The first line of the walk outside 0 .. depth - 1 is an error."""
    if _inside(base, counts, strides, 0, depth - 1):
        return
    # Fix the outermost index first: the first at which what is inside it goes astray.
    for level, (count, stride) in enumerate(zip(counts, strides, strict=True)):
        inner = counts[level + 1:], strides[level + 1:]
        base += next(i for i in range(count) if not _inside(base + i * stride, *inner, 0, depth - 1)) * stride
    raise _Fault(code, base)


def _inside(base: int, counts: list[int], strides: list[int], first: int, last: int) -> bool:
    reach = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
    return base + sum(min(0, item) for item in reach) >= first and base + sum(max(0, item) for item in reach) <= last


def _need(value: int, good: bool) -> None:
    if not good:
        raise _Fault(ErrorCode.FIELD, value)


# LOAD and STORE.

def _transfer(machine: Machine, memory: _Memory, f: dict[str, Any], bus_error: ErrorCode | None):
    """Check a transfer; yields per plane the memory offset of each row and the lines [rows, chunks]."""
    _need(f["chunk_bytes"], 1 <= f["chunk_bytes"] <= machine.config.line_bytes)
    for name in ("row_bytes", "rows", "planes"):
        _need(f[name], f[name] >= 1)
    if bus_error is not None:
        _check_rows(memory, f, bus_error)
    chunks = -(-f["row_bytes"] // f["chunk_bytes"])
    counts = [f["planes"], f["rows"], chunks]
    strides = [f["plane_line_stride"], f["row_line_stride"], f["chunk_line_stride"]]
    _check_lines(f["line"], counts, strides, machine.config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
    for plane in range(f["planes"]):
        rows = f["address"] - memory.base + plane * f["plane_stride"] + np.arange(f["rows"]) * f["row_stride"]
        yield rows, _walk(f["line"] + plane * strides[0], counts[1:], strides[1:])


def _check_rows(memory: _Memory, f: dict[str, Any], bus_error: ErrorCode) -> None:
    """The first row that is not all in the window and in the memory is an error."""
    counts, strides = [f["planes"], f["rows"]], [f["plane_stride"], f["row_stride"]]
    first = max(memory.first, memory.base)
    last = min(memory.last, memory.base + len(memory.data) - 1) - f["row_bytes"] + 1
    address = f["address"]
    if _inside(address, counts, strides, first, last):
        return
    for level, (count, stride) in enumerate(zip(counts, strides, strict=True)):
        inner = counts[level + 1:], strides[level + 1:]
        address += next(i for i in range(count) if not _inside(address + i * stride, *inner, first, last)) * stride
    memory.check(address, f["row_bytes"], bus_error)


def _load(machine: Machine, memory: _Memory, f: dict[str, Any]) -> None:
    size, chunk = f["row_bytes"], f["chunk_bytes"]
    for rows, lines in _transfer(machine, memory, f, None if f["fill_only"] else ErrorCode.BUS_READ):
        if f["fill_only"]:
            machine.scratchpad[lines] = f["fill"]
            continue
        data = np.full((len(rows), lines.shape[1] * chunk), f["fill"], np.uint8)
        data[:, :size] = memory.data[rows[:, None] + np.arange(size)]
        whole = np.full((*lines.shape, machine.config.line_bytes), f["fill"], np.uint8)
        whole[:, :, :chunk] = data.reshape(*lines.shape, chunk)
        machine.scratchpad[lines] = whole


def _store(machine: Machine, memory: _Memory, f: dict[str, Any]) -> None:
    size, chunk = f["row_bytes"], f["chunk_bytes"]
    for rows, lines in _transfer(machine, memory, f, ErrorCode.BUS_WRITE):
        data = machine.scratchpad[lines][:, :, :chunk].reshape(len(rows), -1)[:, :size]
        memory.data[rows[:, None] + np.arange(size)] = data


# MATMUL.

def _matmul(machine: Machine, memory: _Memory, f: dict[str, Any]) -> None:
    config = machine.config
    counts, a_strides, acc_strides = ([f[f"{name}{level}"] for level in (3, 2, 1, 0)]
                                      for name in ("count", "a_stride", "acc_stride"))
    for count in reversed(counts):
        _need(count, count >= 1)
    w_strides = [f["w_stride3"], f["w_stride2"], 1]
    w_counts = [*counts[:2], config.rows]
    _check_lines(f["w_line"], w_counts, w_strides, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
    _check_lines(f["a_line"], counts, a_strides, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
    _check_lines(f["acc_line"], counts, acc_strides, config.accumulator_lines, ErrorCode.ACCUMULATOR_RANGE)

    first = _first_iterations(counts, acc_strides) & (not f["accumulate"])
    for i3, i2 in np.ndindex(*counts[:2]):
        w_line = f["w_line"] + i3 * w_strides[0] + i2 * w_strides[1]
        weights = machine.scratchpad[w_line:w_line + config.rows, :config.columns].view(np.int8)
        a_lines, acc_lines = (
            _walk(f[base] + i3 * strides[0] + i2 * strides[1], counts[2:], strides[2:]).reshape(-1)
            for base, strides in (("a_line", a_strides), ("acc_line", acc_strides)))
        vectors = machine.scratchpad[a_lines, :config.rows].view(np.int8)
        _accumulate(machine.accumulator, acc_lines, numerics.gemm_int(vectors, weights), first[i3, i2].reshape(-1))


def _first_iterations(counts: list[int], strides: list[int]) -> np.ndarray:
    """Whether all reduction levels (those of stride zero) are in their first iteration: bool [counts...]."""
    first = np.ones(counts, bool)
    for axis, stride in enumerate(strides):
        if stride == 0:
            first &= np.expand_dims(np.arange(counts[axis]) == 0, [i for i in range(len(counts)) if i != axis])
    return first


def _accumulate(accumulator: np.ndarray, lines: np.ndarray, sums: np.ndarray, first: np.ndarray) -> None:
    """Overwrite lines where `first`, else add, in the order given: also when a line comes more than once."""
    if len(np.unique(lines)) == len(lines):
        accumulator[lines] = np.where(first[:, None], 0, accumulator[lines]) + sums
        return
    if not first.any():
        np.add.at(accumulator, lines, sums)
        return
    for line, vector, overwrite in zip(lines, sums, first, strict=True):
        accumulator[line] = vector if overwrite else accumulator[line] + vector


# EPILOGUE.

def _epilogue(machine: Machine, memory: _Memory, f: dict[str, Any]) -> None:
    config = machine.config
    out_format, scale_mode = f["out_format"], f["scale_mode"]
    _need(out_format, isinstance(out_format, OutFormat))
    _need(scale_mode, isinstance(scale_mode, ScaleMode))
    counts, acc_strides = ([f[f"{name}{level}"] for level in (3, 2, 1, 0)] for name in ("count", "acc_stride"))
    for count in reversed(counts):
        _need(count, count >= 1)
    line_bytes = config.line_bytes
    steps = 1 if out_format == OutFormat.INT8 else -(-4 * config.columns // line_bytes)
    out_counts, out_strides = [*counts[:2], steps], [f["out_stride3"], f["out_stride2"], f["out_step"]]

    bias, scale = _parameters(machine, f)
    _check_lines(f["acc_line"], counts, acc_strides, config.accumulator_lines, ErrorCode.ACCUMULATOR_RANGE)
    _check_lines(f["out_line"], out_counts, out_strides, config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)

    clamp_to = None
    if f["clamp"]:
        bounds = np.array([f["clamp_low"], f["clamp_high"]], np.uint32)
        clamp_to = tuple(bounds.view(np.int32 if out_format == OutFormat.INT32 else np.float32))
    pixels = max(1, (1 << 20) // (counts[2] * counts[3] * config.columns))     # at a time, for memory's sake
    lines = _walk(f["out_line"], out_counts, out_strides).reshape(-1, steps)
    origins = _walk(f["acc_line"], counts[:2], acc_strides[:2]).reshape(-1)
    window = _walk(0, counts[2:], acc_strides[2:]).reshape(-1)
    for start in range(0, len(origins), pixels):
        acc = machine.accumulator[origins[start:start + pixels, None] + window]
        result = numerics.epilogue(acc, bias, scale, out_format, clamp_to, f["zero_point"], window=(1,))
        data = np.zeros((len(result), steps * line_bytes), np.uint8)
        raw = np.ascontiguousarray(result).view(np.uint8)
        data[:, :raw.shape[1]] = raw
        machine.scratchpad[lines[start:start + pixels]] = data.reshape(len(result), steps, line_bytes)


def _parameters(machine: Machine, f: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray | np.float32 | None]:
    """Bias and scale: from parameter lines, or the scale from the instruction."""
    size = 4 * machine.config.columns
    lines = -(-size // machine.config.line_bytes)
    line, read = f["param_line"], []
    for wanted, dtype in ((f["bias"], np.int32), (f["scale_mode"] == ScaleMode.COLUMN, np.float32)):
        if not wanted:
            read.append(None)
            continue
        _check_lines(line, [lines], [1], machine.config.scratchpad_lines, ErrorCode.SCRATCHPAD_RANGE)
        read.append(machine.scratchpad[line:line + lines].reshape(-1)[:size].view(dtype))
        line += lines
    bias, scale = read
    if f["scale_mode"] == ScaleMode.SCALAR:
        scale = np.array(f["scale"], np.uint32).view(np.float32)
    return bias, scale


_EXECUTE = {Unit.LOAD: _load, Unit.MATMUL: _matmul, Unit.EPILOGUE: _epilogue, Unit.STORE: _store}
