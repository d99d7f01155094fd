"""One GEMM from memory to memory: `C[M, N] = epilogue(A[M, K] . B[K, N])` for any M, N, K >= 1."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES, OutFormat, ScaleMode, Unit

from ..job import Job
from .builder import CompileError, ProgramBuilder
from .layout import MemoryMap, Region, ScratchpadMap, ceil_div, column_parameters, result_lines
from .tiling import choose_tiling, slot, split

__all__ = ["CompiledGemm", "GemmSpec", "compile_gemm"]

#: Tiles that LOAD may be ahead of MATMUL in program order.
_LOOKAHEAD = 2
_OUT = {"int32": (OutFormat.INT32, np.int32), "fp32": (OutFormat.FP32, np.float32),
        "int8": (OutFormat.INT8, np.int8)}


@dataclass(frozen=True, kw_only=True)
class GemmSpec:
    """What to compute: shapes, and what the epilogue does.

    `scale` is None, a number (for all columns) or "column" (FP32 [N], given with the arrays); `bias` says
    that int32 [N] is given with the arrays. With `relu`, results below zero (before the zero point) become
    zero.
    """
    m: int
    n: int
    k: int
    out: str = "int32"
    bias: bool = False
    scale: float | str | None = None
    zero_point: int = 0
    relu: bool = False

    def __post_init__(self) -> None:
        for name in ("m", "n", "k"):
            if getattr(self, name) < 1:
                raise CompileError(f"{name.upper()} must be at least 1, not {getattr(self, name)}")
        if self.out not in _OUT:
            raise CompileError(f"output format {self.out!r} is not in the hardware yet; it has {', '.join(_OUT)}")
        if self.out == "int32" and self.scale is not None:
            raise CompileError("an int32 output takes no scale; use fp32 or int8")
        if self.zero_point and self.out != "int8":
            raise CompileError(f"a zero point is for int8 outputs, not {self.out}")

    @property
    def dtype(self) -> type:
        return _OUT[self.out][1]


@dataclass(frozen=True)
class _Load:
    """A tile that must be in its slot before step `step`; `free` is the last step that uses what was there."""
    step: int
    free: int
    operand: str
    slot: int
    start: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class _Step:
    """One MATMUL instruction: a tile of A times a tile of B. Starts and sizes count vectors and blocks."""
    m: tuple[int, int]
    n: tuple[int, int]
    k: tuple[int, int]
    tile: int
    a_slot: int
    w_slot: int


class CompiledGemm:
    """A GEMM's program and memory map for one configuration; takes any arrays of its shapes."""

    def __init__(self, config: ChipConfig, spec: GemmSpec):
        self.config, self.spec = config, spec
        self._scale_mode = (ScaleMode.NONE if spec.scale is None else
                            ScaleMode.COLUMN if spec.scale == "column" else ScaleMode.SCALAR)
        self._element = np.dtype(spec.dtype).itemsize
        self._lines = result_lines(config, self._element)
        self._param_lines = column_parameters(config, spec.bias, self._scale_mode == ScaleMode.COLUMN)
        n_blocks = ceil_div(spec.n, config.columns)
        # Room for the parameters of two column tiles: at least a block each, at most a share of the scratchpad.
        most_n = n_blocks
        if self._param_lines:
            most_n = max(1, min(n_blocks, config.scratchpad_lines // 32 // self._param_lines))
        self._where = ScratchpadMap.of(config, 2 * most_n * self._param_lines)
        self.tiling = choose_tiling(config, spec.m, spec.n, spec.k, self._element, self._where, most_n)
        memory = MemoryMap()
        self._a = memory.region(spec.m * spec.k)
        self._b = memory.region(spec.k * spec.n)
        self._params = memory.region(n_blocks * self._param_lines * config.line_bytes)
        self._c = memory.region(spec.m * spec.n * self._element)
        self.program = _emit(self)
        self._program = memory.region(len(self.program))
        self.memory_bytes = memory.size

    @property
    def instructions(self) -> int:
        return len(self.program) // INSTRUCTION_BYTES

    def job(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None,
            scale: np.ndarray | None = None) -> Job:
        """Memory image and program for int8 `a` [M, K] and `b` [K, N], int32 `bias` and FP32 `scale` [N]."""
        memory = np.zeros(self.memory_bytes, np.uint8)
        _put(memory, self._a, np.ascontiguousarray(a, np.int8))
        _put(memory, self._b, np.ascontiguousarray(b, np.int8))
        parameters = [np.asarray(values, dtype) for values, dtype in ((bias, np.int32), (scale, np.float32))
                      if values is not None]
        _put(memory, self._params, self._pack_parameters(parameters))
        _put(memory, self._program, np.frombuffer(self.program, np.uint8))
        return Job(memory=memory, program_address=self._program.base, program_count=self.instructions,
                   window=(0, self.memory_bytes - 1))

    def output(self, job: Job) -> np.ndarray:
        """C [M, N] from the memory after the run."""
        data = job.memory[self._c.base:self._c.end]
        return data.view(self.spec.dtype).reshape(self.spec.m, self.spec.n).copy()

    def _pack_parameters(self, parameters: list[np.ndarray]) -> np.ndarray:
        """Per block of columns: each parameter's values, padded to whole lines."""
        columns, line = self.config.columns, self.config.line_bytes
        blocks = ceil_div(self.spec.n, columns)
        packed = np.zeros((blocks, len(parameters), result_lines(self.config, 4) * line), np.uint8)
        for i, values in enumerate(parameters):
            padded = np.zeros(blocks * columns, values.dtype)
            padded[:self.spec.n] = values
            packed[:, i, :4 * columns] = padded.view(np.uint8).reshape(blocks, 4 * columns)
        return packed


def _put(memory: np.ndarray, region: Region, values: np.ndarray) -> None:
    memory[region.base:region.end] = values.reshape(-1).view(np.uint8)


def compile_gemm(config: ChipConfig, spec: GemmSpec, memory_limit: int | None = None) -> CompiledGemm:
    """Compile `spec` for `config`.

    Raises
    ------
    CompileError
        It does not fit the chip, or needs more than `memory_limit` bytes of memory.
    """
    compiled = CompiledGemm(config, spec)
    if memory_limit is not None and compiled.memory_bytes > memory_limit:
        raise CompileError(f"a {spec.m}x{spec.n}x{spec.k} GEMM needs {compiled.memory_bytes} bytes of memory; "
                           f"the device has {memory_limit}")
    return compiled


def _emit(gemm: CompiledGemm) -> bytes:
    """The program: loads run ahead, and a tile's results leave while the next tile is computed."""
    builder = ProgramBuilder()
    steps, loads = _plan(gemm)
    results = _Results(builder, gemm)
    last_of_tile = {step.tile: i for i, step in enumerate(steps)}
    pending: list[Callable[[], None]] = []      # the previous tile's epilogues and stores
    next_load = 0
    for i, step in enumerate(steps):
        while next_load < len(loads) and (loads[next_load].step <= i or (
                loads[next_load].step <= i + _LOOKAHEAD and loads[next_load].free < i)):
            _emit_load(builder, gemm, loads[next_load])
            next_load += 1
        _emit_matmul(builder, gemm, step)
        left = last_of_tile[step.tile] - i + 1
        for _ in range(ceil_div(len(pending), left)):
            pending.pop(0)()
        if left == 1:
            pending = results.of(step)
    for emit in pending:
        emit()
    return builder.assemble()


def _plan(gemm: CompiledGemm) -> tuple[list[_Step], list[_Load]]:
    """All steps in order, and the loads that bring their tiles into rings of slots."""
    config, spec, tiling = gemm.config, gemm.spec, gemm.tiling
    m_parts, n_parts, k_parts = (split(total, part) for total, part in (
        (spec.m, tiling.m), (ceil_div(spec.n, config.columns), tiling.n),
        (ceil_div(spec.k, config.rows), tiling.k)))
    tiles = ([(m, n) for n in n_parts for m in m_parts] if tiling.n_outer else
             [(m, n) for m in m_parts for n in n_parts])
    a_ring, w_ring = _Ring("a", tiling.a_slots), _Ring("w", tiling.w_slots)
    steps: list[_Step] = []
    loads: list[_Load] = []
    for tile, (m, n) in enumerate(tiles):
        for k in k_parts:
            i = len(steps)
            a_slot = a_ring.take(i, m, k, loads)
            w_slot = w_ring.take(i, k, n, loads)
            steps.append(_Step(m, n, k, tile, a_slot, w_slot))
    return steps, loads


class _Ring:
    """Slots that are filled in turn; a tile that is still in one is not loaded again."""

    def __init__(self, operand: str, slots: int):
        self.operand = operand
        self._used = [-1] * slots
        self._held: list = [None] * slots
        self._next = 0

    def take(self, step: int, rows: tuple[int, int], columns: tuple[int, int], loads: list[_Load]) -> int:
        key = (rows, columns)
        if key in self._held:
            index = self._held.index(key)
        else:
            index, self._next = self._next, (self._next + 1) % len(self._held)
            loads.append(_Load(step, self._used[index], self.operand, index, *zip(rows, columns, strict=True)))
            self._held[index] = key
        self._used[index] = step
        return index


def _emit_load(builder: ProgramBuilder, gemm: CompiledGemm, load: _Load) -> None:
    """A tile of A as lines (vector, row block), or of B as lines (column block, row)."""
    config, spec, tiling, where = gemm.config, gemm.spec, gemm.tiling, gemm._where
    if load.operand == "a":
        (m, k), (rows, blocks) = load.start, load.size
        row_bytes = min(spec.k, (k + blocks) * config.rows) - k * config.rows
        source, row, column, stride, chunk = gemm._a, m, k * config.rows, spec.k, config.rows
        line = slot(where.a, tiling.m * tiling.k, load.slot)
        chunk_lines, row_lines = 1, blocks
    else:
        (k, n), (k_blocks, blocks) = load.start, load.size
        rows = min(spec.k, (k + k_blocks) * config.rows) - k * config.rows
        row_bytes = min(spec.n, (n + blocks) * config.columns) - n * config.columns
        source, row, column, stride, chunk = gemm._b, k * config.rows, n * config.columns, spec.n, config.columns
        line = slot(where.w, tiling.n * tiling.k * config.rows, load.slot)
        chunk_lines, row_lines = k_blocks * config.rows, 1
    builder.add(Unit.LOAD, writes=[(load.operand, load.slot)], address=source.base + row * stride + column,
                row_bytes=row_bytes, rows=rows, row_stride=stride, planes=1, chunk_bytes=chunk, line=line,
                chunk_line_stride=chunk_lines, row_line_stride=row_lines)


def _emit_matmul(builder: ProgramBuilder, gemm: CompiledGemm, step: _Step) -> None:
    """Vectors innermost, then row blocks (a reduction), then column blocks."""
    config, tiling, where = gemm.config, gemm.tiling, gemm._where
    (_, m), (_, n), (k_start, k) = step.m, step.n, step.k
    builder.add(Unit.MATMUL, reads=[("a", step.a_slot), ("w", step.w_slot)], writes=[("acc", step.tile % 2)],
                accumulate=int(k_start > 0), count0=m, count1=1, count2=k, count3=n,
                a_line=slot(where.a, tiling.m * tiling.k, step.a_slot), a_stride0=k, a_stride2=1,
                w_line=slot(where.w, tiling.n * tiling.k * config.rows, step.w_slot),
                w_stride2=config.rows, w_stride3=k * config.rows,
                acc_line=step.tile % 2 * (config.accumulator_lines // 2), acc_stride0=1, acc_stride3=m)


class _Results:
    """Emits what follows a tile's last MATMUL: its parameters, EPILOGUEs and STOREs, in two output slots."""

    def __init__(self, builder: ProgramBuilder, gemm: CompiledGemm):
        self.builder, self.gemm = builder, gemm
        self._stores = 0
        self._params = _Ring("params", 2)

    def of(self, step: _Step) -> list[Callable[[], None]]:
        """One action per EPILOGUE, to be called in order; the last of a group stores it too."""
        params = self._load_params(step) if self.gemm._param_lines else 0
        actions: list[Callable[[], None]] = []
        for start, size in split(step.n[1], self.gemm.tiling.group):
            output = self._stores % 2
            self._stores += 1
            actions += [partial(self._epilogue, step, params, start, block, size, output) for block in range(size)]
            actions.append(partial(self._store, step, start, size, output))
        return actions

    def _load_params(self, step: _Step) -> int:
        """Bring the column tile's parameters unless they are there; returns their slot."""
        gemm = self.gemm
        loads: list[_Load] = []
        index = self._params.take(step.tile, step.n, step.n, loads)
        if loads:
            lines, line_bytes = step.n[1] * gemm._param_lines, gemm.config.line_bytes
            self.builder.add(Unit.LOAD, writes=[("params", index)], rows=1, planes=1, chunk_line_stride=1,
                             address=gemm._params.base + step.n[0] * gemm._param_lines * line_bytes,
                             row_bytes=lines * line_bytes, chunk_bytes=line_bytes, line=self._param_line(index))
        return index

    def _param_line(self, index: int) -> int:
        return slot(self.gemm._where.params, self.gemm._where.params.size // 2, index)

    def _output_line(self, output: int) -> int:
        return slot(self.gemm._where.out, self.gemm._where.out.size // 2, output)

    def _epilogue(self, step: _Step, params: int, start: int, block: int, size: int, output: int) -> None:
        gemm, spec = self.gemm, self.gemm.spec
        m, column_block = step.m[1], start + block
        extra = {}
        if isinstance(spec.scale, float):
            extra["scale"] = int(np.float32(spec.scale).view(np.uint32))
        if spec.relu:
            # The largest int32, and above every FP32 number and NaN in total order.
            extra |= {"clamp": 1, "clamp_low": 0, "clamp_high": 0x7FFF_FFFF}
        self.builder.add(
            Unit.EPILOGUE, reads=[("acc", step.tile % 2), ("params", params)], writes=[("out", output)],
            out_format=_OUT[spec.out][0], bias=int(spec.bias), scale_mode=gemm._scale_mode,
            zero_point=spec.zero_point, count0=1, count1=1, count2=m, count3=1, acc_stride2=1,
            acc_line=step.tile % 2 * (gemm.config.accumulator_lines // 2) + column_block * m,
            out_line=self._output_line(output) + block * gemm._lines, out_stride2=size * gemm._lines, out_step=1,
            param_line=self._param_line(params) + column_block * gemm._param_lines, **extra)

    def _store(self, step: _Step, start: int, size: int, output: int) -> None:
        gemm, spec, config = self.gemm, self.gemm.spec, self.gemm.config
        first = (step.n[0] + start) * config.columns
        columns = min(spec.n, first + size * config.columns) - first
        row = spec.n * gemm._element
        self.builder.add(
            Unit.STORE, reads=[("out", output)], address=gemm._c.base + step.m[0] * row + first * gemm._element,
            row_bytes=columns * gemm._element, rows=step.m[1], row_stride=row, planes=1,
            chunk_bytes=min(config.line_bytes, config.columns * gemm._element),
            line=self._output_line(output), chunk_line_stride=1, row_line_stride=size * gemm._lines)
