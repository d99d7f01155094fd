"""A trace in the Chrome trace event format, which ui.perfetto.dev and chrome://tracing show."""

import itertools
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from kiwicha import ChipConfig
from kiwicha.isa import Activity, Unit

from ..trace import Trace
from .layers import Layers

__all__ = ["chrome_trace"]

_PROCESS = 1


def chrome_trace(config: ChipConfig, trace: Trace, layers: Layers | None = None) -> Iterator[str]:
    """The file in parts: one process; per unit a thread of instructions, a thread of what it did, and with
    `layers` one of the layers that it was in.

    One microsecond stands for one clock cycle. IDLE is left out: there a thread has nothing.
    """
    about = {"config": config.name, "time": "1 us of ts is 1 clock cycle", "cycles": trace.cycles,
             "cycles_traced": trace.covered}
    yield f'{{"displayTimeUnit":"ms","otherData":{_dumps(about)},"traceEvents":[\n'
    yield ",\n".join(map(_dumps, _names(config, layers is not None)))
    for event in itertools.chain(_events(trace), _layer_events(trace, layers) if layers is not None else ()):
        yield ",\n" + _dumps(event)
    yield "\n]}\n"


def _dumps(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _threads(unit: Unit) -> tuple[int, int, int]:
    """Numbers of its threads: instructions, activities, layers."""
    first = 3 * unit.value + 1
    return first, first + 1, first + 2


def _names(config: ChipConfig, has_layers: bool) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": f"Kiwicha {config.name}"}}
    for unit in Unit:
        names = [unit.name, f"{unit.name} activity", *([f"{unit.name} layer"] if has_layers else [])]
        for thread, name in zip(_threads(unit), names, strict=False):
            common = {"ph": "M", "pid": _PROCESS, "tid": thread}
            yield {**common, "name": "thread_name", "args": {"name": name}}
            yield {**common, "name": "thread_sort_index", "args": {"sort_index": thread}}


def _events(trace: Trace) -> Iterator[dict[str, Any]]:
    describe = lru_cache(1 << 14)(trace.describe)
    for unit in Unit:
        instructions, activities, _ = _threads(unit)
        common = {"ph": "X", "pid": _PROCESS}
        for _, _, number, start, end in trace.instructions(unit).tolist():
            text = describe(number)
            yield {**common, "tid": instructions, "name": text.split()[0], "ts": start, "dur": end - start,
                   "args": {"index": number, "disassembly": text}}
        for _, activity, number, start, end in trace.of(unit).tolist():
            if activity != Activity.IDLE.value:
                yield {**common, "tid": activities, "name": Activity(activity).name, "ts": start,
                       "dur": end - start, "args": {"index": number} if number >= 0 else {}}


def _layer_events(trace: Trace, layers: Layers) -> Iterator[dict[str, Any]]:
    for unit in Unit:
        _, _, thread = _threads(unit)
        for number, start, end in layers.spans(trace, unit):
            yield {"ph": "X", "pid": _PROCESS, "tid": thread, "name": layers.names[number], "ts": start,
                   "dur": end - start, "args": {}}
