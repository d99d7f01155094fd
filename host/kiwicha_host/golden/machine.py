"""The reference machine: runs any program on a memory image, without time.

Instructions run one at a time: always the oldest whose semaphores can be taken, each unit in its own order.
For a program without races this gives the same memory as any other order that the semaphores allow. Where
several instructions are at fault, this machine names the first it meets in that order.
"""

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import FORMATS, MAX_BLOCK, ElementFormat
from kiwicha.isa import INSTRUCTION_BYTES, SEMAPHORE_MAX, SEMAPHORES, ErrorCode, OutFormat, ScaleMode, Unit

from ..assembler import DecodeError, decode
from ..job import Job, Result
from . import numerics
from .block import quantize_block
from .scaled import PartialSums, add_fp32, decode_elements, decode_integers

__all__ = ["Machine"]


#: Instructions of one unit that may have run and still want to signal, before its next one starts.
OPEN_INSTRUCTIONS = 4


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
        #: int32, or FP32 as its bits.
        self.accumulator = np.zeros((config.accumulator_lines, config.columns), np.int32)
        #: Sums over part of a block, per accumulator, and whether a NaN took part.
        self.partial = PartialSums(config)

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
        #: Instructions that have run but not signalled yet, because a semaphore is full: (index, mask).
        self.unsent: dict[Unit, deque[tuple[int, int]]] = {unit: deque() for unit in _EXECUTE}
        self.fetched = 0
        self.blocked: tuple[Unit, _Waiting] | None = None

    def all(self) -> None:
        while self._send() or self._execute() or self._fetch():
            pass
        left = [(queue[0].index, unit) for unit, queue in self.queues.items() if queue]
        left += [(queue[0][0], unit) for unit, queue in self.unsent.items() if queue]
        if left:
            index, unit = min(left, key=lambda item: item[0])
            raise self.job.error(ErrorCode.WATCHDOG, unit, index)

    def _fetch(self) -> bool:
        """Bring one instruction to its unit's queue; False if that is full or there is none."""
        if self.blocked is None:
            if self.fetched == self.job.program_count:
                return False
            self.blocked = self._decode(self.fetched)
            self.fetched += 1
        unit, instruction = self.blocked
        # `queue_depth` wait in the queue and one more at its head.
        if len(self.queues[unit]) > self.machine.config.queue_depth:
            return False
        self.queues[unit].append(instruction)
        self.blocked = None
        return True

    def _decode(self, index: int) -> tuple[Unit, _Waiting]:
        address = self.job.program_address + index * INSTRUCTION_BYTES
        try:
            self.memory.check(address, INSTRUCTION_BYTES, ErrorCode.BUS_READ)
            unit, fields = decode(self.job.instruction(index))
        except _Fault as fault:
            raise self.job.error(fault.code, Unit.FETCH, index, fault.address) from None
        except DecodeError as error:
            raise self.job.error(error.code, error.unit, index, error.address) from None
        return unit, _Waiting(index, fields)

    def _execute(self) -> bool:
        """Run the oldest instruction whose semaphores can be taken; False if there is none."""
        full = sum(1 << i for i in range(SEMAPHORES) if self.semaphores[i])
        ready = [(queue[0].index, unit) for unit, queue in self.queues.items()
                 if queue and not queue[0].fields["wait"] & ~full and len(self.unsent[unit]) < OPEN_INSTRUCTIONS]
        if not ready:
            return False
        _, unit = min(ready, key=lambda item: item[0])
        head = self.queues[unit].popleft()
        for i in range(SEMAPHORES):
            self.semaphores[i] -= head.fields["wait"] >> i & 1
        try:
            _EXECUTE[unit](self.machine, self.memory, head.fields)
        except _Fault as fault:
            raise self.job.error(fault.code, unit, head.index, fault.address) from None
        self.unsent[unit].append((head.index, head.fields["signal"]))
        return True

    def _send(self) -> bool:
        """Give one unit's signals, all of an instruction at once; False if no semaphore has room."""
        for queue in self.unsent.values():
            bits = [i for i in range(SEMAPHORES) if queue and queue[0][1] >> i & 1]
            if queue and all(self.semaphores[i] < SEMAPHORE_MAX for i in bits):
                for i in bits:
                    self.semaphores[i] += 1
                queue.popleft()
                return True
        return False


class _Memory:
    """The job's memory behind the chip's window."""

    def __init__(self, config: ChipConfig, job: Job):
        self.bus_bytes = config.bus_bytes
        self.data = job.memory
        self.base = job.base
        first, last = job.window
        self.first, self.last = first, min(last, (1 << config.address_width) - 1)

    @property
    def reach(self) -> tuple[int, int]:
        """First and last byte that are in the window and in the memory."""
        return max(self.first, self.base), min(self.last, self.base + len(self.data) - 1)

    def check(self, address: int, size: int, bus_error: ErrorCode) -> None:
        """The first of `size` bytes that is not in reach is an error: WINDOW, or else `bus_error`."""
        first, last = self.reach
        if address < first or address + size - 1 > last:
            byte = max(address, last + 1) if address >= first else address
            raise _Fault(bus_error if self.first <= byte <= self.last else ErrorCode.WINDOW, byte)


# Addresses that loops walk.

def _walk(base: int, counts: list[int], strides: list[int]) -> np.ndarray:
    """`base` plus index times stride over loops of `counts`, the first the outermost: int64 [counts...]."""
    address = np.array(base, np.int64)
    for count, stride in zip(counts, strides, strict=True):
        address = address[..., None] + np.arange(count, dtype=np.int64) * stride
    return address


def _astray(base: int, counts: list[int], strides: list[int], first: int, last: int) -> tuple[int, ...] | None:
    """Indices of the walk's first address that is not in `first` .. `last`, if there is one."""
    if _inside(base, counts, strides, first, last):
        return None
    index: list[int] = []
    for level, (count, stride) in enumerate(zip(counts, strides, strict=True)):
        # The lowest index at which something further inside goes astray.
        inner = counts[level + 1:], strides[level + 1:]
        index.append(next(i for i in range(count) if not _inside(base + i * stride, *inner, first, last)))
        base += index[-1] * stride
    return tuple(index)


def _inside(base: int, counts: list[int], strides: list[int], first: int, last: int) -> bool:
    ends = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
    low, high = sum(min(0, item) for item in ends), sum(max(0, item) for item in ends)
    return first <= base + low and base + high <= last


def _at(base: int, strides: list[int], index: tuple[int, ...]) -> int:
    return base + sum(i * stride for i, stride in zip(index, strides, strict=True))


class _Lines:
    """Line addresses of a loop nest, outermost first, with the error that a line out of range is."""

    def __init__(self, code: ErrorCode, depth: int, base: int, counts: list[int], strides: list[int]):
        self.code, self.depth, self.base, self.counts, self.strides = code, depth, base, counts, strides

    def astray(self) -> tuple[int, ...] | None:
        return _astray(self.base, self.counts, self.strides, 0, self.depth - 1)

    def fault(self, index: tuple[int, ...]) -> _Fault:
        return _Fault(self.code, _at(self.base, self.strides, index))


def _raise_first(*faults: tuple[tuple[int, ...], _Fault]) -> None:
    """Raise the fault that execution one access after the other meets first."""
    if faults:
        raise min(faults, key=lambda item: item[0])[1]


def _need(value: int, good: bool) -> None:
    if not good:
        raise _Fault(ErrorCode.FIELD, value)


# LOAD and STORE.

def _transfer(machine: Machine, memory: _Memory, f: dict[str, Any], bus_error: ErrorCode | None):
    """Check a transfer; yields per plane the memory offset of each row and the lines [rows, chunks]."""
    for name in ("row_bytes", "rows", "planes", "chunk_bytes"):
        _need(f[name], f[name] >= 1)
    _need(f["chunk_bytes"], f["chunk_bytes"] <= machine.config.line_bytes)
    chunks = -(-f["row_bytes"] // f["chunk_bytes"])
    counts = [f["planes"], f["rows"], chunks]
    strides = [f["plane_line_stride"], f["row_line_stride"], f["chunk_line_stride"]]
    lines = _Lines(ErrorCode.SCRATCHPAD_RANGE, machine.config.scratchpad_lines, f["line"], counts, strides)
    faults = []
    # Where one chunk has both faults, LOAD meets the memory first and STORE the scratchpad.
    if bus_error is not None and (fault := _check_rows(memory, f, bus_error)):
        faults.append(((*fault[0], 1 if bus_error == ErrorCode.BUS_READ else 3), fault[1]))
    if index := lines.astray():
        faults.append(((*index, 2), lines.fault(index)))
    _raise_first(*faults)
    for plane in range(f["planes"]):
        rows = f["address"] - memory.base + plane * f["plane_stride"] + np.arange(f["rows"]) * f["row_stride"]
        yield rows, _walk(f["line"] + plane * strides[0], counts[1:], strides[1:])


def _check_rows(memory: _Memory, f: dict[str, Any], bus_error: ErrorCode) -> tuple[tuple[int, ...], _Fault] | None:
    """The first byte out of reach, as its plane, row and chunk, and as an error."""
    first, last = memory.reach
    strides = [f["plane_stride"], f["row_stride"]]
    index = _astray(f["address"], [f["planes"], f["rows"]], strides, first, last - f["row_bytes"] + 1)
    if index is None:
        return None
    row = _at(f["address"], strides, index)
    try:
        memory.check(row, f["row_bytes"], bus_error)
    except _Fault as fault:
        return (*index, (fault.address - row) // f["chunk_bytes"]), fault
    raise AssertionError("a row out of reach has a byte out of reach")


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
    _check_formats(config, f)
    w_strides = [f["w_stride3"], f["w_stride2"], 1]
    w_counts = [*counts[:2], config.rows]
    walks = (_Lines(ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines, f["w_line"], w_counts, w_strides),
             _Lines(ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines, f["a_line"], counts, a_strides),
             _Lines(ErrorCode.ACCUMULATOR_RANGE, config.accumulator_lines, f["acc_line"], counts, acc_strides))
    # The whole tile comes before its vectors, and of a vector the line of A before the accumulator's.
    _raise_first(*(((*index[:2], -1) if order == 0 else (*index, order), walk.fault(index))
                   for order, walk in enumerate(walks) if (index := walk.astray())),
                 *(_astray_scales(config, f, counts) if f["scaled"] else ()))
    if f["scaled"]:
        _matmul_scaled(machine, f, counts, a_strides, acc_strides, w_strides)
        return

    # Without its zero strides, which are reductions, the walk says which lines change. If it visits each once,
    # the result is their sum, whatever the order.
    places = [1 if stride == 0 else count for count, stride in zip(counts, acc_strides, strict=True)]
    lines = _walk(f["acc_line"], places, acc_strides) if math.prod(places) <= config.accumulator_lines else None
    if lines is None or np.bincount(lines.reshape(-1)).max() > 1:
        _matmul_in_order(machine, f, counts, a_strides, acc_strides, w_strides)
        return
    if not f["accumulate"]:
        machine.accumulator[lines] = 0
    for i3 in range(counts[0]):
        a_line, w_line = f["a_line"] + i3 * a_strides[0], f["w_line"] + i3 * w_strides[0]
        at_once = max(1, (1 << 18) // (counts[2] * counts[3] * config.columns))     # for memory's sake
        for i2 in range(0, counts[1], at_once):
            tiles = min(at_once, counts[1] - i2)
            a_lines = _walk(a_line + i2 * a_strides[1], [tiles, *counts[2:]], a_strides[1:]).reshape(tiles, -1)
            vectors = decode_integers(machine.scratchpad[a_lines], f["a_format"], config.rows)
            w_lines = _walk(w_line + i2 * w_strides[1], [tiles, config.rows], w_strides[1:])
            weights = decode_integers(machine.scratchpad[w_lines], f["w_format"], config.columns)
            where = lines[i3 % places[0]]
            if acc_strides[1] == 0:     # consecutive tiles are parts of one longer dot product
                vectors = vectors.transpose(1, 0, 2).reshape(1, -1, tiles * config.rows)
                weights = weights.reshape(1, tiles * config.rows, config.columns)
            else:
                where = where[i2:i2 + tiles]
            sums = numerics.gemm_int(vectors, weights).reshape(-1, *counts[2:], config.columns)
            reduced = tuple(axis for axis in (1, 2) if acc_strides[axis + 1] == 0)
            machine.accumulator[where] += sums.sum(axis=reduced, keepdims=True, dtype=np.int32)


def _matmul_in_order(machine: Machine, f: dict[str, Any], counts: list[int], a_strides: list[int],
                     acc_strides: list[int], w_strides: list[int]) -> None:
    """One vector after the other, for programs that come back to accumulator lines in other ways."""
    config = machine.config
    for index in np.ndindex(*counts):
        a_line, w_line, acc_line = (
            f[name] + sum(i * stride for i, stride in zip(index, strides, strict=False))
            for name, strides in (("a_line", a_strides), ("w_line", w_strides[:2]), ("acc_line", acc_strides)))
        weights = decode_integers(machine.scratchpad[w_line:w_line + config.rows], f["w_format"], config.columns)
        vector = decode_integers(machine.scratchpad[a_line:a_line + 1], f["a_format"], config.rows)
        first = not any(i for i, stride in zip(index, acc_strides, strict=True) if stride == 0)
        if first and not f["accumulate"]:
            machine.accumulator[acc_line] = 0
        machine.accumulator[acc_line] += numerics.gemm_int(vector, weights)[0]


def _check_formats(config: ChipConfig, f: dict[str, Any]) -> None:
    """FIELD for a format or block that this chip has not."""
    for name in ("a_format", "w_format"):
        code = f[name]
        number = getattr(code, "value", code)
        _need(number, isinstance(code, ElementFormat) and code.name.lower() in config.formats
              and (bool(f["scaled"]) or not FORMATS[code.name.lower()].is_float))
    if f["scaled"]:
        _need(f["block_tiles"], config.block_scaled and 1 <= f["block_tiles"] <= MAX_BLOCK // config.rows)


def _astray_scales(config: ChipConfig, f: dict[str, Any], counts: list[int]):
    """The first line of scales of either kind that does not exist, as its place in the order and as an error."""
    blocks = -(-counts[1] // f["block_tiles"])
    lines = -(-counts[2] * counts[3] // config.line_bytes)
    for operand, per_block in (("w", 1), ("a", lines)):
        walk = _Lines(ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines, f[f"{operand}_scale_line"],
                      [counts[0], blocks, per_block],
                      [f[f"{operand}_scale_stride3"], f[f"{operand}_scale_stride2"], 1])
        if index := walk.astray():
            tile = (index[0], min((index[1] + 1) * f["block_tiles"], counts[1]) - 1)
            # A tile's scales come before its rows; a vector's behind its line of A, with the first to use them.
            place = (-2,) if operand == "w" else (*divmod(index[2] * config.line_bytes, counts[3]), 1.5)
            yield (*tile, *place), walk.fault(index)


def _matmul_scaled(machine: Machine, f: dict[str, Any], counts: list[int], a_strides: list[int],
                   acc_strides: list[int], w_strides: list[int]) -> None:
    """Block-scaled: one tile after the other, and one vector after the other where they share a line."""
    config, size = machine.config, f["block_tiles"]
    columns, vectors = config.columns, counts[2] * counts[3]
    scale_lines = -(-vectors // config.line_bytes)
    inner_first = ~np.array([any(i and not stride for i, stride in zip(index, acc_strides[2:], strict=True))
                             for index in np.ndindex(*counts[2:])])
    for i3, i2 in np.ndindex(*counts[:2]):
        block, ends = i2 // size, i2 % size == size - 1 or i2 == counts[1] - 1
        a_lines = _walk(_at(f["a_line"], a_strides[:2], (i3, i2)), counts[2:], a_strides[2:]).reshape(-1)
        lines = _walk(_at(f["acc_line"], acc_strides[:2], (i3, i2)), counts[2:], acc_strides[2:]).reshape(-1)
        w_line = _at(f["w_line"], w_strides[:2], (i3, i2))
        tile = decode_elements(machine.scratchpad[w_line:w_line + config.rows], f["w_format"], columns)
        values = decode_elements(machine.scratchpad[a_lines], f["a_format"], config.rows)
        scales = None
        if ends:
            a_scale, w_scale = (f[f"{name}_scale_line"] + i3 * f[f"{name}_scale_stride3"]
                                + block * f[f"{name}_scale_stride2"] for name in "aw")
            scales = (machine.scratchpad[a_scale:a_scale + scale_lines].reshape(-1)[:vectors],
                      machine.scratchpad[w_scale, :columns])
        begins = i2 % size == 0
        first = inner_first & (bool(acc_strides[1]) | (block == 0)) & (bool(acc_strides[0]) | (i3 == 0))
        replace = first & (not f["accumulate"])
        shared = len(np.unique(lines)) < vectors
        for part in ([slice(i, i + 1) for i in range(vectors)] if shared else [slice(None)]):
            machine.partial.add(lines[part], values[part], tile, begins)
            if scales is not None:
                terms = machine.partial.scaled(lines[part], scales[0][part], scales[1])
                old = machine.accumulator[lines[part]].view(np.float32)
                old = np.where(replace[part, None], np.float32(0), old)
                machine.accumulator[lines[part]] = add_fp32(old, terms).view(np.int32)


# EPILOGUE.

#: Results of so few bits that they take a fresh scale.
_FRESH = {OutFormat.E4M3: "e4m3", OutFormat.E2M1: "e2m1"}


def _epilogue(machine: Machine, memory: _Memory, f: dict[str, Any]) -> None:
    config, out_format = machine.config, f["out_format"]
    counts, acc_strides = ([f[f"{name}{level}"] for level in (3, 2, 1, 0)] for name in ("count", "acc_stride"))
    _check_epilogue(config, f, counts)
    fresh = out_format in _FRESH
    parts = f["parts"] if fresh else 1
    size = {OutFormat.INT8: 1, OutFormat.BF16: 2}.get(out_format, 4)
    steps = parts if fresh else -(-size * config.columns // config.line_bytes)
    counts = [*counts[:2], parts, *counts[2:]]
    acc_strides = [*acc_strides[:2], f["part_stride"], *acc_strides[2:]]
    out_counts, out_strides = [*counts[:2], steps], [f["out_stride3"], f["out_stride2"], f["out_step"]]

    bias, scale = _parameters(machine, f)
    reads = _Lines(ErrorCode.ACCUMULATOR_RANGE, config.accumulator_lines, f["acc_line"], counts, acc_strides)
    writes = _Lines(ErrorCode.SCRATCHPAD_RANGE, config.scratchpad_lines, f["out_line"], out_counts, out_strides)
    # A pixel's (or part's) whole window comes before its result.
    _raise_first(*(((*index[:3], 0), reads.fault(index)) for index in (reads.astray(),) if index),
                 *(((*index[:2], fresh * index[2], 1), writes.fault(index)) for index in (writes.astray(),)
                   if index),
                 *(_astray_fresh(config, f, parts) if fresh else ()))

    clamp_to = None
    if f["clamp"]:
        bounds = np.array([f["clamp_low"], f["clamp_high"]], np.uint32)
        clamp_to = tuple(bounds.view(np.int32 if out_format == OutFormat.INT32 else np.float32))
    lines = _walk(f["out_line"], out_counts, out_strides).reshape(-1, steps)
    origins = _walk(f["acc_line"], counts[:3], acc_strides[:3]).reshape(-1, parts)
    window = _walk(0, counts[3:], acc_strides[3:]).reshape(-1)
    # So many pixels at a time, for memory's sake; their scales fill whole lines.
    pixels = config.line_bytes * max(1, (1 << 20) // (parts * len(window) * config.columns * config.line_bytes))
    for start in range(0, len(origins), pixels):
        acc = machine.accumulator[origins[start:start + pixels, :, None] + window]
        result = numerics.epilogue(acc.view(np.float32) if f["float"] else acc, bias, scale, out_format, clamp_to,
                                   f["zero_point"], window=(2,))
        where = lines[start:start + pixels].reshape(-1)
        if fresh:
            data, scales = _fresh(config, f, result)
            # A line of scales follows the last pixel that it is about.
            after = np.minimum(np.arange(1, len(scales) + 1) * config.line_bytes, len(result)) * parts
            where = np.insert(where, after, f["scale_line"] + start // config.line_bytes + np.arange(len(scales)))
            data = np.insert(data, after, scales, axis=0)
        else:
            raw = numerics.to_bf16(result) if out_format == OutFormat.BF16 else result
            data = _pad(raw, steps * config.line_bytes).reshape(-1, config.line_bytes)
        machine.scratchpad[where] = data


def _check_epilogue(config: ChipConfig, f: dict[str, Any], counts: list[int]) -> None:
    """FIELD for what has no meaning, or none on this chip."""
    form, scale_mode = f["out_format"], f["scale_mode"]
    fresh, columns = form in _FRESH, config.columns
    _need(getattr(form, "value", form), isinstance(form, OutFormat)
          and (config.block_scaled or form not in (OutFormat.BF16, *_FRESH))
          and not (fresh and columns & (columns - 1)))
    number = getattr(scale_mode, "value", scale_mode)
    _need(number, isinstance(scale_mode, ScaleMode) and (form != OutFormat.INT32 or number == 0))
    _need(f["float"], not f["float"] or (config.block_scaled and form != OutFormat.INT32))
    if fresh:
        per_column = bool(f["bias"]) or scale_mode == ScaleMode.COLUMN
        _need(f["parts"], 1 <= f["parts"] <= MAX_BLOCK // columns and not (f["parts"] > 1 and per_column))
    for count in reversed(counts):
        _need(count, count >= 1)


def _astray_fresh(config: ChipConfig, f: dict[str, Any], parts: int):
    """The first line of fresh scales that does not exist, as its place in the order and as an error."""
    last = f["scale_line"] + (f["count2"] * f["count3"] - 1) // config.line_bytes
    line = max(f["scale_line"], config.scratchpad_lines)
    if line <= last:
        # It is met with the first pixel whose scale goes there, after that pixel's own lines.
        pixel = divmod((line - f["scale_line"]) * config.line_bytes, f["count2"])
        yield (*pixel, parts, 0), _Fault(ErrorCode.SCRATCHPAD_RANGE, line)


def _fresh(config: ChipConfig, f: dict[str, Any], result: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [pixels, parts, columns] to lines of elements and lines of the scales of all pixels."""
    pixels, parts, columns = result.shape
    codes, scales = quantize_block(result.reshape(pixels, -1), _FRESH[f["out_format"]], parts * columns,
                                   f["scale_rule"].name.lower())
    if f["out_format"] == OutFormat.E2M1:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    scales = _pad(scales.reshape(1, -1), -(-pixels // config.line_bytes) * config.line_bytes)
    return _pad(codes.reshape(pixels * parts, -1), config.line_bytes), scales.reshape(-1, config.line_bytes)


def _pad(rows: np.ndarray, size: int) -> np.ndarray:
    """Each row's bytes, and zeros up to `size` bytes."""
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    return np.pad(raw, ((0, 0), (0, size - raw.shape[1])))


def _parameters(machine: Machine, f: dict[str, Any]) -> tuple[np.ndarray | None, np.ndarray | np.float32 | None]:
    """Bias and scale: from parameter lines, or the scale from the instruction."""
    size = 4 * machine.config.columns
    lines = -(-size // machine.config.line_bytes)
    line = f["param_line"]
    read: list[Any] = []
    for wanted, dtype in ((f["bias"], np.float32 if f["float"] else np.int32),
                          (f["scale_mode"] == ScaleMode.COLUMN, np.float32)):
        if not wanted:
            read.append(None)
            continue
        for each in range(line, line + lines):
            if each >= machine.config.scratchpad_lines:
                raise _Fault(ErrorCode.SCRATCHPAD_RANGE, each)
        read.append(machine.scratchpad[line:line + lines].reshape(-1)[:size].view(dtype))
        line += lines
    bias, scale = read
    if f["scale_mode"] == ScaleMode.SCALAR:
        scale = np.array(f["scale"], np.uint32).view(np.float32)
    return bias, scale


_EXECUTE = {Unit.LOAD: _load, Unit.MATMUL: _matmul, Unit.EPILOGUE: _epilogue, Unit.STORE: _store}
