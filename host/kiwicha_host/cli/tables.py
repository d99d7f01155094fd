"""What the command line prints on standard output: tables for people, JSON for scripts."""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from ..files import FileProblem

__all__ = ["print_json", "show_figures", "show_line", "show_rows", "show_text", "standard_output"]


@contextlib.contextmanager
def standard_output() -> Iterator[None]:
    """What the block prints has arrived when it ends; :exc:`FileProblem` says why it could not."""
    if sys.stdout is None:
        raise FileProblem("standard output is closed")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:     # the reader has had enough, which is no error
        raise
    except OSError as error:
        raise FileProblem(f"cannot write standard output: {error.strerror or error}") from None


def show_line(text: str) -> None:
    """One line on standard output."""
    with standard_output():
        print(text)


def show_text(text: str) -> None:
    """A piece of text on standard output, at once."""
    with standard_output():
        print(text, end="", flush=True)


def show_rows(title: str, rows: list[dict[str, Any]], as_json: bool, file: TextIO | None = None) -> None:
    """`rows`, all with the same keys, as a table, to `file` if it is given; or as JSON under `title`."""
    if as_json:
        print_json({title: rows})
        return
    from rich.table import Table
    table = Table()
    for column in rows[0] if rows else ():
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    _print_table(table, file)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def print_json(value: dict[str, Any] | list[dict[str, Any]]) -> None:
    """One JSON object, or a list of them, without NaN and infinities."""
    show_line(json.dumps(value, indent=2, allow_nan=False))


def _print_table(table, file: TextIO | None) -> None:
    from rich.console import Console
    with standard_output():
        file = file or sys.stdout
        # In a pipe nobody has a width; in a terminal its own.
        width = None if file.isatty() else 120
        Console(file=file, markup=False, highlight=False, width=width).print(table)


def show_figures(figures: dict[str, Any], as_json: bool, file: TextIO | None = None) -> None:
    """A run's figures (:mod:`kiwicha_host.metrics`): one table, and one each for layers and counters."""
    if as_json:
        print_json(figures)
        return
    from rich.table import Table
    table = Table(show_header=False)
    for name, value in figures.items():
        if not isinstance(value, dict | list):
            table.add_row(name.replace("_", " "), _cell(value))
    _print_table(table, file)
    if figures.get("layers"):
        show_rows("layers", figures["layers"], False, file)
    if figures.get("counters"):
        show_rows("counters", [{"unit": unit, **{name: f"{count / max(1, sum(row.values())):.1%}"
                                                  for name, count in row.items()}}
                                for unit, row in figures["counters"].items()], False, file)
