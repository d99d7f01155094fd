"""Which of a network's layers the cycles of a run belong to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kiwicha import ChipConfig
from kiwicha.isa import Unit

from ..metrics import Work
from ..trace import Trace

__all__ = ["LayerRun", "Layers"]


@dataclass(frozen=True)
class LayerRun:
    """One layer of a run.

    Parameters
    ----------
    name : str
    work : Work
        The layer's part of the run's work.
    cycles : int
        Cycles in which MATMUL worked on the layer or waited for it.
    """
    name: str
    work: Work
    cycles: int

    def utilization(self, config: ChipConfig) -> float | None:
        """Multiply-accumulates of those that the array could have done in the layer's cycles."""
        return self.work.macs / (config.peak_macs_per_cycle * self.cycles) if self.cycles else None


@dataclass(frozen=True, eq=False)
class Layers:
    """A network's layers and what they have of a run; a :class:`.CompiledNetwork` knows all of it.

    Parameters
    ----------
    names : str [layers]
    works : Work [layers]
        They add up to the run's.
    of_instruction : int [instructions]
        The layer of each instruction of the program.
    bytes_are : str
        Which bytes a layer's work has.
    """
    names: Sequence[str]
    works: Sequence[Work]
    of_instruction: np.ndarray
    bytes_are: str = "its weights and, of the first and the last layer, the network's input and output"

    def spans(self, trace: Trace, unit: Unit) -> Iterator[tuple[int, int, int]]:
        """The layers that `unit` was in, one after the other: number, first cycle, and cycle after the last."""
        had = trace.instructions(unit)
        layers = self.of_instruction[had["instruction"]]
        firsts = np.flatnonzero(np.diff(layers, prepend=-1))
        lasts = np.append(firsts[1:], len(had)) - 1
        for first, last in zip(firsts, lasts[:len(firsts)], strict=True):
            yield int(layers[first]), int(had["start"][first]), int(had["end"][last])

    def runs(self, trace: Trace) -> list[LayerRun]:
        """Each layer with the cycles of its MATMULs; these have no cycle in common, of a run none twice."""
        spans = trace.instructions(Unit.MATMUL)
        lengths = spans["end"] - spans["start"]
        sums = np.bincount(self.of_instruction[spans["instruction"]], lengths, len(self.names))
        return [LayerRun(name, work, int(cycles))
                for name, work, cycles in zip(self.names, self.works, sums, strict=True)]
