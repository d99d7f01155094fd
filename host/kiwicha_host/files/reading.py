"""Arrays, models and texts from files and streams."""

import contextlib
import math
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from .names import STANDARD, FileProblem, is_stream, reason, status

__all__ = ["read_array", "read_lines", "read_model"]

_MAGIC = b"\x93NUMPY"
_READERS = {b"\x01\x00": npy.read_array_header_1_0, b"\x02\x00": npy.read_array_header_2_0}
_PIECE = 1 << 20
#: Protocol buffers, and so ONNX files, hold no more.
_MODEL_LIMIT = 1 << 31


def _shown(path: Path) -> str:
    return "standard input" if path == STANDARD else str(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """`path` open for reading; whatever the system refuses is a :exc:`FileProblem`."""
    name = _shown(path)
    try:
        if path == STANDARD:
            if sys.stdin is None:
                raise FileProblem("standard input is closed")
            file: BinaryIO = sys.stdin.buffer
        else:
            found = status(path)
            if found is None:
                raise FileProblem(f"no such file: {path}")
            if stat.S_ISDIR(found.st_mode):
                raise FileProblem(f"not a file: {path}")
            file = open(path, "rb")  # noqa: SIM115 (closed below; standard input stays open)
        try:
            if file.isatty():
                raise FileProblem(f"{name} is a terminal; send a file there, or give its name")
            yield file
        finally:
            if path != STANDARD:
                file.close()
    except OSError as error:
        raise FileProblem(f"cannot read {name}: {reason(error)}") from None


def _read_up_to(file: BinaryIO, limit: int) -> bytearray:
    """What is left of `file`, or its next `limit` bytes: a header may promise more memory than there is."""
    data = bytearray()
    while len(data) < limit and (piece := file.read(min(_PIECE, limit - len(data)))):
        data += piece
    return data


def read_array(path: Path) -> np.ndarray:
    """The one array in a ``.npy`` file or stream, in this machine's byte order; Python objects are refused."""
    name = _shown(path)
    with _reading(path) as file:
        start = file.read(len(_MAGIC))
        if start[:4] == b"PK\x03\x04":
            raise FileProblem(f"{name} is an .npz archive; save the one array with numpy.save")
        if start != _MAGIC:
            raise FileProblem(f"{name} is not a .npy file; save the array with numpy.save")
        return _read(name, file)


def _read(name: str, file: BinaryIO) -> np.ndarray:
    try:
        # A damaged header makes the parser warn before it fails.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = _READERS[file.read(2)](file)
    except OSError:
        raise
    except Exception:       # whatever a damaged header makes the parser trip over
        raise FileProblem(f"{name} has a damaged header; save the array again with numpy.save") from None
    if dtype.hasobject:
        raise FileProblem(f"{name} holds Python objects; save an array of numbers")
    expected = math.prod(shape) * dtype.itemsize
    data = _read_up_to(file, max(0, expected) + 1)
    if expected != len(data) or min(shape, default=0) < 0:
        has = "more" if len(data) > expected >= 0 else len(data)
        raise FileProblem(f"{name} is damaged: shape {list(shape)} needs {expected} bytes, it has {has}")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


def read_lines(path: Path) -> list[str]:
    """The lines of a text in UTF-8, without their ends; the last needs none."""
    with _reading(path) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileProblem(f"{_shown(path)} is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_model(path: Path) -> Path | bytes:
    """What to give the compiler: `path` itself, beside which a model may have more files, or a stream's bytes."""
    if not is_stream(path):
        with _reading(path):
            return path
    with _reading(path) as file:
        data = _read_up_to(file, _MODEL_LIMIT)
    if len(data) == _MODEL_LIMIT:
        raise FileProblem(f"{_shown(path)} is no ONNX model: it has more than 2 GiB")
    return bytes(data)
