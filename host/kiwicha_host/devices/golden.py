"""The numpy reference as a device."""

import dataclasses
from collections.abc import Hashable
from typing import TYPE_CHECKING

from kiwicha import ChipConfig

from .. import arguments
from ..golden.machine import Machine
from ..job import Job, Result
from ..memory_latency import MEMORY_LATENCY
from .base import Device

if TYPE_CHECKING:
    from ..cycles import Prediction

__all__ = ["GoldenDevice"]


class GoldenDevice(Device):
    """Runs programs on :class:`kiwicha_host.golden.Machine`: right to the bit. Its cycles are predicted.

    Parameters
    ----------
    config : ChipConfig
    latency : int
        Memory latency that programs are compiled for and cycles are predicted with, see
        :func:`kiwicha_host.cycles.predict`.
    """

    name = "golden"

    def __init__(self, config: ChipConfig, *, latency: int = MEMORY_LATENCY):
        super().__init__(config, arguments.integer("latency", latency, 0))
        self._machine = Machine(config)
        self._predictions: dict[Hashable, Prediction] = {}

    def execute(self, job: Job) -> Result:
        # Before the run, which may overwrite the program.
        known = self._predictions.get(job.kind) if job.kind is not None else None
        program = b"".join(job.instruction(i) for i in range(0 if known else job.program_count))
        result = self._machine.run(job)
        # The model knows parts of the hardware, which not everybody who runs programs needs.
        from ..cycles import Deadlock, predict
        try:
            prediction = known or predict(self.config, program, latency=self.memory_latency,
                                          address=job.program_address)
        except Deadlock:     # units that race for a semaphore: the chip's order is not the reference's
            return result
        if job.kind is not None:
            self._predictions[job.kind] = prediction
        return dataclasses.replace(result, cycles=prediction.cycles, counters=prediction.counters, predicted=True)
