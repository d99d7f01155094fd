"""Arguments of public functions: checked, with one line that names the argument and its value.

A wrong kind of thing is a :exc:`TypeError`, a wrong value a :exc:`ValueError`. Numpy's scalars are as good as
Python's own; booleans are no numbers here, and numbers no booleans.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kiwicha.config import ChipConfig, shown

__all__ = ["array", "boolean", "choice", "chip", "described", "instance", "integer", "number", "path", "shown"]

_T = TypeVar("_T")


def integer(name: str, value: Any, low: int | None = None, high: int | None = None,
            error: type[ValueError] = ValueError) -> int:
    """`value` as an int from `low` to `high`, where these are given."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    number = int(value)
    if high is not None and low is not None and not low <= number <= high:
        raise error(f"{name} must be from {low} to {high}, not {shown(number)}")
    if low is not None and number < low:
        raise error(f"{name} must be at least {low}, not {shown(number)}")
    return number


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a finite float; above zero if `positive`, or else not below."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} must be finite and {'above' if positive else 'at least'} 0, not {shown(value)}")
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """`value` as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def choice(name: str, value: Any, choices: Iterable[str], error: type[ValueError] = ValueError) -> str:
    """`value`, one of the strings `choices`."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {shown(value)}")
    choices = list(choices)
    if value not in choices:
        raise error(f"{name} must be one of {', '.join(choices)}, not {shown(value)}")
    return value


def instance(name: str, value: _T, kind: type) -> _T:
    """`value`, an instance of the class `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {shown(value)}")
    return value


def chip(value: Any) -> ChipConfig:
    """The argument `config`."""
    if not isinstance(value, ChipConfig):
        raise TypeError(f"config must be a ChipConfig, not {shown(value)}; ChipConfig.load makes one from a name")
    return value


def path(name: str, value: Any) -> Path:
    """`value` as a path."""
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} must be a path, not {shown(value)}")
    return Path(value)


def array(name: str, value: Any) -> np.ndarray:
    """`value` as a plain array; a mask is refused, since nothing here would heed it."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, not {described(value)} with one; "
                        "numpy.ma.filled gives its masked items a value")
    try:
        result = np.asarray(value)
    except ValueError:      # rows of different lengths
        raise ValueError(f"{name} must be an array, not {shown(value)}") from None
    if result.dtype == object:
        raise TypeError(f"{name} must be an array of numbers, not {shown(value)}")
    return result


def described(value: Any) -> str:
    """What a message says of an array: its type and shape; of anything else itself."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return shown(value)
