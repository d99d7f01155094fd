"""What runs programs: one interface, several devices."""

import os
from typing import Any

from kiwicha import ChipConfig

from .. import arguments
from ..memory_latency import BLOCK_RAM, MEMORY_LATENCY
from .base import Device

__all__ = ["Device", "memory_latency_of", "open_device"]


def open_device(name: str = "verilated", config: str | os.PathLike[str] | ChipConfig = "ulx3s_85f",
                **options: Any) -> Device:
    """Open a device by its name.

    Parameters
    ----------
    name : str
        "golden", the numpy reference; "verilated", the chip's Verilog compiled; "serial:PORT", a board.
    config : str or ChipConfig
        The chip: a preset's name, a ``.toml`` file, or a configuration.
    options
        What the device itself takes.

    Raises
    ------
    ConfigError
        There is no such configuration.
    TypeError
        An argument is of a wrong kind, or the device does not take it.
    ValueError
        There is no such device.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a device's name, not {arguments.shown(name)}")
    if not isinstance(config, ChipConfig | str | os.PathLike):
        raise TypeError("config must be a ChipConfig, the name of one or a .toml file, "
                        f"not {arguments.shown(config)}")
    if not isinstance(config, ChipConfig):
        config = ChipConfig.load(config)
    kind, _, port = name.partition(":")
    if name == "golden":
        from .golden import GoldenDevice
        return GoldenDevice(config, **options)
    if name == "verilated":
        from .verilated import VerilatedDevice
        return VerilatedDevice(config, **options)
    if kind == "serial" and port:
        from .serial import SerialDevice
        return SerialDevice(config, port, **options)
    raise ValueError(f"name must be golden, verilated or serial:PORT, not {name!r}")


def memory_latency_of(name: str) -> int:
    """The memory latency of ``open_device(name)`` without options, for who compiles before opening it."""
    return BLOCK_RAM if name.startswith("serial:") else MEMORY_LATENCY
