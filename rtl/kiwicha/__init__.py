"""Kiwicha: an open AI chip in Amaranth."""

from .config import ChipConfig, ConfigError

__all__ = ["Chip", "ChipConfig", "ConfigError"]


def __getattr__(name: str):
    # The chip pulls in all of the RTL; the software needs only config and isa.
    if name == "Chip":
        from .chip import Chip
        return Chip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
