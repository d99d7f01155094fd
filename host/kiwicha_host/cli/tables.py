"""What the command line prints on standard output: tables for people, JSON for scripts."""

import json
import sys
from typing import Any

__all__ = ["print_json", "show_figures", "show_rows"]


def show_rows(title: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """`rows`, all with the same keys, as a table; or as JSON under `title`."""
    if as_json:
        print_json({title: rows})
        return
    from rich.table import Table
    table = Table()
    for column in rows[0] if rows else ():
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    _print_table(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object, without NaN and infinities."""
    print(json.dumps(value, indent=2, allow_nan=False))


def _print_table(table) -> None:
    from rich.console import Console
    # In a pipe nobody has a width; in a terminal its own.
    width = None if sys.stdout.isatty() else 120
    Console(file=sys.stdout, markup=False, highlight=False, width=width).print(table)


def show_figures(figures: dict[str, Any], as_json: bool) -> None:
    """A run's figures (:mod:`kiwicha_host.metrics`): one table, and one each for layers and counters."""
    if as_json:
        print_json(figures)
        return
    from rich.table import Table
    table = Table(show_header=False)
    for name, value in figures.items():
        if not isinstance(value, dict | list):
            table.add_row(name.replace("_", " "), _cell(value))
    _print_table(table)
    if figures.get("layers"):
        show_rows("layers", figures["layers"], False)
    if figures["counters"]:
        show_rows("counters", [{"unit": unit, **{name: f"{count / max(1, sum(row.values())):.1%}"
                                                  for name, count in row.items()}}
                                for unit, row in figures["counters"].items()], False)
