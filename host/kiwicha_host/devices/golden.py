"""The numpy reference as a device."""

from kiwicha import ChipConfig

from ..golden.machine import Machine
from ..job import Job, Result
from .base import Device

__all__ = ["GoldenDevice"]


class GoldenDevice(Device):
    """Runs programs on :class:`kiwicha_host.golden.Machine`: right to the bit, and without cycles."""

    name = "golden"

    def __init__(self, config: ChipConfig):
        super().__init__(config)
        self._machine = Machine(config)

    def execute(self, job: Job) -> Result:
        return self._machine.run(job)
