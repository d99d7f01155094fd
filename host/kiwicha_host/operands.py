"""Arrays from users: checked, with one line for what is wrong."""

from typing import Any

import ml_dtypes
import numpy as np

from kiwicha import formats
from kiwicha.isa import ScaleRule

from . import arguments
from .arguments import described

__all__ = ["FORMATS", "RULES", "as_operand", "check_inner", "from_codes", "is_real", "as_fp32"]

#: Element formats by name, as numpy types: what their codes mean is those types' business.
FORMATS: dict[str, np.dtype] = {name: np.dtype(dtype) for name, dtype in (
    ("int8", np.int8), ("int4", ml_dtypes.int4), ("e4m3", ml_dtypes.float8_e4m3fn),
    ("e2m1", ml_dtypes.float4_e2m1fn), ("e2m3", ml_dtypes.float6_e2m3fn), ("e3m2", ml_dtypes.float6_e3m2fn))}
#: How a block's scale follows from its largest magnitude: see :func:`kiwicha_host.golden.block.block_scales`.
RULES = tuple(rule.name.lower() for rule in ScaleRule)


def check_shape(name: str, array: np.ndarray) -> None:
    """:exc:`ValueError` unless `array` is a matrix with at least one row and one column."""
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have 2 dimensions of at least 1 each, not shape {list(array.shape)}")


def check_element_type(name: str, array: np.ndarray) -> str:
    """The element format of `array`; :exc:`ValueError` if its type is none."""
    found = next((fmt for fmt, dtype in FORMATS.items() if dtype == array.dtype), None)
    if found is None:
        raise ValueError(f"{name} must be of type {', '.join(map(str, FORMATS.values()))}, not {array.dtype}")
    return found


def as_operand(name: str, array: Any) -> tuple[np.ndarray, str]:
    """`array` as a matrix in one of the element formats, and which."""
    array = arguments.array(name, array)
    fmt = check_element_type(name, array)
    check_shape(name, array)
    return np.ascontiguousarray(array), fmt


def from_codes(name: str, array: np.ndarray, fmt: str) -> np.ndarray:
    """An operand from a file, one element per item: int8 for the integers, uint8 codes for the floats."""
    array = arguments.array(name, array)
    about = formats.FORMATS[arguments.choice("fmt", fmt, FORMATS)]
    stored = np.dtype(np.uint8 if about.is_float else np.int8)
    if array.dtype != stored:
        raise ValueError(f"{name} must be {stored} for format {fmt}, not {array.dtype}")
    check_shape(name, array)
    low = 0 if about.is_float else -(1 << about.bits - 1)
    high = low + (1 << about.bits) - 1
    outside = array[(array < low) | (array > high)]
    if outside.size:
        raise ValueError(f"{name} must be from {low} to {high} for format {fmt}, not {outside.flat[0]}")
    return array.view(FORMATS[fmt]) if about.is_float else array.astype(FORMATS[fmt])


def check_inner(a: np.ndarray, b: np.ndarray) -> None:
    """:exc:`ValueError` unless A [M, K] and B [K, N] have the same K."""
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"A is {a.shape[0]}x{a.shape[1]} and B is {b.shape[0]}x{b.shape[1]}: "
                         "A must have as many columns as B has rows")


def check_codes(name: str, scale: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """E8M0 codes in one of `shapes`."""
    array = arguments.array(name, scale)
    if array.dtype != np.uint8 or array.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{name} must be uint8 {wanted}, not {described(array)}")
    return array


def check_block_scales(shape: tuple[int, int, int], block: int, a_scale: Any,
                       b_scale: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scales of a GEMM of `shape` M, N, K: per row of A, column of B (or square block) and block."""
    m, n, k = shape
    blocks = -(-k // block)
    return (check_codes("a_scale", a_scale, (m, blocks)),
            check_codes("b_scale", b_scale, (blocks, n), (blocks, -(-n // block))))


def check_bias(bias: Any, columns: int, dtype: type) -> np.ndarray:
    """A bias, one per column."""
    array = arguments.array("bias", bias)
    if array.shape != (columns,) or array.dtype != dtype:
        raise ValueError(f"bias must be {np.dtype(dtype)} [{columns}], not {described(array)}")
    return array


def check_scale(name: str, scale: Any, columns: int) -> float | np.ndarray | None:
    """A positive, finite FP32 factor, one or one per column; None for no scaling."""
    if scale is None:
        return None
    array = arguments.array(name, scale)
    if array.dtype.kind not in "fiu" or array.shape not in ((), (columns,)):
        what = described(array) if isinstance(scale, np.ndarray | list | tuple) else described(scale)
        raise ValueError(f"{name} must be a float32 number or [{columns}], not {what}")
    with np.errstate(over="ignore", under="ignore"):
        factors = array.astype(np.float32)
    bad = ~(np.isfinite(factors) & (factors > 0))
    if bad.any():
        raise ValueError(f"{name} must be finite and above 0 as a float32, not {array[bad].flat[0]}")
    return float(factors) if factors.ndim == 0 else factors


def is_real(array: np.ndarray) -> bool:
    """Whether `array` holds real numbers: numpy's, or ml_dtypes' floats and integers."""
    dtype = array.dtype
    return dtype.kind in "fiu" or (dtype.kind == "V" and dtype.names is None and np.can_cast(dtype, np.float64))


def as_fp32(name: str, value: Any) -> np.ndarray:
    """Real numbers rounded to float32; a finite number that this would make infinite is refused."""
    array = arguments.array(name, value)
    if not is_real(array):
        raise ValueError(f"{name} must be real numbers, not {described(array)}")
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    if array.dtype.itemsize > 2:
        beyond = np.isinf(rounded) & np.isfinite(array)
        if beyond.any():
            raise ValueError(f"{name} must be within FP32's range, not {array[beyond].flat[0]}")
    return rounded
