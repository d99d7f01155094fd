"""The report as one page of HTML that needs nothing else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import Activity, Unit

from ..metrics import Work
from ..trace import Trace
from .graph import Piece, graph_svg
from .layers import LayerRun, Layers
from .roofline import Point, roofline_svg

__all__ = ["INSTRUCTION_LIMIT", "SPAN_LIMIT", "html_page"]

#: What the time line shows at most; the page then has some megabytes.
SPAN_LIMIT, INSTRUCTION_LIMIT = 60_000, 8_000


def html_page(config: ChipConfig, work: Work, figures: Mapping[str, Any], trace: Trace,
              layers: Layers | None = None, pieces: Sequence[Piece] = ()) -> str:
    """The page's text. `figures` are :func:`kiwicha_host.metrics.figures`, with more or without."""
    shown = _shown(trace)
    runs = layers.runs(trace) if layers is not None and trace.complete else []
    return Template(_file("page.html")).substitute(
        title=escape(f"Kiwicha run on {figures['config']}"), style=_file("page.css"), script=_file("page.js"),
        figures=_headline(figures, work), notices=_notices(trace, shown), legend=_legend(),
        counters=_counters(figures["counters"]), roofline=roofline_svg(config, _points(work, figures, runs)),
        layers=_layer_table(config, runs, layers) + _host_table(figures.get("host", ()))
        + _graph(pieces), data=_data(trace, shown, layers))


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8").rstrip()


def _shown(trace: Trace) -> int:
    """The cycles from the first on that the time line shows."""
    starts = np.sort(trace.spans["start"])
    dispatched = trace.instructions(Unit.FETCH)["start"]
    ends = [int(starts[SPAN_LIMIT])] if len(starts) > SPAN_LIMIT else []
    ends += [int(dispatched[INSTRUCTION_LIMIT])] if len(dispatched) > INSTRUCTION_LIMIT else []
    return min([trace.covered, *ends])


def _notices(trace: Trace, shown: int) -> str:
    """What the page does not show."""
    def notice(text: str) -> str:
        return f'<p class="notice">{text}</p>'
    parts = []
    if not trace.complete:
        parts.append(notice(f"The trace was full after the first {trace.covered:,} of {trace.cycles:,} cycles: "
                            "time line and trace.json have only these, and no layer's cycles are known. "
                            "Counters and figures are of the whole run."))
    if shown < trace.covered:
        parts.append(notice(f"To keep this page small, the time line shows the first {shown:,} of "
                            f"{trace.cycles:,} cycles; trace.json has {trace.covered:,}. Counters and figures are "
                            "of the whole run."))
    return "\n".join(parts)


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _headline(figures: Mapping[str, Any], work: Work) -> str:
    items = {"cycles": _count(figures["cycles"]), "MACs": _count(figures["macs"]),
             "utilization of the array": _percent(figures["utilization"]),
             "of the roofline": _percent(figures["roofline_fraction"]), "bound": figures["bound"],
             "bytes, once each": _count(work.compulsory_bytes), "peak MACs/cycle": figures["peak_macs_per_cycle"]}
    if step := figures.get("step"):
        items |= {"tokens": _count(step["tokens"]),
                  "tokens per million cycles": f"{step['tokens_per_million_cycles']:.3f}",
                  "bytes per token": _count(round(step["bytes_per_token"]))}
    return "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
                     for name, value in items.items())


def _legend() -> str:
    return "\n".join(f'<li title="{escape(item.doc)}"><span class="swatch" '
                     f'style="background: var(--{item.name.lower()})"></span>{item.name}</li>'
                     for item in Activity)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML; the first of a row is its head."""
    lines = ["<table>", "<thead><tr>" + "".join(f"<th>{escape(item)}</th>" for item in head) + "</tr></thead>",
             "<tbody>"]
    lines += [f"<tr><th>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
              for first, *rest in rows]
    return "\n".join([*lines, "</tbody>", "</table>"])


def _counters(counters: Mapping[str, Mapping[str, int]]) -> str:
    if not counters:
        return ""
    causes = list(next(iter(counters.values())))

    def cells(row: Mapping[str, int]) -> Iterator[str]:
        total = sum(row.values())
        for cause in causes:
            yield f"{row[cause]:,}<small>{_percent(row[cause] / max(1, total))}</small>"
        yield f"{total:,}"
    return _table(["unit", *(cause.replace("_", " ") for cause in causes), "sum"],
                  [[escape(unit), *cells(row)] for unit, row in counters.items()])


def _points(work: Work, figures: Mapping[str, Any], runs: Sequence[LayerRun]) -> list[Point]:
    points = [Point(item.work.macs / max(1, item.work.compulsory_bytes), item.work.macs / item.cycles, str(number),
                    f"{number}: {item.name}", "layer") for number, item in enumerate(runs, 1) if item.cycles]
    if figures["cycles"]:
        points.append(Point(work.macs / max(1, work.compulsory_bytes), work.macs / figures["cycles"], "this run",
                            f"this run: {_percent(figures['roofline_fraction'])} of the roofline"))
    return points


def _layer_table(config: ChipConfig, runs: Sequence[LayerRun], layers: Layers | None) -> str:
    if layers is None or not runs:
        return ""
    rows = [[f"{number}: {escape(item.name)}", _count(item.work.macs), _count(item.work.compulsory_bytes),
             _count(item.cycles), _percent(item.utilization(config))] for number, item in enumerate(runs, 1)]
    return ("<p>A layer's cycles are those in which MATMUL had its instructions or waited for them; its bytes are "
            f"{escape(layers.bytes_are)}. Bytes may come while another layer is computed, so a layer can be above "
            "the bus's roof.</p>\n"
            '<div class="wide">' + _table(["layer", "MACs", "bytes", "cycles", "utilization"], rows) + "</div>")


def _host_table(rows: Sequence[Mapping[str, str]]) -> str:
    """What of a model did not run on the chip, and why."""
    if not rows:
        return ""
    cells = [[escape(row[key]) for key in ("node", "op", "why")] for row in rows]
    return (f"\n<p>On the host, between the chip's programs: {len(rows)} operators.</p>\n"
            '<div class="wide">' + _table(["operator", "kind", "why"], cells) + "</div>")


def _graph(pieces: Sequence[Piece]) -> str:
    if not pieces:
        return ""
    return ("\n<h2>Graph</h2>\n<p>The model's parts in the order in which they run: programs of the chip in blue, "
            'what ONNX Runtime computes in red. Lines are tensors.</p>\n'
            f'<div class="wide">{graph_svg(pieces)}</div>')


def _data(trace: Trace, shown: int, layers: Layers | None) -> str:
    """What the script draws, as JSON in which no HTML can begin."""
    units, count = [], 0
    for unit in Unit:
        spans = trace.of(unit)
        spans = spans[spans["start"] < shown]
        count = max(count, int(spans["instruction"].max(initial=-1)) + 1)
        units.append({"name": unit.name, "activities": spans["activity"].tolist(),
                      "lengths": (np.minimum(spans["end"], shown) - spans["start"]).tolist(),
                      "steps": np.diff(spans["instruction"], prepend=np.int32(-1)).tolist()})
    value = {"shown": shown, "activities": [item.name for item in Activity],
             "meanings": [item.doc for item in Activity], "units": units,
             "instructions": [trace.describe(index) for index in range(count)],
             "layers": [] if layers is None else list(layers.names),
             "layer_of": [] if layers is None else layers.of_instruction[:count].tolist()}
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
