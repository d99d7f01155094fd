"""Kiwicha's software: compiler, devices, the reference and the `kiwicha` command."""

import os

# Whoever runs a chip tells nobody of it. ONNX Runtime looks at this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from . import golden
from .devices import Device, open_device
from .job import DeviceError, Job, Result
from .request import BlockScaled, GemmRequest, GemmResult

__all__ = ["BlockScaled", "Device", "DeviceError", "GemmRequest", "GemmResult", "Job", "Result", "golden",
           "load_model", "open_device"]


def __getattr__(name: str):
    # Models need the onnx package; a plain GEMM does not.
    if name == "load_model":
        from .model import load_model
        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
