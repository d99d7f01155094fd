"""Packages that only a part of the software needs: named by extra, and missed in one line."""

import contextlib
from collections.abc import Iterator

__all__ = ["MissingExtra", "extra"]


class MissingExtra(ImportError, RuntimeError):
    """A package that belongs to an extra is not installed; one line that says how to get it."""


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """A block of imports that need ``pip install 'kiwicha[name]'``.

    Parameters
    ----------
    name : str
        One of the extras in pyproject.toml: sim, synth, onnx, llm, train, serial, demo.

    Raises
    ------
    MissingExtra
        One of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("kiwicha", "kiwicha_host", ""):
            raise
        raise MissingExtra(f"{package} is not installed; pip install 'kiwicha[{name}]'", name=package) from None
