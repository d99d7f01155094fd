"""Run the roofline benchmark again and fail if cycles grew: ``make bench-check``."""

import json
import sys

import click

from .roofline import BASELINE, RESULTS, TOLERANCE, baseline_of, measure, regressions, runs

__all__ = ["main"]


@click.command()
@click.option("--all", "everything", is_flag=True, help="Every entry, however long.")
@click.option("--longest", default=150_000, show_default=True, help="Entries of at most so many cycles.")
@click.option("--update", is_flag=True, help="Measure nothing: make bench/results/roofline.json the baseline.")
def main(everything: bool, longest: int, update: bool) -> None:
    """Compare cycles with bench/baseline.json; one line for each entry that grew by more than 1 %."""
    if update:
        cycles = baseline_of(json.loads(RESULTS.read_text(encoding="utf-8")))
        BASELINE.write_text(json.dumps(cycles, indent=1) + "\n", encoding="utf-8")
        return
    baseline = {key: cycles for key, cycles in json.loads(BASELINE.read_text(encoding="utf-8")).items()
                if everything or cycles <= longest}
    measured = {}
    for run, row in measure(run for run in runs() if run.key in baseline):
        measured[run.key] = row["cycles"]
        print(f"[{len(measured)}/{len(baseline)}] {run.key}: {row['cycles']:,}", flush=True)
    lines = regressions(baseline, measured)
    print("\n".join(lines) or f"{len(baseline)} entries, none more than {TOLERANCE:.0%} over its baseline")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
