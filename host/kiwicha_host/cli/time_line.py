"""A run as lines of text: what each unit did, when, and with which share of its cycles."""

from rich.text import Text

from kiwicha.isa import Activity, Unit

from .. import arguments
from ..trace import Trace

__all__ = ["time_line"]

#: Sign and colour of an activity; the sign alone says it where there are no colours.
_SIGNS = {
    Activity.BUSY: ("█", "green"), Activity.IDLE: ("·", "grey50"), Activity.DRAIN: ("d", "blue"),
    Activity.SEMAPHORE: ("s", "yellow"), Activity.MEMORY: ("m", "red"), Activity.PORT: ("p", "magenta"),
    Activity.OPERAND: ("o", "cyan"), Activity.QUEUE: ("q", "bright_red"),
}


def time_line(trace: Trace, columns: int = 60) -> list[Text]:
    """A line per unit, from the first cycle to the last, and a legend.

    Each sign is what the unit did most in one of `columns` equal parts of the run; behind them is how much of the
    run it was busy, and what it did most apart from that.
    """
    arguments.instance("trace", trace, Trace)
    arguments.integer("columns", columns, 1)
    most = trace.shares(columns).argmax(axis=1)
    lines = []
    for unit in Unit:
        line = Text(f"  {unit.name.lower():9} ")
        for value in most[unit.value].tolist():
            line.append(*_SIGNS[Activity(value)])
        spent = trace.counters[unit.name]
        other = max(set(spent) - {"BUSY"}, key=lambda name: (spent[name], name))
        line.append("  " + ", ".join(f"{name.lower()} {spent[name] / max(1, trace.covered):.0%}"
                                     for name in ("BUSY", other)))
        lines.append(line)
    legend = Text(f"  {'':9} ")
    for activity, sign in _SIGNS.items():
        before = "waits for: " if activity is Activity.SEMAPHORE else ""
        legend.append(before).append(*sign).append(f" {activity.name.lower()}  ")
    return [*lines, legend]
