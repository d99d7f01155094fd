"""The Python interface as pages, from the docstrings: ``make docs`` writes them to ``docs/`` in the build folder.

Usage: ``python docs/api.py [FOLDER]``. Whatever pdoc warns of is an error.
"""

import pkgutil
import sys
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pdoc

from kiwicha_host import toolchain

__all__ = ["build"]

_PACKAGES = ("kiwicha", "kiwicha_host", "fpga")


def _show_all(package: ModuleType) -> None:
    """pdoc takes `__all__` for the list of a package's modules too, and finds no name that is loaded on demand."""
    below = [item for item in pkgutil.iter_modules(package.__path__) if not item.name.startswith("_")]
    if hasattr(package, "__all__"):
        vars(package).update({name: getattr(package, name) for name in package.__all__})
        package.__all__ = list(dict.fromkeys([*package.__all__, *(item.name for item in below)]))
    for item in below:
        if item.ispkg:
            _show_all(import_module(f"{package.__name__}.{item.name}"))


def build(folder: Path) -> None:
    """Write a page for each module to `folder`, and an index."""
    for name in _PACKAGES:
        _show_all(import_module(name))
    pdoc.render.configure(docformat="numpy", show_source=False, footer_text="Kiwicha")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*_PACKAGES, output_directory=folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else toolchain.build_root() / "docs"
    build(target)
    print(target / "index.html")
