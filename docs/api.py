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

__all__ = ["LEFT_OUT", "build"]

_PACKAGES = ("kiwicha", "kiwicha_host", "fpga")
#: Modules that need PyTorch, which `make setup` does not install.
LEFT_OUT = ("kiwicha_host.language.deepseek.torch_model", "kiwicha_host.language.deepseek.train")


def _show_all(package: ModuleType) -> None:
    """pdoc takes `__all__` for the list of a package's modules too, and finds no name that is loaded on demand."""
    modules = [item for item in pkgutil.iter_modules(package.__path__) if not item.name.startswith("_")]
    below = [item for item in modules if f"{package.__name__}.{item.name}" not in LEFT_OUT]
    if hasattr(package, "__all__") or below != modules:
        shown = getattr(package, "__all__", [])
        vars(package).update({name: getattr(package, name) for name in shown})
        package.__all__ = list(dict.fromkeys([*shown, *(item.name for item in below)]))
    for item in below:
        if item.ispkg:
            _show_all(import_module(f"{package.__name__}.{item.name}"))


def build(folder: Path) -> None:
    """Write a page for each module but :data:`LEFT_OUT` to `folder`, and an index."""
    for name in _PACKAGES:
        _show_all(import_module(name))
    pdoc.render.configure(docformat="numpy", show_source=False, footer_text="Kiwicha")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*_PACKAGES, *(f"!{name}" for name in LEFT_OUT), output_directory=folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else toolchain.build_root() / "docs"
    build(target)
    print(target / "index.html")
