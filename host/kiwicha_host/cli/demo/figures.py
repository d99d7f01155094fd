"""How a run went, in words."""

from collections import Counter

import numpy as np
from rich.console import Console

from kiwicha import ChipConfig

from ...job import Result
from ...model import Model
from .batches import Batches

__all__ = ["figures", "shaded", "show_placement", "show_run"]

SHADES = " .:-=+*#%@"
#: Kinds of operators that are named; the others are counted.
_NAMED = 3
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear"}


def figures(config: ChipConfig, result: Result, macs: int) -> tuple[str, str, str]:
    """Cycles, utilization and simulation speed, or dashes where the device has no clock."""
    if not result.cycles:
        return "-", "-", "-"
    speed = result.simulated_cycles_per_second
    return (f"{result.cycles:,}", f"{macs / (config.peak_macs_per_cycle * result.cycles):.1%}",
            f"{speed:,.0f}" if speed else "-")


def show_run(console: Console, config: ChipConfig, result: Result, macs: int, count: int, what: str) -> None:
    """One line of figures for `count` inputs, each of them `what`."""
    if not result.cycles:
        console.print(f"  {count} {what}s in {result.wall_s:.2f} s; this device has no clock")
        return
    cycles, utilization, speed = figures(config, result, macs)
    each = f", {result.cycles / count:,.0f} per {what}" if count > 1 else ""
    simulated = f"; {speed} simulated cycles per second" if result.simulated_cycles_per_second else ""
    console.print(f"  {cycles} cycles{each}; utilization {utilization}{simulated}")


def show_placement(console: Console, model: Model, run: Batches) -> None:
    """Two lines: what of a model the chip ran, and what the host."""
    ops: dict[str, Counter[str]] = {"chip": Counter(), "host": Counter()}
    for row in model.placement:
        ops[row.place]["(De)QuantizeLinear" if row.op in _CONVERSIONS else row.op] += 1
    total = run.macs + run.host_macs
    share = f"{run.macs / total:.1%} of the multiply-accumulates" if total else "no products"
    console.print(f"  on the chip {_named(ops['chip'])}: {share}")
    console.print(f"  on the host {_named(ops['host'])}: {run.host_s:.2f} s in ONNX Runtime")


def shaded(pixels: np.ndarray, width: int = 1) -> str:
    """A row of pixels, 0 to 1, as characters, `width` for each."""
    return "".join(width * SHADES[round(float(pixel) * (len(SHADES) - 1))] for pixel in pixels)


def _named(ops: Counter[str]) -> str:
    """The commonest kinds of some operators, and how many others there are."""
    parts = [f"{count} {op}" for op, count in ops.most_common(_NAMED)]
    others = ops.total() - sum(count for _, count in ops.most_common(_NAMED))
    return ", ".join(parts + ([f"{others} other{'s' if others > 1 else ''}"] if others else [])) or "nothing"
