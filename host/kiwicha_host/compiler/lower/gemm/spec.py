"""What a GEMM computes, whatever chip it runs on."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.formats import BLOCKS, FORMATS
from kiwicha.isa import OutFormat

from .... import arguments
from ....operands import FORMATS as TYPES
from ....operands import RULES, check_bias, check_block_scales, check_scale
from ...errors import CompileError
from .shape import Shape

__all__ = ["GemmSpec"]

#: Output formats: the epilogue's name, bits of an element, and what it is in numpy (codes for the narrow floats).
_OUT = {"int32": (OutFormat.INT32, 32, np.int32), "fp32": (OutFormat.FP32, 32, np.float32),
        "bf16": (OutFormat.BF16, 16, np.uint16), "int8": (OutFormat.INT8, 8, np.int8),
        "e4m3": (OutFormat.E4M3, 8, np.uint8), "e2m1": (OutFormat.E2M1, 4, np.uint8),
        "mxint8": (OutFormat.MXINT8, 8, np.int8)}
#: Those with dynamic scales, and the format of their elements.
_DYNAMIC_SCALE = {"e4m3": "e4m3", "e2m1": "e2m1", "mxint8": "int8"}


@dataclass(frozen=True, kw_only=True)
class GemmSpec:
    """What to compute: shapes, formats, and what the epilogue does.

    `block` elements along K share a scale; 0 is an integer GEMM. `scale` is None, a number (for all columns) or
    "column" (FP32 [N], given with the arrays); `bias` says that [N] is given with the arrays, int32 or, with
    blocks, FP32. With `relu`, results below zero (before the zero point) become zero. `out_block` columns of an
    e4m3, e2m1 or mxint8 output share a dynamic scale by `scale_rule`, "rceil" or "floor".

    Raises
    ------
    TypeError
        A value is of a wrong kind.
    CompileError
        A value is out of its range, or does not go with another.
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
        self._check_kinds()
        for name in ("a_format", "b_format"):
            fmt = arguments.choice(name, getattr(self, name), FORMATS, CompileError)
            if FORMATS[fmt].is_float and not self.block:
                raise CompileError(f"format {fmt} needs a scale block of {', '.join(map(str, BLOCKS))} elements")
        if self.block and self.block not in BLOCKS:
            raise CompileError(f"block must be 0 or one of {', '.join(map(str, BLOCKS))}, not {self.block}")
        self._check_out()

    def _check_kinds(self) -> None:
        """Numbers are plain numbers, whatever came."""
        kept: dict[str, Any] = {name: arguments.integer(name, getattr(self, name), 1, error=CompileError)
                                for name in ("m", "n", "k")}
        kept |= {name: arguments.integer(name, getattr(self, name)) for name in ("block", "out_block")}
        kept |= {name: arguments.boolean(name, getattr(self, name)) for name in ("bias", "relu")}
        kept["zero_point"] = arguments.integer("zero_point", self.zero_point, -128, 127, CompileError)
        if isinstance(self.scale, str):
            arguments.choice("scale", self.scale, ["column"], CompileError)
        elif self.scale is not None:
            kept["scale"] = arguments.number("scale", self.scale, positive=True)
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def _check_out(self) -> None:
        arguments.choice("out", self.out, _OUT, CompileError)
        arguments.choice("scale_rule", self.scale_rule, RULES, CompileError)
        if self.out == "int32" and self.block:
            raise CompileError("a block-scaled GEMM has no int32 output; use fp32")
        if self.out == "int32" and self.scale is not None:
            raise CompileError("an int32 output takes no scale; use fp32 or int8")
        if self.zero_point and self.out != "int8":
            raise CompileError(f"a zero point is for int8 outputs, not {self.out}")
        if self.element_format:
            if self.out_block not in (32, 128):
                raise CompileError(f"an {self.out} output needs a scale block of 32 or 128 columns, "
                                   f"not {self.out_block}")
            if self.bias or self.scale == "column":
                raise CompileError(f"an {self.out} output takes no bias and no factor per column; "
                                   "use bf16 or fp32")
            return
        if self.out_block:
            raise CompileError(f"an output of {self.out} has no scale blocks")
        if self.scale_rule != RULES[0]:
            raise CompileError(f"a scale rule is for {', '.join(_DYNAMIC_SCALE)} outputs, not {self.out}")

    @property
    def out_format(self) -> OutFormat:
        return _OUT[self.out][0]

    @property
    def out_bits(self) -> int:
        """Bits of an element of the output."""
        return _OUT[self.out][1]

    @property
    def element_format(self) -> str | None:
        """The format of the output's elements, if they have dynamic scales."""
        return _DYNAMIC_SCALE.get(self.out)

    @property
    def dtype(self) -> type:
        return _OUT[self.out][2]

    def shape(self, config: ChipConfig) -> Shape:
        """This GEMM on the chip of `config`."""
        return Shape(config=config, m=self.m, n=self.n, k=self.k, block=self.block,
                     a_per_byte=FORMATS[self.a_format].per_byte, b_per_byte=FORMATS[self.b_format].per_byte,
                     element_bits=self.out_bits, out_block=self.out_block)

    def check(self, config: ChipConfig) -> None:
        """:exc:`CompileError` if the chip of `config` cannot do it at all."""
        arguments.chip(config)
        for name in (self.a_format, self.b_format):
            if name not in config.formats:
                raise CompileError(f"format {name} is not in the hardware of configuration {config.name!r}; "
                                   f"it has {', '.join(config.formats)}")
        if not config.block_scaled and (self.block or self.out in ("bf16", *_DYNAMIC_SCALE)):
            raise CompileError(f"configuration {config.name!r} has no block scaling: it has only the formats "
                               f"{', '.join(config.formats)}, and not block_scales")
        if self.block and self.block < config.rows:
            raise CompileError(f"block must be at least the array's {config.rows} rows, not {self.block}")
        if self.out_block and (config.columns & (config.columns - 1) or self.out_block < config.columns):
            raise CompileError(f"an output block of {self.out_block} needs columns that divide it, "
                               f"not {config.columns}")
        if self.out in ("e4m3", "e2m1") and not config.has_float_results:
            raise CompileError(f"configuration {config.name!r} makes no {self.out}, for it has no floating-point "
                               "format; use mxint8")
        if self.out == "mxint8" and not config.has_mxint8_results:
            raise CompileError(f"configuration {config.name!r} makes no mxint8, for it has no format int8; "
                               "use e4m3 or e2m1")

    def check_arrays(self, a: Any, b: Any, bias: Any = None, scale: Any = None, a_scale: Any = None,
                     b_scale: Any = None) -> None:
        """:exc:`TypeError` or :exc:`ValueError` unless these are the arrays of such a GEMM."""
        for name, value, fmt, shape in (("a", a, self.a_format, (self.m, self.k)),
                                        ("b", b, self.b_format, (self.k, self.n))):
            array = arguments.array(name, value)
            if array.dtype != TYPES[fmt] or array.shape != shape:
                raise ValueError(f"{name} must be {TYPES[fmt]} {list(shape)}, not {arguments.described(array)}")
        for name, value, wanted in (("bias", bias, self.bias), ("scale", scale, self.scale == "column"),
                                    ("a_scale", a_scale, self.block), ("b_scale", b_scale, self.block)):
            if value is not None:
                arguments.array(name, value)
            if (value is not None) != bool(wanted):
                raise ValueError(f"this GEMM {'needs' if wanted else 'takes no'} {name}, "
                                 f"not {arguments.described(value)}")
        if bias is not None:
            check_bias(bias, self.n, np.float32 if self.block else np.int32)
        check_scale("scale", scale, self.n)
        if self.block:
            check_block_scales((self.m, self.n, self.k), self.block, a_scale, b_scale)

    def transposed(self) -> "GemmSpec | None":
        """C^T = B^T . A^T; None if the epilogue would need parameters per row of it."""
        if self.bias or self.scale == "column" or self.out_block:
            return None
        return replace(self, m=self.n, n=self.m, a_format=self.b_format, b_format=self.a_format)
