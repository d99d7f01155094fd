"""One GEMM from memory to memory: `C[M, N] = epilogue(A[M, K] . B[K, N])` for any M, N, K >= 1."""

from functools import lru_cache
from itertools import chain

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import INSTRUCTION_BYTES

from .... import arguments
from ....job import Job
from ....memory_latency import MEMORY_LATENCY
from ...errors import CompileError
from ...program.memory_map import MemoryMap, Region, result_lines
from ...program.packing import pack_elements, unpack_elements
from ..autotune import fastest
from .placement import Placement, ScratchpadPlan
from .program import emit
from .spec import GemmSpec
from .tile_search import tilings
from .tiling import Tiling

__all__ = ["CompiledGemm", "GemmSpec", "compile_gemm"]

#: Operands are stored as they came unless their transposes promise so small a share of the cycles.
_WORTH_TRANSPOSING = 0.95


class CompiledGemm:
    """A GEMM's program and memory map for one configuration; takes any arrays of its shapes.

    Attributes
    ----------
    config : ChipConfig
    spec : GemmSpec
    placement : Placement
        The tiles, and where everything is.
    program : bytes
    memory_bytes : int
        Memory that a job takes.
    """

    def __init__(self, config: ChipConfig, spec: GemmSpec, tiling: Tiling | None = None, *,
                 memory_latency: int = MEMORY_LATENCY):
        """`tiling` is one of `tilings`; without it, it is the first of them."""
        arguments.instance("spec", spec, GemmSpec).check(config)
        self.config, self.spec = config, spec
        self._plan, self._memory_latency = ScratchpadPlan.of(config, spec), memory_latency
        memory = MemoryMap()
        self.placement = Placement.of(config, spec, tiling or self.tilings()[0], self._plan, memory)
        self.program = emit(self.placement)
        self._program = memory.region(len(self.program))
        self.memory_bytes = memory.size

    @property
    def tiling(self) -> Tiling:
        return self.placement.tiling

    def tilings(self) -> tuple[Tiling, ...]:
        """All that fit, the most promising first."""
        plan = self._plan
        return tilings(plan.shape, plan.where, plan.most_n, self._memory_latency)

    @property
    def instructions(self) -> int:
        return len(self.program) // INSTRUCTION_BYTES

    def job(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, scale: np.ndarray | None = None,
            a_scale: np.ndarray | None = None, b_scale: np.ndarray | None = None) -> Job:
        """Memory image and program for `a` [M, K] and `b` [K, N], `bias` and FP32 `scale` [N], E8M0 scales.

        `a_scale` is [M, blocks]; `b_scale` [blocks, N] or, for square blocks, [blocks, ceil(N / block)].

        Raises
        ------
        TypeError, ValueError
            One of them is missing, too much, or of a wrong type or shape.
        """
        self.spec.check_arrays(a, b, bias, scale, a_scale, b_scale)
        memory, place = np.zeros(self.memory_bytes, np.uint8), self.placement
        _put(memory, place.a, pack_elements(a, self.spec.a_format))
        _put(memory, place.b, pack_elements(b, self.spec.b_format))
        if a_scale is not None and b_scale is not None:
            # A line of scales is for consecutive vectors, so they are consecutive in memory.
            _put(memory, place.a_scale, np.ascontiguousarray(a_scale.T))
            b_scale = _per_column(b_scale, self.spec.n, self.spec.block)
            _put(memory, place.b_scale, np.ascontiguousarray(b_scale))
        bias_type = np.float32 if self.spec.block else np.int32
        parameters = [np.asarray(values, dtype) for values, dtype in ((bias, bias_type), (scale, np.float32))
                      if values is not None]
        _put(memory, place.params, self._pack_parameters(parameters))
        _put(memory, self._program, np.frombuffer(self.program, np.uint8))
        return Job(memory=memory, program_address=self._program.base, program_count=self.instructions,
                   window=(0, self.memory_bytes - 1))

    def output(self, job: Job) -> np.ndarray:
        """C [M, N] from the memory after the run."""
        arguments.instance("job", job, Job)
        data = job.memory[self.placement.c.base:self.placement.c.end].reshape(self.spec.m, -1)
        if self.spec.out == "e2m1":
            return unpack_elements(data, self.spec.n)
        return data.copy().view(self.spec.dtype)

    def output_scales(self, job: Job) -> np.ndarray:
        """The dynamic E8M0 scales [M, ceil(N / out_block)] of an e4m3, e2m1 or mxint8 output."""
        arguments.instance("job", job, Job)
        data = job.memory[self.placement.c_scale.base:self.placement.c_scale.end]
        return np.ascontiguousarray(data.reshape(-1, self.spec.m).T)

    def _pack_parameters(self, parameters: list[np.ndarray]) -> np.ndarray:
        """Per block of columns: each parameter's values, padded to whole lines."""
        columns, line = self.config.columns, self.config.line_bytes
        blocks = self.placement.shape.n_blocks
        packed = np.zeros((blocks, len(parameters), result_lines(self.config, 4) * line), np.uint8)
        for i, values in enumerate(parameters):
            padded = np.zeros(blocks * columns, values.dtype)
            padded[:self.spec.n] = values
            packed[:, i, :4 * columns] = padded.view(np.uint8).reshape(blocks, 4 * columns)
        return packed


def _per_column(scale: np.ndarray, n: int, block: int) -> np.ndarray:
    """Scales of B [blocks, N] from such or from those of square blocks."""
    return scale if scale.shape[1] == n else np.repeat(scale, block, axis=1)[:, :n]


def _put(memory: np.ndarray, region: Region, values: np.ndarray) -> None:
    """Write `values` from the region's start on; it may be longer."""
    data = values.reshape(-1).view(np.uint8)
    memory[region.base:region.base + len(data)] = data


class _TransposedGemm(CompiledGemm):
    """C = (B^T . A^T)^T: A is stationary and B streams, so M is padded to the array's columns, and not N.

    In memory, A is [K, M], B is [N, K], and C is [N, M].
    """

    def job(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None, scale: np.ndarray | None = None,
            a_scale: np.ndarray | None = None, b_scale: np.ndarray | None = None) -> Job:
        asked = self.spec.transposed()
        assert asked is not None
        asked.check_arrays(a, b, bias, scale, a_scale, b_scale)
        if a_scale is None or b_scale is None:
            return super().job(b.T, a.T)
        b_scale = _per_column(b_scale, self.spec.m, self.spec.block)
        return super().job(b.T, a.T, a_scale=b_scale.T, b_scale=a_scale.T)

    def output(self, job: Job) -> np.ndarray:
        return np.ascontiguousarray(super().output(job).T)


def compile_gemm(config: ChipConfig, spec: GemmSpec, memory_limit: int | None = None, *,
                 memory_latency: int = MEMORY_LATENCY) -> CompiledGemm:
    """Compile `spec` for `config`, in the way that takes the fewest cycles with memory of `memory_latency` cycles.

    Raises
    ------
    CompileError
        The chip cannot do it, it does not fit the chip, or needs more than `memory_limit` bytes of memory.
    TypeError, ValueError
        `memory_latency` is no integer, or negative.
    """
    arguments.chip(config)
    arguments.instance("spec", spec, GemmSpec)
    if memory_limit is not None:
        arguments.integer("memory_limit", memory_limit, 0)
    compiled = _compile(config, spec, arguments.integer("memory_latency", memory_latency, 0))
    if memory_limit is not None and compiled.memory_bytes > memory_limit:
        raise CompileError(f"a {spec.m}x{spec.n}x{spec.k} GEMM needs {compiled.memory_bytes} bytes of memory; "
                           f"the device has {memory_limit}")
    return compiled


@lru_cache(maxsize=64)
def _compile(config: ChipConfig, spec: GemmSpec, memory_latency: int) -> CompiledGemm:
    kind, first = CompiledGemm, CompiledGemm(config, spec, memory_latency=memory_latency)
    transposed = spec.transposed()
    if transposed is not None:
        other = _TransposedGemm(config, transposed, memory_latency=memory_latency)
        if other.tiling.cycles < _WORTH_TRANSPOSING * first.tiling.cycles:
            kind, first, spec = _TransposedGemm, other, transposed
    return fastest(config, chain([first], (kind(config, spec, tiling) for tiling in first.tilings()[1:])),
                   memory_latency)
