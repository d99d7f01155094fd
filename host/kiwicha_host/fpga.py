"""The way to the ``fpga`` folder of a checkout: boards and bitstreams are not part of the package."""

import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kiwicha import ChipConfig

__all__ = ["board_rows", "synthesise"]


def _module(name: str) -> Any:
    root = Path(__file__).resolve().parents[2]
    if not (root / "fpga" / f"{name}.py").is_file():
        raise RuntimeError("boards need a checkout of the repository with its folder fpga/; "
                           f"there is none at {root}")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"fpga.{name}")


def board_rows() -> list[dict[str, Any]]:
    """One row per board: its name, and all that its description holds in numbers and words."""
    rows = []
    for name, board in _module("boards").BOARDS.items():
        values = {item.name: getattr(board, item.name) for item in dataclasses.fields(board)}
        rows.append({"board": name, **{key: value for key, value in values.items()
                                       if key != "name" and isinstance(value, int | float | str)}})
    return rows


def synthesise(board: str, config: ChipConfig | None, seed: int | None,
               progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """The report of :func:`fpga.build.synthesise`, which see."""
    return _module("build").synthesise(board, config, seed, progress=progress)
