"""One GEMM as users ask for it, and what they get: typed, and checked before anything is compiled."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from kiwicha import ChipConfig

from . import arguments
from .compiler import GemmSpec
from .job import Result
from .operands import as_operand, check_bias, check_block_scales, check_inner, check_scale

__all__ = ["BlockScaled", "GemmOptions", "GemmRequest", "GemmResult"]


class BlockScaled(NamedTuple):
    """A matrix of narrow elements whose blocks have a scale each.

    Attributes
    ----------
    elements : numpy or ml_dtypes [R, C]
    scales : uint8, E8M0 codes
    """
    elements: np.ndarray
    scales: np.ndarray


class GemmOptions(TypedDict, total=False):
    """What :meth:`kiwicha_host.Device.gemm` takes besides operands and output format; see :class:`GemmRequest`."""
    a_scale: ArrayLike | None
    b_scale: ArrayLike | None
    block: int
    bias: ArrayLike | None
    out_scale: ArrayLike | None
    out_zero_point: int
    relu: bool
    out_block: int
    scale_rule: str


@dataclass(frozen=True, eq=False)
class GemmRequest:
    """C [M, N] = epilogue(A [M, K] . B [K, N]).

    Parameters
    ----------
    a, b : numpy or ml_dtypes arrays, whose types name the element formats
    a_scale : uint8 E8M0 codes [M, ceil(K / block)]
    b_scale : uint8 E8M0 codes [ceil(K / block), N], or [ceil(K / block), ceil(N / block)] for square blocks
    block : elements along K that share a scale, 16, 32, 64 or 128; 0 for an integer GEMM
    bias : [N], int32 or, block-scaled, float32
    out : "int32", "fp32", "bf16", "int8", "e4m3", "e2m1" or "mxint8"; default int32 or, block-scaled, fp32
    out_scale : FP32 scalar or [N]; not for int32
    out_zero_point : for int8
    relu : negative results (before the zero point) become zero
    out_block, scale_rule : columns that share a scale of the output, 32 or 128, and "rceil" or "floor", how it
        follows from them; for e4m3, e2m1 and mxint8

    Attributes
    ----------
    spec : GemmSpec
        What is to be compiled: all of it but the arrays.

    Raises
    ------
    TypeError
        An argument is of a wrong kind; the message names it and its value.
    ValueError
        An argument has a wrong shape, type of elements, or value, or does not go with another.
    """
    a: np.ndarray
    b: np.ndarray
    a_scale: np.ndarray | None = None
    b_scale: np.ndarray | None = None
    block: int = 0
    bias: np.ndarray | None = None
    out: str | None = None
    out_scale: float | np.ndarray | None = None
    out_zero_point: int = 0
    relu: bool = False
    out_block: int = 0
    scale_rule: str = "rceil"
    spec: GemmSpec = field(init=False, repr=False)

    def __post_init__(self) -> None:
        a, a_format = as_operand("A", self.a)
        b, b_format = as_operand("B", self.b)
        check_inner(a, b)
        (m, k), n = a.shape, b.shape[1]
        block = arguments.integer("block", self.block)
        zero_point = arguments.integer("out_zero_point", self.out_zero_point, -128, 127)
        out_scale = check_scale("out_scale", self.out_scale, n)
        spec = GemmSpec(m=m, n=n, k=k, a_format=a_format, b_format=b_format, block=block,
                        out=("fp32" if block else "int32") if self.out is None else self.out,
                        bias=self.bias is not None, relu=self.relu,
                        scale="column" if isinstance(out_scale, np.ndarray) else out_scale, zero_point=zero_point,
                        out_block=self.out_block, scale_rule=self.scale_rule)
        kept: dict[str, Any] = {"a": a, "b": b, "block": block, "out": spec.out, "out_scale": out_scale,
                                "out_zero_point": zero_point, "relu": spec.relu, "out_block": spec.out_block,
                                "spec": spec}
        if self.bias is not None:
            kept["bias"] = check_bias(self.bias, n, np.float32 if block else np.int32)
        kept |= self._checked_scales(spec)
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def _checked_scales(self, spec: GemmSpec) -> dict[str, np.ndarray]:
        given = self.a_scale is not None, self.b_scale is not None
        if not spec.block:
            if any(given):
                raise ValueError("block scales need a block of 16, 32, 64 or 128 elements, not 0")
            return {}
        if not all(given):
            raise ValueError(f"a block of {spec.block} elements needs scales of A and of B: a_scale and b_scale")
        a_scale, b_scale = check_block_scales((spec.m, spec.n, spec.k), spec.block, self.a_scale, self.b_scale)
        return {"a_scale": a_scale, "b_scale": b_scale}

    def check(self, config: ChipConfig) -> None:
        """:exc:`CompileError` if the chip of `config` cannot do it at all."""
        self.spec.check(config)

    def arrays(self) -> dict[str, np.ndarray]:
        """What :meth:`kiwicha_host.compiler.CompiledGemm.job` takes."""
        given = {"a": self.a, "b": self.b, "bias": self.bias, "a_scale": self.a_scale, "b_scale": self.b_scale,
                 "scale": self.out_scale if isinstance(self.out_scale, np.ndarray) else None}
        return {name: array for name, array in given.items() if array is not None}


@dataclass(frozen=True, eq=False)
class GemmResult:
    """What a GEMM gave, and how its program ran.

    Parameters
    ----------
    c : int32, float32, int8 or ml_dtypes [M, N]
    c_scale : uint8 E8M0 codes [M, ceil(N / out_block)], for e4m3, e2m1 and mxint8; None for all others
    run : Result
    """
    c: np.ndarray
    c_scale: np.ndarray | None
    run: Result

    @property
    def value(self) -> np.ndarray | BlockScaled:
        """C, with its scales if it has any."""
        return self.c if self.c_scale is None else BlockScaled(self.c, self.c_scale)

    @property
    def codes(self) -> np.ndarray:
        """C as numpy's files can hold it: types that these do not know as unsigned codes."""
        return self.c if self.c.dtype.isbuiltin == 1 else self.c.view(f"u{self.c.dtype.itemsize}")
