"""The report of a language model's last step: which layer each unit was in, and what a token cost."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import Unit

from .. import metrics
from ..assembler import decode
from ..metrics import Work
from ..report import Layers, write_report
from .decoder import StepRun

__all__ = ["step_layers", "write_step_report"]


def step_layers(config: ChipConfig, run: StepRun) -> Layers:
    """The parts of the model. Their works are those of their instructions, padding included."""
    names = list(dict.fromkeys(run.template.parts))
    numbers = {name: number for number, name in enumerate(names)}
    of_instruction = np.array([numbers[name] for name in run.template.parts])
    works = np.array([_work(config, instruction.tobytes()) for instruction in run.template.code])
    sums = [works[of_instruction == number].sum(axis=0) for number in range(len(names))]
    return Layers(names, [Work(int(macs), int(moved)) for macs, moved in sums], of_instruction,
                  "what its instructions move; multiply-accumulates (MACs) are theirs too, with padding")


def _work(config: ChipConfig, instruction: bytes) -> tuple[int, int]:
    """Multiply-accumulates and bytes of one."""
    unit, fields = decode(instruction)
    if unit == Unit.MATMUL:
        vectors = fields["count0"] * fields["count1"] * fields["count2"] * fields["count3"]
        return vectors * config.rows * config.columns, 0
    if unit in (Unit.LOAD, Unit.STORE) and not fields.get("fill_only"):
        return 0, fields["row_bytes"] * fields["rows"] * fields["planes"]
    return 0, 0


def write_step_report(folder: str | Path, config: ChipConfig, run: StepRun, completion: Any) -> list[Path]:
    """Write a report of `run`, and into its figures `completion`, which says what all steps together made.

    Parameters
    ----------
    folder : str or Path
    config : ChipConfig
        The chip that ran.
    run : StepRun
        Of a decoder that was opened with ``trace=True``.
    completion : whatever JSON has

    Raises
    ------
    ValueError, FileProblem
        As :func:`kiwicha_host.report.write_report`.
    """
    layers, result = step_layers(config, run), run.result
    work = Work(sum(item.macs for item in layers.works), run.compulsory_bytes)
    figures = metrics.figures("verilated", config, work, result) | {
        "step": _step(run), "layers": _rows(layers, run), "completion": completion}
    return write_report(folder, config, work, result, figures=figures, layers=layers)


def _step(run: StepRun) -> dict[str, Any]:
    tokens, cycles = run.step.rows, run.result.cycles
    assert cycles
    moved = run.template.moved + run.template.code.size
    return {"tokens": tokens, "positions": [item.position for item in run.step.runs], "bytes": moved,
            "tokens_per_million_cycles": 1e6 * tokens / cycles, "bytes_per_token": moved / tokens}


def _rows(layers: Layers, run: StepRun) -> list[Mapping[str, Any]]:
    """Of each layer, its name, work and cycles; these are known if all of the trace is there."""
    trace = run.result.trace
    if trace is None or not trace.complete:
        return []
    return [{"name": item.name, **dataclasses.asdict(item.work), "cycles": item.cycles}
            for item in layers.runs(trace)]
