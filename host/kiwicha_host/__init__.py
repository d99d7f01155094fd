"""Kiwicha's software: compiler, devices, the reference and the `kiwicha` command."""

from . import golden
from .devices import Device, open_device
from .job import DeviceError, Job, Result

__all__ = ["Device", "DeviceError", "Job", "Result", "golden", "open_device"]
