"""Arrays from users: checked, with one line for what is wrong."""

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from kiwicha import ChipConfig, formats

if TYPE_CHECKING:
    from .compiler import GemmSpec

__all__ = ["FORMATS", "as_operand", "check_inner", "from_codes", "gemm_request"]

#: Element formats by name, as numpy types: what their codes mean is those types' business.
FORMATS: dict[str, np.dtype] = {name: np.dtype(dtype) for name, dtype in (
    ("int8", np.int8), ("int4", ml_dtypes.int4), ("e4m3", ml_dtypes.float8_e4m3fn),
    ("e2m1", ml_dtypes.float4_e2m1fn), ("e2m3", ml_dtypes.float6_e2m3fn), ("e3m2", ml_dtypes.float6_e3m2fn))}


def check_shape(operand: str, array: np.ndarray) -> None:
    """:exc:`ValueError` unless `array` is a matrix with at least one row and one column."""
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{operand} must have 2 dimensions of at least 1 each, not shape {list(array.shape)}")


def as_operand(operand: str, array: Any) -> tuple[np.ndarray, str]:
    """`array` as a matrix in one of the element formats, and which."""
    array = np.asarray(array)
    name = next((name for name, dtype in FORMATS.items() if dtype == array.dtype), None)
    if name is None:
        raise ValueError(f"{operand} must be of type {', '.join(map(str, FORMATS.values()))}, not {array.dtype}")
    check_shape(operand, array)
    return np.ascontiguousarray(array), name


def from_codes(operand: str, array: np.ndarray, name: str) -> np.ndarray:
    """An operand from a file, one element per item: int8 for the integers, uint8 codes for the floats."""
    about = formats.FORMATS[name]
    stored = np.dtype(np.uint8 if about.is_float else np.int8)
    if array.dtype != stored:
        raise ValueError(f"{operand} must be {stored} for format {name}, not {array.dtype}")
    check_shape(operand, array)
    low = 0 if about.is_float else -(1 << about.bits - 1)
    high = low + (1 << about.bits) - 1
    outside = array[(array < low) | (array > high)]
    if outside.size:
        raise ValueError(f"{operand} must be from {low} to {high} for format {name}, not {outside.flat[0]}")
    return array.view(FORMATS[name]) if about.is_float else array.astype(FORMATS[name])


def check_block_scales(a: np.ndarray, b: np.ndarray, block: int, a_scale: np.ndarray, b_scale: np.ndarray) -> None:
    """E8M0 codes: one per row of A and block, and per column of B (or per square block) and block."""
    blocks, columns = -(-a.shape[1] // block), b.shape[1]
    for name, scale, shapes in (("A scale", a_scale, [(a.shape[0], blocks)]),
                                ("B scale", b_scale, [(blocks, columns), (blocks, -(-columns // block))])):
        if scale.dtype != np.uint8 or scale.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"{name} must be uint8 {wanted}, not {scale.dtype} {list(scale.shape)}")


def check_bias(bias: Any, columns: int, dtype: type) -> np.ndarray:
    """A bias, one per column."""
    array = np.asarray(bias)
    if array.shape != (columns,) or array.dtype != dtype:
        raise ValueError(f"bias must be {np.dtype(dtype)} [{columns}], not {array.dtype} {list(array.shape)}")
    return array


def check_scale(scale: Any, columns: int) -> float | np.ndarray | None:
    """A positive, finite FP32 factor, one or one per column; None for no scaling."""
    if scale is None:
        return None
    array = np.asarray(scale)
    if array.dtype.kind not in "fiu" or array.shape not in ((), (columns,)):
        raise ValueError(f"output scale must be a float32 number or [{columns}], not {array.dtype} "
                         f"{list(array.shape)}")
    with np.errstate(over="ignore", under="ignore"):
        factors = array.astype(np.float32)
    bad = ~(np.isfinite(factors) & (factors > 0))
    if bad.any():
        raise ValueError(f"output scale must be finite and above 0 as a float32, not {array[bad].flat[0]}")
    return float(factors) if factors.ndim == 0 else factors


def gemm_request(config: ChipConfig, a: Any, b: Any, *, a_scale: Any = None, b_scale: Any = None, block: int = 0,
                 bias: Any = None, out: str | None = None, out_scale: Any = None, out_zero_point: int = 0,
                 relu: bool = False, out_block: int = 0,
                 scale_rule: str = "rceil") -> tuple["GemmSpec", dict[str, np.ndarray]]:
    """All that :meth:`kiwicha_host.Device.gemm` takes, checked: what to compile, and the arrays of a job.

    Raises
    ------
    ValueError
        Something has a wrong shape, type or value, or the chip of `config` cannot do it.
    """
    from .compiler import GemmSpec

    a, a_format = as_operand("A", a)
    b, b_format = as_operand("B", b)
    check_inner(a, b)
    (m, k), n = a.shape, b.shape[1]
    arrays = {"a": a, "b": b}
    if not -128 <= out_zero_point <= 127:
        raise ValueError(f"output zero point must be from -128 to 127, not {out_zero_point}")
    scale = check_scale(out_scale, n)
    if scale_rule not in ("rceil", "floor"):
        raise ValueError(f"scale rule must be rceil or floor, not {scale_rule!r}")
    spec = GemmSpec(m=m, n=n, k=k, a_format=a_format, b_format=b_format, block=int(block),
                    out=out or ("fp32" if block else "int32"), bias=bias is not None, relu=bool(relu),
                    scale="column" if isinstance(scale, np.ndarray) else scale, zero_point=int(out_zero_point),
                    out_block=int(out_block), scale_rule=scale_rule)
    if bias is not None:
        arrays["bias"] = check_bias(bias, n, np.float32 if block else np.int32)
    if isinstance(scale, np.ndarray):
        arrays["scale"] = scale
    if not block and (a_scale is not None or b_scale is not None):
        raise ValueError("block scales need a block of 16, 32, 64 or 128 elements, not 0")
    if block:
        if a_scale is None or b_scale is None:
            raise ValueError(f"a block of {block} elements needs scales of A and of B")
        arrays |= {"a_scale": np.asarray(a_scale), "b_scale": np.asarray(b_scale)}
        check_block_scales(a, b, block, arrays["a_scale"], arrays["b_scale"])
    spec.check(config)
    return spec, arrays


def check_inner(a: np.ndarray, b: np.ndarray) -> None:
    """:exc:`ValueError` unless A [M, K] and B [K, N] have the same K."""
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"A is {a.shape[0]}x{a.shape[1]} and B is {b.shape[0]}x{b.shape[1]}: "
                         "A must have as many columns as B has rows")
