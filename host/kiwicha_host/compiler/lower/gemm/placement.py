"""Where everything of a GEMM is, in memory and in the scratchpad: all that its program is made from."""

from dataclasses import dataclass

from kiwicha import ChipConfig
from kiwicha.isa import ScaleMode

from ...program.memory_map import MemoryMap, Region, ScratchpadMap, column_parameters
from .shape import Shape
from .spec import GemmSpec
from .tiling import Tiling

__all__ = ["Placement", "ScratchpadPlan"]


@dataclass(frozen=True)
class ScratchpadPlan:
    """What there is room for in the scratchpad, whatever the tiles.

    Attributes
    ----------
    shape : Shape
    where : ScratchpadMap
    scale_mode : ScaleMode
        Where the epilogue's factor comes from.
    param_lines : int
        Lines of the epilogue's parameters for a column block.
    most_n : int
        Column blocks of the widest tile.
    """
    shape: Shape
    where: ScratchpadMap
    scale_mode: ScaleMode
    param_lines: int
    most_n: int

    @classmethod
    def of(cls, config: ChipConfig, spec: GemmSpec) -> "ScratchpadPlan":
        """With room for the parameters of two column tiles: at least a block each, at most a share of all."""
        shape = spec.shape(config)
        scale_mode = (ScaleMode.NONE if spec.scale is None else
                      ScaleMode.COLUMN if spec.scale == "column" else ScaleMode.SCALAR)
        param_lines = column_parameters(config, spec.bias, scale_mode == ScaleMode.COLUMN)
        most_n = shape.n_blocks
        if param_lines:
            most_n = max(1, min(most_n, config.scratchpad_lines // 32 // param_lines))
        return cls(shape, ScratchpadMap.of(config, 2 * most_n * param_lines, bool(spec.block)), scale_mode,
                   param_lines, most_n)


@dataclass(frozen=True)
class Placement:
    """A GEMM on a chip: what it computes, its tiles, and where its operands and results are.

    Regions of memory are in bytes, those of the scratchpad in lines.
    """
    config: ChipConfig
    spec: GemmSpec
    tiling: Tiling
    plan: ScratchpadPlan
    a: Region
    b: Region
    a_scale: Region
    b_scale: Region
    params: Region
    c: Region
    c_scale: Region

    @classmethod
    def of(cls, config: ChipConfig, spec: GemmSpec, tiling: Tiling, plan: ScratchpadPlan,
           memory: MemoryMap) -> "Placement":
        """Everything in `memory`, one after the other."""
        shape, blocks = plan.shape, plan.shape.scale_blocks
        return cls(config, spec, tiling, plan,
                   a=memory.region(spec.m * shape.a_row_bytes), b=memory.region(shape.b_rows * shape.b_row_bytes),
                   a_scale=memory.region(blocks * spec.m), b_scale=memory.region(blocks * spec.n),
                   params=memory.region(shape.n_blocks * plan.param_lines * config.line_bytes),
                   c=memory.region(spec.m * shape.c_row_bytes), c_scale=memory.region(spec.m * shape.out_blocks))

    @property
    def shape(self) -> Shape:
        return self.plan.shape

    @property
    def param_lines(self) -> int:
        return self.plan.param_lines

    @property
    def scale_mode(self) -> ScaleMode:
        return self.plan.scale_mode

    # First scratchpad lines of what a slot holds.

    def a_line(self, index: int) -> int:
        return _slot(self.plan.where.a, self.shape.a_lines(self.tiling.m, self.tiling.k), index)

    def a_scale_line(self, index: int) -> int:
        return _slot(self.plan.where.scales, self.shape.a_scale_lines(self.tiling.m, self.tiling.k), index)

    def w_line(self, index: int) -> int:
        return _slot(self.plan.where.w, self.shape.w_lines(self.tiling.n, self.tiling.k), index)

    def param_line(self, index: int) -> int:
        return _slot(self.plan.where.params, self.plan.where.params.size // 2, index)

    def accumulator_line(self, half: int) -> int:
        """First line of a half of the accumulators."""
        return half * (self.config.accumulator_lines // 2)


def _slot(region: Region, size: int, index: int) -> int:
    """First line of slot `index` of `size` lines in `region`."""
    return region.base + index * size
