"""The way to the ``fpga`` folder of a checkout: boards and bitstreams are not part of the package."""

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

from kiwicha import ChipConfig

__all__ = ["board_rows", "synthesise"]

#: What a board is built with unless it says otherwise.
_DEFAULT_CONFIG = "ulx3s_85f"


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


def synthesise(board: str, config: ChipConfig | None, seed: int | None) -> dict[str, Any]:
    """Build `board`'s bitstream with the chip of `config` (None: the board's default); the report.

    Raises
    ------
    ValueError
        There is no such board.
    """
    known = _module("boards").BOARDS
    if board not in known:
        raise ValueError(f"no board named {board!r}; there are {', '.join(known)}")
    if config is None:
        config = ChipConfig.load(getattr(known[board], "config", _DEFAULT_CONFIG))
    return _module("build").synthesise(board, config, seed)
