"""Arrays and texts to files, whole or not at all, and arrays to streams."""

import contextlib
import io
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from .names import STANDARD, FileProblem, descriptor, is_stdout, is_stream, reason, status

__all__ = ["check_folder", "check_writable", "make_folder", "replacing", "write_array", "write_arrays",
           "write_texts"]


def check_writable(path: Path) -> None:
    """:exc:`FileProblem` if `path` cannot be written: known before hours of work, not after."""
    if path == STANDARD:
        descriptor(1, "standard output")
        _refuse_terminal(1, "standard output")
        return
    found = status(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise FileProblem(f"cannot write {path}: it is a folder")
    if found is not None and not os.access(path, os.W_OK):
        raise FileProblem(f"cannot write {path}: no permission")
    if found is not None and is_stream(path):
        if stat.S_ISSOCK(found.st_mode) or stat.S_ISBLK(found.st_mode):
            raise FileProblem(f"cannot write {path}: it is neither a file nor a pipe")
        if is_stdout(path):
            _refuse_terminal(1, str(path))
        return
    path = _real(path)
    if not path.parent.is_dir():
        raise FileProblem(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FileProblem(f"cannot write {path}: no permission in {path.parent}")


def _refuse_terminal(number: int, name: str) -> None:
    if os.isatty(number):
        raise FileProblem(f"{name} is a terminal, which an array would garble; redirect it, or give a file's name")


def _real(path: Path) -> Path:
    """Where a link leads: the link stays, and what it leads to is replaced."""
    return Path(os.path.realpath(path))


def check_folder(folder: Path, files: Iterable[str] = ()) -> None:
    """:exc:`FileProblem` if `folder` is none and cannot be made, or one of `files` cannot be put into it."""
    found, folder = status(folder), _real(folder)
    if found is not None:
        if not stat.S_ISDIR(found.st_mode):
            raise FileProblem(f"cannot write to {folder}: it is not a folder")
        for name in files:
            if is_stream(folder / name):
                raise FileProblem(f"cannot write {folder / name}: it is not a file")
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
        raise FileProblem(f"cannot write to {folder}: {reason(error)}") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; what the block writes there takes its place if the block succeeds.

    A link stays a link, and a file that is replaced keeps its mode.
    """
    check_writable(path)
    path = _real(path)
    # Short, because a name beside a long one may be too long; and made with the mode that the umask allows.
    work = path.with_name(f".kiwicha-{secrets.token_hex(6)}")
    try:
        os.close(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            if (old := status(path)) is not None:
                work.chmod(stat.S_IMODE(old.st_mode))
            yield work
            work.replace(path)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {reason(error)}") from None


def write_array(path: Path, array: np.ndarray) -> None:
    """`array` as ``.npy``, at exactly this path."""
    write_arrays({path: array})


def write_arrays(arrays: Mapping[Path, np.ndarray]) -> None:
    """Each array as ``.npy``, at exactly its path; no file, if one of them cannot be written."""
    with contextlib.ExitStack() as stack:
        for path in sorted(arrays, key=is_stream):      # a stream cannot be taken back, so it comes last
            if is_stream(path):
                _write_stream(path, arrays[path])
                continue
            with open(stack.enter_context(replacing(path)), "wb") as file:
                _put(file, arrays[path])


def _write_stream(path: Path, array: np.ndarray) -> None:
    check_writable(path)
    name = "standard output" if path == STANDARD else path
    try:
        if is_stdout(path):
            if sys.stdout is None:
                raise FileProblem("standard output is closed")
            sys.stdout.flush()
            _put(sys.stdout.buffer, array)
            sys.stdout.buffer.flush()
            return
        with open(path, "wb") as file:
            _refuse_terminal(file.fileno(), str(path))
            _put(file, array)
    except BrokenPipeError:     # the reader has had enough, which is no error
        raise
    except OSError as error:
        raise FileProblem(f"cannot write {name}: {reason(error)}") from None


def _put(file: BinaryIO, array: np.ndarray) -> None:
    """As :func:`numpy.save`, which says of a full disk only how much it did not write, and wants to seek."""
    about = npy.header_data_from_array_1_0(array)
    header = io.BytesIO()
    npy.write_array_header_1_0(header, about)
    file.write(header.getvalue())
    file.write(np.ascontiguousarray(array.T if about["fortran_order"] else array).data)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Files of `folder` by name, all or none; the folder is made if it is not there."""
    check_folder(folder, texts)
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        for name, text in texts.items():
            stack.enter_context(replacing(folder / name)).write_text(text, encoding="utf-8")
