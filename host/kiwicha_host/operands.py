"""Arrays from users: checked, with one line for what is wrong."""

from typing import Any

import ml_dtypes
import numpy as np

from kiwicha import ChipConfig

__all__ = ["FORMATS", "as_operand", "check_bias", "check_format", "check_out", "check_scale", "check_zero_point"]

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
