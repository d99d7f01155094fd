"""Cycles of whole programs against what no schedule can beat, on several chips, buses and memory latencies.

    roofline_fraction = bound / cycles,    bound = max(MACs / peak, compulsory bytes / bus bytes per cycle)

from the doorbell to "done", padding to the array's size included. Cycles are exact and repeatable.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import ceil, prod
from pathlib import Path
from typing import Any

from kiwicha import ChipConfig
from kiwicha_host.devices import open_device

from .problems import CONVOLUTIONS, GEMMS, SCALED, Gemm, Problem

__all__ = ["BASELINE", "PLAN", "RESULTS", "Run", "Setting", "baseline_of", "geometric_mean", "measure",
           "os_cycles", "regressions", "runs", "tables", "update_results", "ws_cycles"]

HERE = Path(__file__).resolve().parent
RESULTS, BASELINE = HERE / "results" / "roofline.json", HERE / "baseline.json"
#: By how much cycles may grow before `make bench-check` fails.
TOLERANCE = 0.01

_ALL = (*GEMMS, *CONVOLUTIONS)
#: For settings whose simulation is slow: one shape of each kind, none of 1.2e8 MACs or more.
_SOME = tuple(item for item in _ALL
              if item.work.macs < 1.2e8 and item.mnk not in ((3136, 64, 576), (784, 128, 1152)))
_INT8 = {"a_format": "int8", "b_format": "int8", "block": 0}
_FEW = tuple(item for item in _ALL if item.work.macs < 3e7)


@dataclass(frozen=True)
class Setting:
    """A chip, its memory bus and its memory, and what runs there."""
    config: str
    bus: int
    latency: int
    problems: tuple[Problem, ...]

    @property
    def prefix(self) -> str:
        """What the keys of its runs start with."""
        return f"{self.config}, bus {self.bus}, latency {self.latency}, "


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
        return f"{Setting(self.config, self.bus, self.latency, ()).prefix}{self.problem.name}"

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
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept |= rows
    kept = {run.key: kept[run.key] for run in runs() if run.key in kept}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return kept


def tables(rows: dict[str, dict[str, Any]]) -> str:
    """What the documentation shows of the results, as Markdown."""
    main = PLAN[0]
    by_latency = {latency: {row["problem"]: row for row in rows.values()
                            if (row["config"], row["bus"], row["latency"]) == (main.config, main.bus, latency)}
                  for latency in (10, 30, 100)}
    lines = [f"`{main.config}`, bus {main.bus} bits; cycles with memory latency 30, and the part of the roofline "
             "with 10, 30 and 100:", "",
             "| M x N x K | from | bound | cycles | latency 10 | 30 | 100 | SCALE-Sim WS | OS |", "|" + "---|" * 9]
    for name, row in by_latency[30].items():
        shares = " | ".join(f"{by_latency[latency][name]['roofline_fraction']:.3f}" for latency in (10, 30, 100))
        lines.append(f"| {name} | {row['source']} | {row['bound']} | {row['cycles']:,} | {shares} | "
                     f"{row['scale_sim_ws']:,} | {row['scale_sim_os']:,} |")
    lines += ["", "All settings:", "", "| configuration | bus | latency | shapes | geometric mean | least |",
              "|" + "---|" * 6]
    for setting in PLAN:
        names = [item.name for item in setting.problems if not (isinstance(item, Gemm) and item.block)]
        shares = [rows[f"{setting.prefix}{name}"]["roofline_fraction"] for name in names]
        least = min(range(len(shares)), key=shares.__getitem__)
        lines.append(f"| {setting.config} | {setting.bus} | {setting.latency} | {len(shares)} | "
                     f"{geometric_mean(shares):.3f} | {shares[least]:.3f} ({names[least]}) |")
    lines += ["", "Block-scaled against INT8, `wide`, bus 128 bits, latency 30:", "",
              "| M x N x K, formats | cycles | of INT8's |", "|---|---|---|"]
    prefix = next(setting for setting in PLAN if SCALED[0] in setting.problems).prefix
    for item in SCALED:
        cycles, plain = rows[prefix + item.name]["cycles"], rows[prefix + replace(item, **_INT8).name]["cycles"]
        lines.append(f"| {item.name} | {cycles:,} | {cycles / plain:.1%} |")
    return "\n".join(lines)


def geometric_mean(values: list[float]) -> float:
    return prod(values) ** (1 / len(values))


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
