"""Reports of one run as files: where its cycles went, and how far from the chip's limits it was."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kiwicha import ChipConfig

from .. import arguments, metrics
from ..files import check_folder, make_folder, replacing
from ..job import Result
from ..metrics import Work
from .chrome import chrome_trace
from .graph import Piece
from .layers import LayerRun, Layers
from .page import html_page

__all__ = ["LayerRun", "Layers", "Piece", "check_report", "write_report"]

_FIGURES, _PAGE, _TRACE = _FILES = ("figures.json", "report.html", "trace.json")


def check_report(folder: Path) -> None:
    """:exc:`FileProblem` if a report cannot be put into `folder`: known before the chip is built, not after."""
    check_folder(folder, _FILES)


def write_report(folder: str | Path, config: ChipConfig, work: Work, result: Result, *,
                 figures: Mapping[str, Any] | None = None, layers: Layers | None = None,
                 pieces: Sequence[Piece] = ()) -> list[Path]:
    """Write figures.json, report.html and trace.json to `folder`, which is made if it is not there.

    Parameters
    ----------
    folder : str or Path
    config : ChipConfig
        The chip that ran.
    work : Work
        What the run was asked to do.
    result : Result
        Of a device that was opened with ``trace=True``.
    figures : mapping, optional
        What figures.json says. Default: :func:`kiwicha_host.metrics.figures`.
    layers : Layers, optional
        Of a network's run: which instruction belongs to which layer.
    pieces : Piece, optional
        Of a model: its parts, to be drawn.

    Returns
    -------
    list of Path
        The files, all whole.

    Raises
    ------
    ValueError
        `result` has no trace.
    FileProblem
        A file cannot be written.
    """
    arguments.chip(config)
    arguments.instance("work", work, Work)
    if figures is not None:
        arguments.instance("figures", figures, Mapping)
    if layers is not None:
        arguments.instance("layers", layers, Layers)
    trace = arguments.instance("result", result, Result).trace
    if trace is None:
        raise ValueError("a report needs a trace: open the device verilated with trace=True")
    folder = arguments.path("folder", folder)
    check_report(folder)
    if figures is None:
        figures = metrics.figures("verilated", config, work, result)
    make_folder(folder)
    with replacing(folder / _FIGURES) as numbers, replacing(folder / _PAGE) as page, \
            replacing(folder / _TRACE) as spans, open(spans, "w", encoding="utf-8") as file:
        numbers.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        page.write_text(html_page(config, work, figures, trace, layers, pieces), encoding="utf-8")
        for text in chrome_trace(config, trace, layers):
            file.write(text)
    return [folder / name for name in _FILES]
