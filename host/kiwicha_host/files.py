"""Arrays from and to ``.npy`` files: one line for what is wrong, and files whole or absent."""

import contextlib
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

__all__ = ["FileProblem", "check_folder", "check_writable", "make_folder", "read_array", "replacing",
           "write_array", "write_arrays"]

_MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class FileProblem(ValueError):
    """A file cannot be read or written; the message names it and says why."""


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def read_array(path: Path) -> np.ndarray:
    """The one array in a ``.npy`` file, in this machine's byte order; Python objects are refused."""
    if not path.exists():
        raise FileProblem(f"no such file: {path}")
    if not path.is_file():
        raise FileProblem(f"not a file: {path}")
    try:
        with open(path, "rb") as file:
            start = file.read(len(_MAGIC))
            if start[:4] == b"PK\x03\x04":
                raise FileProblem(f"{path} is an .npz archive; save the one array with numpy.save")
            if start != _MAGIC:
                raise FileProblem(f"{path} is not a .npy file; save the array with numpy.save")
            file.seek(0)
            return _read(path, file)
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {_reason(error)}") from None


def _read(path: Path, file) -> np.ndarray:
    try:
        # A damaged header makes the parser warn before it fails.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = _READERS[npy.read_magic(file)](file)
    except OSError:
        raise
    except Exception:       # whatever a damaged header makes the parser trip over
        raise FileProblem(f"{path} has a damaged header; save the array again with numpy.save") from None
    if dtype.hasobject:
        raise FileProblem(f"{path} holds Python objects; save an array of numbers")
    expected, left = math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size - file.tell()
    if expected != left or min(shape, default=0) < 0:
        raise FileProblem(f"{path} is damaged: shape {list(shape)} needs {expected} bytes, it has {left}")
    array = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


def check_writable(path: Path) -> None:
    """:exc:`FileProblem` if a file cannot be put at `path`: known before hours of work, not after."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise FileProblem(f"cannot write {path}: it is not a file")
    if not path.parent.is_dir():
        raise FileProblem(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FileProblem(f"cannot write {path}: no permission in {path.parent}")


def check_folder(folder: Path, files: Iterable[str] = ()) -> None:
    """:exc:`FileProblem` if `folder` is none and cannot be made, or one of `files` cannot be put into it."""
    folder = folder.resolve()
    if folder.exists():
        if not folder.is_dir():
            raise FileProblem(f"cannot write to {folder}: it is not a folder")
        for name in files:
            check_writable(folder / name)
        return
    there = next(parent for parent in folder.parents if parent.exists())
    if not there.is_dir():
        raise FileProblem(f"cannot make {folder}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileProblem(f"cannot make {folder}: no permission in {there}")


def make_folder(folder: Path) -> None:
    """Make `folder`, and those that it is in, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileProblem(f"cannot write to {folder}: {_reason(error)}") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; what the block writes there takes its place if the block succeeds."""
    check_writable(path)
    path = path.resolve()
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {_reason(error)}") from None
    work = Path(name)
    try:
        yield work
        umask = os.umask(0)
        os.umask(umask)
        work.chmod(0o666 & ~umask)      # mkstemp's files are private
        work.replace(path)
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {_reason(error)}") from None
    finally:
        work.unlink(missing_ok=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """`array` as ``.npy``, at exactly this path."""
    write_arrays({path: array})


def write_arrays(arrays: Mapping[Path, np.ndarray]) -> None:
    """Each array as ``.npy``, at exactly its path; none, if one of them cannot be written."""
    with contextlib.ExitStack() as stack:
        for path, array in arrays.items():
            with open(stack.enter_context(replacing(path)), "wb") as file:
                np.save(file, array, allow_pickle=False)
