"""What a file's name stands for."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

__all__ = ["FileProblem", "STANDARD", "check_inputs", "descriptor", "is_stdout", "is_stream", "reason", "status"]

#: Standard input, or standard output.
STANDARD = Path("-")
#: Names of open descriptors: what they lead to has no other name, or not the right one.
_DESCRIPTORS = ("/dev/std", "/dev/fd/", "/proc/")


class FileProblem(ValueError):
    """A file cannot be read or written; the message names it and says why."""


def reason(error: OSError) -> str:
    """What the system says, without a number."""
    return error.strerror or str(error) or type(error).__name__


def status(path: Path) -> os.stat_result | None:
    """What is at `path`; None if nothing is."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise FileProblem(f"cannot use {path}: {reason(error)}") from None


def descriptor(number: int, name: str) -> os.stat_result:
    """What is open as `number`."""
    try:
        return os.fstat(number)
    except OSError:
        raise FileProblem(f"{name} is closed") from None


def _names_descriptor(path: Path) -> bool:
    return path == STANDARD or os.path.abspath(path).startswith(_DESCRIPTORS)


def is_stream(path: Path) -> bool:
    """Whether `path` is read and written as it is, and not by its name."""
    if _names_descriptor(path):
        return True
    found = status(path)
    return found is not None and not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode)


def is_stdout(path: Path) -> bool:
    """Whether `path` is what standard output writes to."""
    if path == STANDARD:
        return True
    found = status(path)
    try:
        same = found is not None and os.path.samestat(found, os.fstat(1))
    except OSError:     # it is closed
        return False
    # A device is not one place: two may write to /dev/null.
    return same and (_names_descriptor(path) or not stat.S_ISCHR(os.fstat(1).st_mode))


def check_inputs(paths: Iterable[Path]) -> None:
    """:exc:`FileProblem` if one stream is to be read twice: the second time it would be empty."""
    seen: dict[tuple[int, int], bool] = {}
    for path in paths:
        found = descriptor(0, "standard input") if path == STANDARD else status(path)
        if found is None:
            continue
        key, stream = (found.st_dev, found.st_ino), is_stream(path)
        if key in seen and (stream or seen[key]):
            name = "standard input" if path == STANDARD else path
            raise FileProblem(f"{name} is given twice, but can be read only once; save it to a file first")
        seen[key] = stream or seen.get(key, False)
