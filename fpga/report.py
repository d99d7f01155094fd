"""From nextpnr's report to figures that one can rely on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ReportError", "Timing", "Usage", "parse"]

#: Rates that no placement exceeds and nextpnr does not check, MHz: a block RAM without its output register
#: (which yosys never uses), and a multiplier with registers on all sides, whose inner paths are not timed.
_CAPS = {"DP16KD": (205.0, "block RAM without output register"),
         "MULT18X18D": (380.0, "multiplier pipeline"),
         "ALU54B": (0.0, "ALU54B, which has no timing model")}
_USAGE = {"lut": "TRELLIS_COMB", "ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}


class ReportError(RuntimeError):
    """nextpnr's report lacks what is needed; one line."""


@dataclass(frozen=True)
class Timing:
    """How fast it runs and why not faster.

    Parameters
    ----------
    fmax_mhz : float
        The lowest of nextpnr's figure and the caps of the primitives in use.
    limited_by : str
        The cap's cause, or the start and end of the longest path.
    constraint_mhz : float
        What nextpnr was asked for.
    paths : list of str
        The longest path, one line per hop: delay, kind, and the cell that it leads to.
    """

    fmax_mhz: float
    limited_by: str
    constraint_mhz: float
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Usage:
    """Cells in use: LUT4 (carry and LUT RAM included), flip-flops, multipliers, block RAMs."""

    lut: int
    ff: int
    dsp: int
    bram: int


def parse(path: Path) -> tuple[Timing, Usage]:
    """Read nextpnr's ``--report`` of a design with one clock.

    Raises
    ------
    ReportError
        The file is not such a report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        cells = {kind: row["used"] for kind, row in report["utilization"].items()}
        clocks = report["fmax"]
        if not clocks:
            raise ReportError(f"{path} has no clock; is the design empty?")
        # The board's own clock reaches the PLL only and has no paths of its own.
        name, slowest = min(clocks.items(), key=lambda item: item[1]["achieved"] / item[1]["constraint"])
        hops = _longest_path(report, name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} is not a report of nextpnr: {type(error).__name__}: {error}") from None
    fmax, limit = slowest["achieved"], _ends(hops)
    for kind, (cap, why) in _CAPS.items():
        if cells.get(kind, 0) and cap < fmax:
            fmax, limit = cap, why
    timing = Timing(round(fmax, 2), limit, slowest["constraint"], tuple(_describe(hop) for hop in hops))
    return timing, Usage(**{key: cells.get(kind, 0) for key, kind in _USAGE.items()})


def _longest_path(report: dict[str, Any], clock: str) -> list[dict[str, Any]]:
    for path in report["critical_paths"]:
        if path["from"] == path["to"] == f"posedge {clock}":
            return path["path"]
    return []


def _ends(hops: list[dict[str, Any]]) -> str:
    if not hops:
        return "unknown path"
    delays = {kind: sum(hop["delay"] for hop in hops if (hop["type"] == "routing") == (kind == "routing"))
              for kind in ("logic", "routing")}
    return (f"{_cell(hops[0]['from']['cell'])} to {_cell(hops[-1]['to']['cell'])} "
            f"({delays['logic']:.1f} ns logic, {delays['routing']:.1f} ns routing)")


def _describe(hop: dict[str, Any]) -> str:
    return f"{hop['delay']:6.2f} ns {hop['type']:8} {_cell(hop['to']['cell'])}.{hop['to']['port']}"


def _cell(name: str) -> str:
    """The signal or instance that a cell was made for, without what yosys appended."""
    name = re.sub(r"\$(?:nextpnr|glbnet)\$|\\", "", name)
    return re.sub(r"_(?:TRELLIS_|LUT4|PFUMX|L6MUX|CCU2C|TRELLIS|DPR16X4|DP16KD).*$", "", name)
