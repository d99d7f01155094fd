"""The folder for everything generated: where it is, and how its parts are made once and then shared."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["BuildFolderError", "build_folder", "build_root", "cached", "content_hash", "locked", "writable"]

_LOCK, _PARTIAL = ".lock", ".partial"


class BuildFolderError(RuntimeError):
    """The build folder cannot be written to; the message is one line that says why and what to do."""


def build_root() -> Path:
    """The folder for everything generated: ``KIWICHA_BUILD``, or ``build`` in a checkout.

    An installed package has no checkout around it and uses the user's cache folder.
    """
    if override := os.environ.get("KIWICHA_BUILD"):
        return Path(override).resolve()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "rtl").is_dir():
        return checkout / "build"
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "kiwicha"
    try:
        return Path.home() / ".cache" / "kiwicha"
    except RuntimeError:
        raise BuildFolderError("there is no home folder to build in; set KIWICHA_BUILD to a folder that you can "
                               "write to") from None


def writable(path: Path) -> bool:
    """Whether `path` is a folder that can be written to, or can be made."""
    while not os.path.exists(path):
        path = path.parent
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What keeps this block from writing to `path` is said together with the remedy."""
    try:
        yield
    except OSError as error:
        raise BuildFolderError(f"cannot write to {path}: {error.strerror}; set KIWICHA_BUILD to a folder that you "
                               "can write to") from None


def build_folder(*parts: str) -> Path:
    """A folder below :func:`build_root` to write to, made if it is not there.

    Raises
    ------
    BuildFolderError
        It cannot be made or written to.
    """
    path = build_root().joinpath(*parts)
    with _explained(path):
        path.mkdir(parents=True, exist_ok=True)
        if not writable(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return path


def content_hash(*parts: Any) -> str:
    """16 hexadecimal digits that name *parts*: text, bytes, the contents of a Path, or JSON values."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            part = part.read_bytes()
        elif not isinstance(part, str | bytes):
            part = json.dumps(part, sort_keys=True)
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file *path*; other processes wait. The file stays, empty.

    Raises
    ------
    BuildFolderError
        It cannot be made.
    """
    with contextlib.ExitStack() as stack:
        with _explained(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "w", encoding="utf-8"))
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(target: Path, make: Callable[[Path], None]) -> Path:
    """*target*, a folder that ``make(work)`` fills under another name if it is not there yet.

    So *target* is always whole, and one that is there needs no lock: it may be somebody else's, and read-only.
    What a killed build left behind here is cleared away by the next one.

    Raises
    ------
    BuildFolderError
        It is not there, and nothing can be written to its parent.
    """
    if os.path.isdir(target):
        return target
    with locked(target.with_name(target.name + _LOCK)):
        if not target.is_dir():
            _sweep(target.parent)
            work = target.with_name(target.name + _PARTIAL)
            shutil.rmtree(work, ignore_errors=True)
            with _explained(target.parent):
                work.mkdir()
            try:
                make(work)
                work.rename(target)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return target


def _sweep(parent: Path) -> None:
    """Remove the unfinished folders in `parent` whose makers have gone, as their free locks tell."""
    for work in parent.glob(f"*{_PARTIAL}"):
        lock = work.with_name(work.name.removesuffix(_PARTIAL) + _LOCK)
        with contextlib.suppress(OSError), open(lock, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work, ignore_errors=True)
