"""Arrays from users: checked, with one line for what is wrong."""

from typing import Any

import ml_dtypes
import numpy as np

from kiwicha import ChipConfig

__all__ = ["FORMATS", "as_operand", "check_block_scales", "check_bias", "check_format", "check_gemm",
           "check_inner", "check_out", "check_scale", "check_zero_point", "from_codes"]

#: Element formats by name, as numpy types.
FORMATS: dict[str, np.dtype] = {name: np.dtype(dtype) for name, dtype in (
    ("int8", np.int8), ("int4", ml_dtypes.int4), ("e4m3", ml_dtypes.float8_e4m3fn),
    ("e2m1", ml_dtypes.float4_e2m1fn), ("e2m3", ml_dtypes.float6_e2m3fn), ("e3m2", ml_dtypes.float6_e3m2fn))}

#: Output formats, and whether the epilogue has them.
OUT_FORMATS = {"int32": True, "fp32": True, "bf16": False, "int8": True, "e4m3": False, "e2m1": False}


def check_format(config: ChipConfig, operand: str, name: str) -> None:
    """:exc:`ValueError` if the chip of `config` cannot decode the element format `name`."""
    if name not in config.formats:
        raise ValueError(f"{operand}: format {name} is not in the hardware of configuration {config.name!r} yet; "
                         f"it has {', '.join(config.formats)}")


def check_out(out: str) -> None:
    """:exc:`ValueError` if the epilogue cannot write the format `out`."""
    if not OUT_FORMATS.get(out, False):
        have = ", ".join(name for name, there in OUT_FORMATS.items() if there)
        what = "is not in the hardware yet" if out in OUT_FORMATS else "does not exist"
        raise ValueError(f"output format {out} {what}; use {have}")


def check_shape(operand: str, array: np.ndarray) -> None:
    """:exc:`ValueError` unless `array` is a matrix with at least one row and one column."""
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{operand} must have 2 dimensions of at least 1 each, not shape {list(array.shape)}")


def as_operand(config: ChipConfig, operand: str, array: Any) -> np.ndarray:
    """`array` as the compiler takes it: a matrix in a format that the chip of `config` decodes."""
    array = np.asarray(array)
    name = next((name for name, dtype in FORMATS.items() if dtype == array.dtype), None)
    if name is None:
        raise ValueError(f"{operand} must be of type {', '.join(map(str, FORMATS.values()))}, not {array.dtype}")
    check_shape(operand, array)
    check_format(config, operand, name)
    return np.ascontiguousarray(array)


def from_codes(operand: str, array: np.ndarray, name: str) -> np.ndarray:
    """An operand from a file, one element per item: int8 for the integers, uint8 codes for the floats."""
    stored = np.dtype(np.int8 if name.startswith("int") else np.uint8)
    if array.dtype != stored:
        raise ValueError(f"{operand} must be {stored} for format {name}, not {array.dtype}")
    check_shape(operand, array)
    low, high = {"int4": (-8, 7), "e2m1": (0, 15), "e2m3": (0, 63), "e3m2": (0, 63)}.get(name, (-128, 255))
    outside = array[(array < low) | (array > high)] if (low, high) != (-128, 255) else array[:0]
    if outside.size:
        raise ValueError(f"{operand} must be from {low} to {high} for format {name}, not {outside.flat[0]}")
    return array.astype(FORMATS[name]) if name == "int4" else array.view(FORMATS[name])


def check_block_scales(a: np.ndarray, b: np.ndarray, block: int, a_scale: np.ndarray, b_scale: np.ndarray) -> None:
    """E8M0 codes: one per row of A and block, and per column of B (or per square block) and block."""
    blocks, columns = -(-a.shape[1] // block), b.shape[1]
    for name, scale, shapes in (("A scale", a_scale, [(a.shape[0], blocks)]),
                                ("B scale", b_scale, [(blocks, columns), (blocks, -(-columns // block))])):
        if scale.dtype != np.uint8 or scale.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"{name} must be uint8 {wanted}, not {scale.dtype} {list(scale.shape)}")


def check_bias(bias: Any, columns: int) -> np.ndarray:
    """An int32 bias, one per column."""
    array = np.asarray(bias)
    if array.shape != (columns,) or array.dtype != np.int32:
        raise ValueError(f"bias must be int32 [{columns}], not {array.dtype} {list(array.shape)}")
    return array


def check_scale(scale: Any, columns: int, out: str) -> float | np.ndarray | None:
    """A positive, finite FP32 factor, one or one per column; None for no scaling."""
    check_out(out)
    if scale is None:
        return None
    if out == "int32":
        raise ValueError("an output scale needs output format fp32 or int8, not int32")
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


def check_zero_point(zero_point: int, out: str) -> None:
    """An int8 zero point; other outputs have none."""
    if zero_point and out != "int8":
        raise ValueError(f"an output zero point needs output format int8, not {out}")
    if not -128 <= zero_point <= 127:
        raise ValueError(f"output zero point must be from -128 to 127, not {zero_point}")


def check_gemm(config: ChipConfig, a: Any, b: Any, *, bias: Any = None, out: str = "int32", out_scale: Any = None,
               out_zero_point: int = 0) -> dict[str, Any]:
    """All that :meth:`kiwicha_host.Device.gemm` takes, checked; the arrays as the compiler takes them."""
    a, b = as_operand(config, "A", a), as_operand(config, "B", b)
    check_inner(a, b)
    columns = b.shape[1]
    check_zero_point(out_zero_point, out)
    return {"a": a, "b": b, "bias": None if bias is None else check_bias(bias, columns),
            "scale": check_scale(out_scale, columns, out)}


def check_inner(a: np.ndarray, b: np.ndarray) -> None:
    """:exc:`ValueError` unless A [M, K] and B [K, N] have the same K."""
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"A is {a.shape[0]}x{a.shape[1]} and B is {b.shape[0]}x{b.shape[1]}: "
                         "A must have as many columns as B has rows")
