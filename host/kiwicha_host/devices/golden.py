"""The numpy reference as a device."""

import dataclasses

from kiwicha import ChipConfig

from ..golden.machine import Machine
from ..job import Job, Result
from .base import Device

__all__ = ["GoldenDevice"]


class GoldenDevice(Device):
    """Runs programs on :class:`kiwicha_host.golden.Machine`: right to the bit. Its cycles are predicted.

    Parameters
    ----------
    config : ChipConfig
    latency : int
        Memory latency for the prediction, cycles: see :func:`kiwicha_host.cycles.predict`.
    """

    name = "golden"

    def __init__(self, config: ChipConfig, *, latency: int = 30):
        super().__init__(config)
        if latency < 0:
            raise ValueError(f"memory latency must not be negative, got {latency}")
        self._latency = latency
        self._machine = Machine(config)

    def execute(self, job: Job) -> Result:
        # Before the run, which may overwrite the program.
        program = b"".join(job.instruction(i) for i in range(job.program_count))
        result = self._machine.run(job)
        # The model knows parts of the hardware, which not everybody who runs programs needs.
        from ..cycles import Deadlock, predict
        try:
            prediction = predict(self.config, program, latency=self._latency, address=job.program_address)
        except Deadlock:     # units that race for a semaphore: the chip's order is not the reference's
            return result
        return dataclasses.replace(result, cycles=prediction.cycles, counters=prediction.counters, predicted=True)
