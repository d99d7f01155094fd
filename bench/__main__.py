"""Measure, write bench/results/*.json, and put the tables into README and docs: ``make bench``."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from kiwicha_host.build_cache import build_root

from . import accuracy, measure, networks, roofline

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
PERFORMANCE = HERE.parent / "docs" / "performance.md"
START, END = "<!-- figures: make bench -->", "<!-- end of figures -->"


def tables(results: dict[str, Any]) -> str:
    """The README's figures, as Markdown."""
    latency = results["gemms"]["latency"]
    lines = [f"INT8 GEMM from memory to memory, int32 results, memory latency {latency} cycles:",
             "", "| configuration | M x N x K | cycles | MACs used | of the roofline |", "|---|---|---|---|---|"]
    for row in results["gemms"]["gemms"]:
        lines.append(f"| {row['config']} | {row['m']} x {row['n']} x {row['k']} | {row['cycles']:,} | "
                     f"{row['utilization']:.1%} | {row['roofline_fraction']:.1%} ({row['bound']}) |")
    digits, speed = results["digits"], results["speed"]
    lines += ["", f"Digits: {digits['accuracy']:.1%} of {digits['images']} test images right on "
              f"`{digits['config']}`, {digits['cycles_per_image']:,.0f} cycles an image.", "",
              f"Simulation: {speed['cycles_per_cpu_second']:,.0f} cycles of the whole `{speed['config']}` chip "
              f"per CPU second, array busy: the fastest of {speed['runs']} runs on the last machine."]
    if row := results.get("synth"):
        lines += ["", f"Board: `make synth BOARD={row['board']}` places and routes the whole chip of "
                  f"configuration `{row['config']}`: {row['fmax_mhz']:.1f} MHz (clock {row['clock_mhz']:g} MHz), "
                  f"{row['lut']:,} LUT, {row['ff']:,} FF, {row['dsp']} DSP, {row['bram']} block RAMs, "
                  f"{row['peak_macs_per_cycle']} MACs per cycle; {row['wall_s'] / 60:.0f} minutes on the last "
                  "machine, one core of it."]
    return "\n".join(lines)


def synthesis() -> dict[str, Any] | None:
    """The report of the default board's last ``make synth`` if it met its clock, or else the one kept here."""
    report, kept = build_root() / "synth" / "ulx3s_85f-ulx3s_85f" / "report.json", HERE / "results" / "synth.json"
    if report.exists():
        row = json.loads(report.read_text(encoding="utf-8"))
        # A file that is not kept, and what is kept in fpga/ already.
        for key in ("bitstream", "switches", "switches_note"):
            row.pop(key, None)
        if row["fmax_mhz"] >= row["clock_mhz"]:
            kept.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None


def main() -> None:
    console = Console()
    results: dict[str, Any] = {}
    for name in ("gemms", "digits", "speed"):
        console.print(f"measuring {name} ...")
        results[name] = getattr(measure, name)()
        target = HERE / "results" / f"{name}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(results[name], indent=1) + "\n", encoding="utf-8")
    console.print("measuring accuracy ...")
    accuracy.main()
    console.print("measuring networks ...")
    networks.main()
    results["synth"] = synthesis()
    _put(README, tables(results))
    rows = {}
    for run, row in roofline.measure(roofline.runs()):
        console.print(f"{run.key}: {row['cycles']:,} cycles, {row['roofline_fraction']:.3f} of the roofline")
        rows[run.key] = row
    _put(PERFORMANCE, roofline.tables(roofline.update_results(rows)))
    console.print(tables(results))


def _put(path: Path, text: str) -> None:
    """Replace what is between the two markers in a document."""
    head, found, rest = path.read_text(encoding="utf-8").partition(START)
    if not found:
        sys.exit(f"{path.name} has no line {START!r}; add it where the figures belong")
    path.write_text(head + START + "\n\n" + text + "\n\n" + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
