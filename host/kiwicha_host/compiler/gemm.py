"""One GEMM from memory to memory: `C[M, N] = epilogue(A[M, K] . B[K, N])` for any M, N, K >= 1."""

from dataclasses import dataclass

import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import BLOCKS, FORMATS
from kiwicha.isa import INSTRUCTION_BYTES, OutFormat, ScaleMode

from ..job import Job
from .builder import CompileError
from .gemm_program import emit
from .layout import MemoryMap, Region, ScratchpadMap, column_parameters, result_lines
from .packing import pack_elements, unpack_elements
from .shape import Shape
from .tiling import choose_tiling, slot

__all__ = ["CompiledGemm", "GemmSpec", "compile_gemm"]

#: Output formats: the epilogue's name, bits of an element, and what it is in numpy (codes for the narrow floats).
_OUT = {"int32": (OutFormat.INT32, 32, np.int32), "fp32": (OutFormat.FP32, 32, np.float32),
        "bf16": (OutFormat.BF16, 16, np.uint16), "int8": (OutFormat.INT8, 8, np.int8),
        "e4m3": (OutFormat.E4M3, 8, np.uint8), "e2m1": (OutFormat.E2M1, 4, np.uint8)}


@dataclass(frozen=True, kw_only=True)
class GemmSpec:
    """What to compute: shapes, formats, and what the epilogue does.

    `block` elements along K share a scale; 0 is an integer GEMM. `scale` is None, a number (for all columns) or
    "column" (FP32 [N], given with the arrays); `bias` says that [N] is given with the arrays, int32 or, with
    blocks, FP32. With `relu`, results below zero (before the zero point) become zero. `out_block` columns of an
    e4m3 or e2m1 output share a fresh scale by `scale_rule`, "rceil" or "floor".
    """
    m: int
    n: int
    k: int
    a_format: str = "int8"
    b_format: str = "int8"
    block: int = 0
    out: str = "int32"
    bias: bool = False
    scale: float | str | None = None
    zero_point: int = 0
    relu: bool = False
    out_block: int = 0
    scale_rule: str = "rceil"

    def __post_init__(self) -> None:
        for name in ("m", "n", "k"):
            if getattr(self, name) < 1:
                raise CompileError(f"{name.upper()} must be at least 1, not {getattr(self, name)}")
        for name in (self.a_format, self.b_format):
            if name not in FORMATS:
                raise CompileError(f"element format must be one of {', '.join(FORMATS)}, not {name!r}")
            if FORMATS[name].is_float and not self.block:
                raise CompileError(f"format {name} needs a scale block of {', '.join(map(str, BLOCKS))} elements")
        if self.block and self.block not in BLOCKS:
            raise CompileError(f"block must be 0 or one of {', '.join(map(str, BLOCKS))}, not {self.block}")
        self._check_out()

    def _check_out(self) -> None:
        if self.out not in _OUT:
            raise CompileError(f"output format must be one of {', '.join(_OUT)}, not {self.out!r}")
        if self.out == "int32" and self.block:
            raise CompileError("a block-scaled GEMM has no int32 output; use fp32")
        if self.out == "int32" and self.scale is not None:
            raise CompileError("an int32 output takes no scale; use fp32 or int8")
        if self.zero_point and self.out != "int8":
            raise CompileError(f"a zero point is for int8 outputs, not {self.out}")
        if self.out in ("e4m3", "e2m1"):
            if self.out_block not in (32, 128):
                raise CompileError(f"an {self.out} output needs a scale block of 32 or 128 columns, "
                                   f"not {self.out_block}")
            if self.bias or self.scale == "column":
                raise CompileError(f"an {self.out} output takes no bias and no factor per column; "
                                   "use bf16 or fp32")
        elif self.out_block:
            raise CompileError(f"an output of {self.out} has no scale blocks")

    @property
    def out_format(self) -> OutFormat:
        return _OUT[self.out][0]

    @property
    def dtype(self) -> type:
        return _OUT[self.out][2]

    def shape(self, config: ChipConfig) -> Shape:
        """This GEMM on the chip of `config`."""
        return Shape(config=config, m=self.m, n=self.n, k=self.k, block=self.block,
                     a_per_byte=FORMATS[self.a_format].per_byte, b_per_byte=FORMATS[self.b_format].per_byte,
                     element_bits=_OUT[self.out][1], out_block=self.out_block)

    def check(self, config: ChipConfig) -> None:
        """:exc:`CompileError` if the chip of `config` cannot do it at all."""
        for name in (self.a_format, self.b_format):
            if name not in config.formats:
                raise CompileError(f"format {name} is not in the hardware of configuration {config.name!r}; "
                                   f"it has {', '.join(config.formats)}")
        if not config.block_scaled and (self.block or self.out in ("bf16", "e4m3", "e2m1")):
            raise CompileError(f"configuration {config.name!r} has no block scaling: it has only the formats "
                               f"{', '.join(config.formats)}")
        if self.block and self.block < config.rows:
            raise CompileError(f"block must be at least the array's {config.rows} rows, not {self.block}")
        if self.out_block and (config.columns & (config.columns - 1) or self.out_block < config.columns):
            raise CompileError(f"an output block of {self.out_block} needs columns that divide it, "
                               f"not {config.columns}")


class CompiledGemm:
    """A GEMM's program and memory map for one configuration; takes any arrays of its shapes."""

    def __init__(self, config: ChipConfig, spec: GemmSpec):
        spec.check(config)
        self.config, self.spec = config, spec
        self.shape = shape = spec.shape(config)
        self.scale_mode = (ScaleMode.NONE if spec.scale is None else
                           ScaleMode.COLUMN if spec.scale == "column" else ScaleMode.SCALAR)
        self.param_lines = column_parameters(config, spec.bias, self.scale_mode == ScaleMode.COLUMN)
        # Room for the parameters of two column tiles: at least a block each, at most a share of the scratchpad.
        most_n = shape.n_blocks
        if self.param_lines:
            most_n = max(1, min(most_n, config.scratchpad_lines // 32 // self.param_lines))
        self.where = ScratchpadMap.of(config, 2 * most_n * self.param_lines, bool(spec.block))
        self.tiling = choose_tiling(shape, self.where, most_n)
        memory = MemoryMap()
        self._place_operands(memory)
        self.program = emit(self)
        self._program = memory.region(len(self.program))
        self.memory_bytes = memory.size

    def _place_operands(self, memory: MemoryMap) -> None:
        config, spec, shape = self.config, self.spec, self.shape
        self.a = memory.region(spec.m * shape.a_row_bytes)
        self.b = memory.region(shape.b_rows * shape.b_row_bytes)
        self.a_scale = memory.region(shape.scale_blocks * spec.m)
        self.b_scale = memory.region(shape.scale_blocks * spec.n)
        self.params = memory.region(shape.n_blocks * self.param_lines * config.line_bytes)
        self.c = memory.region(spec.m * shape.c_row_bytes)
        self.c_scale = memory.region(spec.m * shape.out_blocks)

    # First scratchpad lines of what a slot holds.

    def a_line(self, index: int) -> int:
        return slot(self.where.a, self.shape.a_lines(self.tiling.m, self.tiling.k), index)

    def a_scale_line(self, index: int) -> int:
        return slot(self.where.scales, self.shape.a_scale_lines(self.tiling.m, self.tiling.k), index)

    def w_line(self, index: int) -> int:
        return slot(self.where.w, self.shape.w_lines(self.tiling.n, self.tiling.k), index)

    @property
    def instructions(self) -> int:
        return len(self.program) // INSTRUCTION_BYTES

    def job(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, scale: np.ndarray | None = None,
            a_scale: np.ndarray | None = None, b_scale: np.ndarray | None = None) -> Job:
        """Memory image and program for `a` [M, K] and `b` [K, N], `bias` and FP32 `scale` [N], E8M0 scales.

        `a_scale` is [M, blocks]; `b_scale` [blocks, N] or, for square blocks, [blocks, ceil(N / block)].
        """
        memory = np.zeros(self.memory_bytes, np.uint8)
        _put(memory, self.a, pack_elements(a, self.spec.a_format))
        _put(memory, self.b, pack_elements(b, self.spec.b_format))
        if a_scale is not None and b_scale is not None:
            # A line of scales is for consecutive vectors, so they are consecutive in memory.
            _put(memory, self.a_scale, np.ascontiguousarray(a_scale.T))
            if b_scale.shape[1] != self.spec.n:
                b_scale = np.repeat(b_scale, self.spec.block, axis=1)[:, :self.spec.n]
            _put(memory, self.b_scale, np.ascontiguousarray(b_scale))
        bias_type = np.float32 if self.spec.block else np.int32
        parameters = [np.asarray(values, dtype) for values, dtype in ((bias, bias_type), (scale, np.float32))
                      if values is not None]
        _put(memory, self.params, self._pack_parameters(parameters))
        _put(memory, self._program, np.frombuffer(self.program, np.uint8))
        return Job(memory=memory, program_address=self._program.base, program_count=self.instructions,
                   window=(0, self.memory_bytes - 1))

    def output(self, job: Job) -> np.ndarray:
        """C [M, N] from the memory after the run."""
        data = job.memory[self.c.base:self.c.end].reshape(self.spec.m, -1)
        if self.spec.out == "e2m1":
            return unpack_elements(data, self.spec.n)
        return data.copy().view(self.spec.dtype)

    def output_scales(self, job: Job) -> np.ndarray:
        """The fresh E8M0 scales [M, ceil(N / out_block)] of an e4m3 or e2m1 output."""
        data = job.memory[self.c_scale.base:self.c_scale.end]
        return np.ascontiguousarray(data.reshape(-1, self.spec.m).T)

    def _pack_parameters(self, parameters: list[np.ndarray]) -> np.ndarray:
        """Per block of columns: each parameter's values, padded to whole lines."""
        columns, line = self.config.columns, self.config.line_bytes
        blocks = self.shape.n_blocks
        packed = np.zeros((blocks, len(parameters), result_lines(self.config, 4) * line), np.uint8)
        for i, values in enumerate(parameters):
            padded = np.zeros(blocks * columns, values.dtype)
            padded[:self.spec.n] = values
            packed[:, i, :4 * columns] = padded.view(np.uint8).reshape(blocks, 4 * columns)
        return packed


def _put(memory: np.ndarray, region: Region, values: np.ndarray) -> None:
    """Write `values` from the region's start on; it may be longer."""
    data = values.reshape(-1).view(np.uint8)
    memory[region.base:region.base + len(data)] = data


def compile_gemm(config: ChipConfig, spec: GemmSpec, memory_limit: int | None = None) -> CompiledGemm:
    """Compile `spec` for `config`.

    Raises
    ------
    CompileError
        The chip cannot do it, it does not fit the chip, or needs more than `memory_limit` bytes of memory.
    """
    compiled = CompiledGemm(config, spec)
    if memory_limit is not None and compiled.memory_bytes > memory_limit:
        raise CompileError(f"a {spec.m}x{spec.n}x{spec.k} GEMM needs {compiled.memory_bytes} bytes of memory; "
                           f"the device has {memory_limit}")
    return compiled
