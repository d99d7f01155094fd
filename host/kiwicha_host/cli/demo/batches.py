"""A loaded model on more inputs than it is to take at once."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ...job import Result
from ...model import Model

__all__ = ["Batches", "progress", "run_in_batches"]


@dataclass(frozen=True)
class Batches:
    """What all batches came to.

    Parameters
    ----------
    outputs : arrays by name, of all inputs
    result : how the chip's programs went together
    macs, host_macs : multiply-accumulates of the chip and of the host
    host_s : seconds that the host's operators took
    """
    outputs: Mapping[str, np.ndarray]
    result: Result
    macs: int
    host_macs: int
    host_s: float


def progress(console: Console) -> Progress:
    """A bar that tells how many of how many are done."""
    columns = TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def run_in_batches(console: Console, model: Model, inputs: Mapping[str, np.ndarray], size: int, what: str
                   ) -> Batches:
    """Run `model` on `inputs`, `size` at once along the first axis of each; a bar counts them as `what`."""
    count = len(next(iter(inputs.values())))
    outputs, runs = [], []
    with progress(console) as bar:
        task = bar.add_task(what, total=count)
        for first in range(0, count, size):
            part = {name: array[first:first + size] for name, array in inputs.items()}
            outputs.append(model.run(part))
            assert model.last_run is not None
            runs.append(model.last_run)
            bar.update(task, completed=min(first + size, count))
    return Batches({name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]},
                   sum((run.result for run in runs[1:]), runs[0].result), sum(run.work.macs for run in runs),
                   sum(run.host_macs for run in runs), sum(run.host_s for run in runs))
