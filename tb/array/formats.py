"""The element formats as ml_dtypes has them, and chips with any of them, for benches."""

import ml_dtypes
import numpy as np

from kiwicha.config import ChipConfig
from kiwicha.formats import FORMATS

__all__ = ["DTYPES", "chip", "significands"]

DTYPES = {"int8": np.int8, "int4": ml_dtypes.int4, "e4m3": ml_dtypes.float8_e4m3fn,
          "e3m2": ml_dtypes.float6_e3m2fn, "e2m3": ml_dtypes.float6_e2m3fn, "e2m1": ml_dtypes.float4_e2m1fn}


def chip(formats, **fields):
    """A configuration with the named formats."""
    return ChipConfig(formats=tuple(formats), **fields)


def significands(name):
    """The significand of each code of a format, as float64: NaN for NaN, -0 for -0."""
    item = FORMATS[name]
    codes = np.arange(1 << item.bits, dtype=np.uint8)
    values = codes.view(DTYPES[name]).astype(np.float64)
    # Integers are their own significands, whatever exponent a block-scaled product gives them.
    return np.ldexp(values, -item.exponent) if item.is_float else values
