"""Kiwicha's software: compiler, devices, the reference and the `kiwicha` command."""

from . import golden
from .devices import Device, open_device
from .job import DeviceError, Job, Result
from .request import BlockScaled, GemmRequest, GemmResult

__all__ = ["BlockScaled", "Device", "DeviceError", "GemmRequest", "GemmResult", "Job", "Result", "golden",
           "open_device"]
