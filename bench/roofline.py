"""Cycles of whole programs against what no schedule can beat, on several chips, buses and memory latencies.

    roofline_fraction = bound / cycles,    bound = max(MACs / peak, compulsory bytes / bus bytes per cycle)

from the doorbell to "done", padding to the array's size included. Cycles are exact and repeatable.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

from kiwicha import ChipConfig
from kiwicha_host.devices import open_device

from .problems import CONVOLUTIONS, GEMMS, SCALED, Problem

__all__ = ["BASELINE", "PLAN", "RESULTS", "Run", "Setting", "baseline_of", "measure", "os_cycles", "regressions",
           "runs", "update_results", "ws_cycles"]

HERE = Path(__file__).resolve().parent
RESULTS, BASELINE = HERE / "results" / "roofline.json", HERE / "baseline.json"
#: By how much cycles may grow before `make bench-check` fails.
TOLERANCE = 0.01

_ALL = (*GEMMS, *CONVOLUTIONS)
#: For settings whose simulation is slow: one shape of each kind, none of 1.2e8 MACs or more.
_SOME = tuple(item for item in _ALL
              if item.work.macs < 1.2e8 and item.mnk not in ((3136, 64, 576), (784, 128, 1152)))
_FEW = tuple(item for item in _ALL if item.work.macs < 3e7)


@dataclass(frozen=True)
class Setting:
    """A chip, its memory bus and its memory, and what runs there."""
    config: str
    bus: int
    latency: int
    problems: tuple[Problem, ...]


#: What `make bench` runs; one chip after the other, since each has to be built.
PLAN = (
    Setting("ulx3s_85f", 128, 30, _ALL), Setting("ulx3s_85f", 128, 10, _ALL), Setting("ulx3s_85f", 128, 100, _ALL),
    Setting("ulx3s_85f", 64, 30, _SOME),
    Setting("small", 64, 30, _SOME), Setting("small", 64, 10, _FEW), Setting("small", 64, 100, _FEW),
    Setting("small", 128, 30, _FEW),
    Setting("wide", 128, 30, (*_ALL, *SCALED)), Setting("wide", 128, 10, _FEW), Setting("wide", 128, 100, _FEW),
    Setting("wide", 64, 30, _FEW),
)


@dataclass(frozen=True)
class Run:
    """One problem in one setting."""
    config: str
    bus: int
    latency: int
    problem: Problem

    @property
    def key(self) -> str:
        return f"{self.config}, bus {self.bus}, latency {self.latency}, {self.problem.name}"

    @property
    def chip(self) -> ChipConfig:
        return replace(ChipConfig.preset(self.config), bus_width=self.bus)


def runs(plan: Iterable[Setting] = PLAN) -> Iterator[Run]:
    for setting in plan:
        for problem in setting.problems:
            yield Run(setting.config, setting.bus, setting.latency, problem)


def ws_cycles(rows: int, columns: int, m: int, n: int, k: int) -> int:
    """SCALE-Sim's weight-stationary array: folds that never overlap, memory without limits."""
    return ceil(k / rows) * ceil(n / columns) * (2 * rows + columns + m - 2) - 1


def os_cycles(rows: int, columns: int, m: int, n: int, k: int) -> int:
    """SCALE-Sim's output-stationary array, likewise."""
    return ceil(m / rows) * ceil(n / columns) * (rows + columns + k - 2) - 1


def measure(selected: Iterable[Run]) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Run them on the compiled chip; :exc:`SystemExit` if one result is wrong anywhere.

    Runs of one setting should follow each other: they share a device.
    """
    for (config, bus, latency), group in groupby(selected, lambda run: (run.config, run.bus, run.latency)):
        chip = replace(ChipConfig.preset(config), bus_width=bus)
        with open_device("verilated", config=chip, latency=latency) as device:
            for run in group:
                result, right = run.problem.run(device)
                if not right:
                    raise SystemExit(f"{run.key}: the result is wrong")
                assert result.cycles is not None
                yield run, _row(run, result.cycles, result.simulated_cycles_per_second or 0)


def _row(run: Run, cycles: int, speed: float) -> dict[str, Any]:
    chip, work, mnk = run.chip, run.problem.work, run.problem.mnk
    array = chip.rows, chip.columns
    return {"config": run.config, "bus": run.bus, "latency": run.latency, "problem": run.problem.name,
            "source": run.problem.source, "macs": work.macs, "compulsory_bytes": work.compulsory_bytes,
            "bound": work.bound(chip), "bound_cycles": work.bound_cycles(chip), "cycles": cycles,
            "roofline_fraction": work.bound_cycles(chip) / cycles,
            "bus_fraction": work.compulsory_bytes / chip.bus_bytes / cycles,
            "scale_sim_ws": ws_cycles(*array, *mnk), "scale_sim_os": os_cycles(*array, *mnk),
            "simulated_cycles_per_second": round(speed)}


def update_results(rows: dict[str, dict[str, Any]], path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Put `rows`, by their keys, among the kept ones; what the plan no longer has is dropped."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept |= rows
    kept = {run.key: kept[run.key] for run in runs() if run.key in kept}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n")
    return kept


def baseline_of(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    """What a baseline keeps: cycles, by key."""
    return {key: row["cycles"] for key, row in rows.items()}


def regressions(baseline: dict[str, int], measured: dict[str, int], tolerance: float = TOLERANCE) -> list[str]:
    """One line for each entry of `baseline` that is not there or takes more cycles than it may."""
    lines = []
    for key, before in baseline.items():
        if key not in measured:
            lines.append(f"{key}: was not measured; it is not in the plan any more")
        elif measured[key] > before * (1 + tolerance):
            lines.append(f"{key}: {measured[key]:,} cycles, {measured[key] / before - 1:+.2%}; the baseline has "
                         f"{before:,}")
    return lines
